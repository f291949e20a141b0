"""The course report's four claims, tested on a study: learning rate x KL schedule x end of teacher forcing, several seeds.

The report made each claim from one seed. Here a claim is one or more quantities with a threshold, measured for every seed. A
claim is supported or refuted if the 95 % interval of the mean over seeds lies on one side of the threshold.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cvae.errors import UserError
from cvae.evaluation.intervals import seed_differences
from cvae.runs.differing import differing
from cvae.runs.run import Run
from cvae.study.claims import Claim, Effect, Part

MARGIN = 0.5  # dB; a smaller fall counts as none: epochs of one run differ by as much
BAIR_LEVEL = 25.0  # dB; the threshold of the course and of the report, on BAIR
KLS, FORCINGS = ("cyclical", "monotonic"), ("step", "linear")
FACTORS = ("lr", "kl_schedule", "tf_schedule", "beta", "seed")

Cell = tuple[float, str, str]  # lr, kl_schedule, tf_schedule


@dataclass(frozen=True)
class Factorial:
    """The runs of a study with one value of beta: 2 learning rates x 2 KL schedules x 2 ends of teacher forcing x seeds."""

    beta: float | None
    cells: dict[Cell, dict[int, Run]]  # by seed
    lrs: tuple[float, float]
    epochs: int
    forced: int  # the last epoch before a sudden end of teacher forcing
    window: int  # epochs over which a level is averaged

    @property
    def seeds(self) -> list[int]:
        """The seeds of all cells."""
        return sorted({seed for runs in self.cells.values() for seed in runs})

    # --- levels of a run ----------------------------------------------------------------------------------------------

    def before(self, run: Run) -> float:
        """Validation PSNR just before the sudden end, or in the same epochs of a linear decay."""
        return self._level(run, self.forced)

    def after(self, run: Run) -> float:
        """Validation PSNR just after it."""
        return self._level(run, self.forced + self.window)

    def end(self, run: Run, key: str = "val/psnr") -> float:
        """A metric at the end of a run."""
        return self._level(run, self.epochs, key)

    def best(self, run: Run) -> float:
        """The best validation PSNR of a run."""
        return max(run.series("val/psnr").values())

    def fall(self, run: Run) -> float:
        """How much PSNR falls at the end of teacher forcing, in dB."""
        return self.before(run) - self.after(run)

    def _level(self, run: Run, until: int, key: str = "val/psnr") -> float:
        values = [value for epoch, value in run.series(key).items() if until - self.window < epoch <= until]
        if not values:
            raise UserError(
                f"{run.folder} has no {key} in epochs {until - self.window + 1} to {until}: the study needs validate_every=1"
            )
        return sum(values) / len(values)

    # --- over seeds ---------------------------------------------------------------------------------------------------

    def over(
        self, quantity: Callable[[Run], float], lr: float | None = None, kl: str | None = None, tf: str | None = None
    ) -> dict[int, float]:
        """A quantity by seed, averaged over the cells with the given levels, without the seeds that lack one of these cells."""
        chosen = [runs for (a, b, c), runs in self.cells.items() if lr in (None, a) and kl in (None, b) and tf in (None, c)]
        seeds = [seed for seed in self.seeds if all(seed in runs for runs in chosen)]
        return {seed: sum(quantity(runs[seed]) for runs in chosen) / len(chosen) for seed in seeds} if chosen else {}

    def claims(self, bair: bool) -> list[Claim]:
        """The four claims. ``bair``: the data are BAIR, so the report's absolute threshold applies."""
        return [self._survives(bair), self._drops(bair), self._climbs_back(), self._cured()]

    def _survives(self, bair: bool) -> Claim:
        low = self.lrs[0]
        level = _part(f"PSNR when forcing ends, lr {low:g}", self.over(self.before, low, tf="step"), above=BAIR_LEVEL)
        fall = _part(f"fall at the end of forcing, lr {low:g}", self.over(self.fall, low, tf="step"), below=MARGIN)
        return Claim(
            1,
            f"lr {low:g} survives the sudden end of teacher forcing.",
            f"a fall of more than {MARGIN:g} dB from the epochs before the end to those after it"
            + (f", or a PSNR below {BAIR_LEVEL:g} dB before it" if bair else ""),
            [level, fall] if bair else [fall],
        )

    def _drops(self, bair: bool) -> Claim:
        low, high = self.lrs
        at_low, at_high = (self.over(self.before, lr, tf="step") for lr in self.lrs)
        level = _part(f"PSNR when forcing ends, lr {high:g}", at_high, below=BAIR_LEVEL)
        less = _part(f"PSNR when forcing ends, lr {high:g} minus lr {low:g}", seed_differences(at_high, at_low), below=0.0)
        return Claim(
            2,
            f"lr {high:g} is lower there, and drops.",
            f"a PSNR at the end of forcing no lower than that of lr {low:g}, or a fall of less than {MARGIN:g} dB"
            + (f", or a PSNR above {BAIR_LEVEL:g} dB before it" if bair else ""),
            [*([level] if bair else []), less, self._drop()],
        )

    def _drop(self) -> Part:
        high = self.lrs[1]
        return _part(f"fall at the end of forcing, lr {high:g}", self.over(self.fall, high, tf="step"), above=MARGIN)

    def _climbs_back(self) -> Claim:
        high = self.lrs[1]
        back = {kl: self.over(lambda run: self.end(run) - self.before(run), high, kl, "step") for kl in KLS}
        climb = {kl: self.over(lambda run: self.end(run) - self.after(run), high, kl, "step") for kl in KLS}
        difference = seed_differences(climb["cyclical"], climb["monotonic"])
        return Claim(
            3,
            f"After the drop of lr {high:g}, cyclical annealing climbs back and monotonic annealing does not.",
            f"an end more than {MARGIN:g} dB below the level before with cyclical annealing, or one less than {MARGIN:g} dB "
            "below it with monotonic annealing, or a climb that is no larger with cyclical annealing",
            [
                _part("cyclical: PSNR at the end minus PSNR before forcing ends", back["cyclical"], above=-MARGIN),
                _part("monotonic: the same", back["monotonic"], below=-MARGIN),
                _part("climb after forcing has ended, cyclical minus monotonic", difference, above=0.0),
            ],
            premise=self._drop(),
        )

    def _cured(self) -> Claim:
        high = self.lrs[1]
        sudden, linear = (self.over(self.fall, high, tf=tf) for tf in FORCINGS)
        return Claim(
            4,
            "A gradual (linear) end of teacher forcing cures the drop.",
            f"a fall with linear decay of more than {MARGIN:g} dB at the same epochs, or one no smaller than with a sudden end",
            [
                _part(f"fall with linear decay, lr {high:g}", linear, below=MARGIN),
                _part(f"fall, sudden minus linear, lr {high:g}", seed_differences(sudden, linear), above=0.0),
            ],
            premise=self._drop(),
        )

    def effects(self) -> list[Effect]:
        """The effect of each factor on PSNR and KL at the end and on the best PSNR."""
        low, high = self.lrs
        contrasts: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
            (f"lr {high:g} minus {low:g}", {"lr": high}, {"lr": low}),
            ("cyclical minus monotonic", {"kl": "cyclical"}, {"kl": "monotonic"}),
            ("sudden minus linear end of forcing", {"tf": "step"}, {"tf": "linear"}),
        ]
        quantities: list[tuple[str, str, Callable[[Run], float]]] = [
            ("PSNR at the end", "dB", self.end),
            ("best PSNR", "dB", self.best),
            ("KL at the end", "nats", lambda run: self.end(run, "train/kld")),
        ]
        found = []
        for name, unit, quantity in quantities:
            for contrast, first, second in contrasts:
                differences = seed_differences(self.over(quantity, **first), self.over(quantity, **second))
                found.append(Effect(name, contrast, unit, list(differences.values())))
        return found


