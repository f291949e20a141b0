"""A training step that does small work for all layers at once equals one of plain layers.

Plain: ``nn.Conv2d`` with its bias, ``nn.BatchNorm2d``, autocast's casts, gradients that are added one by one.
"""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from restated import assert_same_state, randomise
from torch import Tensor

from cvae.model import together
from cvae.model.backbones import dcgan64, vgg64
from cvae.model.cvae import CVAE
from cvae.model.objective import MSE, Objective
from cvae.model.recurrent import GaussianLSTM, StandardNormal
from cvae.training.step import Dials, Step

B, T, A, Z, G = 2, 6, 4, 2, 4
FORCED = torch.tensor([True, True, True, True, False, False])
COURSE = {"rollout": "stepwise", "skips": "course", "force_past": False, "scored": "all"}
KINDS = {
    "vgg": lambda: CVAE(vgg64(G, 1 / 32), StandardNormal(Z), A, 2, Z, 5),
    "dcgan, learned prior": lambda: CVAE(dcgan64(G, 1 / 32), GaussianLSTM(G, Z, 5), A, 2, Z, 5),
    "the report's loop": lambda: CVAE(dcgan64(G, 1 / 32), StandardNormal(Z), A, 2, Z, 5, **COURSE),
    "checkpointing": lambda: CVAE(vgg64(G, 1 / 32, checkpointing=True), StandardNormal(Z), A, 2, Z, 5),
    "GroupNorm": lambda: CVAE(dcgan64(G, 1 / 32, "group"), StandardNormal(Z), A, 2, Z, 5),
}


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.rand(B, T, 3, 64, 64).double(), torch.randn(B, T, A).double(), torch.randn(T, B, Z).double()


@pytest.mark.parametrize("everywhere", [False, True], ids=["", "as on a GPU"])
@pytest.mark.parametrize("name", KINDS)
def test_steps_equal_those_of_plain_layers(name, everywhere, monkeypatch):
    model = KINDS[name]().double()
    randomise(model, seed=1)
    plain = copy.deepcopy(model)
    first = {name: value.clone() for name, value in model.named_parameters()}
    step = step_of(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    still = {id(p) for p in model.parameters() if not p.requires_grad}
    # What has no gradient but rounding is left out: weight decay and Adam would make something of it.
    others = [q for p, q in zip(model.parameters(), plain.parameters(), strict=True) if id(p) not in still]
    reference = torch.optim.AdamW(others, lr=1e-3)
    for seed in range(3):
        frames, cond, noise = batch(seed)
        monkeypatch.setattr(together, "_pays", lambda device: everywhere)
        step.run((frames, cond), FORCED, FORCED[None], noise, Dials(0.3, 1e-3, 0.0, 0.0), lambda losses: None)
        monkeypatch.setattr(together, "_pays", lambda device: False)
        plain.zero_grad()
        Objective(MSE())(plain(frames, cond, FORCED, noise), frames, 0.3).total.backward()
        reference.step()
    assert_same_state(model, plain)
    assert not any(torch.equal(first[name], value) for name, value in model.named_parameters() if value.dim() > 1)
    biases = [each.bias for each in model.modules() if isinstance(each, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]
    assert len(still) == (0 if name == "GroupNorm" else len(biases) - 1)  # all but that of the image
    assert all(torch.equal(first[name], value) for name, value in model.named_parameters() if id(value) in still)


def step_of(model: CVAE, optimizer: torch.optim.Optimizer) -> Step:
    return Step(model.train(), Objective(MSE()), optimizer, contextlib.nullcontext, None, None, None, slice(None))
