"""Packed data are the files' contents, whoever reads them and however often; and they are packed once."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_course
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

import cvae
from cvae.data import packing
from cvae.data.arrays import ArraySplit
from cvae.data.contract import condition_statistics, training_windows
from cvae.data.store import VideoData
from cvae.errors import UserError

REPOSITORY = Path(cvae.__file__).parents[1]
LENGTHS = {"train": [6, 9, 4, 12, 7], "validate": [5, 8, 4, 7], "test": [4, 6, 5]}
COLUMNS = {"actions_positions": slice(0, 7), "actions": slice(0, 4), "none": slice(0, 0)}

Sequence = tuple[NDArray[np.uint8], NDArray[np.float32]]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in sequences of several lengths: no two frames or rows are alike. Tests only read it."""
    root = tmp_path_factory.mktemp("uneven") / "course"
    generator = np.random.default_rng(0)
    for split, lengths in LENGTHS.items():
        for k, length in enumerate(lengths):
            folder = root / split / f"traj_{k // 2}" / f"{k}"
            folder.mkdir(parents=True)
            for t in range(length):
                Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
                    folder / f"{t}.png", compress_level=1
                )
            for name, columns in (("actions", 4), ("endeffector_positions", 3)):
                np.savetxt(folder / f"{name}.csv", generator.normal(size=(length, columns)), delimiter=",", fmt="%.9g")
    return root


@pytest.fixture
def mine(uneven: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(uneven, tmp_path / "mine"))


def read(root: Path, split: str) -> dict[str, Sequence]:
    """What the files of a split say, read in another way than the package reads them."""
    found = {}
    for folder in (root / split).glob("*/*"):
        frames = [np.asarray(Image.open(folder / f"{t}.png")) for t in range(len(list(folder.glob("*.png"))))]
        (positions,) = folder.glob("endeff*.csv")
        tables = [np.loadtxt(path, delimiter=",", ndmin=2)[: len(frames)] for path in (folder / "actions.csv", positions)]
        found[f"{folder.parent.name}/{folder.name}"] = np.stack(frames), np.concatenate(tables, axis=1).astype(np.float32)
    return found


def assert_is(split: ArraySplit, root: Path, name: str) -> None:
    expected = read(root, name)
    assert len(split) == len(expected)
    assert {split.name(k) for k in range(len(split))} == set(expected)
    for k in range(len(split)):
        frames_THWC, cond_TA = split[k]
        frames, cond = expected[split.name(k)]
        assert (frames_THWC.dtype, cond_TA.dtype) == (np.uint8, np.float32)
        assert np.array_equal(frames_THWC, frames)
        assert np.array_equal(cond_TA, cond)


def splits(data: VideoData) -> list[ArraySplit]:
    return [data.train, data.validate, data.test]


# ---------------------------------------------------------------------------------------------------- contents


@pytest.mark.parametrize("source", ["drawn", "uneven"])
def test_every_sequence_is_what_its_files_say(request, source):
    root = request.getfixturevalue(source)
    data = VideoData(str(root))
    for name, split in zip(("train", "validate", "test"), splits(data), strict=True):
        assert_is(split, root, name)
        assert split.lengths.tolist() == [len(split[k][0]) for k in range(len(split))]


def test_a_split_is_a_sequence(uneven):
    train = VideoData(str(uneven)).train
    assert len(list(train)) == len(train) == 5
    assert np.array_equal(train[-1][0], train[4][0])
    for index in (5, -6):
        with pytest.raises(IndexError):
            train[index]
    train[0][0][:] = 0  # what is handed out is the caller's own
    assert train[0][0].any()


@pytest.mark.parametrize(("condition", "columns"), COLUMNS.items())
def test_conditions_are_chosen_by_name(uneven, condition, columns):
    whole, data = VideoData(str(uneven)), VideoData(str(uneven), condition=condition)
    for ours, all_columns in zip(splits(data), splits(whole), strict=True):
        for k in range(len(ours)):
            assert np.array_equal(ours[k][1], all_columns[k][1][:, columns])
        frames, cond = ours.gather(np.array([1, 0]), np.array([1, 0]), 3)
        assert (frames.shape, cond.shape) == ((2, 3, 64, 64, 3), (2, 3, columns.stop - columns.start))


