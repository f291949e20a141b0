"""Splits and cuts, without any file."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterator

import numpy as np
import pytest

from cvae.data.convert.command import share
from cvae.data.convert.episodes import BadEpisode, Cut, Episode, split_episodes
from cvae.errors import UserError

NONE: dict[str, float | None] = {"validate": None, "test": None}


def episodes(count: int, split: str | None = None, name: str = "take {}") -> list[Episode]:
    return [Episode(name.format(k), f"file {k}", k, split) for k in range(count)]


def places(found: list[Episode]) -> dict[str, str | None]:
    return {episode.name: episode.split for episode in found}


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [
        (30, NONE, (24, 3, 3)),
        (5, NONE, (3, 1, 1)),
        (10_000, NONE, (9488, 256, 256)),
        (30, {"validate": 7.0, "test": 0.0}, (23, 7, 0)),
        (30, {"validate": 0.2, "test": 0.5}, (9, 6, 15)),
        (30, {"validate": 0.001, "test": None}, (26, 1, 3)),
    ],
)
def test_how_many_go_where(count: int, wanted: dict[str, float | None], expected: tuple[int, ...]) -> None:
    found = [episode.split for episode in split_episodes(episodes(count), wanted)]
    assert tuple(map(found.count, ("train", "validate", "test"))) == expected


def test_the_choice_depends_on_names_alone() -> None:
    one = split_episodes(episodes(100), {"validate": 10.0, "test": 10.0})
    other = split_episodes(episodes(100)[::-1], {"validate": 10.0, "test": 10.0})
    assert one == other
    more = places(split_episodes(episodes(110), {"validate": 10.0, "test": 10.0}))
    assert sum(more[name] == split for name, split in places(one).items()) >= 80


def test_splits_of_the_source_stay() -> None:
    source = [*episodes(20, "train"), *episodes(4, "test", "other {}")]
    found = split_episodes(source, NONE)
    assert sum(episode.split == "test" for episode in found) == 4
    assert sum(episode.split == "validate" for episode in found) == 2
    with pytest.raises(UserError, match="a test split of its own"):
        split_episodes(source, {"validate": None, "test": 3.0})


def test_order_is_that_of_folders() -> None:
    found = split_episodes([*episodes(12, "train"), *episodes(12, "validate")], {"validate": None, "test": 0.0})
    assert [episode.name for episode in found] == [f"take {k}" for k in range(12)] * 2


def test_too_few_and_two_of_a_name() -> None:
    with pytest.raises(UserError, match="one each"):
        split_episodes(episodes(1), NONE)
    with pytest.raises(UserError, match="one each"):
        split_episodes(episodes(4), {"validate": 3.0, "test": 1.0})
    with pytest.raises(UserError, match="would both be called take 1"):
        split_episodes([*episodes(3, "train"), Episode("take 1", "another", 9, "train")], {"validate": 1.0, "test": 0.0})


@pytest.mark.parametrize("text", ["-1", "1.5", "nan", "inf", "many"])
def test_no_share(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="neither a number"):
        share(text)


def steps(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for t in range(count):
        yield np.full((64, 64, 3), t, np.uint8), np.array([t, -t], np.float64)


@pytest.mark.parametrize(
    ("cut", "count", "expected"),
    [
        (Cut(), 30, [range(30)]),
        (Cut(), 29, [range(29)]),
        (Cut(), 65, [range(30), range(30, 60), range(60, 65)]),
        (Cut(stride=4, clip=5), 27, [range(0, 20, 4), range(20, 27, 4)]),
    ],
)
def test_cuts(cut: Cut, count: int, expected: list[range]) -> None:
    found = list(cut.sequences(steps(count)))
    assert [list(frames_THWC[:, 0, 0, 0]) for frames_THWC, _ in found] == [list(each) for each in expected]
    assert [list(cond_TA[:, 0]) for _, cond_TA in found] == [list(each) for each in expected]
    assert all(cond_TA.dtype == np.float32 for _, cond_TA in found)


def broken(error: BaseException) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield from steps(3)
    raise error


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (steps(0), "no frames"),
        (broken(KeyError("x")), "cannot be read"),
        (broken(MemoryError()), "more memory"),
        (iter([(np.zeros((64, 64, 3), np.uint8), np.array([1e39]))]), "too large for float32"),
        (iter([(np.zeros((64, 64, 3), np.uint8), np.array([np.nan]))]), "NaN"),
    ],
)
def test_what_goes_wrong_is_the_episodes(source: Iterator, why: str) -> None:
    with pytest.raises(BadEpisode, match=why):
        list(Cut().sequences(source))
