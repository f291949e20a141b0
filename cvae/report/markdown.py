"""The report as blocks for Markdown: groups, curves, runs, evaluations, sweeps and commands."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from cvae.console import short
from cvae.evaluation.intervals import mean_interval, seed_differences
from cvae.metrics import Metric
from cvae.pages.document import Block, Code, Heading, Picture, Table, Text, level, signed
from cvae.pages.plots import group_curves
from cvae.pictures import strip
from cvae.report.sweeps import sweep_png
from cvae.report.videos import best_of_each_group, read_video
from cvae.runs.collection import Collection, all_metrics, by_seed, commits, main_objective, other_data
from cvae.runs.differing import differing, setting_order
from cvae.runs.evaluations import Evaluation
from cvae.runs.run import Run
from cvae.study.answers import find_answers

STRIPS, _SEQUENCES = 6, 2  # runs whose frames are shown, and sequences of each


def markdown_blocks(found: Collection, title: str, command: str, bair: bool, strips: int = STRIPS) -> list[Block]:
    """All blocks of the report.

    Args:
        found: the runs.
        title: the title of the page.
        command: the command that makes the page.
        bair: the data are BAIR, so the course report's 25 dB applies to its claims.
        strips: the most runs of which frames are shown.
    """
    runs = found.runs
    blocks: list[Block] = [Heading(1, title), Code(command), *find_answers(runs, bair)]
    keys = [key for key in differing(runs) if key != "seed"]
    groups = grouped(runs, keys)
    if len(groups) < len(runs):
        blocks += [Heading(2, "Groups"), *_groups(groups)]
    if warning := other_data(runs):
        blocks.append(Text(warning))
    if (curves := group_curves(groups)) is not None:
        blocks += [Heading(2, "Curves"), Picture("curves.png", curves, "Metrics and schedules over epochs")]
    blocks += [Heading(2, "Runs"), _runs(runs, differing(runs))]
    if rows := [[run.name, *row] for run in runs for each in run.evaluations for row in _evaluation(each)]:
        header = ["run", "protocol", "videos", "metric", "mean [95 %]", "repeating the last frame"]
        blocks += [Heading(2, "Evaluation"), Table(header, rows)]
        told = [(run, each) for run in runs for each in run.evaluations if each.sentences]
        blocks += [Text(f"{run.name}, {each.protocol}: {' '.join(each.sentences)}") for run, each in told]
    if samples := _strips(runs, keys, strips):
        blocks += [Heading(2, "Samples"), *samples]
    for number, sweep in enumerate(found.sweeps):
        blocks += [Heading(2, f"Sweep {sweep.name}"), Text(f"{sweep.summary}. {f'Best: {sweep.best}' if sweep.best else ''}")]
        if (drawn := sweep_png(sweep, runs)) is not None:
            blocks.append(Picture(f"sweep_{number}.png", drawn, f"Figures of the sweep {sweep.name}"))
    if runs:
        blocks += [Heading(2, "Commands that repeat the runs"), Text(commits(runs))]
        blocks.append(Code("\n".join(filter(None, (run.repeat for run in runs)))))
        blocks += [Text(f"{run.name}: {run.left_out}") for run in runs if run.left_out]
    if notes := [[run.name, run.note] for run in runs if run.problems or (run.note and run.state == "failed")]:
        blocks += [Heading(2, "Notes on the runs"), Table(["run", "note"], notes)]
    for title, listed in (("Starts that failed", found.failed), ("Unreadable folders and files", found.unreadable)):
        if listed:
            blocks += [Heading(2, title), Table(["folder", "reason"], [[short(path), reason] for path, reason in listed])]
    return blocks


def grouped(runs: Sequence[Run], keys: Sequence[str]) -> dict[str, list[Run]]:
    """Runs by the settings that name their group; ``keys`` has no seed, so a group holds all seeds."""
    groups: dict[str, list[Run]] = {}
    names: dict[str, str] = {}
    for run in sorted(runs, key=lambda run: [setting_order(run.settings.get(key)) for key in keys]):
        short_name = " ".join(f"{key}={_setting(run.settings.get(key))}" for key in keys)
        exact = str([run.settings.get(key) for key in keys])
        name = short_name if names.setdefault(short_name, exact) == exact else exact  # alike to four digits
        groups.setdefault(name or "all", []).append(run)
    return groups


def _setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _groups(groups: dict[str, list[Run]]) -> list[Block]:
    every = [run for runs in groups.values() for run in runs]
    objective = main_objective(every)
    reference, first = next(iter(groups.items()))
    shown = [objective, *(metric for metric in all_metrics(every) if metric.shown == "table" and metric != objective)]
    header = ["settings", "runs", *(metric.title for metric in shown)]
    header += [f"paired difference to {reference}"] * (len(groups) > 1)
    rows = []
    for name, runs in groups.items():
        ends = [_ends(runs, metric) for metric in shown]
        pairs = list(seed_differences(ends[0], _ends(first, objective)).values()) if name != reference else []
        gain = f"{signed(*mean_interval(pairs), objective.form)}, {len(pairs)} seed{'s' * (len(pairs) > 1)}" if pairs else ""
        ended = sum(run.state == "finished" for run in runs)
        rows.append(
            [
                name,
                f"{ended} of {len(runs)}" if ended < len(runs) else str(ended),
                *(level(*mean_interval(list(each.values())), metric.form) for metric, each in zip(shown, ends, strict=True)),
                *([gain] * (len(groups) > 1)),
            ]
        )
    about = (
        "Finished runs, at their end. Intervals of 95 % over seeds (Student's t), each seed counted once. "
        f"Differences are of {objective.label}, paired by seed."
    )
    return [Table(header, rows), Text(about)]


def _ends(runs: Sequence[Run], metric: Metric) -> dict[int, float]:
    return by_seed(runs, lambda run: run.last(metric.key))


def _runs(runs: Sequence[Run], keys: Sequence[str]) -> Table:
    objective, shown = main_objective(runs), [metric for metric in all_metrics(runs) if metric.shown == "table"]
    header = ["run", f"best {objective.title}", "at epoch", *keys, "state", *(f"last {metric.title}" for metric in shown)]
    rows = []
    for run in runs:
        value, epoch = run.best(objective.key) or (None, "")
        settings = [_setting(run.settings.get(key, "")) for key in keys]
        numbers = [metric.text(run.last(metric.key)) for metric in shown]
        rows.append([run.name, objective.text(value), str(epoch), *settings, run.state, *numbers])
    return Table(header, rows)


def _strips(runs: Sequence[Run], keys: Sequence[str], most: int) -> list[Block]:
    """True and predicted frames of the best run of each group of settings, then of the second best ones, up to a number."""
    blocks: list[Block] = []
    objective = main_objective(runs)
    for number, run in enumerate(best_of_each_group([run for run in runs if run.video], keys)[:most]):
        if isinstance(video := read_video(run), str):
            continue  # the notes say why
        names = [f"sequence {row + 1}" for row in range(min(_SEQUENCES, len(video.true_STHWC)))]
        shown = slice(len(names))
        file = io.BytesIO()
        strip(video.true_STHWC[shown], video.predicted_STHWC[shown], video.n_past, names, file)
        value, _ = run.best(objective.key) or (None, 0)
        told = [f"{objective.label} {objective.text(value)} {objective.unit}".rstrip()] * (value is not None)
        told += [f"{key}={_setting(run.settings.get(key))}" for key in keys]
        blocks.append(Text(f"{run.name}, after epoch {video.epoch}: {', '.join(told)}"))
        blocks.append(Picture(f"strip_{number}.png", file.getvalue(), f"Truth above prediction of {run.name}"))
    return blocks


def _evaluation(each: Evaluation) -> list[list[str]]:
    """A row a metric."""
    if each.videos is None:
        return [[each.protocol, "", "", each.note, ""]]
    note = f" ({each.note})" if each.note else ""
    return [
        [
            each.protocol,
            str(each.videos),
            score.metric.title,
            level(score.mean, score.low, score.high, score.metric.form) + note,
            level(score.copy, math.nan, math.nan, score.metric.form),
        ]
        for score in each.scores
    ]
