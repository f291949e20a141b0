"""A view of the run in Weights & Biases. metrics.jsonl is the truth; this may fail, and then only this is lost."""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
import queue
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil

from cvae.console import say, short, warn
from cvae.errors import first_line, require
from cvae.training.recorder import RunInfo

__all__ = ["WandbMirror"]

_MODES = ("auto", "online", "offline", "shared", "disabled")
_INIT_TIMEOUT = 8  # seconds; the default of 90 is all that a hanging server costs, and it costs it in the background
_FINISH_TIMEOUT = 60


@dataclass
class WandbMirror:
    """Mirrors a run from a thread of its own, so that no server, however slow or dead, holds up a training step.

    Args:
        mode: ``auto`` follows WANDB_MODE if set, else is online when logged in, else offline.
        group: None for the multirun folder; ``name``: None for the choices that distinguish the run.

    The first failure drops the mirror with one warning. An online start that fails is made offline instead.
    """

    project: str = "cvae"
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: Sequence[str] = ()
    mode: str = "auto"

    def __post_init__(self) -> None:
        require(self.mode in _MODES, "logger.mode", self.mode, f"choose {', '.join(_MODES)}")
        self._calls: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._exit_code = 0
        self._sync_hint = ""
        self._given_up = False

    def start(self, info: RunInfo) -> None:
        self._thread = threading.Thread(target=self._work, args=(info,), name="wandb-mirror", daemon=True)
        self._thread.start()

    def log(self, row: dict[str, Any]) -> None:
        # Our own step: an offline run that is resumed would start again at 0.
        self._calls.put(lambda run: run.log(row, step=row["epoch"]))

    def sample(self, gif: Path, epoch: int) -> None:
        def send(run: Any) -> None:
            import wandb

            run.log({"samples": wandb.Video(str(gif), format="gif")}, step=epoch)

        self._calls.put(send)

    def finish(self, exit_code: int, state: str | None = None) -> None:
        if self._thread is None:
            return
        self._exit_code = exit_code
        if state is not None:
            self._calls.put(lambda run: run.summary.update({"trial_state": state}))
        self._calls.put(None)
        self._thread.join(_FINISH_TIMEOUT + 5)
        if self._thread.is_alive():
            self._given_up = True
            warn("W&B does not answer: its view of this run may lack the end; metrics.jsonl is complete")
            _kill_service()
            self._thread.join(5)
        elif self._sync_hint:
            say(self._sync_hint)

    def _work(self, info: RunInfo) -> None:
        try:
            run = self._init(info)
            for call in iter(self._calls.get, None):
                call(run)
            run.finish(exit_code=self._exit_code)
            if run.settings.mode == "offline":
                # A run that was stopped and resumed is in several folders; wandb sends them in order, and none twice.
                parts = f"{shlex.quote(short(Path(run.settings.sync_dir).parent))}/offline-run-*"
                self._sync_hint = f"W&B      offline run; send it with: wandb sync {parts}"
        except Exception as error:  # whatever W&B raises, training goes on
            if not self._given_up:
                warn(f"W&B stopped ({first_line(error)}); training goes on, metrics.jsonl is complete")
            _tear_down()

    def _init(self, info: RunInfo) -> Any:
        silence()
        if "wandb" not in sys.modules:
            # A service inherited from the process that started this one could not be torn down, and may die with it.
            os.environ.pop("WANDB_SERVICE", None)
        import wandb

        mode = self.mode if self.mode != "auto" else os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
        try:
            run = self._open(wandb, info, mode)
        except wandb.Error as error:
            if mode != "online":
                raise
            warn(f"W&B cannot be reached ({first_line(error)}): recording offline")
            # Under the same id a second start is refused until the failed one is gone.
            wandb.teardown()
            run = self._open(wandb, info, "offline")
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
        for metric in info.metrics:
            if metric.better is not None and metric.key.startswith("val/"):
                run.define_metric(metric.key, step_metric="epoch", summary=metric.better)
        return run

    def _open(self, wandb: Any, info: RunInfo, mode: str) -> Any:
        return wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or info.group,
            name=self.name or info.name,
            tags=[*info.tags, *self.tags],
            job_type="train",
            id=info.id,
            resume="allow",
            reinit="create_new",
            config=info.config,
            dir=info.folder,
            mode=mode,
            settings=wandb.Settings(
                init_timeout=_INIT_TIMEOUT,
                finish_timeout=_FINISH_TIMEOUT,
                console="off",
                silent=True,
                disable_git=True,
            ),
        )


def silence() -> None:
    """Keep W&B from printing and from reporting its own errors, before it is imported."""
    os.environ.setdefault("WANDB_SILENT", "true")  # its lines would break the progress bar
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to a server of its own, which it waits for at exit


def server() -> str:
    """The address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def logged_in() -> bool:
    """Whether there is a key for the server, in WANDB_API_KEY or where ``wandb login`` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlparse(server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def abandon() -> None:
    """Give up a server that does not answer: otherwise W&B waits for it at exit, for minutes."""
    _kill_service()
    _tear_down()


def _tear_down() -> None:
    """Forget a broken service, so that W&B's exit handler does not fail on it and the next run starts a new one."""
    with contextlib.suppress(Exception, SystemExit):  # it exits where the service was killed
        import wandb

        wandb.teardown()


def _kill_service() -> None:
    """End a wandb-core that hangs: W&B's exit handler would wait for it for ever."""
    logging.getLogger("wandb").setLevel(logging.CRITICAL + 1)  # it would tell of the connection that ends, with a traceback
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "wandb-core":
                child.kill()
