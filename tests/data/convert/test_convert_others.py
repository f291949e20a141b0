"""Folders of videos and NumPy archives, and what the command says of options and places."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result
from course_layout import CODECS, write_video
from smooth import frame_of, psnr, resized

from cvae.data.converted import PackedData
from cvae.data.store import VideoData

av = pytest.importorskip("av")
SHORT = ("--shortest", "2")
Convert = Callable[..., Result]


def film(path: Path, episode: int, frames: int = 5) -> None:
    write_video(path, [frame_of(episode, t) for t in range(frames)])


def test_videos(convert: Convert) -> None:
    for k, extension in enumerate(CODECS):
        film(Path(f"S/day {k}/take.{extension}"), k)
    Path("S/notes.txt").write_text("of no concern")
    for to in ("packed", "png"):
        assert convert("S", to, *SHORT, "--to", to).code == 0
    packed, course = PackedData("packed"), VideoData("png", workers=1)
    assert packed.fingerprint == course.fingerprint
    assert packed.train.cond_NA.shape[1] == course.train.cond_NA.shape[1] == 0
    assert str(packed).endswith("packed (no conditions)")
    found = {split.name(i): split[i][0] for split in (packed.train, packed.validate, packed.test) for i in range(len(split))}
    assert set(found) == {f"day {k}_take/0" for k in range(4)}
    for k, extension in enumerate(CODECS):
        with av.open(f"S/day {k}/take.{extension}") as container:
            own = [resized(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        assert len(own) == 5
        np.testing.assert_array_equal(found[f"day {k}_take/0"], np.stack(own))
        if extension != "gif":  # of 256 colours
            assert psnr(np.stack(own), np.stack([resized(frame_of(k, t)) for t in range(5)])) >= 30


def test_a_folder_may_have_splits(convert: Convert) -> None:
    for k, split in enumerate(("train", "train", "validate", "test")):
        film(Path(f"S/{split}/{k}.avi"), k)
    assert convert("S", "D", *SHORT).code == 0
    assert [PackedData("D").train.name(0), PackedData("D").validate.name(0), PackedData("D").test.name(0)] == [
        "0/0",
        "2/0",
        "3/0",
    ]


def test_a_video_that_is_none(convert: Convert) -> None:
    for k in range(4):
        film(Path(f"S/{k}.avi"), k)
    Path("S/5.mp4").write_text("#EXTM3U\nother.mp4\n")  # a list of files, which must not be followed
    result = convert("S", "D", *SHORT)
    assert result.code == 1
    assert "S/5.mp4: it cannot be read" in result.err
    assert convert("S", "D", *SHORT, "--on-error", "skip").code == 0


def arrays(count: int, frames: int, seed: int, size: int = 64) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "frames": generator.integers(0, 256, (count, frames, size, size, 3), dtype=np.uint8),
        "conditions": generator.normal(size=(count, frames, 2)),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays(save: Callable, convert: Convert) -> None:
    Path("S").mkdir()
    train, validate = arrays(5, 4, 0), arrays(2, 3, 1)
    lengths = np.array([4, 3, 2, 4, 4])
    save("S/train.npz", **train, lengths=lengths, names=np.array(["left", "right"]))
    save("S/validate.npz", **validate, names=np.array(["left", "right"]))
    for to in ("packed", "png"):
        result = convert("S", to, *SHORT, "--to", to, "--test", "0")
        assert result.code == 0, result.err
    packed, course = PackedData("packed"), VideoData("png", workers=1)
    assert packed.fingerprint == course.fingerprint
    assert list(packed.train.lengths) == list(lengths)
    for k in range(5):
        frames_THWC, cond_TA = packed.train[k]
        np.testing.assert_array_equal(frames_THWC, train["frames"][k, : lengths[k]])
        np.testing.assert_array_equal(cond_TA, train["conditions"][k, : lengths[k]].astype(np.float32))
    for k in range(2):
        np.testing.assert_array_equal(packed.validate[k][0], validate["frames"][k])
    assert json.loads(Path("png/conditions.json").read_text())["tables"][0]["names"] == ["left", "right"]


def test_arrays_of_another_size_without_conditions(convert: Convert) -> None:
    Path("S").mkdir()
    frames = arrays(4, 3, 0, size=80)["frames"]
    np.savez("S/train.npz", frames=frames)
    assert convert("S", "D", *SHORT, "--test", "1").code == 0
    data = PackedData("D")
    assert data.train.cond_NA.shape == (6, 0)
    number = int(data.train.name(0).split("/")[0].split("_")[1])
    np.testing.assert_array_equal(data.train[0][0], np.stack([resized(frame) for frame in frames[number]]))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"frames": np.zeros((2, 3, 64, 64, 3))}, "frames are float64"),
        ({"frames": np.zeros((2, 3, 64, 64), np.uint8)}, "frames are uint8 2 x 3 x 64 x 64"),
        ({"conditions": np.zeros((2, 3))}, "conditions are float64 2 x 3"),
        ({"conditions": np.full((4, 3, 2), "a")}, "conditions are <U1"),
        ({"lengths": np.array([1, 2, 3, 4])}, "lengths are not 4 whole numbers from 1 to 3"),
        ({"names": np.array(["one"])}, "1 names for 2 conditions"),
        ({"names": np.array([{}, 3], dtype=object)}, "train.npz cannot be read"),
        ({"names": np.array("dx")}, "names are <U2 of 0 dimensions"),
        ({"names": np.array([["a", "b"], ["c", "d"]])}, "names are <U1 of 2 dimensions"),
        ({"names": np.array([1, 2])}, "names are int64"),
        ({"names": np.array(["a", "a"])}, "all different"),
        ({"names": np.array(["a\nb", "c"])}, "names are not texts of one line"),
        ({"conditions": np.full((4, 3, 2), np.nan)}, "sequence 0: its conditions hold NaN"),
        ({"frames": None}, "it has no frames"),
    ],
)
def test_arrays_that_are_not_as_needed(change: dict[str, Any], why: str, convert: Convert) -> None:
    Path("S").mkdir()
    found = {**arrays(4, 3, 0), **change}
    np.savez("S/train.npz", **{name: array for name, array in found.items() if array is not None})
    result = convert("S", "D", *SHORT)
    assert result.code == 1
    assert why in result.err
    assert "train.npz" in result.err


def test_a_damaged_archive_is_named(convert: Convert) -> None:
    Path("S").mkdir()
    np.savez("S/train.npz", **arrays(4, 3, 0))
    content = bytearray(Path("S/train.npz").read_bytes())
    content[9000] ^= 1
    Path("S/train.npz").write_bytes(content)
    assert "fails its CRC" in convert("S", "D", *SHORT).err
    Path("S/train.npz").write_bytes(content[:5000])
    assert "train.npz cannot be read" in convert("S", "D", *SHORT).err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("absent", "D"), "absent does not exist"),
        (("S", "D"), "is of no format that is known: choose --format lerobot, npz, bair, video"),
        (("S", "D", "--format", "video"), "holds no videos"),
        (("S", "D", "--format", "npz"), "train.npz does not exist"),
        (("S", "D", "--format", "bair"), "holds no TFRecords"),
        (("S", "D", "--format", "lerobot"), "info.json cannot be read"),
        (("S", "D", "--clip", "1"), "--clip is 1: give a whole number of at least 2"),
        (("S", "D", "--validate", "1.5"), "neither a number of episodes nor a share"),
        (("S", "D", "--format", "npz", "--camera", "main"), "--camera has no meaning"),
        (("S",), "the following arguments are required: DST"),
        (("S", "S/below", "--format", "npz"), "lies in SRC="),
    ],
)
def test_bad_words(words: tuple[str, ...], why: str, convert: Convert) -> None:
    Path("S").mkdir()
    result = convert(*words)
    assert result.code == 1
    assert why in result.err
    assert len(result.err.splitlines()) == 1
    assert not Path("D").exists()
