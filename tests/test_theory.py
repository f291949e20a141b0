"""docs/theory.md: its names are the code's, its table is what the code computes, and its bound holds where log p is known."""

from __future__ import annotations

import math
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.distributions import kl_divergence as kl_of_joints

from cvae.evaluation.metrics import psnr
from cvae.model.cvae import Rollout, reparameterise
from cvae.model.objective import MSE, Gaussian, Objective

PAGE = Path(__file__).parents[1].joinpath("docs", "theory.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(cvae\.[^`]*)`", PAGE))))
def test_every_name_on_the_page_is_the_code_s(name: str) -> None:
    assert callable(pkgutil.resolve_name(name))


def test_the_table_of_beta_is_what_the_code_computes() -> None:
    dims = int(re.search(r"\\cdot 64 = (\d+)\$", PAGE)[1])
    without_z = float(re.search(r"if \$e_0 = ([\d.]+)\$ \|", PAGE)[1])
    rows = re.findall(r"^\| ([\d.e-]+) \| ([\d.]+) \| (\S+) dB \| (\S+) nats \|", PAGE, re.MULTILINE)
    assert [float(beta) for beta, *_ in rows] == [1, 1.04e-4, 1e-4, 5e-7]
    for beta, *cells in rows:
        sigma = MSE().implied_sigma(float(beta), dims)
        error = torch.full((3, 64, 64), sigma)
        computed = [sigma, psnr(error, torch.zeros_like(error)).item(), without_z / float(beta)]
        assert [float(cell) for cell in cells] == [float(f"{value:.3g}") for value in computed]


# --- the bound, where nets are matrices and log p is known ------------------------------------------------------------

D, Z, S = 3, 2, 4  # pixels, latent, state
GIVEN, LENGTH, SIGMA = 2, 5, 0.7
LATENTS, PIXELS = (LENGTH - 1) * Z, (LENGTH - GIVEN) * D
MASKS = {"forced": (True, True), "free_running": (False, False), "mixed": (False, True)}  # steps 3 and 4


def draw(seed: int, *shape: int) -> Tensor:
    return 0.6 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STATE, FED, LATENT, OUT = draw(0, S, S), draw(1, D, S), draw(2, Z, S), draw(3, S, D)
PRIOR, SEEN = draw(4, D, Z), draw(5, D, Z)
GIVEN_TD = draw(6, GIVEN, D)
LOGVAR_Q = torch.tensor([-0.9, 0.3], dtype=torch.float64)