@pytest.mark.parametrize("length", [1, 3, 4])
def test_gathered_windows_are_slices_of_whole_sequences(uneven, length):
    train, generator = VideoData(str(uneven)).train, np.random.default_rng(length)
    indices = generator.integers(0, len(train), 40)
    starts = generator.integers(0, train.lengths[indices] - length + 1)
    frames_BTHWC, cond_BTA = train.gather(indices, starts, length)
    assert (frames_BTHWC.dtype, cond_BTA.dtype) == (np.uint8, np.float32)
    for b, (index, start) in enumerate(zip(indices, starts, strict=True)):
        frames_THWC, cond_TA = train[index]
        assert np.array_equal(frames_BTHWC[b], frames_THWC[start : start + length])
        assert np.array_equal(cond_BTA[b], cond_TA[start : start + length])
    at_zero = train.gather(indices, 0, length)
    assert np.array_equal(at_zero[0], train.gather(indices, np.zeros(40, np.int64), length)[0])


# ------------------------------------------------------------------------------------------------ worker processes


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:.*use of fork")
@pytest.mark.parametrize(
    ("name", "workers", "start"),
    [
        *[(name, workers, "fork" if workers else None) for name in ("validate", "test") for workers in (0, 1, 2, 3)],
        ("validate", 1, "spawn"),  # a worker that imports torch anew takes seconds: one is enough
    ],
)
@pytest.mark.slow
def test_loader_workers_give_every_sequence_once(uneven, name, workers, start):
    """A counter inside the data set, which every worker has of its own, would repeat some and never give others."""
    split = getattr(VideoData(str(uneven)), name)
    loader = DataLoader(split, batch_size=None, shuffle=True, num_workers=workers, multiprocessing_context=start)
    given = sorted((frames.numpy().tobytes(), cond.numpy().tobytes()) for frames, cond in loader)
    assert given == sorted((frames.tobytes(), cond.tobytes()) for frames, cond in read(uneven, name).values())


def test_a_pickled_split_carries_no_frames(uneven):
    split = VideoData(str(uneven), condition="actions").validate
    pickled = pickle.dumps(split)
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)
    for ours, its in zip(split, copy, strict=True):
        assert np.array_equal(ours[0], its[0])
        assert np.array_equal(ours[1], its[1])


