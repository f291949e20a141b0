"""LeRobot datasets v3 (many episodes in a parquet file and an MP4) and v2.1 (a file of each an episode)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cvae.data.convert.episodes import BadEpisode, Episode, Found, Step
from cvae.data.convert.pixels import RULE, picture, small
from cvae.data.convert.video import decoded, pyav
from cvae.data.convert.workers import Lost, each_in_processes
from cvae.data.tables import MOST
from cvae.errors import UserError, first_line
from cvae.files import Unreadable, read, read_json

_LINES = 1 << 28  # bytes of v2.1's list of episodes
_BATCH = 64  # rows, of which an image column may hold a picture each
_SPLITS = {"val": "validate", "validate": "validate", "validation": "validate", "test": "test"}
_AGAIN = "get the data set again"


@dataclass(frozen=True)
class Place:
    """Where an episode lies: rows of a parquet file, and frames of an MP4 from a time on."""

    number: int
    rows: Path
    first: int
    length: int
    video: Path | None
    since: float


def is_lerobot(source: Path) -> bool:
    return source.is_dir() and (source / "meta" / "info.json").is_file()


def find(source: Path, camera: str | None, action: str | None, state: str | None) -> Found:
    """All episodes that the data set lists.

    Args:
        camera: the name of a video or image column; None if there is only one.
        action, state: the columns of both tables; ``none`` for no such table, None for LeRobot's usual names.

    Raises:
        UserError: the lists of the data set cannot be read, it has no such column, or a library is not installed.
    """
    pyarrow()
    try:
        info = read_json(source / "meta", "info.json")
        features, fps, version = info["features"], float(info["fps"]), str(info["codebase_version"])
        kinds = {name: str(feature["dtype"]) for name, feature in features.items()}
    except (FileNotFoundError, Unreadable, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source / 'meta/info.json'} cannot be read ({first_line(error)}): {_AGAIN}") from error
    if not re.match(r"v?(3\.|2\.1)", version) or not 0 < fps < 10_000:
        raise UserError(f"{source} has version {version} and {fps} frames a second: versions 3 and 2.1 are read")
    camera = _camera(source, {name: kind for name, kind in kinds.items() if kind in ("video", "image")}, camera)
    if kinds[camera] == "video":
        pyav()
    columns = {
        "actions.csv": _column(source, kinds, action, "action", "--action"),
        "states.csv": _column(source, kinds, state, "observation.state", "--state"),
    }
    columns = {file: name for file, name in columns.items() if name}
    tables = {file: _names(source, str(name), features[name]) for file, name in columns.items()}
    of_video = camera if kinds[camera] == "video" else None
    places = _episodes_v2(source, info, of_video) if "2." in version[:3] else _episodes_v3(source, of_video)
    splits = _splits(info)
    episodes = [
        Episode(f"episode_{place.number}", f"{place.video or place.rows} episode {place.number}", place, splits(place.number))
        for place in places
    ]
    if not episodes:
        raise UserError(f"{source} lists no episodes: {_AGAIN}")
    files = sorted({path for place in places for path in (place.rows, place.video) if path})
    absent = next((path for path in files if not path.is_file()), None)
    if absent:
        raise UserError(f"{absent} is missing, which {source / 'meta'} lists: {_AGAIN}")
    lists = sorted(path for path in (source / "meta").rglob("*") if path.is_file())
    reader = LeRobotReader(camera, kinds[camera], fps, {str(name): len(tables[file]) for file, name in columns.items()})
    rules = [f"Camera {camera}. {RULE}", *(f"{file} is the column {name}." for file, name in columns.items())]
    options = {"camera": camera, "action": columns.get("actions.csv"), "state": columns.get("states.csv")}
    return Found(episodes, reader, tables, [*lists, *files], rules, options=options)


class LeRobotReader:
    """Reads episodes; see ``episodes.Reader``.

    Args:
        camera, kind: the column with pictures, and whether it is a ``video`` or an ``image``.
        fps: frames a second.
        columns: the columns of numbers, and how many values each has.
    """

    def __init__(self, camera: str, kind: str, fps: float, columns: dict[str, int]) -> None:
        self.camera, self.kind, self.fps, self.columns = camera, kind, fps, columns

    def steps(self, episode: Episode) -> Iterator[Step]:
        place: Place = episode.where
        frames = self._frames(place) if place.video else None
        for row in self._rows(place):
            frame_HWC = next(frames) if frames else picture(self._bytes(row[self.camera]))
            yield frame_HWC, np.array([value for name in self.columns for value in self._values(row, name)], np.float64)

    def _rows(self, place: Place) -> Iterator[dict[str, Any]]:
        """The rows of an episode, a few at a time."""
        names = ["episode_index", *self.columns, *([self.camera] if self.kind == "image" else [])]
        seen = 0
        with pyarrow().ParquetFile(place.rows, page_checksum_verification=True) as file:
            groups, ahead, skip = list[int](), 0, 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if ahead < place.first + place.length and ahead + count > place.first:
                    skip = skip if groups else place.first - ahead
                    groups.append(group)
                ahead += count
            for batch in file.iter_batches(_BATCH, row_groups=groups, columns=names):
                drop = min(skip, batch.num_rows)
                skip -= drop
                part = batch.slice(drop, place.length - seen)
                for row in part.to_pylist():
                    if row["episode_index"] != place.number:
                        raise BadEpisode(f"{place.rows.name} holds rows of episode {row['episode_index']} in its place")
                    yield row
                seen += part.num_rows
                if seen == place.length:
                    return
        raise BadEpisode(f"{place.rows.name} holds {seen} of its {place.length} rows")

    def _frames(self, place: Place) -> Iterator[Any]:
        """The frames of an episode from its MP4, by their times."""
        wanted = 0
        assert place.video is not None
        for time, frame_HWC in decoded(place.video, place.since):
            number = -1 if time is None else round((time - place.since) * self.fps)
            if number > wanted:
                break
            if number == wanted:
                yield small(frame_HWC)
                wanted += 1
        raise BadEpisode(f"the video has no frame {wanted} of its {place.length}")

    def _values(self, row: dict[str, Any], name: str) -> list[float]:
        value = row[name]
        values = list(value) if isinstance(value, list) else [value]
        if len(values) != self.columns[name] or None in values:
            raise BadEpisode(f"a row has {len(values)} values in {name}, where {self.columns[name]} numbers are needed")
        return values

    def _bytes(self, value: Any) -> bytes:
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise BadEpisode(f"a row has no picture in {self.camera}")
        return content


def pyarrow() -> Any:
    """pyarrow.parquet; UserError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("LeRobot datasets need pyarrow: pip install 'cvae[data]'") from error
    return pyarrow.parquet


