"""Claims as numbers: quantities measured for every seed, their thresholds, the verdict, and how many seeds would decide."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cvae.evaluation.intervals import mean_interval, runs_needed


@dataclass(frozen=True)
class Part:
    """A quantity with one value for each seed; the claim holds if it lies above the threshold, or below it."""

    what: str
    values: list[float]
    above: bool
    threshold: float

    @property
    def interval(self) -> tuple[float, float, float]:
        """Mean and the ends of its 95 % interval."""
        return mean_interval(self.values)

    @property
    def verdict(self) -> str:
        """supported, refuted or undecided."""
        _, low, high = self.interval  # NaN, which compares as False, if there are too few values
        if low > self.threshold:
            return "supported" if self.above else "refuted"
        if high < self.threshold:
            return "refuted" if self.above else "supported"
        return "undecided"

    @property
    def leans(self) -> bool:
        """Whether its mean, whatever the interval, is on the side where the claim holds."""
        return (self.interval[0] > self.threshold) == self.above

    @property
    def needed(self) -> int | None:
        """How many seeds would decide it in 80 % of such studies, if these seeds are typical; None if more than 1000."""
        return runs_needed(self.values, self.threshold)


@dataclass(frozen=True)
class Claim:
    """One sentence of the report, what would refute it, and its parts: it is supported if all of them are.

    ``premise`` is what the sentence assumes, if anything, for example that PSNR dropped before it climbed back. If the premise
    is refuted, the claim stays undecided, whatever its parts are. ``saw`` is what the report saw, in a few words.
    """

    number: int
    text: str
    refuted_by: str
    parts: list[Part]
    premise: Part | None = None
    saw: str = ""

    @property
    def verdict(self) -> str:
        """supported, refuted or undecided, from all parts."""
        if self.void:
            return "undecided"
        verdicts = {part.verdict for part in self.parts}
        return "refuted" if "refuted" in verdicts else "undecided" if "undecided" in verdicts else "supported"

    @property
    def void(self) -> bool:
        """Whether its premise is refuted."""
        return self.premise is not None and self.premise.verdict == "refuted"

    @property
    def deciding(self) -> list[Part]:
        """The undecided parts on which the verdict depends.

        To refute the claim takes one part: of those that lean against it, the one that needs the fewest seeds. To support it
        takes all of them.
        """
        undecided = [part for part in self.parts if part.verdict == "undecided"]
        against = [part for part in undecided if not part.leans]
        return [min(against, key=lambda part: part.needed or math.inf)] if against else undecided


@dataclass(frozen=True)
class Effect:
    """The effect of a factor on a quantity: one level minus the other, paired by seed, averaged over the other cells."""

    quantity: str
    contrast: str
    unit: str
    values: list[float]

    @property
    def interval(self) -> tuple[float, float, float]:
        """Mean and the ends of its 95 % interval."""
        return mean_interval(self.values)
