"""Paired differences between runs: python scripts/compare_seeds.py FOLDER... [--metric val/psnr]

Takes run folders and multirun folders. Runs with the same settings but for the seed are one group; the first group is the
reference. Prints a Markdown table: each group's mean in the last epoch, and its difference to the reference over the seeds
that both have, with a 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cvae.cli import fail
from cvae.config import identity
from cvae.errors import UserError
from cvae.evaluation.intervals import mean_interval
from cvae.training.recorder import read_metrics

IRRELEVANT = ("sample_every", "compile")  # beside where a run runs and where its data lie

Settings = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders or multirun folders")
    parser.add_argument("--metric", default="val/psnr", help="a key of metrics.jsonl (val/psnr)")
    words = parser.parse_args()
    try:
        print(table([run for folder in words.folders for run in runs_in(folder)], words.metric))
    except UserError as error:
        fail(error)


def runs_in(folder: Path) -> list[Path]:
    runs = [folder] if (folder / "run.json").is_file() else sorted(path.parent for path in folder.glob("*/run.json"))
    if not runs:
        raise UserError(f"{folder} holds no run: give a run folder or a multirun folder")
    return runs


def table(runs: list[Path], metric: str) -> str:
    """A Markdown table of groups of runs.

    Raises:
        UserError: a run is not at its end or lacks the metric, two runs are the same, or there is only one group.
    """
    settings = {run: settings_of(run) for run in runs}
    keys = sorted({key for each in settings.values() for key in each})
    differing = [key for key in keys if key != "seed" and len({str(each.get(key)) for each in settings.values()}) > 1]
    groups: dict[str, dict[int, float]] = {}
    for run in runs:
        name = " ".join(f"{key}={settings[run].get(key)}" for key in differing)
        values, seed = groups.setdefault(name, {}), settings[run]["seed"]
        if seed in values:
            raise UserError(f"{run} has the settings and the seed of another run: leave one of them out")
        values[seed] = last(run, metric, settings[run]["epochs"])
    if len(groups) < 2:
        raise UserError("these runs differ in nothing but the seed: give runs of two settings or more")
    (reference, first), *_ = groups.items()
    lines = [f"| settings | runs | {metric} | difference to {reference} [95 %] |", "| --- | --- | --- | --- |"]
    for name, values in groups.items():
        mean, _, _ = mean_interval(list(values.values()))
        seeds = sorted(values.keys() & first.keys())
        shown = ""
        if name != reference and seeds:
            difference, low, high = mean_interval([values[seed] - first[seed] for seed in seeds])
            shown = (
                f"{difference:+.3f} [{low:+.3f}, {high:+.3f}], {len(seeds)} seeds" if len(seeds) > 1 else f"{difference:+.3f}"
            )
        lines.append(f"| {name} | {len(values)} | {mean:.3f} | {shown} |")
    return "\n".join(lines)


def settings_of(run: Path) -> Settings:
    """Every setting of a run by its full key.

    Raises:
        UserError: its config is missing or damaged.
    """
    flat: Settings = {}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else str(key))
        elif prefix not in IRRELEVANT:
            flat[prefix] = node

    path = run / ".hydra" / "config.yaml"
    try:
        cfg = OmegaConf.load(path)
        assert isinstance(cfg, DictConfig)
        walk(identity(cfg), "")
    except Exception as error:  # YAML and OmegaConf have many
        raise UserError(f"{path} is missing or damaged ({type(error).__name__}): restore it, or leave the run out") from error
    if not {"seed", "epochs"} <= flat.keys():
        raise UserError(f"{path} names no seed or no epochs: it is no config of a run; leave it out")
    return flat


def last(run: Path, metric: str, epochs: int) -> float:
    rows = read_metrics(run / "metrics.jsonl")
    if not rows or rows[-1]["epoch"] < epochs:
        raise UserError(f"{run} is not at its end: go on with python -m cvae.train resume={run}, or leave it out")
    if metric not in rows[-1]:
        raise UserError(f"{run} has no {metric} in its last epoch: choose another --metric")
    return float(rows[-1][metric])


if __name__ == "__main__":
    main()
