"""What a prediction leaves: GIF, MP4, strip, scores and frames of one scene, or the frames of a whole split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cvae.console import progress, say, short
from cvae.errors import UserError, whole, write_whole, writing
from cvae.evaluation.metrics import psnr, ssim
from cvae.evaluation.validation import images
from cvae.prediction import sheets
from cvae.prediction.predictor import Predictor, to_bytes
from cvae.prediction.scene import Scene, Source, of_data
from cvae.prediction.video import Pixels

_HINT = "choose another folder with out="
_TOGETHER = 32  # sequences that are predicted at a time
_MOST = 20_000  # frames of all samples of a sequence; they are in memory at once
_OTHERS = 3  # samples that are shown beside the best


def write_scene(model: Predictor, scene: Scene, samples: int, seed: int, png: bool, out: Path, facts: dict[str, Any]) -> None:
    """Predict a scene and write prediction.gif, prediction.mp4, strip.png, scores.json, and with ``png`` the frames.

    Raises:
        UserError: a file cannot be written.
    """
    future_SKCHW = _predicted(model, [scene], samples, seed)[:, 0]
    scores_SK2, copy_K2 = _scores(model, scene, future_SKCHW)
    rows, best = _rows(model, scene, future_SKCHW, scores_SK2)
    record = {**facts, "name": scene.name, "samples": samples, "seed": seed, **_record(model, scene, scores_SK2, copy_K2, best)}
    with writing(out, _HINT):
        out.mkdir(parents=True, exist_ok=True)
        filmed = _write_pictures(rows, model.n_past, scene.length, out)
        for row in rows if png else ():
            _write_frames(out / "frames" / row.name.replace(" ", "_"), row.frames_THWC, model.n_past * (row is not rows[0]))
    write_whole(out / "scores.json", json.dumps(record, indent=2) + "\n", _HINT)
    say(_sentence(scene, scores_SK2, copy_K2, best))
    written = ["prediction.gif", *["prediction.mp4"] * filmed, "strip.png", "scores.json", *["frames/"] * png]
    say(f"written {short(out)}: {', '.join(written)}" + ("" if filmed else " (no MP4: neither PyAV nor ffmpeg is here)"))


def _write_pictures(rows: Sequence[sheets.Row], n_past: int, length: int, out: Path) -> bool:
    """Write the GIF, the strip, and the MP4 if something here can; return whether it could."""
    pictures, film = sheets.moving(rows, n_past, length), out / "prediction.mp4"
    with whole(out / "prediction.gif") as scratch:
        sheets.gif(pictures, scratch)
    with whole(out / "strip.png") as scratch:
        sheets.strip(rows, n_past, length, scratch)
    film.unlink(missing_ok=True)  # that of an earlier prediction
    scratch = film.with_name("prediction.mp4.partial")
    try:
        if filmed := sheets.mp4(pictures, scratch):
            scratch.replace(film)
    finally:
        scratch.unlink(missing_ok=True)
    return filmed


def write_split(model: Predictor, source: Source, n_future: int | None, seed: int, out: Path) -> None:
    """Predict each sequence of a split once, and write its frames as OUT/<traj folder>/<k>/<frame>.png.

    Raises:
        UserError: a sequence is too short, or a file cannot be written.
    """
    split, what = source.split, f"{source.where} of {source.data}"
    length = of_data(model, source, int(split.lengths.argmin()), n_future).length
    scores = []
    with progress(f"predicting {what}", len(split)) as advance:
        for rows in np.array_split(np.arange(len(split)), -(-len(split) // _TOGETHER)):
            scenes = [of_data(model, source, int(row), n_future) for row in rows]
            future_BKCHW = _predicted(model, scenes, 1, seed)[0]
            for scene, future_KCHW in zip(scenes, future_BKCHW, strict=True):
                scores_SK2, copy_K2 = _scores(model, scene, future_KCHW[None])
                scores.append([scores_SK2[0].mean(axis=0), copy_K2.mean(axis=0)])
                frames_KHWC = to_bytes(future_KCHW).movedim(1, -1).cpu().numpy()
                with writing(out, _HINT):
                    _write_frames(out / _inside(split.name(scene.row), scene.row), frames_KHWC, 0, model.n_past)
                advance(1)
    (psnr_mean, ssim_mean), (psnr_copy, _) = np.mean(scores, axis=0)
    say(
        f"{what}: {len(split)} sequences, {model.n_past} given and {length - model.n_past} predicted frames, one sample of "
        f"each: {psnr_mean:.2f} dB, SSIM {ssim_mean:.3f}; repeating the last past frame {psnr_copy:.2f} dB"
    )
    say(f"written {short(out)}: the predicted frames of each sequence")


def _predicted(model: Predictor, scenes: Sequence[Scene], samples: int, seed: int) -> Tensor:
    """``future_SBKCHW`` of scenes of one length; UserError if they would be too many."""
    length = scenes[0].length
    if samples * length > _MOST:
        raise UserError(f"samples={samples} of {length} frames are more than {_MOST} frames: lower samples or n_future")
    past_BTCHW = images(np.stack([scene.frames_THWC[: model.n_past] for scene in scenes]), model.device)
    cond_BTA = torch.from_numpy(np.stack([scene.cond_TA for scene in scenes]))
    noise_STBZ = torch.stack([model.noise(seed, scene.row, samples, length) for scene in scenes], dim=2)
    return model.generate(past_BTCHW, cond_BTA, noise_STBZ)


def _scores(model: Predictor, scene: Scene, future_SKCHW: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """PSNR and SSIM of each predicted frame that has a truth, and those of the last past frame: ``SK2`` and ``K2``."""
    frames_TCHW = images(scene.frames_THWC[None], model.device)[0]
    past, true_KCHW = frames_TCHW[model.n_past - 1], frames_TCHW[model.n_past :]
    future_SKCHW = future_SKCHW[:, : len(true_KCHW)]

    def both(predicted_KCHW: Tensor) -> NDArray[np.float64]:
        if not len(true_KCHW):
            return np.zeros((0, 2))
        scores_K2 = torch.stack([psnr(predicted_KCHW, true_KCHW), ssim(predicted_KCHW, true_KCHW)], dim=-1)
        return scores_K2.double().cpu().numpy()

    return np.stack([both(sample_KCHW) for sample_KCHW in future_SKCHW]), both(past.expand_as(true_KCHW))


def _rows(
    model: Predictor, scene: Scene, future_SKCHW: Tensor, scores_SK2: NDArray[np.float64]
) -> tuple[list[sheets.Row], int | None]:
    """The rows of the pictures: the truth, the best sample and three others; and which sample is the best, if that is known."""
    samples, known = scores_SK2.shape[:2]
    best = int(scores_SK2[..., 0].mean(axis=1).argmax()) if known and samples > 1 else None
    others = [sample for sample in range(samples) if sample != best][: _OTHERS + (best is None)]
    past_THWC = scene.frames_THWC[: model.n_past]
    futures_SKHWC = to_bytes(future_SKCHW).movedim(2, -1).cpu().numpy()
    rows = [sheets.Row(scene.truth if known else "given", scene.frames_THWC)]
    for sample in [*([] if best is None else [best]), *others]:
        scores_T2 = np.full((scene.length, 2), np.nan)
        scores_T2[model.n_past : model.n_past + known] = scores_SK2[sample]
        name = f"best of {samples}" if sample == best else f"sample {sample + 1}"
        rows.append(sheets.Row(name, np.concatenate([past_THWC, futures_SKHWC[sample]]), scores_T2))
    return rows, best


def _record(
    model: Predictor, scene: Scene, scores_SK2: NDArray[np.float64], copy_K2: NDArray[np.float64], best: int | None
) -> dict[str, Any]:
    """What scores.json says of a scene; frames are counted from 0, scores begin at frame ``n_past``."""
    scored = len(copy_K2) > 0

    def said(row_K2: NDArray[np.float64]) -> dict[str, Any]:
        columns = dict(zip(("psnr", "ssim"), row_K2.round(6).T.tolist(), strict=True))
        return {name: {"mean": round(float(np.mean(values)), 6), "per_frame": values} for name, values in columns.items()}

    return {
        "n_past": model.n_past,
        "n_future": scene.length - model.n_past,
        "frames_with_truth": len(copy_K2),
        "best_sample": None if best is None else best + 1,
        "scores": [said(row_K2) for row_K2 in scores_SK2] if scored else None,
        "copy_last": said(copy_K2) if scored else None,
    }


def _sentence(scene: Scene, scores_SK2: NDArray[np.float64], copy_K2: NDArray[np.float64], best: int | None) -> str:
    if not len(copy_K2):
        return f"{scene.name}: {scene.length} frames, samples: {scores_SK2.shape[0]}; there is no truth to score them by"
    means_S2 = scores_SK2.mean(axis=1)
    found = "" if best is None else f"best of {len(means_S2)} {means_S2[best, 0]:.2f} dB, SSIM {means_S2[best, 1]:.3f}; "
    which = "one sample" if len(means_S2) == 1 else "mean of the samples"
    against = f" (against what the recorded actions led to, {len(copy_K2)} frames)" if scene.truth == "recorded" else ""
    return (
        f"{scene.name}: {found}{which} {means_S2[:, 0].mean():.2f} dB, SSIM {means_S2[:, 1].mean():.3f}; repeating the last "
        f"past frame {copy_K2[:, 0].mean():.2f} dB{against}"
    )


def _write_frames(folder: Path, frames_THWC: Pixels, first: int, number: int = 0) -> None:
    """Write ``frames_THWC[first:]`` as PNG files; ``number`` is that of frame 0 of the array."""
    folder.mkdir(parents=True, exist_ok=True)
    for t, frame_HWC in enumerate(frames_THWC[first:], start=first + number):
        with whole(folder / f"{t}.png") as scratch:
            Image.fromarray(frame_HWC).save(scratch, format="PNG")


def _inside(name: str, row: int) -> PurePosixPath:
    """The folder of a sequence by its name, which may come from a stranger's data and must not lead out of ``out``."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise UserError(f"sequence {row} is called {name!r}, which is no folder to write to: rename it in the data")
    return path
