"""Damage PNG, CSV, TFRecord, parquet and MP4 files at random, and read them: python scripts/damaged_inputs.py [--cases 5000]

Each file is read as training or a conversion reads it, in a worker with limits. It must be named in one line, or read as
another reader (Pillow, csv, the framing written out once more, pyarrow, PyAV) reads the same bytes. Every changed TFRecord must
be named, and every PNG of which a chunk fails its CRC. A crash of a library is a named file too, and is counted. Cases are
numbered: the same number is the same damage.
"""

from __future__ import annotations

import argparse
import collections
import csv
import io
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cvae.data.convert.bair import BairReader
from cvae.data.convert.episodes import BadEpisode, Cut, Episode
from cvae.data.convert.lerobot import LeRobotReader, Place
from cvae.data.convert.records import Slice, example_class, records
from cvae.data.convert.video import VideoReader
from cvae.data.convert.workers import Lost, each_in_processes
from cvae.data.layout import read_frames, read_table
from cvae.errors import UserError

KINDS = ("png", "csv", "tfrecord", "parquet", "mp4")
FRAMES, FPS = 8, 10.0
SECONDS, MEMORY = 30.0, 1 << 30


# --- sound files, and harm ---------------------------------------------------------------------------------------------


def frame_of(t: int) -> np.ndarray:
    y, x = np.mgrid[0:64, 0:64]
    return np.stack([100 + 80 * np.sin((x + 4 * t) / 9), 90 + y, 60 + (x + y) / 2], axis=-1).astype(np.uint8)


def numbers_of(t: int) -> list[float]:
    return [float(np.float32(t * 0.1 + c)) for c in range(4)]


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame_of(0)).save(file, "PNG")
    return file.getvalue()


def table() -> bytes:
    return "".join(",".join(f"{value:.9g}" for value in numbers_of(t)) + "\n" for t in range(FRAMES)).encode()


def example(k: int) -> bytes:
    made = example_class()()
    for t in range(2):
        feature = made.features.feature
        feature[f"{t}/image_aux1/encoded"].bytes_list.value.append(frame_of(k + t).tobytes())
        feature[f"{t}/action"].float_list.value.extend(numbers_of(t))
        feature[f"{t}/endeffector_pos"].float_list.value.extend(numbers_of(t)[:3])
    return bytes(made.SerializeToString(deterministic=True))


