"""A real browser, and pages opened in it that may neither complain nor ask for anything outside themselves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open the page of a view from its file, offline; at the end no such page may have complained, or asked for anything."""
    complaints: list[str] = []
    contexts = []

    def open_page(view: dict[str, Any], hash: str = "", width: int = 1280, **options: Any) -> Any:
        file = tmp_path / f"{len(contexts)}.html"
        file.write_text(render(view), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_offline(True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.extend(_leaving(request.url)))
        page.goto(f"{file.as_uri()}{hash}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def _leaving(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:", "blob:")) else [f"request: {url}"]
