"""One visit without a browser: the messages that Streamlit's front end sends over its websocket, and their answers."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ButtonGroup_pb2 import ButtonGroup
from streamlit.proto.Delta_pb2 import Delta
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.Slider_pb2 import Slider
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

ROOT = Path(__file__).resolve().parent.parent.parent
WENT_WRONG = (ROOT / "assets/text/home/went_wrong.md").read_text(encoding="utf-8").split("---")[-1].strip()[:40]
"""How the sentence begins that app.py shows instead of a trace."""
LIMIT_S = 60.0
"""A run that takes longer counts as a time-out."""


class Lost(Exception):
    """A visit that cannot go on: no answer in time, or the connection was closed."""


@dataclass
class Widget:
    """Hold a widget with a short list of marks: what it shows now and what else it offers."""

    id: str
    kind: str
    marks: tuple[str, ...]
    now: tuple[str, ...]
    told: bool
    """Whether the server insists on what it shows; otherwise the front end keeps what it has."""
    fragment: str
    movable: bool
    front: bool = True
    """Whether it stands in front, not behind a button such as "More"."""

    def state(self) -> WidgetState:
        """Return what the front end tells the server about this widget."""
        said = WidgetState(id=self.id)
        if self.kind == "string":
            if self.now:
                said.string_value = self.now[0]
        else:
            said.string_array_value.data.extend(self.now)
        return said


def widget_of(delta: Delta) -> Widget | None:
    """Return the widget that a delta draws, or None if it is no slider, pills, segments, select box or radio."""
    element = delta.new_element
    made: Any
    match element.WhichOneof("type"):
        case "slider" if element.slider.type == Slider.SELECT_SLIDER:
            made, kind = element.slider, "strings"
            marks = tuple(made.options)
            now = made.raw_value if made.set_value else [marks[int(index)] for index in made.default]
            movable = len(made.default) == 1
        case "button_group":
            made, kind = element.button_group, "strings"
            marks = tuple(option.content for option in made.options)
            now = made.raw_values if made.set_value else [marks[index] for index in made.default]
            movable = made.click_mode == ButtonGroup.SINGLE_SELECT
        case "selectbox" | "radio":
            made, kind = getattr(element, element.WhichOneof("type")), "string"
            marks = tuple(made.options)
            held = made.raw_value if made.set_value else (marks[made.default] if made.HasField("default") else "")
            now, movable = [held] if held else [], True
        case _:
            return None
    movable = movable and len(marks) > 1 and not made.disabled and not made.form_id
    return Widget(made.id, kind, marks, tuple(now), made.set_value, delta.fragment_id, movable)


@dataclass
class Sample:
    """Hold one message and its answer: what was asked where, when (s since the epoch), how long, what went wrong."""

    page: str
    kind: str
    at: float
    ms: float
    error: str = ""


@dataclass
class Visitor:
    """Walk through the pages of the site, page after page, changing a setting now and then."""

    address: str
    rng: random.Random
    think_s: float
    stay_s: float
    samples: list[Sample]
    theme: str = "light"
    behind: float = 0.1
    """Share of the changes that are drawn from all settings, those behind a button included."""
    pages: list[tuple[str, str]] = field(default_factory=list)
    """Script hash and path of each page, as the navigation names them."""
    page: str = ""
    hash: str = ""
    query: str = ""
    widgets: dict[str, Widget] = field(default_factory=dict)
    known: dict[str, Delta] = field(default_factory=dict)
    """Widgets' deltas that the server may later name by their hash alone; other messages are kept as empty deltas."""

    async def stay(self, until: float) -> None:
        """Visit again and again until an instant (monotonic, s); a lost connection is an error and a new visit."""
        while time.monotonic() < until:
            self.pages, self.page, self.hash, self.query = [], "", "", ""
            self.widgets.clear()
            self.known.clear()
            try:
                async with connect(
                    self.address.replace("http", "ws", 1) + "/_stcore/stream",
                    subprotocols=["streamlit"],  # type: ignore[list-item]
                    origin=self.address,  # type: ignore[arg-type]
                    max_size=None,
                    open_timeout=LIMIT_S,
                ) as socket:
                    await self._walk(socket, until)
            except Lost:  # noted already; who is not answered loads the page anew
                await asyncio.sleep(2)
            except (WebSocketException, OSError) as error:
                if time.monotonic() < until:
                    self.samples.append(Sample(self.page, "connect", time.time(), 0.0, type(error).__name__))
                    await asyncio.sleep(2)

    async def _walk(self, socket: ClientConnection, until: float) -> None:
        await self._ask(socket, "arrive", self._message())
        for number, (script, path) in enumerate(self.pages):
            if number:  # the first page is the one that is open already
                self.hash, self.page, self.query = script, path, ""
                self.widgets.clear()
                await self._ask(socket, "open", self._message())
            leave = min(time.monotonic() + self.stay_s * self.rng.uniform(0.75, 1.25), until)
            while True:
                pause = self.rng.expovariate(1 / self.think_s)
                if time.monotonic() + pause >= leave:
                    break
                await asyncio.sleep(pause)
                await self._change(socket)
            await asyncio.sleep(max(leave - time.monotonic(), 0))
            if time.monotonic() >= until:
                return

    async def _change(self, socket: ClientConnection) -> None:
        """Move one widget to another of its marks; on a page without any, do nothing."""
        movable = [widget for widget in self.widgets.values() if widget.movable]
        if not movable:
            return
        front = [widget for widget in movable if widget.front]
        widget = self.rng.choice(front if front and self.rng.random() >= self.behind else movable)
        widget.now = (self.rng.choice([mark for mark in widget.marks if (mark,) != widget.now]),)
        await self._ask(socket, "fragment" if widget.fragment else "change", self._message(widget.fragment))

    def _message(self, fragment: str = "") -> BackMsg:
        message = BackMsg()
        run = message.rerun_script
        run.query_string, run.page_script_hash, run.fragment_id = self.query, self.hash, fragment
        run.page_name = "" if self.hash else self.page
        run.widget_states.widgets.extend(widget.state() for widget in self.widgets.values())
        run.cached_message_hashes.extend(self.known)
        run.context_info.timezone, run.context_info.locale = "Europe/Vienna", "en"
        run.context_info.url, run.context_info.color_scheme = f"{self.address}/{self.page}", self.theme
        return message

    async def _ask(self, socket: ClientConnection, kind: str, message: BackMsg) -> None:
        """Send a message, read until its run has ended, note how long that took and what went wrong."""
        began, at = time.monotonic(), time.time()
        await socket.send(message.SerializeToString())
        try:
            async with asyncio.timeout(LIMIT_S):
                error = await self._answer(socket, message.rerun_script.fragment_id)
        except (TimeoutError, ConnectionClosed) as lost:
            waited = isinstance(lost, TimeoutError)
            error = f"no answer within {LIMIT_S:.0f} s" if waited else "the connection was closed"
            self.samples.append(Sample(self.page, kind, at, (time.monotonic() - began) * 1000, error))
            raise Lost from lost
        self.samples.append(Sample(self.page, kind, at, (time.monotonic() - began) * 1000, error))

    async def _answer(self, socket: ClientConnection, fragment: str) -> str:
        fresh: dict[str, Widget] = {}
        hidden: list[tuple[int, ...]] = []
        error = ""
        while True:
            answer = ForwardMsg.FromString(await socket.recv(decode=False))
            what = answer.WhichOneof("type")
            delta = answer.delta if what == "delta" else Delta()
            if what == "ref_hash":
                delta = self.known.get(answer.ref_hash, delta)
            elif answer.metadata.cacheable and answer.hash:
                self.known[answer.hash] = delta if widget_of(delta) else Delta()
            path = tuple(answer.metadata.delta_path)
            if delta.WhichOneof("type") == "add_block" and delta.add_block.WhichOneof("type") == "popover":
                hidden.append(path)
            if (widget := widget_of(delta)) is not None:
                widget.front = not any(path[: len(block)] == block for block in hidden)
                if not widget.told and widget.id in self.widgets:
                    widget.now = self.widgets[widget.id].now
                fresh[widget.id] = widget
            error = error or trouble(delta)
            if what == "new_session":
                self.hash = answer.new_session.page_script_hash or self.hash
            elif what == "navigation":
                self.pages = [(page.page_script_hash, page.url_pathname) for page in answer.navigation.app_pages]
                self.hash = answer.navigation.page_script_hash or self.hash
            elif what == "page_info_changed":
                self.query = answer.page_info_changed.query_string
            elif what == "page_not_found":
                error = error or "page not found"
            elif what == "script_finished":
                if answer.script_finished == ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                    continue
                if answer.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
                    error = error or "compile error"
                kept = {id: w for id, w in self.widgets.items() if fragment and w.fragment != fragment}
                self.widgets = kept | fresh
                return error


def trouble(delta: Delta) -> str:
    """Return what a delta shows that no visitor should see, "" if nothing."""
    element = delta.new_element
    match element.WhichOneof("type"):
        case "exception":
            return f"{element.exception.type}: {element.exception.message}"[:200]
        case "markdown" if WENT_WRONG in element.markdown.body:
            return "the page went wrong"
        case "alert" if element.alert.format == element.alert.ERROR:
            return element.alert.body[:200]
    return ""
