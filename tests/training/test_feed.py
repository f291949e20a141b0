"""Batches are the split's windows, in order, whichever way they reach the device."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny

from cvae.data.store import VideoData
from cvae.errors import UserError
from cvae.training import feed
from cvae.training.feed import Feed

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LENGTH = 5
WANTED = [(np.array([3, 0]), np.array([0, 25])), (np.array([1, 1]), np.array([7, 2])), (np.array([2, 3]), np.array([25, 11]))]


@pytest.fixture
def split(drawn: Path):
    return VideoData(str(drawn)).train


def expected(split) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows cut from whole sequences, frames in [0, 1]."""
    batches = []
    for indices, starts in WANTED:
        frames, cond = zip(
            *[[part[s : s + LENGTH] for part in split[i]] for i, s in zip(indices, starts, strict=True)], strict=True
        )
        batches.append((np.stack(frames).transpose(0, 1, 4, 2, 3).astype(np.float32) / 255, np.stack(cond)))
    return batches


def assert_as_expected(batches, split) -> None:
    for (frames, cond), (true_frames, true_cond) in zip(batches, expected(split), strict=True):
        assert frames[0].is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(frames.numpy(), true_frames)
        np.testing.assert_array_equal(cond.numpy(), true_cond)


def test_gathered_on_demand(split):
    assert_as_expected(Feed(split, LENGTH, CPU).batches(WANTED), split)


def test_held_on_the_device(split, monkeypatch):
    monkeypatch.setattr(feed, "_fits", lambda *_: True)
    fed = Feed(split, LENGTH, CPU)
    monkeypatch.setattr(split, "gather", None)
    assert_as_expected(fed.batches(WANTED), split)


def test_gathered_ahead_by_one_in_a_thread(split, monkeypatch):
    gather, calls = split.gather, []

    def noted(*words):
        calls.append(threading.current_thread())
        return gather(*words)

    monkeypatch.setattr(split, "gather", noted)
    batches = Feed(split, LENGTH, CPU)._ahead(WANTED)
    first = next(batches)
    for _ in range(200):
        if len(calls) == 2:
            break
        threading.Event().wait(0.01)
    assert len(calls) == 2, "the batch after the one in use, and no more"
    assert_as_expected([first, *batches], split)
    assert threading.main_thread() not in calls
    assert list(Feed(split, LENGTH, CPU)._ahead([])) == []


def test_what_goes_wrong_ahead_is_raised_in_the_trainer(split, monkeypatch):
    monkeypatch.setattr(split, "gather", lambda *_: (_ for _ in ()).throw(OSError("disk gone")))
    with pytest.raises(OSError, match="disk gone"):
        next(Feed(split, LENGTH, CPU)._ahead(WANTED))


@pytest.mark.parametrize(
    ("resident", "free", "held"),
    [("auto", 3.0, True), ("auto", 1.5, False), ("gpu", 1.5, True), ("host", 3.0, False)],
)
def test_frames_stay_on_the_gpu_if_asked_or_if_there_is_room(split, resident, free, held, monkeypatch):
    monkeypatch.setattr(feed, "gpu_memory_left", lambda device: int(free * 4 * 30 * 64 * 64 * 3))
    assert feed._fits(split, CUDA, resident) is held


def test_a_gpu_too_small_is_refused(split, monkeypatch):
    monkeypatch.setattr(feed, "gpu_memory_left", lambda device: 4 * 30 * 64 * 64 * 3 // 2)
    with pytest.raises(UserError, match=r"data\.resident=host"):
        feed._fits(split, CUDA, "gpu")


@pytest.mark.parametrize(("word", "hint"), [("gpu", "data.resident=auto"), ("disk", "choose auto, gpu or host")])
def test_bad_choice_is_one_line(word, hint, drawn, train):
    result = train(*tiny(drawn, f"data.resident={word}", "device=cpu"))
    assert result.code == 1
    assert result.err.startswith("error: data.resident")
    assert hint in result.err
    assert result.err.count("\n") == 1
