"""The objective against ``torch.distributions`` and against the formulas it is named for, on small random rollouts."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from cvae.errors import UserError
from cvae.model.cvae import Rollout
from cvae.model.objective import MSE, Gaussian, Likelihood, Losses, Objective, SigmaOptimal, kl_divergence

B, K, Z, FIRST = 3, 4, 5, 2
C, H, W = 3, 6, 7
D = C * H * W
WEIGHT = 0.37


def rollout(learned: bool = True) -> tuple[Rollout, Tensor]:
    """A rollout that gradients reach, and the frames it should have predicted."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tensors = [draw(B, K, C, H, W).sigmoid(), draw(B, K, Z), draw(B, K, Z)]
    tensors += [draw(B, K, Z), draw(B, K, Z)] if learned else []
    fixed = [] if learned else [torch.zeros(B, K, Z).double() for _ in range(2)]
    return Rollout(*(x.requires_grad_() for x in tensors), *fixed, FIRST), draw(B, FIRST + K, C, H, W).sigmoid()


def score(likelihood: Likelihood, made: Rollout, frames: Tensor, weight: float = WEIGHT, **settings) -> Losses:
    return Objective(likelihood, **settings)(made, frames, weight)


def kl_BKZ(made: Rollout, stop: str = "") -> Tensor:
    """KL(q || p) elementwise; ``stop`` names the one that gradients do not reach."""
    q, p = [made.mu_BKZ, made.logvar_BKZ], [made.prior_mu_BKZ, made.prior_logvar_BKZ]
    q, p = ([x.detach() for x in one] if name == stop else one for one, name in ((q, "q"), (p, "p")))
    return reference_kl(*(Normal(mu, torch.exp(logvar / 2)) for mu, logvar in (q, p)))


def squares_BK(made: Rollout, frames: Tensor) -> Tensor:
    """The MSE of each image."""
    return (made.predictions_BKCHW - frames[:, FIRST:]).square().mean(dim=(2, 3, 4))


def gradients(total: Tensor, made: Rollout) -> list[Tensor]:
    tensors = [x for field in fields(made) if torch.is_tensor(x := getattr(made, field.name)) and x.requires_grad]
    found = torch.autograd.grad(total, tensors, allow_unused=True)
    return [torch.zeros_like(x) if grad is None else grad for grad, x in zip(found, tensors, strict=True)]


def assert_same(total: Tensor, expected: Tensor, made: Rollout, rel: float = 1e-9) -> None:
    """Value and every gradient agree."""
    assert total.item() == pytest.approx(expected.item(), rel=rel)
    for x, y in zip(gradients(total, made), gradients(expected, made), strict=True):
        assert (x - y).norm() <= rel * y.norm()


@pytest.mark.parametrize("learned", [True, False], ids=["learned_prior", "fixed_prior"])
def test_loss_sums_pixel_means_and_weighted_kl_over_time_and_averages_over_the_batch(learned: bool) -> None:
    made, frames = rollout(learned)
    losses = score(MSE(), made, frames)
    expected = torch.zeros(()).double()
    for k in range(K):
        pixels = sum(squares_BK(made, frames)[b, k] for b in range(B)) / B
        nats = sum(kl_BKZ(made)[b, k].sum() for b in range(B)) / B
        expected = expected + pixels + WEIGHT * nats
    assert_same(losses.total, expected, made)
    # What is logged: means per scored step, KL before weighting.
    assert losses.mse.item() == pytest.approx(squares_BK(made, frames).mean().item(), rel=1e-9)
    assert losses.kld.item() == pytest.approx(kl_BKZ(made).sum(-1).mean().item(), rel=1e-9)


def test_kl_to_the_fixed_prior_is_the_published_formula() -> None:
    made, frames = rollout(learned=False)
    expected = -0.5 * torch.sum(1 + made.logvar_BKZ - made.mu_BKZ.pow(2) - made.logvar_BKZ.exp()) / B
    assert_same(score(MSE(), made, frames, 1.0).total - score(MSE(), made, frames, 0.0).total, expected, made)


def test_gaussian_is_a_negative_log_likelihood_summed_over_pixels_and_steps() -> None:
    made, frames = rollout()
    likelihood = Normal(made.predictions_BKCHW, 0.2)
    expected = -likelihood.log_prob(frames[:, FIRST:]).sum(dim=(1, 2, 3, 4)).mean() + WEIGHT * kl_BKZ(made).sum() / B
    assert_same(score(Gaussian(0.2), made, frames).total, expected, made)


def test_optimal_sigma_is_the_batchs_root_mean_squared_error() -> None:
    made, frames = rollout()
    rmse = squares_BK(made, frames).mean().sqrt().item()
    far_below = SigmaOptimal(min_log_sigma=-40)
    total = score(far_below, made, frames).total
    # Where sigma is optimal the loss does not depend on it: value and gradients are the fixed Gaussian's.
    assert_same(total, score(Gaussian(rmse), made, frames).total, made)
    assert all(total.item() < score(Gaussian(rmse * factor), made, frames).total.item() for factor in (0.9, 1.1))


def test_optimal_sigma_has_the_gradient_of_half_d_log_mse_a_step() -> None:
    made, frames = rollout()
    expected = K * 0.5 * D * squares_BK(made, frames).mean().log()
    total = score(SigmaOptimal(min_log_sigma=-40), made, frames, 0.0).total
    assert_same(total - total.detach() + expected.detach(), expected, made)


