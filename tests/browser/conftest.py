"""One server and one browser for all browser tests; without a browser they are skipped, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import serve


@pytest.fixture(scope="session")
def chrome() -> Iterator[Browser]:
    if serve.chromium() is None:
        pytest.skip(serve.NO_BROWSER)
    with serve.browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def address(chrome: Browser) -> Iterator[str]:
    with serve.server() as address:
        yield address


@pytest.fixture
def page(chrome: Browser) -> Iterator[Page]:
    context = chrome.new_context(viewport={"width": 1440, "height": 1000})
    yield context.new_page()
    context.close()
