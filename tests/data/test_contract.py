"""A class with the contract's members, and no others, is a dataset."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny

from cvae.data.arrays import ArraySplit
from cvae.data.contract import check_lengths, condition_statistics
from cvae.errors import UserError

# Written from the docstrings of cvae/data/contract.py alone.
STRANGER = '''
import numpy as np


class Flashes:
    """Grey frames whose brightness is the condition; sequences of different lengths, made when they are asked for."""

    __slots__ = ("count",)

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    @property
    def lengths(self):
        return 9 + np.arange(self.count) % 3

    @property
    def cond_NA(self):
        return np.concatenate([self._rows(i, 0, n) for i, n in enumerate(self.lengths)])

    @property
    def fingerprint(self):
        return f"{self.count} flashes, version 1"

    def name(self, index):
        return f"flash {index}"

    def gather(self, indices, starts, length):
        starts = np.broadcast_to(starts, len(indices))
        cond = np.stack([self._rows(i, s, length) for i, s in zip(indices, starts)])
        grey = (127 * (1 + cond[:, :, :1])).astype(np.uint8)[..., None, None]
        return np.broadcast_to(grey, (*cond.shape[:2], 64, 64, 3)).copy(), cond

    def _rows(self, index, start, length):
        t = np.arange(start, start + length)
        return np.stack([np.sin(index + t), np.cos(index + t)], axis=1).astype(np.float32)


class FlashData:
    __slots__ = ("broken", "normalise", "random_start", "resident")

    def __init__(self, broken=None, disk=None):
        import os

        if disk is not None and not os.path.isdir(disk["path"]):
            from cvae.errors import UserError

            raise UserError(f"{disk['path']} is not there: give data.disk.path=")
        self.broken, self.normalise, self.random_start, self.resident = broken, True, True, "auto"

    @property
    def train(self):
        return Flashes(5)

    @property
    def validate(self):
        return Flashes(2)

    @property
    def test(self):
        return Flashes(1)

    @property
    def fingerprint(self):
        return "flashes, version 1"

    def check(self):
        if self.broken:
            from cvae.errors import UserError

            raise UserError(f"{self.broken} is not there: fetch it")
'''


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides that train on a dataset of a package of its own."""
    (tmp_path / "flashes.py").write_text(STRANGER)
    (tmp_path / "conf/data").mkdir(parents=True)
    (tmp_path / "conf/data/flashes.yaml").write_text("_target_: flashes.FlashData\nbroken: null\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flashes", raising=False)
    others = [word for word in tiny(tmp_path) if not word.startswith("data")]
    return ["--config-dir", str(tmp_path / "conf"), "data=flashes", "allow_targets=[flashes]", *others]


def test_a_class_with_the_contracts_members_trains_and_resumes(train, stranger):
    result = train(*stranger, "sample_every=1", "hydra.run.dir=run")
    assert (result.code, result.err) == (0, "")
    assert ": 5 train, 2 validate" in result.out
    assert "2 values a condition" in result.out
    assert Path("run/samples/epoch_0002.gif").exists()
    assert '"dataset": "flashes, version 1"' in Path("run/run.json").read_text()


def test_the_place_of_a_strangers_data_may_change_and_its_evaluation_follows(train, command, stranger):
    """A key of the stranger's own, inside a mapping, says where they lie."""
    Path("here").mkdir()
    assert train(*stranger, "+data.disk={path: here}", "epochs=1", "hydra.run.dir=run").code == 0
    Path("here").rename("there")
    moved = ("allow_targets=[flashes]", "+data.disk.path=there")
    again = train("resume=run", "evaluate=[diagnosis]", *moved)
    assert (again.code, again.err) == (0, "")
    assert Path("run/eval/diagnosis.json").exists(), again.out
    words = ("evaluate", "run=run", "protocol=diagnosis")
    assert "here is not there" in command(*words, moved[0]).err
    assert command(*words, *moved).code == 0
    assert command("predict", "run=run", *moved).code == 0
    assert "data.disk.size is 3: only the place" in command(*words, "+data.disk.size=3").err


