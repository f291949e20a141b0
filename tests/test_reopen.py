"""What a run folder may say when it is resumed, and what only the user's command and environment decide."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cvae.errors import UserError
from cvae.resume import recorded_config, reopen
from cvae.start import compose


def folder_with(tmp_path: Path, *words: str, **changes: object) -> Path:
    """A run folder whose config is what the words compose to, with some keys changed as a stranger might."""
    cfg = OmegaConf.create(OmegaConf.to_container(compose(["logger=wandb", *words]), resolve=False))
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False, force_add=True)
    (tmp_path / "run/.hydra").mkdir(parents=True)
    OmegaConf.save(cfg, tmp_path / "run/.hydra/config.yaml")
    return tmp_path / "run"


def test_a_runs_own_settings_come_back(tmp_path):
    cfg, folder = reopen([f"resume={folder_with(tmp_path, 'lr=3e-3', 'kl_schedule=cyclical')}"])
    assert (cfg.lr, cfg.kl_schedule.cycles, folder) == (3e-3, 3, tmp_path / "run")
    assert cfg.trial is None  # of a sweep


def test_the_folder_says_what_its_view_is_called_and_the_user_whether_it_is_sent(tmp_path, capfd):
    evil = {"logger__mode": "online", "logger__entity": "mallory", "logger__name": "${oc.env:HOME}", "logger__project": "arms"}
    folder = folder_with(tmp_path, **evil)
    cfg, _ = reopen([f"resume={folder}"])
    plain = OmegaConf.to_container(cfg.logger)
    assert plain == {
        "_target_": "cvae.training.wandb_mirror.WandbMirror",
        "project": "arms",
        "group": None,
        "tags": [],
        "mode": "offline",
    }
    assert "entity mallory, which only a command can name: recording offline" in capfd.readouterr().out
    cfg, _ = reopen([f"resume={folder}", "+logger.entity=me"])
    assert (cfg.logger.entity, "mode" in cfg.logger) == ("me", False)
    assert "offline" not in capfd.readouterr().out
    cfg, _ = reopen([f"resume={folder}", "logger=none"])
    assert list(cfg.logger) == ["_target_"]


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:TOKEN}",
        "a ${oc.env:TOKEN} b",
        "${oc.decode:'${oc.env:TOKEN}'}",
        "${${tf}:TOKEN}",
        "${oc.select:${oc.env:TOKEN}}",
        ["${oc.env:TOKEN}"],
        {"deep": ["${now:%Y}"]},
    ],
)
def test_a_folder_does_not_read_the_environment(tmp_path, value):
    with pytest.raises(UserError, match=r"config\.yaml: .*which a run folder may not"):
        recorded_config(folder_with(tmp_path, optim__weight_decay=value))


def test_a_folder_reads_its_data_and_writes_nowhere(tmp_path, monkeypatch):
    (tmp_path / "frames/train").mkdir(parents=True)
    monkeypatch.setenv("FRAMES", str(tmp_path / "frames"))
    folder = folder_with(tmp_path, data__root="${oc.env:FRAMES}", data__cache_dir=str(tmp_path / "elsewhere"))
    cfg = recorded_config(folder)
    assert (cfg.data.root, cfg.data.cache_dir) == (str(tmp_path / "frames"), None)
    monkeypatch.setenv("FRAMES", str(tmp_path / "new"))
    with pytest.raises(UserError, match=r"new, which is not there"):
        recorded_config(folder)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["- 1", "lr: [", "lr: {a: 1}", "\x00", "a: &a [*a]"])
def test_a_damaged_config_is_one_line(tmp_path, text):
    (tmp_path / "run/.hydra").mkdir(parents=True)
    (tmp_path / "run/.hydra/config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        recorded_config(tmp_path / "run")


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples", "checkpoints", "samples/epoch_0001.png", "wandb"])
def test_a_folder_that_leads_out_of_itself_is_refused(tmp_path, name):
    folder = folder_with(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "inside").symlink_to(folder / ".hydra")
    reopen([f"resume={folder}"])
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=f"{name} leads out of its run folder"):
        reopen([f"resume={folder}"])


def test_what_is_not_a_run_folder_is_said(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        reopen([f"resume={tmp_path}"])
