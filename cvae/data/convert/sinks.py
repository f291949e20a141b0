"""Where a worker puts the sequences of an episode: raw bytes for the packed arrays, or folders of PNG files."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvae.data.convert.episodes import BadEpisode, Cut, Episode, Reader
from cvae.data.layout import COURSE
from cvae.data.tables import Tables
from cvae.errors import writing

HINT = "free some space, then run the same command again"


@dataclass(frozen=True)
class Read:
    """An episode that was read: the lengths of its sequences, and how many frames were left out."""

    lengths: list[int]
    left_out: int


@dataclass(frozen=True)
class Bad:
    """An episode that could not be read, and why."""

    reason: str


@dataclass(frozen=True)
class Convert:
    """Read an episode and write its sequences below ``folder``: the task of a worker."""

    reader: Reader
    cut: Cut
    folder: Path
    tables: Tables
    png: bool

    def __call__(self, job: tuple[int, Episode], alive: Callable[[], None]) -> Read | Bad:
        number, episode = job
        lengths, left_out = list[int](), 0
        write = self._png if self.png else self._raw
        try:
            for frames_THWC, cond_TA in self.cut.sequences(self.reader.steps(episode)):
                if len(frames_THWC) < self.cut.shortest:
                    left_out += len(frames_THWC)
                    continue
                with writing(self.folder, HINT):
                    write(number, episode, len(lengths), frames_THWC, cond_TA)
                lengths.append(len(frames_THWC))
                alive()
        except BadEpisode as error:
            with writing(self.folder, HINT):
                self.drop(job)
            return Bad(str(error))
        return Read(lengths, left_out)

    def drop(self, job: tuple[int, Episode]) -> None:
        """Remove what was written of an episode."""
        number, episode = job
        for path in self.parts(number):
            path.unlink(missing_ok=True)
        clip = 0
        while self.png and (folder := self.folder / str(episode.split) / episode.sequence(clip)).exists():
            shutil.rmtree(folder)
            clip += 1
            with contextlib.suppress(OSError):  # it holds others
                folder.parent.rmdir()

    def parts(self, number: int) -> tuple[Path, Path]:
        """The files with an episode's frames and conditions, for the packed arrays."""
        return self.folder / f"{number}.frames", self.folder / f"{number}.cond"

    def _raw(
        self, number: int, episode: Episode, clip: int, frames_THWC: NDArray[np.uint8], cond_TA: NDArray[np.float32]
    ) -> None:
        for path, array in zip(self.parts(number), (frames_THWC, cond_TA), strict=True):
            with path.open("ab" if clip else "wb") as file:
                file.write(np.ascontiguousarray(array).data)

    def _png(
        self, number: int, episode: Episode, clip: int, frames_THWC: NDArray[np.uint8], cond_TA: NDArray[np.float32]
    ) -> None:
        folder = self.folder / str(episode.split) / episode.sequence(clip)
        if folder.exists():  # of a conversion that was killed
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        for t, frame_HWC in enumerate(frames_THWC):
            Image.fromarray(frame_HWC).save(folder / COURSE.name(t))
        first = 0
        for file, names in self.tables.items():
            rows = cond_TA[:, first : first + len(names)].tolist()
            (folder / file).write_text("".join(",".join(f"{value:.9g}" for value in row) + "\n" for row in rows))
            first += len(names)
