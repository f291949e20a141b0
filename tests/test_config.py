"""Configs compose, build, and cannot run a stranger's code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import draw_course, tiny
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae import config, start
from cvae.data.contract import Dataset
from cvae.errors import UserError
from cvae.model.cvae import CVAE
from cvae.model.objective import Likelihood
from cvae.schedules import Schedule
from cvae.training.loggers import build_mirror
from cvae.training.recorder import Mirror

GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in config.CONF.iterdir()
    if any(folder.glob("*.yaml"))
}
OTHERS = ("data", "experiment", "protocol")  # have tests of their own: of protocols in tests/protocols
BASE = ["data=course", "data.root=/frames"]


def composed(*words: str):
    return start.compose([*BASE, *words])


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS if g not in OTHERS for o in GROUPS[g]])
def test_every_option_composes_and_builds(group, option):
    cfg = composed(f"{group}={option}")
    for key in ("kl_schedule", "tf_schedule", "likelihood"):
        config.build(cfg[key])
    build_mirror(cfg)
    model = config.build(cfg.model, cond_dim=7)
    config.build(cfg.optim, params=model.parameters())


def test_every_pair_of_model_parts_builds():
    for model, prior in product(("tiny", "small"), GROUPS["prior"]):
        built = config.build(composed(f"model={model}", f"prior={prior}", "model.backbone.norm=group").model, cond_dim=4)
        assert not [name for name, _ in built.named_buffers() if "running" in name]


@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_every_experiment_opens_with_its_command_and_composes(name):
    text = (config.CONF / "experiment" / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    assert f"python -m cvae.train experiment={name}" in text.splitlines()[1]
    cfg = start.compose([f"experiment={name}", "data.root=/frames"])
    assert OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(
    ("name", "lr", "kl", "forcing"),
    [
        ("course_cyclical_step_lr5e-4", 5e-4, "Cyclical", "Step"),
        ("course_cyclical_step_lr2e-3", 2e-3, "Cyclical", "Step"),
        ("course_monotonic_step_lr2e-3", 2e-3, "Monotonic", "Step"),
        ("course_monotonic_linear_lr2e-3", 2e-3, "Monotonic", "Linear"),
    ],
)
def test_the_reports_runs_are_the_reports(name, lr, kl, forcing):
    cfg = start.compose([f"experiment={name}", "data.root=/frames"])
    assert (cfg.lr, cfg.batch_size, cfg.epochs, cfg.epoch_size, cfg.beta) == (lr, 12, 300, 600, 1.0)
    assert (cfg.n_past, cfg.n_future, cfg.n_eval, cfg.tfr) == (2, 10, 30, 1.0)
    assert cfg.optim._target_ == "torch.optim.Adam"
    assert cfg.optim.betas[0] == 0.9
    assert cfg.kl_schedule._target_.endswith(kl)
    assert cfg.tf_schedule._target_.endswith(forcing)
    assert cfg.likelihood._target_.endswith("MSE")
    assert cfg.model.backbone._target_.endswith("vgg64")
    assert (cfg.model.rollout, cfg.model.skips, cfg.model.force_past, cfg.model.scored) == ("stepwise", "course", False, "all")
    assert (cfg.data.normalise, cfg.data.random_start, cfg.schedule_step) == (False, False, "epoch")
    parameters = sum(p.numel() for p in config.build(cfg.model, cond_dim=7).parameters())
    assert round(parameters / 1e6, 2) == 22.24
    assert start.compose([f"experiment={name}", "data.root=/frames", "beta=1e-4"]).beta == 1e-4


def test_the_users_words_win_over_an_experiment():
    cfg = start.compose(["experiment=course_cyclical_step_lr2e-3", "data.root=/frames", "lr=1e-5", "model.rollout=planned"])
    assert (cfg.lr, cfg.optim.lr, cfg.model.rollout) == (1e-5, 1e-5, "planned")


# --- build ------------------------------------------------------------------------------------------------------------


def node(slot="likelihood", **values):
    return OmegaConf.create({slot: values})[slot]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.optim.optimizer.torch.load",
        "torch.nn.modules.module.torch.hub.load",
        "optuna.study.study.copy.copy",
        "cvae.data.cache.make_once",
        "cvae.data.cache.shutil.rmtree",
        "cvae.training.checkpoint.save",
        "cvae.training.recorder.subprocess.run",
        "cvae.pictures.curves",
        "cvaesomething.Thing",
        "cvae.model.objective.MSE.__class__",
        "cvae.model.objective.kl_divergence.__globals__",
        "cvae.data.store.VideoData",
        "torch.optim.Adam",
        "optuna._imports._LazyImport",
        7,
        None,
    ],
)
def test_a_target_outside_the_allowed_is_refused(target):
    with pytest.raises(UserError, match=r"likelihood\.sigma\._target_ is .* which is not allowed"):
        config.build(node(_target_="cvae.model.objective.Gaussian", sigma={"_target_": target}))


def test_a_target_may_hide_nowhere(tmp_path):
    mark = tmp_path / "mark"
    evil = {"_target_": "os.mkdir", "path": str(mark)}
    for hidden in (
        [evil],
        {"deeper": [{"still": evil}]},
        "\\${oc.decode:'{_target_: os.mkdir, path: " + str(mark) + "}'}",
        "${oc.decode:'{_target_: os.mkdir, path: " + str(mark) + "}'}",
    ):
        with pytest.raises(UserError, match=r"not allowed|escaped interpolation"):
            config.build(node(_target_="cvae.model.objective.Gaussian", sigma=hidden))
    assert not mark.exists()


def test_a_package_that_the_user_names_is_allowed(tmp_path, monkeypatch):
    (tmp_path / "mypkg.py").write_text("class Ramp:\n    def __call__(self, t):\n        return t\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"allow_targets=\[package\]"):
        config.build(node(_target_="mypkg.Ramp"))
    assert config.build(node(_target_="mypkg.Ramp"), allow_targets=["mypkg"])(0.5) == 0.5


@pytest.mark.parametrize(
    ("slot", "target"),
    [
        ("data", "cvae.model.objective.MSE"),
        ("model", "cvae.data.store.VideoData"),
        ("optim", "optuna.samplers.TPESampler"),
        ("sampler", "optuna.pruners.MedianPruner"),
        ("logger", "cvae.schedules.Constant"),
        ("metrics", "cvae.evaluation.metrics.psnr"),
        ("somewhere", "cvae.schedules.Constant"),
    ],
)
def test_a_slot_takes_only_its_own_kind(slot, target):
    with pytest.raises(UserError, match=rf"{slot}\._target_ is '{target}', which is not allowed"):
        config.build(node(slot, _target_=target))


@pytest.mark.parametrize(
    ("slot", "target", "kind", "said"),
    [
        ("kl_schedule", "Nothing", Schedule, "mypkg.Nothing makes a Nothing, which has no __call__: a Schedule is needed"),
        (
            "data",
            "Nothing",
            Dataset,
            "which has no train, validate, test, fingerprint, check, normalise, random_start, resident",
        ),
        ("logger", "Half", Mirror, "which has no sample, finish: a Mirror is needed"),
        ("model", "Nothing", CVAE, "which is no CVAE: a CVAE is needed"),
        ("likelihood", "Nothing", Likelihood, "which has no __call__, implied_sigma, default_beta"),
        ("optim", "Nothing", torch.optim.Optimizer, "which is no Optimizer"),
        ("metrics", "Nothing", Callable, "which is no Callable"),
    ],
)
def test_what_was_built_is_of_the_slots_kind(tmp_path, monkeypatch, slot, target, kind, said):
    text = "class Nothing: ...\nclass Half:\n    def start(self, info): ...\n    def log(self, row): ...\n"
    (tmp_path / "mypkg.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as refused:
        config.build(node(slot, _target_=f"mypkg.{target}"), ["mypkg"], kind)
    assert said in str(refused.value)


def test_a_part_that_only_passes_on_what_it_wraps_is_of_that_kind(tmp_path, monkeypatch):
    text = """
