"""When does a conditional VAE stop using its conditions? python scripts/latent_actions.py [--out docs/latent_actions.png]

Runs experiment=latent_actions: five widths of the decoder, and the schedule that holds the KL, on two data sets. Then it draws
the KL of each run against what it costs one sample to be given another sequence's conditions, and prints the table. Finished
trials are kept beside the picture, in `<picture>_files`, as scripts/default_search.py keeps its own: run the command again to
continue, here or in a clone that has them. Further words are overrides of cvae.train, and Hydra's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import default_search
from kept_runs import HINT
from matplotlib.figure import Figure

from cvae.cli import fail
from cvae.console import say, short
from cvae.errors import UserError, writing
from cvae.explain import is_users
from cvae.pages.document import Table, to_markdown
from cvae.pages.plots import COLOURS, png

EXPERIMENT = "latent_actions"
Point = tuple[str, str, float, float]  # data set, recipe, KL in nats a step, cost of other conditions in dB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("latent_actions.png"), help="the picture to draw (latent_actions.png)")
    asked, overrides = parser.parse_known_args()
    kept = asked.out.parent / f"{asked.out.stem}_files"
    warm = [f"hydra.sweeper.warm_start={kept / 'sweep.json'}"] * (kept / "sweep.json").is_file()
    if code := run([f"experiment={EXPERIMENT}", *warm, *overrides]):
        raise SystemExit(code)  # cvae.train has printed why
    try:
        sweeps = sorted(Path("multirun").glob(f"{EXPERIMENT}*/sweep.json"), key=lambda path: path.stat().st_mtime)
        if sweeps:  # none where all trials were kept already
            default_search.keep(sweeps[-1].parent, kept)
        found = points(json.loads((kept / "sweep.json").read_text())["trials"])
        with writing(asked.out, HINT):
            asked.out.write_bytes(picture(found))
    except Exception as error:
        if not is_users(error):
            raise
        fail(error)
    print(table(found))
    say(f"picture    {short(asked.out)}")


def run(words: Sequence[str]) -> int:
    """Run cvae.train to its end; return its exit code."""
    process = subprocess.Popen([sys.executable, "-m", "cvae.train", *words])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # Ctrl-C reaches cvae.train as well: it saves and prints how to continue
            continue


def points(trials: Sequence[Mapping[str, Any]]) -> list[Point]:
    """KL and cost of each trial on each data set, the narrowest decoder first.

    Raises:
        UserError: no trial recorded them.
    """
    found = []
    for trial in sorted(trials, key=lambda trial: (trial["params"]["kl_schedule"], trial["params"]["likelihood.sigma"])):
        facts, params = trial.get("facts") or {}, trial["params"]
        recipe = f"sigma {params['likelihood.sigma']:g}" if params["kl_schedule"] != "target" else "target"
        for key in facts:
            case, _, name = key.partition("/")
            if name == "shuffled_cost":
                found.append((case, recipe, facts[f"{case}/train/kld"], facts[key]))
    if not found:
        raise UserError("no trial has recorded shuffled_cost: the data need conditions, and the runs have to finish")
    return found


def table(found: Sequence[Point]) -> str:
    """A row for each run."""
    rows = [[case, recipe, f"{kl:.2g}", f"{cost:+.2f}"] for case, recipe, kl, cost in sorted(found, key=lambda point: point[0])]
    return to_markdown([Table(["data", "recipe", "KL, nats a step", "cost of other conditions, dB"], rows)], "")


def picture(found: Sequence[Point]) -> bytes:
    """KL against the cost of other conditions: a line for each data set over the widths, a star for the target."""
    figure = Figure(figsize=(7, 4.6), layout="constrained", dpi=110)
    axes = figure.subplots()
    for colour, case in zip(COLOURS, dict.fromkeys(point[0] for point in found), strict=False):
        own = [point for point in found if point[0] == case]
        line = sorted((kl, cost, recipe) for _, recipe, kl, cost in own if recipe != "target")
        axes.plot([kl for kl, *_ in line], [cost for _, cost, _ in line], "o-", color=colour, label=case)
        for kl, cost, recipe in line:
            axes.annotate(recipe.removeprefix("sigma "), (kl, cost), xytext=(4, 4), textcoords="offset points", fontsize=8)
        stars = [(kl, cost) for _, recipe, kl, cost in own if recipe == "target"]
        axes.plot([kl for kl, _ in stars], [cost for _, cost in stars], "*", color=colour, markersize=14)
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set(
        xlabel="KL, nats a step (labels: sigma; star: kl_schedule=target)", ylabel="cost of another sequence's conditions, dB"
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    return png(figure)


if __name__ == "__main__":
    main()