def factorials(runs: Sequence[Run]) -> list[Factorial]:
    """The study that some runs make up: one factorial for each value of beta, the largest first.

    Raises:
        UserError: the runs are not such a study; the message says what to change.
    """
    finished = [run for run in runs if run.state == "finished"]
    if not finished:
        raise UserError("the study has no finished run yet: wait for one, or resume the study")
    for run in finished:
        _check_settings(run)
    lrs = sorted({float(run.settings["lr"]) for run in finished})
    if len(lrs) != 2:
        raise UserError(f"the study compares two learning rates, and these runs have {', '.join(f'{lr:g}' for lr in lrs)}")
    if others := [key for key in differing(finished) if key not in FACTORS]:
        raise UserError(f"the study's runs also differ in {', '.join(others)}: give only runs with the same values")
    betas = {run.settings.get("beta") for run in finished}
    return [
        _factorial(beta, (lrs[0], lrs[1]), [run for run in finished if run.settings.get("beta") == beta])
        for beta in sorted(betas, key=lambda beta: -(beta or 0))
    ]


def _check_settings(run: Run) -> None:
    """Raise UserError if a setting of a run has no place in the study."""
    needed: dict[str, tuple[Callable[[Any], bool], str]] = {
        "lr": (lambda value: isinstance(value, (int, float)), "a number"),
        "beta": (lambda value: value is None or isinstance(value, (int, float)), "a number or null"),
        "epoch_size": (lambda value: isinstance(value, int), "a whole number"),
        "batch_size": (lambda value: isinstance(value, int), "a whole number"),
        "kl_schedule": (lambda value: value in KLS, " or ".join(KLS)),
        "tf_schedule": (lambda value: value in FORCINGS, " or ".join(FORCINGS)),
    }
    for key, (accepted, what) in needed.items():
        if not accepted(run.settings.get(key)):
            raise UserError(f"{run.folder} has {key}={run.settings.get(key)}, the study needs {what}: leave this run out")


