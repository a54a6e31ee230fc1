"""One server for all browser tests and a browser a file; without a browser they are skipped, in a sentence.

The browser ends with its file: Playwright's event loop would stay in the way of tests that run one of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import serve


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    if serve.chromium() is None:
        pytest.skip(serve.NO_BROWSER)
    with serve.browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    if serve.chromium() is None:
        pytest.skip(serve.NO_BROWSER)
    with serve.server() as address:
        yield address


@pytest.fixture
def page(chrome: Browser) -> Iterator[Page]:
    context = chrome.new_context(viewport={"width": 1440, "height": 1000})
    yield context.new_page()
    context.close()
