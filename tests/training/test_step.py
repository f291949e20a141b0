"""A captured step computes what an eager one does: nothing that changes from step to step is part of the graph.

A tape stands in for CUDA's graph: it records every operator of a step, backward pass and optimizer included, and runs them
again on the same memory, in float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cvae.errors import UserError
from cvae.start import compose
from cvae.training.assembly import build_trainer
from cvae.training.state import tensors_of
from cvae.training.step import CapturedStep, Taken
from cvae.training.trainer import Trainer

EPOCHS, STEPS = 5, 10
KINDS = {
    "a step schedule": ["tf_schedule=step"],
    "a coin a sample": ["tf_schedule=constant", "tfr=0.5", "coin=per_sample"],
    "the report's loop": ["compat=course", "kl_schedule=monotonic"],
    "no target, clipped": ["kl_schedule=cyclical", "average=0", "grad_clip=0.5"],
    "short windows": ["window_growth=0.5", "n_future=3"],
    "learned prior": ["prior=learned", "kl_balance=0.8", "free_bits=0.001"],
}
QUICK = "a coin a sample"  # of the plain tests


class Tape(TorchDispatchMode):
    """Records operators as they run."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operator(*args, **(kwargs or {}))
        self.lines.append((operator, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def play(self) -> None:
        for operator, args, kwargs, out in self.lines:
            inputs = {each.untyped_storage().data_ptr() for each in tensors_in((args, kwargs))}
            for there, again in zip(tensors_in(out), tensors_in(operator(*args, **kwargs)), strict=True):
                if there.untyped_storage().data_ptr() not in inputs:  # else it is a view, or was changed in place
                    there.copy_(again)


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        yield from tensors_in([*value.values()])


class Taped:
    """Captures on tapes; as with CUDA, to capture is not to run."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.played = trainer, 0

    def __call__(self, work: Callable[[], Taken]) -> tuple[Taken, Callable[[], None]]:
        trainer = self.trainer
        kept = tensors_of(trainer.model, trainer.optimizer)
        kept += [*trainer.average.weights().values()] if trainer.average else []
        kept += [trainer.control._log_factor, trainer.control._mean] if trainer.control else []
        before = [each.clone() for each in kept]
        with Tape() as tape:
            taken = work()
        with torch.no_grad():
            for each, value in zip(kept, before, strict=True):
                each.copy_(value)

        def again() -> None:
            self.played += 1
            tape.play()

        return taken, again


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trainer_of(drawn: Path, *words: str) -> Trainer:
    given = ["kl_schedule=target", "average=0.05", "lr=1e-3", "lr_decay=cosine", f"epochs={EPOCHS}", f"epoch_size={STEPS}"]
    return build_trainer(compose([*tiny(drawn), "device=cpu", *given, *words]), Path("unused"))


def train(trainer: Trainer) -> list[float]:
    """Take all steps; the losses."""
    trainer.model.train()
    losses = []
    for epoch in range(EPOCHS):
        trainer.epoch, trainer.iteration = epoch, 0
        for frames_BTCHW, cond_BTA in trainer.batches():
            losses.append(trainer.step(frames_BTCHW.double(), cond_BTA.double()).total.item())
            trainer.iteration += 1
    return losses


@pytest.mark.parametrize("name", [QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in KINDS if name != QUICK)])
def test_a_captured_step_computes_what_an_eager_one_does(drawn, name):
    eager, captured = (trainer_of(drawn, *KINDS[name]) for _ in range(2))
    step, capture = captured.take, Taped(captured)
    parts = (step.model, step.objective, step.optimizer, step.autocast, step.grad_clip, step.average, step.control, step.rows)
    captured.take = CapturedStep(*parts, capture=capture, dtype=torch.float64)
    losses = train(eager)
    assert train(captured) == pytest.approx(losses, abs=1e-9, rel=1e-9)
    assert capture.played >= (15 if name == "short windows" else 35)
    assert len({f"{each:.6f}" for each in losses}) > 45
    torch.testing.assert_close(captured.state(), eager.state(), rtol=1e-9, atol=1e-9)


def test_an_optimizer_that_reads_its_numbers_on_the_host_is_refused(drawn):
    step = trainer_of(drawn, "optim=sgd").take
    with pytest.raises(UserError, match="compile=graphs cannot hold SGD"):
        CapturedStep(step.model, step.objective, step.optimizer, step.autocast, None, None, None, step.rows)


def test_a_model_that_replaces_its_buffers_is_refused(drawn):
    """A graph would read the first tensor for ever."""
    trainer = trainer_of(drawn)
    step, encoder = trainer.take, trainer.model.backbone.encoder
    encoder.register_buffer("seen", torch.zeros(()))

    def count(module: torch.nn.Module, inputs: Any) -> None:
        module.seen = module.seen + 1

    encoder.register_forward_pre_hook(count)
    parts = (step.model, step.objective, step.optimizer, step.autocast, step.grad_clip, step.average, step.control, step.rows)
    trainer.take = CapturedStep(*parts, capture=Taped(trainer), dtype=torch.float64)
    with pytest.raises(UserError, match=r"compile=graphs cannot hold backbone\.encoder\.seen: a step puts another tensor"):
        train(trainer)
