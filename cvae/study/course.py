"""The course report's four claims, tested on a study in two parts: the end of teacher forcing, and KL annealing.

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

WINDOW = 100  # iterations before the end of forcing, and after it, whose validations are averaged
LAST = 0.05  # the share of a run that is its end
MARGIN = 0.2  # dB; a smaller fall counts as none
BAIR_LEVEL = 25.0  # dB; the threshold of the course and of the report, on BAIR
# The factor of each part besides the learning rate, with its two levels.
PARTS = {"forcing": ("tf_schedule", ("step", "linear")), "annealing": ("kl_schedule", ("cyclical", "monotonic"))}

Cell = tuple[float, str]  # lr, and the level of the part's factor


@dataclass(frozen=True)
class Factorial:
    """The runs of one part of the study: 2 learning rates x 2 levels of its factor x seeds, all with one beta."""

    name: str  # of PARTS
    beta: float
    cells: dict[Cell, dict[int, Run]]  # by seed
    lrs: tuple[float, float]
    iterations: int  # of a run
    forced: int  # iterations before a sudden end of teacher forcing

    @property
    def levels(self) -> tuple[str, str]:
        """The two levels of the part's factor."""
        return PARTS[self.name][1]

    @property
    def runs(self) -> list[Run]:
        """All of them."""
        return [run for by_seed in self.cells.values() for run in by_seed.values()]

    @property
    def seeds(self) -> list[int]:
        """The seeds of all cells."""
        return sorted({run.seed for run in self.runs})

    # --- levels of a run ----------------------------------------------------------------------------------------------

    def before(self, run: Run) -> float:
        """Mean validation PSNR in the ``WINDOW`` iterations before the sudden end, or in the same ones of a linear decay."""
        return before(run, self.forced)

    def after(self, run: Run) -> float:
        """The same in the iterations after it."""
        return after(run, self.forced)

    def fall(self, run: Run) -> float:
        """How much PSNR falls at the end of teacher forcing, in dB."""
        return fall(run, self.forced)

    def end(self, run: Run, key: str = "val/psnr") -> float:
        """A metric at the end of a run."""
        return at_end(run, key)

    # --- over seeds ---------------------------------------------------------------------------------------------------

    def over(self, quantity: Callable[[Run], float], lr: float | None = None, level: str | None = None) -> dict[int, float]:
        """A quantity by seed, averaged over the cells with the given levels, without the seeds that lack one of these cells."""
        chosen = [runs for (a, b), runs in self.cells.items() if lr in (None, a) and level in (None, b)]
        seeds = [seed for seed in self.seeds if all(seed in runs for runs in chosen)]
        return {seed: sum(quantity(runs[seed]) for runs in chosen) / len(chosen) for seed in seeds} if chosen else {}

    def falls(self, cell: Cell) -> Part:
        """The fall of one cell by seed: it falls if that is above ``MARGIN``."""
        return _part("fall", self.over(self.fall, *cell), above=MARGIN)

    def claims(self, bair: bool) -> list[Claim]:
        """The claims that this part tests. ``bair``: the data are BAIR, so the report's absolute threshold applies."""
        if self.name == "annealing":
            return [self._climbs_back()]
        return [self._survives(bair), self._drops(bair), self._cured()]

    def _survives(self, bair: bool) -> Claim:
        low = self.lrs[0]
        level = _part(f"PSNR when forcing ends, lr {low:g}", self.over(self.before, low, "step"), above=BAIR_LEVEL)
        fall = _part(f"fall at the end of forcing, lr {low:g}", self.over(self.fall, low, "step"), below=MARGIN)
        return Claim(
            1,
            f"lr {low:g} survives the sudden end of teacher forcing.",
            f"a fall of more than {MARGIN:g} dB" + (f", or a PSNR below {BAIR_LEVEL:g} dB before it" if bair else ""),
            [level, fall] if bair else [fall],
            saw="no fall",
        )

    def _drops(self, bair: bool) -> Claim:
        low, high = self.lrs
        at_low, at_high = (self.over(self.before, lr, "step") for lr in self.lrs)
        level = _part(f"PSNR when forcing ends, lr {high:g}", at_high, below=BAIR_LEVEL)
        less = _part(f"PSNR when forcing ends, lr {high:g} minus lr {low:g}", seed_differences(at_high, at_low), below=0.0)
        return Claim(
            2,
            f"lr {high:g} is lower there, and drops.",
            f"a PSNR at the end of forcing no lower than that of lr {low:g}, or a fall of less than {MARGIN:g} dB"
            + (f", or a PSNR above {BAIR_LEVEL:g} dB before it" if bair else ""),
            [*([level] if bair else []), less, self._drop("step")],
            saw="a fall",
        )

    def _drop(self, level: str | None) -> Part:
        high = self.lrs[1]
        return _part(f"fall at the end of forcing, lr {high:g}", self.over(self.fall, high, level), above=MARGIN)

    def _climbs_back(self) -> Claim:
        high = self.lrs[1]
        back = {kl: self.over(lambda run: self.end(run) - self.before(run), high, kl) for kl in self.levels}
        climb = {kl: self.over(lambda run: self.end(run) - self.after(run), high, kl) for kl in self.levels}
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
            premise=self._drop(None),
            saw="cyclical climbs back with its next cycle, monotonic does not",
        )

    def _cured(self) -> Claim:
        high = self.lrs[1]
        sudden, linear = (self.over(self.fall, high, tf) for tf in self.levels)
        return Claim(
            4,
            "A gradual (linear) end of teacher forcing cures the drop.",
            f"with linear decay a fall above {MARGIN:g} dB at the same iterations, or one no smaller than with a sudden end",
            [
                _part(f"fall with linear decay, lr {high:g}", linear, below=MARGIN),
                _part(f"fall, sudden minus linear, lr {high:g}", seed_differences(sudden, linear), above=0.0),
            ],
            premise=self._drop("step"),
            saw="its author's expectation",
        )

    def effects(self) -> list[Effect]:
        """The effect of each factor on the end of a run."""
        low, high = self.lrs
        first, second = self.levels
        quantities = [("PSNR at the end", "dB", "val/psnr"), ("KL at the end", "nats", "train/kld")]
        if all(series(run, "val/psnr_best") for run in self.runs):
            quantities.insert(1, ("best of several samples at the end", "dB", "val/psnr_best"))
        found = []
        for name, unit, key in quantities:
            by_lr = [self.over(lambda run, key=key: self.end(run, key), lr=lr) for lr in (high, low)]  # type: ignore[misc]
            by_level = [self.over(lambda run, key=key: self.end(run, key), level=each) for each in self.levels]  # type: ignore[misc]
            for contrast, pair in ((f"lr {high:g} minus {low:g}", by_lr), (f"{first} minus {second}", by_level)):
                found.append(Effect(name, contrast, unit, list(seed_differences(*pair).values())))
        return found


