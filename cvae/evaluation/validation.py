"""Free-running prediction of a whole split, and its scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from cvae.data.contract import Dataset, Indices, Split, training_windows
from cvae.evaluation import metrics
from cvae.evaluation.metrics import FrameMetric, psnr
from cvae.model.cvae import CVAE

_FUTURES = 64  # decoded at a time: sequences x samples
_MEASURED = 256  # windows of the train split


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

    z comes from the posterior for given frames and from the prior after. The noise depends on ``seed``, the split's size,
    ``samples`` and ``length``, which a run keeps: scores of its epochs differ by the weights only. ``rows`` picks sequences,
    all by default. ``shuffled`` gives each sequence the conditions of the next one: what it costs is what the model makes of
    them.

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


BUILT_IN: dict[str, FrameMetric] = {name: getattr(metrics, name) for name in metrics.__all__}


def validate(
    model: CVAE,
    split: Split,
    length: int,
    samples: int,
    seed: int,
    device: torch.device,
    functions: Mapping[str, FrameMetric] = BUILT_IN,
    shuffled: bool = False,
) -> dict[str, float]:
    """Score free-running prediction of a split by functions of its frames: means over frames, then over sequences.

    The first sample is scored. If there are several, ``psnr_best`` is the PSNR of each sequence's best one, and ``psnr_mid``
    the mean of these two.
    """
    values_N: dict[str, list[Tensor]] = {}
    for predicted_SBKCHW, true_BKCHW in free_run(model, split, length, samples, seed, device, shuffled=shuffled):
        with torch.autocast(device.type, enabled=False):
            predicted_SBKCHW = predicted_SBKCHW.float()
            scores_B = {name: score(predicted_SBKCHW[0], true_BKCHW).mean(dim=-1) for name, score in functions.items()}
            if samples > 1:
                psnr_SB = psnr(predicted_SBKCHW, true_BKCHW[None]).mean(dim=-1)
                scores_B["psnr_best"] = psnr_SB.amax(dim=0)
                scores_B["psnr_mid"] = (psnr_SB[0] + scores_B["psnr_best"]) / 2
        for name, each_B in scores_B.items():
            values_N.setdefault(name, []).append(each_B)
    return {name: torch.cat(each).mean().item() for name, each in values_N.items()}


def score_copy(split: Split, n_past: int, length: int, windows: tuple[Indices, Indices] | None = None) -> tuple[float, float]:
    """The baseline that repeats the last past frame: its PSNR in dB and its root mean squared error.

    ``windows`` are sequences and their start frames; by default every sequence once, from frame 0.
    """
    indices_N, starts_N = windows or (np.arange(len(split)), np.zeros(len(split), np.int64))
    psnrs, squares = [], []
    for rows in np.array_split(np.arange(len(indices_N)), -(-len(indices_N) // _FUTURES)):
        frames_BTCHW = images(split.gather(indices_N[rows], starts_N[rows], length)[0], "cpu")
        last, true = frames_BTCHW[:, n_past - 1 : n_past], frames_BTCHW[:, n_past:]
        psnrs.append(psnr(last, true).mean(dim=1))
        squares.append((last - true).square().mean(dim=(1, 2, 3, 4), dtype=torch.float64))
    return torch.cat(psnrs).mean().item(), torch.cat(squares).mean().sqrt().item()


def error_of(data: Dataset, n_past: int, length: int) -> float:
    """The error that ``likelihood.sigma=auto`` is a multiple of (``cvae.model.objective.Gaussian.measure``).

    It is the root mean squared error, in units of pixels in [0, 1], of repeating the last of ``n_past`` frames in windows of
    the train split, taken as training takes them: always the same 256, whatever the run's seed. Validation takes no part.
    """
    split, fixed = data.train, {"seed": 0, "epoch": 0, "batches": 1, "batch_size": _MEASURED}
    indices, starts = training_windows(split.lengths, **fixed, length=length, random_start=data.random_start)
    return score_copy(split, n_past, length, (indices[0], starts[0]))[1]
