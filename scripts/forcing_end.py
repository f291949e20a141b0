"""Why PSNR falls at the end of teacher forcing, and what cures it: python scripts/forcing_end.py [--out docs/forcing_end.md]

After scripts/course_study.py, whose runs with a sudden end this takes. It trains each of them once more up to the end of
forcing, and measures on both sides of it: the gradient, Adam's second moment, the length of an update, the loss of one batch
forced and free-running, the statistics that norms see, and the exposure gap. Then it trains the cell with the larger fall with
each cure, and once more without one: what is compared is of one machine. A cure holds if the fall is below 0.2 dB in every
seed and PSNR at the end is no lower. All is kept beside the study: run the command again to continue. Further words are
overrides of every run, as for the study.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import course_study
import kept_runs
import torch
from kept_runs import HINT, Job
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn

from cvae.cli import fail, is_users
from cvae.console import command, say, short
from cvae.errors import UserError, write_whole
from cvae.evaluation.diagnosis import Diagnosis
from cvae.evaluation.intervals import mean_interval
from cvae.evaluation.metrics import psnr
from cvae.evaluation.protocol import Protocol
from cvae.evaluation.validation import validate
from cvae.pages.document import Block, Code, Heading, Picture, Table, Text, signed, write_markdown
from cvae.pages.plots import COLOURS, png
from cvae.run_schedules import Plan
from cvae.runs.run import Run
from cvae.start import compose
from cvae.study.course import MARGIN, WINDOW, at_end, fall, forced_iterations
from cvae.training.assembly import build_trainer
from cvae.training.trainer import Trainer

EVERY = 20  # iterations between two looks at the model
FIRST = 20  # iterations after the end whose updates are compared with those before
_FRAMES = 512  # predicted in memory at a time
_REWARM = 0.03  # of the run
_WORK = Path("multirun/forcing_end")

Measured = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("docs/study.md"), help="the study's page (docs/study.md)")
    parser.add_argument("--out", type=Path, default=Path("forcing_end.md"), help="the page to write (forcing_end.md)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds a cell (3)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (2)")
    parser.add_argument("--measure", type=Path, metavar="FILE", help="only measure the run of the further words, into FILE")
    asked, overrides = parser.parse_known_args()
    try:
        if asked.measure is not None:
            write_whole(asked.measure, json.dumps(measure(overrides)), HINT)
        else:
            _page(asked, overrides)
    except Exception as error:
        if not is_users(error):
            raise
        fail(error)


def _page(asked: argparse.Namespace, overrides: list[str]) -> None:
    seeds, kept = range(1, asked.seeds + 1), course_study.kept_beside(asked.study)
    jobs = {
        (lr, level): [course_study.job("forcing", lr, level, seed, False, None, overrides) for seed in seeds]
        for lr in course_study.LRS
        for level in ("step", "linear")
    }
    plain = {cell: kept_runs.kept_runs(own, kept) for cell, own in jobs.items()}
    if any(len(runs) < asked.seeds for runs in plain.values()):
        raise UserError(f"{short(kept)} lacks runs of the study's first part: run scripts/course_study.py first")
    lr = max(course_study.LRS, key=lambda lr: mean(map(_fall, plain[lr, "step"])))
    measured = _measurements([job for lr in course_study.LRS for job in jobs[lr, "step"]], kept.parent / "measured", asked.jobs)
    usual = mean(mean(_before(each, "gradient")) for name, each in measured.items() if f"lr{lr:g}_" in name)
    cures = {"none": []} | cure_words(float(f"{usual:.1g}"))
    wanted = {
        name: [
            Job(f"cures/{name}_lr{lr:g}_seed{seed}", (*job.words, *words))
            for seed, job in zip(seeds, jobs[lr, "step"], strict=True)
        ]
        for name, words in cures.items()
    }
    kept_runs.finish([job for own in wanted.values() for job in own], kept, _WORK, asked.jobs)
    found = {name: kept_runs.kept_runs(own, kept) for name, own in wanted.items()}
    study = {"none, in the study": plain[lr, "step"], "linear end, in the study": plain[lr, "linear"]}
    told = {name: " ".join(words) for name, words in cures.items()} | {"linear end, in the study": "tf_schedule=linear"}
    write_markdown(page(measured, [found, study], told), asked.out)
    say(f"page       {short(asked.out)}")


def cure_words(norm: float) -> dict[str, list[str]]:
    """The cures, by name; the gradient is clipped to ``norm``, its mean before the end."""
    return {
        "beta2 0.95": ["optim.betas=[0.9,0.95]"],
        "lr_rewarm": [f"lr_rewarm={_REWARM:g}"],
        "grad_clip": [f"grad_clip={norm:g}"],
        "GroupNorm": ["model.backbone.norm=group"],
    }


def _measurements(jobs: Sequence[Job], place: Path, at_once: int) -> dict[str, Measured]:
    """What was measured of each run, by its name; measured now where it is not kept."""
    files = {job.name: place / f"{job.name.replace('/', '_')}.json" for job in jobs}
    place.mkdir(parents=True, exist_ok=True)

    def known(job: Job) -> bool:
        path = files[job.name]
        return path.is_file() and json.loads(path.read_text())["words"] == list(job.words)

    def start(job: Job) -> tuple[Any, Path]:
        log = _WORK / f"{files[job.name].stem}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        say(f"measures   {job.name}")
        with log.open("ab") as file:
            return kept_runs.process([sys.executable, __file__, "--measure", str(files[job.name]), *job.words], file), log

    kept_runs.together([job for job in jobs if not known(job)], start, lambda job: None, at_once)
    return {name: json.loads(path.read_text()) for name, path in files.items()}


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(words: Sequence[str]) -> Measured:
    """Train a run up to some iterations after the end of forcing, and measure around it.

    Returns:
        ``forced``, its iterations with forcing; ``steps``, of each iteration near the end; ``looks``, every ``EVERY`` of them.

    Raises:
        UserError: forcing does not end in this run.
    """
    cfg = compose([*words, "logger=none"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(cfg, Path(folder))
    settings = trainer.settings
    schedules = (trainer.kl_schedule, trainer.tf_schedule, settings.beta, settings.tfr, settings.epochs, settings.schedule_step)
    if (ends := Plan(*schedules).forcing_ends) is None:
        raise UserError("tf_schedule: forcing does not end in this run: give one that does, as tf_schedule=step")
    forced = round(ends * settings.epoch_size)
    trainer.epoch = settings.epochs  # whose windows no epoch has
    batch = next(iter(trainer.batches()))
    trainer.epoch = 0
    steps, looks = [], []
    while trainer.done < min(forced + 2 * WINDOW, settings.epochs * settings.epoch_size):
        trainer.model.train()
        for frames_BTCHW, cond_BTA in trainer.batches():
            near = forced - WINDOW <= trainer.done < forced + 2 * WINDOW
            before = [each.detach().clone() for each in trainer.model.parameters()] if near else []
            trainer.step(frames_BTCHW, cond_BTA)
            trainer.iteration += 1
            if near:
                steps.append({"step": trainer.done, **_of_the_step(trainer, before)})
                if trainer.done % EVERY == 0 or trainer.done == forced:
                    looks.append({"step": trainer.done, **_look(trainer, *batch)})
        trainer.epoch, trainer.iteration = trainer.epoch + 1, 0
    return {"words": list(words), "forced": forced, "steps": steps, "looks": looks}


def _of_the_step(trainer: Trainer, before: Sequence[Tensor]) -> dict[str, float]:
    """Norm of the gradient, root of Adam's mean second moment, and root mean square of an update in units of lr."""
    groups = trainer.optimizer.param_groups
    lr, beta2 = float(groups[0]["lr"]), float(groups[0].get("betas", (0, 0.999))[1])
    parameters = list(trainer.model.parameters())
    count = sum(each.numel() for each in parameters)
    squares = sum(float(each.grad.double().square().sum()) for each in parameters if each.grad is not None)
    moved = sum(float((each.detach() - old).double().square().sum()) for each, old in zip(parameters, before, strict=True))
    moments = 0.0
    for each in parameters:
        state = trainer.optimizer.state.get(each, {})
        if "exp_avg_sq" in state:
            moments += float(state["exp_avg_sq"].double().sum()) / (1 - beta2 ** float(state["step"]))
    return {"gradient": squares**0.5, "moment": moments**0.5, "update": (moved / count) ** 0.5 / lr if lr else 0.0}