def series(run: Run, key: str) -> dict[int, float]:
    """A metric by iteration, at the ends of epochs and within them."""
    rows = [*run.inside, *run.rows]
    return dict(sorted((int(row["step"]), row[key]) for row in rows if key in row and "step" in row))


def before(run: Run, forced: int) -> float:
    """Mean validation PSNR in the ``WINDOW`` iterations up to ``forced``, the last with forcing."""
    return _level(run, forced - WINDOW, forced)


def after(run: Run, forced: int) -> float:
    """Mean validation PSNR in the ``WINDOW`` iterations after it."""
    return _level(run, forced, forced + WINDOW)


def fall(run: Run, forced: int) -> float:
    """How much PSNR falls at the end of teacher forcing, in dB: a difference of two means, never of extremes."""
    return before(run, forced) - after(run, forced)


def at_end(run: Run, key: str = "val/psnr") -> float:
    """A metric's mean over the last ``LAST`` of a run."""
    iterations = run.epochs * int(run.settings["epoch_size"])
    return _level(run, iterations * (1 - LAST), iterations, key)


def forced_iterations(run: Run) -> int:
    """The number of iterations with teacher forcing, from the ratios of epochs, which are means."""
    ratios = sum(run.series("tf_ratio").values())
    return round(ratios / float(run.settings["tfr"]) * int(run.settings["epoch_size"]))


def _level(run: Run, begin: float, until: float, key: str = "val/psnr") -> float:
    values = [value for step, value in series(run, key).items() if begin < step <= until]
    if not values:
        raise UserError(
            f"{run.folder} has no {key} in iterations {begin:g} to {until:g}: the study needs validate_at=[...] there"
        )
    return round(sum(values) / len(values), 6) + 0.0  # a collapsed latent's KL is rounding, of either sign


