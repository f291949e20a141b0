"""The page of the course study, computed from its runs: verdicts on the claims, falls, cells, effects, curves and limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cvae.errors import UserError
from cvae.evaluation.intervals import mean_interval
from cvae.pages.document import Block, Heading, Picture, Table, Text, level, signed
from cvae.runs.collection import commits
from cvae.runs.run import Run
from cvae.study.claims import Claim, Part
from cvae.study.course import BAIR_LEVEL, LAST, MARGIN, WINDOW, Factorial, factorials, is_study, series
from cvae.study.figures import course_curves

REPORT_ITERATIONS = 300 * 600  # of one run of the report
_PIXELS = 3 * 64 * 64
_TITLES = {"forcing": "The end of teacher forcing", "annealing": "KL annealing"}
_FACTOR = {"forcing": "forcing ends", "annealing": "KL annealing"}
_SAID = {"step": "suddenly", "linear": "linearly"}
_IN_USE = 1.0  # nats a step: with less KL a schedule of its weight has nothing to act on
# What the report says of a cell: the lower (0) or the higher (1) learning rate, and the level of the part's factor.
_REPORT = {
    ("forcing", 0, "step"): "no fall",
    ("forcing", 1, "step"): "a fall",
    ("forcing", 1, "linear"): "expects no fall",
    ("annealing", 0, "cyclical"): "no fall",
    ("annealing", 1, "cyclical"): "a fall, then a climb",
    ("annealing", 1, "monotonic"): "a fall, no climb",
}


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
    found = [(part, part.claims(bair)) for part in factorials(runs)]
    parts = [part for part, _ in found]
    blocks = [*_what_ran(runs, parts), *_how(bair)]
    for part, claims in found:
        blocks.append(Heading(2, _name(part)))
        for claim in claims:
            blocks += _claim(claim)
        blocks += [*_cells(part), *_effects(part)]
        alt = f"PSNR around the end of teacher forcing, PSNR and KL over the run: {_name(part)}"
        blocks.append(Picture(f"{part.name}.png", course_curves(part), alt))
    top = [Text(_opening(parts)), _verdicts(found), *_falls(parts), *_latents(parts)]
    return [*top, *blocks, *_limits(found, _intervals([*top, *blocks]))]


def _name(part: Factorial) -> str:
    return f"{_TITLES[part.name]}, beta {part.beta:g}"


def _opening(parts: Sequence[Factorial]) -> str:
    """The first sentence: on which data, how long and how many the runs are."""
    run = parts[0].runs[0]
    lengths = " or ".join(f"{length:,}" for length in sorted({part.iterations for part in parts}))
    data = str(run.settings.get("data"))
    world = f" (world {run.settings.get('data.world', 1)})" if data.startswith("synthetic") else ""
    least, *_, most = sorted(len(by_seed) for part in parts for by_seed in part.cells.values())
    seeds = f"{most} seed{'s' * (most > 1)}" if least == most else f"{least} to {most} seeds"
    return (
        f"{sum(len(part.runs) for part in parts)} runs of {lengths} iterations on data={data}{world}, "
        f"{seeds} a cell; teacher forcing ends after {parts[0].forced:,}. The report's runs had {REPORT_ITERATIONS:,} "
        "iterations, forcing ended after 90,000, and a cell had one seed."
    )


def _verdicts(found: Sequence[tuple[Factorial, list[Claim]]]) -> Block:
    claims = sorted((claim for _, claims in found for claim in claims), key=lambda claim: claim.number)
    rows = []
    for claim in claims:
        last = claim.parts[-1]
        rows.append([f"{claim.number}. {claim.text}", claim.saw, f"{last.what}: {signed(*last.interval)} dB", _verdict(claim)])
    return Table(["the report's claim", "the report saw, one seed", "measured here", "verdict"], rows)


def _verdict(claim: Claim) -> str:
    if claim.verdict != "undecided":
        return claim.verdict
    return f"undecided: {'there was no drop' if claim.void else _seeds(claim.deciding)}"


def _seeds(undecided: Sequence[Part]) -> str:
    if any(len(part.values) < 2 for part in undecided):
        return "too few seeds"
    needed = [part.needed for part in undecided]
    return "over 1000 seeds" if None in needed else f"about {max(number or 0 for number in needed)} seeds"


def _falls(parts: Sequence[Factorial]) -> list[Block]:
    """Each cell's fall, beside what the report saw of it."""
    rows = []
    for part in parts:
        for cell in part.cells:
            fall = part.falls(cell)
            lr, name = cell
            told = {"supported": "falls", "refuted": "no fall"}.get(fall.verdict, f"undecided: {_seeds([fall])}")
            saw = _REPORT.get((part.name, part.lrs.index(lr), name), "—")
            values = ", ".join(f"{value:+.2f}" for value in fall.values) or "—"
            kl, end = ("monotonic", _SAID[name]) if part.name == "forcing" else (name, "suddenly")
            rows.append([f"{part.beta:g}", f"{lr:g}", kl, end, values, signed(*fall.interval), told, saw])
    header = ["beta", "lr", "KL annealing", "forcing ends", "fall by seed, dB", "mean [95 %]", "here", "the report"]
    return [
        Heading(2, "The fall at the end of teacher forcing"),
        Text(
            f"The mean PSNR of the validations in the {WINDOW} iterations before the end, minus the mean in the {WINDOW} after "
            "it. With linear decay the same iterations are used."
        ),
        Table(header, rows),
    ]


