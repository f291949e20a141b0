"""A training step leaves out what BatchNorm cancels, and nothing else: layers of somebody else's may do anything."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from restated import distance, randomise
from test_together import FORCED, WHERE, batch, pretend, step_of
from torch import Tensor, nn

from cvae.errors import UserError
from cvae.model.backbones import dcgan64
from cvae.model.cvae import CVAE
from cvae.model.objective import MSE, Objective
from cvae.model.recurrent import StandardNormal
from cvae.training.pooled_norm import PooledBatchNorm, pool
from cvae.training.step import Dials

C, G = 4, 6


class Encoder(nn.Module):
    """One map of 8x8, which is the skip, and a feature."""

    def __init__(self, down: nn.Module, more: Callable[[nn.Module, Tensor], Tensor] = lambda down, x: down(x)) -> None:
        super().__init__()
        self.down, self.more = down, more
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64 * C, G), nn.Tanh())

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        map_NCHW = self.more(self.down, x_NCHW)
        return self.head(map_NCHW), [map_NCHW]


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(G, 64 * C)
        self.up = nn.Sequential(nn.ConvTranspose2d(C, 3, 8, stride=8), nn.Sigmoid())

    def context(self, skips: list[Tensor]) -> Tensor:
        return skips[0]

    def forward(self, g_NG: Tensor, skip_BCHW: Tensor) -> Tensor:
        map_BKCHW = self.start(g_NG).view(len(skip_BCHW), -1, *skip_BCHW.shape[1:])
        return self.up((map_BKCHW + skip_BCHW[:, None]).flatten(0, 1))


class Gated(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.silu(super().forward(input))


class Frozen(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


class Counting(nn.BatchNorm2d):
    """Weaker with every batch that it has seen."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / (1 + self.num_batches_tracked)


class Shift(nn.Module):
    def forward(self, bias: Tensor) -> Tensor:
        return bias + 0.1


def conv(kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Conv2d:
    return kind(3, C, 8, stride=8)


def block(convolution: nn.Module, norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(convolution, norm(C), nn.ReLU())


def hooked() -> nn.Sequential:
    down = block(conv())
    down[0].register_forward_hook(lambda module, inputs, output: nn.functional.silu(output))
    return down


def parametrized() -> nn.Sequential:
    down = block(conv())
    nn.utils.parametrize.register_parametrization(down[0], "bias", Shift())
    return down


def one_norm_for_two() -> nn.Sequential:
    norm = nn.BatchNorm2d(C)
    return nn.Sequential(nn.Sequential(conv(), norm), nn.Sequential(nn.Conv2d(C, C, 3, padding=1), norm))


def refined(down: nn.Module, x_NCHW: Tensor) -> Tensor:
    """A module that follows the gradient of an energy asks autograd for it within its forward pass."""
    stem, energy = down
    map_NCHW = stem(x_NCHW)
    if torch.is_grad_enabled():
        found = energy(map_NCHW)
        (gradient,) = torch.autograd.grad(found.square().sum(), map_NCHW, retain_graph=True)
        map_NCHW = map_NCHW - 0.1 * gradient.detach() + 0.01 * found.mean()
    return map_NCHW


def ours_with_a_hook() -> nn.Module:
    backbone = dcgan64(G, 1 / 32)
    backbone.encoder.stages[1][0].register_forward_hook(lambda module, inputs, output: nn.functional.silu(output))
    return backbone


def of(encoder: Callable[[], Encoder]) -> Callable[[], nn.Module]:
    def backbone() -> nn.Module:
        found = nn.Module()
        found.encoder, found.decoder, found.feature_dim = encoder(), Decoder(), G
        return found

    return backbone


STRANGE = {
    "a subclass of a convolution": of(lambda: Encoder(block(conv(Gated)))),
    "a hook": of(lambda: Encoder(hooked())),
    "a hook in a backbone of the package": ours_with_a_hook,
    "a computed bias": of(lambda: Encoder(parametrized())),
    "a map that is used before the norm": of(lambda: Encoder(block(conv()), lambda down, x: down(x) + torch.tanh(down[0](x)))),
    "a norm for two convolutions": of(lambda: Encoder(one_norm_for_two())),
    "a norm that stays in eval mode": of(lambda: Encoder(block(conv(), Frozen))),
    "a norm that reads its counter": of(lambda: Encoder(block(conv(), Counting))),
    "a gradient within the forward pass": of(lambda: Encoder(nn.ModuleList([conv(), nn.Conv2d(C, 4 * C, 8)]), refined)),
}


@pytest.mark.parametrize("where", ["on a CPU", "as in a graph"])
@pytest.mark.parametrize("name", STRANGE)
def test_a_step_of_strange_layers_is_the_plain_one(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model = CVAE(STRANGE[name](), StandardNormal(2), 4, 2, 2, 5).double()
    randomise(model, seed=1)
    plain = copy.deepcopy(model).train()
    step = step_of(model, torch.optim.SGD(model.parameters(), lr=0.0))
    for seed in range(2):
        frames, cond, noise = batch(seed)
        pretend(monkeypatch, *WHERE[where])
        step.run((frames, cond), FORCED, FORCED[None], noise, Dials(0.3, 0.0, 0.0, 0.0), lambda losses: None)
        pretend(monkeypatch, False, False)
        plain.zero_grad()
        Objective(MSE())(plain(frames, cond, FORCED, noise), frames, 0.3).total.backward()
        cancelled = {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
        assert bool(cancelled) == (name == "a hook in a backbone of the package")  # of its other layers
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            if id(ours) not in cancelled:
                assert (ours.grad is None) == (theirs.grad is None)
                assert ours.grad is None or distance(ours.grad, theirs.grad) < 1e-9
        for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_several_processes_keep_the_hooks_of_a_norm_and_refuse_what_they_cannot_pool() -> None:
    model = block(conv())
    model[1].register_forward_hook(lambda module, inputs, output: 0.1 * output)
    plain = copy.deepcopy(model).eval()
    pool(model, 2)
    assert isinstance(model[1], PooledBatchNorm)
    x_NCHW = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()(x_NCHW), plain(x_NCHW), rtol=0, atol=0)
    frozen = block(conv(), Frozen)
    pool(frozen, 2)
    assert type(frozen[1]) is Frozen
    with pytest.raises(UserError, match=r"down\.1 is a Counting: 2 processes cannot train what is derived from BatchNorm"):
        pool(nn.ModuleDict({"down": block(conv(), Counting)}), 2)
