"""README's picture, from a trained run: python scripts/readme_gif.py RUN [--out docs/prediction.gif]

A row is a sequence of the run's test split: its truth, then futures 1 to 3 that the model draws from the same two frames and
the same conditions. They are its first samples under --seed, in their order: none is chosen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
        rows = [_rows(model, scene, words.futures, words.seed) for scene in scenes]
    except UserError as error:
        return fail(error)
    pictures = [sheets.moving(each, model.n_past, words.frames, head=each is rows[0]) for each in rows]
    with whole(words.out) as scratch:
        sheets.gif([np.concatenate(together) for together in zip(*pictures, strict=True)], scratch)
    print(f"written {words.out}: {words.split} {words.sequences} of {words.run}, {words.frames} frames, seed {words.seed}")
    return None


def _rows(model: Predictor, scene: Scene, futures: int, seed: int) -> list[sheets.Row]:
    """The truth and the futures of a scene."""
    past_THWC = scene.frames_THWC[: model.n_past]
    future_SKHWC: NDArray[np.uint8] = model.predict(
        past_THWC, scene.cond_TA, futures, n_future=scene.length - model.n_past, seed=seed, uint8=True
    )
    unscored_T2 = np.full((scene.length, 2), np.nan)
    others = [
        sheets.Row(f"future {s}", np.concatenate([past_THWC, each]), unscored_T2) for s, each in enumerate(future_SKHWC, 1)
    ]
    return [sheets.Row("truth", scene.frames_THWC), *others]


if __name__ == "__main__":
    main()
