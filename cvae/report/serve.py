"""Serve the report page on this machine, and update it while runs go on."""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cvae.console import say, warn
from cvae.errors import UserError
from cvae.explain import explain
from cvae.runs.collection import Collection, collect, modification_times

_PAUSE = 2.0  # seconds between two checks of the files
_READ_ANYWAY = 30.0  # seconds after which runs are read although no file has changed: a silent run becomes a stopped one

MakePage = Callable[[Collection, str], str]  # the HTML of some runs, and the version that browsers compare


def serve(places: Sequence[str], make: MakePage, port: int, stop: threading.Event | None = None) -> None:
    """Serve the page of the runs below ``places`` on 127.0.0.1 until Ctrl-C, or until ``stop`` is set.

    Raises:
        UserError: there are no such runs, or the port cannot be used.
    """
    live = LivePage(places, make)
    live.update()
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(live))
    except (OSError, OverflowError) as error:
        raise UserError(f"port={port} cannot be used ({error}): choose another one, or 0 for any free port") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(f"serving the report at http://127.0.0.1:{server.server_address[1]}/  Ctrl-C stops it")
    try:
        _keep_updated(live, stop or threading.Event())
    except KeyboardInterrupt:
        say("\nstopped")
    finally:
        server.shutdown()
        server.server_close()


def _keep_updated(live: LivePage, stop: threading.Event) -> None:
    problem = ""
    while not stop.wait(_PAUSE):
        before, problem = problem, ""
        try:
            live.update()
        except Exception as error:  # folders may be moved or removed while they are read
            problem = explain(error)
            if problem != before:
                warn(f"the page is not updated: {problem}")


def _handler(live: LivePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if self.headers.get("Host", "").split(":")[0] not in ("127.0.0.1", "localhost"):
                self.send_error(403)  # another host name for this machine: by it a foreign site could read the page
                return
            if path not in ("/", "/version"):
                self.send_error(404)
                return
            body = (live.page if path == "/" else live.version).encode()
            self.send_response(200)
            self.send_header("Content-Type", f"text/{'html' if path == '/' else 'plain'}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the browser has closed the connection
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler


class LivePage:
    """The newest page and its version."""

    def __init__(self, places: Sequence[str], make: MakePage) -> None:
        self.version, self.page = "", ""
        self._places, self._make = places, make
        self._times: dict[Path, int] = {}
        self._read_at = -math.inf

    def update(self) -> None:
        """Make the page again if a run has changed.

        Raises:
            UserError: there are no runs any more; the page stays as it is.
        """
        times = modification_times(self._places)
        if times == self._times and time.monotonic() - self._read_at < _READ_ANYWAY:
            return
        found = collect(self._places)
        states = [(run.name, run.state) for run in found.runs]
        shown = repr((times, states, found.unreadable, found.failed, [sweep.summary for sweep in found.sweeps]))
        version = hashlib.sha256(shown.encode()).hexdigest()[:16]
        if version != self.version:
            self.page = self._make(found, version)
            self.version = version
        self._times, self._read_at = times, time.monotonic()
