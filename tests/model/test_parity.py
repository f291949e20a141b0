"""The nets equal their published layer lists, and a step of ``compat=course`` equals the report's loop, in float64."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from report_loop import DECODERS, ENCODERS, LSTM, Nets, report_loss
from report_loop import GaussianLSTM as RestatedGaussian
from restated import BACKBONES, RELATIVE, assert_same_gradients, assert_same_state, copy_weights, distance, randomise
from torch import Tensor, nn

from cvae.model import backbones
from cvae.model.backbones import Decoder, vgg64
from cvae.model.cvae import CVAE
from cvae.model.objective import MSE, Objective
from cvae.model.recurrent import FramePredictor, GaussianLSTM, StandardNormal

STEPS = 20
B, T, G, Z, A, HIDDEN = 3, 5, 6, 3, 7, 5
NF = 4  # stands for the paper's 64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dtype_of(net: nn.Module) -> torch.dtype:
    return next(net.parameters()).dtype


# Each case gives its nets one and the same input and returns all that comes out, in one list.


def encode(net: nn.Module, seed: int) -> list[Tensor]:
    feature, skips = net(draw(3, 3, 64, 64, seed=seed).sigmoid().to(dtype_of(net)))
    return [feature, *skips]


def decode(sizes: list[int], net: nn.Module, seed: int) -> list[Tensor]:
    skips = [draw(3, NF * 2**i, size, size, seed=seed + i).to(dtype_of(net)) for i, size in enumerate(sizes)]
    g_NG = draw(3, G, seed=seed).tanh().to(dtype_of(net))
    return [net(g_NG, net.context(skips)) if isinstance(net, Decoder) else net(g_NG, skips)]


def predict(net: nn.Module, seed: int) -> list[Tensor]:
    x_BTI = draw(3, 4, A + G + Z, seed=seed).to(dtype_of(net))
    if isinstance(net, FramePredictor):
        return [net(x_BTI, None)[0]]
    net.start()
    return [torch.stack([net(x_BTI[:, t]) for t in range(4)], dim=1)]


def infer(net: nn.Module, seed: int) -> list[Tensor]:
    h_BTG = draw(3, 4, G, seed=seed).to(dtype_of(net))
    if isinstance(net, GaussianLSTM):
        return list(net(h_BTG, None)[:2])
    net.start()
    steps = [net(h_BTG[:, t], h_BTG.new_zeros(3, Z))[1:] for t in range(4)]
    return [torch.stack(parts, dim=1) for parts in zip(*steps, strict=True)]


def case(name: str):
    """Our net, its restatement, and how to run either."""
    if name == "predictor":
        return FramePredictor(A + G + Z, G, HIDDEN, 2), LSTM(A + G + Z, G, HIDDEN, 2), predict
    if name == "gaussian":
        return GaussianLSTM(G, Z, HIDDEN, 1), RestatedGaussian(G, Z, HIDDEN, 1), infer
    backbone, part = name.split()
    ours = getattr(getattr(backbones, backbone)(G, NF / 64), part)
    if part == "encoder":
        return ours, ENCODERS[backbone](G, NF), encode
    sizes = [64, 32, 16, 8] if backbone == "vgg64" else [32, 16, 8, 4]
    return ours, DECODERS[backbone](G, NF), lambda net, seed: decode(sizes, net, seed)


def loss(outputs: list[Tensor]) -> Tensor:
    return sum(((x - draw(*x.shape, seed=99)) ** 2).mean() for x in outputs)


def train(net: nn.Module, run) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(run(net, 10 * step)).backward()
        optimizer.step()


@pytest.mark.parametrize(
    "name", ["vgg64 encoder", "vgg64 decoder", "dcgan64 encoder", "dcgan64 decoder", "predictor", "gaussian"]
)
def test_net_equals_its_published_layer_list(name: str) -> None:
    ours, restated, run = case(name)
    ours.double(), restated.double()
    randomise(restated, seed=1)
    copy_weights(restated, ours)
    before = [value.clone() for value in restated.parameters()]
    train(ours, run), train(restated, run)
    assert all(distance(x, y) > 1e-3 for x, y in zip(before, restated.parameters(), strict=True) if x.dim() > 1)
    assert_same_state(ours, restated)
    for dtype, relative in ((torch.float64, RELATIVE), (torch.float32, 1e-4)):
        ours.to(dtype), restated.to(dtype)
        for training in (True, False):
            ours.train(training), restated.train(training)
            outputs, expected = run(ours, 777), run(restated, 777)
            assert [distance(x, y) <= relative for x, y in zip(outputs, expected, strict=True)] == [True] * len(expected)
            ours.zero_grad(), restated.zero_grad()
            loss(outputs).backward(), loss(expected).backward()
            assert_same_gradients(ours, restated, relative)
        if dtype == torch.float64:
            assert_same_state(ours, restated)


def test_paper_sized_model_has_22_24_million_parameters() -> None:
    with torch.device("meta"):
        model = CVAE(vgg64(128, 1.0), StandardNormal(64), cond_dim=7, latent_dim=64, hidden_dim=256)
    assert round(sum(value.numel() for value in model.parameters()) / 1e6, 2) == 22.24


@pytest.mark.parametrize("backbone", BACKBONES)
def test_initial_weights_follow_the_paper(backbone: str) -> None:
    """Convolutions and linear layers N(0, 0.02), biases 0, BatchNorm weights N(1, 0.02)."""
    torch.manual_seed(0)
    net = getattr(backbones, backbone)(G, 0.25)
    model = CVAE(net, GaussianLSTM(G, 64, 64), cond_dim=A, latent_dim=64, hidden_dim=64)
    drawn = {nn.Conv2d: 0.0, nn.ConvTranspose2d: 0.0, nn.Linear: 0.0, nn.BatchNorm2d: 1.0}
    counted = set()
    for layer in model.modules():
        if type(layer) in drawn:
            assert not layer.bias.any()
            # Five standard errors of a mean and of a deviation.
            count, centred = layer.weight.numel(), layer.weight.detach() - drawn[type(layer)]
            assert abs(centred.mean().item()) < 5 * 0.02 / count**0.5
            assert abs(centred.std().item() / 0.02 - 1) < 5 / (2 * count) ** 0.5
            counted.add(type(layer))
    assert counted == set(drawn)


ALL, NONE = [True] * T, [False] * T
MIXED = [False, False, True, False, True]  # the coin of step i stands at i; step 0 does not exist


@pytest.mark.parametrize("n_past", [2, 3])
@pytest.mark.parametrize("coins", [ALL, NONE, MIXED], ids=["all_forced", "none_forced", "mixed"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_course_training_step_equals_the_reports_loop(backbone: str, coins: list[bool], n_past: int) -> None:
    nets = Nets(backbone, G, NF, Z, HIDDEN, A).double()
    randomise(nets, seed=2)
    model = CVAE(
        getattr(backbones, backbone)(G, NF / 64),
        StandardNormal(Z),
        cond_dim=A,
        n_past=n_past,
        latent_dim=Z,
        hidden_dim=HIDDEN,
        rollout="stepwise",
        skips="course",
        force_past=False,
        scored="all",
    ).double()
    parts = [
        (model.backbone.encoder, nets.encoder),
        (model.backbone.decoder, nets.decoder),
        (model.posterior, nets.posterior),
        (model.predictor, nets.predictor),
    ]
    for ours, restated in parts:
        copy_weights(restated, ours)
    frames, cond, noise = draw(B, T, 3, 64, 64, seed=3).sigmoid(), draw(B, T, A, seed=4), draw(T, B, Z, seed=5)

    expected = report_loss(nets, frames, cond, coins, noise, n_past, weight=0.3)
    optimizer = torch.optim.Adam(nets.parameters(), lr=2e-4, betas=(0.9, 0.999))
    expected.backward()
    optimizer.step()

    total = Objective(MSE())(model(frames, cond, torch.tensor(coins), noise), frames, 0.3).total
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.9, 0.999))
    total.backward()
    optimizer.step()

    assert total.item() == pytest.approx(expected.item(), rel=RELATIVE)
    for ours, restated in parts:
        assert_same_gradients(ours, restated)
        assert_same_state(ours, restated)


@pytest.mark.parametrize("name", ["vgg64", "dcgan64"])
def test_frames_decoded_together_share_the_work_on_their_skips(name: str) -> None:
    """Two sequences, three frames each: the same as every frame decoded by itself with its own copy of the skips."""
    decoder = getattr(backbones, name)(G, NF / 64).double().decoder.eval()
    sizes = [64, 32, 16, 8] if name == "vgg64" else [32, 16, 8, 4]
    skips = [draw(2, NF * 2**i, size, size, seed=i) for i, size in enumerate(sizes)]
    g_BKG = draw(2, 3, G, seed=9).tanh()
    together = decoder(g_BKG.flatten(0, 1), decoder.context(skips)).unflatten(0, (2, 3))
    for b, k in product(range(2), range(3)):
        alone = decoder(g_BKG[b : b + 1, k], decoder.context([skip[b : b + 1] for skip in skips]))
        assert distance(alone[0], together[b, k]) <= RELATIVE
