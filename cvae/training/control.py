"""The KL weight of ``kl_schedule=target``: it follows the KL that is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cvae.errors import UserError
from cvae.run_schedules import follows_from
from cvae.schedules import Schedule, Target

_SMOOTH = 0.05  # share of a step's KL in the running mean, which looks back on about 20 steps
_RATE = 0.02  # of the factor's logarithm a step, at most: 35 steps double it
# Of the factor's logarithm, up and down: a latent that sleeps wakes late, and a weight that has fallen far by then floods it.
_MOST = math.log(30)

_FAR = math.log(1e6)  # no version lets the factor go so far


def refuse_unfit(target: Target, beta: float, schedule_step: str, free_nats: float) -> None:
    """Raise UserError for settings under which no weight holds the KL; ``free_nats`` a step are not penalised."""
    other = "or another kl_schedule, as monotonic"
    if beta == 0:
        raise UserError(f"kl_schedule=target moves the weight beta=0, which stays 0: give a beta above 0, or null, {other}")
    if schedule_step != "iteration":
        raise UserError(f"kl_schedule=target moves the weight at every iteration: schedule_step=iteration, {other}")
    if target.nats <= free_nats:
        raise UserError(
            f"kl_schedule.nats={target.nats:g} cannot be held: free_bits give {free_nats:g} nats a step away: raise nats, or "
            f"free_bits=0, {other}"
        )


class KLControl:
    """A factor on the KL weight, moved a little every step so that the running mean of the KL comes to ``nats``.

    log factor += rate * clip(log(KL / nats), -1, 1): an integral controller, as in ControlVAE (Shao et al. 2020), but on the
    logarithms, since beta and KL range over decades. It works on the device: no step waits for a value.
    """

    def __init__(self, target: Target, tf_schedule: Schedule, device: torch.device) -> None:
        self.start = follows_from(target, tf_schedule)
        self._nats, self._low, self._high = target.nats, -_MOST, _MOST
        if target.side == "above":
            self._low = 0.0
        if target.side == "below":
            self._high = 0.0
        self._log_factor = torch.zeros((), device=device)
        self._mean = torch.full((), float(target.nats), device=device)

    def factor(self) -> Tensor:
        """What multiplies the KL weight now, a scalar."""
        return self._log_factor.exp()

    def follows(self, t: float) -> bool:
        """Whether the weight is moved at progress ``t``."""
        return t >= self.start

    def observe(self, kl: Tensor, t: float) -> None:
        """Take in the KL of a step (nats, mean over the batch and steps) at progress ``t``."""
        self._mean.lerp_(kl.to(self._mean.dtype), _SMOOTH)
        if self.follows(t):
            distance = (self._mean.clamp_min(1e-6) / self._nats).log_().clamp_(-1, 1)
            self._log_factor.add_(distance, alpha=_RATE).clamp_(self._low, self._high)

    def state(self) -> dict[str, Any]:
        return {"log_factor": self._log_factor.item(), "mean": self._mean.item()}

    def fits(self, state: Any) -> bool:
        """Whether a saved state is one that this control can come to."""
        log_factor, mean = [state.get(name) for name in ("log_factor", "mean")] if isinstance(state, Mapping) else (None, None)
        if not (isinstance(log_factor, float) and isinstance(mean, float) and 0 <= mean < math.inf):
            return False
        low, high = (_FAR * (bound != 0) for bound in (-self._low, self._high))
        return -low <= log_factor <= high

    def load(self, state: Mapping[str, Any]) -> None:
        self._log_factor.fill_(state["log_factor"])
        self._mean.fill_(state["mean"])
