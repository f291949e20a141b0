"""Views to draw: a study with seeds, one of any size, and one whose every string is hostile."""

from __future__ import annotations

import base64
import io
import itertools
import math
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from cvae.metrics import BUILT_IN, OF_PROTOCOLS, Metric

HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"\'><img src=x onerror="window.pwned = 1">',
    "long " + "x" * 10_000,
    "turned \u202egnp.exe",
    "two\nlines",
    "__proto__",
    "</script><script>window.pwned = 1</script>",
    "{{ 7 * 7 }} %{y} $x$ &amp; &lt;b&gt;",
    "שלום עולם",
)
_SIZE, _FRAMES, _SEQUENCES = 64, 12, 3


def study(seeds: int = 3, epochs: int = 20, **more: Any) -> dict[str, Any]:
    """Two learning rates, two KL schedules and two TF schedules, each on some seeds; the last five runs did not finish."""
    combinations = itertools.product((5e-4, 2e-3), ("cyclical", "monotonic"), ("linear", "step"), range(1, seeds + 1))
    runs = [_run(i, dict(zip(_SETTINGS, values, strict=True)), epochs) for i, values in enumerate(combinations)]
    for run, (state, note) in zip(runs[-5:], _STATES.items(), strict=True):
        run.update(state=state, note=note, epoch=epochs // 2 if state != "diverged" else 0)
        if state in ("failed", "diverged"):  # before a first row
            run.update(best=None, best_epoch=None, last={}, curves={}, video=None, evals=[])
    return _view(runs, **more)


def large(count: int = 200, epochs: int = 300, **more: Any) -> dict[str, Any]:
    """Many runs, all finished, without videos."""
    runs = []
    for i in range(count):
        values = (10 ** (-4 + (i % 10) / 5), ("cyclical", "monotonic")[i % 2], ("linear", "step")[i // 2 % 2], i // 20)
        runs.append({**_run(i, dict(zip(_SETTINGS, values, strict=True)), epochs), "video": None})
    return _view(runs, **more)


def hostile() -> dict[str, Any]:
    """Every string that comes from a folder is one that means harm."""
    view = study(seeds=2, epochs=4)
    bad = itertools.cycle(HOSTILE)
    view["settings"] += ["__proto__", HOSTILE[0]]
    view["common"] = dict.fromkeys(HOSTILE, HOSTILE[1])
    view["title"] = HOSTILE[0]
    for run in view["runs"]:
        run.update(name=next(bad), folder=next(bad), note=next(bad), group=next(bad), repeat=next(bad), resume=next(bad))
        run["settings"].update({"kl_schedule": next(bad), "__proto__": next(bad), HOSTILE[0]: next(bad)})
        run["provenance"] = dict.fromkeys(HOSTILE, next(bad))
        run["evals"] = [{**_evaluation(20.0), "protocol": next(bad), "note": next(bad)}]
    view["unreadable"] = view["failed"] = [{"folder": each, "reason": each} for each in HOSTILE]
    trace = {"type": "bar", "x": list(HOSTILE), "y": list(range(len(HOSTILE))), "name": HOSTILE[0], "text": list(HOSTILE)}
    layout = {"xaxis": {"title": {"text": HOSTILE[1]}}, "title": {"text": HOSTILE[0]}}
    figure = {"title": HOSTILE[0], "about": HOSTILE[1], "figure": {"data": [trace], "layout": layout}}
    view["sweeps"] = [{"name": HOSTILE[0], "note": HOSTILE[1], "best": HOSTILE[2], "command": HOSTILE[3], "figures": [figure]}]
    texts = {"key": HOSTILE[0], "label": HOSTILE[1], "unit": HOSTILE[0], "short": HOSTILE[2]}  # no Metric takes them
    view["metrics"] += [asdict(Metric("val/odd", "odd")) | texts]
    view["runs"][0]["curves"][HOSTILE[0]] = [1.0, 2.0, 3.0, 4.0]
    return view


_SETTINGS = ("lr", "kl_schedule", "tf_schedule", "seed")
_STATES = {
    "running": "",
    "stopped": "Ctrl-C in epoch 10",
    "pruned": "below the median of 8 runs in epoch 10",
    "failed": "train/kld is not finite: lower lr, or clip the gradient",
    "diverged": "",
}


def _view(runs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    view = {
        "title": "course_study",
        "made": "2026-11-23T14:53:44+00:00",
        "command": "python -m cvae.report multirun/course_study",
        "version": "0.9.0",
        "objective": "val/psnr",
        "live": None,
        "settings": list(_SETTINGS),
        "common": {"model": "small", "optim": "adam", "batch_size": 16, "beta": 1e-4, "grad_clip": None, "data.n_past": 2},
        "other_data": "",
        "metrics": [asdict(metric) for metric in BUILT_IN if metric.key in runs[0]["curves"]],
        "t95": [None, None, *(float(stats.t.ppf(0.975, n - 1)) for n in range(2, 201))],
        "runs": runs,
        "videos": [_truth()],
        "failed": [{"folder": "multirun/course_study/98", "reason": "data.root=/data/bair does not exist: check the path"}],
        "unreadable": [{"folder": "multirun/course_study/99", "reason": "metrics.jsonl: line 3 is no JSON"}],
        "sweeps": [_sweep()],
        "answers": {"title": "What the study says", "html": "<p>Cyclical annealing scores <strong>+0.31 dB</strong>.</p>"},
    }
    return {**view, **more}


def _run(number: int, settings: dict[str, Any], epochs: int) -> dict[str, Any]:
    random = np.random.default_rng(number)
    at = np.arange(1, epochs + 1) / epochs
    gain = 0.3 * (settings["kl_schedule"] == "cyclical") + 0.5 * (settings["lr"] > 1e-3) + 0.15 * random.normal()
    psnr = 16.5 + (3 + gain) * (1 - np.exp(-4 * at)) + 0.05 * random.normal(size=epochs)
    cycle = np.minimum(1, 8 * (at % 0.25)) if settings["kl_schedule"] == "cyclical" else np.minimum(1, 4 * at)
    curves = {
        "val/psnr": psnr,
        "train/mse": 0.004 + 0.03 * np.exp(-5 * at) + 5e-4 * random.random(epochs),
        "train/kld": 0.4 + 12 * np.exp(-6 * at) * (1.4 - cycle) + 0.02 * random.random(epochs),
        "kl_weight": 1e-4 * cycle,
        "tf_ratio": np.where(at < 0.5, 1.0, 0.0) if settings["tf_schedule"] == "step" else 1 - at,
        "lr": np.full(epochs, settings["lr"]),
        "val/ssim": psnr / 35,
        "val/psnr_copy": np.full(epochs, 17.0286),
        "frames_per_second": 480 + 10 * random.random(epochs),
    }
    best = int(psnr.argmax())
    return {
        "name": f"course_study/{number}",
        "folder": f"multirun/course_study/{number}",
        "state": "finished",
        "note": "",
        "epoch": epochs,
        "epochs": epochs,
        "settings": dict(settings),
        "best": float(psnr[best]),
        "best_epoch": best + 1,
        "last": {key: float(curve[-1]) for key, curve in curves.items()},
        "curves": {"epoch": list(range(1, epochs + 1)), **{key: curve.tolist() for key, curve in curves.items()}},
        "group": "course_study",
        "provenance": {"started": "2026-11-23 14:01", "host": "node3", "device": "cpu", "commit": "282dfec", "torch": "2.9.0"},
        "repeat": f"python -m cvae.train lr={settings['lr']} kl_schedule={settings['kl_schedule']} seed={settings['seed']}",
        "resume": "",
        "evals": [_evaluation(float(psnr[-1]))] if number % 4 == 0 else [],
        "video": {"truth": 0, "image": _sheet(number)},
    }


def _evaluation(psnr: float) -> dict[str, Any]:
    scores = [
        {"metric": asdict(row), "mean": mean, "low": mean * 0.99, "high": mean * 1.01, "copy": copy}
        for row, mean, copy in zip(OF_PROTOCOLS, (psnr, psnr / 30, 0.1, 260.5), (17.03, 0.6, 0.2, None), strict=True)
    ]
    return {"protocol": "svg-10", "videos": 60, "scores": scores, "sentences": [], "note": "best of 10 samples"}


def _truth() -> dict[str, Any]:
    return {"n_past": 2, "frames": _FRAMES, "sequences": _SEQUENCES, "size": _SIZE, "image": _sheet(None)}


def _sheet(number: int | None) -> str:
    """A ball on its way, a row a sequence; the runs' balls stray the more, the later the frame."""
    sheet = np.full((_SEQUENCES * _SIZE, _FRAMES * _SIZE, 3), 96, np.uint8)
    y, x = np.mgrid[:_SIZE, :_SIZE]
    for row, frame in itertools.product(range(_SEQUENCES), range(_FRAMES)):
        stray = 0 if number is None or frame < 2 else frame * ((number * 7) % 5 - 2) / 2
        turn = 0.4 * frame + 2 * row
        distance = np.hypot(x - 32 - 18 * math.cos(turn) - stray, y - 32 - 18 * math.sin(turn))
        cell = sheet[row * _SIZE :, frame * _SIZE :][:_SIZE, :_SIZE]
        cell[distance < 8] = (210, 70 + 40 * row, 60)
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "WEBP", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _sweep() -> dict[str, Any]:
    history = {"type": "scatter", "mode": "markers", "x": [0, 1, 2, 3], "y": [18.9, 19.3, 19.1, 19.7], "name": "trials"}
    best = {"type": "scatter", "mode": "lines", "x": [0, 1, 2, 3], "y": [18.9, 19.3, 19.3, 19.7], "name": "best so far"}
    weights = {"type": "bar", "orientation": "h", "x": [0.2, 0.3, 0.5], "y": ["beta", "kl_schedule", "lr"]}
    axes = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": "val/psnr"}}, "template": {"layout": {}}}
    about = "How much of the spread each setting explains."
    return {
        "name": "sweep_lr_tfr_beta",
        "note": "24 of 24 trials",
        "best": "lr=0.002 kl_schedule=cyclical, 19.7 dB",
        "command": "python -m cvae.train lr=0.002 kl_schedule=cyclical",
        "figures": [
            {"title": "History", "about": "", "figure": {"data": [history, best], "layout": axes}},
            {"title": "Importances", "about": about, "figure": {"data": [weights], "layout": {}}},
        ],
    }
