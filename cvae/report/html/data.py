"""What the report page shows, as plain values: runs, curves, films, sweeps and the study's answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import numpy as np
from PIL import Image

from cvae import __version__
from cvae.console import short
from cvae.evaluation.intervals import quantile
from cvae.metrics import Metric
from cvae.pages.document import Heading, to_html
from cvae.pictures import read_gif
from cvae.runs.collection import Collection, all_metrics, differing, main_objective
from cvae.runs.evaluations import results_of
from cvae.runs.run import Run
from cvae.study.answers import study_answers

_SEEDS = 200  # intervals of more runs take the last quantile

_LONGEST = 60  # frames of a film

_Film = tuple[int, tuple[int, ...], str, str]  # epoch, sequences and frames and size, truth, prediction


def view(found: Collection, title: str, command: str, films: int, bair: bool, live: str | None) -> dict[str, Any]:
    """All that a page shows.

    Args:
        found: the runs.
        command: what makes the page.
        films: of how many runs at most samples are shown; of each group of settings the best come first.
        bair: the data are BAIR, so that the study may hold the report's 25 dB against them.
        live: the version of a page that is served and renewed while runs go on; None for a file.
    """
    runs, objective = found.runs, main_objective(found.runs)
    settings = differing(runs)
    metrics = list(dict.fromkeys([*all_metrics(runs), objective]))
    truths, predictions = _films(runs, settings, films)
    common = {
        key: value
        for key, value in (runs[0].settings if runs else {}).items()
        if _shared(runs, key) and key not in settings and not _repeats(value, runs[0])
    }
    return {
        "title": title,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "version": __version__,
        "objective": objective.key,
        "live": live,
        "settings": settings,
        "common": common,
        "metrics": [asdict(metric) for metric in metrics],
        "t95": [None, None, *(round(quantile(count), 4) for count in range(2, _SEEDS + 1))],
        "runs": [_run(run, objective, settings, common, metrics, predictions.get(run.name)) for run in runs],
        "films": truths,
        "broken": [{"folder": short(folder), "reason": reason} for folder, reason in found.broken],
        "sweeps": _sweeps(found),
        "answers": _answers(runs, bair),
    }


def _shared(runs: Sequence[Run], key: str) -> bool:
    return all(key in run.settings for run in runs)


def _repeats(value: Any, run: Run) -> bool:
    """Whether a setting says no more than that it is another one: ``${lr}``."""
    return isinstance(value, str) and value.startswith("${") and value[2:-1] in run.settings


# --- runs -------------------------------------------------------------------------------------------------------------


def _run(
    run: Run,
    objective: Metric,
    settings: Sequence[str],
    common: Mapping[str, Any],
    metrics: Sequence[Metric],
    film: dict[str, Any] | None,
) -> dict[str, Any]:
    best = run.best(objective.key)
    epochs = [int(row["epoch"]) for row in run.rows]
    keys = [metric.key for metric in metrics]
    curves = {key: [row.get(key) for row in run.rows] for key in keys}
    return {
        "name": run.name,
        "folder": short(run.folder),
        "state": run.state,
        "note": run.note,
        "epoch": epochs[-1] if epochs else 0,
        "epochs": run.epochs,
        "settings": {key: run.settings.get(key) for key in settings},
        "other": {
            key: value
            for key, value in run.settings.items()
            if key not in settings and key not in common and not _repeats(value, run)
        },
        "best": best[0] if best else None,
        "best_epoch": best[1] if best else None,
        "last": {key: run.last(key) for key in keys if run.last(key) is not None},
        "curves": {
            "epoch": epochs,
            **{key: values for key, values in curves.items() if any(value is not None for value in values)},
        },
        "group": run.sweep,
        "provenance": _provenance(run),
        "repeat": run.repeat,
        "resume": run.resume,
        "evals": [asdict(result) for result in results_of(run)],
        "film": film,
    }


def _provenance(run: Run) -> dict[str, str]:
    record = run.record
    versions = record["versions"] if isinstance(record.get("versions"), dict) else {}
    sha = f"{record['git_sha']}{' with uncommitted changes' if record.get('dirty') else ''}" if record.get("git_sha") else None
    facts = {
        "command": record.get("command"),
        "started": record.get("started"),
        "resumed": len(record["resumed"]) if isinstance(record.get("resumed"), list) else None,
        "host": record.get("host"),
        "device": ", ".join(str(record[key]) for key in ("device", "precision") if record.get(key)),
        "commit": sha,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "data fingerprint": record.get("dataset"),
        "id": record.get("id"),
        "signature": record.get("signature"),
        "sweep": run.sweep,
        "trial": run.trial,
    }
    return {label: str(value) for label, value in facts.items() if value not in (None, "")}


# --- films ------------------------------------------------------------------------------------------------------------


def _films(runs: Sequence[Run], settings: Sequence[str], most: int) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """The truths, one a data set, and by run's name its prediction, as sheets of cells: a row a sequence, a column a frame."""
    chosen = _spread([run for run in runs if run.film], settings)[:most]
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(_read_film, chosen))
    truths: dict[tuple[Any, ...], int] = {}
    films: list[dict[str, Any]] = []
    predictions: dict[str, dict[str, Any]] = {}
    for run, film in zip(chosen, read, strict=True):
        if film is None:
            continue
        epoch, (count, frames, size), truth, predicted = film
        n_past = run.settings["n_past"]
        key = (str(run.record.get("dataset")), n_past, count, frames)
        if key not in truths:
            truths[key] = len(films)
            names = [f"video {index + 1}" for index in range(count)]
            about = {"names": names, "n_past": n_past, "frames": frames, "sequences": count, "size": size}
            films.append(about | {"image": truth})
        predictions[run.name] = {"truth": truths[key], "image": predicted, "epoch": epoch, "place": len(predictions)}
    return films, predictions


