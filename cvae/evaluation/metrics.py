"""Image metrics, one value a frame, for images in [0, 1].

Validation takes every function of ``__all__``; each has its row ``val/NAME`` in ``cvae.metrics``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cvae.errors import UserError

__all__ = ["mse", "psnr", "ssim"]

FrameMetric = Callable[[Tensor, Tensor], Tensor]  # predicted and true images ...CHW to values ...

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_AT_ONCE, _ON_GPU = 8, 1024  # frames: on a CPU their doubles stay in its cache


def mse(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of ``...CHW`` images over channels and pixels, shape ``...``."""
    return (predicted.float() - target.float()).square().mean(dim=(-3, -2, -1))


def psnr(predicted: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of ``...CHW`` images with peak 1, shape ``...``.

    The MSE is clamped at 1e-10, so that a perfect frame counts 100 dB and not infinity.
    """
    return -10 * torch.log10(mse(predicted, target).clamp_min(1e-10))


def ssim(predicted: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of ``...CHW`` images with data range 1, shape ``...`` (Wang et al. 2004).

    Gaussian window of 11 and sigma 1.5, population covariances, mean over the channels and over the positions where the
    window lies within the image. Equals scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1)``.
    """
    shape = torch.broadcast_shapes(predicted.shape, target.shape)
    # Samples of a video share its target, 1BKCHW for SBKCHW: what is known of the target alone is computed once.
    shared = target.dim() == len(shape) and target.shape[0] == 1 and target.shape[1:] == shape[1:]
    y_NCHW = (target if shared else target.expand(shape)).reshape(-1, *shape[-3:])
    x_RNCHW = predicted.expand(shape).reshape(-1, len(y_NCHW), *shape[-3:])
    values_RN = torch.empty(x_RNCHW.shape[:2], device=predicted.device)
    at_once = _ON_GPU if predicted.is_cuda else _AT_ONCE
    for start in range(0, len(y_NCHW), at_once):
        now = slice(start, start + at_once)
        # Double precision: variances are small differences of large squares. Autocast leaves doubles as they are.
        y = y_NCHW[now].double()
        mu_y, yy = _blur(torch.cat([y, y * y])).chunk(2)
        var_y = yy - mu_y * mu_y
        for r, frames_NCHW in enumerate(x_RNCHW[:, now]):
            x = frames_NCHW.double()
            mu_x, xx, xy = _blur(torch.cat([x, x * x, x * y])).chunk(3)
            var_x, cov = xx - mu_x * mu_x, xy - mu_x * mu_y
            similarity = (2 * mu_x * mu_y + _C1) * (2 * cov + _C2) / ((mu_x**2 + mu_y**2 + _C1) * (var_x + var_y + _C2))
            values_RN[r, now] = similarity.mean(dim=(1, 2, 3)).float()
    return values_RN.reshape(shape[:-3])


def _blur(x_NCHW: Tensor) -> Tensor:
    offsets = torch.arange(_WINDOW, device=x_NCHW.device, dtype=x_NCHW.dtype) - _WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights = weights / weights.sum()
    # Matrix products beat single-channel convolutions on a CPU by far at this size.
    return _band(weights, x_NCHW.shape[-2]) @ (x_NCHW @ _band(weights, x_NCHW.shape[-1]).T)


def _band(weights: Tensor, size: int) -> Tensor:
    """The matrix that convolves a row of ``size`` values, without padding."""
    rows = size - len(weights) + 1
    band = weights.new_zeros(rows, size)
    for offset, weight in enumerate(weights):
        band.diagonal(offset).fill_(weight)
    return band


def checked(name: str, function: FrameMetric) -> FrameMetric:
    """A metric of another package, the config's ``metrics.NAME``, with its values checked; it is tried on a few images.

    Raises:
        UserError: it fails, or returns (now or later) something else than a finite value a frame.
    """

    def scored(predicted: Tensor, true: Tensor) -> Tensor:
        values = function(predicted, true)
        if not isinstance(values, Tensor) or values.shape != true.shape[:-3]:
            got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise UserError(f"metrics.{name} returned {got}: give a tensor with a value a frame, {tuple(true.shape[:-3])}")
        if torch.isfinite(predicted).all() and not torch.isfinite(values).all():
            raise UserError(f"metrics.{name} returned NaN or infinity for finite images: a value must be finite")
        return values.float()

    # Not random: a run's numbers stay its own. Several frames of several sequences, as they come later.
    image_BKCHW = torch.linspace(0, 1, 2 * 3 * 3 * 64 * 64).reshape(2, 3, 3, 64, 64)
    given = (image_BKCHW.flip(-1), image_BKCHW.clone())
    try:
        scored(*given)
        if not (torch.equal(given[0], image_BKCHW.flip(-1)) and torch.equal(given[1], image_BKCHW)):
            raise UserError(f"metrics.{name} changes the images that it is given, which others score too: work on a copy")
    except Exception as error:  # another package's function may raise anything
        message = str(error) if isinstance(error, UserError) else f"metrics.{name} raised {type(error).__name__}: {error}"
        raise UserError(message) from error
    return scored
