"""What is read from the course layout, in which order, and what is passed over."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cvae.data.layout import read_frame, read_frames, read_table
from cvae.data.listing import list_split
from cvae.data.store import VideoData
from cvae.errors import UserError

GREY_HW = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
RGB_HWC = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def sequence(folder: Path, frames: int = 2) -> Path:
    folder.mkdir(parents=True)
    for t in range(frames):
        Image.new("RGB", (64, 64), (t, 0, 0)).save(folder / f"{t}.png")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sequences, with tables, in one trajectory folder."""
    for k in range(2):
        folder = sequence(tmp_path / f"course/train/take/{k}")
        (folder / "actions.csv").write_text("1,2,3,4\n5,6,7,8\n")
    return tmp_path / "course"


def names(root: Path) -> list[str]:
    return [str(folder.relative_to(root / "train")) for folder in list_split(root, "train").folders]


# ------------------------------------------------------------------------------------------------------- order


def test_sequences_come_in_natural_order(tmp_path):
    for traj in ("traj_10_to_19", "traj_2_to_9", "other", "traj_100_to_109"):
        for k in ("10", "2", "0", "1"):
            sequence(tmp_path / "train" / traj / k, 1)
    trajs = ("other", "traj_2_to_9", "traj_10_to_19", "traj_100_to_109")
    assert names(tmp_path) == [f"{traj}/{k}" for traj in trajs for k in ("0", "1", "2", "10")]


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    folder = sequence(tmp_path / "train/a/0", 12)
    assert list_split(tmp_path, "train").lengths == [12]
    assert read_frames(folder, 12)[:, 0, 0, 0].tolist() == list(range(12))


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    """Names that differ in leading zeros alone are as natural one way as the other: still it must be one way."""
    for k in ("1", "01", "001", "1b", "b1", "b01"):
        sequence(tmp_path / "train/take" / k, 1)
    listed, real = [], os.scandir
    for backwards in (False, True):

        @contextlib.contextmanager
        def scandir(path: Any, backwards: bool = backwards) -> Iterator[Iterator[Any]]:
            with real(path) as entries:
                yield iter(sorted(entries, key=lambda entry: entry.name, reverse=backwards))

        monkeypatch.setattr(os, "scandir", scandir)
        listed.append((names(tmp_path), list_split(tmp_path, "train").fingerprint))
    assert listed[0] == listed[1]


# ---------------------------------------------------------------------------------------------- what is ignored


@pytest.mark.parametrize(
    "foreign",
    [
        "train/take/0/.DS_Store",
        "train/take/0/._0.png",
        "train/take/0/.2.png",
        "train/take/0/Thumbs.db",
        "train/take/0/preview.png",
        "train/take/0/².png",
        "train/take/0/notes.csv",
        "train/take/0/2.csv",
        "train/take/0/masks/2.png",
        "train/take/README.txt",
        "train/README.txt",
        "README.txt",
        "train/.cache/0/0.png",
        "train/take/.trash/0.png",
        "train/take/empty/notes.txt",
    ],
)
def test_hidden_and_foreign_files_are_passed_over(root, foreign):
    (root / foreign).parent.mkdir(parents=True, exist_ok=True)
    (root / foreign).write_text("not a picture")
    listing = list_split(root, "train")
    assert (names(root), listing.lengths) == (["take/0", "take/1"], [2, 2])
    assert read_frames(listing.folders[0], 2)[:, 0, 0, 0].tolist() == [0, 1]


@pytest.mark.parametrize("name", ["take 1", "Küche", "a,b;c", "²", "1²", "٣", "-", "#1", os.fsdecode(b"\xff\xfe")], ids=ascii)
def test_folder_names_are_free(tmp_path, name):
    folder = sequence(tmp_path / "train" / name / name)
    listing = list_split(tmp_path, "train")
    assert (listing.folders, listing.lengths) == ([folder], [2])


# ---------------------------------------------------------------------------------------------------- pictures

