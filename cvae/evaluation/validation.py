"""Free-running prediction of a whole split, and its scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cvae.data.contract import Split
from cvae.evaluation.metrics import psnr, ssim
from cvae.model.cvae import CVAE

_FUTURES = 64  # decoded at a time: sequences x samples


@dataclass(frozen=True)
class Scores:
    """Means over frames, then over sequences, PSNR in dB. ``best`` takes each sequence's best sample."""

    psnr: float
    ssim: float
    best: float


def images(frames_BTHWC: np.ndarray, device: torch.device | str) -> Tensor:
    """Float ``frames_BTCHW`` in [0, 1] on ``device``; bytes travel."""
    return to_unit(torch.from_numpy(frames_BTHWC).to(device, non_blocking=True))


def to_unit(frames_BTHWC: Tensor) -> Tensor:
    """Bytes to float ``frames_BTCHW`` in [0, 1]; the memory stays channels last."""
    return frames_BTHWC.permute(0, 1, 4, 2, 3).float().div_(255)


def free_run(
    model: CVAE,
    split: Split,
    length: int,
    samples: int,
    seed: int,
    device: torch.device,
    *,
    rows: np.ndarray | None = None,
    shuffled: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predict every sequence once, from its frame 0, given ``model.n_past`` frames; yield ``predicted_SBKCHW, true_BKCHW``.

    z comes from the posterior for given frames and from the prior after. The noise of a sequence and sample depends on
    ``seed`` alone, so scores of one run's epochs differ by the weights only. ``rows`` picks sequences, all by default.
    ``shuffled`` gives each sequence the conditions of the next one: what it costs is what the model makes of them.

    The caller chooses precision (autocast); the model is put in eval mode and left as it was found.
    """
    rows = np.arange(len(split)) if rows is None else rows
    generator = torch.Generator().manual_seed(seed)
    noise_NSTZ = torch.randn(len(split), samples, length, model.latent_dim, generator=generator)
    was_training = model.training
    model.eval()
    try:
        for chunk_B in np.array_split(rows, -(-len(rows) // max(1, _FUTURES // samples))):
            frames_BTHWC, cond_BTA = split.gather(chunk_B, 0, length)
            if shuffled:
                _, cond_BTA = split.gather((chunk_B + 1) % len(split), 0, length)
            frames_BTCHW, cond = images(frames_BTHWC, device), torch.from_numpy(cond_BTA).to(device)
            noise_STBZ = noise_NSTZ[chunk_B].permute(1, 2, 0, 3).to(device)
            with torch.inference_mode():
                predicted_SBKCHW = model.generate(frames_BTCHW[:, : model.n_past], cond, noise_STBZ)
            yield predicted_SBKCHW, frames_BTCHW[:, model.n_past :]
    finally:
        model.train(was_training)


def validate(
    model: CVAE, split: Split, length: int, samples: int, seed: int, device: torch.device, shuffled: bool = False
) -> Scores:
    """Score free-running prediction of a split: PSNR and SSIM of the first sample, PSNR of the best of ``samples``."""
    psnrs_SN, ssims_N = [], []
    for predicted_SBKCHW, true_BKCHW in free_run(model, split, length, samples, seed, device, shuffled=shuffled):
        psnrs_SN.append(psnr(predicted_SBKCHW, true_BKCHW[None]).mean(dim=-1))
        ssims_N.append(ssim(predicted_SBKCHW[0], true_BKCHW).mean(dim=-1))
    psnr_SN = torch.cat(psnrs_SN, dim=1)
    return Scores(psnr=psnr_SN[0].mean().item(), ssim=torch.cat(ssims_N).mean().item(), best=psnr_SN.amax(dim=0).mean().item())


def score_copy(split: Split, n_past: int, length: int) -> tuple[float, float]:
    """The baseline that repeats the last past frame: its PSNR in dB and its root mean squared error."""
    psnrs, squares = [], []
    for rows in np.array_split(np.arange(len(split)), -(-len(split) // _FUTURES)):
        frames_BTCHW = images(split.gather(rows, 0, length)[0], "cpu")
        last, true = frames_BTCHW[:, n_past - 1 : n_past], frames_BTCHW[:, n_past:]
        psnrs.append(psnr(last, true).mean(dim=1))
        squares.append((last - true).square().mean(dim=(1, 2, 3, 4)))
    return torch.cat(psnrs).mean().item(), torch.cat(squares).mean().sqrt().item()