@dataclass(frozen=True)
class Linear:
    """The page's model with matrices for nets."""

    forced: tuple[bool, ...]
    learned: bool  # prior

    @property
    def logvar_p(self) -> float:
        return 0.4 if self.learned else 0.0

    def unroll(
        self, latent: Callable[[int, Tensor], Tensor], frame: Callable[[int, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of all steps, and predictions and prior means of the scored ones, each [N, steps, ...].

        ``latent`` makes z_t of the prior's mean, ``frame`` the true frame t of its prediction.
        """
        state, fed = torch.zeros(1, S, dtype=torch.float64), GIVEN_TD[:1]
        latents, predictions, means = [], [], []
        for t in range(1, LENGTH):
            prior_mu = fed @ PRIOR * self.learned
            latents.append(latent(t, prior_mu))
            state = state @ STATE + fed @ FED + latents[-1] @ LATENT
            if t < GIVEN:
                fed = GIVEN_TD[t : t + 1]
                continue
            predictions.append(state @ OUT)
            means.append(prior_mu.expand(len(state), Z))
            if t + 1 < LENGTH:
                fed = frame(t, predictions[-1]) if self.forced[t - GIVEN] else predictions[-1]
        return torch.stack(latents, 1), torch.stack(predictions, 1), torch.stack(means, 1)

    def joint(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of p(z, x | c): what the model does to independent standard normal noise is affine."""
        count = LATENTS + PIXELS
        noise = torch.cat([torch.zeros(1, count, dtype=torch.float64), torch.eye(count, dtype=torch.float64)])
        z_noise, x_noise = noise[:, :LATENTS].unflatten(1, (-1, Z)), SIGMA * noise[:, LATENTS:].unflatten(1, (-1, D))
        warm_up = q_mu(GIVEN_TD)

        def latent(t: int, prior_mu: Tensor) -> Tensor:
            if t < GIVEN:
                return reparameterise(warm_up[t - 1], LOGVAR_Q, z_noise[:, t - 1])
            return prior_mu + math.exp(self.logvar_p / 2) * z_noise[:, t - 1]

        z, predictions, _ = self.unroll(latent, lambda t, prediction: prediction + x_noise[:, t - GIVEN])
        made = torch.cat([z.flatten(1), (predictions + x_noise).flatten(1)], dim=1)
        factor = made[1:] - made[0]
        return made[0], factor.T @ factor

    def evidence(self, x_KD: Tensor) -> Tensor:
        mean, cov = self.joint()
        return MultivariateNormal(mean[LATENTS:], cov[LATENTS:, LATENTS:]).log_prob(x_KD.flatten())

    def posterior(self, x_KD: Tensor) -> MultivariateNormal:
        """p(z | x, c), the true one, of all steps together."""
        mean, cov = self.joint()
        gain = torch.linalg.solve(cov[LATENTS:, LATENTS:], cov[LATENTS:, :LATENTS]).T
        left = cov[:LATENTS, :LATENTS] - gain @ cov[LATENTS:, :LATENTS]
        return MultivariateNormal(mean[:LATENTS] + gain @ (x_KD.flatten() - mean[LATENTS:]), (left + left.T) / 2)

    def bound(self, x_KD: Tensor) -> Tensor:
        """L by the code's objective, its batch 2 * LATENTS draws of z whose mean is exact for what is quadratic in z."""
        mu_TZ = q_mu(torch.cat([GIVEN_TD, x_KD]))
        points = math.sqrt(LATENTS) * torch.eye(LATENTS, dtype=torch.float64).repeat(2, 1)
        points[LATENTS:] *= -1
        z_NTZ = reparameterise(mu_TZ, LOGVAR_Q, points.unflatten(1, (-1, Z)))
        _, predictions, prior_mu = self.unroll(lambda t, _: z_NTZ[:, t - 1], lambda t, _: x_KD[t - GIVEN].expand(1, D))
        rollout = Rollout(
            predictions[:, :, None, None],
            mu_TZ[GIVEN - 1 :].expand_as(prior_mu),
            LOGVAR_Q.expand_as(prior_mu),
            prior_mu,
            torch.full_like(prior_mu, self.logvar_p),
            GIVEN,
        )
        frames = torch.cat([GIVEN_TD, x_KD])[:, None, None].expand(len(points), -1, -1, -1, -1)
        return -Objective(Gaussian(SIGMA))(rollout, frames, kl_weight=1.0).total


def q_mu(frames_TD: Tensor) -> Tensor:
    """Means of q at steps 1, 2, ..: step t has seen frames 1 .. t."""
    means = [torch.zeros(Z, dtype=torch.float64)]
    for x_D in frames_TD[1:]:
        means.append(x_D @ SEEN + 0.5 * means[-1])
    return torch.stack(means[1:])


def q_of(x_KD: Tensor) -> MultivariateNormal:
    return MultivariateNormal(q_mu(torch.cat([GIVEN_TD, x_KD])).flatten(), torch.diag(LOGVAR_Q.exp().repeat(LENGTH - 1)))


@pytest.mark.parametrize("learned", [False, True], ids=["fixed_prior", "learned_prior"])
@pytest.mark.parametrize("mask", MASKS)
def test_log_p_is_the_objective_and_the_kl_to_the_true_posterior(mask: str, learned: bool) -> None:
    """Of a model that is fed as it is trained. Warm-up latents count in the KL to the posterior and not in the objective."""
    model = Linear(MASKS[mask], learned)
    for seed in range(3):
        x_KD = draw(10 + seed, LENGTH - GIVEN, D)
        gap = kl_of_joints(q_of(x_KD), model.posterior(x_KD)).item()
        assert gap > 0.1
        assert model.evidence(x_KD).item() == pytest.approx(model.bound(x_KD).item() + gap, abs=1e-9)