# --- what meta/ says ---------------------------------------------------------------------------------------------------


class _ListEpisodes:
    """A task for a worker: the columns of meta/episodes that tell where episodes lie. A damaged file may crash its reader."""

    def __init__(self, camera: str | None) -> None:
        self.camera = camera

    def __call__(self, job: Path, alive: Callable[[], None]) -> list[dict[str, Any]] | str:
        names = ["episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index"]
        if self.camera:
            names += [f"videos/{self.camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        try:
            with pyarrow().ParquetFile(job) as file:
                rows = [row for batch in file.iter_batches(columns=names) for row in batch.to_pylist()]
            return [{name: float(row[name]) if "timestamp" in name else int(row[name]) for name in names} for row in rows]
        except Exception as error:
            return first_line(error)


def _episodes_v3(source: Path, camera: str | None) -> list[Place]:
    files = sorted((source / "meta" / "episodes").rglob("*.parquet"))
    rows: list[dict[str, Any]] = []
    for path, found in zip(files, each_in_processes(_ListEpisodes(camera), files, 1), strict=True):
        if isinstance(found, (str, Lost)):
            raise UserError(f"{path} cannot be read ({found.reason if isinstance(found, Lost) else found}): {_AGAIN}")
        rows += found
    firsts: dict[tuple[int, int], int] = {}
    for row in rows:
        key = row["data/chunk_index"], row["data/file_index"]
        firsts[key] = min(firsts.get(key, row["dataset_from_index"]), row["dataset_from_index"])
    places = []
    for row in rows:
        key = row["data/chunk_index"], row["data/file_index"]
        data = source / "data" / "chunk-{:03d}/file-{:03d}.parquet".format(*key)
        video, since = None, 0.0
        if camera:
            chunk, number = (row[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index"))
            video = source / "videos" / camera / f"chunk-{chunk:03d}/file-{number:03d}.mp4"
            since = float(row[f"videos/{camera}/from_timestamp"])
        first = row["dataset_from_index"] - firsts[key]
        places.append(Place(row["episode_index"], data, first, row["length"], video, since))
    return places


def _episodes_v2(source: Path, info: dict[str, Any], camera: str | None) -> list[Place]:
    places = []
    path = source / "meta" / "episodes.jsonl"
    size = info.get("chunks_size", 1000)
    try:
        for line in read(source / "meta", path.name, _LINES).decode().splitlines():
            entry = json.loads(line)
            number, length = int(entry["episode_index"]), int(entry["length"])
            chunk, name = f"chunk-{number // size:03d}", f"episode_{number:06d}"
            video = source / "videos" / chunk / camera / f"{name}.mp4" if camera else None
            places.append(Place(number, source / "data" / chunk / f"{name}.parquet", 0, length, video, 0.0))
    except (FileNotFoundError, Unreadable, ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): {_AGAIN}") from error
    return places


def _camera(source: Path, cameras: dict[str, str], wanted: str | None) -> str:
    said = ", ".join(f"{name} ({kind})" for name, kind in cameras.items()) or "none"
    fits = [name for name in cameras if wanted in (None, name, name.rpartition(".")[2])]
    if len(fits) != 1 or re.search(r"(^|/)\.\.(/|$)|^/|\0", fits[0]):
        raise UserError(f"choose one of the cameras of {source} with --camera: {said}")
    return fits[0]


def _column(source: Path, kinds: dict[str, str], wanted: str | None, usual: str, option: str) -> str | None:
    numbers = [name for name, kind in kinds.items() if re.match(r"float|int|bool", kind)]
    if wanted == "none" or (wanted is None and usual not in numbers):
        return None
    name = wanted or usual
    if name not in numbers:
        raise UserError(f"{option} {name}: {source} has no such column of numbers; choose {', '.join(numbers)} or none")
    return name


def _names(source: Path, column: str, feature: dict[str, Any]) -> tuple[str, ...]:
    """The names of a column's values; numbers where the data set does not name each."""
    try:
        width = math.prod(int(size) for size in feature["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source / 'meta/info.json'} gives {column} no shape: {_AGAIN}") from error
    if not 1 <= width <= MOST:
        raise UserError(f"{source / 'meta/info.json'} gives {column} {width} values: from 1 to {MOST} are read")
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for part in names.values() for name in (part if isinstance(part, list) else [part])]
    if isinstance(names, list) and len(names) == width:
        return tuple(map(str, names))
    return tuple(f"{column} {number}" for number in range(1, width + 1))


def _splits(info: dict[str, Any]) -> Callable[[int], str | None]:
    """Which split the data set puts an episode into; None where it has train alone."""
    ranges: list[tuple[str, int, int]] = []
    told = info.get("splits")
    for name, said in told.items() if isinstance(told, dict) else ():
        match = re.fullmatch(r"(\d+):(\d+)", str(said))
        if name in _SPLITS and match:
            ranges.append((_SPLITS[name], int(match[1]), int(match[2])))

    def split(number: int) -> str | None:
        return next((name for name, first, end in ranges if first <= number < end), None)

    return split