def _factorial(beta: float | None, lrs: tuple[float, float], runs: Sequence[Run]) -> Factorial:
    cells: dict[Cell, dict[int, Run]] = {cell: {} for cell in itertools.product(lrs, KLS, FORCINGS)}
    for run in runs:
        cell = cells[(float(run.settings["lr"]), run.settings["kl_schedule"], run.settings["tf_schedule"])]
        if run.seed in cell:
            raise UserError(f"{run.folder} and {cell[run.seed].folder} have the same settings and seed: leave one of them out")
        cell[run.seed] = run
    epochs = runs[0].epochs  # the same for all: only the factors differ
    window = max(1, round(epochs / 50))
    ends = {_forced(run) for run in runs if run.settings["tf_schedule"] == "step"}
    forced = min(ends, default=0)
    if len(ends) != 1 or not window <= forced <= epochs - window:
        raise UserError(
            "teacher forcing with a sudden end must end after the same epoch in all runs, between epochs "
            f"{window} and {epochs - window}; here it ends after epoch {', '.join(map(str, sorted(ends))) or '?'}"
        )
    return Factorial(beta, cells, lrs, epochs, forced, window)


def _forced(run: Run) -> int:
    """The last epoch with teacher forcing."""
    return max((epoch for epoch, ratio in run.series("tf_ratio").items() if ratio > 0), default=0)


def _part(what: str, values: dict[int, float], above: float | None = None, below: float | None = None) -> Part:
    threshold = above if above is not None else below
    assert threshold is not None
    return Part(what, list(values.values()), above is not None, threshold)


def is_study(runs: Iterable[Run]) -> bool:
    """Whether runs vary in the factors of the study and in the seed; ``factorials`` checks the rest."""
    finished = [run for run in runs if run.state == "finished"]
    levels = {key: {str(run.settings.get(key)) for run in finished} for key in FACTORS}
    wanted = len(levels["lr"]) == 2 and levels["kl_schedule"] == set(KLS) and levels["tf_schedule"] == set(FORCINGS)
    return wanted and len(levels["seed"]) > 1
