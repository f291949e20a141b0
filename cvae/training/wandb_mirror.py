"""A view of the run in Weights & Biases. metrics.jsonl is the truth; this may fail, and then only this is lost."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cvae.console import say, short, warn
from cvae.damage import read_rows
from cvae.errors import first_line, require
from cvae.options import believed, named
from cvae.training.recorder import RunInfo, inside
from cvae.training.wandb_files import FILES, keep_files, size
from cvae.training.wandb_service import kill_service, logged_in, silence, tear_down
from cvae.training.wandb_video import within

__all__ = ["WandbMirror"]

_MODES = ("auto", "online", "offline", "shared", "disabled")
_INIT_TIMEOUT = 8  # seconds; the default of 90 is all that a hanging server costs, and it costs it in the background
_FINISH_TIMEOUT = 60
_TAG = 64  # letters that W&B takes
_UPLOAD = 500_000  # bytes a second: what a slow line takes of the files at the end
# What of run.json is shown beside the settings.
_FACTS = (
    *("git_sha", "git_remote", "dirty", "device", "precision", "processes", "parameters", "sigma", "dataset", "splits", "host"),
    *("python", "versions", "started"),
)


@dataclass
class WandbMirror:
    """Mirrors a run from a thread of its own, so that no server, however slow or dead, holds up a training step.

    Args:
        project: None for that of a resumed run, else WANDB_PROJECT, else cvae.
        mode: ``auto`` follows WANDB_MODE if set, else is online when logged in, else offline.
        group: None for WANDB_RUN_GROUP, else the multirun folder; ``name``: None for WANDB_NAME, else the choices that
            distinguish the run; ``notes``: None for WANDB_NOTES; ``job_type``: None for WANDB_JOB_TYPE, else train.
        artifacts: the files that are kept at the end: ``best``, ``all`` or False; see ``wandb_files``.
        videos: whether sample videos are sent, or how many at most, evenly over the run, the last among them.
        video_kb: kilobytes of each; a larger one is sent smaller.

    The first failure drops the mirror with one warning. An online start that fails is made offline instead.
    """

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    notes: str | None = None
    job_type: str | None = None
    tags: Sequence[str] = ()
    mode: str = "auto"
    artifacts: bool | str = "best"
    videos: bool | int = True
    video_kb: int = 300

    def __post_init__(self) -> None:
        require(self.mode in _MODES, "logger.mode", self.mode, f"choose {', '.join(_MODES)}")
        known = self.artifacts is False or self.artifacts in FILES
        require(known, "logger.artifacts", self.artifacts, f"choose false, {' or '.join(FILES)}")
        counted = isinstance(self.videos, int) and self.videos >= 0
        require(counted, "logger.videos", self.videos, "choose true, false, or the most videos of a run")
        whole = isinstance(self.video_kb, int) and self.video_kb > 0
        require(whole, "logger.video_kb", self.video_kb, "give the most kilobytes of a video, as 300")
        self._calls: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._exit_code = 0
        self._hint = ""
        self._given_up = False
        self._info: RunInfo
        self._best: float | None = None

    def settle(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Choose the project, and return what run.json keeps of it: a resumed run stays where it was."""
        before = record.get("wandb")
        kept = before.get("project") if isinstance(before, Mapping) else None
        self.project = self.project or (kept if isinstance(kept, str) else None) or os.environ.get("WANDB_PROJECT") or "cvae"
        return {"wandb": {"project": self.project}}

    def start(self, info: RunInfo) -> None:
        self._info = info
        for row in read_rows(info.folder / "metrics.jsonl"):
            self._scored(row)
        self._thread = threading.Thread(target=self._work, args=(info,), name="wandb-mirror", daemon=True)
        self._thread.start()

    def log(self, row: dict[str, Any]) -> None:
        # Our own step: an offline run that is resumed would start again at 0.
        values = {**row, **self._scored(row)}
        self._calls.put(lambda run: run.log(values, step=self._info.step(row["epoch"])))

    def validation(self, row: dict[str, Any]) -> None:
        self._calls.put(lambda run: run.log({**inside(row), "step": row["step"]}, step=row["step"]))

    def sample(self, gif: Path, epoch: int) -> None:
        if not self._is_sent(epoch):
            return

        def send(run: Any) -> None:
            import wandb

            content = within(gif, 1000 * self.video_kb)
            if content is not None:
                run.log({"samples": wandb.Video(io.BytesIO(content), format="gif")}, step=self._info.step(epoch))

        self._calls.put(send)

    def finish(self, exit_code: int, state: str | None = None) -> None:
        if self._thread is None:
            return
        self._exit_code = exit_code
        if state is not None:
            self._calls.put(lambda run: run.summary.update({"trial_state": state}))
        patience = 0.0
        if self.artifacts and exit_code == 0 and state != "pruned":
            patience = 30 + size(self._info.folder, str(self.artifacts)) / _UPLOAD
            self._calls.put(lambda run: self._keep(run, patience))
        self._calls.put(None)
        self._thread.join(_FINISH_TIMEOUT + 5 + patience)
        if self._thread.is_alive():
            self._given_up = True
            warn("W&B does not answer: its view of this run may lack the end; metrics.jsonl is complete")
            kill_service()
            self._thread.join(5)
        elif self._hint:
            say(self._hint)

    def _keep(self, run: Any, patience: float) -> None:
        try:
            keep_files(run, self._info, str(self.artifacts), patience)
        except Exception as error:  # whatever W&B raises, the rest of its view is complete
            warn(f"W&B did not take the run's files ({first_line(error)}): they are in the run folder")

    def _is_sent(self, epoch: int) -> bool:
        """Whether the sample of an epoch is one of those that ``videos`` allows."""
        if self.videos is True:
            return True
        every, epochs = int(self._info.config.get("sample_every") or 1), int(self._info.config["epochs"])
        index, count = -(-epoch // every), -(-epochs // every)
        return index * self.videos // count > (index - 1) * self.videos // count

    def _scored(self, row: Mapping[str, Any]) -> dict[str, float]:
        """The best value of the objective up to a row: what W&B's own sweeps look at, be it to rise or to fall."""
        chosen = self._info.config.get("objective")
        key = chosen[0] if isinstance(chosen, (list, tuple)) and chosen else chosen
        metric = next((each for each in self._info.metrics if each.key == key), None)
        if metric is not None and (value := row.get(metric.key)) is not None:
            self._best = value if self._best is None else min(self._best, value, key=metric.rank)
        return {} if self._best is None else {"objective": self._best}

    def _work(self, info: RunInfo) -> None:
        try:
            run = self._init(info)
            url = _address(run)
            if url:
                say(f"W&B      {url}")
            for call in iter(self._calls.get, None):
                call(run)
            run.finish(exit_code=self._exit_code)
            if url:
                self._hint = f"W&B      {url}"
            elif run.settings.mode == "offline":
                # A run that was stopped and resumed is in several folders; wandb sends them in order, and none twice.
                parts = f"{shlex.quote(short(Path(run.settings.sync_dir).parent))}/offline-run-*"
                self._hint = f"W&B      offline run; send it with: wandb sync {parts}"
        except Exception as error:  # whatever W&B raises, training goes on
            if not self._given_up:
                warn(f"W&B stopped ({first_line(error)}); training goes on, metrics.jsonl is complete")
            tear_down()

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
        if info.config.get("validate_at"):
            run.define_metric("step")
            run.define_metric("inside/*", step_metric="step")
        for metric in info.metrics:
            if metric.better is not None and metric.key.startswith("val/"):
                run.define_metric(metric.key, step_metric="epoch", summary=metric.better)
        return run

    def _open(self, wandb: Any, info: RunInfo, mode: str) -> Any:
        surroundings = os.environ.get
        tags = [*info.tags, *self.tags, *filter(None, surroundings("WANDB_TAGS", "").split(","))]
        with _said_as(info.record.get("own_command") if info.group else None):
            return wandb.init(
                project=self.project,
                entity=self.entity,
                group=self.group or surroundings("WANDB_RUN_GROUP") or info.group,
                name=self.name or surroundings("WANDB_NAME") or info.name,
                notes=self.notes or surroundings("WANDB_NOTES"),
                tags=list(dict.fromkeys(tag[:_TAG] for tag in tags)),
                job_type=self.job_type or surroundings("WANDB_JOB_TYPE") or "train",
                id=info.id,
                resume="allow",
                reinit="create_new",
                config=_config(info),
                dir=info.folder,
                mode=mode,
                settings=wandb.Settings(
                    init_timeout=_INIT_TIMEOUT,
                    finish_timeout=_FINISH_TIMEOUT,
                    console="off",
                    silent=True,
                    **_code(info.record),
                ),
            )


def _config(info: RunInfo) -> dict[str, Any]:
    """The settings; the chosen options by their names; and what run.json knows of the run, with the command that repeats it."""
    options = believed(info.record.get("options")) or {}
    facts = {key: info.record[key] for key in _FACTS if info.record.get(key) is not None}
    now = (info.record.get("resumed") or [{}])[-1]  # a resumed run may be on another device
    facts |= {key: now[key] for key in ("device", "precision", "processes", "parameters") if key in now}
    command = info.record.get("own_command") or info.record.get("command")
    return {**named(info.config, options), "options": options, "run": {"command": command, **facts}}


@contextlib.contextmanager
def _said_as(command: str | None) -> Iterator[None]:
    """Let W&B, which shows the process's command, take a job's own for it: a multirun's is that of all its jobs."""
    before = sys.argv
    if command:
        sys.argv = [before[0], *shlex.split(command)[3:]]  # python -m cvae.train
    try:
        yield
    finally:
        sys.argv = before


def _code(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that let W&B show the commit and the remote of the package's checkout, not of the folder the user stands in."""
    if record.get("git_sha") is None:
        return {"disable_git": True}
    remote = record.get("git_remote")
    # Without a remote to name W&B would look for one where the user stands. Uncommitted changes stay on this machine.
    where = {"git_remote_url": remote} if remote else {"git_remote": ""}
    return {"git_commit": record["git_sha"], "disable_code": True, **where}


def _address(run: Any) -> str | None:
    """Where an online run is shown, without what may stand behind it as a key."""
    return urlsplit(run.url)._replace(query="", fragment="").geturl() if run.url else None
