"""What a run folder may say when it is resumed, and what only the user's command and environment decide."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import tiny
from omegaconf import OmegaConf

from cvae import integrity
from cvae.errors import UserError
from cvae.resume import recorded_config, reopen
from cvae.start import compose
from cvae.training.loggers import build_mirror
from cvae.training.wandb_mirror import WandbMirror


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
        "wandb": {"_target_": "cvae.training.wandb_mirror.WandbMirror"},
        "project": "arms",
        "group": None,
        "tags": [],
        "mode": "offline",
    }
    assert "entity mallory, which only a command can name (logger.entity=...): recording offline" in capfd.readouterr().out
    cfg, _ = reopen([f"resume={folder}", "+logger.entity=me"])
    assert (cfg.logger.entity, "mode" in cfg.logger) == ("me", False)
    assert "offline" not in capfd.readouterr().out
    cfg, _ = reopen([f"resume={folder}", "logger=none"])
    assert list(cfg.logger) == ["_target_"]
    assert "mallory" not in capfd.readouterr().out
    # The user's mode does not make the stranger's entity the user's.
    cfg, _ = reopen([f"resume={folder}", "logger.mode=online"])
    assert (cfg.logger.mode, "entity" in cfg.logger) == ("offline", False)


def test_the_users_own_default_entity_is_no_strangers(tmp_path, monkeypatch, capfd):
    folder = folder_with(tmp_path, logger__entity="us")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    cfg, _ = reopen([f"resume={folder}"])
    assert ("mode" in cfg.logger, "entity" in cfg.logger, capfd.readouterr().out) == (False, False, "")
    monkeypatch.setenv("WANDB_ENTITY", "me")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    cfg, _ = reopen([f"resume={folder}"])
    assert ("mode" in cfg.logger, "entity us" in capfd.readouterr().out) == (False, True)


def test_of_each_view_a_folder_says_no_more_than_of_all(tmp_path, capfd):
    own = {"_target_": "cvae.training.wandb_mirror.WandbMirror", "entity": "mallory", "mode": "online", "project": "arms"}
    folder = folder_with(tmp_path, "logger=[wandb,tensorboard]", logger__wandb=own, logger__artifacts="all")
    cfg, _ = reopen([f"resume={folder}"])
    assert cfg.logger.wandb == {"_target_": own["_target_"], "project": "arms"}
    assert list(cfg.logger.tensorboard) == ["_target_"]
    assert ("artifacts" in cfg.logger, cfg.logger.mode) == (False, "offline")
    assert "entity mallory" in capfd.readouterr().out
    cfg, _ = reopen([f"resume={folder}", "+logger.wandb.entity=me"])
    assert (cfg.logger.wandb.entity, "mode" in cfg.logger) == ("me", False)


@pytest.mark.slow
def test_a_run_stays_in_the_project_that_run_json_notes_unless_the_command_names_one(tmp_path, monkeypatch):
    folder = folder_with(tmp_path, logger__project="first")
    monkeypatch.setenv("WANDB_PROJECT", "other")

    def project(*words: str, noted: object = None) -> str:
        record = {"id": "1", "signature": "s", "group": None, "wandb": noted}
        (folder / "run.json").write_text(integrity.stamped(record))
        cfg, _ = reopen([f"resume={folder}", *words])
        mirror = build_mirror(cfg)
        assert mirror.settle(record) == {"wandb": {"project": mirror.project}}
        return mirror.project

    assert project() == "first"
    assert project(noted={"project": "second"}) == "second"
    assert project("logger=wandb", noted={"project": "second"}) == "second"
    assert project("logger.project=third", noted={"project": "second"}) == "third"
    assert project("logger=wandb") == "other"
    for nonsense in ([], {"project": 7}, {"project": ["a"]}, "x"):
        assert project(noted=nonsense) == "first"


def test_a_folder_of_the_old_form_goes_on(tmp_path):
    old = {
        "_target_": "cvae.training.wandb_mirror.WandbMirror",
        "project": "ours",
        "entity": None,
        "tags": ["a"],
        "mode": "auto",
    }
    folder = folder_with(tmp_path, logger=old)
    mirror = build_mirror(reopen([f"resume={folder}"])[0])
    assert (type(mirror), mirror.project, mirror.tags) == (WandbMirror, "ours", ["a"])
    assert build_mirror(reopen([f"resume={folder}", "logger.mode=offline"])[0]).mode == "offline"
    both = build_mirror(reopen([f"resume={folder}", "logger=[wandb,tensorboard]"])[0])
    assert [type(each).__name__ for each in both.each] == ["WandbMirror", "TensorboardMirror"]


@pytest.mark.parametrize("value", ["${data.root}", "${lr}", ["${data.root}"], {"a": 1}, 7])
def test_a_view_is_called_by_plain_text(tmp_path, value):
    cfg, _ = reopen([f"resume={folder_with(tmp_path, logger__name=value, logger__tags=[value])}"])
    assert not {"name", "tags"} & set(cfg.logger)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logger", {"_target_": "optuna._imports._LazyImport", "name": "payload"}),
        ("logger", {"_target_": "optuna.storages.RDBStorage", "name": "sqlite:///made.db"}),
        ("optim", {"_target_": "optuna._imports._LazyImport", "name": "payload"}),
        (
            "data",
            {"_target_": "cvae.data.arrays.ArrayData", "source": {"_target_": "torch.load", "f": "payload", "_partial_": 1}},
        ),
        ("data", {"_target_": "cvae.data.synthetic.write_world", "root": "made", "counts": {"train": 1}, "seed": 1}),
        ("kl_schedule", {"_target_": "cvae.schedules.Constant", "value": {"_target_": "os.mkdir", "path": "made"}}),
        ("likelihood", {"_target_": "cvae.model.objective.torch.load", "f": "payload"}),
        ("metrics", {"mae": {"_target_": "os.mkdir", "path": "made", "better": "min"}}),
        ("logger", {"_target_": ["os.mkdir"]}),
        ("tf_schedule", 5),
        ("logger", {}),
    ],
)
def test_a_folder_runs_nothing(train, drawn, tmp_path, monkeypatch, key, value):
    (tmp_path / "payload.py").write_text("import pathlib\npathlib.Path('made').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = folder_with(tmp_path, *tiny(drawn), allow_targets=["os", "torch", "optuna", "payload", "cvae"], **{key: value})
    before = set(tmp_path.iterdir())
    refused = train(f"resume={folder}")
    assert (refused.code, len(refused.err.splitlines())) == (1, 1), refused.err
    assert any(said in refused.err for said in ("not allowed", "stands where", "damaged", "not there")), refused.err
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "cache"}


def test_a_folder_writes_into_itself(tmp_path):
    folder = folder_with(tmp_path)
    (folder / "wandb").mkdir()
    (folder / "wandb/debug.log").symlink_to("../train.log")  # W&B's own, within
    assert reopen([f"resume={folder}"])
    (tmp_path / "run link").symlink_to(folder)  # the user's own
    assert reopen([f"resume={tmp_path / 'run link'}"])
    for name, target in (("checkpoints", tmp_path), ("samples", "../.."), ("metrics.jsonl", "/dev/null"), ("x", "/nowhere")):
        (folder / name).symlink_to(target)
        with pytest.raises(UserError, match=rf"{name} is a link that leads out of the run folder.*: remove it"):
            reopen([f"resume={folder}"])
        (folder / name).unlink()
    os.mkfifo(folder / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl is neither a file nor a folder: remove it"):
        reopen([f"resume={folder}"])


def test_what_the_environment_says_of_the_data_is_not_repeated(tmp_path, monkeypatch):
    (tmp_path / "frames/train").mkdir(parents=True)
    monkeypatch.setenv("FRAMES", str(tmp_path / "frames"))
    copied = {"data__root": "${oc.env:FRAMES}", "optim__weight_decay": "${data.root}"}
    with pytest.raises(UserError, match=r"optim\.weight_decay repeats data\.root, which reads the environment"):
        recorded_config(folder_with(tmp_path, **copied))


def test_a_place_that_the_environment_says_is_not_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", str(tmp_path / "hunter2-secret"))
    with pytest.raises(UserError, match=r"has data\.root=\$\{oc\.env:TOKEN\}, which is not there") as told:
        recorded_config(folder_with(tmp_path, data__root="${oc.env:TOKEN}"))
    assert "hunter2" not in str(told.value)


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
    with pytest.raises(UserError, match=r"config\.yaml: .*which only your own config may"):
        recorded_config(folder_with(tmp_path, optim__weight_decay=value))


def test_a_folder_reads_its_data_and_writes_nowhere(tmp_path, monkeypatch):
    (tmp_path / "frames/train").mkdir(parents=True)
    monkeypatch.setenv("FRAMES", str(tmp_path / "frames"))
    folder = folder_with(tmp_path, data__root="${oc.env:FRAMES}", data__cache_dir=str(tmp_path / "elsewhere"))
    cfg = recorded_config(folder)
    assert (cfg.data.root, cfg.data.cache_dir) == (str(tmp_path / "frames"), None)
    deep = {"x": [{"_target_": "cvae.data.synthetic.synthetic_push", "cache_dir": str(tmp_path / "elsewhere")}]}
    (tmp_path / "deep").mkdir()
    assert recorded_config(folder_with(tmp_path / "deep", data__more=deep)).data.more.x[0].cache_dir is None
    monkeypatch.setenv("FRAMES", str(tmp_path / "new"))
    with pytest.raises(UserError, match=r"oc\.env:FRAMES\}, which is not there"):
        recorded_config(folder)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text", ["- 1", "lr: [", "lr: {a: 1}", "\x00", "a: &a [*a]", "[" * 2000, "hydra: {mode: RUN}", "#" * 1_000_001]
)
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
    with pytest.raises(UserError, match=f"{name} is a link that leads out of the run folder"):
        reopen([f"resume={folder}"])


def test_what_is_not_a_run_folder_is_said(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        reopen([f"resume={tmp_path}"])


def test_what_the_environment_says_of_the_data_leaves_no_machine(train, drawn, tmp_path, monkeypatch):
    lines = ["import pathlib", "class Log:", "    log = sample = finish = lambda self, *_: None"]
    lines += ["    def start(self, info): pathlib.Path('sent').write_text(str(info.config))"]
    (tmp_path / "mypkg.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FRAMES", str(drawn))
    words = ["data.root='${oc.env:FRAMES}'", "logger._target_=mypkg.Log", "allow_targets=[mypkg]", "epochs=1"]
    done = train(*tiny(drawn, *words), "hydra.run.dir=run")
    assert done.code == 0, done.err
    sent = Path("sent").read_text()
    assert ("${oc.env:FRAMES}" in sent, str(drawn) in sent) == (True, False)
