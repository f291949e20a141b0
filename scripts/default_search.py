"""Keep what the search for the default recipe found, and tell it: default_search.py [--sweep FOLDER] [--seeds FOLDER ...]

`python -m cvae.train experiment=tune_default` searches. This keeps its finished trials in docs/default_search: `sweep.json`,
from which the search goes on in a fresh clone (hydra.sweeper.warm_start), and `runs.jsonl`, a line for each finished run with
its config and metrics, those of the best trials on fresh seeds among them. `--seeds` names multiruns of the chosen recipe over
seeds, one for each data set: their runs go to `seeds.jsonl`. Places of this machine are left out. What an earlier call kept
stays. Then it prints the tables of docs/default.md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Any

from kept_runs import HINT, config_of, without
from omegaconf import OmegaConf

from cvae import files, integrity
from cvae.errors import write_whole
from cvae.evaluation.intervals import mean_interval
from cvae.pages.document import level

KEPT = Path("docs/default_search")
_SEEDS = "seeds.jsonl"
_LARGEST = 10_000_000
_OF_A_PLACE = ("folder", "seconds", "attempts", "failure")  # of a trial's entry

Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, help="a folder of the sweep: keep its finished trials first")
    parser.add_argument("--seeds", type=Path, nargs="+", default=[], help="multiruns over seeds, a data set each: keep them")
    parser.add_argument("--kept", type=Path, default=KEPT, help=f"where they are kept ({KEPT})")
    asked = parser.parse_args()
    if asked.sweep is not None:
        keep(asked.sweep, asked.kept)
    if asked.seeds:
        keep_seeds(asked.seeds, asked.kept)
    runs = runs_in(asked.kept)
    finalists, searched = ([run for run in runs if ("seed" in run["params"]) == again] for again in (True, False))
    print(table(searched))
    print("\n" + seeds_table(by_recipe(finalists)))
    print("\n" + seeds_table(runs_in(asked.kept, _SEEDS)))


def keep(sweep: Path, kept: Path) -> None:
    """Add a sweep's finished trials and runs to what is kept."""
    record = files.read_json(sweep, "sweep.json", _LARGEST)
    integrity.check_record(record)
    wanted = ("objective", "directions", "space", "search", "cases", "data", "top_k")
    trials = [without(trial, _OF_A_PLACE) for trial in record["trials"] if trial["state"] in ("complete", "pruned")]
    known = {_key(run): run for run in runs_in(kept)}
    tried = {trial["number"]: trial["params"] for trial in record["trials"]}
    known |= {_key(run): run for run in _finished(sweep, "*/*", tried)}
    kept.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(run) for run in sorted(known.values(), key=_key))
    write_whole(kept / "sweep.json", integrity.stamped({**{key: record.get(key) for key in wanted}, "trials": trials}), HINT)
    write_whole(kept / "runs.jsonl", "".join(f"{line}\n" for line in lines), HINT)


def keep_seeds(folders: Iterable[Path], kept: Path) -> None:
    """Keep the finished runs of multiruns over seeds, in place of earlier ones of the same name."""
    found = [{**run, "case": folder.name} for folder in folders for run in _finished(folder, "*")]
    names = {run["case"] for run in found}
    found += [run for run in runs_in(kept, _SEEDS) if run["case"] not in names]
    kept.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(run) for run in sorted(found, key=lambda run: (run["case"], run["seed"])))
    write_whole(kept / _SEEDS, "".join(f"{line}\n" for line in lines), HINT)


def _finished(folder: Path, runs: str, tried: Mapping[int, dict[str, Any]] = MappingProxyType({})) -> Iterable[Run]:
    """The finished runs below a folder, where ``runs`` finds them; a run on a fresh seed has what its trial ``tried``."""
    for path in sorted(folder.glob(f"{runs}/run.json")):
        record, place = json.loads(path.read_text()), path.parent
        case = OmegaConf.load(place / ".hydra" / "config.yaml").trial.get("case", "")
        config = config_of(place)
        rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        if rows and rows[-1]["epoch"] == config["epochs"]:
            params = record.get("trial", {}).get("params", {})
            if again := re.match(r"trial_(\d+)_seed_\d+", place.name):
                params = {**tried[int(again[1])], "seed": config["seed"]}
            known = {"params": params, "case": case, "seed": config["seed"]}
            yield {**known, "config": config, "metrics": rows}