def _look(trainer: Trainer, frames_BTCHW: Tensor, cond_BTA: Tensor) -> dict[str, float]:
    """The losses of one batch, forced and free-running, with the statistics of the batch and with running ones; the statistics
    that norms see of true and of predicted frames; PSNR of validation and its exposure gap. The model stays as it is."""
    settings, model = trainer.settings, copy.deepcopy(trainer.model)
    length, batch = frames_BTCHW.shape[1], frames_BTCHW.shape[0]
    noise_TBZ = torch.randn(length, batch, model.latent_dim, generator=torch.Generator().manual_seed(0)).to(trainer.device)
    found: dict[str, float] = {}
    predicted = frames_BTCHW
    for mode in ("train", "eval"):
        for name, forced in (("forced", True), ("free", False)):
            model.load_state_dict(trainer.model.state_dict())
            model.train(mode == "train")
            with torch.no_grad(), trainer.autocast():
                rollout = model(frames_BTCHW, cond_BTA, torch.full((length,), forced), noise_TBZ)
            target = frames_BTCHW[:, rollout.first :]
            found[f"{name}_{mode}"] = float((rollout.predictions_BKCHW.float() - target).square().mean())
            if (name, mode) == ("free", "train"):
                predicted = rollout.predictions_BKCHW.float()
    protocol = Protocol("training", "diagnosis", settings.n_past, settings.n_future)
    split = trainer.data.validate
    found["gap"] = Diagnosis(model, split, protocol, settings.seed, trainer.device, _FRAMES, trainer.autocast).exposure_gap()
    with trainer.autocast():
        found |= validate(model, split, settings.length, 1, settings.seed, trainer.device, {"psnr": psnr})
    found["norm_shift"] = _shift(model, frames_BTCHW[:, -predicted.shape[1] :], predicted)  # last: running statistics move
    return found


