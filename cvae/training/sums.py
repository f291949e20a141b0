"""What an epoch's row of metrics.jsonl says of training."""

from __future__ import annotations

from typing import Any

import torch

from cvae.model.objective import Losses


class EpochSums:
    """An epoch's sums: losses on the device, so that no step waits for them; schedule values in Python."""

    def __init__(self, device: torch.device) -> None:
        self.losses = torch.zeros(3, dtype=torch.float64, device=device)
        self.scheduled = [0.0, 0.0, 0.0]
        self.count = 0

    def add(self, losses: Losses, steps: int, kl_weight: float, tf_ratio: float, lr: float) -> None:
        self.losses += torch.stack([losses.mse, losses.kld, losses.total.detach() / steps]).double()
        self.scheduled = [a + b for a, b in zip(self.scheduled, (kl_weight, tf_ratio, lr), strict=True)]
        self.count += 1

    def means(self) -> dict[str, float]:
        mse, kld, loss = (self.losses / self.count).tolist()
        kl_weight, tf_ratio, lr = (value / self.count for value in self.scheduled)
        return {
            "train/mse": mse,
            "train/kld": kld,
            "train/loss": loss,
            "kl_weight": kl_weight,
            "tf_ratio": tf_ratio,
            "lr": lr,
        }

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses.cpu(), "scheduled": self.scheduled, "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        self.losses.copy_(state["losses"])
        self.scheduled, self.count = list(state["scheduled"]), state["count"]
