"""One request: prefill is compute, decode is bandwidth, KV grows by one token a step."""

from __future__ import annotations

import streamlit as st

from ui import controls, labels, one_request, one_request_charts, one_request_views, text, views, walk

text.show("one_request/claim")
request, note = one_request.settle()
one_request_views.choose(request)
controls.say(note, "", "one_request")
facts = one_request.facts(request)
st.markdown(labels.profile_line(request.gpu, estimated=False))
one_request_views.question(facts)
walk.show(one_request.drawn(request), key="one_walk")

told, costs = st.columns([5, 6], gap="large")
with told:
    text.show("one_request/what_happened", **facts)
    text.show("one_request/how_to_read", **facts)
with costs:
    st.header("What one token costs", anchor="cost")
    st.table(one_request.costs(request), border="horizontal", alt="Time, operations and bytes of one token")
    text.show("one_request/costs", **facts)
    one_request_views.step()

st.header("Each half, by itself", anchor="halves")
views.panels(one_request_charts.panels(request, views.mode()), one_request_charts.panels_alt(facts))
text.show("one_request/halves", **facts)

st.header("Three questions", anchor="questions")
one_request_views.questions(facts)

st.header("What these times leave out", anchor="left-out")
one_request_views.left_out(request)

one_request_views.closing(request, facts)
