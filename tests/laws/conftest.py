"""One set of runs for all laws of a rule, and the counts at the end."""

from __future__ import annotations

import pytest
from laws.worlds import EVERY_PAIR, IDS, SETS, TALLY, Runs


@pytest.fixture(scope="session", params=SETS, ids=[*IDS, EVERY_PAIR.replace(" ", "-")])
def runs(request: pytest.FixtureRequest) -> Runs:
    return Runs(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY:
        terminalreporter.write_line("laws: " + ", ".join(f"{count} {what}" for what, count in TALLY.items()))