def _shift(model: nn.Module, true_BKCHW: Tensor, predicted_BKCHW: Tensor) -> float:
    """How far the means that the encoder's norms see of predicted frames are from those of true ones, in deviations."""
    seen: list[list[tuple[Tensor, Tensor]]] = []
    encoder: Any = model.backbone.encoder  # type: ignore[union-attr]
    norms = [each for each in encoder.modules() if isinstance(each, (nn.BatchNorm2d, nn.GroupNorm))]

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].float()
        seen[-1].append((values.mean(dim=(0, 2, 3)), values.std(dim=(0, 2, 3))))

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    encoder.train()
    for frames in (true_BKCHW, predicted_BKCHW):
        seen.append([])
        with torch.no_grad():
            encoder(frames.flatten(0, 1))
    for hook in hooks:
        hook.remove()
    pairs = zip(*seen, strict=True)
    return mean(float(((theirs - own).abs() / deviation.clamp_min(1e-8)).mean()) for (own, deviation), (theirs, _) in pairs)


# --- the page ---------------------------------------------------------------------------------------------------------

# Of each run: what it is called, and its value before the end and after it.
_STEPS = {"gradient norm": "gradient", "root of Adam's second moment": "moment", "update, RMS / lr": "update"}
_LOOKS = {
    "MSE of a batch, forced": "forced_train",
    "the same, free-running": "free_train",
    "forced, running statistics": "forced_eval",
    "free-running, running statistics": "free_eval",
    "shift of the norms' means, deviations": "norm_shift",
    "exposure gap, dB": "gap",
}


def _before(measured: Measured, key: str, of: str = "steps") -> list[float]:
    return [row[key] for row in measured[of] if measured["forced"] - WINDOW < row["step"] <= measured["forced"]]


def _after(measured: Measured, key: str, of: str = "steps", most: int = FIRST) -> list[float]:
    return [row[key] for row in measured[of] if measured["forced"] < row["step"] <= measured["forced"] + most]


def _fall(run: Run) -> float:
    return fall(run, forced_iterations(run))


def fall_measured(measured: Measured) -> float:
    """The fall, from the looks: as the study has it."""
    return mean(_before(measured, "psnr", "looks")) - mean(_after(measured, "psnr", "looks", WINDOW))


def holds(falls: Sequence[float], gains: Sequence[float]) -> bool:
    """Whether a cure holds: each seed's fall is below ``MARGIN``, and PSNR at the end is no lower on the mean over seeds."""
    return max(falls) < MARGIN and mean(gains) >= 0


