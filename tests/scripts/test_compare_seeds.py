"""Runs are grouped by what differs, paired by seed."""

from __future__ import annotations

import json
from pathlib import Path

import compare_seeds
import pytest
from omegaconf import OmegaConf

from cvae.errors import UserError


def run(folder: Path, psnr: float, **settings) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save({"epochs": 2, "data": {"root": str(folder)}, **settings}, folder / ".hydra" / "config.yaml")
    rows = [{"epoch": 1, "val/psnr": 0.0}, {"epoch": 2, "val/psnr": psnr}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.json").write_text("{}")
    return folder


def test_paired_differences_with_their_interval(tmp_path, capsys, monkeypatch):
    for seed, (a, b) in enumerate([(20.0, 20.3), (21.0, 21.1), (19.0, 19.2)], start=1):
        run(tmp_path / "m" / f"{seed}a", a, seed=seed, model={"rollout": "planned"}, device="cpu")
        run(tmp_path / "m" / f"{seed}b", b, seed=seed, model={"rollout": "stepwise"}, device="cuda")
    run(tmp_path / "extra", 25.0, seed=9, model={"rollout": "stepwise"}, device="cpu")
    monkeypatch.setattr("sys.argv", ["compare_seeds.py", str(tmp_path / "m"), str(tmp_path / "extra")])
    compare_seeds.main()
    _, _, planned, stepwise = capsys.readouterr().out.splitlines()
    assert planned == "| model.rollout=planned | 3 | 20.000 |  |"
    # Differences 0.3, 0.1, 0.2: mean 0.2, standard error 0.0577, t 4.303.
    assert stepwise == "| model.rollout=stepwise | 4 | 21.400 | +0.200 [-0.048, +0.448], 3 seeds |"


def test_what_cannot_be_compared_is_one_line(tmp_path):
    same = [run(tmp_path / str(seed), 20.0, seed=seed) for seed in (1, 2)]
    with pytest.raises(UserError, match="nothing but the seed"):
        compare_seeds.table(same, "val/psnr")
    with pytest.raises(UserError, match="no val/ssim"):
        compare_seeds.table(same, "val/ssim")
    with pytest.raises(UserError, match="the seed of another run"):
        compare_seeds.table([*same, run(tmp_path / "again", 20.0, seed=1)], "val/psnr")
    unfinished = run(tmp_path / "unfinished", 20.0, seed=3, epochs=5)
    with pytest.raises(UserError, match="not at its end"):
        compare_seeds.table([*same, unfinished], "val/psnr")
    damaged = run(tmp_path / "damaged", 20.0, seed=3)
    for text in ("seed: [", "seed: 1", None):
        path = damaged / ".hydra" / "config.yaml"
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(UserError, match=r"config\.yaml .*leave"):
            compare_seeds.table([*same, damaged], "val/psnr")
    with pytest.raises(UserError, match="holds no run"):
        compare_seeds.runs_in(tmp_path / "nowhere")
