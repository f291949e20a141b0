"""Arrays that NumPy wrote: SRC/train.npz, and validate.npz and test.npz where there are such splits.

frames       uint8 N x T x H x W x 3
conditions   numbers N x T x A; may be left out
lengths      whole numbers N: how many frames of each sequence count; by default all T
names        A names of the condition values; may be left out
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cvae.data.convert.episodes import BadEpisode, Episode, Found, Step
from cvae.data.convert.pixels import RULE, small
from cvae.data.layout import SPLITS
from cvae.data.tables import MOST
from cvae.errors import UserError, first_line

_NEEDED = "frames (uint8 N x T x H x W x 3), and perhaps conditions (N x T x A), lengths (N), names (A) are needed"
_SMALL = 1 << 26  # bytes of lengths or names
_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError)


def is_npz(source: Path) -> bool:
    return source.is_dir() and (source / "train.npz").is_file()


@dataclass(frozen=True)
class _Array:
    """An array in a file: what its header says, and where its values begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int


@dataclass(frozen=True)
class _Place:
    """A sequence: its file, its number and its length."""

    path: Path
    index: int
    length: int


def find(source: Path) -> Found:
    """All sequences; arrays are read once for their checksums.

    Raises:
        UserError: a file is damaged, or holds something else.
    """
    if not is_npz(source):
        raise UserError(f"{source / 'train.npz'} does not exist: SRC is the folder that holds train.npz")
    files = [path for path in (source / f"{name}.npz" for name in SPLITS) if path.is_file()]
    episodes: list[Episode] = []
    known: dict[Path, tuple[str, ...]] = {}
    for path in files:
        try:
            lengths, known[path] = _look(path)
        except _BROKEN as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}): {_NEEDED}") from error
        split = path.stem
        episodes += [
            Episode(f"sequence_{index}", f"{path} sequence {index}", _Place(path, index, length), split)
            for index, length in enumerate(lengths)
        ]
    if len(set(known.values())) > 1:
        said = ", ".join(f"{path.name}: {len(names)}" for path, names in known.items())
        raise UserError(f"{source}: conditions differ in number or names from file to file ({said}): make them the same")
    names = next(iter(known.values()))
    return Found(episodes, NpzReader(), {"conditions.csv": names} if names else {}, files, [RULE])


def _look(path: Path) -> tuple[list[int], tuple[str, ...]]:
    """The lengths of a file's sequences, and the names of its conditions; ValueError for what is not as needed."""
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} fails its CRC")
        found = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        if "frames" not in found:
            raise ValueError(f"it has no frames, but {', '.join(found) or 'nothing'}")
        frames = _header(archive, "frames")
        if frames.dtype != np.uint8 or len(frames.shape) != 5 or frames.shape[-1] != 3 or 0 in frames.shape:
            raise ValueError(f"frames are {frames.dtype} {' x '.join(map(str, frames.shape))}")
        names: tuple[str, ...] = ()
        if "conditions" in found:
            cond = _header(archive, "conditions")
            if cond.dtype.kind not in "fiu" or len(cond.shape) != 3 or cond.shape[:2] != frames.shape[:2]:
                raise ValueError(f"conditions are {cond.dtype} {' x '.join(map(str, cond.shape))}")
            if cond.shape[2] > MOST:
                raise ValueError(f"there are {cond.shape[2]} conditions a frame, where {MOST} are the most")
            names = tuple(f"condition {column}" for column in range(1, cond.shape[2] + 1))
        if any(found.get(name, 0) > _SMALL for name in ("lengths", "names")):
            raise ValueError("lengths or names are too large")
        with np.load(path, allow_pickle=False) as arrays:
            lengths = arrays["lengths"] if "lengths" in found else np.full(frames.shape[0], frames.shape[1])
            names = _texts(arrays["names"]) if "names" in found else names
    if (
        lengths.shape != frames.shape[:1]
        or lengths.dtype.kind not in "iu"
        or not ((lengths > 0) & (lengths <= frames.shape[1])).all()
    ):
        raise ValueError(f"lengths are not {frames.shape[0]} whole numbers from 1 to {frames.shape[1]}")
    if "conditions" in found and len(names) != cond.shape[2]:
        raise ValueError(f"there are {len(names)} names for {cond.shape[2]} conditions")
    return [int(length) for length in lengths], names if "conditions" in found else ()


def _texts(found: NDArray[Any]) -> tuple[str, ...]:
    if found.ndim != 1 or found.dtype.kind != "U":
        raise ValueError(f"names are {found.dtype} of {found.ndim} dimensions, where a row of texts is needed")
    names = tuple(map(str, found))
    if len(set(names)) < len(names) or not all(name.isprintable() and name.strip() for name in names):
        raise ValueError("names are not texts of one line each, all different")
    return names


def _header(archive: zipfile.ZipFile, name: str) -> _Array:
    with archive.open(f"{name}.npy") as stream:
        array = _header_of(stream)
    size = array.start + int(np.prod(array.shape, dtype=object)) * array.dtype.itemsize
    if archive.getinfo(f"{name}.npy").file_size != size:
        raise ValueError(f"{name} has another size than its header says")
    return array


def _header_of(stream: IO[bytes]) -> _Array:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(stream)
    if by_column:
        raise ValueError("an array is in Fortran order: save np.ascontiguousarray of it")
    if dtype.hasobject:
        raise ValueError("an array holds Python objects")
    return _Array(shape, dtype, stream.tell())


class NpzReader:
    """Reads sequences; see ``episodes.Reader``. An archive stays open: neighbours are then read without beginning anew."""

    def __init__(self) -> None:
        self._archive: zipfile.ZipFile | None = None
        self._path: Path | None = None
        self._streams: dict[str, tuple[IO[bytes], _Array]] = {}

    def steps(self, episode: Episode) -> Iterator[Step]:
        place: _Place = episode.where
        if self._path != place.path:
            self.close()
            self._archive = archive = zipfile.ZipFile(place.path)
            self._path = place.path
            for name in ("frames", "conditions"):
                if f"{name}.npy" in archive.namelist():
                    stream = archive.open(f"{name}.npy")
                    self._streams[name] = stream, _header_of(stream)
        cond_TA = self._sequence("conditions", place) if "conditions" in self._streams else np.zeros((place.length, 0))
        # A frame at a time: sequences may be long, and pictures large.
        stream, array = self._streams["frames"]
        size = int(np.prod(array.shape[2:]))
        stream.seek(array.start + place.index * array.shape[1] * size)
        for cond_A in cond_TA:
            yield small(np.frombuffer(_exactly(stream, size), np.uint8).reshape(array.shape[2:])), cond_A

    def close(self) -> None:
        """Close the archive that is open."""
        for stream, _ in self._streams.values():
            stream.close()
        self._streams = {}
        if self._archive is not None:
            self._archive.close()
        self._archive = self._path = None

    def __del__(self) -> None:
        self.close()

    def _sequence(self, name: str, place: _Place) -> Any:
        stream, array = self._streams[name]
        size = int(np.prod(array.shape[1:])) * array.dtype.itemsize
        stream.seek(array.start + place.index * size)
        return np.frombuffer(_exactly(stream, size), array.dtype).reshape(array.shape[1:])[: place.length]


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise BadEpisode("the file ends within it")
    return content
