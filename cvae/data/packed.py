"""A packed split on the disk: memory-mapped frames, each sequence checked against its checksum when it is first used.

    PACKED/frames.npy   uint8 NHWC, all sequences one after another
           cond.npy     float32 NA, the columns of all tables
           meta.json    names, lengths, checksums, ... (``cvae.data.packing`` writes it), sealed by a checksum of its own

Its folder's name is a hash of what is in it, so equal folders of files share one copy.
"""

from __future__ import annotations

import hashlib
import shlex
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvae.data.arrays import ArraySplit
from cvae.data.contract import Frames, Indices
from cvae.data.layout import IMAGE_SIZE, TABLES
from cvae.data.sealed import Damaged, read_sealed
from cvae.data.tables import CHOICES, chosen, tables_in, width
from cvae.errors import UserError, expanded, first_line, require

FORMAT = 2


def array_shapes(frames: int, columns: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Type and shape of each array of a split with so many frames in all, and condition values a frame."""
    return {"frames.npy": (np.uint8, (frames, IMAGE_SIZE, IMAGE_SIZE, 3)), "cond.npy": (np.float32, (frames, columns))}


def joint_fingerprint(train: PackedSplit, validate: PackedSplit) -> str:
    """A hash of two decoded splits: equal data have equal fingerprints on any machine, wherever they lie."""
    return fingerprint_of(train.meta["content"], validate.meta["content"])


def fingerprint_of(train: str, validate: str) -> str:
    """The same, of the contents as meta.json has them."""
    return hashlib.sha256(f"{train} {validate}".encode()).hexdigest()[:16]


class PackedSplit(ArraySplit):
    """One packed split. It unpickles to the same memory maps, so any number of worker processes may share it.

    Args:
        remedy: what to do where frames are damaged; by default, to remove a copy in the cache.

    Raises:
        Damaged: the copy is incomplete, of another version, or its tables or its meta.json are not as they were written.
            Frames are checked when they are first used; there it is a UserError.
    """

    def __init__(self, folder: Path, condition: str, remedy: str = "") -> None:
        self.folder, self.condition, self.remedy = folder, condition, remedy
        self.meta = read_sealed(folder / "meta.json")
        if self.meta.get("format") != FORMAT:
            raise Damaged("it is of another version")
        try:
            self._open(condition)
        except Damaged:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # its hash fits, its content not
            raise Damaged(f"meta.json cannot be ({type(error).__name__}: {first_line(error)})") from error

    def _open(self, condition: str) -> None:
        self.tables = tables_in(self.meta["tables"]) if "tables" in self.meta else TABLES
        lengths = np.array(self.meta["lengths"], np.int64)
        shapes = array_shapes(int(lengths.sum()), width(self.tables))
        frames_NHWC, cond_NA = (self._mapped(name, *shapes[name]) for name in ("frames.npy", "cond.npy"))
        self.conditions = [name for file in chosen(self.tables, condition) for name in self.tables[file]]
        for name in ("names", "checksums"):
            if len(self.meta[name]) != len(lengths):
                raise ValueError(f"{len(self.meta[name])} {name} for {len(lengths)} sequences")
        if not all(isinstance(name, str) for name in self.meta["names"]) or lengths.min(initial=1) < 1:
            raise ValueError("a name is no text, or a sequence has no frame")
        cond_NA = np.array(cond_NA)
        if zlib.crc32(cond_NA.data) != self.meta["cond_checksum"]:
            raise Damaged("cond.npy is not as it was written")
        cond_NA = np.ascontiguousarray(cond_NA[:, : len(self.conditions)])
        frames = _Checked(frames_NHWC, lengths, self.meta["checksums"], self)
        super().__init__(frames, _Rows(cond_NA, lengths), self.meta["names"], lengths)
        self.cond_NA = cond_NA
        self.fingerprint = str(self.meta["content"][:16])

    def __reduce__(self) -> tuple[type[PackedSplit], tuple[Path, str, str]]:
        return PackedSplit, (self.folder, self.condition, self.remedy)

    def _mapped(self, name: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
        """The array in a file; its header is compared and not obeyed."""
        header = bytes.fromhex(self.meta["headers"][name])
        path = self.folder / name
        if path.exists() and not path.is_file():  # a pipe would block
            raise Damaged(f"{name} is not a file")
        try:
            with path.open("rb") as file:
                same = file.read(len(header)) == header
            whole = path.stat().st_size == len(header) + int(np.prod(shape)) * np.dtype(dtype).itemsize
            if not same or not whole:
                raise Damaged(f"{name} {'is not as it was written' if whole else 'has another size'}")
            if 0 in shape:  # nothing can be mapped
                return np.zeros(shape, dtype)
            return np.asarray(np.memmap(path, dtype, "r", len(header), shape))
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror or error}") from error


class _Rows(Sequence[NDArray[Any]]):
    """The rows of each sequence in an array that holds all of them: a view, made when it is asked for."""

    def __init__(self, rows: NDArray[Any], lengths: Indices) -> None:
        self._rows, self._ends = rows, np.cumsum(lengths)
        self._firsts = self._ends - lengths

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[self._firsts[index] : self._ends[index]]


class _Checked(_Rows):
    """Frames; a sequence is compared with its checksum when it is first asked for, once a process."""

    def __init__(self, frames_NHWC: Frames, lengths: Indices, checksums: Sequence[int], split: PackedSplit) -> None:
        super().__init__(frames_NHWC, lengths)
        self._checksums, self._split = checksums, split
        self._seen = np.zeros(len(lengths), bool)  # two threads may check the same sequence: then twice, no harm

    def __getitem__(self, index: Any) -> Any:
        frames_THWC = super().__getitem__(index)
        if not self._seen[index]:
            if zlib.crc32(frames_THWC.data) != self._checksums[index]:
                command = shlex.join(["rm", "-r", str(self._split.folder)])
                anew = f"remove the copy ({command}) and start or resume again: it is packed anew from the files of the dataset"
                raise UserError(
                    f"{self._split.folder / 'frames.npy'} is damaged in sequence {self._split.name(index)}: "
                    f"{self._split.remedy or anew}"
                )
            self._seen[index] = True
        return frames_THWC


class PackedSplits(ABC):
    """A dataset below a folder, whose splits are packed arrays that are opened when they are first used."""

    def __init__(
        self,
        root: str,
        condition: str = "actions_positions",
        normalise: bool = True,
        random_start: bool = True,
        resident: str = "auto",
    ) -> None:
        require(condition in CHOICES, "data.condition", condition, f"choose {', '.join(CHOICES)}")
        for key, value in {"normalise": normalise, "random_start": random_start}.items():
            require(isinstance(value, bool), f"data.{key}", value, "give true or false")
        self.root, self.condition = expanded(root, "data.root"), condition
        self.normalise, self.random_start, self.resident = normalise, random_start, resident

    @cached_property
    def train(self) -> PackedSplit:
        return self._open("train")

    @cached_property
    def validate(self) -> PackedSplit:
        return self._open("validate")

    @cached_property
    def test(self) -> PackedSplit:
        return self._open("test")

    @property
    def fingerprint(self) -> str:
        """A hash of the decoded train and validate splits: equal data have equal fingerprints on any machine."""
        return joint_fingerprint(self.train, self.validate)

    def __str__(self) -> str:
        train = self.__dict__.get("train")  # a name opens no file
        has_none = train is not None and train.cond_NA.shape[1] == 0
        return f"{self.root} ({'no conditions' if has_none else self.condition})"

    @abstractmethod
    def _open(self, name: str) -> PackedSplit: ...
