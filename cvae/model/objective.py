"""The training objective: the sum over scored steps of reconstruction + kl_weight * KL.

Every likelihood here needs of the pixels only their mean squared error, so all share one pass over them. With D = C*H*W
values an image, ``mse`` is the report's and SVG's scale (mean over pixels), the Gaussian ones are sums in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from cvae.errors import UserError, is_number, require
from cvae.model.cvae import Rollout

__all__ = ["MSE", "Gaussian", "Likelihood", "Losses", "Objective", "SigmaOptimal", "kl_divergence"]

_FREE = 1e6  # nats of a dimension; no KL comes near, and far larger numbers are none of a GPU


class Likelihood(Protocol):
    """A decoder distribution: what a squared error costs, and the beta that suits its scale. One of your own needs no more."""

    default_beta: ClassVar[float]
    """What weighs the KL where ``beta`` is null."""

    def __call__(self, mse: Tensor, dims: int) -> Tensor:
        """Mean reconstruction loss of a step, from the batch's MSE (mean over steps and ``dims`` values an image).

        A scalar in, a scalar out, in the same units as ``beta`` times the KL in nats; gradients flow through it.
        """

    def implied_sigma(self, beta: float, dims: int) -> float | None:
        """Deviation, in pixel units, of the Gaussian decoder whose negative ELBO the loss is; None if there is none fixed.

        A run warns at its start where it is far wider than the error of the copy baseline.
        """


class MSE:
    """Mean squared error, as the report and SVG have it."""

    default_beta: ClassVar[float] = 1e-4

    def __call__(self, mse: Tensor, dims: int) -> Tensor:
        return mse

    def implied_sigma(self, beta: float, dims: int) -> float | None:
        # MSE + beta KL = (2 sigma^2 / D) (D MSE / (2 sigma^2) + KL) with sigma^2 = beta D / 2.
        return math.sqrt(beta * dims / 2)


class Gaussian:
    """Negative log-likelihood of a Gaussian decoder with a fixed deviation ``sigma`` (pixel units), in nats.

    ``auto`` is a multiple of an error of the data; who has the data says it with ``measure``.
    """

    default_beta: ClassVar[float] = 1.0

    def __init__(self, sigma: float | str = 0.1) -> None:
        valid = sigma == "auto" or (isinstance(sigma, (int, float)) and not isinstance(sigma, bool) and 1e-6 <= sigma <= 1e6)
        require(valid, "likelihood.sigma", sigma, "give a deviation from 1e-6 to 1e6, in units of pixels in [0, 1], or auto")
        self.auto = sigma == "auto"
        self.sigma = math.nan if self.auto else float(sigma)

    def measure(self, error: float, scale: float) -> None:
        """Take ``scale`` times ``error`` (RMSE, pixel units) as the deviation, in three digits: as it is shown it is used.

        Raises:
            UserError: there is no error.
        """
        if not 0 < error < math.inf:
            raise UserError(f"likelihood.sigma=auto: the data's error is {error:g}, as nothing in them moves: give a number")
        self.sigma = float(f"{scale * error:.3g}")

    def __call__(self, mse: Tensor, dims: int) -> Tensor:
        if math.isnan(self.sigma):
            raise UserError("likelihood.sigma=auto is not measured: call measure, or give a number")
        return dims * (mse / (2 * self.sigma**2) + math.log(self.sigma * math.sqrt(2 * math.pi)))

    def implied_sigma(self, beta: float, dims: int) -> float | None:
        return self.sigma * math.sqrt(beta)


class SigmaOptimal:
    """A Gaussian decoder whose sigma is the optimum for the batch, sigma^2 = MSE (sigma-VAE, Rybkin et al. 2021).

    log sigma is soft-clipped at ``min_log_sigma``, which keeps the loss bounded when a batch is predicted exactly.
    """

    default_beta: ClassVar[float] = 1.0

    def __init__(self, min_log_sigma: float = -6.0) -> None:
        valid = is_number(min_log_sigma) and -50 <= min_log_sigma <= 0
        require(valid, "likelihood.min_log_sigma", min_log_sigma, "give a number in [-50, 0], such as -6: pixels lie in [0, 1]")
        self.min_log_sigma = float(min_log_sigma)

    def __call__(self, mse: Tensor, dims: int) -> Tensor:
        low = self.min_log_sigma
        # The clamp keeps the gradient of log finite at MSE 0; it lies far below the soft clip.
        log_sigma = low + nn.functional.softplus(0.5 * mse.clamp_min(1e-30).log() - low)
        return dims * (log_sigma + 0.5 * mse * torch.exp(-2 * log_sigma) + 0.5 * math.log(2 * math.pi))

    def implied_sigma(self, beta: float, dims: int) -> float | None:
        return None


@dataclass(frozen=True)
class Losses:
    """``total`` to minimise (summed over steps), and its parts as means per scored step, KL in nats before weighting."""

    total: Tensor
    mse: Tensor
    kld: Tensor


class Objective:
    """Likelihood and KL, with free bits (Kingma et al. 2016) and KL balancing (Hafner et al. 2021).

    ``free_bits`` is the nats that each latent dimension may carry a step before the KL costs anything; the KL of a dimension is
    averaged over the batch first. ``kl_balance`` = a weighs a KL(sg(q) || p) + (1 - a) KL(q || sg(p)): the prior is drawn
    to the posterior faster than the posterior to the prior; it needs a learned prior.

    ``mean`` averages over the processes that share a batch. A likelihood and free bits may bend a batch's mean, so they get
    the mean of the whole batch.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        free_bits: float = 0.0,
        kl_balance: float | None = None,
        mean: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        valid = 0 <= free_bits <= _FREE
        require(valid, "free_bits", free_bits, f"give the free nats of a latent dimension, 0 for none, at most {_FREE:g}")
        valid = kl_balance is None or 0 <= kl_balance <= 1
        require(valid, "kl_balance", kl_balance, "give a share in [0, 1], such as 0.8, or null for none")
        self.likelihood, self.free_bits, self.kl_balance, self.mean = likelihood, free_bits, kl_balance, mean

    def __call__(self, rollout: Rollout, frames_BTCHW: Tensor, kl_weight: float | Tensor) -> Losses:
        """Score a rollout against its window's true frames."""
        target_BKCHW = frames_BTCHW[:, rollout.first :]
        # Channels last, as the pixels lie in memory: mse_loss makes its gradient contiguous, whatever it is given.
        mse = self.mean(
            nn.functional.mse_loss(rollout.predictions_BKCHW.permute(0, 1, 3, 4, 2), target_BKCHW.permute(0, 1, 3, 4, 2))
        )
        q, p = (rollout.mu_BKZ, rollout.logvar_BKZ), (rollout.prior_mu_BKZ, rollout.prior_logvar_BKZ)
        kl_KZ = self.mean(kl_divergence(*q, *p).mean(dim=0))
        loss_KZ = kl_KZ
        if self.kl_balance is not None:
            fixed_q, fixed_p = ([part.detach() for part in distribution] for distribution in (q, p))
            to_prior_KZ, to_posterior_KZ = (kl_divergence(*pair).mean(dim=0) for pair in ((*fixed_q, *p), (*q, *fixed_p)))
            loss_KZ = self.mean(self.kl_balance * to_prior_KZ + (1 - self.kl_balance) * to_posterior_KZ)
        if self.free_bits > 0:
            loss_KZ = loss_KZ.clamp_min(self.free_bits)
        steps, dims = target_BKCHW.shape[1], target_BKCHW[0, 0].numel()
        total = steps * self.likelihood(mse, dims) + kl_weight * loss_KZ.sum()
        return Losses(total, mse.detach(), kl_KZ.detach().sum(dim=1).mean())


def kl_divergence(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL(q || p) of diagonal Gaussians, elementwise, in nats (Kingma & Welling 2014, appendix B)."""
    log_ratio = logvar_q - logvar_p
    # Not exp(x) - x - 1, which rounds to less than nothing where q is nearly p, as in a collapsed latent.
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + (mu_q - mu_p).square() * torch.exp(-logvar_p))
