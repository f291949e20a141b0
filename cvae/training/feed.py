"""Batches on the device: bytes travel, ahead of the step that needs them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cvae.console import say
from cvae.data.contract import Split
from cvae.data.layout import IMAGE_SIZE
from cvae.errors import UserError, require
from cvae.evaluation.validation import to_unit
from cvae.model.moving import moved, pinned
from cvae.training.runtime import gpu_memory_left

_FRAME = 3 * IMAGE_SIZE**2  # bytes
_SHARE = 0.5  # of the GPU's free memory that frames may take: the rest is the model's and its activations'

Batch = tuple[Tensor, Tensor]
"""``frames_BTCHW`` in [0, 1] and ``cond_BTA``."""
Wanted = tuple[np.ndarray, np.ndarray]
"""Sequence indices ``B`` and start frames ``B``."""


class Feed:
    """Gathers batches of windows: on the GPU itself where the whole split lies there, else one ahead of the training step.

    ``resident`` is ``gpu`` (the whole split as bytes in GPU memory), ``host`` (a memory map, from which a thread copies the
    next batch into pinned memory while the GPU works) or ``auto`` (``gpu`` if the split takes at most half of what is free and,
    where jobs have a GPU together, this job's).
    On a CPU the memory map is the device's memory already.

    Raises:
        UserError: ``resident`` has no such value, or is ``gpu`` without a GPU, or with one that is too small.
    """

    def __init__(self, split: Split, length: int, device: torch.device, resident: str = "auto") -> None:
        self.split, self.length, self.device = split, length, device
        self._firsts = np.cumsum(split.lengths) - split.lengths  # where each sequence begins among all frames
        self._held = self._hold() if _fits(split, device, resident) else None

    def batches(self, wanted: list[Wanted]) -> Iterator[Batch]:
        """Yield the batches that are wanted, in order."""
        if self._held is not None:
            yield from (self._on_device(*self._held, *each) for each in wanted)
        elif self.device.type == "cuda":
            yield from self._ahead(wanted)
        else:
            yield from (self._moved(self._gathered(each)) for each in wanted)

    def _hold(self) -> tuple[Tensor, Tensor]:
        """All frames ``NHWC`` and conditions ``NA`` on the device."""
        lengths = self.split.lengths
        say(f"data: {_FRAME * lengths.sum() / 2**30:.1f} GiB of frames go to the GPU and stay there")
        frames_NHWC = torch.empty(int(lengths.sum()), IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8, device=self.device)
        # One by one: reading a memory map whole would take as much host memory again.
        for index, (first, length) in enumerate(zip(self._firsts, lengths, strict=True)):
            frames_1THWC, _ = self.split.gather(np.array([index]), 0, int(length))
            frames_NHWC[first : first + length] = torch.from_numpy(frames_1THWC[0]).to(self.device)
        return frames_NHWC, torch.from_numpy(self.split.cond_NA.copy()).to(self.device)

    def _on_device(self, frames_NHWC: Tensor, cond_NA: Tensor, indices_B: np.ndarray, starts_B: np.ndarray) -> Batch:
        rows = (self._firsts[indices_B] + starts_B)[:, None] + np.arange(self.length)
        rows_BT = moved(torch.from_numpy(rows), self.device)
        return to_unit(frames_NHWC[rows_BT]), cond_NA[rows_BT]

    def _ahead(self, wanted: list[Wanted]) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as thread:
            submitted = (thread.submit(self._gathered, each) for each in wanted)  # each when it is asked for
            following = next(submitted, None)
            while following is not None:
                coming, following = following, next(submitted, None)
                yield self._moved(coming.result())

    def _gathered(self, wanted: Wanted) -> Batch:
        batch = tuple(map(torch.from_numpy, self.split.gather(*wanted, self.length)))
        # Only from pinned memory can the copy be queued without waiting; PyTorch keeps the memory until it is done.
        frames, cond = (pinned(part) for part in batch) if self.device.type == "cuda" else batch
        return frames, cond

    def _moved(self, batch: Batch) -> Batch:
        frames_BTHWC, cond_BTA = (part.to(self.device, non_blocking=True) for part in batch)
        return to_unit(frames_BTHWC), cond_BTA


def _fits(split: Split, device: torch.device, resident: str) -> bool:
    require(resident in ("auto", "gpu", "host"), "data.resident", resident, "choose auto, gpu or host")
    if resident == "host" or (resident == "auto" and device.type != "cuda"):
        return False
    if device.type != "cuda":
        raise UserError("data.resident=gpu, but this run trains on the CPU: data.resident=auto")
    free = gpu_memory_left(device)
    needed = _FRAME * int(split.lengths.sum())
    if resident == "gpu" and needed > free:
        raise UserError(
            f"data.resident=gpu needs {needed / 2**30:.1f} GiB and this GPU has {free / 2**30:.1f} GiB free: data.resident=host"
        )
    return resident == "gpu" or needed <= _SHARE * free
