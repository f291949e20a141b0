"""From a composed config to a trainer that is ready to run."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from cvae.charts import Chosen
from cvae.config import RunConfig, build, signature
from cvae.console import warn
from cvae.data.contract import Dataset, check_lengths, condition_statistics
from cvae.data.layout import IMAGE_SIZE
from cvae.errors import UserError, is_number, require
from cvae.evaluation.metrics import FrameMetric, checked
from cvae.evaluation.validation import BUILT_IN, error_of
from cvae.metrics import OWN_KEYS, Metric, objectives, table
from cvae.model.contract import check_likelihood, check_prior, check_shapes
from cvae.model.cvae import CVAE
from cvae.model.objective import Gaussian, Likelihood, Objective
from cvae.model.recurrent import StandardNormal
from cvae.options import chosen
from cvae.resume import recorded_config
from cvae.run_schedules import Plan, said_of
from cvae.schedules import LearningRate, Schedule, Target
from cvae.schedules import checked as checked_schedule
from cvae.training import checkpoint
from cvae.training.content import describe, note_data, open_data
from cvae.training.control import refuse_unfit
from cvae.training.distributed import current
from cvae.training.loading import restored
from cvae.training.loggers import build_mirror
from cvae.training.recorder import Recorder, SilentRecorder
from cvae.training.restore import go_on
from cvae.training.runtime import choose_device, choose_precision, device_name, prepare_gpu
from cvae.training.settings import Settings
from cvae.training.start_table import named, say_what_runs
from cvae.training.trainer import Trainer
from cvae.trial import Trial

_TRIED = 1000  # moments at which the forcing schedule is looked at


def assemble(cfg: DictConfig, folder: Path, group: str | None, resumed: bool, trial: Trial) -> tuple[Trainer, Recorder]:
    """Build all parts of a run, print the start table, and restore the state of a resumed run.

    Raises:
        UserError: a setting, the data or a checkpoint is bad.
    """
    trainer = build_trainer(cfg, folder)
    recorder, settings = trainer.recorder, trainer.settings
    say_what_runs(cfg, trainer, folder)
    note_data(cfg, trainer.data.fingerprint)
    if trainer.processes.first:
        trial.use_data(trainer.data.fingerprint)
    if resumed:
        go_on(trainer, in_trial=trial.number is not None)
    trainer.processes.share(cfg, folder, resumed, trainer.device)
    if trainer.finished:
        return trainer, recorder
    options = chosen(folder) or {}
    model = options.get("model", named(cfg.model.backbone))
    choices = [options.get(key, named(cfg[key])) for key in ("kl_schedule", "tf_schedule", "likelihood", "prior")]
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    config["beta"] = settings.beta
    written: Any = OmegaConf.to_container(cfg.data, resolve=False)
    if "${" in str(written.get("root")):  # what the environment says of it stays on this machine
        config["data"]["root"] = written["root"]
    record = {
        "device": device_name(trainer.device),
        "processes": trainer.processes.world,
        "precision": trainer.precision,
        "parameters": sum(each.numel() for each in trainer.model.parameters()),
        **describe(trainer.data),
    }
    if isinstance(likelihood := trainer.objective.likelihood, Gaussian) and likelihood.auto:
        record["sigma"] = likelihood.sigma
    which = ""
    if trial.number is not None:
        config["trial"]["params"] = trial.params
        record["trial"] = {"number": trial.number, "params": trial.params}
        which = f"trial{trial.number}-"
    recorder.start(
        signature=signature(cfg),
        config=config,
        facts=record,
        group=group,
        name=f"{which}{choices[0]}-{choices[1]}-lr{trainer.lr:g}-tfr{settings.tfr:g}-beta{settings.beta:g}-seed{settings.seed}",
        tags=[model, *choices],
    )
    return trainer, recorder


def build_trainer(cfg: DictConfig, folder: Path) -> Trainer:
    """All parts of a new run, put together; nothing is written or printed yet.

    Raises:
        UserError: a setting or the data are bad.
    """
    processes = current()
    device = processes.place(choose_device(cfg.device))
    prepare_gpu(device)
    precision, autocast = choose_precision(cfg.precision, device)
    likelihood = build(cfg.likelihood, cfg.allow_targets, Likelihood)
    if cfg.beta is None:
        require(is_number(likelihood.default_beta), "likelihood.default_beta", likelihood.default_beta, "give a plain number")
    metrics = table(cfg.metrics)
    settings = _settings(cfg, likelihood.default_beta if cfg.beta is None else cfg.beta, metrics)
    frame_metrics = _frame_metrics(cfg)
    kl_schedule, tf_schedule = (
        checked_schedule(key, build(cfg[key], cfg.allow_targets, Schedule)) for key in ("kl_schedule", "tf_schedule")
    )
    objective = Objective(likelihood, cfg.free_bits, cfg.kl_balance, processes.mean)
    plan = Plan(kl_schedule, tf_schedule, settings.beta, settings.tfr, settings.epochs, settings.schedule_step)
    switch = None if plan.forcing_ends is None else plan.forcing_ends / settings.epochs
    learning_rate = LearningRate(cfg.lr_warmup, cfg.lr_decay, cfg.lr_rewarm, switch)
    for key in ("lr_warmup", "lr_rewarm"):
        if 0 < cfg[key] * settings.epochs * settings.epoch_size <= 0.5:
            warn(f"{key}={cfg[key]:g} is less than an iteration of this run: it changes nothing")
    mirror = build_mirror(cfg)

    data = open_data(cfg)
    check_lengths(data, cfg.n_past, cfg.n_future)
    auto = isinstance(likelihood, Gaussian) and likelihood.auto
    usual = RunConfig.__dataclass_fields__["sigma_scale"].default
    hint = f"it counts with likelihood.sigma=auto alone: set that, or leave sigma_scale at {usual:g}"
    require(auto or settings.sigma_scale == usual, "sigma_scale", settings.sigma_scale, hint)
    if auto:
        likelihood.measure(error_of(data, settings.n_past, settings.length), settings.sigma_scale)
    check_likelihood(likelihood, 3 * IMAGE_SIZE**2)
    torch.manual_seed(cfg.seed)
    model = _model(cfg, data).to(memory_format=torch.channels_last).to(device)
    if cfg.kl_balance is not None and isinstance(model.prior, StandardNormal):
        raise UserError(
            f"kl_balance={cfg.kl_balance:g} weighs two KLs of a learned prior: set prior=learned, or kl_balance=null"
        )
    if isinstance(kl_schedule, Target):
        refuse_unfit(kl_schedule, settings.beta, settings.schedule_step, cfg.free_bits * model.latent_dim)
    if settings.batch_size == 1:
        _refuse_single_frames(cfg, model, settings.tfr, tf_schedule)
    processes.pool_norms(model)
    captured = _compile(model, cfg.compile, device, processes.world)
    optimizer = build(cfg.optim, cfg.allow_targets, torch.optim.Optimizer, params=model.parameters())
    if not all("lr" in group for group in getattr(optimizer, "param_groups", [{}])):
        raise UserError(f"optim: {type(optimizer).__name__} has no lr in its parameter groups, which a run sets at every step")
    return Trainer(
        settings,
        model,
        objective,
        optimizer,
        kl_schedule,
        tf_schedule,
        learning_rate,
        data,
        frame_metrics,
        device,
        precision,
        autocast,
        (Recorder if processes.first else SilentRecorder)(folder, mirror, metrics, _chosen(cfg, folder, settings, plan)),
        processes,
        captured,
    )


def _chosen(cfg: DictConfig, folder: Path, settings: Settings, plan: Plan) -> Chosen:
    """What curves.png shows of a run besides its epochs."""
    options = chosen(folder) or {}
    parts = {"model": cfg.model.backbone, "likelihood": cfg.likelihood, "prior": cfg.prior}
    title = [
        f"kl_schedule={said_of(options.get('kl_schedule') or named(cfg.kl_schedule), plan.kl_schedule)}",
        f"tf_schedule={said_of(options.get('tf_schedule') or named(cfg.tf_schedule), plan.tf_schedule)}",
        *(f"{key}={options.get(key) or named(node)}" for key, node in parts.items()),
        f"lr={cfg.lr:g} tfr={settings.tfr:g} beta={settings.beta:g} seed={settings.seed}",
    ]
    objective = settings.objective
    return Chosen(
        plan, lambda row: None if (value := row.get(objective.key)) is None else objective.rank(value), "  ".join(title)
    )


def load_model(
    folder: Path, name: str = "best", allow_targets: Sequence[str] = (), places: Mapping[str, Any] = MappingProxyType({})
) -> tuple[CVAE, Dataset, DictConfig]:
    """The model of a run folder with the weights of its best or last checkpoint, in eval mode on the CPU, and its data.

    Args:
        allow_targets: the caller's own packages; those that the folder names do not count.
        places: where the caller says that its data lie now, by their keys.

    Raises:
        UserError: it is not a run folder, or its checkpoint is missing or damaged.
    """
    cfg = recorded_config(folder, places)
    cfg.allow_targets = list(allow_targets)
    data: Dataset = build(cfg.data, allow_targets, Dataset)
    path = folder / "checkpoints" / f"{name}.pt"
    model = restored(cfg, checkpoint.load(path).get("model"), path)
    if (width := data.train.cond_NA.shape[1]) != (wanted := len(model.cond_mean_A)):
        raise UserError(f"{data} has {width} values a condition and {path} takes {wanted}: give the data it was trained on")
    return model, data, cfg


def _model(cfg: DictConfig, data: Dataset) -> CVAE:
    model: CVAE = build(cfg.model, cfg.allow_targets, CVAE, cond_dim=data.train.cond_NA.shape[1])
    require(model.n_past == cfg.n_past, "model.n_past", model.n_past, f"leave it out: it is n_past, {cfg.n_past} here")
    check_shapes(model.backbone, IMAGE_SIZE)
    check_prior(model.prior, model.backbone.feature_dim, model.latent_dim)
    mean_A, std_A = condition_statistics(data)
    model.normalise_conditions(torch.from_numpy(mean_A), torch.from_numpy(std_A))
    return model


def _refuse_single_frames(cfg: DictConfig, model: CVAE, tfr: float, tf_schedule: Schedule) -> None:
    """Raise UserError if a step of one window encodes one frame at a time, over which BatchNorm has no statistics."""
    if model.rollout == "planned":  # it encodes all true frames at once, and each prediction that is fed back
        times = (k / _TRIED for k in range(_TRIED + 1))
        if cfg.n_future < 2 or not any(tfr * tf_schedule(t) < 1 for t in times):
            return
    single: list[nn.Module] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            single.append(module)

    backbone = model.backbone.eval()  # so that trying it changes no statistics
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    with torch.no_grad():
        frame_NCHW = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, device=model.cond_mean_A.device)
        h_NG, skips = backbone.encoder(frame_NCHW)
        backbone.decoder(h_NG, backbone.decoder.context(skips))
    for hook in hooks:
        hook.remove()
    backbone.train()
    if single:
        when = "once forcing ends" if model.rollout == "planned" else f"with model.rollout={model.rollout}"
        raise UserError(
            f"batch_size=1: {when} a training step encodes a single frame, over which model.backbone.norm=batch has no "
            "statistics: model.backbone.norm=group, or batch_size=2"
        )


def _settings(cfg: DictConfig, beta: float, metrics: Sequence[Metric]) -> Settings:
    names = [field.name for field in dataclasses.fields(Settings) if field.name not in ("beta", "objectives")]
    chosen = objectives(cfg.objective, metrics, cfg.n_samples)
    return Settings(**{name: cfg[name] for name in names}, beta=beta, objectives=chosen)


def _frame_metrics(cfg: DictConfig) -> dict[str, FrameMetric]:
    """What validation computes: the package's functions and the user's own. Keys that are not of a row are its function's."""
    found, own = dict(BUILT_IN), copy.deepcopy(cfg.metrics)
    OmegaConf.set_struct(own, False)
    for name in own:
        for key in OWN_KEYS:
            own[name].pop(key, None)
        found[str(name)] = checked(str(name), build(own[name], cfg.allow_targets, Callable, _partial_=True))
    return found


def _compile(model: CVAE, choice: str, device: torch.device, processes: int) -> bool:
    """Compile encoder and decoder; return whether steps are to be captured as CUDA graphs in place of that.

    ``auto`` does neither: on a CPU compiling gains nothing and costs a minute (docs/results.md), on a GPU it is not measured.
    """
    choice = choice.lower()
    require(choice in ("auto", "true", "false", "graphs"), "compile", choice, "choose auto, true, false or graphs")
    if choice in ("auto", "false"):
        return False
    if choice == "graphs":
        if device.type != "cuda":
            raise UserError("compile=graphs replays CUDA graphs and this run trains on the CPU: compile=auto")
        if processes > 1:
            raise UserError(f"compile=graphs is for one process and this run has {processes}: compile=true, or one process")
        return True
    if getattr(model.backbone.encoder, "checkpointing", False):
        raise UserError("model.backbone.checkpointing=true and compile=true do not go together: leave one out")
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(f"compile=true needs a C++ compiler and {compiler} is not there: install one, or compile=false")
    for module in (model.backbone.encoder, model.backbone.decoder):
        module.compile()
    return False
