"""Going on with a run: from last.pt, after a look at everything that its numbers depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cvae import damage, run_record
from cvae.console import say, warn
from cvae.damage import Damage
from cvae.errors import UserError
from cvae.integrity import Damaged
from cvae.training import checkpoint
from cvae.training.content import refuse_changed
from cvae.training.state import Impossible, check_optimizer, check_values, check_weights
from cvae.training.trainer import Trainer


def go_on(trainer: Trainer, in_trial: bool) -> None:
    """Restore a run's state, and drop the lines of metrics.jsonl and validations.jsonl that it will write again.

    Args:
        in_trial: where nobody can be asked: a damaged last.pt gives way to best.pt by itself.

    Raises:
        UserError: something is damaged, holds what cannot be or does not fit, with what goes on; or the data are others.
    """
    folder = trainer.recorder.folder
    last = folder / "checkpoints" / "last.pt"
    if trainer.processes.first:
        damage.recover(folder) if in_trial else damage.check(folder)
        record = run_record.recorded_data(folder)
        refuse_changed(record, trainer.data, folder)
    if last.exists():
        restore(trainer, last)
    else:  # the first epoch's line is written before its checkpoint
        say("this run was stopped before its first checkpoint: it starts from the beginning")
    try:
        trainer.recorder.truncate(trainer.epoch, trainer.settings.moments_until(trainer.done))
    except Damaged as error:  # of a run without a hash of its lines; those of others were looked at before
        raise Damage(f"{folder}/{error}: {_way_on(trainer, last)}") from error
    if trainer.processes.first:
        if math.isfinite(trainer.best):
            damage.warn_of_best(folder)
        if not trainer.finished:
            _warn_of_precision(trainer, record)


def _warn_of_precision(trainer: Trainer, record: Mapping[str, Any]) -> None:
    """Say that a run goes on in another precision than before: ``auto`` is another on another machine."""
    before = ([record, *record.get("resumed", [])][-1]).get("precision")
    if before not in (None, trainer.precision):
        warn(f"this run computed in {before} and goes on in {trainer.precision}: precision={before} keeps its numbers")


def restore(trainer: Trainer, path: Path) -> None:
    """Load a checkpoint into a trainer.

    Raises:
        UserError: it is missing, damaged, holds what cannot be, or does not fit the run's config.
    """
    try:
        state = _checked(trainer, path)
    except Impossible as error:
        raise Damage(f"{path} is damaged ({error}): {_way_on(trainer, path)}") from error
    trainer.load(state)
    within = f", iteration {trainer.iteration}" if trainer.iteration else ""
    say(f"resumed at epoch {trainer.epoch}{within}")


def _checked(trainer: Trainer, path: Path) -> dict[str, Any]:
    """A checkpoint's state, all of which fits."""
    state = checkpoint.load(path, trainer.device)
    try:
        check_values(state, trainer.settings)
        for name in ("model",) if trainer.average is None else ("model", "trained"):
            check_weights(state[name], trainer.model)
        if trainer.control is not None and not trainer.control.fits(state["control"]):
            raise Impossible(f"control is {str(state['control'])[:60]}, which is no state of a weight that follows the KL")
        check_optimizer(state["optimizer"], trainer.optimizer, begun=state["epoch"] + state["iteration"] > 0)
        torch.Generator().set_state(state["generator"].cpu())
    except Impossible:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} does not fit its run's config ({reason}): restore both from a copy") from error
    return state


def _way_on(trainer: Trainer, last: Path) -> str:
    """``damage.way_on``, after a look into best.pt as well."""
    folder = trainer.recorder.folder
    try:
        state = _checked(trainer, last.with_name("best.pt"))
        damage.first_lines(folder / "metrics.jsonl", "epoch", range(1, state["epoch"] + 1))
    except (UserError, OSError, ValueError):
        return "best.pt does not help; restore what is damaged from a copy, or start a new run"
    return damage.way_on(folder)
