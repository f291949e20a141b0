"""Predictions of a whole split under a protocol, in pieces that fit into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvae.data.contract import Split
from cvae.errors import UserError
from cvae.evaluation.validation import images
from cvae.model.cvae import CVAE

Conditions = Callable[[Tensor, NDArray[np.int64]], Tensor]  # other conditions for cond_BTA of some rows


@dataclass(frozen=True)
class Piece:
    """Some samples of some videos: ``predicted_SBKCHW``, what was given and what is true, and whose they are."""

    rows_B: NDArray[np.int64]
    samples: slice
    predicted_SBKCHW: Tensor
    given_BPCHW: Tensor
    true_BKCHW: Tensor


@contextlib.contextmanager
def given(model: CVAE, n_past: int) -> Iterator[None]:
    """Let a model in eval mode take ``n_past`` given frames, whatever it was trained with, and leave it as it was found.

    Raises:
        UserError: it takes its skips from the frame before the last given one, and there is none.
    """
    n_past_trained, was_training = model.n_past, model.training
    skip_step = getattr(model, "skip_step", n_past_trained)
    moved = n_past - n_past_trained
    if skip_step + moved < 1:
        raise UserError(
            f"{n_past} given frame is too few for a model with skips=course, which takes them from the frame before the last "
            "given one: choose a protocol with n_past=2 or more"
        )
    model.n_past, model.skip_step = n_past, skip_step + moved
    model.eval()
    try:
        yield
    finally:
        model.n_past, model.skip_step = n_past_trained, skip_step
        model.train(was_training)


def noise(seed: int, rows_B: NDArray[np.int64], samples: slice, length: int, latent_dim: int) -> Tensor:
    """Standard normal ``noise_STBZ``. That of a video and sample depends on the seed and their numbers alone."""
    shape = (samples.stop - samples.start, length, len(rows_B), latent_dim)
    noise_STBZ = np.empty(shape, np.float32)
    for s in range(shape[0]):
        for b, row in enumerate(rows_B):
            generator = np.random.default_rng([seed, int(row), samples.start + s])
            noise_STBZ[s, :, b] = generator.standard_normal((length, latent_dim), np.float32)
    return torch.from_numpy(noise_STBZ)


def pieces(n_videos: int, samples: int, n_future: int, frames: int) -> Iterator[tuple[NDArray[np.int64], list[slice]]]:
    """Rows of a split, and slices of the samples, so that at most ``frames`` frames are predicted at a time (or one sample)."""
    at_once = max(1, frames // n_future)
    step = min(samples, at_once)
    slices = [slice(start, min(start + step, samples)) for start in range(0, samples, step)]
    rows = np.arange(n_videos)
    for chunk in np.array_split(rows, -(-n_videos // max(1, at_once // samples))):
        yield chunk, slices


def futures(
    model: CVAE,
    split: Split,
    n_future: int,
    samples: int,
    seed: int,
    device: torch.device,
    frames: int,
    conditions: Conditions | None = None,
    silent: bool = False,
    videos: int | None = None,
) -> Iterator[Piece]:
    """Predict every sequence from its frame 0, given ``model.n_past`` frames, in pieces of at most ``frames`` frames.

    z comes from the posterior for given frames, from the prior after. Call it within ``given``.

    Args:
        conditions: makes other conditions of the recorded ones.
        silent: with noise 0, that is the prior's mean.
        videos: how many of the sequences, the first ones; None for all.
    """
    n_past = model.n_past
    for rows_B, slices in pieces(len(split) if videos is None else videos, samples, n_future, frames):
        frames_BTHWC, cond = split.gather(rows_B, 0, n_past + n_future)
        frames_BTCHW, cond_BTA = images(frames_BTHWC, device), torch.from_numpy(cond).to(device)
        if conditions is not None:
            cond_BTA = conditions(cond_BTA, rows_B)
        for part in slices:
            noise_STBZ = noise(seed, rows_B, part, n_past + n_future, model.latent_dim).to(device)
            with torch.inference_mode():
                predicted = model.generate(frames_BTCHW[:, :n_past], cond_BTA, noise_STBZ * (0 if silent else 1))
            yield Piece(rows_B, part, predicted, frames_BTCHW[:, :n_past], frames_BTCHW[:, n_past:])
