"""Teacher forcing in a rollout."""

from __future__ import annotations

import torch
from torch import Tensor


class Coins:
    """Which steps are fed the true frame. On the CPU they steer the control flow; a mask mixes a step whose samples differ."""

    def __init__(self, forced_BT: Tensor, mask_BT: Tensor) -> None:
        self._forced_BT = forced_BT  # of the whole batch, on the CPU
        self._mask_BT = mask_BT  # of the rows that are here, on the device

    def forces(self, t: int) -> bool:
        return bool(self._forced_BT[:, t].all())

    def mixed(self, t: int, true: Tensor, predicted: Tensor) -> Tensor:
        """The true input of step t where the coin forced it, the prediction elsewhere."""
        if self.forces(t):
            return true
        if not self._forced_BT[:, t].any():
            return predicted
        return torch.where(self._mask_BT[:, t].view(-1, *[1] * (true.dim() - 1)), true, predicted.to(true.dtype))
