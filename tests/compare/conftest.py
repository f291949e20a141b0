"""A real browser, and pages opened in it that may neither complain nor ask for anything outside themselves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import views

from cvae.compare.page import render


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window; the tests that use it are left out where there is none, unless CVAE_REQUIRE_SERVERS is set."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _without("playwright")
    if program is None:
        _without("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


def _without(what: str) -> None:
    if os.environ.get("CVAE_REQUIRE_SERVERS"):
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


class Pages:
    """Opens the pages of views from their files, offline, and hears what they complain of and ask for."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self._browser, self._folder = browser, folder
        self._contexts: list[Any] = []
        self._complaints: list[str] = []

    def __call__(self, view: dict[str, Any], choices: str = "", width: int = 1280, **options: Any) -> Any:
        file = self._folder / f"{len(self._contexts)}.html"
        file.write_text(render(view), encoding="utf-8")
        context = self._browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_offline(True)
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: self._complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.on("request", lambda request: self._complaints.extend(_leaving(request.url)))
        page.goto(f"{file.as_uri()}#{choices}")
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        assert self._complaints == []


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Pages]:
    """Open the page of a view; no such page may complain, or ask for anything outside itself."""
    pages = Pages(browser, tmp_path)
    yield pages
    pages.close()


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pages = Pages(browser, tmp_path_factory.mktemp("opened"))
    yield pages(views.study(), color_scheme="light")
    pages.close()


@pytest.fixture
def study(opened: Any) -> Any:
    """The study's page with no choice made: a new address after # is all that this takes."""
    opened.evaluate("details.close(); document.activeElement.blur(); scrollTo(0, 0); location.hash = `none${Math.random()}`")
    opened.get_by_text("24 runs", exact=True).wait_for()
    opened.wait_for_timeout(50)  # for what else is drawn anew
    return opened


def _leaving(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:", "blob:")) else [f"request: {url}"]
