"""What a run's end tells: the numbers that a sweep may weigh, and a warning where the latent does not do its work."""

from __future__ import annotations

from cvae.console import warn
from cvae.damage import read_rows
from cvae.evaluation.diagnosis import NATS, Diagnosis
from cvae.evaluation.metrics import psnr
from cvae.evaluation.protocol import Protocol
from cvae.evaluation.validation import validate
from cvae.run_schedules import half_weight
from cvae.training.runtime import peak_memory
from cvae.training.trainer import Trainer

_LONG = 100  # iterations after the KL's warm-up: a posterior that is still to be learned has little KL too
# What tells a latent that carries the conditions, from the runs in docs/results.md.
_FULL = 10.0  # nats a step; latents that do what they should have less than 5
_POOR, _HARMLESS = 2.0, 1.0  # dB: what the prior's z loses to the posterior's, and what another sequence's conditions cost
_VIDEOS = 64  # of validation that are looked at: two seconds on a CPU
_FRAMES = 512  # predicted in memory at a time


def facts(trainer: Trainer, in_trial: bool = False) -> dict[str, float]:
    """The numbers of a run's best epoch, and of the whole run.

    ``peak_memory`` is in GiB; ``last_below_best`` tells how much worse the last epoch is by the objective, ``best_over_one``
    how much better the best of several samples is than one, in dB. Of a trial there is ``shuffled_cost`` too: what it costs one
    sample of the last epoch to be given the conditions of another sequence, in dB. It is little if they are not used.
    """
    objective = trainer.settings.objective
    rows = [row for row in read_rows(trainer.recorder.folder / "metrics.jsonl") if objective.key in row]
    best = min(rows, key=lambda row: objective.rank(row[objective.key]), default={})
    found = {**best, "peak_memory": round(peak_memory(trainer.device), 3)}
    if best:
        found["last_below_best"] = objective.rank(rows[-1][objective.key]) - objective.rank(best[objective.key])
    if "val/psnr_best" in best:
        found["best_over_one"] = best["val/psnr_best"] - best["val/psnr"]
    if in_trial and trainer.finished and _has_conditions(trainer):
        how = (trainer.settings.length, 1, trainer.settings.seed, trainer.device, {"psnr": psnr})
        with trainer.averaged(), trainer.autocast():
            own, others = (
                validate(trainer.model, trainer.data.validate, *how, shuffled=each)["psnr"] for each in (False, True)
            )
        found["shuffled_cost"] = own - others
    return found


def warn_of_latent(trainer: Trainer) -> None:
    """Say at the end of a run if its latent says nothing, or says what the conditions should.

    Of a latent with much KL it is measured what it knows and what the conditions are worth. One that carries the actions
    predicts well with z from the posterior, which has seen the frame, poorly with z from the prior, and does without its
    conditions.
    """
    rows = read_rows(trainer.recorder.folder / "metrics.jsonl")
    if not (trainer.finished and rows and trainer.processes.first):
        return
    kl = rows[-1]["train/kld"]
    if kl < NATS and _iterations_at_weight(trainer) >= _LONG:
        warn(
            f"posterior collapse: the last epoch's KL is {kl:.3f} nats a step; the model predicts without its latent. "
            f"{_advice(trainer, 'Lower')}"
        )
    elif kl >= _FULL and _has_conditions(trainer):
        known, cost = _latent_and_conditions(trainer)
        if known >= _POOR and cost <= _HARMLESS:
            warn(
                f"the latent carries the actions: KL {kl:.3g} nats a step, {known:.2f} dB lost with z from the prior, and only "
                f"{cost:.2f} dB with another sequence's conditions. {_advice(trainer, 'Raise')}"
            )


def _advice(trainer: Trainer, change: str) -> str:
    """The dials that set how much KL a run ends with."""
    sigma = getattr(trainer.objective.likelihood, "sigma", None)
    also = "" if sigma is None else f" or likelihood.sigma (now {sigma:g})"
    hold = "" if trainer.control is not None else ", or hold the KL: kl_schedule=target"
    return f"{change} beta (now {trainer.settings.beta:g}){also}{hold}"


def _has_conditions(trainer: Trainer) -> bool:
    return len(trainer.model.cond_mean_A) > 0


def _iterations_at_weight(trainer: Trainer) -> float:
    """The number of iterations since the KL weight has warmed up, to half its most."""
    return trainer.settings.epochs * trainer.settings.epoch_size * (1 - half_weight(trainer.kl_schedule))


def _latent_and_conditions(trainer: Trainer) -> tuple[float, float]:
    settings = trainer.settings
    protocol = Protocol("training", "diagnosis", settings.n_past, settings.n_future)
    how = (protocol, settings.seed, trainer.device, _FRAMES, trainer.autocast, _VIDEOS)
    with trainer.averaged():
        return Diagnosis(trainer.model, trainer.data.validate, *how).latent_and_conditions()
