"""Commands of the package, each in a forked copy of a process that has loaded everything: one takes a second, not six."""

from __future__ import annotations

import builtins
import importlib
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harm.strike import Strike

LIMIT = 60.0  # seconds for a command; what takes longer hangs
_LOADED = (
    *("cvae.train", "cvae.training.assembly", "cvae.training.runtime", "cvae.data.store", "cvae.data.synthetic"),
    *("cvae.report.__main__", "cvae.report.html.data", "cvae.report.html.render", "cvae.report.markdown", "cvae.report.serve"),
    *("cvae.evaluate", "cvae.protocols.compare", "cvae.protocols.running", "cvae.evaluation.diagnosis", "cvae.runs.collection"),
    *("cvae.predict", "cvae.prediction.outputs", "cvae.prediction.inputs"),
    *("cvae.sweep.sweeper", "optuna.importance._base", "rich.console", "rich.progress", "plotly.tools"),
    *("matplotlib.backends.backend_agg", "PIL.GifImagePlugin", "hydra._internal.core_plugins", "hydra._internal.hydra"),
    *("torch._dynamo.callback", "torch.utils.serialization.config"),
)
# What belongs to the user's account must not reach a command.
_UNSET = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "HYDRA_FULL_ERROR", "CVAE_STORAGE")


def preload() -> None:
    """Import what commands use, so that their processes need not. No torch code runs, so no thread is started."""
    from PIL import Image

    import hydra_plugins

    plugins = [f"hydra_plugins.{found.name}" for found in pkgutil.iter_modules(hydra_plugins.__path__)]
    for name in [*_LOADED, *plugins]:
        importlib.import_module(name)
    Image.init()
    sys.modules["torch"].set_num_threads(1)


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code (negative: the signal that ended it), what it printed, and what it cost."""

    code: int
    out: str
    err: str
    seconds: float
    memory: float = 0.0  # MiB, the most that it held; all have those of the process that they are copies of
    processor: float = 0.0  # seconds
    hung: bool = False

    @property
    def text(self) -> str:
        return self.out + self.err


class Running:
    """A command that runs."""

    def __init__(self, pid: int, out: Path, err: Path) -> None:
        self.pid, self._out, self._err = pid, out, err
        self._began = time.monotonic()
        self._result: Result | None = None

    def wait(self, limit: float = LIMIT) -> Result:
        """Wait for its end; what runs longer than ``limit`` seconds is killed with its children."""
        while (result := self.poll()) is None:
            if time.monotonic() - self._began > limit:
                os.killpg(self.pid, signal.SIGKILL)
                return self._ended(*os.wait4(self.pid, 0)[1:], hung=True)
            time.sleep(0.005)
        return result

    def poll(self) -> Result | None:
        """The result if it has ended."""
        if self._result is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._ended(status, usage)
        return self._result

    def send(self, name: str) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.Signals[name])

    def _ended(self, status: int, usage: Any, hung: bool = False) -> Result:
        texts = [path.read_text(errors="replace") for path in (self._out, self._err)]
        code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self._began
        self._result = Result(code, *texts, seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, hung)
        return self._result


class Place:
    """A folder in which commands run: ``work`` is their working folder, ``home`` the user's, ``logs`` has what they print."""

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self.root, self.work, self.home, self.logs = root, root / "work", root / "home", root / "logs"
        self.cache = cache or root / "cache"
        self.count = 0
        for folder in (self.work, self.home, self.logs):
            folder.mkdir(parents=True, exist_ok=True)

    def start(
        self, entry: str, *words: object, strike: Strike | None = None, stdout: int | None = None, **environment: str
    ) -> Running:
        """Start ``python -m cvae.ENTRY WORDS``; ``load FOLDER NAME`` opens a checkpoint by ``load_model``.

        Args:
            strike: what it meets.
            stdout: a descriptor that it prints to, in place of a file.
        """
        self.count += 1
        out, err = (self.logs / f"{self.count:02d}-{entry}.{kind}" for kind in ("out", "err"))
        (self.logs / f"{self.count:02d}-{entry}.command").write_text(" ".join(map(str, words)) + "\n")
        main, program = _entry(entry)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                self._enter(out, err, stdout, environment)
                sys.argv = [program, *map(str, words)]
                if strike is not None:
                    strike.install()
                _leave(main)
            finally:
                os._exit(99)  # whatever happens, this copy must not go on as the script
        return Running(pid, out, err)

    def run(self, entry: str, *words: object, limit: float = LIMIT, **further: Any) -> Result:
        return self.start(entry, *words, **further).wait(limit)

    def train(self, *words: object, **further: Any) -> Result:
        return self.run("train", *words, **further)

    def _enter(self, out: Path, err: Path, stdout: int | None, environment: Mapping[str, str]) -> None:
        """Take the user's folder, environment and signals, and print into files."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python starts
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        for target, source in [(0, os.open(os.devnull, os.O_RDONLY)), (1, os.open(out, flags)), (2, os.open(err, flags))]:
            os.dup2(source if target != 1 or stdout is None else stdout, target)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - they live as long as this process
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        for name in _UNSET:
            os.environ.pop(name, None)
        own = {"HOME": str(self.home), "CVAE_CACHE": str(self.cache), "NETRC": str(self.home / "netrc"), "COLUMNS": "200"}
        os.environ.update(own | environment)
        os.chdir(self.work)
        sys.path.insert(0, str(self.work))  # as python -m does


def _entry(name: str) -> tuple[Callable[[], object], str]:
    if own := {"load": _load, "raise": _raise}.get(name):
        return own, f"{name}.py"
    module = "cvae.report.__main__" if name == "report" else f"cvae.{name}"
    return sys.modules[module].main, module.replace(".", "/") + ".py"


def _leave(main: Callable[[], object]) -> None:
    """Run ``main`` and end this process as Python would: flushed, with an exit code, without the script's own exit handlers."""
    code: object = 1
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = 0 if stop.code is None else stop.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
    except OSError as error:  # as Python says it at its end
        print(f"Exception ignored in: {sys.stdout!r}\n{type(error).__name__}: {error}", file=sys.stderr)
        code = 120
    sys.stderr.flush()
    os._exit(int(code) & 255)


def _load() -> None:
    """Open a run's checkpoint as a script would, and print a hash of its weights."""
    import hashlib

    from cvae import cli
    from cvae.training.assembly import load_model

    def show() -> None:
        model, data, _ = load_model(Path(sys.argv[1]).absolute(), sys.argv[2])
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        print(f"weights {digest.hexdigest()[:16]} of {len(data.train)} sequences")

    cli.guarded(show)


def _raise() -> None:
    """What no command may do, so that it is seen whether it would be noticed."""
    if sys.argv[1] == "memory":
        held, end = bytearray(300 << 20), time.process_time() + 2
        while time.process_time() < end:
            held[::4096] = bytes(len(held) // 4096)
    elif sys.argv[1] == "two":
        print("error: one line", "error: and another", sep="\n", file=sys.stderr)
        sys.exit(1)
    else:
        raise getattr(builtins, sys.argv[1])("nobody catches it")