# ------------------------------------------------------------------------------------------------------ packing


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sequences that were decoded, as they are."""
    names: list[str] = []
    real = packing.read_frames

    def read_frames(folder: Path, *words: Any) -> NDArray[np.uint8]:
        names.append("/".join(folder.parts[-3:]))
        return real(folder, *words)

    monkeypatch.setattr(packing, "read_frames", read_frames)
    return names


def test_data_are_packed_once(uneven, decoded):
    splits(VideoData(str(uneven)))
    assert len(decoded) == len(set(decoded)) == 12
    again = VideoData(str(uneven), condition="actions", normalise=False, random_start=False, workers=3)
    splits(again)
    splits(again)
    assert len(decoded) == 12
    assert_is(VideoData(str(uneven)).train, uneven, "train")


def test_a_split_is_packed_when_it_is_used(uneven, decoded):
    data = VideoData(str(uneven))
    assert decoded == []
    data.validate  # noqa: B018
    assert {name.split("/")[0] for name in decoded} == {"validate"}


def touch(root: Path) -> None:
    os.utime(root / "train/traj_0/1/3.png", ns=(0, 1))


def repaint(root: Path) -> None:
    Image.new("RGB", (64, 64), (1, 2, 3)).save(root / "train/traj_0/1/3.png")


def rewrite(root: Path) -> None:
    (root / "train/traj_0/1/actions.csv").write_text("1,2,3,4\n" * 9)


def lengthen(root: Path) -> None:
    (root / "train/traj_0/1/9.png").write_bytes((root / "train/traj_0/1/0.png").read_bytes())
    for name, row in (("actions", "1,2,3,4\n"), ("endeffector_positions", "1,2,3\n")):
        with (root / f"train/traj_0/1/{name}.csv").open("a") as file:
            file.write(row)


def remove(root: Path) -> None:
    shutil.rmtree(root / "train/traj_0/1")


@pytest.mark.parametrize("change", [touch, repaint, rewrite, lengthen, remove], ids=lambda change: change.__name__)
def test_changed_data_are_packed_anew(mine, decoded, change, capsys):
    data = VideoData(str(mine))
    assert (len(data.train), len(data.validate), len(decoded)) == (5, 4, 9)
    change(mine)
    changed = VideoData(str(mine))
    assert_is(changed.train, mine, "train")
    assert len(decoded) == 9 + len(changed.train)
    assert_is(changed.validate, mine, "validate")
    assert len(decoded) == 9 + len(changed.train)  # the other split had not changed
    said = capsys.readouterr().out
    assert "train is not as it was when it was packed: it is read again" in said
    assert ("train holds other data than before" in said) == (change is not touch)


def cut_frames(folder: Path) -> None:
    os.truncate(folder / "frames.npy", (folder / "frames.npy").stat().st_size // 2)


def cut_conditions(folder: Path) -> None:
    os.truncate(folder / "cond.npy", 10)


def lose_conditions(folder: Path) -> None:
    (folder / "cond.npy").unlink()


def lose_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def cut_meta(folder: Path) -> None:
    os.truncate(folder / "meta.json", 40)


def other_meta(folder: Path) -> None:
    (folder / "meta.json").write_text("[]")


def other_format(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "format": meta["format"] + 1}))


@pytest.mark.parametrize(
    "damage",
    [cut_frames, cut_conditions, lose_conditions, lose_meta, cut_meta, other_meta, other_format],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_cache_is_made_anew_and_the_user_is_told(uneven, tmp_path, capsys, damage):
    VideoData(str(uneven)).validate  # noqa: B018
    packed = VideoData(str(uneven)).validate.folder
    damage(packed)
    capsys.readouterr()
    assert_is(VideoData(str(uneven)).validate, uneven, "validate")
    said = capsys.readouterr().out
    assert f"{packed} is incomplete, damaged or of another version" in said
    assert_is(VideoData(str(uneven)).validate, uneven, "validate")
    assert capsys.readouterr().out == ""


SLOW = """
import sys, time
from cvae.data import packing, store
real = packing.read_frames
packing.read_frames = lambda *words: (time.sleep(0.03), real(*words))[1]
print(store.VideoData(sys.argv[1]).fingerprint)
"""


def test_processes_at_once_pack_once(uneven):
    command = [sys.executable, "-c", SLOW, str(uneven)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    processes = [subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) for _ in range(2)]
    said = "".join(process.communicate(timeout=120)[0] for process in processes).splitlines()
    assert [process.returncode for process in processes] == [0, 0], said
    packing = [line for line in said if line.startswith("packing")]
    assert len(packing) == len(set(packing)) == 2  # train and validate, once each
    assert sorted(set(said) - set(packing)) == [VideoData(str(uneven)).fingerprint]
    assert len(said) == 4


def snapshot(root: Path) -> dict[Path, tuple[int, int, int]]:
    return {
        path: (stat.st_mode, stat.st_size, stat.st_mtime_ns) for path in [root, *root.rglob("*")] for stat in [path.lstat()]
    }


def test_a_source_that_is_read_only_is_read(mine):
    paths = [mine, *mine.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        before = snapshot(mine)
        data = VideoData(str(mine))
        assert_is(data.train, mine, "train")
        assert len(data.test) == 3
        assert snapshot(mine) == before  # whoever runs the tests may be allowed to write all the same
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.parametrize("way", ["data.cache_dir", "CVAE_CACHE"])
def test_a_cache_that_cannot_be_written_to_is_one_line(uneven, tmp_path, monkeypatch, way):
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "cache")
    if way == "CVAE_CACHE":
        monkeypatch.setenv("CVAE_CACHE", place)
    with pytest.raises(UserError) as caught:
        VideoData(str(uneven), cache_dir=place if way == "data.cache_dir" else None).train  # noqa: B018
    assert place in str(caught.value)
    assert way in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("root", ["nowhere", "file", "~no-such-user/course"])
def test_a_root_that_is_no_folder_is_one_line(tmp_path, root):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        VideoData(root).train  # noqa: B018
    assert root in str(caught.value)
    assert "data.root" in str(caught.value)


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few sequences are enough for worker processes, two at a time."""
    monkeypatch.setattr(packing, "_POOL_FROM", 0)
    monkeypatch.setattr(packing, "CHUNK", 2)


