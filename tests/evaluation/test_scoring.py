"""Protocols count every video once, in pieces of any size, on a model so simple that the scores are known."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cvae.data.arrays import ArraySplit
from cvae.errors import UserError
from cvae.evaluation.futures import futures, given, noise
from cvae.evaluation.metrics import psnr, ssim
from cvae.evaluation.protocol import Protocol, protocols
from cvae.evaluation.scoring import Scores, score

CPU, PAST, FUTURE = torch.device("cpu"), 2, 3
FUNCTIONS = {"psnr": psnr, "ssim": ssim}


class Noisy(nn.Module):
    """Continues with the last given frame, made lighter or darker by the noise; an oracle knows the future instead."""

    n_past, skip_step, latent_dim = PAST, PAST, 4

    def __init__(self, truth: np.ndarray | None = None) -> None:
        super().__init__()
        self.truth, self.calls = truth, 0

    def generate(self, past_BTCHW: Tensor, cond_BTA: Tensor, noise_STBZ: Tensor) -> Tensor:
        shape = (len(noise_STBZ), len(past_BTCHW), noise_STBZ.shape[1] - self.n_past, *past_BTCHW.shape[2:])
        if self.truth is not None:
            rows = cond_BTA[:, 0, 0].long().numpy()
            true = torch.from_numpy(self.truth[rows, self.n_past :][:, : shape[2]]).permute(0, 1, 4, 2, 3).float() / 255
            return true.expand(shape)
        shift = noise_STBZ[:, self.n_past :].mean(dim=-1).transpose(1, 2)[..., None, None, None]
        return (past_BTCHW[:, -1:] + 0.1 * shift).clamp(0, 1).expand(shape)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    smooth = np.random.default_rng(1).normal(0, 20, (5, PAST + FUTURE, 16, 16, 3)).cumsum(axis=1) + 128
    return smooth.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def split(frames: np.ndarray) -> ArraySplit:
    return ArraySplit(list(frames), [np.full((PAST + FUTURE, 1), k, np.float32) for k in range(len(frames))])


def scored(model: nn.Module, split: ArraySplit, at_once: int = 1000, **keys: Any) -> dict[str, Scores]:
    protocol = Protocol("mine", n_past=PAST, n_future=FUTURE, **keys)
    return score(model, split, protocol, FUNCTIONS, None, 1, CPU, at_once, contextlib.nullcontext)  # type: ignore[arg-type]


def test_an_oracle_scores_the_cap_and_1(split: ArraySplit, frames: np.ndarray) -> None:
    found = scored(Noisy(frames), split, samples=3)["model"].frames
    assert (found["psnr"] == 100).all()
    np.testing.assert_allclose(found["ssim"], 1, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 4, 7, 12, 1000])
def test_pieces_of_any_size_give_the_same_numbers(split: ArraySplit, at_once: int) -> None:
    whole, pieces = (scored(Noisy(), split, size, samples=6)["model"].frames for size in (10_000, at_once))
    for name in FUNCTIONS:
        assert whole[name].shape == (5, FUTURE)
        np.testing.assert_allclose(whole[name], pieces[name], rtol=1e-5)


def test_each_metric_counts_its_own_best_sample(split: ArraySplit) -> None:
    every = {name: np.empty((6, 5, FUTURE)) for name in FUNCTIONS}
    model = Noisy()
    with given(model, PAST):  # type: ignore[arg-type]
        for piece in futures(model, split, FUTURE, 6, 1, CPU, 3):  # type: ignore[arg-type]
            for name, function in FUNCTIONS.items():
                target = piece.true_BKCHW.expand_as(piece.predicted_SBKCHW)
                every[name][piece.samples, piece.rows_B] = function(piece.predicted_SBKCHW, target).numpy()
    found = scored(model, split, samples=6)["model"].frames
    for name, values_SNK in every.items():
        np.testing.assert_allclose(found[name].mean(axis=1), values_SNK.mean(axis=2).max(axis=0), rtol=1e-5)
    by_psnr = scored(model, split, samples=6, best_of="psnr")["model"].frames
    chosen = every["psnr"].mean(axis=2).argmax(axis=0)
    np.testing.assert_allclose(by_psnr["ssim"], every["ssim"][chosen, np.arange(5)], rtol=1e-5)


def test_the_copy_baseline_is_ten_lines_of_numpy(split: ArraySplit, frames: np.ndarray) -> None:
    found = scored(Noisy(), split)
    videos = frames.astype(np.float64) / 255
    for name, still in (("copy_last", videos[:, PAST - 1]), ("mean_past", videos[:, :PAST].mean(axis=1))):
        errors = ((videos[:, PAST:] - still[:, None]) ** 2).mean(axis=(2, 3, 4))
        np.testing.assert_allclose(found[name].frames["psnr"], -10 * np.log10(errors), rtol=1e-5)


def test_noise_is_that_of_the_video_and_the_sample() -> None:
    rows = np.arange(3)
    whole = noise(7, rows, slice(0, 5), 4, 2)
    assert torch.equal(noise(7, rows[1:], slice(2, 4), 4, 2), whole[2:4, :, 1:])
    assert not torch.equal(noise(8, rows, slice(0, 5), 4, 2), whole)


def test_other_given_frames_and_a_model_that_cannot() -> None:
    model = Noisy().train()
    with given(model, 1):  # type: ignore[arg-type]
        assert (model.n_past, model.skip_step, model.training) == (1, 1, False)
    assert (model.n_past, model.skip_step, model.training) == (PAST, PAST, True)
    model.skip_step = PAST - 1  # skips=course
    with pytest.raises(UserError, match="skips=course"), given(model, 1):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "protocol=course"),
        ({"n_past": 2}, "@package protocol.NAME"),
        ({"m": {"n_pasts": 2}}, "protocol.m has no n_pasts: its keys are kind, n_past"),
        ({"m": {"n_past": 0}}, "protocol.m.n_past is 0"),
        ({"m": {"samples": 0}}, "protocol.m.samples is 0"),
        ({"m": {"samples": "many"}}, "protocol.m.samples is 'many'"),
        ({"m": {"metrics": ["ssim"]}}, "protocol.m.metrics is"),
        ({"m": {"metrics": 5}}, "protocol.m.metrics is 5: give a list of metrics"),
        ({"m": {"metrics": {"psnr": 1}}}, "protocol.m.metrics is {'psnr': 1}"),
        ({"m": {"bar": float("nan")}}, "protocol.m.bar is nan"),
        ({"m": {"best_of": "luck"}}, "choose metric or psnr"),
        ({"m": {"kind": "odd"}}, "choose scores, diagnosis"),
        ({"../m": {}}, "a protocol is named by letters"),
    ],
)
def test_bad_protocols_are_one_line(node: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        protocols(node)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
