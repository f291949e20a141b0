"""What a checkpoint holds of a trainer besides weights, and the values that it can have."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cvae.training.settings import Settings

NUMBERS = ("epoch", "iteration", "elapsed", "best")
_MEANS = ("train/mse", "train/kld", "train/loss", "kl_weight", "tf_ratio", "lr")  # in a row of metrics.jsonl


class Impossible(ValueError):
    """No run has such a value."""


class EpochSums:
    """Sums over an epoch, for the means in its row. What steps compute stays on the device, so that no step waits for it.

    ``follows``: whether the KL weight follows the KL, and so is computed too.
    """

    def __init__(self, device: torch.device, follows: bool) -> None:
        self.computed = torch.zeros(3 + follows, dtype=torch.float64, device=device)  # MSE, KL, loss, maybe the KL weight
        self.scheduled = [0.0, 0.0, 0.0]  # KL weight, if it is not computed; forcing ratio; learning rate
        self.count = 0

    def add(self, computed: Tensor, *scheduled: float) -> None:
        """Add a step's numbers: those computed, in float64 on the device, and those scheduled."""
        self.computed += computed
        self.scheduled = [a + b for a, b in zip(self.scheduled, scheduled, strict=True)]
        self.count += 1

    def _all(self) -> tuple[list[float], list[float]]:
        losses, weight = self.computed.tolist()[:3], self.computed.tolist()[3:] or self.scheduled[:1]
        return losses, [*weight, *self.scheduled[1:]]

    def means(self) -> dict[str, float]:
        losses, scheduled = self._all()
        return {name: value / self.count for name, value in zip(_MEANS, [*losses, *scheduled], strict=True)}

    def state(self) -> dict[str, Any]:
        return {"losses": self.computed[:3].cpu(), "scheduled": self._all()[1], "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        self.computed[:3].copy_(state["losses"])
        self.computed[3:].fill_(state["scheduled"][0])
        self.scheduled, self.count = list(state["scheduled"]), state["count"]


def check_values(state: Mapping[str, Any], settings: Settings) -> None:
    """Raise ``Impossible`` for a number of a checkpoint that a run with these settings cannot come to."""
    epoch, iteration, best, sums = state["epoch"], state["iteration"], state["best"], state["sums"]
    _require(type(epoch) is int and 0 <= epoch <= settings.epochs, "epoch", epoch, f"a run of {settings.epochs} epochs")
    last = settings.epoch_size if epoch < settings.epochs else 0  # all of them: a signal came before validation
    what = f"{settings.epoch_size} iterations an epoch, after epoch {epoch} of {settings.epochs}"
    _require(type(iteration) is int and 0 <= iteration <= last, "iteration", iteration, what)
    _require(_is_number(state["elapsed"]) and state["elapsed"] >= 0, "elapsed", state["elapsed"], "seconds")
    _require(type(best) in (int, float) and not math.isnan(best), "best", best, "the best value of an objective")
    losses, scheduled = sums["losses"], sums["scheduled"]
    good = isinstance(losses, Tensor) and losses.shape == (3,) and losses.is_floating_point() and all_finite([losses])
    _require(good, "sums.losses", losses, "three sums of losses")
    good = isinstance(scheduled, list) and len(scheduled) == 3 and all(map(_is_number, scheduled))
    _require(good, "sums.scheduled", scheduled, "three sums of scheduled values")
    _require(type(sums["count"]) is int and sums["count"] == iteration, "sums.count", sums["count"], f"iteration {iteration}")


def check_weights(saved: Mapping[str, Any], model: nn.Module) -> None:
    """Look at a model's saved weights before they are taken.

    Raises:
        Impossible: some are of another type, NaN or infinite.
        ValueError: they are of another model.
    """
    own = model.state_dict()
    if different := own.keys() ^ saved.keys():
        raise ValueError(f"model.{min(different)} is in one of them only")
    for name, value in saved.items():
        if not isinstance(own[name], Tensor):  # a module's extra state, which is its own affair
            continue
        if not isinstance(value, Tensor) or value.dtype != own[name].dtype:
            raise Impossible(f"model.{name} is {_said(value)} where {own[name].dtype} belongs")
        if value.shape != own[name].shape:
            raise ValueError(f"model.{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}")
    if not all_finite(saved.values()):
        name = next(name for name, value in saved.items() if not all_finite([value]))
        raise Impossible(f"model.{name} holds NaN or infinity")


def check_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer, begun: bool) -> None:
    """Raise ``Impossible`` if an optimizer's saved state is missing after a first step, or not such as this one has."""
    states, groups = saved["state"], saved["param_groups"]
    wanted = _state_after_a_step(optimizer)
    if begun and wanted and not states:
        raise Impossible("it has no state of the optimizer")
    if not type(optimizer).__module__.startswith("torch.optim"):  # of the user's own: what it keeps where is its affair
        values = [value for entries in states.values() if isinstance(entries, Mapping) for value in entries.values()]
        if not all_finite(values):
            raise Impossible("the optimizer's state holds NaN or infinity")
        return
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        for key in (group.keys() & own.keys()) - {"lr", "params"}:
            if isinstance(own[key], (int, float, tuple)) and group[key] != own[key]:
                raise Impossible(f"optimizer.{key} is {_said(group[key])} where {own[key]!r} belongs")
    for index, entries in states.items():
        if wanted and (index not in wanted or entries.keys() != wanted[index].keys()):
            raise Impossible(f"optimizer.state[{index!r}] is not a state of {type(optimizer).__name__}")
        for key, value in entries.items():
            own = wanted[index][key] if wanted else value
            if isinstance(own, Tensor) and not (isinstance(value, Tensor) and value.shape == own.shape and all_finite([value])):
                raise Impossible(f"optimizer.state[{index}].{key} is {_said(value)}, finite {tuple(own.shape)} is needed")


def _state_after_a_step(optimizer: torch.optim.Optimizer) -> Mapping[Any, Any]:
    """The state that a step leaves, tried on a copy; empty if an optimizer of the user's own cannot be copied."""
    try:
        probe = copy.deepcopy(optimizer)
        for group in probe.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        probe.step()
    except Exception:
        return {}
    state: Mapping[Any, Any] = probe.state_dict()["state"]
    return state


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What a checkpoint keeps and a step changes."""
    kept = [value for entries in _entries(optimizer) for value in entries.values() if isinstance(value, Tensor)]
    return [*model.state_dict().values(), *kept]


def _entries(optimizer: torch.optim.Optimizer) -> list[Mapping[Any, Any]]:
    """What it keeps of its parameters; one of the user's own may keep something else beside it."""
    return [entries for entries in optimizer.state.values() if isinstance(entries, Mapping)]


def all_finite(tensors: Iterable[Any]) -> bool:
    """Whether no tensor among them holds NaN or infinity; a device is waited for once."""
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            found.setdefault(tensor.device, []).append(tensor.isfinite().all())
    return all(bool(torch.stack(each).all()) for each in found.values())


def _require(good: bool, name: str, value: object, what: str) -> None:
    if not good:
        raise Impossible(f"{name} is {_said(value)}, which cannot be: {what}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _said(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {value.dtype} {tuple(value.shape)}"
    return repr(value)[:60]
