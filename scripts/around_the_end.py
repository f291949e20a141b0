"""What a run is like around the end of teacher forcing: python scripts/around_the_end.py FILE [overrides of cvae.train]

Trains the run up to some iterations after the end of forcing, and measures on both sides of it: the gradient, Adam's second
moment, the length of an update, the loss of one batch forced and free-running, the statistics that norms see, and the exposure
gap. Writes FILE, as JSON. scripts/forcing_end.py makes a page of several.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from kept_runs import HINT
from torch import Tensor, nn

from cvae.cli import fail
from cvae.errors import UserError, write_whole
from cvae.evaluation.diagnosis import Diagnosis
from cvae.evaluation.metrics import psnr
from cvae.evaluation.protocol import Protocol
from cvae.evaluation.validation import validate
from cvae.explain import is_users
from cvae.run_schedules import Plan
from cvae.start import compose
from cvae.study.course import WINDOW
from cvae.training.assembly import build_trainer
from cvae.training.runtime import device_name
from cvae.training.trainer import Trainer

EVERY = 20  # iterations between two looks at the model
_FRAMES = 512  # predicted in memory at a time

Measured = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="FILE", help="where the measurements go")
    asked, overrides = parser.parse_known_args()
    try:
        write_whole(asked.out, json.dumps(measure(overrides)), HINT)
    except Exception as error:
        if not is_users(error):
            raise
        fail(error)


def measure(words: Sequence[str]) -> Measured:
    """Train a run up to some iterations after the end of forcing, and measure around it.

    Returns:
        ``computed``, on which device and how; ``forced``, its iterations with forcing; ``steps``, of each iteration near the
        end; ``looks``, every ``EVERY`` of them.

    Raises:
        UserError: forcing does not end in this run.
    """
    cfg = compose([*words, "logger=none"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(cfg, Path(folder))
    settings = trainer.settings
    schedules = (trainer.kl_schedule, trainer.tf_schedule, settings.beta, settings.tfr, settings.epochs, settings.schedule_step)
    if (ends := Plan(*schedules).forcing_ends) is None:
        raise UserError("tf_schedule: forcing does not end in this run: give one that does, as tf_schedule=step")
    forced = round(ends * settings.epoch_size)
    trainer.epoch = settings.epochs  # whose windows no epoch has
    batch = next(iter(trainer.batches()))
    trainer.epoch = 0
    steps, looks = [], []
    while trainer.done < min(forced + 2 * WINDOW, settings.epochs * settings.epoch_size):
        trainer.model.train()
        for frames_BTCHW, cond_BTA in trainer.batches():
            near = forced - WINDOW <= trainer.done < forced + 2 * WINDOW
            before = [each.detach().clone() for each in trainer.model.parameters()] if near else []
            trainer.step(frames_BTCHW, cond_BTA)
            trainer.iteration += 1
            if near:
                steps.append({"step": trainer.done, **_of_the_step(trainer, before)})
                if trainer.done % EVERY == 0 or trainer.done == forced:
                    looks.append({"step": trainer.done, **_look(trainer, *batch)})
        trainer.epoch, trainer.iteration = trainer.epoch + 1, 0
    computed = f"{device_name(trainer.device)}, {trainer.precision}"
    return {"words": list(words), "computed": computed, "forced": forced, "steps": steps, "looks": looks}


def _of_the_step(trainer: Trainer, before: Sequence[Tensor]) -> dict[str, float]:
    """Norm of the gradient, root of Adam's mean second moment, and root mean square of an update in units of lr."""
    groups = trainer.optimizer.param_groups
    lr, beta2 = float(groups[0]["lr"]), float(groups[0].get("betas", (0, 0.999))[1])
    parameters = list(trainer.model.parameters())
    count = sum(each.numel() for each in parameters)
    squares = sum(float(each.grad.double().square().sum()) for each in parameters if each.grad is not None)
    moved = sum(float((each.detach() - old).double().square().sum()) for each, old in zip(parameters, before, strict=True))
    moments = 0.0
    for each in parameters:
        state = trainer.optimizer.state.get(each, {})
        if "exp_avg_sq" in state:
            moments += float(state["exp_avg_sq"].double().sum()) / (1 - beta2 ** float(state["step"]))
    return {"gradient": squares**0.5, "moment": moments**0.5, "update": (moved / count) ** 0.5 / lr if lr else 0.0}


def _look(trainer: Trainer, frames_BTCHW: Tensor, cond_BTA: Tensor) -> dict[str, float]:
    """The losses of one batch, forced and free-running, with the statistics of the batch and with running ones; the statistics
    that norms see of true and of predicted frames; PSNR of validation and its exposure gap. The model stays as it is."""
    settings, model = trainer.settings, copy.deepcopy(trainer.model)
    length, batch = frames_BTCHW.shape[1], frames_BTCHW.shape[0]
    noise_TBZ = torch.randn(length, batch, model.latent_dim, generator=torch.Generator().manual_seed(0)).to(trainer.device)
    found: dict[str, float] = {}
    predicted = frames_BTCHW
    for mode in ("train", "eval"):
        for name, forced in (("forced", True), ("free", False)):
            model.load_state_dict(trainer.model.state_dict())
            model.train(mode == "train")
            with torch.no_grad(), trainer.autocast():
                rollout = model(frames_BTCHW, cond_BTA, torch.full((length,), forced), noise_TBZ)
            target = frames_BTCHW[:, rollout.first :]
            found[f"{name}_{mode}"] = float((rollout.predictions_BKCHW.float() - target).square().mean())
            if (name, mode) == ("free", "train"):
                predicted = rollout.predictions_BKCHW.float()
    protocol = Protocol("training", "diagnosis", settings.n_past, settings.n_future)
    split = trainer.data.validate
    found["gap"] = Diagnosis(model, split, protocol, settings.seed, trainer.device, _FRAMES, trainer.autocast).exposure_gap()
    with trainer.autocast():
        found |= validate(model, split, settings.length, 1, settings.seed, trainer.device, {"psnr": psnr})
    found["norm_shift"] = _shift(model, frames_BTCHW[:, -predicted.shape[1] :], predicted)  # last: running statistics move
    return found


def _shift(model: nn.Module, true_BKCHW: Tensor, predicted_BKCHW: Tensor) -> float:
    """How far the means that the encoder's norms see of predicted frames are from those of true ones, in deviations."""
    seen: list[list[tuple[Tensor, Tensor]]] = []
    encoder: Any = model.backbone.encoder  # type: ignore[union-attr]
    norms = [each for each in encoder.modules() if isinstance(each, (nn.BatchNorm2d, nn.GroupNorm))]

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].float()
        seen[-1].append((values.mean(dim=(0, 2, 3)), values.std(dim=(0, 2, 3))))

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    encoder.train()
    for frames in (true_BKCHW, predicted_BKCHW):
        seen.append([])
        with torch.no_grad():
            encoder(frames.flatten(0, 1))
    for hook in hooks:
        hook.remove()
    pairs = zip(*seen, strict=True)
    return mean(float(((theirs - own).abs() / deviation.clamp_min(1e-8)).mean()) for (own, deviation), (theirs, _) in pairs)


if __name__ == "__main__":
    main()