class Wrapped:
    def __init__(self): self.inner = Inner()
    def __getattr__(self, name): return getattr(self.inner, name)
class Inner:
    start = log = sample = finish = lambda self: None
class Lazy:
    normalise, random_start, resident = True, True, "auto"
    def check(self): ...
    def fail(self): raise AssertionError("opened")
    train = validate = test = fingerprint = property(fail)
"""
    (tmp_path / "mypkg.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert config.build(node("logger", _target_="mypkg.Wrapped"), ["mypkg"], Mirror)
    assert config.build(node("data", _target_="mypkg.Lazy"), ["mypkg"], Dataset)  # its splits are not asked for


@pytest.mark.parametrize("wrong", [5, None, "cvae.schedules.Constant", {"value": 1}, [1]])
def test_what_is_no_component_is_said(wrong):
    with pytest.raises(UserError, match=r"stands where a Schedule is needed: give it a _target_"):
        config.build(OmegaConf.create({"kl_schedule": wrong}).kl_schedule, (), Schedule)


@pytest.mark.parametrize(
    ("part", "target", "said"),
    [
        ("backbone", "cvae.model.backbones.Encoder", "feature_dim"),
        ("prior", "cvae.model.recurrent.FramePredictor", "not allowed"),
        ("prior", "mypkg.Nothing", "model.prior is a Nothing: a module is needed"),
        ("backbone", "mypkg.Nothing", "model.backbone is a Nothing: a module with encoder, decoder and feature_dim is needed"),
    ],
)
def test_parts_of_the_model_are_of_their_kinds(tmp_path, monkeypatch, part, target, said):
    (tmp_path / "mypkg.py").write_text("class Nothing: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = composed().model
    model[part] = {"_target_": target, **({"stages": [], "head": None, "checkpointing": False} if "Encoder" in target else {})}
    with pytest.raises(UserError, match=said):
        config.build(model, ["mypkg"], CVAE, cond_dim=7)


def test_a_part_of_a_part_has_a_slot_of_its_own():
    model = composed("prior=learned").model
    assert config.build(model, cond_dim=7)
    model.backbone._target_ = "cvae.model.cvae.CVAE"
    with pytest.raises(UserError, match=r"model\.backbone\._target_ is .* of cvae\.model\.backbones is needed"):
        config.build(model, cond_dim=7)


def test_a_slot_that_holds_only_the_users_own_says_so():
    with pytest.raises(UserError, match=r"a class or public function of yours is needed; .*allow_targets=\[package\]"):
        config.build(node("metrics", _target_="mypkg.mae"))


def test_a_misspelt_target_says_so():
    with pytest.raises(UserError, match=r"kl_schedule\._target_=cvae\.schedules\.Cylical does not exist"):
        config.build(node("kl_schedule", _target_="cvae.schedules.Cylical"))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_package", "mypkg.Ramp cannot be imported: No module named 'no_such_package'"),
        ("1 / 0", "cannot be imported (ZeroDivisionError: division by zero)"),
        ("def Ramp(): return 1", "a function is public if mypkg.__all__ names it"),
        ("from os import system as Ramp", "which is not allowed"),
        ("Ramp = 3", "which is not allowed"),
    ],
)
def test_what_is_wrong_with_a_package_of_the_users_is_said(tmp_path, monkeypatch, code, said):
    (tmp_path / "mypkg.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=re.escape(said)):
        config.build(node("kl_schedule", _target_="mypkg.Ramp"), allow_targets=["mypkg"])


def test_keys_left_over_from_another_option_are_named():
    with pytest.raises(UserError) as error:
        config.build(composed("kl_schedule=cyclical", "kl_schedule._target_=cvae.schedules.Constant").kl_schedule)
    assert "cvae.schedules.Constant takes no cycles, ramp, but value" in str(error.value)
    assert "~kl_schedule.cycles ~kl_schedule.ramp" in str(error.value)
    words = ["kl_schedule._target_=cvae.schedules.Constant", "~kl_schedule.cycles", "~kl_schedule.ramp"]
    assert config.build(composed("kl_schedule=cyclical", *words).kl_schedule)(0.1) == 1


def test_built_parts_get_plain_values():
    optimizer = config.build(composed().optim, params=torch.nn.Linear(1, 1).parameters())
    assert type(optimizer.param_groups[0]["betas"]) in (list, tuple)


# --- signature --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", ["device=cuda", "logger=none", "data.root=/elsewhere", "data.cache_dir=/c", "+trial.number=3"])
def test_what_does_not_change_the_result_does_not_change_the_signature(same):
    assert config.signature(composed(same)) == config.signature(composed())


@pytest.mark.parametrize(
    "other", ["lr=3e-3", "seed=2", "kl_schedule.ramp=0.4", "data.condition=none", "model.backbone.width=0.5"]
)
def test_what_changes_the_result_changes_the_signature(other):
    assert config.signature(composed(other)) != config.signature(composed())


def test_a_run_of_before_a_key_is_the_run_that_has_its_default():
    old = OmegaConf.load(Path(__file__).parent / "fixtures/run_0_1_0/.hydra/config.yaml")
    assert "world" not in old.data
    signature = config.signature(old)
    assert signature == "58591fdaf9b15cc1"  # as its run.json says
    old.data.world = 1
    assert config.signature(old) == signature
    old.data.world = 2
    assert config.signature(old) != signature


# --- the data's fingerprint -------------------------------------------------------------------------------------------


def multirun(*words: str):
    """The config that a sweeper is given."""
    args = get_args_parser().parse_args([*words, "hydra.mode=MULTIRUN"])
    return start.load(args, args.overrides)


def test_a_multirun_knows_its_datas_fingerprint(drawn, tmp_path):
    words = ["data=course", f"data.root={drawn}"]
    found = multirun(*words).trial.data
    assert found == config.build(multirun(*words).data).fingerprint
    assert multirun("data=course", f"data.root={tmp_path}/none").trial.data is None  # seen from another host, perhaps
    assert multirun("data=course").trial.data is None
    assert multirun(*words, "+trial.number=1", "trial.data=known").trial.data == "known"


def test_who_only_composes_or_prints_packs_nothing(drawn, tmp_path, train):
    words = ["data=course", f"data.root={drawn}"]
    assert start.compose(words).trial.data is None
    multirun = ["hydra.mode=MULTIRUN", "hydra.job.num=1", "hydra.job.id=1"]
    for printed in (["--cfg", "job", "--resolve", *words], ["--cfg", "all", "--resolve", *multirun, *words]):
        done = train(*printed)
        assert (done.code, "\n  data: null\n" in done.out) == (0, True), done.err
    assert train("show=schedules", *words).code == 0
    assert not (tmp_path / "cache").exists()


def test_broken_data_are_one_line(tmp_path):
    from cvae.explain import explain

    draw_course(tmp_path / "broken", train=1, validate=1, test=0)
    (tmp_path / "broken/train/take 0/00/3.png").write_bytes(b"no picture")
    with pytest.raises(OmegaConfBaseException) as refused:
        _ = multirun("data=course", f"data.root={tmp_path / 'broken'}").trial.data
    assert "3.png" in explain(refused.value)
    assert "raised while" not in explain(refused.value)


# --- answers without torch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["--cfg", "job", "--resolve", *BASE], ["--info", "defaults"]])
def test_answers_that_need_no_torch_do_not_load_it(words):
    code = (
        "import sys\n"
        "from cvae import train\n"
        f"sys.argv = ['cvae/train.py', *{words!r}]\n"
        "try:\n    train.main()\n"
        "finally:\n    assert not {'torch', 'wandb', 'optuna', 'matplotlib'} & set(sys.modules), 'heavy import'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 500


def test_help_shows_groups_dials_and_three_commands(train):
    said = train("--help").out
    for group in GROUPS:
        assert f"{group}: " in said
    for dial in config.RunConfig.__dataclass_fields__:
        if dial not in (*GROUPS, "trial"):  # the sweeper's
            assert f"{dial}=" in said, dial
    assert said.count("python -m cvae.train") >= 3


def test_the_signature_is_in_run_json(train, drawn):
    assert train(*tiny(drawn), "hydra.run.dir=run").code == 0
    record = json.loads(Path("run/run.json").read_text())
    assert record["signature"] == config.signature(OmegaConf.load("run/.hydra/config.yaml"))
