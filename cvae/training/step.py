"""What a training step asks of the device: operation by operation, or replayed as one CUDA graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cvae.errors import UserError
from cvae.model.cvae import CVAE
from cvae.model.moving import moved, pinned
from cvae.model.norms import BatchNorms
from cvae.model.objective import Losses, Objective
from cvae.model.together import deferring
from cvae.training.averaging import Average
from cvae.training.control import KLControl
from cvae.training.feed import Batch
from cvae.training.runtime import Autocast

_EAGER_FIRST = 2  # uses of a pattern before it is captured: most mixed ones never come again, and libraries set themselves up
_MOST_GRAPHS = 32  # each holds the addresses of a whole step's memory, which all of them share

T = TypeVar("T")
Check = Callable[[Losses], None]
Capture = Callable[[Callable[[], T]], tuple[T, Callable[[], object]]]
"""From work to what it returns, and to what does the work again on the same memory. Nothing has been done yet."""


def draw_forced(ratio: float, coin: str, length: int, batch: int, generator: torch.Generator) -> Tensor:
    """Toss the teacher-forcing coin: bool ``forced``, T or BT, true with probability ``ratio``.

    ``per_sequence`` tosses one coin for the whole window, ``per_step`` one a step (the report's), ``per_sample`` one a step
    and sequence.
    """
    shape = {"per_sequence": (1,), "per_step": (length,), "per_sample": (batch, length)}[coin]
    tossed = torch.rand(shape, generator=generator) < ratio
    return tossed.expand(length) if coin == "per_sequence" else tossed


@dataclass(frozen=True)
class Dials:
    """The numbers of a step that schedules move; ``shift`` is the average's, ``progress`` the share of the run that is done."""

    kl_weight: float | Tensor
    lr: float | Tensor
    shift: float | Tensor
    progress: float


@dataclass(frozen=True)
class Taken:
    """A step's losses, and what an epoch's row is the mean of: MSE, KL, loss a scored step, a weight that follows the KL."""

    losses: Losses
    computed: Tensor


class Step:
    """Forward and backward pass, the optimizer's step, and what follows the weights. Nothing is read back from the device.

    ``network`` is what is called: the model, or what joins it to the models of other processes. ``rows`` are this process's of
    the batch that they share.
    """

    def __init__(
        self,
        model: CVAE,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        autocast: Autocast,
        grad_clip: float | None,
        average: Average | None,
        control: KLControl | None,
        rows: slice,
    ) -> None:
        self.model, self.objective, self.optimizer, self.autocast = model, objective, optimizer, autocast
        self.grad_clip, self.average, self.control, self.rows = grad_clip, average, control, rows
        self.network: nn.Module = model
        self.norms = BatchNorms(model)

    def __call__(self, batch: Batch, forced: Tensor, noise_TBZ: Tensor, dials: Dials, check: Check) -> Taken:
        """Take a step.

        Args:
            forced: the whole batch's coins, T or BT, on the CPU; see ``CVAE.forward``.
            noise_TBZ: standard normal for the batch's rows, on the CPU.
            check: looks at the losses, before they change the weights where that is possible.
        """
        device = batch[0].device
        mask_BT = moved(forced[self.rows], device) if forced.dim() > 1 else forced[None]
        return self.run(batch, forced, mask_BT, moved(noise_TBZ, device), dials, check)

    def run(self, batch: Batch, forced: Tensor, mask_BT: Tensor, noise_TBZ: Tensor, dials: Dials, check: Check) -> Taken:
        """The step itself, with all tensors on the device but ``forced``, which steers it."""
        frames_BTCHW, cond_BTA = batch
        weight = dials.kl_weight if self.control is None else dials.kl_weight * self.control.factor()
        for group in self.optimizer.param_groups:
            group["lr"] = dials.lr
        with self.autocast(), self.norms.together():
            rollout = self.network(frames_BTCHW, cond_BTA, forced, noise_TBZ, mask_BT)
        losses = self.objective(rollout, frames_BTCHW, weight)
        check(losses)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        if self.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.move(dials.shift)
        if self.control is not None:
            self.control.observe(losses.kld, dials.progress)
        losses = replace(losses, total=losses.total.detach())  # who keeps it must not keep what CUDA's graphs cannot share
        steps = rollout.predictions_BKCHW.shape[1]
        computed = [losses.mse, losses.kld, losses.total / steps, *([weight] if isinstance(self.control, KLControl) else [])]
        return Taken(losses, torch.stack([torch.as_tensor(each) for each in computed]).double())

    def forget(self) -> None:
        """Take nothing for granted of earlier steps: the state was loaded anew."""


class CapturedStep(Step):
    """The same, where a pattern of forcing that comes for the third time is captured as a graph and replayed from then on.

    A GPU gets a step in one launch in place of thousands. What changes from step to step is copied to where the graph reads
    it: frames, conditions, noise, the coins of single samples, and the numbers of ``Dials``. The pattern, the windows' length
    and whether the KL is followed are part of the graph; with mixed ratios patterns seldom come again, and steps run one
    operation after the other as before.

    Raises:
        UserError: the optimizer reads its numbers on the host; in a step, the model puts other tensors in its buffers' places.
    """

    def __init__(self, *parts: Any, capture: Capture[Taken] | None = None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(*parts)
        self._capture = capture or _CudaGraphs()
        self._dtype = dtype  # of the numbers; fused optimizers take float32
        self._inputs: dict[int, _Inputs] = {}  # by the windows' length
        self.forget()
        if any("capturable" not in group for group in self.optimizer.param_groups):
            name = type(self.optimizer).__name__
            raise UserError(
                f"compile=graphs cannot hold {name}, whose numbers are read on the host: optim=adam, or compile=auto"
            )

    def forget(self) -> None:
        """Drop all graphs: they write to the state's memory as it was."""
        self._seen: Counter[Any] = Counter()
        self._graphs: dict[Any, tuple[Taken, Callable[[], object]]] = {}

    def __call__(self, batch: Batch, forced: Tensor, noise_TBZ: Tensor, dials: Dials, check: Check) -> Taken:
        length = batch[0].shape[1]
        tossed = forced.reshape(-1, length)[:, self.model.n_past + 1 if self.model.force_past else 0 :]
        pattern = [(bool(step.all()), bool(step.any())) for step in tossed.unbind(1)]
        key = (length, *pattern, self.control is not None and self.control.follows(dials.progress))
        inputs = self._fill(batch, forced, noise_TBZ, dials)
        self._seen[key] += 1
        if key not in self._graphs and self._seen[key] > _EAGER_FIRST and len(self._graphs) < _MOST_GRAPHS:
            before = self._state()
            self._graphs[key] = self._capture(lambda: self._on(inputs, forced, dials, lambda losses: None))
            if moved_away := [name for name, tensor in self._state().items() if tensor is not before.get(name)]:
                raise UserError(
                    f"compile=graphs cannot hold {moved_away[0]}: a step puts another tensor in its place, a graph reads the "
                    "first one: write into it, as with copy_ or mul_, or compile=auto"
                )
        if key in self._graphs:
            taken, again = self._graphs[key]
            again()
            check(taken.losses)  # the weights have moved: whether a graph's losses are finite is known only after it
        else:
            taken = self._on(inputs, forced, dials, check)
        for group in self.optimizer.param_groups:  # a checkpoint holds the optimizer as that of any other run
            group["lr"] = dials.lr
        return taken

    def _state(self) -> dict[str, Tensor]:
        """The model's parameters and buffers, by name."""
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    def _fill(self, batch: Batch, forced: Tensor, noise_TBZ: Tensor, dials: Dials) -> _Inputs:
        """Copy what is new to where graphs read it."""
        device, length = batch[0].device, batch[0].shape[1]
        mask_BT = forced[self.rows] if forced.dim() > 1 else forced[None]
        numbers_3 = torch.tensor([dials.kl_weight, dials.lr, dials.shift], dtype=self._dtype)
        if length not in self._inputs:
            given = (*batch, mask_BT, noise_TBZ, numbers_3)
            self._inputs[length] = _Inputs(*(torch.empty_like(each, device=device) for each in given))
        inputs = self._inputs[length]
        for there, here in zip(inputs.batch, batch, strict=True):
            there.copy_(here)
        fresh = [(inputs.noise_TBZ, noise_TBZ), (inputs.numbers_3, numbers_3)]
        for there, here in [*fresh, *[(inputs.mask_BT, mask_BT)] * (forced.dim() > 1)]:
            there.copy_(pinned(here) if device.type == "cuda" else here, non_blocking=True)
        return inputs

    def _on(self, inputs: _Inputs, forced: Tensor, dials: Dials, check: Check) -> Taken:
        """Run the step on the memory of graphs."""
        kl_weight, lr, shift = inputs.numbers_3.unbind()
        there = replace(dials, kl_weight=kl_weight, lr=lr, shift=shift)
        groups = self.optimizer.param_groups
        usual = [group["capturable"] for group in groups]
        for group in groups:
            group["capturable"] = True
        try:
            with deferring():
                return self.run(inputs.batch, forced, inputs.mask_BT, inputs.noise_TBZ, there, check)
        finally:
            for group, capturable in zip(groups, usual, strict=True):
                group["capturable"] = capturable


@dataclass(frozen=True)
class _Inputs:
    """Where a graph reads what changes from step to step."""

    frames_BTCHW: Tensor
    cond_BTA: Tensor
    mask_BT: Tensor
    noise_TBZ: Tensor
    numbers_3: Tensor  # the KL weight, lr and shift of ``Dials``

    @property
    def batch(self) -> Batch:
        return self.frames_BTCHW, self.cond_BTA


class _CudaGraphs:
    """Captures work as CUDA graphs that share one pool of memory: they run one after the other."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, work: Callable[[], Taken]) -> tuple[Taken, Callable[[], object]]:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads go on meanwhile: one pins the next batch, one may write a checkpoint.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            taken = work()
        return taken, graph.replay
