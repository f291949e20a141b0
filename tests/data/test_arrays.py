"""Arrays become a dataset as they are, wherever they lie; wrong ones are refused by name."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import tiny
from omegaconf import OmegaConf

from cvae.config import build
from cvae.data.arrays import ArrayData, ArraySplit
from cvae.data.contract import condition_statistics
from cvae.errors import UserError

N, T = 6, 9
Pair = tuple[Any, Any]


def frames(count: int = N, length: int = T, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, length, 64, 64, 3), dtype=np.uint8)


def cond(width: int, count: int = N, length: int = T, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, (count, length, width)).astype(np.float32)


def data_of(train: Pair, validate: Pair | None = None, **options: Any) -> ArrayData:
    return ArrayData(lambda: {"train": train, "validate": validate or train}, **options)


# ------------------------------------------------------------------------------------------------------ windows


def in_memory(array: np.ndarray, folder: Path) -> Any:
    return array


def mapped(array: np.ndarray, folder: Path) -> Any:
    path = folder / f"{array.ndim}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def listed(array: np.ndarray, folder: Path) -> Any:
    return list(array)


def strided(array: np.ndarray, folder: Path) -> Any:
    return np.repeat(array, 2, axis=1)[:, ::2]


def fortran(array: np.ndarray, folder: Path) -> Any:
    return np.asfortranarray(array)


KINDS = [in_memory, mapped, listed, strided, fortran]


@pytest.mark.parametrize("width", [0, 2, 7])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_gathered_windows_are_slices_of_the_arrays(tmp_path, kind: Callable[..., Any], width):
    true_frames, true_cond = frames(), cond(width)
    split = data_of((kind(true_frames, tmp_path), kind(true_cond, tmp_path) if width else None)).train
    indices, starts = np.array([5, 0, 2, 2]), np.array([4, 0, 1, 3])
    frames_BTHWC, cond_BTA = split.gather(indices, starts, 5)
    assert (frames_BTHWC.dtype, cond_BTA.dtype, cond_BTA.shape) == (np.uint8, np.float32, (4, 5, width))
    for b, (i, s) in enumerate(zip(indices, starts, strict=True)):
        assert np.array_equal(frames_BTHWC[b], true_frames[i, s : s + 5])
        assert np.array_equal(cond_BTA[b], true_cond[i, s : s + 5])
    assert np.array_equal(split.gather(indices, 0, 3)[0], true_frames[indices, :3])
    assert (len(split), split.lengths.tolist(), split.name(3)) == (N, [T] * N, "3")
    assert np.array_equal(split.cond_NA, true_cond.reshape(N * T, width))
    assert split.cond_NA.dtype == np.float32


def test_sequences_may_differ_in_length():
    lengths = [5, 9, 4]
    sequences = [(frames(1, n, n)[0], cond(2, 1, n, n)[0]) for n in lengths]
    split = data_of(tuple(map(list, zip(*sequences, strict=True)))).train
    assert split.lengths.tolist() == lengths
    frames_BTHWC, cond_BTA = split.gather(np.array([1, 0]), np.array([5, 1]), 4)
    assert np.array_equal(frames_BTHWC, np.stack([sequences[1][0][5:9], sequences[0][0][1:5]]))
    assert np.array_equal(cond_BTA, np.stack([sequences[1][1][5:9], sequences[0][1][1:5]]))
    for whole, sequence in zip(map(split.__getitem__, range(3)), sequences, strict=True):
        assert all(map(np.array_equal, whole, sequence))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", ">f4"])
def test_conditions_of_any_number_type_reach_the_model_as_float32(dtype):
    given = cond(2).astype(dtype)
    split = data_of((frames(), given)).train
    assert split.gather(np.arange(N), 0, T)[1].dtype == split.cond_NA.dtype == split[0][1].dtype == np.float32
    assert np.array_equal(split.cond_NA, given.reshape(-1, 2).astype(np.float32))


def test_statistics_are_those_of_train():
    data = data_of((frames(), cond(2)), (frames(2), cond(2, 2, seed=1)))
    mean_A, std_A = condition_statistics(data)
    assert mean_A == pytest.approx(cond(2).mean(axis=(0, 1)), rel=1e-5)
    assert std_A == pytest.approx(cond(2).std(axis=(0, 1)), rel=1e-5)


# ------------------------------------------------------------------------------------------------- when it is read


def test_the_function_is_called_when_a_split_is_used_and_once():
    calls = []

    def source() -> dict[str, Pair]:
        calls.append(1)
        return {"train": (frames(), None), "validate": (frames(2), None)}

    data = ArrayData(source)
    assert calls == []
    assert (len(data.train), len(data.validate), len(data.train)) == (N, 2, N)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [KeyError("nofile"), ZeroDivisionError("no rows"), MemoryError("much")])
def test_a_function_that_fails_is_named(error):
    def source() -> None:
        raise error

    with pytest.raises(UserError, match=rf"data\.source: .* raises {type(error).__name__}: "):
        ArrayData(source).check()


def test_a_memory_map_is_not_read_whole(tmp_path):
    """Its file is made of holes: 7 GiB that would come into memory if they were read."""
    shape = (20_000, 30, 64, 64, 3)
    np.lib.format.open_memmap(tmp_path / "frames.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
    held = psutil.Process().memory_info().rss
    mapped_frames = np.load(tmp_path / "frames.npy", mmap_mode="r")
    data = data_of((mapped_frames, None), (mapped_frames[:10], None))
    data.check()
    assert len(data.train) == 20_000
    assert data.train.gather(np.array([3, 19_999]), np.array([0, 20]), 10)[0].shape == (2, 10, 64, 64, 3)
    assert psutil.Process().memory_info().rss - held < 2**28


def test_check_calls_the_function_and_keeps_nothing(tmp_path):
    data = ArrayData(partial(np.load, tmp_path / "absent.npy"))
    with pytest.raises(UserError, match=r"data\.source: numpy\.load cannot read its data .*absent\.npy.*check its arguments"):
        data.check()
    calls = []
    data = ArrayData(lambda: calls.append(1) or {"train": (frames(), None), "validate": (frames(), None)})
    data.check()
    data.train  # noqa: B018
    assert len(calls) == 2


# ---------------------------------------------------------------------------------------------------- fingerprint


def test_equal_contents_have_equal_fingerprints_and_others_another(tmp_path):
    def fingerprint(kind: Callable[..., Any] = in_memory, change: str = "") -> str:
        train, validate = (frames(), cond(2)), (frames(2, seed=1), cond(2, 2, seed=1))
        if change:
            which, part = change.split()
            (train if which == "train" else validate)[part == "cond"][1, 3] += 1
        pairs = []
        for name, pair in (("train", train), ("validate", validate)):
            (tmp_path / name).mkdir(exist_ok=True)
            pairs.append(tuple(kind(part, tmp_path / name) for part in pair))
        return data_of(*pairs, normalise=kind is in_memory).fingerprint

    assert {fingerprint(kind) for kind in KINDS} == {fingerprint()}
    changed = {fingerprint(change=f"{which} {part}") for which in ("train", "validate") for part in ("frames", "cond")}
    assert len(changed | {fingerprint()}) == 5


def test_the_fingerprint_of_a_dataset_and_of_each_split():
    """By the formula that old records were made with; the data are read once for all three."""
    train, validate = (frames(), cond(2)), (frames(2, seed=1), cond(2, 2, seed=1))

    def restated(*pairs: Pair) -> str:
        digest = hashlib.sha256()
        for arrays in [part for pair in pairs for sequence in zip(*pair, strict=True) for part in sequence]:
            digest.update(str(arrays.shape).encode() + arrays.tobytes())
        return digest.hexdigest()[:16]

    whole, apart = data_of(train, validate), data_of(train, validate)
    assert whole.fingerprint == restated(train, validate)
    for data in (whole, apart):
        assert (data.train.fingerprint, data.validate.fingerprint) == (restated(train), restated(validate))


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ((frames().astype(np.float32), None), ("sequence 0 has frames float32 9 x 64 x 64 x 3",)),
        ((frames()[..., :32, :], None), ("sequence 0 has frames uint8 9 x 64 x 32 x 3",)),
        ((frames().transpose(0, 1, 4, 2, 3), None), ("uint8 9 x 3 x 64 x 64",)),
        ((frames()[0], None), ("sequence 0 has frames uint8 64 x 64 x 3",)),
        (([frames()[0], frames()[0, ..., :1]], None), ("sequence 1 has frames uint8 9 x 64 x 64 x 1",)),
        (([[[0], 0]], None), ("sequence 0 has frames list, conditions NoneType",)),
        (([3], None), ("sequence 0 has frames int,",)),
        ((None, None), ("is not a pair (frames, conditions)",)),
        ((frames(), 7), ("of as many sequences",)),
        ((frames(0), None), ("at least one",)),
        (frames(3), ("is not a pair (frames, conditions)",)),
        ((frames(), cond(2), "third"), ("is not a pair (frames, conditions)",)),
        ((frames(), cond(2)[1:]), ("of as many sequences",)),
        ((frames(), cond(2)[:, 1:]), ("frames uint8 9 x 64 x 64 x 3, conditions float32 8 x 2",)),
        (
            (frames(), cond(2)[..., 0]),
            (
                "sequence 0 has frames",
                "conditions float32 9:",
            ),
        ),
        (
            (frames(2), [cond(2)[0], cond(3)[0]]),
            (
                "sequence 1 has frames",
                "conditions float32 9 x 3",
            ),
        ),
        ((frames(), cond(2).astype(str)), ("conditions <U",)),
        ((frames(), cond(2) * 1j), ("complex",)),
        (
            (frames(), np.where(cond(2) == cond(2).max(), np.nan, cond(2))),
            (
                "conditions of sequence",
                "hold NaN or infinity",
            ),
        ),
        ((frames(), cond(2).astype(np.float64) * 1e300), ("conditions of sequence", "infinity in float32")),
    ],
)
@pytest.mark.parametrize("name", ["train", "test"])
def test_wrong_arrays_are_one_line_that_names_the_split_and_what_is_needed(name, pair, words):
    good = (frames(2), cond(2, 2))
    data = ArrayData(lambda: {"train": good, "validate": good, name: pair})
    with pytest.raises(UserError) as caught:
        data.train  # noqa: B018
    for word in (f"data.source: {name} of ", "N x T x 64 x 64 x 3", "N x T x A", *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, ("returned NoneType", "a dict with train, validate")),
        ({"train": (frames(), None)}, ("returned a dict of train", "a dict with train, validate")),
        ({"train": (frames(), cond(2)), "validate": (frames(), None)}, ("'train': 2, 'validate': 0", "all splits")),
    ],
)
def test_what_is_no_dict_of_splits_is_one_line(returned, words):
    with pytest.raises(UserError) as caught:
        ArrayData(lambda: returned).check()
    for word in ("test_arrays.test_what_is_no_dict", *words):
        assert word in str(caught.value)


def test_a_test_split_may_be_left_out_until_it_is_asked_for():
    data = data_of((frames(), None))
    with pytest.raises(UserError, match="no test split"):
        data.test  # noqa: B018
    assert isinstance(ArrayData(lambda: dict.fromkeys(("train", "validate", "test"), (frames(), None))).test, ArraySplit)


# ------------------------------------------------------------------------------------------------------- in a run

SOURCE = """
import numpy as np