PICTURES = [
    ("L", np.repeat(GREY_HW[:, :, None], 3, axis=2), lambda: Image.fromarray(GREY_HW), {}),
    ("LA", np.repeat(GREY_HW[:, :, None], 3, axis=2), lambda: Image.merge("LA", [Image.fromarray(GREY_HW)] * 2), {}),
    ("1", np.uint8(255) * (RGB_HWC[:, :, :1] > 99).repeat(3, 2), lambda: Image.fromarray(RGB_HWC[:, :, 0] > 99), {}),
    ("RGB", RGB_HWC, lambda: Image.fromarray(RGB_HWC), {}),
    ("RGBA", RGB_HWC, lambda: Image.merge("RGBA", [*Image.fromarray(RGB_HWC).split(), Image.fromarray(GREY_HW)]), {}),
    ("RGB with a transparent colour", RGB_HWC, lambda: Image.fromarray(RGB_HWC), {"transparency": (1, 2, 3)}),
    ("P", 255 - GREY_HW[:, :, None].repeat(3, 2), lambda: palette(), {}),
    ("P with a transparent colour", 255 - GREY_HW[:, :, None].repeat(3, 2), lambda: palette(), {"transparency": 3}),
    ("P with alpha", 255 - GREY_HW[:, :, None].repeat(3, 2), lambda: palette(), {"transparency": bytes(range(256))}),
    ("16 bits", GREY_HW[:, :, None].repeat(3, 2), lambda: Image.fromarray(GREY_HW.astype(np.uint16) * 257), {}),
]


