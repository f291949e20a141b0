"""Short training windows first: how they grow, and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import tiny

from cvae.start import compose
from cvae.training.assembly import build_trainer


def windows(drawn: Path, *words: str) -> list[int]:
    settings = build_trainer(compose(tiny(drawn, "n_future=9", *words)), Path("run")).settings
    return [settings.window(epoch) for epoch in range(1, settings.epochs + 1)]


def test_windows_grow_from_one_predicted_frame_to_all(drawn):
    assert windows(drawn, "epochs=4") == [11] * 4
    assert windows(drawn, "epochs=5", "window_growth=0.8") == [3, 5, 7, 9, 11]
    assert windows(drawn, "epochs=6", "window_growth=0.5") == [3, 6, 8, 11, 11, 11]
    assert windows(drawn, "epochs=1", "window_growth=0.5") == [3]
    assert windows(drawn, "epochs=3", "window_growth=0.5", "n_future=1") == [3] * 3


def test_a_run_trains_on_them_and_validates_on_whole_ones(train, drawn, monkeypatch):
    from cvae.training.trainer import Trainer

    seen, real = [], Trainer.step

    def step(self, frames_BTCHW, cond_BTA):
        seen.append((frames_BTCHW.shape[1], cond_BTA.shape[1]))
        return real(self, frames_BTCHW, cond_BTA)

    monkeypatch.setattr(Trainer, "step", step)
    words = tiny(drawn, "epochs=3", "n_future=4")
    assert train(*words, "window_growth=0.67", "hydra.run.dir=grown").code == 0
    assert seen == [(3, 3)] * 2 + [(4, 4)] * 2 + [(6, 6)] * 2
    rows = [json.loads(line) for line in Path("grown/metrics.jsonl").read_text().splitlines()]
    assert len({row["val/psnr_copy"] for row in rows}) == 1
