"""The page of the course study: claims, verdicts, cells, effects and curves, every number computed from its runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cvae.errors import UserError
from cvae.evaluation.intervals import mean_interval
from cvae.pages.document import Block, Heading, Picture, Table, Text, level, signed
from cvae.runs.collection import commits
from cvae.runs.run import Run
from cvae.study.claims import Claim, Part
from cvae.study.course import BAIR_LEVEL, MARGIN, Reading, is_study, readings
from cvae.study.figures import course_curves

_REPORTS = 300 * 600  # iterations of a run of the report
_PIXELS = 3 * 64 * 64


def study_answers(runs: Sequence[Run], bair: bool) -> list[Block]:
    """The page of the study that is among some runs: all of them, or those of one sweep. Empty where there is none."""
    spoilt: list[Block] = []
    sweeps = dict.fromkeys((run.sweep, run.storage) for run in runs)
    for chosen in (list(runs), *([run for run in runs if (run.sweep, run.storage) == sweep] for sweep in sweeps)):
        if is_study(chosen):
            try:
                return answers(chosen, bair)
            except UserError as error:
                spoilt = spoilt or [Text(f"These runs look like the course study, and yet: {error}.")]
    return spoilt


def answers(runs: Sequence[Run], bair: bool = False) -> list[Block]:
    """The study's page, without its title.

    Args:
        runs: those of the study, and no others.
        bair: the data are BAIR, so that the report's 25 dB can be held against them.

    Raises:
        UserError: the runs make up no such study.
    """
    found = [(reading, reading.claims(bair)) for reading in readings(runs)]
    verdicts = _verdicts(found)
    blocks = [*_what_ran(runs, [reading for reading, _ in found]), *_how(found[0][0], bair)]
    for reading, claims in found:
        blocks.append(Heading(2, _name(reading)))
        for claim in claims:
            blocks += _claim(claim)
        blocks += [*_cells(reading), *_effects(reading)]
        picture = f"beta_{reading.beta or 0:g}.png"
        blocks.append(Picture(picture, course_curves(reading), f"PSNR, MSE, KL and schedules over epochs: {_name(reading)}"))
    return [*verdicts, *blocks, *_limits(found, _intervals(blocks))]


def _name(reading: Reading) -> str:
    if reading.beta is None:
        return "beta = the likelihood's own"
    said = {1.0: "the report's printed loss", 1e-4: "the report's template"}.get(reading.beta)
    return f"beta = {reading.beta:g}" + (f", {said}" if said else "")


def _verdicts(found: Sequence[tuple[Reading, list[Claim]]]) -> list[Block]:
    """The claims, and what the design says whatever was claimed, for both readings side by side."""
    names = [_name(reading) for reading, _ in found]
    claims = zip(*(claims for _, claims in found), strict=True)
    effects = zip(*([effect for effect in reading.effects() if effect.at_end] for reading, _ in found), strict=True)
    return [
        Table(["the report's claim", *names], [[f"{same[0].number}. {same[0].text}", *map(_verdict, same)] for same in claims]),
        Table(
            ["PSNR at the end, dB", *names],
            [[same[0].contrast, *(signed(*each.interval) for each in same)] for same in effects],
        ),
    ]


def _verdict(claim: Claim) -> str:
    if claim.verdict != "undecided":
        return claim.verdict
    return f"undecided: {'there was no drop' if claim.void else _seeds(claim.deciding)}"


def _seeds(undecided: Sequence[Part]) -> str:
    if any(len(part.values) < 2 for part in undecided):
        return "too few seeds yet"
    needed = [part.needed for part in undecided]
    return "over 1000 seeds" if None in needed else f"about {max(number or 0 for number in needed)} seeds"


def _what_ran(runs: Sequence[Run], found: Sequence[Reading]) -> list[Block]:
    run = _any(found[0])
    factors = [f"{len(found)} values of beta"] if len(found) > 1 else []
    factors += ["2 learning rates", "2 KL schedules", "2 ends of teacher forcing"]
    seeds = sorted({seed for reading in found for seed in reading.seeds})
    unfinished = [f"{each.name} ({each.state})" for each in runs if each.state != "finished"]
    devices = sorted({f"{each.record.get('device')}, {each.record.get('precision')}" for each in runs})
    sizes = f"{run.epochs} epochs of {run.settings['epoch_size']} iterations each"
    frames = f"{run.settings['n_past']} + {run.settings['n_future']} frames"
    return [
        Heading(2, "What ran"),
        Text(
            f"{len(runs) - len(unfinished)} finished runs: {', '.join(factors)}, seeds {', '.join(map(str, seeds))}; {sizes}, "
            f"{run.settings['batch_size']} windows of {frames} an iteration. Data: {run.settings.get('data')}, fingerprint "
            f"{run.record.get('dataset')}; repeating the last past frame scores {run.last('val/psnr_copy') or math.nan:.2f} dB "
            f"there. Device: {'; '.join(devices)}. {commits(runs)}"
            + (f" Not finished and left out: {', '.join(unfinished)}." if unfinished else "")
        ),
    ]


def _any(reading: Reading) -> Run:
    return next(run for runs in reading.cells.values() for run in runs.values())


def _how(reading: Reading, bair: bool) -> list[Block]:
    epochs = f"{reading.window} epochs" if reading.window > 1 else "one epoch"
    thresholds = (
        f"The data are BAIR, so the report's {BAIR_LEVEL:g} dB is held against the level before."
        if bair
        else f"The report's {BAIR_LEVEL:g} dB is one of BAIR and says nothing of other data; here levels are only compared."
    )
    return [
        Heading(2, "How a verdict is reached"),
        Text(
            "A claim is taken apart into quantities, each with a threshold. PSNR is that of free-running validation. A "
            f"level is its mean over {epochs} (2 % of a run). The fall is the level before a sudden end of teacher forcing, "
            f"at epoch {reading.forced}, less the level after it; with linear decay it is taken at the same epochs. A fall "
            f"under {MARGIN:g} dB counts as none. {thresholds}"
        ),
        Text(
            "A quantity is computed for each seed, averaged over the cells that it does not tell apart; differences are "
            "paired in seeds. What stands here is the mean over seeds with its 95 % interval (Student's t). It speaks for "
            "or against the claim if the interval lies wholly on one side of the threshold. A claim is supported if all its "
            "parts are, refuted if one is, else undecided; one that takes for granted what is refuted is undecided too. Beside "
            "it stands the number of seeds that would decide it in four of five such studies, if these seeds are typical."
        ),
    ]


def _claim(claim: Claim) -> list[Block]:
    header = ["quantity", "by seed", "mean [95 %]", "holds if", "verdict"]
    premise = []
    if claim.void:
        premise = [
            Text("It takes a drop for granted, and there was none (claim 2): on runs like these no number of seeds decides it.")
        ]
    elif claim.premise and claim.premise.verdict != "supported":
        premise = [Text("It takes a drop for granted, and that is undecided here (claim 2): read the verdict with this.")]
    return [
        Heading(3, f"Claim {claim.number}: {claim.verdict}"),
        Text(claim.text),
        Text(f"What would refute it: {claim.refuted_by}."),
        *premise,
        Table(header, [_measured(part) for part in claim.parts]),
    ]


def _measured(part: Part) -> list[str]:
    values = ", ".join(f"{value:+.2f}" for value in part.values) or "—"
    side = f"{'above' if part.above else 'below'} {part.threshold:g} dB"
    verdict = part.verdict if part.verdict != "undecided" else f"undecided: {_seeds([part])}"
    return [part.what, values, f"{signed(*part.interval)} dB", side, verdict]


def _cells(reading: Reading) -> list[Block]:
    header = [
        "lr",
        "KL annealing",
        "forcing ends",
        "runs",
        "PSNR before",
        "fall",
        "PSNR at the end",
        "best PSNR",
        "KL at the end, nats",
    ]
    rows = []
    for (lr, kl, tf), by_seed in reading.cells.items():
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        rows.append(
            [
                f"{lr:g}", kl, {"step": "suddenly", "linear": "linearly"}[tf], str(len(runs)),
                level(*mean_interval([reading.before(run) for run in runs])),
                signed(*mean_interval([reading.fall(run) for run in runs])),
                level(*mean_interval([reading.end(run) for run in runs])),
                level(*mean_interval([max(run.series("val/psnr").values()) for run in runs])),
                level(*mean_interval([reading.end(run, "train/kld") for run in runs]), ".2g"),
            ]
        )  # fmt: skip
    return [Heading(3, "The cells: mean over seeds [95 %], PSNR in dB"), Table(header, rows)]


def _effects(reading: Reading) -> list[Block]:
    rows = []
    for effect in reading.effects():
        form = ".2g" if effect.unit == "nats" else ".2f"
        shown = f"{signed(*effect.interval, form)} {effect.unit}"
        rows.append([f"{effect.quantity}, {effect.contrast}", shown, str(len(effect.values))])
    return [
        Heading(3, "What each factor does"),
        Text("Paired in seeds, averaged over the cells of the other two factors."),
        Table(["difference", "mean [95 %]", "seeds"], rows),
    ]


def _intervals(blocks: Sequence[Block]) -> int:
    """How many intervals stand in the tables."""
    return sum("[" in cell for block in blocks if isinstance(block, Table) for row in block.rows for cell in row)


def _limits(found: Sequence[tuple[Reading, list[Claim]]], shown: int) -> list[Block]:
    """What to make of the page, on which so many intervals are ``shown``."""
    reading, _ = found[0]
    run = _any(reading)
    iterations = reading.epochs * int(run.settings["epoch_size"])
    judged = sum(len(claim.parts) for _, claims in found for claim in claims)
    sigmas = [f"{math.sqrt(each.beta * _PIXELS / 2):.2g} for beta {each.beta:g}" for each, _ in found if each.beta]
    width = ""
    if sigmas and run.settings.get("likelihood") == "mse":
        width = f"The decoder that beta implies has the width sqrt(beta D / 2) on pixels in [0, 1]: {'; '.join(sigmas)}. "
        width += "A wide one has little use for its latent variable. "
    blocks: list[Block] = [
        Heading(2, "What this can tell, and what it cannot"),
        Text(
            f"{len(reading.seeds)} seeds vary weights, noise and order, and not the data: the intervals speak of other "
            "seeds, not of other data sets. They are 95 % intervals one by one, with no correction for their number: of the "
            f"{judged} behind the verdicts {judged / 20:.1f} are expected to miss, of all {shown} in the tables "
            f"{shown / 20:.1f}."
        ),
        Text(
            f"{width}Where KL at the end is near 0, a KL schedule has nothing to act on, and a difference between schedules "
            "says nothing about annealing; PSNR alone would not show that."
        ),
    ]
    if iterations < _REPORTS:
        ends = [each.end(run) for each, _ in found for runs in each.cells.values() for run in runs.values()]
        blocks.append(
            Text(
                f"A run has {iterations:,} iterations where the report's have {_REPORTS:,}, and ends at {min(ends):.1f} to "
                f"{max(ends):.1f} dB. A study of this size shows what happens in the first steps of learning, on these data, "
                "with this model. It cannot tell what a converged model does at the end of teacher forcing, whether a later "
                "KL cycle helps it, or whether the report's levels can be reached: a verdict here is one on the claims as "
                "statements about runs like these. For the report's own there is the full study, experiment=course_study."
            )
        )
    return blocks