def _spread(runs: Sequence[Run], settings: Sequence[str]) -> list[Run]:
    """The best run of each group of settings, then their second best, and so on."""
    groups: dict[str, list[Run]] = {}
    objective = main_objective(runs)
    for run in sorted(runs, key=lambda run: objective.rank((run.best(objective.key) or [None])[0])):
        groups.setdefault(str([run.settings.get(key) for key in settings if key != "seed"]), []).append(run)
    ranks = [(rank, index) for index, group in enumerate(groups.values()) for rank in range(len(group))]
    ordered = list(groups.values())
    return [ordered[index][rank] for rank, index in sorted(ranks)]


def _read_film(run: Run) -> _Film | None:
    length = min(run.settings["n_past"] + run.settings["n_future"], _LONGEST)
    try:
        path = run.film
        if path is None:  # it went away
            return None
        true_STHWC, predicted_STHWC = read_gif(path, length)
        epoch = int(path.stem.rpartition("_")[2])
        return epoch, true_STHWC.shape[:3], _sheet(true_STHWC), _sheet(predicted_STHWC)
    except Exception:  # Pillow's decoders raise many kinds for what is damaged or out of all proportion
        return None


def _sheet(video_STHWC: np.ndarray) -> str:
    sheet = np.concatenate([np.concatenate(list(frames_THWC), axis=1) for frames_THWC in video_STHWC], axis=0)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=75, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# --- sweeps and the study ---------------------------------------------------------------------------------------------


def _sweeps(found: Collection) -> list[dict[str, Any]]:
    shown = []
    for sweep in found.sweeps:
        members = [run for run in found.runs if run.study == sweep.key]
        curves = {run.trial: run.series(run.objective) for run in members if run.trial is not None}
        figures = [{"title": each.title, "about": each.about, "figure": each.figure} for each in sweep.figures(curves)]
        best = (sweep.key, sweep.best_trial)
        best_run = next((index for index, run in enumerate(found.runs) if (run.study, run.trial) == best), None)
        shown.append(
            {
                "name": sweep.name,
                "note": sweep.summary,
                "best": sweep.best,
                "best_run": best_run,
                "again": sweep.command,
                "figures": figures,
            }
        )
    return shown


def _answers(runs: Sequence[Run], bair: bool) -> dict[str, str] | None:
    blocks = study_answers(runs, bair)
    if not blocks:
        return None
    shown = next((index for index, block in enumerate(blocks) if isinstance(block, Heading)), len(blocks))
    details = f"<details><summary>Measurements, cells, curves and limits</summary>{to_html(blocks[shown:])}</details>"
    return {"title": "The course report's questions", "html": to_html(blocks[:shown]) + (details if blocks[shown:] else "")}
