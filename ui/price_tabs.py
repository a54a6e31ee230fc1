"""What the page Shadow prices shows below the editor: the model, near rules, the race, what to keep, comparisons."""

from __future__ import annotations

from typing import Any

import streamlit as st

from solvers.policies import lp_price
from ui import caching, code, controls, decisions, findings, player, prices, run, text, views

DERIVATIONS = {
    "GreedyDual is dual ascent": "2.5",
    "Keeping fractions": "2.6",
    "When least recently used is exactly right": "2.7",
    "The value of a cached block": "5",
}
"""What follows from the caching programs, and where docs/optimization.md derives it."""
TABS = [
    "The program",
    "Which rule comes near",
    "Race these requests",
    "What to keep",
    "Over many workloads",
    "Which price binds",
]
READING = 860
"""Width of what is read below the editor, in px."""
MODELS = {
    "When to start": "1.1",
    "Two prices at once": "4",
    "What to keep": "2.1",
    "A tree of prefixes": "2.3",
    "The tail": "2.4",
    "How long to hold": "6",
    "Whom to preempt": "7",
    "How large a step": "8",
    "How many drafts": "9",
    "How much a server carries": "10",
}
"""The decisions of one server and the section of docs/optimization.md with their program."""
RENT = "4"
"""The section whose prices order the line of a lane of the race."""


def show(answer: prices.Answer) -> None:
    """Show the tabs; one that is not open computes nothing."""
    model, near, lanes, keep, study, binds = st.tabs(TABS, key="prices_view", on_change="rerun")
    if model.open:
        with model, st.container(width=READING):
            _models()
    if near.open:
        with near, st.container(width=READING):
            _near(answer)
    if lanes.open:
        with lanes:
            _race(answer)
    if keep.open:
        with keep:
            _keep()
    if study.open:
        with study:
            views.step_times(*run.profile_ids(), estimated=True)
            _study()
    if binds.open:
        with binds:
            views.step_times(*run.profile_ids(), estimated=True)
            for part in findings.figures(views.mode()):
                _part(part)


@st.fragment
def _models() -> None:
    """Show one decision's program, dual and rule, as docs/optimization.md writes them."""
    text.show("prices/model")
    first = next(iter(MODELS))
    chosen = st.pills(
        "Decision", list(MODELS), default=first, key="prices_model", required=True, label_visibility="collapsed"
    )
    if (chosen or first) == first:
        text.show("prices/stylised")
    attempt = decisions.TRY.get(chosen or first)
    if attempt is not None:
        views.step_times(decisions.PROFILE, estimated=False)
        attempt()
    terms = ("bound", "relaxation", "latency")
    text.explain(text.model(MODELS[chosen or first]), terms)
    if MODELS[chosen or first] == RENT:
        code.same("lp_prices", lp_price.lp_price.rule, formula="prices/formula_rent", where="prices/in_code")


def _part(part: findings.Part, table: bool = True) -> None:
    """Show words above their charts."""
    with st.container(width=READING):
        text.show(part.block, **part.numbers)
    if part.panels:
        views.panels(part.panels, part.alt, table)


@st.fragment
def _study() -> None:
    """Show the stored comparisons: each rule that comes from a program against the best heuristic."""
    figure = views.choice("Figure", findings.FIGURES, "prices_study_figure")
    _part(findings.study(views.mode(), figure), table=False)
    with st.expander("The same as a table"):
        st.table(findings.study_table(figure), border="horizontal", alt="Wins, ties and losses by rule")
    for note in findings.study_notes(figure):
        _part(note)


def _choose_line() -> None:
    chosen = caching.PRESETS.get(st.session_state["prices_line_preset"])
    if chosen:
        for key, value in zip(("line", "space", "costs"), chosen, strict=True):
            st.session_state[f"prices_{key}"] = value


