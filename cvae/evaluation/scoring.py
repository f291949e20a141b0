"""The scores of a split under a protocol, by video and frame: of the model, and of two baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvae.data.contract import Split
from cvae.evaluation.futures import Piece, futures, given
from cvae.evaluation.metrics import FrameMetric
from cvae.evaluation.protocol import Protocol
from cvae.metrics import Metric
from cvae.model.cvae import CVAE

ROWS = {  # how the metrics of protocols are shown; those of a frame have a function
    "psnr": Metric("psnr", "PSNR", "dB", ".2f", "max"),
    "ssim": Metric("ssim", "SSIM", "", ".4f", "max"),
    "lpips": Metric("lpips", "LPIPS", "", ".4f", "min"),
    "fvd": Metric("fvd", "FVD", "", ".1f", "min"),
}
BASELINES = {"copy_last": "repeating the last given frame", "mean_past": "repeating the mean of the given frames"}
Values = NDArray[np.float64]
Features = Callable[[Tensor], NDArray[np.float32]]  # videos NTCHW in [0, 1] to ND


@dataclass
class Scores:
    """Of every metric of frames ``NK``: a row a video, a column a predicted frame; and the features of the videos ``ND``."""

    frames: dict[str, Values] = field(default_factory=dict)
    features: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def score(
    model: CVAE,
    split: Split,
    protocol: Protocol,
    functions: Mapping[str, FrameMetric],
    features: Features | None,
    seed: int,
    device: torch.device,
    frames: int,
    autocast: Callable[[], AbstractContextManager[object]],
    advance: Callable[[int], None] = lambda videos: None,
) -> dict[str, Scores]:
    """Predict a split once and score it: ``model``, every baseline, and ``true``, of which there are only features.

    Of several samples each metric counts the video's best one by its mean over frames, or, if the protocol says so, the best
    one by PSNR. Features are those of sample 0, which is a random one.

    Args:
        functions: of frames, by the metric's name; with psnr.
        frames: predicted frames in memory at a time.
        autocast: makes the context in which the model runs; metrics are computed outside of it.
    """
    n_past, n_future = protocol.frames
    best = _Best(len(split), n_future, functions, protocol.best_of)
    found = {name: Scores() for name in ("model", *BASELINES, "true")}
    rows_of: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
    others: dict[tuple[str, str], list[Values]] = {}
    with given(model, n_past):
        running = futures(model, split, n_future, protocol.samples, seed, device, frames)
        while (piece := _next(running, autocast)) is not None:
            best.take(piece)
            if piece.samples.start == 0:
                for name in BASELINES:
                    still = repeated(name, piece.given_BPCHW).expand_as(piece.true_BKCHW)
                    for metric, function in functions.items():
                        others.setdefault((name, metric), []).append(_array(function(still, piece.true_BKCHW)))
                    _note(rows_of, name, features, still, piece, protocol)
                _note(rows_of, "model", features, piece.predicted_SBKCHW[0], piece, protocol)
                _note(rows_of, "true", features, piece.true_BKCHW, piece, protocol)
            if piece.samples.stop == protocol.samples:
                advance(len(piece.rows_B))
    found["model"].frames = best.values
    for (name, metric), parts in others.items():
        found[name].frames[metric] = np.concatenate(parts)
    for (name, metric), rows in rows_of.items():
        found[name].features[metric] = np.concatenate(rows)
    return found


def repeated(baseline: str, given_BPCHW: Tensor) -> Tensor:
    """The frame ``B1CHW`` that a baseline repeats."""
    return given_BPCHW[:, -1:] if baseline == "copy_last" else given_BPCHW.mean(dim=1, keepdim=True)


def _next(running: Iterator[Piece], autocast: Callable[[], AbstractContextManager[object]]) -> Piece | None:
    with autocast():
        return next(running, None)


def _note(
    rows_of: dict[tuple[str, str], list[NDArray[np.float32]]],
    name: str,
    features: Features | None,
    videos_BKCHW: Tensor,
    piece: Piece,
    protocol: Protocol,
) -> None:
    if features is not None:
        whole = (piece.given_BPCHW.float(), videos_BKCHW.float())
        videos = torch.cat(whole, dim=1) if protocol.fvd_context else whole[1]
        rows_of.setdefault((name, "fvd"), []).append(features(videos))


class _Best:
    """The frames' values of each video's best sample, for every metric."""

    def __init__(self, videos: int, n_future: int, functions: Mapping[str, FrameMetric], best_of: str) -> None:
        self.functions, self.best_of = functions, best_of
        self.values = {name: np.full((videos, n_future), np.nan) for name in functions}
        self.ranks = {name: np.full(videos, -np.inf) for name in functions}

    def take(self, piece: Piece) -> None:
        predicted, true = piece.predicted_SBKCHW.float(), piece.true_BKCHW[None]
        scored = {name: _array(function(predicted, true.expand_as(predicted))) for name, function in self.functions.items()}
        for name, values_SBK in scored.items():
            of = scored["psnr"] if self.best_of == "psnr" else values_SBK
            better = ROWS["psnr" if self.best_of == "psnr" else name].better
            rank_SB = of.mean(axis=2) * (1 if better == "max" else -1)
            rank_SB = np.where(np.isnan(rank_SB), -np.inf, rank_SB)
            first_B = rank_SB.argmax(axis=0)
            columns = np.arange(len(first_B))
            rank_B, rows = rank_SB[first_B, columns], piece.rows_B
            new = (rank_B > self.ranks[name][rows]) | np.isnan(self.values[name][rows, 0])
            self.values[name][rows[new]] = values_SBK[first_B, columns][new]
            self.ranks[name][rows[new]] = rank_B[new]


def _array(values: Tensor) -> Values:
    found: Values = values.double().cpu().numpy()
    return found