class Odd(ArraySplit):
    """A split that is not what it should be."""

    def __init__(self, **members: Any) -> None:
        super().__init__([np.zeros((9, 64, 64, 3), np.uint8)] * 3, [np.ones((9, 2), np.float32)] * 3)
        self.__dict__ |= members


def as_floats(indices: Any, starts: Any, length: int) -> Any:
    return np.zeros((len(indices), length, 64, 64, 3), np.float32), np.zeros((len(indices), length, 2), np.float32)


def with_conditions(change: Callable[[Any], Any]) -> Callable[..., Any]:
    def gather(indices: Any, starts: Any, length: int) -> Any:
        return np.zeros((len(indices), length, 64, 64, 3), np.uint8), change(np.ones((len(indices), length, 2), np.float32))

    return gather


def raising(indices: Any, starts: Any, length: int) -> Any:
    raise IndexError("no such window")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (
            {"gather": with_conditions(lambda cond_BTA: cond_BTA[..., :1])},
            r"conditions of shape \(2, 2, 1\) that are not the rows",
        ),
        (
            {"gather": with_conditions(lambda cond_BTA: cond_BTA[:, :, 0])},
            r"conditions of shape \(2, 2\) that are not the rows",
        ),
        ({"gather": with_conditions(lambda cond_BTA: 2 * cond_BTA)}, "not the rows of cond_NA"),
        ({"gather": raising}, "gather raises IndexError: no such window"),
        ({"cond_NA": np.ones((26, 2), np.float32)}, "lengths of 27 frames and 26 rows of conditions"),
        ({"gather": as_floats}, "gather returns frames as float32 of shape .*: uint8"),
        ({"lengths": [9, 9, 9]}, "lengths .*an array of a whole number for each sequence"),
        ({"fingerprint": b"bytes"}, "fingerprint b'bytes': a text is needed"),
        ({"cond_NA": np.full((27, 2), np.nan, np.float32)}, r"cond_NA are no finite numbers N x A \(row 0\)"),
    ],
)
def test_a_split_that_is_not_as_the_contract_says_is_named(members: dict[str, Any], said: str) -> None:
    data = Data([9, 9, 9])
    data.train = Odd(**members)
    with pytest.raises(UserError, match=f"^train of a box.*{said}"):
        check_lengths(data, 2, 3)


def test_a_multirun_asks_a_strangers_dataset_whether_its_data_are_there(train, stranger):
    words = ["~data", "data={_target_: flashes.FlashData, broken: disk 7}", "allow_targets=[flashes]", *stranger[4:]]
    result = train("-m", *words, "seed=1,2")
    assert (result.code, result.err) == (1, "error: disk 7 is not there: fetch it\n")
    assert not Path("multirun").exists()


class Data:
    """As much of a dataset as what is asked about it needs."""

    def __init__(self, lengths: list[int], cond: list[np.ndarray] | None = None, normalise: bool = True) -> None:
        self.train = self.validate = ArraySplit([np.zeros((n, 64, 64, 3), np.uint8) for n in lengths], cond)
        self.normalise = normalise

    def __str__(self) -> str:
        return "a box"


def test_a_sequence_that_is_too_short_is_named():
    check_lengths(Data([5, 4, 9]), 2, 2)
    with pytest.raises(UserError, match=r"train/1 of a box has 4 frames where .* 2 \+ 3 = 5 are needed: lower n_future"):
        check_lengths(Data([5, 4, 9]), 2, 3)


@pytest.mark.parametrize("normalise", [True, False])
def test_statistics_of_no_conditions_are_empty(normalise):
    mean_A, std_A = condition_statistics(Data([4, 5], None, normalise))
    assert mean_A.shape == std_A.shape == (0,)