def masked(data: bytes) -> bytes:
    value = google_crc32c.value(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def tfrecord() -> bytes:
    sizes = [struct.pack("<Q", len(example(k))) for k in range(3)]
    return b"".join(size + masked(size) + example(k) + masked(example(k)) for k, size in enumerate(sizes))


def parquet() -> bytes:
    file = io.BytesIO()
    columns = {
        "action": pa.array([numbers_of(t) for t in range(FRAMES)], pa.list_(pa.float32())),
        "cam": pa.array([{"bytes": png(), "path": None}] * FRAMES),
        "episode_index": pa.array([0] * FRAMES, pa.int64()),
    }
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def mp4() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=int(FPS))
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for t in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_of(t), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def harmed(sound: bytes, generator: np.random.Generator) -> tuple[bytes, str]:
    """The bytes after one of several harms, and its name."""
    content, size = bytearray(sound), len(sound)
    place = int(generator.integers(size))
    length = int(generator.integers(1, max(2, size // 4)))
    harm = str(generator.choice(["flip", "flip", "flips", "cut", "zeros", "delete", "insert", "repeat", "extreme", "text"]))
    if harm == "flip":
        content[place] ^= 1 << int(generator.integers(8))
    elif harm == "flips":
        for at in generator.integers(size, size=int(generator.integers(2, 40))):
            content[at] = int(generator.integers(256))
    elif harm == "cut":
        del content[place:]
    elif harm == "zeros":
        content[place : place + length] = bytes(len(content[place : place + length]))
    elif harm == "delete":
        del content[place : place + length]
    elif harm == "insert":
        content[place:place] = generator.integers(0, 256, length, dtype=np.uint8).tobytes()
    elif harm == "repeat":
        content[place:place] = content[place : place + length]
    elif harm == "extreme":
        content[place : place + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x7f"][length % 4]
    else:
        words = [b"nan", b"1e999", b",", b"\n", b"\r", b'"', b"-", b"1e39", b"\0", b"\xff", b" ", b"0x1p3", b"1_0", b"inf"]
        content[place : place + 1] = words[length % len(words)]
    return bytes(content), harm


# --- our reading beside another ----------------------------------------------------------------------------------------


class Named(Exception):
    """The file was named, as it should be."""


def ours(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (UserError, BadEpisode) as error:
        text = str(error)
        if "\n" in text or not text:
            raise AssertionError(f"not one line: {text!r}") from error
        raise Named from error


def steps(reader: Any, episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    """What a conversion would write of an episode."""
    found = list(Cut(shortest=1).sequences(reader.steps(episode)))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


def same(one: Any, other: Any, what: str) -> None:
    assert np.array_equal(one, other), f"{what} are not those of the other reader"


def check_png(path: Path, content: bytes, changed: bool) -> None:
    path = path.with_name("0.png")
    path.write_bytes(content)
    place, sound = 8, True
    while sound and content[place + 4 : place + 8] != b"IEND":
        size = int.from_bytes(content[place : place + 4], "big")
        whole = content[place + 4 : place + 8 + size]
        sound = place + 12 + size < len(content) and struct.pack(">I", zlib.crc32(whole)) == content[place + 8 + size :][:4]
        place += 12 + size
    frames = ours(lambda: read_frames(path.parent, 1))
    if content.startswith(b"\x89PNG"):
        assert sound, "a chunk fails its CRC, and the file is not named"
    same(frames[0], np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), "pixels")


def check_csv(path: Path, content: bytes, changed: bool) -> None:
    path = path.with_name("actions.csv")
    path.write_bytes(content)
    found, _ = ours(lambda: read_table(path.parent, "actions.csv", FRAMES))
    text = content.decode("utf-8-sig")
    rows = [row for row in csv.reader(text.splitlines(), quoting=csv.QUOTE_NONE) if "".join(row).strip()]
    same(found, np.array([[float(cell) for cell in row] for row in rows[:FRAMES]], np.float32), "numbers")


def check_tfrecord(path: Path, content: bytes, changed: bool) -> None:
    path.write_bytes(content)
    known = {example(k): k for k in range(3)}
    read, named = [], 0
    with path.open("rb") as file:
        walk = records(file, Slice(path, 0, len(content), str(path)))
        while True:
            try:
                offset, record = next(walk)
            except StopIteration:
                break
            except BadEpisode:
                named += 1
                break
            try:
                read.append((offset, record, steps(BairReader("aux1"), Episode("a/0", "a", record))))
            except BadEpisode:
                named += 1
    for offset, record, (frames, _) in read:
        data = content[record.start : record.start + record.length]
        assert content[offset : offset + 8] == struct.pack("<Q", len(data)), "a length is not the record's"
        assert data in known, "a record that nobody wrote was read"
        same(frames, np.stack([frame_of(known[data] + t) for t in range(2)]), "pixels")
    assert named or not changed, "changed bytes, and nothing is named"
    if named:
        raise Named


def check_parquet(path: Path, content: bytes, changed: bool) -> None:
    path.write_bytes(content)
    reader = LeRobotReader("cam", "image", FPS, {"action": 4})
    episode = Episode("a", "a", Place(0, path, 0, FRAMES, None, 0.0))
    frames, cond = ours(lambda: steps(reader, episode))
    rows = pq.read_table(path, columns=["action", "cam"], use_threads=False).to_pylist()[:FRAMES]
    same(cond, np.array([row["action"] for row in rows], np.float32), "numbers")
    pictures = [Image.open(io.BytesIO(row["cam"]["bytes"])).convert("RGB") for row in rows]
    same(frames, np.stack([np.asarray(picture) for picture in pictures]), "pixels")


def check_mp4(path: Path, content: bytes, changed: bool) -> None:
    path.write_bytes(content)
    frames, _ = ours(lambda: steps(VideoReader(), Episode("a", "a", path)))
    with av.open(str(path), format="mp4", metadata_errors="ignore") as container:
        container.streams.video[0].thread_count = 1
        own = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if all(frame.shape == (64, 64, 3) for frame in own):
        same(frames, np.stack(own), "pixels")
    else:
        assert len(frames) == len(own), "not as many frames as PyAV decodes"


class Check:
    """A task for a worker: a case, by its number."""

    def __init__(self, folder: Path, sound: dict[str, bytes]) -> None:
        self.folder, self.sound = folder, sound

    def __call__(self, job: int, alive: Callable[[], None]) -> tuple[str, str]:
        """What became of it: ``named``, ``read`` or a fault, and what was done to the file."""
        kind = KINDS[job % len(KINDS)]
        content, harm = harmed(self.sound[kind], np.random.default_rng(job))
        folder = self.folder / str(job)
        folder.mkdir()
        try:
            globals()[f"check_{kind}"](
                folder / f"file.{kind}", content, harm in ("flip", "flips", "extreme") and content != self.sound[kind]
            )
        except Named:
            return "named", harm
        except Exception as error:
            return f"FAULT {type(error).__name__}: {error}", harm
        return "read", harm


def run(cases: int, workers: int | None) -> tuple[dict[str, collections.Counter[str]], list[str]]:
    """The outcomes of each kind of file, and the faults: an empty list is what is wanted."""
    counts: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in KINDS}
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        sound = {kind: globals()[kind if kind != "csv" else "table"]() for kind in KINDS}
        for job, found in enumerate(each_in_processes(Check(Path(folder), sound), range(cases), workers, SECONDS, MEMORY)):
            kind = KINDS[job % len(KINDS)]
            outcome = ("crash named" if "ended" in found.reason else "hang") if isinstance(found, Lost) else found[0]
            if outcome.startswith("FAULT") or outcome == "hang":
                faults.append(f"case {job} ({kind}, {found}): {outcome}")
                outcome = "fault"
            counts[kind][outcome] += 1
    return counts, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--workers", type=int)
    asked = parser.parse_args()
    counts, faults = run(asked.cases, asked.workers)
    for kind, found in counts.items():
        print(f"{kind:9}", ", ".join(f"{outcome} {count}" for outcome, count in sorted(found.items())))
    for line in faults:
        print(line)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