def test_worker_processes_pack_the_same_bytes(uneven, tmp_path, in_processes, decoded):
    contents: list[dict[str, bytes]] = []
    for workers in (1, 2):
        cache = tmp_path / f"cache{workers}"
        VideoData(str(uneven), cache_dir=str(cache), workers=workers).train  # noqa: B018
        contents.append({path.name: path.read_bytes() for path in cache.glob("packed/*/*.*") if path.parent.name != "roots"})
        assert len(decoded) == 5  # the second time not in this process
    assert set(contents[0]) == {"frames.npy", "cond.npy", "meta.json"}
    assert contents[0] == contents[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_the_file_wherever_it_happens_and_leaves_nothing(mine, tmp_path, in_processes, workers):
    path = mine / "train/traj_2/4/2.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError) as caught:
        VideoData(str(mine), workers=workers).train  # noqa: B018
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "cache/packed").rglob("*") if path.is_file()] == [".lock"]


# -------------------------------------------------------------------------------------------------- fingerprint


def test_equal_data_have_equal_fingerprints_wherever_they_are(uneven, tmp_path):
    expected = VideoData(str(uneven)).fingerprint
    # New times, another cache, another way to write the same pixels, one value spelled differently: the same data.
    copy = Path(shutil.copytree(uneven, tmp_path / "copy", copy_function=shutil.copyfile))
    with Image.open(copy / "train/traj_0/0/0.png") as image:
        image.convert("RGBA").save(copy / "train/traj_0/0/0.png", optimize=True)
    (copy / "train/traj_0/0/endeffector_positions.csv").rename(copy / "train/traj_0/0/endeffecter_positions.csv")
    shutil.rmtree(copy / "test")
    data = VideoData(str(copy), cache_dir=str(tmp_path / "other"), condition="none", normalise=False)
    assert data.fingerprint == expected


def change_pixel(root: Path) -> None:
    path = root / "traj_0/1/2.png"
    pixels = np.array(Image.open(path))
    pixels[63, 63, 2] ^= 1
    Image.fromarray(pixels).save(path)


def change_value(root: Path) -> None:
    path = root / "traj_0/1/actions.csv"
    table = np.loadtxt(path, delimiter=",")
    table[-1, -1] += 1e-3
    np.savetxt(path, table, delimiter=",", fmt="%.9g")


def swap_sequences(root: Path) -> None:
    (root / "traj_0/0").rename(root / "aside")
    (root / "traj_0/1").rename(root / "traj_0/0")
    (root / "aside").rename(root / "traj_0/1")


@pytest.mark.parametrize("split", ["train", "validate"])
@pytest.mark.parametrize("change", [change_pixel, change_value, swap_sequences], ids=lambda change: change.__name__)
def test_other_data_have_another_fingerprint(uneven, mine, split, change: Callable[[Path], None], monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 2)  # the change is not among the last that are packed
    change(mine / split)
    assert VideoData(str(mine)).fingerprint != VideoData(str(uneven)).fingerprint


# --------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(("condition", "columns"), COLUMNS.items())
@pytest.mark.parametrize("source", ["drawn", "uneven"])
def test_statistics_are_those_of_the_train_split(request, source, condition, columns):
    root = request.getfixturevalue(source)
    rows_NA = np.concatenate([cond for _, cond in read(root, "train").values()]).astype(np.float64)[:, columns]
    mean_A, std_A = condition_statistics(VideoData(str(root), condition=condition))
    assert mean_A.dtype == std_A.dtype == np.float32
    assert mean_A == pytest.approx(rows_NA.mean(axis=0), rel=1e-6)
    constant_A = rows_NA.min(axis=0) == rows_NA.max(axis=0)
    assert std_A[~constant_A] == pytest.approx(rows_NA.std(axis=0)[~constant_A], rel=1e-5)
    assert (std_A[constant_A] == 1).all()  # so that such a column becomes zeros, not NaN
    if (source, condition) == ("drawn", "actions_positions"):
        assert constant_A.tolist() == [False, False, True, True, False, False, True]