def _latents(parts: Sequence[Factorial]) -> list[Block]:
    """A warning of cells of the second part whose latent is hardly used."""
    low = [
        f"lr {lr:g} {name} ({value:.2g})"
        for part in parts
        if part.name == "annealing"
        for (lr, name), by_seed in part.cells.items()
        if by_seed and (value := min(part.end(run, "train/kld") for run in by_seed.values())) < _IN_USE
    ]
    if not low:
        return []
    told = f"KL at the end is below {_IN_USE:g} nat a step in {', '.join(low)}: there a KL schedule has little to act on."
    return [Text(f"{told} Lower beta for an answer on annealing.")]


def _what_ran(runs: Sequence[Run], parts: Sequence[Factorial]) -> list[Block]:
    run = parts[0].runs[0]
    unfinished = [f"{each.name} ({each.state})" for each in runs if each.state != "finished"]
    devices = sorted({f"{each.record.get('device')}, {each.record.get('precision')}" for each in runs})
    frames = f"{run.settings['n_past']} + {run.settings['n_future']} frames"
    designs = "; ".join(
        f"{_TITLES[part.name]}: beta {part.beta:g}, lr {part.lrs[0]:g} and {part.lrs[1]:g}, {' and '.join(part.levels)}, seeds "
        f"{', '.join(map(str, part.seeds))}"
        for part in parts
    )
    return [
        Heading(2, "What ran"),
        Text(
            f"{designs}. A run has {run.epochs} epochs of {run.settings['epoch_size']} iterations with "
            f"{run.settings['batch_size']} windows of {frames}. Data: {run.settings.get('data')}, fingerprint "
            f"{run.record.get('dataset')}; repeating the last past frame scores {run.last('val/psnr_copy') or math.nan:.2f} dB "
            f"there. Device: {'; '.join(devices)}. {commits(runs)}"
            + (f" Not finished and left out: {', '.join(unfinished)}." if unfinished else "")
        ),
    ]


def _how(bair: bool) -> list[Block]:
    thresholds = (
        f"The data are BAIR, so the report's {BAIR_LEVEL:g} dB is compared with the level before."
        if bair
        else f"The report's {BAIR_LEVEL:g} dB is for BAIR; on other data levels are only compared with each other."
    )
    return [
        Heading(2, "How a verdict is reached"),
        Text(
            "A claim is split into quantities, each with a threshold. PSNR is that of free-running validation. The level "
            f"before and after the end of forcing is the mean of the validations in {WINDOW} iterations; the end of a run is "
            f"its last {100 * LAST:g} %. A fall of less than {MARGIN:g} dB counts as none. {thresholds}"
        ),
        Text(
            "Each quantity is computed for every seed; differences are paired by seed. The tables show the mean over seeds "
            "with its 95 % interval (Student's t). A quantity is supported or refuted if the whole interval is on one side of "
            "the threshold, else it is undecided. A claim is supported if all its quantities are, refuted if one is, else "
            "undecided. A claim that assumes something refuted is undecided too. An undecided verdict names how many seeds "
            "would decide it in 80 % of such studies, if these seeds are typical."
        ),
    ]


