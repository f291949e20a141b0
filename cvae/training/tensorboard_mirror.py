"""A view of the run in TensorBoard. metrics.jsonl is the truth; this may fail, and then only this is lost."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvae.config import flat
from cvae.console import say, short, warn
from cvae.damage import read_rows
from cvae.errors import UserError
from cvae.integrity import LINES
from cvae.options import believed, named
from cvae.training.recorder import RunInfo, inside

__all__ = ["TensorboardMirror"]


class TensorboardMirror:
    """Writes RUN/tensorboard: the scalars of every epoch, the samples, and the settings for the HPARAMS page.

    It writes the events itself. torch's SummaryWriter hands them to a thread that prints a traceback when the disk is full, and
    needs moviepy for a GIF that is there already. The first failure drops the mirror with one warning.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError("logger=tensorboard needs a package of its own: pip install -e '.[report]', or logger=none")
        self._info: RunInfo
        self._folder = Path()
        self._titles: dict[str, str] = {}
        self._records: Any = None

    def start(self, info: RunInfo) -> None:
        self._info, self._folder = info, info.folder / "tensorboard"
        self._titles = {metric.key: metric.title for metric in info.metrics}
        with self._or_dropped():
            from tensorboard.compat.proto.event_pb2 import SessionLog
            from tensorboard.plugins.hparams.summary_v2 import hparams_pb
            from tensorboard.summary.writer.record_writer import RecordWriter

            self._folder.mkdir(exist_ok=True)
            # Readers take the files of a run by name: the nanoseconds put a resumed run's behind the first.
            path = self._folder / f"events.out.tfevents.{time.time_ns()}.{platform.node()}.{os.getpid()}"
            self._records = RecordWriter(path.open("wb"))
            self._write(file_version="brain.Event:2")
            # What a run had written beyond the checkpoint that it goes on from is forgotten.
            rows, between = (read_rows(info.folder / name) for name in LINES)
            last = max([0, *(info.step(row["epoch"]) for row in rows[-1:]), *(row["step"] for row in between[-1:])])
            self._write(step=last + 1, session_log=SessionLog(status=SessionLog.START))
            options = believed(info.record.get("options")) or {}
            settings = {**flat(named(info.config, options)), **options}
            plain = {
                key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in settings.items()
            }
            self._write(summary=hparams_pb(plain, trial_id=info.id))

    def log(self, row: dict[str, Any]) -> None:
        if self._records is None:
            return
        with self._or_dropped():
            from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

            about = {key: SummaryMetadata(summary_description=self._titles.get(key, key)) for key in row}
            values = [Summary.Value(tag=key, simple_value=row[key], metadata=about[key]) for key in row if key != "epoch"]
            self._write(step=self._info.step(row["epoch"]), summary=Summary(value=values))

    def validation(self, row: dict[str, Any]) -> None:
        if self._records is None:
            return
        with self._or_dropped():
            from tensorboard.compat.proto.summary_pb2 import Summary

            values = [Summary.Value(tag=key, simple_value=value) for key, value in inside(row).items()]
            self._write(step=row["step"], summary=Summary(value=values))

    def sample(self, gif: Path, epoch: int) -> None:
        if self._records is None:
            return
        with self._or_dropped():
            from PIL import Image
            from tensorboard.compat.proto.summary_pb2 import Summary

            with Image.open(gif) as picture:
                width, height = picture.size
            image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif.read_bytes())
            self._write(step=self._info.step(epoch), summary=Summary(value=[Summary.Value(tag="samples", image=image)]))

    def finish(self, exit_code: int, state: str | None = None) -> None:
        if self._records is None:
            return
        with self._or_dropped():
            from tensorboard.plugins.text.summary_v2 import text_pb

            if state is not None:
                self._write(summary=text_pb("trial_state", state))
            self._records.close()
            say(f"TensorBoard  show it with: tensorboard --logdir {shlex.quote(short(self._folder))}")

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
        self._records.flush()

    @contextlib.contextmanager
    def _or_dropped(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever goes wrong here, training goes on
            warn(f"TensorBoard stopped ({error}); training goes on, metrics.jsonl is complete")
            records, self._records = self._records, None
            with contextlib.suppress(Exception):
                records.close()