@pytest.mark.parametrize(("condition", "columns"), COLUMNS.items())
def test_statistics_change_nothing_where_normalising_is_off(uneven, condition, columns):
    mean_A, std_A = condition_statistics(VideoData(str(uneven), condition=condition, normalise=False))
    assert mean_A.tolist() == [0.0] * (columns.stop - columns.start)
    assert std_A.tolist() == [1.0] * (columns.stop - columns.start)


# ------------------------------------------------------------------------------------------------------ windows

Windows = tuple[NDArray[np.int64], NDArray[np.int64]]


def windows(lengths: NDArray[np.int64] | None = None, **changes: int | bool) -> Windows:
    words = {"seed": 1, "epoch": 3, "batches": 40, "batch_size": 6, "length": 5, "random_start": True, **changes}
    return training_windows(np.array([5, 30, 7, 12, 30, 6, 9]) if lengths is None else lengths, **words)


def same(one: Windows, other: Windows) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def test_windows_are_a_pure_function_of_their_arguments():
    np.random.seed(0)
    state = np.random.get_state()[1].tolist()
    expected = windows()
    np.random.seed(1)
    assert same(windows(), expected)
    np.random.seed(0)
    windows()
    assert np.random.get_state()[1].tolist() == state
    assert expected[0].shape == expected[1].shape == (40, 6)


def test_seeds_and_epochs_give_windows_of_their_own():
    drawn = [windows(seed=seed, epoch=epoch) for seed in range(5) for epoch in range(1, 6)]
    assert not any(same(drawn[i], drawn[j]) for i in range(25) for j in range(i))


@pytest.mark.parametrize("seed", range(3))
def test_starts_reach_every_frame_and_none_beyond_the_end(seed):
    lengths = np.array([5, 30, 7, 12, 30, 6, 9])
    indices, starts = windows(lengths, seed=seed, batches=1000)
    for k, length in enumerate(lengths):
        assert set(starts[indices == k]) == set(range(length - 5 + 1))


@pytest.mark.parametrize(("batches", "batch_size"), [(40, 6), (1, 3), (7, 1), (2, 7), (5, 11)])
@pytest.mark.parametrize("epoch", [1, 2])
def test_each_pass_gives_every_sequence_once(batches, batch_size, epoch):
    indices = windows(batches=batches, batch_size=batch_size, epoch=epoch)[0].ravel().tolist()
    assert len(indices) == batches * batch_size
    passes = [indices[i : i + 7] for i in range(0, len(indices), 7)]
    for whole in passes[:-1]:
        assert sorted(whole) == list(range(7))
    assert len(set(passes[-1])) == len(passes[-1])
    if len(passes) > 5:
        assert len({tuple(whole) for whole in passes[:-1]}) > 1  # shuffled anew


def test_without_random_starts_windows_begin_at_frame_0():
    indices, starts = windows(random_start=False)
    assert not starts.any()
    assert set(indices.ravel()) == set(range(7))


def test_packing_holds_no_more_than_a_sequence_at_a_time(tmp_path):
    """Frames go from their files into the array, so memory does not grow with the data set."""
    peaks = []
    roots = {n: draw_course(tmp_path / f"course{n}", train=n, validate=1, test=0, frames=12) for n in (8, 64)}
    VideoData(str(roots[64]), workers=1).train  # noqa: B018, whatever Python keeps of names it keeps now
    for count, root in roots.items():
        tracemalloc.start()
        VideoData(str(root), workers=1, cache_dir=str(tmp_path / f"cache{count}")).train  # noqa: B018
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    sequence = 12 * 64 * 64 * 3
    assert peaks[1] < 4 * sequence
    assert peaks[1] - peaks[0] < (64 - 8) * sequence / 20
