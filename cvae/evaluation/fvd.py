"""Fréchet video distance (Unterthiner et al. 2018): how far the features of predicted videos are from those of true ones.

The feature net is a TorchScript file, and to load one is to run its code: it is only ever the file that the user's own command
names (``fvd.weights=FILE``). The usual one is I3D, trained on Kinetics-400 (Carreira & Zisserman 2017), as a TorchScript file:
400 features, the logits.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cvae.errors import UserError, first_line
from cvae.evaluation.weights import named_file, sha256_of_file

SIZE = 224  # pixels: the height and the width that the net is given

_KEY = "fvd.weights"
_HINT = (
    f"give {_KEY}=FILE, a TorchScript file from a source that you trust, such as i3d_torchscript.pt "
    "(linked in https://github.com/universome/fvd-comparison)"
)
_I3D = {"rescale": False, "resize": False, "return_features": True}  # switches of i3d_torchscript.pt: frames come prepared
_RESAMPLES = 200

Features = NDArray[np.float32]


class VideoFeatures:
    """A net that makes of each video a row of features: ``videos_NTCHW`` in [0, 1] to ``features_ND``, on the CPU in float32.

    The net is given ``videos_NCTHW`` of 224 x 224 pixels in [-1, 1]: each frame is stretched bilinearly, with pixel centres at
    halves and without antialiasing. Where its ``forward`` has I3D's switches ``rescale``, ``resize`` and ``return_features``,
    they are set to false, false and true. It runs in eval mode and single precision, at most ``frames`` frames at a time (and
    at least a video), so memory does not grow with the number of videos; a video's features take 1.6 kB with I3D.
    """

    def __init__(self, weights: Path, frames: int = 64) -> None:
        self.frames = frames
        self.weights = weights
        self.sha256 = sha256_of_file(weights, _KEY)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript is deprecated; its files are what the field shares
                self._net = torch.jit.load(weights, map_location="cpu").eval()
            known = {argument.name for argument in self._net.forward.schema.arguments}
        except Exception as error:  # of many types
            raise UserError(f"{_KEY}={weights} is no TorchScript file ({first_line(error)}): {_HINT}") from error
        self._switches = {name: value for name, value in _I3D.items() if name in known}

    def __call__(self, videos_NTCHW: Tensor) -> Features:
        """Raises UserError where the net fails on such videos, or returns something else than a finite row a video."""
        self._net.to(videos_NTCHW.device)
        chunk = max(1, self.frames // videos_NTCHW.shape[1])
        return np.concatenate([self._rows(part) for part in videos_NTCHW.split(chunk)])

    def _rows(self, videos_NTCHW: Tensor) -> Features:
        videos, frames = videos_NTCHW.shape[:2]
        try:
            with torch.inference_mode(), torch.autocast(videos_NTCHW.device.type, enabled=False):
                small = videos_NTCHW.flatten(0, 1).float()
                large = 2 * functional.interpolate(small, (SIZE, SIZE), mode="bilinear", align_corners=False) - 1
                rows_ND = self._net(large.unflatten(0, (videos, frames)).transpose(1, 2).contiguous(), **self._switches)
        except Exception as error:  # the net's own code may raise anything
            asked = f"{frames} frames of {SIZE}x{SIZE} pixels"
            raise UserError(f"{_KEY}={self.weights} fails on videos of {asked} ({_brief(error)}): {_HINT}") from error
        if not isinstance(rows_ND, Tensor) or rows_ND.ndim != 2 or len(rows_ND) != videos:
            got = f"shape {tuple(rows_ND.shape)}" if isinstance(rows_ND, Tensor) else type(rows_ND).__name__
            raise UserError(f"{_KEY}={self.weights} returned {got} for {videos} videos: a row of features a video is needed")
        if not torch.isfinite(rows_ND).all() and torch.isfinite(videos_NTCHW).all():
            raise UserError(f"{_KEY}={self.weights} returned NaN or infinity for finite videos: {_HINT}")
        features_ND: Features = rows_ND.float().cpu().numpy()
        return features_ND


def features(weights: str | os.PathLike[str] | None, frames: int = 64) -> VideoFeatures:
    """The feature net of ``fvd.weights``.

    Raises:
        UserError: no file is named, it is missing, or no TorchScript; one line that says how to get it.
    """
    if weights is None:
        raise UserError(f"FVD needs a feature net, and none is named: {_HINT}")
    return VideoFeatures(named_file(weights, _KEY, _HINT), frames)


def frechet_distance(a_ND: NDArray[np.floating], b_ND: NDArray[np.floating]) -> float:
    r"""Fréchet distance between Gaussians fitted to two sets of features: ``|m - n|^2 + tr(A + B - 2 (A B)^(1/2))``.

    A and B are covariances with N - 1 in the denominator (Dowson & Landau 1982; Heusel et al. 2017). No square root of a matrix
    is taken: with ``A = X'X`` and ``B = Y'Y``, where X and Y are centred features over ``sqrt(N - 1)``, the trace of the root
    is the sum of the singular values of ``X Y'``. They are real and not negative also where covariances are singular, as they
    are with fewer videos than features.

    Raises:
        UserError: a set has fewer than two videos, which have no covariance.
    """
    (mean_a, factor_a), (mean_b, factor_b) = _gaussian(a_ND), _gaussian(b_ND)
    if not all(np.isfinite(part).all() for part in (mean_a, factor_a, mean_b, factor_b)):
        return float("nan")  # a model that diverged
    root = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    spread = np.square(factor_a).sum() + np.square(factor_b).sum()
    return max(0.0, float(np.square(mean_a - mean_b).sum() + spread - 2 * root))  # rounding may leave -1e-12


def frechet_interval(
    predicted_SND: NDArray[np.floating], true_ND: NDArray[np.floating], seed: int, resamples: int = _RESAMPLES
) -> tuple[float, float, float]:
    """The distance of all samples to the true videos, and the ends of its 95 % interval over videos.

    ``predicted_SND[s, i]`` is of the same video as ``true_ND[i]``; one sample may also be given as ``ND``.

    Videos are drawn anew with replacement, predicted and true together. The interval is the distance plus and minus 1.96
    deviations of the distances so drawn, and not their quantiles: repeated videos have less spread, which shifts the
    distance itself. It tells how far the number moves with the choice of as many videos; it does not take away that a distance
    from few videos is larger than one from many. All three are NaN where a model diverged.
    """
    videos, dims = true_ND.shape

    def of(rows: NDArray[np.int64]) -> float:
        return frechet_distance(predicted_SND[..., rows, :].reshape(-1, dims), true_ND[rows])

    distance = of(np.arange(videos))
    if not np.isfinite(distance):
        return distance, distance, distance
    drawn = [of(rows) for rows in np.random.default_rng(seed).integers(0, videos, (resamples, videos))]
    half = 1.96 * float(np.std(drawn, ddof=1))
    return distance, max(0.0, distance - half), distance + half


def _gaussian(features_ND: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and a factor X of the covariance ``X'X``, with at most D rows."""
    rows = np.asarray(features_ND, np.float64)
    if len(rows) < 2:
        raise UserError(f"FVD needs at least 2 videos and got {len(rows)}: a split of more videos has one")
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        mean = rows.mean(axis=0)
        centred = (rows - mean) / np.sqrt(len(rows) - 1)
    if len(rows) <= rows.shape[1]:
        return mean, centred
    return mean, np.asarray(np.linalg.qr(centred, mode="r"))


def _brief(error: Exception) -> str:
    """What an error of TorchScript says: its last line, before which stands the traceback of the net's own code."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:120]