def _claim(claim: Claim) -> list[Block]:
    header = ["quantity", "by seed", "mean [95 %]", "holds if", "verdict"]
    premise = []
    if claim.void:
        premise = [Text("The claim assumes a drop, and there was none: with runs like these no number of seeds can decide it.")]
    elif claim.premise and claim.premise.verdict != "supported":
        premise = [Text("The claim assumes a drop, and the drop is undecided: keep this in mind with the verdict.")]
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


def _cells(part: Factorial) -> list[Block]:
    columns: list[tuple[str, Callable[[Run], float], str]] = [
        ("PSNR before", part.before, ".2f"),
        ("PSNR after", part.after, ".2f"),
        ("PSNR at the end", part.end, ".2f"),
    ]
    if all(series(run, "val/psnr_best") for run in part.runs):
        best = f"best of {part.runs[0].settings['n_samples']} at the end"
        columns.append((best, lambda run: part.end(run, "val/psnr_best"), ".2f"))
    columns.append(("KL at the end, nats", lambda run: part.end(run, "train/kld"), ".2g"))
    rows = []
    for (lr, name), by_seed in part.cells.items():
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        levels = [level(*mean_interval([quantity(run) for run in runs]), form) for _, quantity, form in columns]
        rows.append([f"{lr:g}", _SAID.get(name, name), str(len(runs)), *levels])
    header = ["lr", _FACTOR[part.name], "runs", *(name for name, _, _ in columns)]
    return [Heading(3, "The cells: mean over seeds [95 %], PSNR in dB"), Table(header, rows)]


def _effects(part: Factorial) -> list[Block]:
    rows = []
    for effect in part.effects():
        form = ".2g" if effect.unit == "nats" else ".2f"
        shown = f"{signed(*effect.interval, form)} {effect.unit}"
        rows.append([f"{effect.quantity}, {effect.contrast}", shown, str(len(effect.values))])
    return [
        Heading(3, "The effect of each factor"),
        Text("Paired by seed, averaged over the cells of the other factor."),
        Table(["difference", "mean [95 %]", "seeds"], rows),
    ]


def _intervals(blocks: Sequence[Block]) -> int:
    """The number of intervals in the tables."""
    return sum(" [" in cell for block in blocks if isinstance(block, Table) for row in block.rows for cell in row)


def _limits(found: Sequence[tuple[Factorial, list[Claim]]], intervals: int) -> list[Block]:
    """What the page can tell and what it cannot; its tables hold so many ``intervals``."""
    run, parts = found[0][0].runs[0], [part for part, _ in found]
    quantities = sum(len(claim.parts) for _, claims in found for claim in claims)
    width = ""
    if run.settings.get("likelihood") == "mse":
        sigmas = "; ".join(f"{math.sqrt(part.beta * _PIXELS / 2):.2g} for beta {part.beta:g}" for part in parts)
        width = f"Beta implies the decoder's standard deviation, sqrt(beta D / 2) on pixels in [0, 1]: {sigmas}. "
        width += "With a large one the model has little use for its latent variable, and a KL schedule nothing to act on. "
    iterations = parts[0].iterations
    ends = [part.end(run) for part in parts for run in part.runs]
    short = (
        f"A run has {iterations:,} iterations and ends at {min(ends):.1f} to {max(ends):.1f} dB; one of the report had "
        f"{REPORT_ITERATIONS:,}. The verdicts are about such runs, on these data, with this model. For runs like those of the "
        "report there is the same study at full size: scripts/course_study.py --full."
    )
    return [
        Heading(2, "What this can tell, and what it cannot"),
        Text(
            f"Seeds vary weights, noise and order, but not the data: the intervals are about other seeds, not about other data "
            f"sets. Each is a 95 % interval by itself, not corrected for their number: of the {quantities} behind the verdicts "
            f"{quantities / 20:.1f} are expected to miss the true value, of all {intervals} in the tables {intervals / 20:.1f}."
        ),
        *([Text(width.strip())] if width else []),
        *([Text(short)] if iterations < REPORT_ITERATIONS else []),
    ]
