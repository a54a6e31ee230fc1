"""The frame of a chapter: its presets, the control in front, the question, and what stands at its end.

A chapter is the race with one control in front: its presets are scenarios, its state is the race's, so that the same
link opens the same run in the race.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from engine import metrics, workload
from ui import controls, run, text, views
from ui.state import RaceState, encode

CLOSING = ("take_away", "limits", "sources")
"""Names of the blocks that end every page."""
SEEDS = 20
"""Seeds of "Over many seeds": enough for a 95 % interval of a paired difference."""


@dataclass(frozen=True)
class Chapter:
    """Name what a chapter page shows: `page` (its file and text folder) and its presets (scenario ids), first first.

    `front`: the fields of `RaceState` whose controls stand in front; `more`: those behind "More". `nowhere`: the
    preset in which the chapter's idea gains nothing. `onward`: the next chapter's file and words. `fronts`: by preset,
    what stands in front instead where another control fits; what does not stand in front is behind "More".
    """

    page: str
    presets: tuple[str, ...]
    front: tuple[str, ...]
    more: tuple[str, ...]
    nowhere: str
    onward: tuple[str, str]
    fronts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def shown(self, preset: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the fields in front and those behind "More" in a preset."""
        front = self.fronts.get(preset, self.front)
        known = dict.fromkeys([*self.front, *(name for own in self.fronts.values() for name in own), *self.more])
        return front, tuple(name for name in known if name not in front)


def head(chapter: Chapter) -> run.Race:
    """Show presets and controls; return the race of the settings, or the last one that could be run, with a reason."""
    state, note = controls.settle(chapter.page, chapter.presets)
    front, more = chapter.shown(state.preset)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        controls.preset_picker(chapter.page, chapter.presets, state)
        for name in front:
            controls.control(chapter.page, name, state, width=controls.FRONT)
        with st.popover("More", type="tertiary", icon=":material/tune:"):
            controls.experiment(chapter.page, state, more)
    controls.intent(state)
    race, trouble = controls.run_or_last_good(chapter.page, state)
    controls.say(note, trouble, chapter.page)
    return race


def ask(name: str, question: str, options: Sequence[str], right: str, answer: str, **facts: Any) -> None:
    """Ask before the answer is shown: `question` and `answer` name blocks, `right` is one of the options.

    The answer's block gets `verdict` and `right`, as it goes on in a sentence, besides the facts. Inside a fragment
    this reruns the fragment alone.
    """
    text.show(question, **facts)
    chosen = st.pills(name, list(options), key=f"ask_{name}", label_visibility="collapsed", wrap=True)
    if chosen:
        text.show(
            answer, verdict="Yes" if chosen == right else "No", **{**facts, "right": right[0].lower() + right[1:]}
        )


def ends(chapter: Chapter, race: run.Race, **facts: Any) -> None:
    """Show the take-away, where the idea gains nothing (with that preset's link), the sources and the way onward."""
    path, words = chapter.onward
    title = workload.scenario(chapter.nowhere).title
    closing(
        chapter.page,
        nowhere=None if race.state.preset == chapter.nowhere else (f"Show it: {title}", {"preset": chapter.nowhere}),
        onward={
            "This very run in the race": ("pages/home.py", encode(race.state, run.presets())),
            words: (path, {}),
        },
        **facts,
    )
    views.step_times(race.scenario.profile, estimated=race.scenario.estimated)


def closing(
    page: str,
    *,
    nowhere: tuple[str, Mapping[str, str]] | None,
    onward: Mapping[str, tuple[str, Mapping[str, str]]],
    also: Sequence[str] = (),
    **facts: Any,
) -> None:
    """End a page: `nowhere` is words and link of this page, `onward` words -> (page, link); its blocks are CLOSING.

    `also`: blocks that follow its take-away, where the page chooses them by what its run has shown.
    """
    takeaway, limits = st.columns(2, gap="large")
    with takeaway:
        st.header("Take away", anchor="take-away")
        for name in (f"{page}/take_away", *also):
            text.show(name, **facts)
        for words, (path, query) in onward.items():
            st.page_link(path, label=words, icon=":material/arrow_forward:", query_params=dict(query))
    with limits:
        st.header("Where this does not help", anchor="limits")
        text.show(f"{page}/limits", **facts)
        if nowhere is not None:
            words, query = nowhere
            st.page_link(f"pages/{page}.py", label=words, icon=":material/arrow_forward:", query_params=dict(query))
        text.show(f"{page}/sources", **facts)


@st.fragment
def over_seeds(chapter: Chapter, race: run.Race, measure: str = "mean_ms") -> None:
    """Offer to repeat the run with other seeds: each lane against the first, difference in % with its 95 % interval."""
    if len(race.results) < 2:
        return
    if not st.toggle(f"Repeat it with {SEEDS} seeds", key=f"{chapter.page}_repeat"):
        return
    st.table(
        [
            {
                "lane": name,
                f"against {race.labels[0]}": f"{paired.mean:+.1f} %",
                "95 % interval": f"{paired.low:+.1f} to {paired.high:+.1f} %",
                "seeds better": f"{paired.wins} of {paired.seeds}",
            }
            for name, paired in repeated(race.state, measure).items()
        ],
        border="horizontal",
        alt="Each lane against the first over many seeds",
    )


def repeated(state: RaceState, measure: str = "mean_ms") -> dict[str, metrics.Paired]:
    """Return lane's name -> paired difference to the first lane in % over SEEDS seeds (runs are shared and cached)."""
    return {run.books()[id].name: paired for id, paired in run.over_seeds(state, SEEDS, measure).items()}
