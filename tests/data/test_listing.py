"""Sequences whose frames are named in any of the known ways are read, and what is not read is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cvae.data.layout import Naming, read_frames
from cvae.data.listing import list_split
from cvae.data.store import VideoData
from cvae.data.synthetic import synthetic_push
from cvae.errors import UserError


def sequence(folder: Path, names: list[str]) -> Path:
    """Frames whose red value is their place in the list."""
    folder.mkdir(parents=True)
    for t, name in enumerate(names):
        Image.new("RGB", (64, 64), (t, 0, 0)).save(folder / name, quality=100)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sequence of three frames."""
    sequence(tmp_path / "course/train/take/0", ["0.png", "1.png", "2.png"])
    return tmp_path / "course"


WAYS = {
    "plain": "{}.png",
    "padded": "{:04d}.png",
    "padded with too few digits": "{:02d}.png",
    "prefix": "frame_{}.png",
    "prefix with digits": "cam2-{:03d}.jpg",
    "jpg": "{}.jpg",
    "jpeg": "im{:05d}.jpeg",
    "prefix of any letters": "Küche [0]\n{}.png",
}


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_frames_are_read_in_order_whatever_their_way(tmp_path, way, first):
    folder = sequence(tmp_path / "train/take/0", [way.format(first + t) for t in range(12)])
    (folder / "preview.png").write_text("a picture without a number")
    (folder / ".0.png").write_text("hidden")
    listing = list_split(tmp_path, "train")
    assert (listing.lengths, listing.skipped) == ([12], {})
    frames_THWC = read_frames(folder, 12, listing.namings[0])
    assert abs(frames_THWC[:, 0, 0, 0].astype(int) - range(12)).max() <= (0 if way.endswith("png") else 2)  # JPEG rounds


def test_numbers_may_outgrow_their_width(tmp_path):
    sequence(tmp_path / "train/take/0", [f"{t:02d}.png" for t in range(98, 102)])
    for t in range(98):
        (tmp_path / f"train/take/0/{t:02d}.png").touch()
    assert list_split(tmp_path, "train").namings == [Naming(width=2)]
    assert list_split(tmp_path, "train").lengths == [102]


NO_SEQUENCES = {
    "two extensions": (["0.png", "1.png", "2.jpg"], "0.png and 2.jpg"),
    "two prefixes": (["0.png", "1.png", "frame2.png"], "0.png and frame2.png"),
    "both ways": (["0.png", "1.png", "0.jpg", "1.jpg"], "0.jpg and 0.png"),
    "two widths": (["0.png", "01.png"], "0.png and 01.png"),
    "no number": (["first.png", "last.png"], "no frames: first.png has no number"),
    "another extension": (["0.bmp", "1.bmp"], "no frames"),
    "capitals": (["0.PNG", "1.PNG"], "no frames"),
    "nothing": ([], "no frames"),
    "a gap": (["a0.png", "a2.png"], "a1.png is missing"),
    "a late start": (["007.jpg", "008.jpg"], "000.jpg is missing"),
}


@pytest.mark.parametrize(("names", "why"), NO_SEQUENCES.values(), ids=NO_SEQUENCES)
def test_a_folder_that_is_no_sequence_is_told_with_the_reason(root, names, why, capsys):
    sequence(root / "train/take/1", names)
    listing = list_split(root, "train")
    assert listing.lengths == [3]
    assert why in listing.skipped.pop("take/1")
    assert listing.skipped == {}
    VideoData(str(root), condition="none").train  # noqa: B018
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:"))
    for part in (f"{root / 'train'}: 1 folders are not read as sequences: take/1 (", why):
        assert part in line


@pytest.mark.parametrize(
    "make",
    [
        lambda train: (train / "take/1").symlink_to("gone"),
        lambda train: (train / "other").symlink_to("gone"),
        lambda train: (train / "take/1").symlink_to("1"),
        lambda train: (train / "other").symlink_to("other"),
        lambda train: (train / "other").mkdir(),
        lambda train: sequence(train / "other", ["0.png"]),
        lambda train: (train / "take/1/deeper").mkdir(parents=True),
        lambda train: (train / "take/1/0.png").mkdir(parents=True),
        lambda train: ((train / "take/1").mkdir(), os.mkfifo(train / "take/1/0.png")),
    ],
    ids=["dangling", "dangling above", "loop", "loop above", "empty", "too flat", "too deep", "a folder for a frame", "a pipe"],
)
def test_whatever_lies_where_a_sequence_may_be_is_told(root, make: Callable[[Path], object]):
    make(root / "train")
    listing = list_split(root, "train")
    assert listing.lengths == [3]
    (name,) = listing.skipped
    assert name in ("take/1", "other")


