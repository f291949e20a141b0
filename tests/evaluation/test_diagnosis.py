"""A diagnosis tells models apart whose use of latent and conditions is known."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cvae.data.arrays import ArraySplit
from cvae.evaluation.diagnosis import Diagnosis, sentences
from cvae.evaluation.protocol import Protocol
from cvae.model.cvae import Rollout

PAST, FUTURE, VIDEOS = 2, 4, 3


class Level(nn.Module):
    """Frames are grey; the true level of frame t is 0.5 + 0.1 cond[t-1] + 0.1 z, of which a model may know either part."""

    n_past, skip_step, latent_dim = PAST, PAST, 3

    def __init__(self, latent: bool, conditions: bool) -> None:
        super().__init__()
        self.latent, self.conditions = latent, conditions
        self.cond_mean_A = torch.zeros(1)

    def _frames(self, cond_BK: Tensor, z_SBK: Tensor) -> Tensor:
        level_SBK = 0.5 + 0.1 * self.conditions * cond_BK + 0.1 * self.latent * z_SBK
        return level_SBK[..., None, None, None].expand(*level_SBK.shape, 3, 16, 16)

    def generate(self, past_BTCHW: Tensor, cond_BTA: Tensor, noise_STBZ: Tensor) -> Tensor:
        z_SBK = noise_STBZ[:, PAST:, :, 0].transpose(1, 2)
        return self._frames(cond_BTA[:, PAST - 1 : -1, 0], z_SBK)

    def forward(self, frames_BTCHW: Tensor, cond_BTA: Tensor, forced_T: Tensor, noise_TBZ: Tensor) -> Rollout:
        known_BK = cond_BTA[:, PAST - 1 : -1, 0]
        z_BK = (frames_BTCHW[:, PAST:].mean(dim=(2, 3, 4)) - 0.5 - 0.1 * known_BK) / 0.1
        mu_BKZ = torch.stack([z_BK * self.latent, *[torch.zeros_like(z_BK)] * 2], dim=-1)
        zero = torch.zeros_like(mu_BKZ)
        return Rollout(self._frames(known_BK, z_BK[None])[0], mu_BKZ, zero, zero, zero, PAST)


@pytest.fixture(scope="module")
def split() -> ArraySplit:
    generator = np.random.default_rng(3)
    cond = generator.standard_normal((VIDEOS, PAST + FUTURE, 1)).astype(np.float32)
    level = np.full((VIDEOS, PAST + FUTURE), 0.5)
    level[:, 1:] += 0.1 * cond[:, :-1, 0] + 0.1 * generator.standard_normal((VIDEOS, PAST + FUTURE - 1))
    frames = (255 * level[..., None, None, None]).clip(0, 255).round().astype(np.uint8)
    return ArraySplit(list(np.broadcast_to(frames, (*level.shape, 16, 16, 3)).copy()), list(cond))


@pytest.mark.parametrize(("latent", "conditions"), [(True, False), (False, True), (True, True)])
def test_what_the_latent_and_the_conditions_are_worth_is_measured_on_the_first_videos(split, latent, conditions):
    protocol, model = Protocol("d", kind="diagnosis", n_past=PAST, n_future=FUTURE), Level(latent, conditions)
    of_two, of_all = (
        Diagnosis(model, split, protocol, 1, torch.device("cpu"), 10_000, contextlib.nullcontext, videos)  # type: ignore[arg-type]
        for videos in (2, 99)
    )
    known, cost = of_all.latent_and_conditions()
    assert (known > 1) == latent
    assert (cost > 1) == conditions
    whole = of_all.measure()[1]
    assert known == pytest.approx((whole["posterior"] - whole["prior"]).mean())
    first = (
        (whole["posterior"] - whole["prior"])[:2].mean(),
        (whole["prior"] - whole.get("shuffled", whole["prior"]))[:2].mean(),
    )
    assert of_two.latent_and_conditions() == pytest.approx(first)


def diagnosed(split: ArraySplit, latent: bool, conditions: bool) -> tuple[dict[str, Any], list[str]]:
    protocol = Protocol("d", kind="diagnosis", n_past=PAST, n_future=FUTURE, samples=20)
    model: Any = Level(latent, conditions)
    numbers, ways = Diagnosis(model, split, protocol, 1, torch.device("cpu"), 10_000, contextlib.nullcontext).measure()
    means = {name: {"mean": float(values.mean())} for name, values in ways.items()}
    found = {**numbers, "samples": 20, "ways": means, "baselines": {"copy_last": {"psnr": {"mean": 10.0}}}}
    return found, sentences(found)


def test_a_model_that_uses_both(split: ArraySplit) -> None:
    found, lines = diagnosed(split, latent=True, conditions=True)
    ways = {name: each["mean"] for name, each in found["ways"].items()}
    assert (found["active_units"], found["dimensions"], len(found["kl_per_dimension"])) == (1, 3, 3)
    assert found["kl"] == pytest.approx(found["kl_per_dimension"][0])
    assert ways["posterior"] > ways["zero"] > ways["prior"]
    assert ways["best"] > ways["prior"] > ways["shuffled"]
    assert found["spread"] > 10
    assert any(line.startswith("The latent is used") for line in lines)
    assert any(line.startswith("The conditions (actions, positions) are used") for line in lines)
    assert any("loses nothing" in line for line in lines)


def test_a_model_that_uses_neither(split: ArraySplit) -> None:
    found, lines = diagnosed(split, latent=False, conditions=False)
    ways = {name: each["mean"] for name, each in found["ways"].items()}
    assert (found["active_units"], found["kl"], found["spread"]) == (0, 0.0, 0.0)
    assert ways["shuffled"] == ways["zero_conditions"] == ways["prior"] == ways["best"] == pytest.approx(ways["zero"])
    assert any("posterior collapse" in line for line in lines)
    assert any("are not used" in line for line in lines)
    assert any(line.startswith("Samples hardly differ") for line in lines)
    assert found["first_frame_error"] == pytest.approx(found["mse_per_frame"][0] / sum(found["mse_per_frame"]))
