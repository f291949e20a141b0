"""TensorBoard shows a run, read back with its own reader, and whatever happens to it, the run itself is whole."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvae.training.recorder import NoMirror, Recorder, RunInfo
from cvae.training.tensorboard_mirror import TensorboardMirror


def shown(run: Path) -> EventAccumulator:
    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    return reader.Reload()


def curve(run: Path, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in shown(run).Scalars(key)]


def begin(run: Path, config: dict[str, Any] | None = None, options: dict[str, str] | None = None) -> TensorboardMirror:
    run.mkdir(exist_ok=True)
    mirror = TensorboardMirror()
    mirror.start(RunInfo("1d", run, None, "a-run", [], config or {"lr": 1e-3}, record={"options": options}))
    return mirror


def write(run: Path, mirror: TensorboardMirror, epochs: range, psnr: float) -> None:
    """Epochs as a recorder writes them."""
    for epoch in epochs:
        row = {"epoch": epoch, "step": 2 * epoch, "val/psnr": psnr}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        mirror.log(row)


def test_validations_within_epochs_have_their_own_curves_and_outlive_a_resumption(train, drawn):
    words = [*tiny(drawn), "epoch_size=4", "sample_every=1", "validate_at=[2,3,7]", "logger=tensorboard", "hydra.run.dir=run"]
    assert train(*words).code == 0
    found = json.loads(Path("run/validations.jsonl").read_text().splitlines()[1])
    assert [step for step, _ in curve(Path("run"), "val/psnr")] == [4, 8]
    assert [step for step, _ in curve(Path("run"), "inside/psnr")] == [2, 3, 7]
    assert curve(Path("run"), "inside/psnr")[1] == (3, pytest.approx(found["val/psnr"], rel=1e-5))
    Recorder(Path("run"), NoMirror()).truncate(1, [2, 3])  # as it goes on within the second epoch
    config = {"epoch_size": 4, "validate_at": ["2", "3", "7"]}
    mirror = begin(Path("run"), config)
    mirror.validation({"step": 7, "epoch": 1.75, "val/psnr": 30.0})
    mirror.log({"epoch": 2, "step": 8, "val/psnr": 31.0})
    mirror.finish(0)
    assert curve(Path("run"), "inside/psnr")[2:] == [(7, 30.0)]
    assert curve(Path("run"), "val/psnr")[1:] == [(8, 31.0)]


def test_every_number_of_a_run_is_a_scalar_by_epoch(train, drawn):
    result = train(*tiny(drawn), "logger=tensorboard", "n_samples=2", "sample_every=1", "hydra.run.dir=run")
    assert result.code == 0, result.err
    assert "tensorboard --logdir run/tensorboard" in result.out
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    for key in rows[0].keys() - {"epoch"}:
        assert curve(Path("run"), key) == [(row["epoch"], pytest.approx(row[key])) for row in rows], key
    images = shown(Path("run")).Images("samples")
    gifs = [Path(f"run/samples/epoch_000{epoch}.gif") for epoch in (1, 2)]
    assert [image.encoded_image_string for image in images] == [gif.read_bytes() for gif in gifs]
    with Image.open(gifs[0]) as picture:
        assert (images[0].width, images[0].height) == picture.size


@pytest.mark.parametrize("kept", [0, 2])
def test_a_run_that_goes_on_shows_every_epoch_once(tmp_path, kept):
    run = tmp_path / "run"
    killed = begin(run)
    write(run, killed, range(1, 4), psnr=20.0)
    killed._records.close()
    Recorder(run, NoMirror()).truncate(kept)
    again = begin(run)
    write(run, again, range(kept + 1, 6), psnr=30.0)
    again.finish(0)
    assert curve(run, "val/psnr") == [(epoch, 20.0 if epoch <= kept else 30.0) for epoch in range(1, 6)]


def test_settings_and_outcome_of_a_trial(tmp_path):
    from tensorboard.plugins.hparams import metadata

    run = tmp_path / "run"
    config = {"lr": 1e-3, "seed": 1, "fused": True, "beta": None}
    config |= {"kl_schedule": {"_target_": "cvae.schedules.Cyclical", "cycles": 3}, "optim": {"_target_": "mypkg.Sign"}}
    mirror = begin(run, config, {"kl_schedule": "mine", "model": "tiny"})
    mirror.finish(0, "pruned")
    reader = shown(run)
    content = reader.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(content).hparams
    assert settings["lr"].number_value == 1e-3
    assert settings["seed"].number_value == 1
    assert settings["fused"].bool_value is True
    assert settings["beta"].string_value == "None"
    assert settings["kl_schedule"].string_value == "mine"
    assert settings["kl_schedule.cycles"].number_value == 3
    assert settings["model"].string_value == "tiny"
    assert settings["optim.class"].string_value == "Sign"
    assert not [key for key in settings if "_target_" in key]
    assert reader.Tensors("trial_state")[0].tensor_proto.string_val[0] == b"pruned"


def test_without_its_package_one_line_says_what_to_install(train, drawn, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "tensorboard" else find(name, *more))
    result = train(*tiny(drawn), "logger=tensorboard", "hydra.run.dir=run")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "pip install -e '.[report]'" in result.err
    assert not Path("run/metrics.jsonl").exists()


def test_a_folder_that_cannot_be_written_costs_only_the_view(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").write_text("a file")
    mirror = begin(run)
    mirror.log({"epoch": 1, "val/psnr": 20.0})
    mirror.sample(run / "no.gif", 1)
    mirror.finish(0)
    said = capsys.readouterr().out
    assert said.count("warning:") == 1
    assert "TensorBoard stopped" in said


@pytest.mark.parametrize("row", [{"epoch": 1, "val/psnr": "a word"}, {"step": 1}], ids=["no number", "no epoch"])
def test_the_first_failure_drops_the_mirror(tmp_path, capsys, row):
    mirror = begin(tmp_path / "run")
    for _ in range(2):
        mirror.log(row)
    mirror.finish(0)
    assert capsys.readouterr().out.count("warning:") == 1


def test_a_disk_that_fills_up_costs_only_the_view(tmp_path, capsys):
    mirror = begin(tmp_path / "run")
    mirror._records.close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        mirror._records._writer = full
        for epoch in (1, 2):
            mirror.log({"epoch": epoch, "val/psnr": 20.0})
        mirror.finish(0)
    assert capsys.readouterr().out.count("No space left on device") == 1


def test_what_never_began_has_nothing_to_end(tmp_path, capsys):
    TensorboardMirror().finish(0)
    assert capsys.readouterr().out == ""
