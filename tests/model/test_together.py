"""A training step that does small work for all layers at once equals one of plain layers.

Plain: ``nn.Conv2d`` with its bias, ``nn.BatchNorm2d``, autocast's casts, gradients that are added one by one.
"""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from restated import WeightGradients, assert_same_state, distance, randomise
from torch import Tensor

from cvae.model import together
from cvae.model.backbones import dcgan64, vgg64
from cvae.model.cvae import CVAE
from cvae.model.objective import MSE, Objective
from cvae.model.recurrent import GaussianLSTM, StandardNormal
from cvae.training.step import Dials, Step

B, T, A, Z, G = 2, 5, 4, 2, 4
FORCED = torch.tensor([True, True, True, False, False])
COURSE = {"rollout": "stepwise", "skips": "course", "force_past": False, "scored": "all"}
KINDS = {
    "vgg": lambda: CVAE(vgg64(G, 1 / 32), StandardNormal(Z), A, 2, Z, 5),
    "dcgan, learned prior": lambda: CVAE(dcgan64(G, 1 / 32), GaussianLSTM(G, Z, 5), A, 2, Z, 5),
    "the report's loop": lambda: CVAE(dcgan64(G, 1 / 32), StandardNormal(Z), A, 2, Z, 5, **COURSE),
    "checkpointing": lambda: CVAE(dcgan64(G, 1 / 32, checkpointing=True), StandardNormal(Z), A, 2, Z, 5),
    "GroupNorm": lambda: CVAE(dcgan64(G, 1 / 32, "group"), StandardNormal(Z), A, 2, Z, 5),
}


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.rand(B, T, 3, 64, 64).double(), torch.randn(B, T, A).double(), torch.randn(T, B, Z).double()


WHERE = {"on a CPU": (False, True), "as on a GPU": (True, False), "as in a graph": (True, True)}  # what pays there