@pytest.mark.parametrize("error", [0.0, 1e-12, 1e-4, 0.1], ids="error={}".format)
def test_optimal_sigma_is_softly_clipped_at_exp_minus_6(error: float) -> None:
    made, frames = rollout()
    made = replace(made, predictions_BKCHW=(frames[:, FIRST:] + error).detach().requires_grad_())
    total = score(SigmaOptimal(), made, frames, 0.0).total
    log_sigma = -6 + math.log1p(math.exp(math.log(error) + 6)) if error else -6
    expected = D * (log_sigma + 0.5 * (error / math.exp(log_sigma)) ** 2 + 0.5 * math.log(2 * math.pi))
    assert total.item() == pytest.approx(K * expected, rel=1e-6)
    assert torch.isfinite(gradients(total, made)[0]).all()


@pytest.mark.parametrize(("beta", "sigma", "digits"), [(1e-4, 0.78, 2), (1.0, 78, 0)])
def test_implied_sigma_of_mse_is_the_published_one(beta: float, sigma: float, digits: int) -> None:
    assert round(MSE().implied_sigma(beta, 3 * 64 * 64), digits) == sigma


@pytest.mark.parametrize("beta", [1e-6, 0.3, 1.0])
@pytest.mark.parametrize("likelihood", [MSE(), Gaussian(0.2)], ids=["mse", "gaussian"])
def test_loss_is_beta_times_the_elbo_of_a_decoder_with_the_implied_sigma(likelihood: Likelihood, beta: float) -> None:
    made, frames = rollout()
    elbo = score(Gaussian(likelihood.implied_sigma(beta, D)), made, frames, 1.0).total
    found, expected = gradients(score(likelihood, made, frames, beta).total, made), gradients(elbo, made)
    ratios = torch.cat([(x / y).flatten() for x, y in zip(found, expected, strict=True)])
    assert torch.allclose(ratios / ratios[0], torch.ones_like(ratios), rtol=1e-9, atol=0)


def test_a_sigma_of_the_data_is_a_multiple_of_their_error_in_three_digits() -> None:
    likelihood = Gaussian("auto")
    with pytest.raises(UserError, match="not measured"):
        likelihood(torch.tensor(0.01), D)
    likelihood.measure(0.123456, scale=5)
    assert likelihood.implied_sigma(1.0, D) == 0.617
    assert torch.equal(likelihood(torch.tensor(0.01), D), Gaussian(0.617)(torch.tensor(0.01), D))


@pytest.mark.parametrize("error", [0.0, math.nan, math.inf])
def test_data_without_an_error_give_no_sigma(error: float) -> None:
    with pytest.raises(UserError, match=r"^likelihood\.sigma=auto: the data's error is "):
        Gaussian("auto").measure(error, 6)


def test_learned_sigma_implies_none() -> None:
    assert SigmaOptimal().implied_sigma(1.0, D) is None


@pytest.mark.parametrize("free_bits", [0.0, 0.5, 2.0, 100.0])
def test_free_bits_are_a_floor_for_the_kl_of_each_dimension(free_bits: float) -> None:
    made, frames = rollout()
    losses = score(MSE(), made, frames, free_bits=free_bits)
    kl_KZ = kl_BKZ(made).mean(dim=0)
    below = (kl_KZ < free_bits).sum().item()
    assert 0 < below < K * Z or free_bits in (0.0, 100.0)
    expected = K * squares_BK(made, frames).mean() + WEIGHT * sum(
        torch.clamp(kl_KZ[k, z], min=free_bits) for k in range(K) for z in range(Z)
    )
    assert_same(losses.total, expected, made)
    assert losses.kld.item() == pytest.approx(kl_KZ.sum().item() / K, rel=1e-9)  # the nats there are, not the floor


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_kl_balancing_weighs_what_reaches_prior_and_posterior(share: float) -> None:
    made, frames = rollout()
    losses = score(MSE(), made, frames, kl_balance=share)
    balanced = share * kl_BKZ(made, stop="q") + (1 - share) * kl_BKZ(made, stop="p")
    assert_same(losses.total, K * squares_BK(made, frames).mean() + WEIGHT * balanced.sum() / B, made)
    # Neither part changes what the KL is.
    assert losses.total.item() == pytest.approx(score(MSE(), made, frames).total.item(), rel=1e-9)
    assert losses.kld.item() == pytest.approx(kl_BKZ(made).sum().item() / B / K, rel=1e-9)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("free_bits", -0.1),
        ("free_bits", math.nan),
        ("kl_balance", -0.1),
        ("kl_balance", 1.1),
        ("kl_balance", math.nan),
    ],
)
def test_settings_out_of_range_are_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(UserError, match=key):
        Objective(MSE(), **{key: value})


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan, "wide", None, True])
def test_bad_sigma_is_refused_by_name(sigma: object) -> None:
    with pytest.raises(UserError, match="sigma"):
        Gaussian(sigma)


@pytest.mark.parametrize(("likelihood", "beta"), [(MSE, 1e-4), (Gaussian, 1.0), (SigmaOptimal, 1.0)])
def test_default_beta_suits_the_likelihoods_scale(likelihood: type[Likelihood], beta: float) -> None:
    assert likelihood.default_beta == beta


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6, 1e-8])
def test_a_collapsed_latents_kl_is_small_and_never_negative(apart):
    """In fp32, where 1 + x forgets a small x."""
    generator = torch.Generator().manual_seed(0)
    mu_p, logvar_p = torch.randn(2, 1000, generator=generator)
    mu_q, logvar_q = torch.stack([mu_p, logvar_p]) + apart * torch.randn(2, 1000, generator=generator)
    four = (mu_q, logvar_q, mu_p, logvar_p)
    found = kl_divergence(*four)
    assert found.min() >= 0
    assert found.double().mean() == pytest.approx(kl_divergence(*(x.double() for x in four)).mean().item(), rel=0.01)