def palette() -> Image.Image:
    """Indices 0 .. 255 into a palette that runs backwards, so that an index is no colour."""
    image = Image.fromarray(GREY_HW)
    image.putpalette([255 - i // 3 for i in range(768)])
    return image


@pytest.mark.parametrize(("expected", "make", "options"), [case[1:] for case in PICTURES], ids=[case[0] for case in PICTURES])
def test_every_kind_of_png_is_read_as_rgb(
    tmp_path: Path, expected: np.ndarray, make: Callable[[], Image.Image], options: dict[str, Any]
) -> None:
    make().save(tmp_path / "0.png", **options)
    frames_THWC = read_frames(tmp_path, 1)
    assert (frames_THWC.shape, frames_THWC.dtype) == ((1, 64, 64, 3), np.uint8)
    assert (frames_THWC[0] == expected).all()


def huge_png(width: int, height: int) -> bytes:
    """A header that promises a picture of that size, for which Pillow has an exception of its own."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BROKEN = {"empty": b"", "head": b"\x89PNG\r\n\x1a\n", "big": huge_png(9_500, 9_500), "huge": huge_png(60_000, 60_000)}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_picture_is_named(tmp_path, content):
    (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_frames(tmp_path, 1)
    assert str(tmp_path / "0.png") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["1.png", "actions.csv"])
def test_a_link_to_nowhere_is_named(root, name):
    """As in a data set whose large files were not fetched."""
    path = root / "train/take/1" / name
    path.unlink()
    path.symlink_to("gone")
    with pytest.raises(UserError) as caught:
        VideoData(str(root), condition="actions").train  # noqa: B018
    assert str(path) in str(caught.value)


# ------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("spelling", ["endeffector_positions.csv", "endeffecter_positions.csv"])
def test_both_spellings_of_positions_are_read(tmp_path, spelling):
    (tmp_path / spelling).write_text("1,2,3\n4,5,6\n")
    found = read_table(tmp_path, "endeffector_positions.csv", 2)
    assert found is not None
    table, _ = found
    assert table.dtype == np.float32
    assert table.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert read_table(tmp_path, "actions.csv", 2) is None  # there are no actions


@pytest.mark.parametrize(
    "text",
    [
        b"0.1,-2,3e-2,4\n5,6,7,8\n",
        b"\xef\xbb\xbf0.1,-2,3e-2,4\n5,6,7,8\n",
        b"0.1,-2,3e-2,4\r\n5,6,7,8\r\n",
        b"\xef\xbb\xbf0.1,-2,3e-2,4\r\n5,6,7,8\r\n\r\n",
        b"0.1,-2,3e-2,4\n5,6,7,8\n\n  \n",
        b"0.1,-2,3e-2,4\n5,6,7,8",
        b"0.1, -2, 3e-2, 4\n 5 , 6 , 7 , 8 \n",
        b"0.1,-2,3e-2,4\n5,6,7,8\n9,9,9,9\n",
        b"0.1,-2,3e-2,4\n5,6,7,8\nafter the last frame\n",
    ],
    ids=["plain", "BOM", "CRLF", "BOM and CRLF", "blank lines", "no newline", "spaces", "extra row", "extra text"],
)
def test_tables_from_other_programs_are_read(tmp_path, text):
    (tmp_path / "actions.csv").write_bytes(text)
    found = read_table(tmp_path, "actions.csv", 2)
    assert found is not None
    assert found[0].tolist() == np.array([[0.1, -2, 0.03, 4], [5, 6, 7, 8]], np.float32).tolist()


@pytest.mark.parametrize("text", ["", "1,2,3,4\n", "1,2,3,4\n\n  \n"], ids=["no rows", "a row", "blank lines"])
def test_missing_rows_are_named(tmp_path, text):
    (tmp_path / "actions.csv").write_text(text)
    with pytest.raises(UserError, match=f"{text.count('1')} rows for 2 frames") as caught:
        read_table(tmp_path, "actions.csv", 2)
    assert str(tmp_path / "actions.csv") in str(caught.value)


@pytest.mark.parametrize("cell", ["inf", "-inf", "NaN", "", "1e39", "1 2"])
def test_a_value_that_is_no_finite_number_is_named(tmp_path, cell):
    (tmp_path / "actions.csv").write_text(f"1,2,3,4\n1,{cell},3,4\n")
    with pytest.raises(UserError, match="row 2") as caught:
        read_table(tmp_path, "actions.csv", 2)
    assert str(tmp_path / "actions.csv") in str(caught.value)
    assert repr(cell) in str(caught.value)


@pytest.mark.parametrize("content", ["1,2,3,4\n".encode("utf-16"), b"\xff\xfe\x00\x01"])
def test_a_table_that_is_no_text_is_named(tmp_path, content):
    (tmp_path / "actions.csv").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_table(tmp_path, "actions.csv", 1)
    assert str(tmp_path / "actions.csv") in str(caught.value)


# ------------------------------------------------------------------------------------------------- fingerprint


def grow(root: Path) -> None:
    with (root / "train/take/1/actions.csv").open("a") as file:
        file.write("9,9,9,9\n")


def grow_with_an_old_time(root: Path) -> None:
    path = root / "train/take/1/actions.csv"
    before = path.stat()
    grow(root)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(root: Path) -> None:
    os.utime(root / "train/take/0/1.png", ns=(0, 12345))


def add_frame(root: Path) -> None:
    Image.new("RGB", (64, 64)).save(root / "train/take/1/2.png")


def rename_sequence(root: Path) -> None:
    (root / "train/take/1").rename(root / "train/take/2")


def rename_folder(root: Path) -> None:
    (root / "train/take").rename(root / "train/taken")


def rename_table(root: Path) -> None:
    (root / "train/take/0/actions.csv").rename(root / "train/take/0/action.csv")


def remove_table(root: Path) -> None:
    (root / "train/take/0/actions.csv").unlink()


def swap_sequences(root: Path) -> None:
    a, b = root / "train/take/0", root / "train/take/1"
    os.utime(a / "0.png", ns=(0, 1))
    os.utime(b / "0.png", ns=(0, 2))
    a.rename(root / "aside")
    b.rename(a)
    (root / "aside").rename(b)


@pytest.mark.parametrize(
    "change",
    [grow, grow_with_an_old_time, touch, add_frame, rename_sequence, rename_folder, rename_table, remove_table, swap_sequences],
    ids=lambda change: change.__name__,
)
def test_the_fingerprint_changes_with_the_files(root, change):
    before = list_split(root, "train").fingerprint
    assert list_split(root, "train").fingerprint == before
    change(root)
    assert list_split(root, "train").fingerprint != before


def test_the_fingerprint_does_not_depend_on_the_place_or_on_other_splits(root, tmp_path):
    before = list_split(root, "train").fingerprint
    sequence(root / "test/take/0")
    root.rename(tmp_path / "elsewhere")
    assert list_split(tmp_path / "elsewhere", "train").fingerprint == before
    (tmp_path / "elsewhere").rename(root)
    (tmp_path / "link").symlink_to(root)
    assert list_split(tmp_path / "link", "train").fingerprint == before


@pytest.mark.parametrize("name", ["3.png", "actions.csv"])
def test_a_file_far_larger_than_a_frame_or_table_is_named(tmp_path: Path, name: str) -> None:
    """A sparse one takes no space, and would take as much memory as it says."""
    sequence(tmp_path / "1", 5)
    with (tmp_path / "1" / name).open("a+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=rf"{name} .*it has more than 64 MiB"):
        read_table(tmp_path / "1", name, 5) if name.endswith("csv") else read_frame(tmp_path / "1" / name)
