"""The training loop. It knows no config: every part is handed to it, every number stands in ``Settings``."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from cvae.data.contract import Dataset, training_windows
from cvae.errors import Diverged
from cvae.evaluation.metrics import FrameMetric
from cvae.evaluation.validation import free_run, score_copy, validate
from cvae.model.cvae import CVAE
from cvae.model.objective import Losses, Objective
from cvae.schedules import LearningRate, Schedule, Target
from cvae.training import checkpoint
from cvae.training.averaging import Average
from cvae.training.control import KLControl
from cvae.training.distributed import Processes
from cvae.training.feed import Batch, Feed
from cvae.training.recorder import Recorder
from cvae.training.runtime import Autocast, Stopped, StopRequest, reset_peak_memory
from cvae.training.settings import Settings
from cvae.training.state import NUMBERS, EpochSums, all_finite, tensors_of
from cvae.training.step import CapturedStep, Dials, Step, draw_forced
from cvae.training.terminal import Advance, live_bar
from cvae.trial import NoTrial, Trial

_SHOWN = 4  # sequences in a sample picture


@dataclass(eq=False)
class Trainer:
    """Trains a model epoch by epoch, validates it free-running, and keeps last.pt and best.pt.

    A run is a pure function of its settings and data: all randomness comes from one generator, whose state is saved, and
    from (seed, epoch). So a run that is killed and resumed ends with the same weights as one that was not.
    """

    settings: Settings
    model: CVAE
    objective: Objective
    optimizer: torch.optim.Optimizer
    kl_schedule: Schedule
    tf_schedule: Schedule
    learning_rate: LearningRate
    data: Dataset
    frame_metrics: Mapping[str, FrameMetric]
    device: torch.device
    precision: str
    autocast: Autocast
    recorder: Recorder
    processes: Processes
    captured: bool = False  # whether steps are replayed as CUDA graphs

    def __post_init__(self) -> None:
        settings, data = self.settings, self.data
        self.rows = self.processes.rows(settings.batch_size)
        self.feed = Feed(data.train, settings.length, self.device, data.resident)
        self.lr = float(self.optimizer.param_groups[0]["lr"])  # before a checkpoint brings back a scheduled one
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.epoch = 0  # completed epochs
        self.iteration = 0  # completed iterations of the epoch after them
        self.average = Average(self.model, settings.average) if settings.average else None
        target = self.kl_schedule if isinstance(self.kl_schedule, Target) else None
        self.control = None if target is None else KLControl(target, self.tf_schedule, self.device)
        parts = (self.model, self.objective, self.optimizer, self.autocast, settings.grad_clip)
        self.take = (CapturedStep if self.captured else Step)(*parts, self.average, self.control, self.rows)
        self.sums = EpochSums(self.device, follows=self.control is not None)
        self.best = math.inf if settings.objective.better == "min" else -math.inf
        self.elapsed = 0.0  # seconds spent on the current epoch before an interruption
        self.writer = checkpoint.Writer()
        self.psnr_copy, self.copy_rmse = score_copy(data.validate, settings.n_past, settings.length)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.settings.epochs

    @property
    def done(self) -> int:
        """Iterations of the run that are done."""
        return self.epoch * self.settings.epoch_size + self.iteration

    def fit(self, trial: Trial | None = None) -> float:
        """Train to the end, or until a sweep's pruner says that ``trial`` is not worth it; return the best objective.

        Raises:
            Stopped: a signal asked for it; last.pt holds the state.
            Diverged: a loss became NaN or infinite; checkpoints/diverged.pt holds the state.
            UserError: a checkpoint or a record could not be written.
        """
        settings, trial = self.settings, trial or NoTrial()
        reset_peak_memory(self.device)
        bar = live_bar(settings.epochs * settings.epoch_size, self.done, self._work)
        with StopRequest(trial) as stop, self.processes.in_step(), bar as advance, self.writer:
            self.take.network = self.processes.wrap(self.model)
            while not (self.finished or trial.pruned):
                row = self._run_epoch(stop, advance)
                if settings.objective.key in row:
                    trial.report(self.epoch, row[settings.objective.key])
        return self.best

    def _work(self, t: float) -> tuple[float, float]:
        """Of a whole window's frames, the share in a window at progress ``t``, and that of predictions encoded once more."""
        settings, forced = self.settings, self.settings.tfr * self.tf_schedule(t)
        share = settings.window(int(t * settings.epochs) + 1) / settings.length
        if self.model.rollout != "planned":
            return share, 0.0  # it encodes every frame anew, forced or not
        # A step is encoded for the whole batch if one sample of it is free.
        return share, share * (1 - forced ** (settings.batch_size if settings.coin == "per_sample" else 1))

    def _run_epoch(self, stop: StopRequest, advance: Advance) -> dict[str, Any]:
        began, validating = time.monotonic() - self.elapsed, 0.0
        settings, epoch = self.settings, self.epoch + 1
        self.model.train()
        for frames_BTCHW, cond_BTA in self.batches():
            losses = self.step(frames_BTCHW, cond_BTA)
            self.iteration += 1
            advance(losses, settings.batch_size * frames_BTCHW.shape[1])
            self.recorder.check(look=False)
            if self.done in settings.moments:
                validating += self._validate_inside()
            signum = self.processes.agree(stop.signum)
            if signum is not None:
                self.elapsed = time.monotonic() - began - validating
                self._check_weights()
                self._save("last.pt")
                raise Stopped(signum)
        self._check_weights()
        row = self._row(epoch, time.monotonic() - began - validating)
        self._finish_epoch(row, began)
        return row

    def batches(self) -> Iterator[Batch]:
        """This process's rows of the windows that are left of the epoch."""
        settings, epoch = self.settings, self.epoch + 1
        self.feed.length = settings.window(epoch)
        indices, starts = training_windows(
            self.data.train.lengths,
            **{"seed": settings.seed, "epoch": epoch, "batches": settings.epoch_size, "batch_size": settings.batch_size},
            length=self.feed.length,
            random_start=self.data.random_start,
        )
        wanted = zip(indices[:, self.rows], starts[:, self.rows], strict=True)
        return self.feed.batches([*wanted][self.iteration :])

    def step(self, frames_BTCHW: Tensor, cond_BTA: Tensor) -> Losses:
        """Train on this process's rows of a batch of windows, at the current place in the schedules."""
        settings, batch, length = self.settings, self.settings.batch_size, frames_BTCHW.shape[1]
        kl_weight, tf_ratio, lr = self._scheduled()
        # For what draws by itself, as dropout in a backbone of the user's: a resumed run draws the same. Nothing else does.
        torch.manual_seed(((settings.seed * 1_000_003 + self.done) * self.processes.world + self.processes.rank) % 2**63)
        # Drawn on the CPU, so that a seed means the same run on every device; always both, so that a schedule's shape does
        # not shift the noise; and for the whole batch, so that it does not depend on how many processes share it.
        forced = draw_forced(tf_ratio, settings.coin, length, batch, self.generator)
        noise_TBZ = torch.randn(length, batch, self.model.latent_dim, generator=self.generator)[:, self.rows]
        shift = 0.0 if self.average is None else self.average.shift(self.done + 1)
        dials = Dials(kl_weight, lr, shift, self._progress())
        taken = self.take((frames_BTCHW, cond_BTA), forced, noise_TBZ, dials, self._check_finite)
        self.sums.add(taken.computed, kl_weight, tf_ratio, lr)
        return taken.losses

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """The context in which the model has the weights that it is to predict with."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def _progress(self) -> float:
        """Where the next iteration is in the schedules."""
        settings = self.settings
        return (self.epoch + self.iteration / settings.epoch_size * (settings.schedule_step == "iteration")) / settings.epochs

    def _scheduled(self) -> tuple[float, float, float]:
        """KL weight (beta included), teacher-forcing ratio (tfr included) and learning rate of the next iteration."""
        settings = self.settings
        t = self._progress()
        # The middle of the iteration: no warm-up begins and no cosine ends with a step of length 0.
        lr_t = (self.done + 0.5) / (settings.epochs * settings.epoch_size)
        return (
            settings.beta * float(self.kl_schedule(t)),
            settings.tfr * float(self.tf_schedule(t)),
            self.lr * self.learning_rate(lr_t),
        )

    def _check_finite(self, losses: Losses) -> None:
        """Before the step, so that on a CPU the saved weights are those that gave the loss."""
        # Reading a loss waits for the GPU; there every 50th step is soon enough to stop a dead run.
        number, now_and_then = self.iteration + 1, self.device.type != "cpu"
        later = now_and_then and number % 50 and number < self.settings.epoch_size
        if later or torch.isfinite(losses.total):
            return
        terms = {"MSE": losses.mse, "KL": losses.kld, "loss": losses.total}
        term, value = next((name, value.item()) for name, value in terms.items() if not torch.isfinite(value))
        self._diverged(f"{term} became {value:g} in epoch {self.epoch + 1}, {'by ' * now_and_then}iteration {number}")

    def _check_weights(self) -> None:
        """Before weights are kept: the last step may have spoiled them, and a GPU's losses are looked at now and then."""
        if not all_finite(tensors_of(self.model, self.optimizer)):
            self._diverged(f"weights became NaN or infinite in epoch {self.epoch + 1}, by iteration {self.iteration}")

    def _diverged(self, how: str) -> NoReturn:
        self._save("diverged.pt")
        raise Diverged(
            f"{how}: lower lr (now {self.lr:g}) or set grad_clip=1; the state is in "
            f"{self.recorder.folder / 'checkpoints' / 'diverged.pt'}"
        )

    def _row(self, epoch: int, seconds: float) -> dict[str, Any]:
        settings = self.settings
        row: dict[str, Any] = {"epoch": epoch, "step": epoch * settings.epoch_size, **self.sums.means()}
        if self.processes.first and (epoch % settings.validate_every == 0 or epoch == settings.epochs):
            row |= self._scores()
        row["frames_per_second"] = settings.epoch_size * settings.batch_size * settings.window(epoch) / seconds
        return row

    def _scores(self) -> dict[str, float]:
        """What validation finds at present, by its keys in a row."""
        settings = self.settings
        how = (settings.length, settings.n_samples, settings.seed, self.device, self.frame_metrics)
        with self.averaged(), self.autocast():
            scores = validate(self.model, self.data.validate, *how)
        return {**{f"val/{name}": value for name, value in scores.items()}, "val/psnr_copy": self.psnr_copy}

    def _validate_inside(self) -> float:
        """Record a validation inside an epoch, which chooses nothing and reports to no trial; return its seconds."""
        began, step = time.monotonic(), self.done
        if self.processes.first:
            self._check_weights()
            self.recorder.validation({"step": step, "epoch": step / self.settings.epoch_size, **self._scores()})
        return time.monotonic() - began

    def _finish_epoch(self, row: dict[str, Any], began: float) -> None:
        """Record, then best.pt, then last.pt: after a kill, resuming repeats what is missing, with the same result."""
        settings, objective = self.settings, self.settings.objective
        self.epoch, self.iteration, self.elapsed = row["epoch"], 0, 0.0
        self.sums = EpochSums(self.device, follows=self.control is not None)
        better = objective.rank(row.get(objective.key)) < objective.rank(self.best)
        if better:
            self.best = row[objective.key]
        self.writer.wait()  # no line is more than one ahead of last.pt
        row["seconds"] = time.monotonic() - began
        self.recorder.epoch(row, settings.epochs, best=better)
        if self.processes.first and settings.sample_every and (self.epoch % settings.sample_every == 0 or self.finished):
            self._sample()
        self._save(*["best.pt"] * better, "last.pt")

    def _sample(self) -> None:
        """Pictures of the first validation sequences, predicted for up to n_eval frames."""
        settings, split = self.settings, self.data.validate
        shown = min(_SHOWN, len(split))
        length = min(settings.n_eval, int(split.lengths[:shown].min()))
        true_STHWC, _ = split.gather(np.arange(shown), 0, length)
        with self.averaged(), self.autocast():
            ((predicted_1SKCHW, _),) = free_run(self.model, split, length, 1, settings.seed, self.device, rows=np.arange(shown))
        predicted_SKCHW = predicted_1SKCHW[0]
        pixels = (predicted_SKCHW * 255).round().byte().permute(0, 1, 3, 4, 2).cpu().numpy()
        predicted_STHWC = np.concatenate([true_STHWC[:, : settings.n_past], pixels], axis=1)
        self.recorder.sample(self.epoch, true_STHWC, predicted_STHWC, settings.n_past, [*map(split.name, range(shown))])

    def _save(self, *names: str) -> None:
        """Begin to save the present state under these names, in this order."""
        if self.processes.first:
            self.recorder.check()
            facts = {"epoch": self.epoch, "iteration": self.iteration, **self.recorder.facts()}
            paths = [self.recorder.folder / "checkpoints" / name for name in names]
            self.writer.write(paths, self.state(), facts)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as tensors and plain values. ``model`` is what to predict with."""
        trained, average = self.model.state_dict(), self.average
        return {
            **({"model": trained} if average is None else {"model": trained | average.weights(), "trained": trained}),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "sums": self.sums.state(),
            **({} if self.control is None else {"control": self.control.state()}),
            **{name: getattr(self, name) for name in NUMBERS},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned; ``cvae.training.restore`` checks that it fits."""
        self.model.load_state_dict(state["model" if self.average is None else "trained"])
        if self.average is not None:
            self.average.load(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.sums.load(state["sums"])
        if self.control is not None:
            self.control.load(state["control"])
        for name in NUMBERS:
            setattr(self, name, state[name])
        self.take.forget()