def pretend(monkeypatch: pytest.MonkeyPatch, pays: bool, defers: bool) -> None:
    monkeypatch.setattr(together, "_pays", lambda device: pays)
    monkeypatch.setattr(together, "_defers", lambda module, device: defers and not together._thrifty(module))


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", KINDS)
def test_steps_equal_those_of_plain_layers(name, where, monkeypatch):
    model = KINDS[name]().double()
    randomise(model, seed=1)
    plain = copy.deepcopy(model)
    first = {name: value.clone() for name, value in model.named_parameters()}
    step = step_of(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    still = {id(p) for p in model.parameters() if not p.requires_grad}
    # What has no gradient but rounding is left out: weight decay and Adam would make something of it.
    others = [q for p, q in zip(model.parameters(), plain.parameters(), strict=True) if id(p) not in still]
    reference = torch.optim.AdamW(others, lr=1e-3)
    for seed in range(2):
        frames, cond, noise = batch(seed)
        pretend(monkeypatch, *WHERE[where])
        step.run((frames, cond), FORCED, FORCED[None], noise, Dials(0.3, 1e-3, 0.0, 0.0), lambda losses: None)
        pretend(monkeypatch, False, False)
        plain.zero_grad()
        Objective(MSE())(plain(frames, cond, FORCED, noise), frames, 0.3).total.backward()
        reference.step()
    assert_same_state(model, plain)
    assert not any(torch.equal(first[name], value) for name, value in model.named_parameters() if value.dim() > 1)
    biases = [each.bias for each in model.modules() if isinstance(each, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]
    assert len(still) == (0 if name == "GroupNorm" else len(biases) - 1)  # all but that of the image
    assert all(torch.equal(first[name], value) for name, value in model.named_parameters() if id(value) in still)


def test_a_cpu_computes_the_gradient_of_a_weight_larger_than_its_maps_once_for_all_free_steps(monkeypatch):
    """In the encoder: 3 layers on 8x8 maps and the head, for 2 free steps. In the decoder: the stem, 3 layers on 8x8 maps and
    the one that goes from 8x8 to 16x16, for these and the call for the other predictions. Larger maps are left to autograd.
    """
    model = CVAE(vgg64(G, 1 / 8), StandardNormal(Z), A, 2, Z, 5).double().train()
    frames, cond, noise = batch(0)
    counts = []
    for usual in (False, True):
        with monkeypatch.context() as patched:
            if not usual:
                pretend(patched, False, False)
            rollout = model(frames, cond, FORCED, noise)
        with WeightGradients() as found:
            Objective(MSE())(rollout, frames, 0.3).total.backward()
        counts.append(found.count)
    assert counts[0] - counts[1] == 4 * (2 - 1) + 5 * (3 - 1)


def step_of(model: CVAE, optimizer: torch.optim.Optimizer) -> Step:
    return Step(model.train(), Objective(MSE()), optimizer, contextlib.nullcontext, None, None, None, slice(None))


@pytest.mark.parametrize("where", ["on a CPU", "as on a GPU"])
def test_bf16_steps_equal_those_of_autocast_alone(where, monkeypatch):
    """The same casts and sums: as near as two orders of bf16 sums are."""
    model = KINDS["vgg"]()
    randomise(model, seed=1)
    frames, cond, noise = (each.float() for each in batch(0))
    found = []
    for ways in ((False, False), WHERE[where]):
        pretend(monkeypatch, *ways)
        each = copy.deepcopy(model).train()
        with torch.autocast("cpu", torch.bfloat16):
            rollout = each(frames, cond, FORCED, noise)
        total = Objective(MSE())(rollout, frames, 0.3).total
        total.backward()
        found.append((total.item(), [p.grad for p in each.parameters() if p.dim() > 1]))
    assert found[0][0] == found[1][0]
    assert max(distance(a, b) for a, b in zip(found[0][1], found[1][1], strict=True)) < 0.02


class InFullPrecision(torch.nn.Module):
    """An encoder of somebody else's, which convolves outside autocast."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder.autocast_throughout = False

    def forward(self, x_NCHW: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.encoder(x_NCHW.float())


@pytest.mark.parametrize("where", WHERE)
def test_a_module_that_switches_autocast_off_keeps_its_weights(where, monkeypatch):
    model = KINDS["dcgan, learned prior"]()
    randomise(model, seed=1)
    model.backbone.encoder = InFullPrecision(model.backbone.encoder)
    frames, cond, noise = (each.float() for each in batch(0))
    found = []
    for ways in ((False, False), WHERE[where]):
        pretend(monkeypatch, *ways)
        each = copy.deepcopy(model).train()
        with torch.autocast("cpu", torch.bfloat16):
            rollout = each(frames, cond, FORCED, noise)
        Objective(MSE())(rollout, frames, 0.3).total.backward()
        found.append([p.grad for p in each.parameters() if p.dim() > 1])
    assert max(distance(a, b) for a, b in zip(*found, strict=True)) < 0.05


def test_a_norm_that_does_not_train_keeps_its_statistics_and_the_bias_before_it():
    model = KINDS["dcgan, learned prior"]().double()
    randomise(model, seed=1)
    step = step_of(model, torch.optim.SGD(model.parameters(), lr=0.1))
    frozen = model.backbone.encoder.head.eval()
    before = copy.deepcopy(frozen.state_dict())
    plain = copy.deepcopy(model)
    frames, cond, noise = batch(0)
    with step.norms.together():
        ours = model(frames, cond, FORCED, noise).predictions_BKCHW
    assert distance(ours, plain(frames, cond, FORCED, noise).predictions_BKCHW) < 1e-12
    torch.testing.assert_close(frozen.state_dict(), before, rtol=0, atol=0)
    assert_same_state(model, plain)


def test_an_error_in_a_step_leaves_the_model_whole():
    model = KINDS["vgg"]().double()
    step = step_of(model, torch.optim.SGD(model.parameters(), lr=0.1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError), step.norms.together():
        raise RuntimeError
    torch.testing.assert_close(model.state_dict(), before)