@st.fragment
def _keep() -> None:
    """Show a small cache: who is kept under each rule, and the price of space. A wrong entry keeps the last."""
    session = st.session_state
    first = next(iter(caching.PRESETS))
    for key, value in zip(("line", "space", "costs"), caching.PRESETS[first], strict=True):
        session.setdefault(f"prices_{key}", value)
    st.pills(
        "Line of requests",
        list(caching.PRESETS),
        default=first,
        key="prices_line_preset",
        on_change=_choose_line,
        label_visibility="collapsed",
    )
    line, space, costs = st.columns([5, 2, 3])
    line.text_input("Requests", key="prices_line", max_chars=2 * caching.MOST_REQUESTS)
    space.number_input("Space, units", 1, caching.MOST_CAPACITY, step=1, key="prices_space")
    costs.text_input("Costs other than one", key="prices_costs", placeholder="A=10, B=3", max_chars=120)
    asked = (session["prices_line"], int(session["prices_space"]), session["prices_costs"])
    trouble = ""
    try:
        solved = caching.solve(*asked)
        session["prices_line_good"] = asked
    except ValueError as error:
        trouble = f"{error} The last line that could be read is shown."
        solved = caching.solve(*session.get("prices_line_good", caching.PRESETS[first]))
    controls.say("", trouble, "prices_line", restore=False)
    told, drawn = st.columns([3, 5], gap="large")
    with told:
        text.show("prices/keep", **caching.facts(solved))
    with drawn:
        rule = views.choice("Rule", caching.RULES, "prices_line_rule")
        made = caching.panels(solved, rule, views.mode())
        said = [caching.panels_alt(solved, rule), "Price of a unit of space in each step"]
        for panel, words in zip(made, said, strict=True):
            st.vega_lite_chart(panel.rows, dict(panel.spec), theme=None, alt=words)
    text.show("prices/keep_more")
    chosen = st.pills("Derivation", list(DERIVATIONS), key="prices_derivation", label_visibility="collapsed")
    if chosen:
        with st.container(width=READING):
            st.markdown(text.model(DERIVATIONS[chosen]))


def _near(answer: prices.Answer) -> None:
    found = prices.compared(answer.instance)
    rules = {rule: found[rule] or 0.0 for rule in prices.RULES}
    least, most = min(rules.values()), max(rules.values())
    lp, integer = rules["lp"], found["integer"]
    facts = {
        "best": text.listed([prices.RULES[rule].name for rule in rules if rules[rule] == least]),
        "worst": text.listed([prices.RULES[rule].name for rule in rules if rules[rule] == most]),
        "best_slots": least,
        "worst_slots": most,
        "gap": 100.0 * (least / (found["lp_bound"] or 1.0) - 1.0),
        "lp": lp,
        "integer": integer,
    }
    text.show("prices/rules")
    text.show("prices/rules_differ" if most > least else "prices/rules_tie", **facts)
    if lp > least:
        text.show("prices/rules_lp_behind", **facts)
    if integer is not None and integer < least:
        text.show("prices/rules_idle", **facts)
    rows: list[dict[str, Any]] = [
        {"": prices.RULES[rule].name, "total latency, slots": f"{rules[rule]:.0f}"} for rule in rules
    ]
    why = f"not found in {prices.INTEGER_S:.0f} s" if len(answer.instance.requests) <= prices.READABLE else "too large"
    rows.append({"": "Integer optimum", "total latency, slots": why if integer is None else f"{integer:.0f}"})
    for key, name in (
        ("lp_bound", "Bound: linear program"),
        ("busy_time", "Bound: mean busy time"),
        ("service", "Bound: answers alone"),
    ):
        rows.append({"": name, "total latency, slots": f"{found[key]:.2f}"})
    st.table(rows, border="horizontal", alt="Total latency by rule, and the bounds")
    text.show("prices/bounds")
    whole = prices.one_more_block(answer.instance, None)
    text.show("prices/every_slot", price=whole.price, saved=whole.saved, lost=prices.lost_words(whole.lost))


def _race(answer: prices.Answer) -> None:
    text.show("prices/race")
    lanes = prices.race(answer.instance)
    player.show(
        lanes.results,
        lanes.trace,
        key="prices_race",
        meta={
            "claim": "",
            "question": None,
            "hero": "lp",
            "speed": 2,
            "lanes": [{}, {}, {"knows": "clairvoyant"}],  # the program was told all lengths and arrivals
        },
    )
