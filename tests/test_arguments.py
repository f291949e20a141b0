"""A component's plain arguments have the types that its signature names, and numbers have bounds: each mistake is one line."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from cvae.arguments import refuse_unfit
from cvae.config import build
from cvae.errors import UserError
from cvae.schedules import checked


class Untold:
    def __init__(self, on: bool = True, nowhere: Missing = None) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class Told:
    def __init__(
        self,
        on: bool = True,
        count: int | None = None,
        size: float = 1.0,
        name: str = "a",
        kind: Literal["x", "y"] = "x",
        wrong: int = "default",  # type: ignore[assignment]
        several: list[int] | None = None,
        anything: Any = None,
    ) -> None: ...


@pytest.mark.parametrize(
    "values",
    [
        {"on": False, "count": None, "size": 2, "name": "b", "kind": "y", "wrong": "default"},
        {"count": 3, "several": [1], "anything": [1, {"a": 2}]},
        {"size": {"_target_": "another.component"}},
    ],
)
def test_what_fits_is_taken(values) -> None:
    refuse_unfit(values, "part", Told)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("on", "no", "give true or false"),
        ("on", 1, "give true or false"),
        ("count", 1.0, "give a whole number or null"),
        ("count", True, "give a whole number or null"),
        ("count", [1], "give a whole number or null"),
        ("size", "1", "give a finite number"),
        ("size", float("nan"), "give a finite number"),
        ("size", float("inf"), "give a finite number"),
        ("name", 5, "give a text"),
        ("kind", "z", "give x or y"),
        ("several", "no", "give a list or null"),
    ],
)
def test_what_does_not_is_named_with_what_does(name, value, wanted) -> None:
    with pytest.raises(UserError, match=rf"^part\.{name} is .*: {wanted}$"):
        refuse_unfit({name: value}, "part", Told)


def test_annotations_that_name_nothing_are_passed_over() -> None:
    refuse_unfit({"nowhere": "no"}, "part", Untold)
    with pytest.raises(UserError, match=r"^part\.on is 'no': give true or false"):  # the others are not
        refuse_unfit({"on": "no", "nowhere": "no"}, "part", Untold)


@pytest.mark.parametrize("word", ["_args_", "_recursive_", "_convert_", "_mode_"])
def test_no_word_to_hydra_passes_by_the_names(word) -> None:
    """``_args_`` would give a stranger's folder a place to write to that no check of ``root`` and ``cache_dir`` sees."""
    node = {"_target_": "cvae.data.synthetic.synthetic_push", word: [4, 2, 2, 0, 1, "here", "there"]}
    with pytest.raises(UserError, match=rf"data\.{word} is not allowed"):
        build(OmegaConf.create({"data": node}).data)
    below = {"_target_": node["_target_"], "train": {word: 1}}
    with pytest.raises(UserError, match=rf"data\.train\.{word} is not allowed"):
        build(OmegaConf.create({"data": below}).data)


SMALL = {"data.world": 1, "data.train": 4, "data.validate": 2, "data.test": 0, "model": "tiny", "epochs": 1, "epoch_size": 2}
BAD = [
    ("data.normalise=no", "data.normalise is 'no': give true or false"),
    ("data.random_start=maybe", "data.random_start is 'maybe': give true or false"),
    ("data.train=1.5", "data.train is 1.5: give a"),
    ("data.train=abc", "data.train is 'abc': give a"),
    ("data.train=1000000000000000000000000", "data.train is 1"),
    ("data.world=true", "data.world is True: choose 1 or 2"),
    ("data.world_seed=1.5", "data.world_seed is 1.5: give a whole number"),
    ("data.workers=-1", "data.workers is -1: give a number of processes"),
    ("data.workers=abc", "data.workers is 'abc': give a number of processes"),
    ("optim.fused=no", "optim.fused is 'no': give true or false"),
    ("model.backbone.checkpointing=no", "model.backbone.checkpointing is 'no': give true or false"),
    ("model.n_past=1", "model.n_past is 1: leave it out"),
    ("average=1e-200", "average is 1e-200: give a width"),
    ("kl_schedule.nats=1e308", "nats is 1e+308: give a number in (0, 10000]"),
    ("seed=18446744073709551616", "seed is 18446744073709551616: give a whole number of at most"),
    ("epochs=1000000000000000000000", "epochs is 1000000000000000000000: give a whole number of at most"),
    ("likelihood.sigma=1e200", "likelihood.sigma is 1e+200: give a deviation"),
    ("likelihood.sigma=.inf", "likelihood.sigma is"),
    ("likelihood.sigma=1e-200", "likelihood.sigma is 1e-200: give a deviation"),
    ("sigma_scale=1e300", "sigma_scale is 1e+300"),
]


@pytest.mark.parametrize(("word", "line"), BAD, ids=[word for word, _ in BAD])
def test_a_value_that_cannot_be_is_one_line_before_anything_is_trained(train, word, line) -> None:
    key, _, value = word.partition("=")
    done = train(*(f"{name}={each}" for name, each in {**SMALL, "logger": "none", key: value}.items()))
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert line in done.err


def _raises(t: float) -> float:
    raise KeyError("no")


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        (lambda t: float("nan"), r"kl_schedule\(0\) is nan: a schedule returns a number in \[0, 1\]"),
        (lambda t: 2.0 * t, r"kl_schedule\(0.501\) is 1.002"),
        (lambda t: -t, r"kl_schedule\(0.001\) is -0.001"),
        (lambda t: "half", r"kl_schedule\(0\) is 'half'"),
        (lambda t: None, r"kl_schedule\(0\) is None"),
        (lambda: 1.0, r"kl_schedule\(0\) raises TypeError"),
        (_raises, r"kl_schedule\(0\) raises KeyError: 'no'; it takes a progress"),
    ],
)
def test_a_schedule_that_is_none_is_named(schedule, line) -> None:
    with pytest.raises(UserError, match=line):
        checked("kl_schedule", schedule)
    assert checked("kl_schedule", abs) is abs
