"""What a run says of itself before it trains: the start table, and warnings of its settings."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from cvae.console import say, short, warn
from cvae.data.layout import IMAGE_SIZE
from cvae.model.objective import Gaussian
from cvae.run_schedules import as_call
from cvae.training.runtime import busy, device_name
from cvae.training.trainer import Trainer

# A decoder whose sigma is so many times the copy baseline's error explains the frames without the latent. On frames of a
# simulated arm 5 times left 2 nats of KL a step, 8 times 0.6, and 11 times none (840 iterations, forcing to a quarter).
_WIDE = 8
_SETTLES = 150  # iterations in which a weight that follows the KL can change twentyfold


def say_what_runs(cfg: DictConfig, trainer: Trainer, folder: Path) -> None:
    """Print the table, and a warning of each setting that will not do what it is for."""
    settings, data, likelihood = trainer.settings, trainer.data, trainer.objective.likelihood
    sigma = likelihood.implied_sigma(settings.beta, 3 * IMAGE_SIZE**2)
    backbone, parameters = cfg.model.backbone, sum(each.numel() for each in trainer.model.parameters())
    table = {
        "run": short(folder),
        "data": f"{data}: {len(data.train)} train, {len(data.validate)} validate",
        "training": f"{settings.epochs} epochs x {settings.epoch_size} iterations x {settings.batch_size} windows of "
        f"{settings.n_past}+{settings.n_future}",
        "model": named(backbone)
        + (f" width {backbone.width:g}" if "width" in backbone else "")
        + f", {parameters / 1e6:.2f} M parameters, {data.train.cond_NA.shape[1]} values a condition",
        "schedules": f"KL {as_call(trainer.kl_schedule)}, forcing {as_call(trainer.tf_schedule)}",
        "objective": f"{type(likelihood).__name__}, beta {settings.beta:g}, implied sigma "
        + ("learned" if sigma is None else f"{sigma:.3g}")
        + _measured(trainer),
        "device": f"{device_name(trainer.device)}, {trainer.precision}"
        + (f", {trainer.processes.world} processes" if trainer.processes.world > 1 else ""),
        "baseline": f"repeating the last past frame: {trainer.psnr_copy:.2f} dB, RMSE {trainer.copy_rmse:.3f}",
    }
    if trainer.device.type == "cpu" and (hint := busy()):
        table["threads"] = hint
    for fact, value in table.items():
        say(f"{fact:<{max(map(len, table))}}  {value}")
    _warn_of_settings(trainer, sigma)


def _measured(trainer: Trainer) -> str:
    """Where a sigma comes from that nobody gave."""
    likelihood, scale = trainer.objective.likelihood, trainer.settings.sigma_scale
    if not (isinstance(likelihood, Gaussian) and likelihood.auto):
        return ""
    error = likelihood.sigma / scale
    return f"; sigma {likelihood.sigma:g} is {scale:g} times the RMSE {error:.3f} of the last past frame in train"


def _warn_of_settings(trainer: Trainer, sigma: float | None) -> None:
    settings, rmse = trainer.settings, trainer.copy_rmse
    if sigma is not None and sigma > _WIDE * rmse:
        factor = (_WIDE * rmse / sigma) ** 2
        warn(
            f"the decoder's implied sigma {sigma:.3g} exceeds {_WIDE} times the copy baseline's RMSE {rmse:.3f}: the latent "
            f"will hardly be used. beta={settings.beta * factor:.1g} or less keeps it in use"
        )
    if (control := trainer.control) is not None:
        left = settings.epochs * settings.epoch_size * (1 - control.start)
        if left < _SETTLES:
            warn(
                f"the KL weight follows the KL in the last {left:.0f} iterations only, and needs some {_SETTLES} to settle: "
                "end forcing earlier, or give kl_schedule.start"
            )
    if settings.schedule_step == "epoch" and not any(trainer.kl_schedule(e / settings.epochs) for e in range(settings.epochs)):
        warn("the KL weight is 0 in every epoch: more epochs are needed, fewer cycles, or schedule_step=iteration")


def named(node: DictConfig) -> str:
    """The class that a node of a config builds, in small letters."""
    return str(node._target_).rpartition(".")[2].lower()