def runs_in(kept: Path, name: str = "runs.jsonl") -> list[Run]:
    """The runs that are kept."""
    path = kept / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(runs: Iterable[Run]) -> str:
    """A row for each recipe: PSNR and KL by data set, and first what one sample and the best score above copying, on the mean.

    The mean is left out of a recipe that was given up before it ran on all of them.
    """
    recipes: dict[str, list[Run]] = {}
    for run in runs:
        recipes.setdefault(json.dumps(run["params"], sort_keys=True), []).append(run)
    runs = list(runs)
    cases = sorted({run["case"] for run in runs})
    head = ["recipe", "runs", "above copy", *(f"{case}: one / best of N / KL" for case in cases)]
    rows = []
    for recipe, own in recipes.items():
        by_case = {case: [scores(run) for run in own if run["case"] == case] for case in cases}
        means = {case: [mean(column) for column in zip(*each, strict=True)] for case, each in by_case.items() if each}
        whole = len(means) == len(cases)  # data sets are not equally hard
        above = mean((one + best) / 2 - copy for one, best, _, copy in means.values()) if whole else -1.0
        cells = [f"{m[0]:.2f} / {m[1]:.2f} / {m[2]:.1f}" if (m := means.get(case)) else "" for case in cases]
        said = ", ".join(f"{key}={_short(value)}" for key, value in json.loads(recipe).items())
        rows.append((-len(means), -above, [said, str(len(own)), f"{above:.2f}" * whole, *cells]))
    return _drawn(head, [row for *_, row in sorted(rows)])


def by_recipe(finalists: Iterable[Run]) -> list[Run]:
    """The finalists' runs on fresh seeds, called by data set and by what their recipes differ in."""
    runs = list(finalists)
    recipes = [{key: value for key, value in run["params"].items() if key != "seed"} for run in runs]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    differing = [key for key in keys if len({json.dumps(recipe.get(key)) for recipe in recipes}) > 1]
    named = [
        {**run, "case": ", ".join([run["case"], *(f"{key}={_short(recipe[key])}" for key in differing if key in recipe)])}
        for run, recipe in zip(runs, recipes, strict=True)
    ]
    return sorted(named, key=lambda run: (run["case"], run["seed"]))


def seeds_table(runs: Iterable[Run]) -> str:
    """A row for each data set: mean over seeds with its 95 % interval (Student's t), of the last epoch."""
    columns: dict[str, Callable[[dict[str, float]], float]] = {
        "one sample": lambda row: row["val/psnr"],
        "best of 10": lambda row: row["val/psnr_best"],
        "above copy": lambda row: row["val/psnr"] - row["val/psnr_copy"],
        "best above one": lambda row: row["val/psnr_best"] - row["val/psnr"],
        "KL": lambda row: row["train/kld"],
    }
    runs = list(runs)
    body = []
    for case in dict.fromkeys(run["case"] for run in runs):
        own = [run["metrics"] for run in runs if run["case"] == case]
        cells = [level(*mean_interval([quantity(rows[-1]) for rows in own]), ".2f") for quantity in columns.values()]
        below = max(max(row["val/psnr"] for row in rows if "val/psnr" in row) - rows[-1]["val/psnr"] for rows in own)
        body.append([case, str(len(own)), *cells, f"{below:.2f}"])
    return _drawn(["data", "seeds", *columns, "last epoch below the best, at most"], body)


def _drawn(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def scores(run: Run) -> tuple[float, float, float, float]:
    """PSNR of one sample and of the best of N at the best epoch, KL of the last, PSNR of copying."""
    rows = [row for row in run["metrics"] if "val/psnr" in row]
    best = max(rows, key=lambda row: row["val/psnr"])
    return best["val/psnr"], best["val/psnr_best"], run["metrics"][-1]["train/kld"], best["val/psnr_copy"]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _key(run: Run) -> str:
    return json.dumps([run["params"], run["seed"], run["case"]], sort_keys=True)


if __name__ == "__main__":
    main()