__all__ = ["load"]

def load(path, width):
    frames = np.load(path, mmap_mode="r")
    cond = np.random.default_rng(0).normal(size=(len(frames), frames.shape[1], width)) if width else None
    halves = [(frames[part], None if cond is None else cond[part]) for part in (slice(0, 4), slice(4, None))]
    return dict(zip(("train", "validate"), halves))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "loaders.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loaders", raising=False)
    np.save(tmp_path / "frames.npy", frames())
    return tmp_path


def config_of(**source: Any) -> dict[str, Any]:
    return {
        "_target_": "cvae.data.arrays.ArrayData",
        "source": {"_target_": "loaders.load", "path": "frames.npy", "width": 2, **source},
    }


@pytest.mark.parametrize("width", [0, 2])
def test_a_run_trains_on_what_one_function_returns(train, package, width):
    (package / "conf/data").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config_of(_partial_=True, width=width)), package / "conf/data/mine.yaml")
    others = [word for word in tiny(package) if not word.startswith("data")]
    words = ["--config-dir", "conf", "data=mine", "allow_targets=[loaders]", "hydra.run.dir=run", *others]
    result = train(*words)
    assert (result.code, result.err) == (0, "")
    assert "loaders.load: 4 train, 2 validate" in result.out
    assert f"{width} values a condition" in result.out


def test_a_function_is_kept_uncalled_and_forgetting_to_say_so_is_one_line(package):
    data = build(OmegaConf.create({"data": config_of(_partial_=True)}).data, ["loaders"])
    assert (str(data), len(data.train)) == ("loaders.load", 4)
    with pytest.raises(UserError, match=r"data\.source is a dict, not a function: add _partial_: true"):
        build(OmegaConf.create({"data": config_of()}).data, ["loaders"])
    with pytest.raises(UserError, match="not allowed"):
        build(OmegaConf.create({"data": config_of(_partial_=True)}).data)
