"""BAIR's records become the same pixels, actions and positions both ways, and what is damaged is named by file and offset."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result, tiny
from servers import python_with
from tfrecords import draw_bair, example, features_of, framed, pixels

from cvae.data.converted import PackedData
from cvae.data.store import VideoData

HERE = Path(__file__).parent
FIXTURE = HERE.parents[1] / "fixtures" / "convert" / "two_records.tfrecords"
Convert = Callable[..., Result]
SHORT = ("--shortest", "3", "--workers", "1")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight train records in two files, and two of test; tests only read it."""
    return draw_bair(tmp_path_factory.mktemp("bair"))


def numbers_of(k: int, t: int) -> list[float]:
    features = features_of(k, t + 1)
    return [*features[f"{t}/action"], *features[f"{t}/endeffector_pos"]]


def contents(split) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {split.name(i): split[i] for i in range(len(split))}


def test_both_ways_give_the_source(source: Path, convert: Convert, convert_apart: Convert) -> None:
    assert convert_apart(source, "P", *SHORT).code == 0
    assert convert(source, "I", *SHORT, "--to", "png").code == 0
    packed, course = PackedData("P"), VideoData("I", workers=1)
    assert packed.fingerprint == course.fingerprint
    found = {}
    for split in ("train", "validate", "test"):
        one, other = contents(getattr(packed, split)), contents(getattr(course, split))
        assert list(one) == list(other)  # in the order of folders
        for name, (frames, cond) in one.items():
            np.testing.assert_array_equal(frames, other[name][0])
            np.testing.assert_array_equal(cond, other[name][1])
        found |= {f"{'test' if split == 'test' else 'train'}/{name}": value for name, value in one.items()}
    expected = [f"train/traj_{file}/{k}" for file in ("0_to_255", "256_to_511") for k in range(4)]
    expected += [f"test/traj_0_to_255/{k}" for k in range(2)]
    assert sorted(found) == sorted(expected)
    for k, name in enumerate(expected):
        frames, cond = found[name]
        np.testing.assert_array_equal(frames, np.stack([pixels(k, t) for t in range(3)]))
        np.testing.assert_array_equal(cond, np.array([numbers_of(k, t) for t in range(3)], np.float32))
    assert len(packed.validate) == 1  # a tenth of eight, at least 1
    assert not Path("I/conditions.json").exists()
    said = json.loads(Path("P/dataset.json").read_text())
    assert said["plan"]["options"]["camera"] == "aux1"
    assert said["splits"]["train"]["sequences"] == 7
    assert convert(source, "P", *SHORT).out.endswith("P holds this conversion already\n")
    again = convert(source, "P", *SHORT, "--clip", "4")
    assert again.code == 1
    assert "holds something else already" in again.err


def test_a_tar_is_read_as_it_is(source: Path, convert: Convert, tmp_path: Path) -> None:
    with tarfile.open("bair.tar", "w") as archive:
        archive.add(source / "softmotion30_44k", "softmotion30_44k")
    assert convert("bair.tar", "A", *SHORT).code == 0
    assert convert(source, "B", *SHORT).code == 0
    assert PackedData("A").fingerprint == PackedData("B").fingerprint
    Path("cut.tar").write_bytes(Path("bair.tar").read_bytes()[:-200_000])
    assert "error: " in convert("cut.tar", "C").err
    with tarfile.open("bair.tar.gz", "w:gz") as archive:
        archive.add(source / "softmotion30_44k", "softmotion30_44k")
    assert "unpack it" in convert("bair.tar.gz", "D").err


def check_formula(root: str, cameras: int) -> None:
    """That of write_with_tensorflow.py, by its numbers."""
    grid = np.arange(64 * 64 * 3).reshape(64, 64, 3)
    for split in (PackedData(root).train, PackedData(root).validate):
        for index in range(len(split)):
            k = int(split.name(index).split("/")[1])
            frames, cond = split[index]
            for t, frame in enumerate(frames):
                np.testing.assert_array_equal(frame, (grid * (k + 1) + 7 * t + 100 * cameras) % 256)
                row = [k + t / 10, -t / 3, k * 1e-9, 0.1, 1 / (k + t + 1), 1e20, -0.0]
                np.testing.assert_array_equal(cond[t], np.array(row, np.float32))