@pytest.mark.parametrize("which", ["train/take/1", "train/other"])
def test_a_folder_that_cannot_be_read_is_told(root, monkeypatch, which):
    """Whoever runs the tests may be allowed to read everything."""
    sequence(root / which, ["0.png"])
    real = os.scandir

    def scandir(path):
        if str(path) == str(root / which):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_split(root, "train")
    assert (listing.lengths, listing.skipped) == ([3], {which.removeprefix("train/"): "Permission denied"})


def test_the_first_three_are_named_or_all(root, capsys, monkeypatch):
    for k in range(1, 6):
        (root / f"train/take/{k}").mkdir()
    VideoData(str(root), condition="none").train  # noqa: B018
    said = capsys.readouterr().out
    assert "5 folders are not read as sequences: take/1 (no frames), take/2 (no frames), take/3 (no frames) ..." in said
    assert "CVAE_NAME_ALL=1" in said
    monkeypatch.setenv("CVAE_NAME_ALL", "1")
    VideoData(str(root), condition="none").train  # noqa: B018, told again though it is packed
    said = capsys.readouterr().out
    assert all(f"take/{k} (no frames)" in said for k in range(1, 6))


def test_nothing_but_folders_that_are_no_sequences_is_an_error_with_the_reason(tmp_path):
    sequence(tmp_path / "train/take/0", ["first.png"])
    with pytest.raises(UserError, match=r"holds no sequences \(take/0: no frames: first.png has no number\): expected "):
        list_split(tmp_path, "train")


@pytest.mark.parametrize("names", [["0.png", "2.png"], ["2.png", "3.png"], ["1.png", "3.png"]])
def test_a_gap_in_the_courses_own_naming_is_refused(root, names):
    sequence(root / "train/take/1", names)
    with pytest.raises(UserError, match=r"take/1/[012]\.png is missing, though later frames are there: restore it"):
        list_split(root, "train")


# ------------------------------------------------------------------------------------------- frames beside rows


def write_rows(folder: Path, rows: int) -> None:
    (folder / "actions.csv").write_text("1,2,3,4\n" * rows)


def test_missing_last_frames_are_told_at_every_start(root, capsys):
    write_rows(root / "train/take/0", 5)
    for _ in range(2):
        assert VideoData(str(root), condition="actions").train.lengths.tolist() == [3]
        said = capsys.readouterr().out
        assert "1 sequences have fewer frames than rows: take/0 (3 frames, 5 rows in actions.csv)" in said


def test_a_missing_first_frame_is_refused(root):
    """The rows would stand beside the wrong frames."""
    sequence(root / "train/take/1", ["1.png", "2.png"])
    for k in (0, 1):
        write_rows(root / f"train/take/{k}", 3)
    with pytest.raises(UserError, match=r"take/1 has 2 frames from 1.png on and 3 rows in actions.csv: restore"):
        VideoData(str(root), condition="actions").train  # noqa: B018


# ----------------------------------------------------------------------------------------------------- the root


def test_a_split_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "train").symlink_to("train")
    for use in (VideoData(str(tmp_path)).check, lambda: VideoData(str(tmp_path)).train):
        with pytest.raises(UserError, match=r"/train cannot be read \(.*\): data.root needs the folders") as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["x" * 300, "a\0b", "file/below", "loop"], ids=["long", "zero byte", "below a file", "loop"])
def test_places_that_cannot_be_are_one_line(root, tmp_path, part):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    place = str(tmp_path / part)
    for use in (
        lambda: VideoData(place).train,
        lambda: VideoData(place).check(),
        lambda: VideoData(str(root), condition="none", cache_dir=place).train,
        lambda: synthetic_push(train=1, validate=1, test=0, root=place).train,
        lambda: synthetic_push(train=1, validate=1, test=0, cache_dir=place),
    ):
        with pytest.raises(UserError) as caught:
            use()
        assert "\n" not in str(caught.value)
        assert place in str(caught.value) or repr(place) in str(caught.value)
