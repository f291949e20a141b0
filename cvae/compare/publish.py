"""A report as a file, HTML or Markdown, or as a page served on this machine that renews itself while runs go on."""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cvae.cli import explain
from cvae.compare.document import Block, save_pictures, to_markdown
from cvae.compare.page import render
from cvae.compare.paper import paper
from cvae.compare.results import results_of
from cvae.compare.runs import Collection, collect, touched
from cvae.compare.view import view
from cvae.console import say, warn
from cvae.errors import UserError, write_whole, writing

_FORMS = ("html", "md")
_MEND = "choose another file with out="
_PAUSE, _SILENCE = 2.0, 30.0  # seconds between two looks at the runs' files, and at runs whose files are silent


def form_of(form: str | None, out: str | None) -> str:
    """A report's form: as it is named, or as the end of its file's name says.

    Raises:
        UserError: there is no such form, or the two disagree.
    """
    ending = Path(out or "").suffix.removeprefix(".")
    chosen = form or ending or "html"
    if chosen not in _FORMS:
        raise UserError(f"{f'format={form}' if form else f'out={out}'}: choose {' or '.join(_FORMS)}")
    if ending not in ("", chosen):
        raise UserError(f"out={out} and format={chosen} disagree: leave one of them away")
    return chosen


@dataclass(frozen=True)
class Report:
    """What a report is made of: places to look for runs, and how to show them. See ``cvae.report``."""

    places: Sequence[str]
    title: str | None
    command: str
    films: int
    bair: bool

    def write(self, out: Path, form: str) -> str:
        """Write the report; return what it holds, in words.

        Raises:
            UserError: there are no such runs, or the file cannot be written.
        """
        found = collect(self.places)
        if form == "html":
            with writing(out, _MEND):
                out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(out, self.page(found), _MEND)
        else:
            write_markdown(paper(found, self.name, self.command, self.bair), out)
        return counted(found)

    @property
    def name(self) -> str:
        """The title."""
        return self.title or ", ".join(Path(place).resolve().name or place for place in self.places)

    def page(self, found: Collection, live: str | None = None) -> str:
        """The HTML; with ``live``, the version that a server has of it."""
        return render(view(found, self.name, self.command, self.films, self.bair, live))


def write_markdown(blocks: Sequence[Block], out: Path) -> None:
    """Write blocks as a Markdown file, and their pictures into ``<its name>_files`` beside it.

    Raises:
        UserError: they cannot be written.
    """
    pictures = f"{out.stem}_files"
    with writing(out, _MEND):
        out.parent.mkdir(parents=True, exist_ok=True)
        save_pictures(blocks, out.parent / pictures)
    write_whole(out, to_markdown(blocks, f"{pictures}/"), _MEND)


def counted(found: Collection) -> str:
    """How many runs, in words."""
    states = [run.state for run in found.runs]
    words = [f"{len(states)} runs" if len(states) != 1 else "1 run"]
    words += [f"{states.count(state)} {state}" for state in dict.fromkeys(states)] if len(set(states)) > 1 else []
    return ", ".join(words + ([f"{len(found.broken)} unreadable"] if found.broken else []))


def serve(report: Report, port: int, stop: threading.Event | None = None) -> None:
    """Serve the page on loopback until Ctrl-C, or ``stop``; it is made anew when the runs' files have changed.

    Raises:
        UserError: there are no such runs, or the port is taken.
    """
    state = _Live(report)
    state.renew()
    stop = stop or threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if self.headers.get("Host", "").split(":")[0] not in ("127.0.0.1", "localhost"):
                self.send_error(403)  # another site's name for this machine, by which that site could read the page
                return
            if path not in ("/", "/version"):
                self.send_error(404)
                return
            body = (state.page if path == "/" else state.version).encode()
            self.send_response(200)
            self.send_header("Content-Type", f"text/{'html' if path == '/' else 'plain'}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a browser that has left
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"port={port} cannot be had ({error}): choose another, or 0 for any") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(f"watching at http://127.0.0.1:{server.server_address[1]}/  Ctrl-C ends it")
    try:
        trouble = ""
        while not stop.wait(_PAUSE):
            before, trouble = trouble, ""
            try:
                state.renew()
            except Exception as error:  # runs may be moved or cleared away under the look
                trouble = explain(error)
                if trouble != before:
                    warn(f"the page stays as it was: {trouble}")
    except KeyboardInterrupt:
        say("\nno longer served")
    finally:
        server.shutdown()
        server.server_close()


class _Live:
    """The page as last made, and the version that browsers ask for."""

    def __init__(self, report: Report) -> None:
        self.report, self.version, self.page = report, "", ""
        self._touched: dict[Path, int] = {}
        self._looked = -math.inf

    def renew(self) -> None:
        """Make the page anew if a run has changed: by its files, or by its silence, after which it counts as stopped."""
        files = touched(self.report.places)
        if files == self._touched and time.monotonic() - self._looked < _SILENCE:
            return
        found = collect(self.report.places)
        rows = [(run.name, run.state, len(run.rows), run.film, results_of(run)) for run in found.runs]
        films = [files.get(run.folder / "samples") for run in found.runs]
        shown = repr((rows, films, found.broken, [sweep.summary for sweep in found.sweeps]))
        version = hashlib.sha256(shown.encode()).hexdigest()[:16]
        if version != self.version:
            self.page = self.report.page(found, version)
            self.version = version
        self._touched, self._looked = files, time.monotonic()
