"""A packed split on the disk: memory-mapped frames, each sequence checked against its checksum when it is first used.

    PACKED/frames.npy   uint8 NHWC, all sequences one after another
           cond.npy     float32 NA, the columns of all tables
           meta.json    names, lengths, checksums, ... (``cvae.data.packing`` writes it), sealed by a checksum of its own

Its folder's name is a hash of what is in it, so equal folders of files share one copy.
"""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvae.data.arrays import ArraySplit
from cvae.data.contract import Frames, Indices
from cvae.data.layout import IMAGE_SIZE, TABLES
from cvae.data.sealed import Damaged, read_sealed
from cvae.errors import UserError

FORMAT = 2
# The tables that a choice needs: the first ones, so that their columns are the first ones of cond.npy.
CONDITIONS = {"actions_positions": list(TABLES), "actions": list(TABLES)[:1], "none": []}


def array_shapes(frames: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Type and shape of each array of a split with so many frames in all."""
    width = sum(map(len, TABLES.values()))
    return {"frames.npy": (np.uint8, (frames, IMAGE_SIZE, IMAGE_SIZE, 3)), "cond.npy": (np.float32, (frames, width))}


class PackedSplit(ArraySplit):
    """One packed split. It unpickles to the same memory maps, so any number of worker processes may share it.

    Raises:
        Damaged: the copy is incomplete, of another version, or its tables or its meta.json are not as they were written.
            Frames are checked when they are first used; there it is a UserError.
    """

    def __init__(self, folder: Path, condition: str) -> None:
        self.folder, self.condition = folder, condition
        self.meta = read_sealed(folder / "meta.json")
        if self.meta.get("format") != FORMAT:
            raise Damaged("it is of another version")
        lengths = np.array(self.meta["lengths"], np.int64)
        frames_NHWC, cond_NA = (self._mapped(name, int(lengths.sum())) for name in ("frames.npy", "cond.npy"))
        width = sum(len(TABLES[file]) for file in CONDITIONS[condition])
        cond_NA = np.array(cond_NA)
        if zlib.crc32(cond_NA.data) != self.meta["cond_checksum"]:
            raise Damaged("cond.npy is not as it was written")
        cond_NA = np.ascontiguousarray(cond_NA[:, :width])
        frames = _Checked(frames_NHWC, lengths, self.meta["checksums"], self)
        super().__init__(frames, _Rows(cond_NA, lengths), self.meta["names"], lengths)
        self.cond_NA = cond_NA
        self.fingerprint = str(self.meta["content"][:16])

    def __reduce__(self) -> tuple[type[PackedSplit], tuple[Path, str]]:
        return PackedSplit, (self.folder, self.condition)

    def _mapped(self, name: str, frames: int) -> NDArray[Any]:
        """The array in a file; its header is compared and not obeyed."""
        dtype, shape = array_shapes(frames)[name]
        header = bytes.fromhex(self.meta["headers"][name])
        path = self.folder / name
        try:
            with path.open("rb") as file:
                same = file.read(len(header)) == header
            whole = path.stat().st_size == len(header) + int(np.prod(shape)) * np.dtype(dtype).itemsize
            if not same or not whole:
                raise Damaged(f"{name} {'is not as it was written' if whole else 'has another size'}")
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
                raise UserError(
                    f"{self._split.folder / 'frames.npy'} is damaged in sequence {self._split.name(index)}: remove the copy "
                    f"({command}) and start or resume again: it is packed anew from the files of the dataset"
                )
            self._seen[index] = True
        return frames_THWC
