"""What a format finds in a source: episodes, and how to read one; and how episodes become sequences and splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cvae.console import natural_order
from cvae.data.layout import SPLITS
from cvae.data.tables import Tables
from cvae.errors import UserError

Step = tuple[NDArray[np.uint8], NDArray[Any]]
"""A frame ``HWC`` of 64x64 and its condition values ``A``."""

_DEFAULT = 256  # episodes of a split that the source lacks, where it has enough


class BadEpisode(ValueError):
    """An episode cannot be read. The message names no file: whoever knows the episode adds it."""


@dataclass(frozen=True)
class Episode:
    """A recording that is read from its first to its last frame, and lies in one split."""

    name: str
    """``FOLDER`` or ``FOLDER/KEY``: where its sequences go. No two episodes of a split have the same."""
    origin: str
    """The file, and the place in it, for messages."""
    where: Any
    """What the reader needs to find it."""
    split: str | None = None
    """What the source says; None where it says nothing."""

    def sequence(self, clip: int) -> str:
        """The name ``FOLDER/KEY`` of its sequence with this number."""
        if "/" in self.name:
            return f"{self.name}_{clip}" if clip else self.name
        return f"{self.name}/{clip}"


class Reader(Protocol):
    """Reads episodes, in a process of its own; it may keep a file open between two of them."""

    def steps(self, episode: Episode) -> Iterator[Step]:
        """The frames of an episode in their order, before any stride. Any error that it raises is a fault of the file."""


@dataclass(frozen=True)
class Found:
    """What a format found in a source."""

    episodes: list[Episode]
    reader: Reader
    tables: Tables
    files: list[Path]
    """All files that are read: if one changes, the source is another."""
    rules: list[str] = field(default_factory=list)
    """In words, what was done with frames and numbers."""
    lost: list[str] = field(default_factory=list)
    """Parts of the source that cannot be read at all, one line each."""
    options: dict[str, Any] = field(default_factory=dict)
    """The options of this format, as they were understood."""


def split_episodes(episodes: Sequence[Episode], wanted: dict[str, float | None]) -> list[Episode]:
    """All episodes with their split, in the order in which a reader of folders meets their sequences.

    A split that the source has stays as it is. Others are taken from train, whole episodes, chosen by a hash of their names:
    the choice depends on no order, and does not change for most where episodes are added.

    Args:
        wanted: for validate and test: a number of episodes, a share below 1, or None for 256, but at most a tenth.

    Raises:
        UserError: two episodes have one name, or too few are left for train.
    """
    placed = {episode: episode.split or "train" for episode in episodes}
    rest = sorted(
        (episode for episode, split in placed.items() if split == "train"),
        key=lambda episode: hashlib.sha256(episode.name.encode(errors="surrogateescape")).digest(),
    )
    total, has = len(rest), set(placed.values())
    for name in ("validate", "test"):
        if name in has and wanted[name] is not None:
            raise UserError(f"--{name} is given, but the source has a {name} split of its own: leave it out")
        if name not in has:
            taken, rest = _part(rest, wanted[name], total)
            placed.update(dict.fromkeys(taken, name))
    counts = {name: list(placed.values()).count(name) for name in SPLITS}
    if not counts["train"] or not counts["validate"]:
        raise UserError(
            f"the source has {total} episodes outside its own validate and test: train and validate need one each; "
            "give fewer with --validate and --test, or more data"
        )
    ordered = sorted((replace(each, split=split) for each, split in placed.items()), key=_order)
    for one, other in pairwise(ordered):
        if (one.split, one.name) == (other.split, other.name):
            raise UserError(f"{one.origin} and {other.origin} would both be called {one.name}: rename one of them")
    return ordered


def _order(episode: Episode) -> tuple[int, list[Any]]:
    return SPLITS.index(str(episode.split)), [natural_order(part) for part in episode.name.split("/")]


def _part(episodes: list[Episode], wanted: float | None, total: int) -> tuple[list[Episode], list[Episode]]:
    if wanted is None:
        count = min(_DEFAULT, max(1, total // 10))
    else:
        count = round(wanted * total) or 1 if 0 < wanted < 1 else int(wanted)
    return episodes[:count], episodes[count:]


@dataclass(frozen=True)
class Cut:
    """How the frames of an episode become sequences."""

    stride: int = 1
    clip: int = 30
    shortest: int = 12

    def rules(self) -> list[str]:
        """The same in words."""
        every = f"Of every {self.stride} frames the first is taken, with its own row. " * (self.stride > 1)
        return [
            f"{every}An episode is cut from its first frame on into sequences of {self.clip} frames. What is left, and an "
            f"episode that is shorter, is a sequence of its own if it has at least {self.shortest} frames; otherwise it is "
            "left out."
        ]

    def sequences(self, steps: Iterator[Step]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """``frames_THWC`` and ``cond_TA`` of each sequence; the last one may be too short (see ``shortest``).

        Raises:
            BadEpisode: reading fails, a condition is not finite, or there is no frame.
        """
        kept: list[Step] = []
        nothing = True
        for number, (frame_HWC, cond_A) in enumerate(_guarded(steps)):
            nothing = False
            if number % self.stride == 0:
                kept.append((frame_HWC, cond_A))
            if len(kept) == self.clip:
                yield _stacked(kept)
                kept = []
        if nothing:
            raise BadEpisode("it has no frames")
        if kept:
            yield _stacked(kept)


def _stacked(steps: list[Step]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    cond_TA = np.stack([np.asarray(cond_A, np.float64) for _, cond_A in steps])
    if not (np.abs(cond_TA) <= np.finfo(np.float32).max).all():
        raise BadEpisode("its conditions hold NaN, infinity or a number too large for float32")
    return np.stack([frame_HWC for frame_HWC, _ in steps]), cond_TA.astype(np.float32)


def _guarded(steps: Iterator[Step]) -> Iterator[Step]:
    """The same; any error of a decoder is one of the episode."""
    try:
        yield from steps
    except BadEpisode:
        raise
    except MemoryError as error:
        raise BadEpisode("it needs more memory than a file may take") from error
    except Exception as error:  # of whatever library reads the format
        text = " ".join(str(error).split())[:200]
        raise BadEpisode(f"it cannot be read ({text or type(error).__name__})") from error