@pytest.mark.parametrize(("camera", "number"), [("main", 0), ("aux1", 1)])
def test_what_tensorflow_wrote(camera: str, number: int, convert: Convert) -> None:
    Path("S").mkdir()
    Path("S/two.tfrecords").write_bytes(FIXTURE.read_bytes())
    words = (*SHORT, "--camera", camera, "--test", "0")
    for to in ("packed", "png"):
        assert convert("S", to, *words, "--to", to).code == 0
    check_formula("packed", number)
    assert PackedData("packed").fingerprint == VideoData("png").fingerprint
    assert not Path("packed/test").exists()


@pytest.mark.servers
@pytest.mark.timeout(1200)
def test_what_tensorflow_writes_today(convert: Convert, tmp_path: Path) -> None:
    program = python_with("tensorflow-cpu", tmp_path / "environment")
    Path("S/train").mkdir(parents=True)
    subprocess.run([program, HERE / "write_with_tensorflow.py", "S/train/a.tfrecords", "12", "30"], check=True)
    assert convert("S", "packed", "--camera", "main").code == 0
    assert convert("S", "png", "--to", "png", "--camera", "main").code == 0
    check_formula("packed", 0)
    assert PackedData("packed").fingerprint == VideoData("png").fingerprint
    assert len(PackedData("packed").train) == 10


def damage(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("place", "stays", "why"),
    [
        (0, 0, "a length fails its CRC"),
        (9, 0, "a length fails its CRC"),
        (500, 3, "record fails its CRC"),
        (-1, 3, "fails its CRC"),
    ],
)
def test_each_changed_byte_is_named(place: int, stays: int, why: str, convert: Convert, tmp_path: Path) -> None:
    root = draw_bair(tmp_path / "S", train=(4, 3))
    path = root / "softmotion30_44k" / "train" / "traj_0_to_255.tfrecords"
    words = (*SHORT, "--validate", "2")
    size = path.stat().st_size // 4
    damage(path, place % path.stat().st_size)
    stopped = convert(root, "D", *words)
    offset = 0 if place >= 0 else 3 * size
    assert stopped.code == 1
    assert f"{path} at offset {offset}: " in stopped.err
    assert why in stopped.err
    skipped = convert(root, "D", *words, "--on-error", "skip")
    assert skipped.code == 0
    assert f"{path} at offset {offset}: " in skipped.out
    said = json.loads(Path("D/dataset.json").read_text())
    assert said["splits"]["train"]["sequences"] + said["splits"]["validate"]["sequences"] == stays + 3
    assert f"{path} at offset {offset}: " in said["left_out"][0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda features: features.pop("1/image_aux1/encoded"), "has no 1/image_aux1/encoded"),
        (lambda features: features.pop("2/action"), "has no 2/action"),
        (lambda features: features.update({"0/action": [1.0, 2.0]}), "0/action has 2 values, where 4 are needed"),
        (lambda features: features.update({"0/image_aux1/encoded": b"xyz"}), "has 3 bytes, where 12288 are needed"),
        (lambda features: features.update({"0/endeffector_pos": [0.0, float("nan"), 0.0]}), "hold NaN"),
        (lambda features: features.clear(), "has no frames of camera aux1"),
    ],
)
def test_records_that_are_whole_but_of_something_else(change: Callable, why: str, convert: Convert, tmp_path: Path) -> None:
    root = draw_bair(tmp_path / "S", train=(3,))
    features = features_of(9, 3)
    change(features)
    bad = root / "softmotion30_44k" / "train" / "traj_9.tfrecords"
    bad.write_bytes(framed(example(features)))
    result = convert(root, "D", *SHORT)
    assert result.code == 1
    assert f"{bad} at offset 0: " in result.err
    assert why in result.err
    bad.write_bytes(framed(b"no example"))
    assert "no tf.train.Example" in convert(root, "E", *SHORT).err


@pytest.mark.slow
def test_it_trains(source: Path, convert: Convert, train: Callable[..., Result]) -> None:
    for to in ("packed", "png"):
        assert convert(source, to, *SHORT, "--to", to).code == 0
    words = [word for word in tiny(Path("packed")) if word not in ("data=course", "n_future=2", "n_eval=6", "epochs=2")]
    words += ["n_past=1", "n_future=2", "n_eval=3", "epochs=1", "hydra.run.dir=run"]
    assert "read it with data=packed" in train("data=course", *words).err
    assert "read it with data=course" in train("data=packed", *words, "data.root=png").err
    assert train("data=packed", *words).code == 0
    assert json.loads(Path("run/run.json").read_text())["dataset"] == VideoData("png", workers=1).fingerprint