def factorials(runs: Sequence[Run]) -> list[Factorial]:
    """The parts of a study that some runs make up, in the order of ``PARTS``: runs with one beta are of one part.

    Raises:
        UserError: the runs are not such a study; the message says what to change.
    """
    finished = [run for run in runs if run.state == "finished"]
    if not finished:
        raise UserError("the study has no finished run yet: wait for one, or give its command again")
    for run in finished:
        _check_settings(run)
    found = [_factorial(beta, group) for beta, group in _by_beta(finished).items()]
    if len({part.name for part in found}) < len(found):
        betas = ", ".join(f"{part.beta:g} ({part.name})" for part in found)
        raise UserError(f"two values of beta make up the same part of the study, {betas}: give only the runs of one of them")
    return sorted(found, key=lambda part: [*PARTS].index(part.name))


def is_study(runs: Iterable[Run]) -> bool:
    """Whether runs vary in the factors of a part of the study, and in the seed; ``factorials`` checks the rest."""
    groups = _by_beta([run for run in runs if run.state == "finished"])
    return any(_part_of(group) and len({run.seed for run in group}) > 1 and len(_lrs(group)) == 2 for group in groups.values())


def _by_beta(runs: Sequence[Run]) -> dict[Any, list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.settings.get("beta"), []).append(run)
    return groups


def _part_of(runs: Sequence[Run]) -> str:
    """The part of the study whose factor has both its levels in some runs, while the other one's does not vary; else none."""
    levels = {name: {str(run.settings.get(key)) for run in runs} for name, (key, _) in PARTS.items()}
    found = [name for name, (_, wanted) in PARTS.items() if levels[name] == set(wanted)]
    return found[0] if len(found) == 1 and all(len(levels[name]) == 1 for name in PARTS if name not in found) else ""


def _lrs(runs: Sequence[Run]) -> list[float]:
    return sorted({float(run.settings["lr"]) for run in runs if isinstance(run.settings.get("lr"), (int, float))})


def _check_settings(run: Run) -> None:
    """Raise UserError if a setting of a run has no place in the study."""
    for key in ("lr", "beta", "tfr", "epoch_size"):
        value = run.settings.get(key)
        if not (isinstance(value, (int, float)) and value > 0):
            raise UserError(f"{run.folder} has {key}={value}, the study needs a number above 0: leave this run out")
    for key, levels in PARTS.values():
        if (value := run.settings.get(key)) not in levels:
            raise UserError(f"{run.folder} has {key}={value}, the study needs {' or '.join(levels)}: leave this run out")


def _factorial(beta: float, runs: Sequence[Run]) -> Factorial:
    name, lrs = _part_of(runs), _lrs(runs)
    if not name:
        ways = " or ".join(f"{key}={','.join(levels)} alone" for key, levels in PARTS.values())
        raise UserError(f"the runs with beta={beta:g} are no part of the study, in which {ways} varies besides lr and seed")
    if len(lrs) != 2:
        raise UserError(f"the study compares two learning rates, and these runs have {', '.join(f'{lr:g}' for lr in lrs)}")
    key, levels = PARTS[name]
    if others := [each for each in differing(runs) if each not in ("lr", "seed", key)]:
        raise UserError(f"the study's runs also differ in {', '.join(others)}: give only runs with the same values")
    cells: dict[Cell, dict[int, Run]] = {cell: {} for cell in itertools.product(lrs, levels)}
    for run in runs:
        cell = cells[(float(run.settings["lr"]), run.settings[key])]
        if run.seed in cell:
            raise UserError(f"{run.folder} and {cell[run.seed].folder} have the same settings and seed: leave one of them out")
        cell[run.seed] = run
    iterations = runs[0].epochs * int(runs[0].settings["epoch_size"])  # the same for all: only the factors differ
    ends = {forced_iterations(run) for run in runs if run.settings["tf_schedule"] == "step"}
    if len(ends) != 1 or not 0 < min(ends) < iterations:
        raise UserError(
            "teacher forcing with a sudden end must end after the same iteration in all runs, between 1 and "
            f"{iterations - 1}; here it ends after {', '.join(map(str, sorted(ends))) or '?'}"
        )
    return Factorial(name, float(beta), cells, (lrs[0], lrs[1]), iterations, min(ends))


def _part(what: str, values: dict[int, float], above: float | None = None, below: float | None = None) -> Part:
    threshold = above if above is not None else below
    assert threshold is not None
    return Part(what, list(values.values()), above is not None, threshold)
