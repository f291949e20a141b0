"""From the CPU to the device that a model is on."""

from __future__ import annotations

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``, by a copy that nothing waits for: a GPU can take it later from pinned memory alone.

    PyTorch keeps the pinned memory until the copy is done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return pinned(tensor).to(device, non_blocking=True)


def pinned(tensor: Tensor) -> Tensor:
    """A copy in pinned memory.

    Not ``pin_memory()``: a part of a tensor would keep its gaps, and go to the GPU by way of memory that is not pinned.
    """
    return torch.empty_like(tensor, pin_memory=True).copy_(tensor)
