"""Thousands of damaged pictures and tables: each damage is named, or the file is read as Pillow and csv read the same bytes."""

from __future__ import annotations

import csv
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_sequence
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cvae.data.examine import NOTE, Job, Seen, examine, mark
from cvae.data.layout import TABLES

FEW, MANY = 60, 1200
amounts = pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
# One damage: where (as a share of the file), how, and with which bytes.
damages = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["flip", "cut", "drop", "add"]), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=3,
)


def harmed(content: bytes, damage: list[tuple[float, str, bytes]]) -> bytes:
    for share, how, others in damage:
        at = min(int(share * len(content)), max(len(content) - 1, 0))
        end = {"flip": at + len(others), "cut": len(content), "drop": at + len(others), "add": at}[how]
        middle = {"flip": others, "cut": b"", "drop": b"", "add": others}[how]
        content = content[:at] + middle + content[end:]
    return content


def repeatedly(examples: int, strategy: st.SearchStrategy, test: Callable) -> None:
    """The same examples every time."""
    always = {"derandomize": True, "deadline": None, "database": None, "phases": [Phase.generate]}
    settings(max_examples=examples, suppress_health_check=list(HealthCheck), **always)(given(strategy)(test))()


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """A sequence of two frames."""
    draw_sequence(tmp_path / "train/take/0", 3, frames=2)
    return tmp_path / "train/take/0"


def look(folder: Path) -> tuple[Seen, str]:
    """What is seen of it, and all that is said but notes."""
    seen = examine(Job("train", "take/0", folder, TABLES), lambda: None)
    return seen, "\n".join(problem.what for problem in seen.problems if problem.level != NOTE)


def chunks(content: bytes) -> list[tuple[int, int]]:
    """Where each chunk of a whole PNG begins, and how long its data are."""
    found, at = [], 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        found.append((at, length))
        at += 12 + length
    return found


@amounts
def test_each_chunk_with_a_wrong_byte_is_named(sequence, examples):
    path = sequence / "1.png"
    with Image.open(path) as image:
        image.load()
    said = PngInfo()
    said.add_text("camera", "aux1")
    image.save(path, pnginfo=said)  # a chunk before the pixels, which no reader needs
    content = path.read_bytes()
    places = chunks(content)
    assert len(places) == 4

    def one(chosen: tuple[int, float, int]) -> None:
        number, share, bits = chosen
        at, length = places[number]
        where = at + 4 + min(int(share * (length + 8)), length + 7)  # its type, its data or its checksum
        changed = bytearray(content)
        changed[where] ^= bits
        path.write_bytes(changed)
        kind = bytes(changed[at + 4 : at + 8]).decode("latin-1")
        assert f"chunk {kind!r} at byte {at} fails its CRC" in look(sequence)[1]

    repeatedly(examples, st.tuples(st.integers(0, 3), st.floats(0, 1), st.integers(1, 255)), one)


@amounts
def test_a_damaged_picture_is_named_or_read_as_pillow_reads_it(sequence, examples):
    path = sequence / "1.png"
    content = path.read_bytes()

    def one(damage: list[tuple[float, str, bytes]]) -> None:
        changed = harmed(content, damage)
        path.write_bytes(changed)
        seen, said = look(sequence)
        if "1.png" not in said:
            with Image.open(io.BytesIO(changed)) as image:
                assert seen.marks_T[1] == mark(np.asarray(image.convert("RGB")))

    repeatedly(examples, damages, one)


@amounts
def test_a_damaged_table_is_named_or_read_as_csv_reads_it(sequence, examples):
    path = sequence / "actions.csv"
    content = path.read_bytes()

    def one(damage: list[tuple[float, str, bytes]]) -> None:
        changed = harmed(content, damage)
        path.write_bytes(changed)
        seen, said = look(sequence)
        if "actions.csv" not in said:
            text = io.StringIO(changed.decode("utf-8-sig"), newline="")
            rows = [row for row in csv.reader(text) if "".join(row).strip()][:2]
            assert (seen.cond_TA[:, :4] == np.array([[float(cell) for cell in row] for row in rows], np.float32)).all()

    signs = [b"0", b"_", b"e", b"-", b",", b"\n", b"\r", b'"', b"\x0b", b"\x0c", b"\x1c", b" ", b"nan", b"\xc2\x85"]
    figures = st.sampled_from(signs)
    aimed = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["flip", "add"]), figures), min_size=1, max_size=2)
    repeatedly(examples, st.one_of(damages, aimed), one)


def test_a_picture_that_would_fill_the_memory_is_refused_by_its_size(sequence):
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    (sequence / "1.png").write_bytes(content)
    assert "1.png" in look(sequence)[1]
