"""The course report's nets and training loop, written out plainly: what ``cvae`` is timed and tested against.

Nothing here knows ``cvae``. Modules are declared in the order of the data flow, as there, so that weights can be copied by
position.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# --- nets -------------------------------------------------------------------------------------------------------------


class VGGLayer(nn.Module):
    def __init__(self, nin: int, nout: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(nin, nout, 3, 1, 1), nn.BatchNorm2d(nout), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class VGGEncoder(nn.Module):
    """3-64-64 | 64-128-128 | 128-256-256-256 | 256-512-512-512, max-pool 2 between, then conv4x4 -> G; nf stands for 64."""

    def __init__(self, dim: int, nf: int) -> None:
        super().__init__()
        self.c1 = nn.Sequential(VGGLayer(3, nf), VGGLayer(nf, nf))
        self.c2 = nn.Sequential(VGGLayer(nf, nf * 2), VGGLayer(nf * 2, nf * 2))
        self.c3 = nn.Sequential(VGGLayer(nf * 2, nf * 4), VGGLayer(nf * 4, nf * 4), VGGLayer(nf * 4, nf * 4))
        self.c4 = nn.Sequential(VGGLayer(nf * 4, nf * 8), VGGLayer(nf * 8, nf * 8), VGGLayer(nf * 8, nf * 8))
        self.c5 = nn.Sequential(nn.Conv2d(nf * 8, dim, 4, 1, 0), nn.BatchNorm2d(dim), nn.Tanh())
        self.mp = nn.MaxPool2d(kernel_size=2, stride=2, padding=0)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h1 = self.c1(x)
        h2 = self.c2(self.mp(h1))
        h3 = self.c3(self.mp(h2))
        h4 = self.c4(self.mp(h3))
        h5 = self.c5(self.mp(h4))
        return h5.view(len(x), -1), [h1, h2, h3, h4]


class VGGDecoder(nn.Module):
    """convT4x4 to 512, nearest x2, concat skip, 1024-512-512-256 | 512-256-256-128 | 256-128-64 | 128-64, convT3x3 -> 3."""

    def __init__(self, dim: int, nf: int) -> None:
        super().__init__()
        self.upc1 = nn.Sequential(nn.ConvTranspose2d(dim, nf * 8, 4, 1, 0), nn.BatchNorm2d(nf * 8), nn.LeakyReLU(0.2))
        self.upc2 = nn.Sequential(VGGLayer(nf * 16, nf * 8), VGGLayer(nf * 8, nf * 8), VGGLayer(nf * 8, nf * 4))
        self.upc3 = nn.Sequential(VGGLayer(nf * 8, nf * 4), VGGLayer(nf * 4, nf * 4), VGGLayer(nf * 4, nf * 2))
        self.upc4 = nn.Sequential(VGGLayer(nf * 4, nf * 2), VGGLayer(nf * 2, nf))
        self.upc5 = nn.Sequential(VGGLayer(nf * 2, nf), nn.ConvTranspose2d(nf, 3, 3, 1, 1), nn.Sigmoid())
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, vec: Tensor, skip: list[Tensor]) -> Tensor:
        d1 = self.upc1(vec.view(len(vec), -1, 1, 1))
        d2 = self.upc2(torch.cat([self.up(d1), skip[3]], 1))
        d3 = self.upc3(torch.cat([self.up(d2), skip[2]], 1))
        d4 = self.upc4(torch.cat([self.up(d3), skip[1]], 1))
        return self.upc5(torch.cat([self.up(d4), skip[0]], 1))


class DCGANConv(nn.Module):
    def __init__(self, nin: int, nout: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(nin, nout, 4, 2, 1), nn.BatchNorm2d(nout), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class DCGANUpconv(nn.Module):
    def __init__(self, nin: int, nout: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.ConvTranspose2d(nin, nout, 4, 2, 1), nn.BatchNorm2d(nout), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class DCGANEncoder(nn.Module):
    """conv4x4 stride 2, 64-128-256-512, then conv4x4 -> G."""

    def __init__(self, dim: int, nf: int) -> None:
        super().__init__()
        self.c1 = DCGANConv(3, nf)
        self.c2 = DCGANConv(nf, nf * 2)
        self.c3 = DCGANConv(nf * 2, nf * 4)
        self.c4 = DCGANConv(nf * 4, nf * 8)
        self.c5 = nn.Sequential(nn.Conv2d(nf * 8, dim, 4, 1, 0), nn.BatchNorm2d(dim), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h1 = self.c1(x)
        h2 = self.c2(h1)
        h3 = self.c3(h2)
        h4 = self.c4(h3)
        h5 = self.c5(h4)
        return h5.view(len(x), -1), [h1, h2, h3, h4]


class DCGANDecoder(nn.Module):
    def __init__(self, dim: int, nf: int) -> None:
        super().__init__()
        self.upc1 = nn.Sequential(nn.ConvTranspose2d(dim, nf * 8, 4, 1, 0), nn.BatchNorm2d(nf * 8), nn.LeakyReLU(0.2))
        self.upc2 = DCGANUpconv(nf * 16, nf * 4)
        self.upc3 = DCGANUpconv(nf * 8, nf * 2)
        self.upc4 = DCGANUpconv(nf * 4, nf)
        self.upc5 = nn.Sequential(nn.ConvTranspose2d(nf * 2, 3, 4, 2, 1), nn.Sigmoid())

    def forward(self, vec: Tensor, skip: list[Tensor]) -> Tensor:
        d1 = self.upc1(vec.view(len(vec), -1, 1, 1))
        d2 = self.upc2(torch.cat([d1, skip[3]], 1))
        d3 = self.upc3(torch.cat([d2, skip[2]], 1))
        d4 = self.upc4(torch.cat([d3, skip[1]], 1))
        return self.upc5(torch.cat([d4, skip[0]], 1))


class LSTM(nn.Module):
    """Linear, LSTM cells, Linear, tanh: the frame predictor. ``start`` comes before each sequence."""

    def __init__(self, input_size: int, output_size: int, hidden_size: int, n_layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(input_size, hidden_size)
        self.lstm = nn.ModuleList([nn.LSTMCell(hidden_size, hidden_size) for _ in range(n_layers)])
        self.output = nn.Linear(hidden_size, output_size)

    def start(self) -> None:
        self.hidden: list[tuple[Tensor, Tensor] | None] = [None] * len(self.lstm)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for i, cell in enumerate(self.lstm):
            self.hidden[i] = cell(h, self.hidden[i])
            h = self.hidden[i][0]
        return torch.tanh(self.output(h))


class GaussianLSTM(nn.Module):
    """Linear, LSTM cells, then mu and logvar: the posterior, and the learned prior."""

    def __init__(self, input_size: int, output_size: int, hidden_size: int, n_layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(input_size, hidden_size)
        self.lstm = nn.ModuleList([nn.LSTMCell(hidden_size, hidden_size) for _ in range(n_layers)])
        self.mu_net = nn.Linear(hidden_size, output_size)
        self.logvar_net = nn.Linear(hidden_size, output_size)

    def start(self) -> None:
        self.hidden: list[tuple[Tensor, Tensor] | None] = [None] * len(self.lstm)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.embed(x)
        for i, cell in enumerate(self.lstm):
            self.hidden[i] = cell(h, self.hidden[i])
            h = self.hidden[i][0]
        mu, logvar = self.mu_net(h), self.logvar_net(h)
        return eps * torch.exp(logvar / 2) + mu, mu, logvar


ENCODERS = {"vgg64": VGGEncoder, "dcgan64": DCGANEncoder}
DECODERS = {"vgg64": VGGDecoder, "dcgan64": DCGANDecoder}


class Nets(nn.Module):
    """All nets of a model: ``nf`` stands for the paper's 64 channels; predictor of two cells, the others of one."""

    def __init__(self, backbone: str, dim: int, nf: int, latent: int, hidden: int, cond: int, learned: bool = False) -> None:
        super().__init__()
        self.encoder = ENCODERS[backbone](dim, nf)
        self.decoder = DECODERS[backbone](dim, nf)
        self.posterior = GaussianLSTM(dim, latent, hidden, 1)
        self.prior = GaussianLSTM(dim, latent, hidden, 1) if learned else nn.Module()
        self.predictor = LSTM(cond + dim + latent, dim, hidden, 2)

    def start(self) -> None:
        for net in (self.posterior, self.prior, self.predictor):
            if isinstance(net, (LSTM, GaussianLSTM)):
                net.start()


# --- the report's loop ------------------------------------------------------------------------------------------------


def report_loss(
    nets: Nets, frames: Tensor, cond: Tensor, coins: Iterable[bool], noise: Tensor, n_past: int, weight: float
) -> Tensor:
    """Frames and conditions ``[B, T, ...]``, a coin and a noise ``[B, Z]`` for each i = 0 .. T-1, of which 0 is not used."""
    coins = list(coins)
    nets.start()
    mse = kld = torch.zeros((), dtype=frames.dtype)
    skip: list[Tensor] = []
    x_pred = frames[:, 0]
    for i in range(1, frames.shape[1]):
        h_target, _ = nets.encoder(frames[:, i])
        h, new_skip = nets.encoder(frames[:, i - 1] if coins[i] else x_pred)
        if i < n_past:
            skip = new_skip
        z, mu, logvar = nets.posterior(h_target, noise[i])
        g = nets.predictor(torch.cat([cond[:, i - 1], h, z], 1))
        x_pred = nets.decoder(g, skip)
        mse = mse + nn.functional.mse_loss(x_pred, frames[:, i])
        kld = kld - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(frames)
    return mse + weight * kld
