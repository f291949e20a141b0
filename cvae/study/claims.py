"""What a claim comes to: quantities measured in every seed, held against thresholds, with verdict and seeds needed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cvae.evaluation.intervals import mean_interval, runs_needed


@dataclass(frozen=True)
class Part:
    """A quantity, one value a seed, and the side of the threshold on which it has to lie for the claim to hold."""

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
        _, low, high = self.interval
        if math.isnan(low):
            return "undecided"
        if self.above:
            return "supported" if low > self.threshold else "refuted" if high < self.threshold else "undecided"
        return "supported" if high < self.threshold else "refuted" if low > self.threshold else "undecided"

    @property
    def leans(self) -> bool:
        """Whether its mean lies where the claim holds."""
        return (self.interval[0] > self.threshold) == self.above

    @property
    def needed(self) -> int | None:
        """The seeds that would decide it in four of five studies, if these are typical; None if more than a thousand."""
        return runs_needed(self.values, self.threshold)


@dataclass(frozen=True)
class Claim:
    """One sentence of the report, what would refute it, and its parts: it holds if all of them do.

    ``premise`` is what it takes for granted, if anything: a drop to climb back from, say. Where that is refuted, the claim is
    about nothing, and undecided whatever its parts are.
    """

    number: int
    text: str
    refuted_by: str
    parts: list[Part]
    premise: Part | None = None

    @property
    def verdict(self) -> str:
        """The verdict of the parts together."""
        if self.void:
            return "undecided"
        verdicts = {part.verdict for part in self.parts}
        return "refuted" if "refuted" in verdicts else "undecided" if "undecided" in verdicts else "supported"

    @property
    def void(self) -> bool:
        """Whether what it takes for granted is not so."""
        return self.premise is not None and self.premise.verdict == "refuted"

    @property
    def deciding(self) -> list[Part]:
        """The undecided parts on which the verdict waits: one that leans against it settles it alone, else it takes all.

        Of those that lean against it, the one that takes the fewest seeds.
        """
        undecided = [part for part in self.parts if part.verdict == "undecided"]
        against = [part for part in undecided if not part.leans]
        return [min(against, key=lambda part: part.needed or math.inf)] if against else undecided


@dataclass(frozen=True)
class Effect:
    """What one factor does to a quantity: a level of it less the other, paired in seeds, averaged over the other cells."""

    quantity: str
    contrast: str
    unit: str
    values: list[float]
    at_end: bool  # whether it is about the PSNR with which runs end

    @property
    def interval(self) -> tuple[float, float, float]:
        """Mean and the ends of its 95 % interval."""
        return mean_interval(self.values)
