"""Recurrent nets over frame features. State is a value that goes in and comes out; ``None`` is the zero state.

Sequences are batch first. Each net takes any number of steps a call, so a caller that knows a stretch of inputs runs it in
one call, and one that must wait for its own predictions runs it a step at a time: the numbers are the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cvae.errors import BadArgument, is_whole

__all__ = ["GaussianLSTM", "StandardNormal"]  # the priors

State = tuple[Tensor, Tensor] | None

_LAYERS = 100  # of LSTM cells


class _LSTM(nn.Module):
    """Linear, then a stack of LSTM cells (SVG's ``lstm``), always in the weights' own precision.

    These nets are a percent of the work; in bf16 their state would lose small steps over a long rollout.
    """

    def __init__(self, input_dim: int, hidden_dim: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(input_dim, hidden_dim)
        self.lstm = nn.LSTM(hidden_dim, hidden_dim, layers, batch_first=True)

    def forward(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        x_BTH = self.embed(x_BTI.to(self.embed.weight.dtype))
        if x_BTH.shape[1] == 1 and state is not None:
            return self._step(x_BTH[:, 0], state)
        h_LBH, c_LBH = state or [x_BTH.new_zeros(self.lstm.num_layers, len(x_BTH), self.lstm.hidden_size)] * 2
        weights = [weight for layer in range(self.lstm.num_layers) for weight in self._weights(layer)]
        how = (True, self.lstm.num_layers, 0.0, self.training, False, True)  # biases, layers, no dropout, one way, batch first
        y_BTH, h_LBH, c_LBH = torch.lstm(x_BTH, (h_LBH, c_LBH), weights, *how)
        return y_BTH, (h_LBH, c_LBH)

    def _step(self, y_BH: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, State]:
        """One step of the same cells: on a CPU less than half the time of ``nn.LSTM``, which prepares for long sequences."""
        hidden, cells = [], []
        for layer, (h_BH, c_BH) in enumerate(zip(*state, strict=True)):
            y_BH, c_BH = torch.lstm_cell(y_BH, (h_BH, c_BH), *self._weights(layer))
            hidden.append(y_BH)
            cells.append(c_BH)
        return y_BH[:, None], (torch.stack(hidden), torch.stack(cells))

    def _weights(self, layer: int) -> list[Tensor]:
        """What the layer has now: ``nn.LSTM`` itself would copy weights that are lent to it to other memory, for cuDNN."""
        return [getattr(self.lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


class FramePredictor(nn.Module):
    """Predicts the feature of the next frame: Linear, LSTM cells, Linear, tanh."""

    def __init__(self, input_dim: int, feature_dim: int, hidden_dim: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.core = _LSTM(input_dim, hidden_dim, layers)
        self.out = nn.Linear(hidden_dim, feature_dim)
        self.apply(_initialise)

    def forward(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        """Return ``g_BTG`` in [-1, 1] and the new state."""
        with torch.autocast(x_BTI.device.type, enabled=False):
            y_BTH, state = self.core(x_BTI, state)
            return torch.tanh(self.out(y_BTH)), state


class GaussianLSTM(nn.Module):
    """A diagonal Gaussian over z at each step: the posterior, fed target features, or SVG-LP's prior, fed past ones."""

    def __init__(self, input_dim: int, latent_dim: int, hidden_dim: int = 256, layers: int = 1) -> None:
        super().__init__()
        sizes = {"input_dim": input_dim, "latent_dim": latent_dim, "hidden_dim": hidden_dim, "layers": layers}
        for name, size in sizes.items():
            if hint := size_hint(name, size):
                raise BadArgument(self, name, f"is {size!r}: {hint}")
        self.core = _LSTM(input_dim, hidden_dim, layers)
        self.mu = nn.Linear(hidden_dim, latent_dim)
        self.logvar = nn.Linear(hidden_dim, latent_dim)
        self.apply(_initialise)

    def forward(self, h_BTG: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Return ``mu_BTZ``, ``logvar_BTZ`` and the new state."""
        with torch.autocast(h_BTG.device.type, enabled=False):
            y_BTH, state = self.core(h_BTG, state)
            return self.mu(y_BTH), self.logvar(y_BTH), state


class StandardNormal(nn.Module):
    """The fixed prior N(0, I), with the interface of a learned one."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, h_BTG: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Return zeros for ``mu_BTZ`` and ``logvar_BTZ``: mean 0, variance 1 whatever came before."""
        zeros_BTZ = h_BTG.new_zeros(*h_BTG.shape[:2], self.latent_dim)
        return zeros_BTZ, zeros_BTZ, state


def size_hint(name: str, size: object) -> str:
    """What is wrong with a size of these nets; empty if nothing is. Each layer is a module: a million of them take minutes."""
    most = _LAYERS if name.endswith("layers") else math.inf
    if is_whole(size, 1, most):
        return ""
    return "give a whole number, at least 1" + (f" and at most {most}" if most < math.inf else "")


def _initialise(module: nn.Module) -> None:
    """SVG's initialisation: linear layers N(0, 0.02) with bias 0; LSTM cells keep PyTorch's."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        nn.init.zeros_(module.bias)
