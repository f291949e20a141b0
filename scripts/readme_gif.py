"""README's picture, from a trained run: python scripts/readme_gif.py RUN [--out docs/prediction.gif]

A row is a sequence of the run's test split: its truth, then futures 1 to 3 that the model draws from the same two frames and
the same conditions. They are its first samples under --seed, in their order: none is chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import cvae
from cvae.cli import fail
from cvae.config import build
from cvae.data.contract import Dataset
from cvae.errors import UserError, whole
from cvae.prediction import sheets
from cvae.prediction.predictor import Predictor
from cvae.prediction.scene import Scene, Source, of_data
from cvae.resume import recorded_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/prediction.gif"))
    parser.add_argument("--split", choices=("train", "validate", "test"), default="test")
    parser.add_argument("--sequences", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--futures", type=int, default=3)
    parser.add_argument("--frames", type=int, default=20, help="given and predicted ones")
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    try:
        model = cvae.load(words.run)
        data: Dataset = build(recorded_config(words.run).data, kind=Dataset)
        source = Source(data, getattr(data, words.split), words.split)
        scenes = [of_data(model, source, row, words.frames - model.n_past) for row in words.sequences]
        sequences = _futures(model, scenes, words.futures, words.seed)
    except UserError as error:
        return fail(error)
    pictures = [sheets.moving(rows, model.n_past, words.frames, head=rows is sequences[0]) for rows in sequences]
    with whole(words.out) as scratch:
        sheets.gif([np.concatenate(together) for together in zip(*pictures, strict=True)], scratch)
    print(f"written {words.out}: {words.split} {words.sequences} of {words.run}, {words.frames} frames, seed {words.seed}")
    return None


def _futures(model: Predictor, scenes: Sequence[Scene], futures: int, seed: int) -> list[list[sheets.Row]]:
    """Of each scene, the truth and the futures, each with noise of its own."""
    past_BTHWC = np.stack([scene.frames_THWC[: model.n_past] for scene in scenes])
    cond_BTA, length = np.stack([scene.cond_TA for scene in scenes]), scenes[0].length
    future_SBKHWC = model.predict(past_BTHWC, cond_BTA, futures, n_future=length - model.n_past, seed=seed, uint8=True)
    unscored_T2 = np.full((length, 2), np.nan)
    found = []
    for b, scene in enumerate(scenes):
        others = [np.concatenate([past_BTHWC[b], future_SBKHWC[s, b]]) for s in range(futures)]
        rows = [sheets.Row(f"future {s}", frames_THWC, unscored_T2) for s, frames_THWC in enumerate(others, 1)]
        found.append([sheets.Row("truth", scene.frames_THWC), *rows])
    return found


if __name__ == "__main__":
    main()
