"""The data of the page as plain values: runs with their curves, sample videos, sweeps and the answers of the study."""

from __future__ import annotations

import base64
import io
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
from PIL import Image

from cvae import __version__
from cvae.console import short, warn
from cvae.evaluation.intervals import quantile
from cvae.pages.document import Heading, one_line, to_html
from cvae.report.sweeps import figures_of, trial_runs
from cvae.report.videos import best_of_each_group, read_video
from cvae.runs.collection import Collection, all_metrics, main_objective, other_data
from cvae.runs.differing import differing
from cvae.runs.run import Run
from cvae.study.answers import find_answers
from cvae.sweep.records import SweepRecord

_SEEDS = 200  # an interval over more seeds takes the last quantile
_READERS = 4  # videos that are decoded at a time: each takes up to 40 MB
_TEXT = 2000  # letters of a fact


def page_data(
    found: Collection, title: str, command: str, videos: int, bair: bool, version: str | None = None
) -> dict[str, Any]:
    """All that the page shows.

    Args:
        found: the runs.
        title: the title of the page.
        command: the command that makes the page.
        videos: the number of runs whose sample videos are shown, the best of each group of settings first.
        bair: the data are BAIR, so the course report's 25 dB applies to its claims.
        version: the version of a served page, by which the browser sees that there is a newer one; None for a file.
    """
    runs, objective = found.runs, main_objective(found.runs)
    settings = differing(runs)
    metrics = list(dict.fromkeys([*all_metrics(runs), objective]))
    truths, predictions, hidden = _videos(runs, settings, videos)
    for run in runs:
        if run.name in hidden:
            warn(one_line(f"{short(run.folder)}: {hidden[run.name]}"))
    noted = [replace(run, note="; ".join(filter(None, [run.note, hidden.get(run.name)]))) for run in runs]
    # The settings that all runs have and in which they do not differ.
    first = _unshown(runs[0], settings) if runs else {}
    common = {key: value for key, value in first.items() if all(key in run.settings for run in runs)}
    keys = [metric.key for metric in metrics]
    return {
        "title": title,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "version": __version__,
        "objective": objective.key,
        "live": version,
        "settings": settings,
        "common": common,
        "other_data": other_data(runs),
        "metrics": [asdict(metric) for metric in metrics],
        "t95": [None, None, *(round(quantile(count), 4) for count in range(2, _SEEDS + 1))],
        "runs": [{**_run(run, objective.key, settings, common, keys), "video": predictions.get(run.name)} for run in noted],
        "videos": truths,
        "failed": [{"folder": short(folder), "reason": reason} for folder, reason in found.failed],
        "unreadable": [{"folder": short(path), "reason": reason} for path, reason in found.unreadable],
        "sweeps": [_sweep(sweep, runs) for sweep in found.sweeps],
        "answers": _answers(runs, bair),
    }


def _unshown(run: Run, shown: Container[str]) -> dict[str, Any]:
    """The other settings of a run, without those that only refer to another one, as ``${lr}``."""
    references = [f"${{{key}}}" for key in run.settings]
    return {key: value for key, value in run.settings.items() if key not in shown and value not in references}


# --- runs -------------------------------------------------------------------------------------------------------------


def _run(run: Run, objective: str, settings: Sequence[str], common: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    best, best_epoch = run.best(objective) or (None, None)
    drawn = sorted([*run.rows, *run.inside], key=lambda row: row["epoch"])
    last = {key: value for key in keys if (value := run.last(key)) is not None}
    return {
        "name": run.name,
        "folder": short(run.folder),
        "state": run.state,
        "note": run.note,
        "epoch": int(run.rows[-1]["epoch"]) if run.rows else 0,
        "epochs": run.epochs,
        "settings": {key: run.settings.get(key) for key in settings},
        "other": _unshown(run, {*settings, *common}),
        "best": best,
        "best_epoch": best_epoch,
        "last": last,
        "curves": {key: [row.get(key) for row in drawn] for key in ("epoch", *last)},
        "group": run.sweep,
        "provenance": _provenance(run),
        "repeat": run.repeat,
        "left_out": run.left_out,
        "resume": run.resume,
        "evals": [asdict(each) for each in run.evaluations],
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
    return {label: str(value)[:_TEXT] for label, value in facts.items() if value not in (None, "")}


# --- sample videos ----------------------------------------------------------------------------------------------------


def _videos(
    runs: Sequence[Run], settings: Sequence[str], most: int
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], dict[str, str]]:
    """The true videos, one entry for each data set, and by run name the predicted ones, and why one is not shown.

    Each is one image with a row for each sequence and a column for each frame.
    """
    chosen = best_of_each_group([run for run in runs if run.video], settings)[:most]
    with ThreadPoolExecutor(_READERS) as pool:
        read = list(pool.map(read_video, chosen))
    truths: dict[str, dict[str, Any]] = {}
    predictions: dict[str, dict[str, Any]] = {}
    hidden: dict[str, str] = {}
    for run, video in zip(chosen, read, strict=True):
        if isinstance(video, str):
            hidden[run.name] = video
            continue
        sequences, frames, size = video.true_STHWC.shape[:3]
        data = str([run.record.get("dataset"), video.n_past, sequences, frames])
        if data not in truths:
            shape = {"n_past": video.n_past, "sequences": sequences, "frames": frames, "size": size}
            truths[data] = {**shape, "image": _image(video.true_STHWC)}
        image, rank = _image(video.predicted_STHWC), len(predictions)
        predictions[run.name] = {"truth": [*truths].index(data), "image": image, "epoch": video.epoch, "rank": rank}
    return list(truths.values()), predictions, hidden


def _image(video_STHWC: np.ndarray) -> str:
    image = np.concatenate([np.concatenate(list(frames_THWC), axis=1) for frames_THWC in video_STHWC], axis=0)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=75, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# --- sweeps and the study ---------------------------------------------------------------------------------------------


def _sweep(sweep: SweepRecord, runs: Sequence[Run]) -> dict[str, Any]:
    trials = trial_runs(sweep, runs)
    return {
        "name": sweep.name,
        "note": sweep.summary,
        "best": sweep.best,
        "best_run": None if sweep.best_trial is None else trials.get(sweep.best_trial),
        "command": sweep.command,
        "left_out": sweep.left_out,
        "figures": [asdict(figure) for figure in figures_of(sweep, runs)],
    }


def _answers(runs: Sequence[Run], bair: bool) -> dict[str, str] | None:
    blocks = find_answers(runs, bair)
    if not blocks:
        return None
    first = next((index for index, block in enumerate(blocks) if isinstance(block, Heading)), len(blocks))
    details = f"<details><summary>Measurements, cells, curves and limits</summary>{to_html(blocks[first:])}</details>"
    return {"title": "The course report's questions", "html": to_html(blocks[:first]) + (details if blocks[first:] else "")}
