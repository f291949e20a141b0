"""The report as blocks for Markdown: groups, curves, runs, evaluations, sweeps and commands."""

from __future__ import annotations

from collections.abc import Sequence

from cvae.evaluation.intervals import mean_interval, paired
from cvae.pages.document import Block, Code, Heading, Picture, Table, Text, level, signed
from cvae.pages.plots import group_curves
from cvae.runs.collection import Collection, by_seed, commits, differing, main_objective, setting_order
from cvae.runs.evaluations import Evaluation, evaluations_of
from cvae.runs.run import Run
from cvae.study.answers import find_answers


def markdown_blocks(found: Collection, title: str, command: str, bair: bool) -> list[Block]:
    """All blocks of the report; ``bair``: the data are BAIR, so the course report's 25 dB applies to its claims."""
    runs = found.runs
    blocks: list[Block] = [Heading(1, title), Code(command), *find_answers(runs, bair)]
    keys = [key for key in differing(runs) if key != "seed"]
    groups = grouped(runs, keys)
    if len(groups) < len(runs):
        blocks += [Heading(2, "Groups"), *_groups(groups)]
    if (curves := group_curves(groups)) is not None:
        blocks += [Heading(2, "Curves"), Picture("curves.png", curves, "PSNR, MSE, KL and schedules over epochs")]
    blocks += [Heading(2, "Runs"), _runs(runs, differing(runs))]
    if rows := [[run.name, *_evaluation(each)] for run in runs for each in evaluations_of(run)]:
        header = ["run", "protocol", "videos", "PSNR [95 %], dB", "repeating the last frame, dB"]
        blocks += [Heading(2, "Evaluation"), Table(header, rows)]
    for sweep in found.sweeps:
        blocks += [Heading(2, f"Sweep {sweep.name}"), Text(f"{sweep.summary}. {f'Best: {sweep.best}' if sweep.best else ''}")]
    if runs:
        blocks += [Heading(2, "Commands that repeat the runs"), Text(commits(runs))]
        blocks.append(Code("\n".join(run.repeat for run in runs)))
    if found.unreadable:
        rows = [[str(folder), reason] for folder, reason in found.unreadable]
        blocks += [Heading(2, "Folders that cannot be read"), Table(["folder", "reason"], rows)]
    return blocks


def grouped(runs: Sequence[Run], keys: Sequence[str]) -> dict[str, list[Run]]:
    """Runs by the settings that name their group; ``keys`` has no seed, so a group holds all seeds."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: [setting_order(run.settings.get(key)) for key in keys]):
        groups.setdefault(" ".join(f"{key}={run.settings.get(key)}" for key in keys) or "all", []).append(run)
    return groups


def _groups(groups: dict[str, list[Run]]) -> list[Block]:
    objective = main_objective([run for runs in groups.values() for run in runs])
    reference, first = next(iter(groups.items()))
    header = ["settings", "runs", f"{objective} at the end [95 %]", "KL at the end, nats"]
    header += [f"paired difference to {reference}"] * (len(groups) > 1)
    rows = []
    for name, runs in groups.items():
        ends, kls = _ends(runs, objective), _ends(runs, "train/kld")
        pairs = list(paired(ends, _ends(first, objective)).values()) if name != reference else []
        difference = f"{signed(*mean_interval(pairs))}, {len(pairs)} seed{'s' * (len(pairs) > 1)}" if pairs else ""
        ended = sum(run.state == "finished" for run in runs)
        rows.append(
            [
                name,
                f"{ended} of {len(runs)}" if ended < len(runs) else str(ended),
                level(*mean_interval(list(ends.values()))),
                level(*mean_interval(list(kls.values())), ".2g"),
                *([difference] * (len(groups) > 1)),
            ]
        )
    about = (
        "Finished runs, at their end. Intervals over seeds (Student's t), each seed counted once; differences paired by seed."
    )
    return [Table(header, rows), Text(about)]


def _ends(runs: Sequence[Run], key: str) -> dict[int, float]:
    return by_seed(runs, lambda run: run.last(key))


def _runs(runs: Sequence[Run], keys: Sequence[str]) -> Table:
    objective = main_objective(runs)
    header = ["run", *keys, "state", f"best {objective}", "at epoch", "PSNR, dB", "MSE", "KL, nats"]
    rows = []
    for run in runs:
        best, last = run.best(objective), [run.last(key) for key in ("val/psnr", "train/mse", "train/kld")]
        numbers = ["" if value is None else f"{value:{form}}" for value, form in zip(last, (".2f", ".3g", ".2g"), strict=True)]
        shown = [f"{best[0]:.4g}", str(best[1])] if best else ["", ""]
        rows.append([run.name, *(str(run.settings.get(key, "")) for key in keys), run.state, *shown, *numbers])
    return Table(header, rows)


def _evaluation(each: Evaluation) -> list[str]:
    if each.note:
        return [each.protocol, "", each.note, ""]
    return [each.protocol, str(each.videos), level(each.psnr, each.low, each.high), f"{each.copy:.2f}"]
