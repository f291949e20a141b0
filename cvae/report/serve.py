"""The report page, served on this machine and renewed while runs go on."""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cvae.cli import explain
from cvae.console import say, warn
from cvae.errors import UserError
from cvae.report.files import Report
from cvae.runs.collection import collect, touched
from cvae.runs.evaluations import results_of

_PAUSE, _SILENCE = 2.0, 30.0  # seconds between two looks at the runs' files, and at runs whose files are silent


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
