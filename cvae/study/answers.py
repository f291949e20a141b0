"""The page of the course study, computed from its runs: verdicts on the claims, their parts, cells, effects and curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cvae.errors import UserError
from cvae.evaluation.intervals import mean_interval
from cvae.pages.document import Block, Heading, Picture, Table, Text, level, signed
from cvae.runs.collection import commits
from cvae.runs.run import Run
from cvae.study.claims import Claim, Part
from cvae.study.course import BAIR_LEVEL, MARGIN, Factorial, factorials, is_study
from cvae.study.figures import course_curves

REPORT_ITERATIONS = 300 * 600  # of one run of the report
_PIXELS = 3 * 64 * 64


def find_answers(runs: Sequence[Run], bair: bool) -> list[Block]:
    """The page of a study among some runs: all of them, or those of one sweep. Empty if none of them look like a study."""
    problem: list[Block] = []
    sweeps = dict.fromkeys((run.sweep, run.storage) for run in runs)
    for chosen in (list(runs), *([run for run in runs if (run.sweep, run.storage) == sweep] for sweep in sweeps)):
        if is_study(chosen):
            try:
                return answer_blocks(chosen, bair)
            except UserError as error:
                problem = problem or [Text(f"These runs look like the course study, but: {error}.")]
    return problem


def answer_blocks(runs: Sequence[Run], bair: bool = False) -> list[Block]:
    """The page of a study, without a title.

    Args:
        runs: the runs of the study, and no others.
        bair: the data are BAIR, so the report's 25 dB applies to them.

    Raises:
        UserError: the runs are not such a study.
    """
    found = [(factorial, factorial.claims(bair)) for factorial in factorials(runs)]
    blocks = [*_what_ran(runs, [factorial for factorial, _ in found]), *_how(found[0][0], bair)]
    for factorial, claims in found:
        blocks.append(Heading(2, _name(factorial)))
        for claim in claims:
            blocks += _claim(claim)
        blocks += [*_cells(factorial), *_effects(factorial)]
        curves, alt = course_curves(factorial), f"PSNR, MSE, KL and schedules over epochs: {_name(factorial)}"
        blocks.append(Picture(f"beta_{factorial.beta or 0:g}.png", curves, alt))
    return [*_verdicts(found), *blocks, *_limits(found, _intervals(blocks))]


def _name(factorial: Factorial) -> str:
    if factorial.beta is None:
        return "beta = the likelihood's own"
    source = {1.0: "the report's printed loss", 1e-4: "the report's template"}.get(factorial.beta)
    return f"beta = {factorial.beta:g}" + (f", {source}" if source else "")


def _verdicts(found: Sequence[tuple[Factorial, list[Claim]]]) -> list[Block]:
    """The verdicts and the effects on PSNR, one column for each value of beta."""
    names = [_name(factorial) for factorial, _ in found]
    claims = zip(*(claims for _, claims in found), strict=True)
    effects = [[each for each in factorial.effects() if each.quantity == "PSNR at the end"] for factorial, _ in found]
    return [
        Table(["the report's claim", *names], [[f"{same[0].number}. {same[0].text}", *map(_verdict, same)] for same in claims]),
        Table(
            ["PSNR at the end, dB", *names],
            [[same[0].contrast, *(signed(*each.interval) for each in same)] for same in zip(*effects, strict=True)],
        ),
    ]


def _verdict(claim: Claim) -> str:
    if claim.verdict != "undecided":
        return claim.verdict
    return f"undecided: {'there was no drop' if claim.void else _seeds(claim.deciding)}"


def _seeds(undecided: Sequence[Part]) -> str:
    if any(len(part.values) < 2 for part in undecided):
        return "too few seeds"
    needed = [part.needed for part in undecided]
    return "over 1000 seeds" if None in needed else f"about {max(number or 0 for number in needed)} seeds"


def _what_ran(runs: Sequence[Run], found: Sequence[Factorial]) -> list[Block]:
    run = _any(found[0])
    factors = [f"{len(found)} values of beta"] if len(found) > 1 else []
    factors += ["2 learning rates", "2 KL schedules", "2 ends of teacher forcing"]
    seeds = sorted({seed for factorial in found for seed in factorial.seeds})
    unfinished = [f"{each.name} ({each.state})" for each in runs if each.state != "finished"]
    devices = sorted({f"{each.record.get('device')}, {each.record.get('precision')}" for each in runs})
    sizes = f"{run.epochs} epochs of {run.settings['epoch_size']} iterations each"
    frames = f"{run.settings['n_past']} + {run.settings['n_future']} frames"
    return [
        Heading(2, "What ran"),
        Text(
            f"{len(runs) - len(unfinished)} finished runs: {', '.join(factors)}, seeds {', '.join(map(str, seeds))}; {sizes}, "
            f"{run.settings['batch_size']} windows of {frames} in each iteration. Data: {run.settings.get('data')}, "
            f"fingerprint {run.record.get('dataset')}; repeating the last past frame scores "
            f"{run.last('val/psnr_copy') or math.nan:.2f} dB there. Device: {'; '.join(devices)}. {commits(runs)}"
            + (f" Not finished and left out: {', '.join(unfinished)}." if unfinished else "")
        ),
    ]


def _any(factorial: Factorial) -> Run:
    """One of the runs, for the settings that all of them share."""
    return next(run for runs in factorial.cells.values() for run in runs.values())


def _how(factorial: Factorial, bair: bool) -> list[Block]:
    epochs = f"{factorial.window} epochs" if factorial.window > 1 else "one epoch"
    thresholds = (
        f"The data are BAIR, so the report's {BAIR_LEVEL:g} dB is compared with the level before."
        if bair
        else f"The report's {BAIR_LEVEL:g} dB is for BAIR; on other data levels are only compared with each other."
    )
    return [
        Heading(2, "How a verdict is reached"),
        Text(
            "A claim is split into quantities, each with a threshold. PSNR is that of free-running validation. A level is its "
            f"mean over {epochs} (2 % of a run). The fall is the level before a sudden end of teacher forcing, at epoch "
            f"{factorial.forced}, minus the level after it; with linear decay the same epochs are used. A fall of less than "
            f"{MARGIN:g} dB counts as none. {thresholds}"
        ),
        Text(
            "Each quantity is computed for every seed and averaged over the cells that share its settings; differences are "
            "paired by seed. The tables show the mean over seeds with its 95 % interval (Student's t). A part is supported or "
            "refuted if the whole interval is on one side of the threshold, else it is undecided. A claim is supported if all "
            "its parts are, refuted if one is, else undecided. A claim that assumes something refuted is undecided too. An "
            "undecided verdict names how many seeds would decide it in 80 % of such studies, if these seeds are typical."
        ),
    ]


def _claim(claim: Claim) -> list[Block]:
    header = ["quantity", "by seed", "mean [95 %]", "holds if", "verdict"]
    premise = []
    if claim.void:
        premise = [
            Text(
                "The claim assumes a drop, and there was none (claim 2): with runs like these no number of seeds can decide it."
            )
        ]
    elif claim.premise and claim.premise.verdict != "supported":
        premise = [Text("The claim assumes a drop, and the drop is undecided (claim 2): keep this in mind with the verdict.")]
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


def _cells(factorial: Factorial) -> list[Block]:
    columns: list[tuple[str, Callable[[Run], float], str]] = [
        ("PSNR before", factorial.before, ".2f"),
        ("fall", factorial.fall, "+.2f"),
        ("PSNR at the end", factorial.end, ".2f"),
        ("best PSNR", factorial.best, ".2f"),
        ("KL at the end, nats", lambda run: factorial.end(run, "train/kld"), ".2g"),
    ]
    rows = []
    for (lr, kl, tf), by_seed in factorial.cells.items():
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        levels = [level(*mean_interval([quantity(run) for run in runs]), form) for _, quantity, form in columns]
        rows.append([f"{lr:g}", kl, {"step": "suddenly", "linear": "linearly"}[tf], str(len(runs)), *levels])
    header = ["lr", "KL annealing", "forcing ends", "runs", *(name for name, _, _ in columns)]
    return [Heading(3, "The cells: mean over seeds [95 %], PSNR in dB"), Table(header, rows)]


def _effects(factorial: Factorial) -> list[Block]:
    rows = []
    for effect in factorial.effects():
        form = ".2g" if effect.unit == "nats" else ".2f"
        shown = f"{signed(*effect.interval, form)} {effect.unit}"
        rows.append([f"{effect.quantity}, {effect.contrast}", shown, str(len(effect.values))])
    return [
        Heading(3, "The effect of each factor"),
        Text("Paired by seed, averaged over the cells of the other two factors."),
        Table(["difference", "mean [95 %]", "seeds"], rows),
    ]


def _intervals(blocks: Sequence[Block]) -> int:
    """The number of intervals in the tables."""
    return sum("[" in cell for block in blocks if isinstance(block, Table) for row in block.rows for cell in row)


def _limits(found: Sequence[tuple[Factorial, list[Claim]]], intervals: int) -> list[Block]:
    """What the page can tell and what it cannot; its tables hold so many ``intervals``."""
    factorial, _ = found[0]
    run = _any(factorial)
    parts = sum(len(claim.parts) for _, claims in found for claim in claims)
    sigmas = [f"{math.sqrt(each.beta * _PIXELS / 2):.2g} for beta {each.beta:g}" for each, _ in found if each.beta]
    width = ""
    if sigmas and run.settings.get("likelihood") == "mse":
        width = f"Beta implies the decoder's standard deviation, sqrt(beta D / 2) on pixels in [0, 1]: {'; '.join(sigmas)}. "
        width += "With a large one the model has little use for its latent variable. "
    blocks: list[Block] = [
        Heading(2, "What this can tell, and what it cannot"),
        Text(
            f"The {len(factorial.seeds)} seeds vary weights, noise and order, but not the data: the intervals are about other "
            "seeds, not about other data sets. Each is a 95 % interval by itself, not corrected for their number: of the "
            f"{parts} behind the verdicts {parts / 20:.1f} are expected to miss the true value, of all {intervals} in the "
            f"tables {intervals / 20:.1f}."
        ),
        Text(
            f"{width}Where KL at the end is near 0, a KL schedule has nothing to act on, and a difference between schedules "
            "says nothing about annealing; PSNR alone would not show that."
        ),
    ]
    iterations = factorial.epochs * int(run.settings["epoch_size"])
    if iterations < REPORT_ITERATIONS:
        ends = [each.end(run) for each, _ in found for runs in each.cells.values() for run in runs.values()]
        blocks.append(
            Text(
                f"A run has {iterations:,} iterations and ends at {min(ends):.1f} to {max(ends):.1f} dB; a run of the report "
                f"had {REPORT_ITERATIONS:,}. A study of this size shows what happens in the first steps of learning, on these "
                "data, with this model. It cannot tell what a converged model does at the end of teacher forcing, whether a "
                "later KL cycle helps it, or whether the report's levels can be reached: its verdicts are about such runs. "
                "For runs like those of the report there is the full study, experiment=course_study."
            )
        )
    return blocks
