"""What equal wall time buys: both loops train, and the report's nets predict as the package's do."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark
import numpy as np
import pytest
import torch
from quality import Report

from cvae.evaluation.validation import validate
from cvae.start import compose
from cvae.training.assembly import build_trainer

SMALL = ["n_future=2", "batch_size=2", "epochs=2", "epoch_size=1"]


@pytest.mark.slow
def test_the_report_s_nets_predict_as_the_package_does_with_the_same_weights(drawn, tmp_path):
    words = ["data=course", f"data.root={drawn}", *SMALL, "compat=course", "logger=none", "precision=fp32", "device=cpu"]
    course = build_trainer(compose(words), tmp_path)
    report, model = Report(course), course.model
    pairs = [(report.nets.encoder, model.backbone.encoder), (report.nets.decoder, model.backbone.decoder)]
    pairs += [(report.nets.posterior, model.posterior), (report.nets.predictor, model.predictor)]
    with torch.no_grad():
        for theirs, ours in pairs:
            for source, target in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True):
                target.copy_(source)
    noise_TNZ = torch.randn(4, 2, model.latent_dim)
    frames_BTHWC, cond_BTA = course.data.validate.gather(np.arange(2), 0, 4)
    frames_BTCHW = torch.from_numpy(frames_BTHWC).permute(0, 1, 4, 2, 3).float() / 255
    report.nets.eval(), model.eval()
    with torch.no_grad():
        predicted = report._predict(frames_BTCHW, torch.from_numpy(cond_BTA), noise_TNZ)
        expected = model.generate(frames_BTCHW[:, :2], torch.from_numpy(cond_BTA), noise_TNZ[None])[0]
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-5)
    own = validate(model, course.data.validate, 4, 1, 1, torch.device("cpu"))["psnr"]
    assert report.validate() == pytest.approx(own, abs=2)  # under other noise


@pytest.mark.slow
def test_quality_trains_both_for_as_long_and_tells_them_apart(drawn, tmp_path, monkeypatch, capsys):
    words = f"data=course data.root={drawn} {' '.join(SMALL)} average=0.1"
    monkeypatch.setattr("sys.argv", ["", "--quality", "--device=cpu", "--json=q.json", "--data", words, "--seeds=2"])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    assert stop.value.code == 0
    rows = json.loads(Path("q.json").read_text())["quality"]
    assert [(row["data"], row["seed"], row["default_steps"]) for row in rows] == [(words, 1, 2), (words, 2, 2)]
    assert all(row["report_steps"] >= 2 and row["report"] > 0 and row["default"] > 0 and row["seconds"] > 0 for row in rows)
    assert capsys.readouterr().out.count("report's loop") == 2
