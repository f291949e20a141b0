"""BAIR robot pushing: TFRecords of 30 frames from two cameras, with actions and gripper positions; unpacked or in its tar."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cvae.console import natural_order, progress
from cvae.data.convert.episodes import BadEpisode, Episode, Found, Step
from cvae.data.convert.records import Record, Slice, read_example, read_record, records
from cvae.data.layout import IMAGE_SIZE, TABLES
from cvae.errors import UserError, first_line

CAMERAS = ("aux1", "main")
_ENDINGS = (".tfrecords", ".tfrecord")
_SPLITS = {"train": "train", "test": "test", "val": "validate", "validate": "validate", "validation": "validate"}
_BYTES = IMAGE_SIZE * IMAGE_SIZE * 3


def is_bair(source: Path) -> bool:
    if source.is_dir():
        return any(path.suffix in _ENDINGS for path in source.rglob("*"))
    return source.is_file() and tarfile.is_tarfile(source)


def find(source: Path, camera: str | None) -> Found:
    """All records of the source. Only their framing is read.

    Raises:
        UserError: there are none, the camera is unknown, or the tar cannot be read.
    """
    camera = camera or CAMERAS[0]
    if camera not in CAMERAS:
        raise UserError(f"--camera is {camera!r}: BAIR has {' and '.join(CAMERAS)}")
    parts = _in_folder(source) if source.is_dir() else _in_tar(source)
    if not parts:
        raise UserError(f"{source} holds no TFRecords (*.tfrecords): give the folder or the tar of the data set")
    episodes: list[Episode] = []
    lost: list[str] = []
    with progress(f"looking for records in {source}", len(parts), "files") as advance:
        for part in parts:
            split, folder = _place(part.inside)
            try:
                with part.path.open("rb") as file:
                    for number, (offset, record) in enumerate(records(file, part)):
                        origin = f"{part.label} at offset {offset}"
                        episodes.append(Episode(f"{folder}/{number}", origin, record, split))
            except BadEpisode as error:
                lost.append(str(error))
            except OSError as error:
                lost.append(f"{part.label}: {error.strerror or error}")
            advance(1)
    rules = [
        f"Camera {camera}: frames are the source's own 64x64 pixels.",
        "Row t of actions.csv and endeffector_positions.csv is the record's action and endeffector_pos of frame t.",
    ]
    files = sorted({part.path for part in parts})
    return Found(episodes, BairReader(camera), TABLES, files, rules, lost, {"camera": camera})


class BairReader:
    """Reads records; see ``episodes.Reader``."""

    def __init__(self, camera: str) -> None:
        self.camera = camera

    def steps(self, episode: Episode) -> Iterator[Step]:
        """Frames and conditions (A = 7) of a record.

        Raises:
            BadEpisode: it fails its CRC, or is not what a record of this data set is.
        """
        record: Record = episode.where
        with record.path.open("rb") as file:
            features = read_example(read_record(file, record))
        ending = f"/image_{self.camera}/encoded"
        frames = sum(key.endswith(ending) for key in features)
        if not frames:
            raise BadEpisode(f"the record has no frames of camera {self.camera} (0{ending})")
        for t in range(frames):
            pixels = self._values(features, f"{t}{ending}", "bytes_list", 1)[0]
            if len(pixels) != _BYTES:
                raise BadEpisode(f"the record's {t}{ending} has {len(pixels)} bytes, where {_BYTES} are needed")
            action = self._values(features, f"{t}/action", "float_list", 4)
            position = self._values(features, f"{t}/endeffector_pos", "float_list", 3)
            frame_HWC = np.frombuffer(pixels, np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE, 3)
            yield frame_HWC, np.array([*action, *position], np.float64)

    def _values(self, features: Any, key: str, kind: str, count: int) -> Any:
        if key not in features:  # asking for what is not there would add it
            raise BadEpisode(f"the record has no {key}")
        values = getattr(features[key], kind).value
        if len(values) != count:
            raise BadEpisode(f"the record's {key} has {len(values)} values, where {count} are needed")
        return values


def _in_folder(source: Path) -> list[Slice]:
    found = [path for path in source.rglob("*") if path.suffix in _ENDINGS and path.is_file()]
    found.sort(key=lambda path: natural_order(str(path)))
    return [Slice(path, 0, path.stat().st_size, str(path), str(path.relative_to(source))) for path in found]


def _in_tar(source: Path) -> list[Slice]:
    try:
        with tarfile.open(source, "r:") as archive:
            members = [each for each in archive if each.isreg() and not each.issparse() and each.name.endswith(_ENDINGS)]
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(
            f"{source} cannot be read as an uncompressed tar ({first_line(error)}): unpack it, and give the folder"
        ) from error
    size = source.stat().st_size
    parts = [Slice(source, each.offset_data, each.size, f"{source}:{each.name}", each.name) for each in members]
    if cut := next((part for part in parts if part.start + part.size > size), None):
        raise UserError(f"{cut.label} goes on after the end of {source}: the tar is not whole, get it again")
    return sorted(parts, key=lambda part: natural_order(part.label))


def _place(inside: str) -> tuple[str, str]:
    """The split that a file's folders tell, train where they tell none, and the file's name for its sequences."""
    path = Path(inside)
    split = next((_SPLITS[part] for part in reversed(path.parts[:-1]) if part in _SPLITS), "train")
    return split, path.stem