def page(measured: dict[str, Measured], cures: Sequence[dict[str, list[Run]]], words: dict[str, str]) -> list[Block]:
    """The page: what was measured, what goes with the fall, and which cures hold.

    Args:
        measured: of each run, by its name.
        cures: the runs of each cure, by its name; one or several such groups, the first of a group being the runs without any.
        words: of a cure, by its name.
    """
    names = [*_STEPS, *_LOOKS]
    rows, ratios = [], []
    for name, each in measured.items():
        pairs = [(mean(_before(each, key)), mean(_after(each, key))) for key in _STEPS.values()]
        pairs += [(mean(_before(each, key, "looks")), mean(_after(each, key, "looks"))) for key in _LOOKS.values()]
        rows.append([name.partition("/")[2], *(f"{a:.3g} to {b:.3g}" for a, b in pairs), f"{fall_measured(each):+.2f}"])
        ratios.append([*pairs, fall_measured(each)])
    return [
        Heading(1, "Why PSNR falls at the end of teacher forcing"),
        Text(
            f"{len(measured)} runs of the course study with a sudden end, trained once more, and "
            f"{sum(map(len, cures)) - len(cures)} cures. "
            "This command measures, trains what is missing, and writes every number and picture of the page:"
        ),
        Code(command()),
        Heading(2, "Before and after the end"),
        Text(
            f"Mean of the {WINDOW} iterations before the end, to mean of the {FIRST} after it. The batch is one that is not "
            "trained on, with the same noise each time. Norms take the batch's statistics, or the running ones of validation. "
            "The shift is between the means that the encoder's norms see of true frames and of the model's own."
        ),
        Table(["run", *names, "fall, dB"], rows),
        Picture("around_the_end.png", _curves(measured), "PSNR, gradient norm, second moment and update around the end"),
        Heading(2, "What goes with the fall"),
        Text(
            "Spearman's rank correlation over the runs, with its p-value; of so few runs only a strong one is more than chance."
        ),
        Table(["quantity", "its value before", "after / before"], _correlations(names, ratios)),
        Heading(2, "Cures"),
        Text(
            f"On the cell with the larger fall. A cure holds if the fall is below {MARGIN:g} dB in every seed and PSNR at the "
            "end is no lower, on the mean, than without it. Runs of the study are compared with each other only: they may be "
            "of another machine."
        ),
        Table(
            ["cure", "words", "fall by seed, dB", "PSNR at the end, minus none", "it holds"],
            [row for group in cures for row in _cures(group, words)],
        ),
        Text(f"Computed on: {_devices(cures)}."),
    ]


def _correlations(names: Sequence[str], ratios: Sequence[Sequence[Any]]) -> list[list[str]]:
    falls = [each[-1] for each in ratios]

    def told(values: Sequence[float]) -> str:
        if len(values) < 4 or len(set(values)) < 2 or len(set(falls)) < 2:
            return "—"
        found = stats.spearmanr(values, falls)
        return f"{found.statistic:+.2f} (p {found.pvalue:.2g})"

    pairs = [[each[index] for each in ratios] for index in range(len(names))]
    return [
        [name, told([a for a, _ in own]), told([b / a if a else 0.0 for a, b in own])]
        for name, own in zip(names, pairs, strict=True)
    ]


def _cures(runs: dict[str, list[Run]], words: dict[str, str]) -> list[list[str]]:
    """A row for each cure of a group, compared with the group's first, which has none."""
    (none, plain), *cures = runs.items()
    ends = {run.seed: at_end(run) for run in plain}
    forced = forced_iterations(plain[0])  # a linear end has none of its own: the same iterations
    rows = [[none, "", ", ".join(f"{fall(run, forced):+.2f}" for run in plain), "", ""]]
    for name, own in cures:
        falls, gains = [fall(run, forced) for run in own], [at_end(run) - ends[run.seed] for run in own if run.seed in ends]
        verdict = "yes" if holds(falls, gains) else "no"
        told = ", ".join(f"{each:+.2f}" for each in falls)
        rows.append([name, words[name], told, f"{signed(*mean_interval(gains))} dB", verdict])
    return rows


def _devices(groups: Sequence[dict[str, list[Run]]]) -> str:
    """Where each group was computed."""
    told = [
        sorted({f"{run.record.get('device')}, {run.record.get('precision')}" for own in group.values() for run in own})
        for group in groups
    ]
    return "; ".join(f"{next(iter(group))}: {' and '.join(each)}" for group, each in zip(groups, told, strict=True))


def _curves(measured: dict[str, Measured]) -> bytes:
    figure = Figure(figsize=(11, 6.5), layout="constrained", dpi=100)
    panels = figure.subplots(2, 2).flat
    lrs = list(dict.fromkeys(name.partition("/lr")[2].partition("_")[0] for name in measured))
    for axes, (title, key, of) in zip(
        panels,
        [("validation PSNR, dB", "psnr", "looks"), *((title, key, "steps") for title, key in _STEPS.items())],
        strict=True,
    ):
        for colour, lr in zip(COLOURS, lrs, strict=False):
            curves = [
                {row["step"] - each["forced"]: row[key] for row in each[of]}
                for name, each in measured.items()
                if f"/lr{lr}_" in name
            ]
            for curve in curves:
                axes.plot(list(curve), list(curve.values()), color=colour, linewidth=0.6, alpha=0.5)
            common = sorted(set.intersection(*map(set, curves)))
            axes.plot(common, [mean(curve[x] for curve in curves) for x in common], color=colour, linewidth=2, label=f"lr {lr}")
        axes.axvline(0, color="#8b949e", linewidth=0.8, linestyle=":")
        axes.set(title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("iterations after the end of forcing", fontsize=9)
    return png(figure)


if __name__ == "__main__":
    main()
