"""``python -m cvae.train`` as its user meets it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny
from hydra._internal.core_plugins import basic_launcher
from PIL import Image

from cvae.start import compose
from cvae.training.assembly import build_trainer

KEYS = [
    "epoch", "step", "train/mse", "train/kld", "train/loss", "val/psnr", "val/ssim", "val/mse", "val/psnr_copy",
    "kl_weight", "tf_ratio", "lr", "seconds", "frames_per_second",
]  # fmt: skip


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def only_run() -> Path:
    (run,) = Path("multirun/single").iterdir()
    return run


def test_the_users_own_example_leaves_a_whole_run_folder(train, drawn):
    result = train(*tiny(drawn, "sample_every=1", "validate_every=1"), "kl_schedule=monotonic", "lr=2e-3")
    assert (result.code, result.err) == (0, "")
    run = only_run()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{4}", run.name)
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert names >= {
        ".hydra/config.yaml", ".hydra/overrides.yaml", "run.json", "metrics.jsonl", "curves.png", "checkpoints/last.pt",
        "checkpoints/best.pt", "samples/epoch_0001.png", "samples/epoch_0001.gif", "samples/epoch_0002.gif", "train.log",
    }  # fmt: skip
    logged = rows(run)
    assert [set(row) for row in logged] == [set(KEYS)] * 2
    assert [(row["epoch"], row["step"], row["lr"]) for row in logged] == [(1, 2, 2e-3), (2, 4, 2e-3)]
    assert all(math.isfinite(value) for row in logged for value in row.values())
    # Forcing ends at a quarter of two epochs; monotonic reaches 1 at half: means over the iterations of each epoch
    assert [row["tf_ratio"] for row in logged] == [0.5, 0.0]
    assert [row["kl_weight"] for row in logged] == pytest.approx([1e-4 * 0.25, 1e-4])
    with Image.open(run / "samples/epoch_0002.gif") as gif:
        assert gif.n_frames == 6
    torch.load(run / "checkpoints/best.pt", weights_only=True)
    assert "Monotonic" in result.out
    assert str(run) in result.out.splitlines()[-1]


def test_the_terminal_says_what_runs_and_how_it_goes(train, drawn):
    said = train(*tiny(drawn)).out
    for fact in (
        "data",
        "4 train, 2 validate",
        "0.06 M",
        "Cyclical(cycles=3, ramp=0.5)",
        "implied sigma 0.784",
        "fp32",
        "repeating the last",
    ):
        assert fact in said, fact
    assert len(re.findall(r"^epoch [12]/2  MSE .* KL .* PSNR .* dB  copy .* dB  SSIM", said, re.M)) == 2
    assert "\x1b" not in said  # plain lines where there is no terminal


@pytest.mark.slow
def test_equal_settings_give_equal_runs_and_another_seed_another(train, drawn):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert train(*tiny(drawn, f"seed={seed}"), f"hydra.run.dir={name}").code == 0
    results = [[{k: row[k] for k in KEYS[:8]} for row in rows(Path(name))] for name in "abc"]
    assert results[0] == results[1] != results[2]
    records = [json.loads((Path(name) / "run.json").read_text()) for name in "abc"]
    assert records[0]["signature"] == records[1]["signature"] != records[2]["signature"]
    assert len({record["id"] for record in records}) == 3
    assert len({record["dataset"] for record in records}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["prior=learned", "kl_balance=0.8", "free_bits=0.1"],
        ["likelihood=gaussian", "likelihood.sigma=0.1"],
        ["likelihood=sigma_optimal", "grad_clip=100", "lr_warmup=0.25", "lr_decay=cosine", "lr_rewarm=0.2"],
        ["model.backbone.norm=group", "coin=per_sample", "tfr=0.5", "average=0.1"],
        ["kl_schedule=target", "free_bits=0.001", "prior=learned", "tf_schedule=linear"],
        ["coin=per_sequence", "tf_schedule=inverse_sigmoid", "kl_schedule=sigmoid", "optim=adamw"],
        ["data.condition=none", "n_past=1", "tf_schedule=exponential", "kl_schedule=cosine"],
        ["data.condition=actions", "precision=bf16", "n_past=3", "tf_schedule=constant", "kl_schedule=constant"],
        ["compat=course", "beta=1", "epochs=3"],
        ["model.backbone._target_=cvae.model.backbones.vgg64", "data.random_start=false", "data.normalise=false"],
    ],
    ids=" ".join,
)
def test_every_choice_trains(train, drawn, words):
    result = train(*tiny(drawn, *words), "hydra.run.dir=run")
    assert (result.code, result.err) == (0, "")
    assert len(rows(Path("run"))) >= 2


def test_best_of_n_is_recorded_when_asked_for_and_can_be_the_objective(train, drawn):
    result = train(*tiny(drawn, "n_samples=4", "objective=val/psnr_best", "beta=0"), "hydra.run.dir=run")
    assert result.code == 0
    for row in rows(Path("run")):
        assert row["val/psnr_best"] >= row["val/psnr"]
    best = max(row["val/psnr_best"] for row in rows(Path("run")))
    assert torch.load("run/checkpoints/best.pt", weights_only=True)["best"] == best


def test_validation_follows_its_interval_and_always_ends_the_run(train, drawn):
    train(*tiny(drawn, "epochs=5", "validate_every=2"), "hydra.run.dir=run")
    assert [row["epoch"] for row in rows(Path("run")) if "val/psnr" in row] == [2, 4, 5]


@pytest.mark.slow
def test_train_returns_the_best_value_of_the_objective(drawn, tmp_path):
    from cvae import start
    from cvae.train import train

    best = train(start.compose(tiny(drawn, "epochs=3")), tmp_path / "run")
    assert best == max(row["val/psnr"] for row in rows(tmp_path / "run"))


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(train, drawn):
    result = train(*tiny(drawn, "lr=1e30", "epochs=9"), "hydra.run.dir=run")
    assert result.code == 1
    assert re.match(r"error: (MSE|KL|loss) became (nan|inf) in epoch \d+, iteration \d+: lower lr", result.err)
    assert result.err.count("\n") == 1
    assert "diverged.pt" in result.err
    torch.load("run/checkpoints/diverged.pt", weights_only=True)


def test_sigma_auto_is_measured_shown_and_recorded(train, drawn):
    words = tiny(drawn, "likelihood=gaussian", "likelihood.sigma=auto", "epochs=1", "hydra.run.dir=run")
    done = train(*words)
    record = json.loads(Path("run/run.json").read_text())
    found = re.search(
        r"Gaussian, beta 1, implied sigma (\S+); sigma (\S+) is 6 times the RMSE (\S+) of the last past", done.out
    )
    assert (done.code, float(found[1]), float(found[2])) == (0, record["sigma"], record["sigma"])
    assert record["sigma"] == pytest.approx(6 * float(found[3]), rel=0.01)
    assert "exceeds" not in done.out
    cfg = compose([*words, "seed=2", "sigma_scale=3", "kl_schedule=target"])
    other = build_trainer(cfg, Path("other")).objective.likelihood.sigma  # of another run on the same data
    assert other == pytest.approx(record["sigma"] / 2, rel=0.01)


@pytest.mark.slow
def test_posterior_collapse_and_a_wide_decoder_are_warned_of_and_a_live_latent_is_not(train, drawn):
    said = train(*tiny(drawn, "beta=1")).out
    assert "warning: the decoder's implied sigma 78.4 exceeds 8 times the copy baseline's RMSE" in said
    assert "posterior collapse" not in said  # after four steps nothing can be said
    said = train(*tiny(drawn, "beta=1", "epoch_size=70")).out
    assert "warning: posterior collapse" in said
    assert "exceeds" not in train(*tiny(drawn, "likelihood=gaussian", "likelihood.sigma=0.1")).out


def test_a_schedule_that_never_rises_is_warned_of(train, drawn):
    assert "the KL weight is 0 in every epoch" in train(*tiny(drawn, "compat=course", "epochs=3")).out


def test_show_schedules_draws_both_and_trains_nothing(train):
    result = train("show=schedules", "kl_schedule=cosine", "tf_schedule=inverse_sigmoid")
    assert result.code == 0
    assert [path.name for path in Path().iterdir()] == ["schedules.png"]
    with Image.open("schedules.png") as picture:
        assert picture.width > 600
    assert "schedules.png" in result.out


@pytest.mark.slow
def test_each_of_a_multirun_has_its_own_folder_and_all_of_them_a_table_at_the_end(train, drawn):
    done = train("-m", *tiny(drawn), "kl_schedule=cyclical,monotonic", "tf_schedule=step,linear")
    assert done.code == 0
    (sweep,) = (path for path in Path("multirun").iterdir())
    *_, header, one, two, three, four, command = done.out.splitlines()
    assert header.split() == ["kl_schedule", "tf_schedule", "best", "validation", "PSNR,", "dB", "epoch", "folder"]
    for job, line in enumerate((one, two, three, four)):
        kl, forcing, psnr, *_, folder = line.split()
        assert (kl, forcing) == (("cyclical", "monotonic")[job // 2], ("step", "linear")[job % 2])
        assert float(psnr) == pytest.approx(max(row["val/psnr"] for row in rows(sweep / str(job))), abs=0.006)
        assert Path(folder) == sweep / str(job)
    assert sum(" * " in line for line in (one, two, three, four)) >= 1  # the best
    assert command == f"compare them  python -m cvae.report runs={sweep}"
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1", "2", "3"]
    for job in range(4):
        assert len(rows(sweep / str(job))) == 2


@pytest.mark.slow
def test_a_multirun_that_fails_has_its_table_too(train, drawn):
    done = train("-m", *tiny(drawn), "epochs=1", "lr=1e-3,1e30", "hydra.sweep.dir=grid")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert re.search(r"^1e\+30 +- +- +grid/1  diverged$", done.out, re.MULTILINE)
    assert re.search(r"^0.001 +\d\d?\.\d\d \* +1 +grid/0$", done.out, re.MULTILINE)


def test_sigterm_between_two_jobs_ends_a_multirun(train, drawn, monkeypatch):
    usual = basic_launcher.run_job

    def run_job(*args, **settings):
        done = usual(*args, **settings)
        signal.raise_signal(signal.SIGTERM)
        return done

    monkeypatch.setattr(basic_launcher, "run_job", run_job)
    done = train("-m", *tiny(drawn, "epochs=1"), "lr=1e-3,2e-3", "hydra.sweep.dir=grid")
    assert (done.code, done.err) == (128 + signal.SIGTERM, "")
    assert len(rows(Path("grid/0"))) == 1
    assert not Path("grid/1").exists()


def test_the_embedded_world_is_the_default(train):
    words = [word for word in tiny(Path()) if not word.startswith("data")]
    result = train(*words, "data.train=4", "data.validate=2", "data.test=0", "hydra.run.dir=run")
    assert result.code == 0
    assert "making synthetic push world" in result.out
    assert "making" not in train(*words, "data.train=4", "data.validate=2", "data.test=0", "seed=2").out


@pytest.mark.slow
@pytest.mark.parametrize("program", [[sys.executable, "-m", "cvae.train"], [str(Path(sys.executable).with_name("cvae-train"))]])
def test_module_and_console_script_are_one(program, drawn, tmp_path):
    words = [*tiny(drawn, "epochs=1"), f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run([*program, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = json.loads((tmp_path / "run/run.json").read_text())["command"]
    assert command.split()[: len(program)] == (["python", "-m", "cvae.train"] if len(program) > 1 else ["cvae-train"])


def test_shell_completion_knows_groups_and_keys():
    words = {**os.environ, "COMP_LINE": "cvae-train kl_schedule=c", "COMP_POINT": "24"}
    command = [str(Path(sys.executable).with_name("cvae-train")), "-sc", "query=bash"]
    done = subprocess.run(command, env=words, capture_output=True, text=True, check=True)
    assert {"kl_schedule=constant", "kl_schedule=cosine", "kl_schedule=cyclical"} <= set(done.stdout.split())


@pytest.mark.slow
def test_a_compiled_run_computes_the_same(drawn):
    """In a process of its own: torch.compile warns of what it does itself. On a GPU weights are lent to a compiled model."""
    as_on_a_gpu = "import runpy; from cvae.model import together; together._pays = lambda device: True; "
    as_on_a_gpu += "runpy.run_module('cvae.train', run_name='__main__')"
    ways = {
        "plain": ("false", "-m", "cvae.train"),
        "compiled": ("true", "-m", "cvae.train"),
        "lent": ("true", "-c", as_on_a_gpu),
    }
    found = []
    for name, (choice, *program) in ways.items():
        words = tiny(drawn, "epochs=1", "tf_schedule=constant", "tfr=0.5", f"compile={choice}", f"hydra.run.dir={name}")
        done = subprocess.run([sys.executable, *program, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found += rows(Path(name))
    for key in ("train/mse", "train/kld", "val/psnr"):
        assert [row[key] for row in found] == pytest.approx([found[0][key]] * 3, rel=1e-3)


# --- what a failed start leaves ----------------------------------------------------------------------------------------


def test_a_failed_start_leaves_its_reason_until_one_succeeds(train, drawn, tmp_path):
    shutil.copytree(drawn, "data")
    (tmp_path / "data/train/take 0/00/actions.csv").write_text("1,2,x\n")
    result = train(*tiny(tmp_path / "data"), "hydra.run.dir=run")
    reason = result.err.removeprefix("error: ")
    assert (result.code, Path("run/failure.txt").read_text()) == (1, reason)
    assert reason.strip() in Path("run/train.log").read_text()
    assert not Path("run/owner.json").exists()
    shutil.copy(drawn / "train/take 0/00/actions.csv", "data/train/take 0/00/actions.csv")
    assert train(*tiny(tmp_path / "data"), "hydra.run.dir=run").code == 0
    assert not Path("run/failure.txt").exists()


def test_a_failed_job_leaves_its_reason(train, drawn):
    assert train("-m", *tiny(drawn), "n_future=2,99", "hydra.sweep.dir=grid").code == 1
    assert not Path("grid/0/failure.txt").exists()
    assert "n_past + n_future = 2 + 99 = 101 are needed" in Path("grid/1/failure.txt").read_text()


def test_what_nobody_expects_leaves_its_traceback_below_the_reason(train, drawn, monkeypatch):
    def broken(*_: object) -> None:
        raise TypeError("of a kind")

    monkeypatch.setattr("cvae.training.trainer.Trainer.fit", broken)
    with pytest.raises(TypeError):
        train(*tiny(drawn), "hydra.run.dir=run")
    first, *rest = Path("run/failure.txt").read_text().splitlines()
    assert (first, "Traceback" in rest[0]) == ("TypeError: of a kind", True)


# --- batches of one window ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [[], ["compat=course", "tfr=1", "tf_schedule=constant"], ["model=vgg64", "model.backbone.width=0.05"]], ids=len
)
def test_a_batch_of_one_with_batch_norm_is_refused_at_the_start(train, drawn, words):
    result = train(*tiny(drawn, *words), "batch_size=1")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "batch_size=1: " in result.err
    assert "model.backbone.norm=group, or batch_size=2" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["model.backbone.norm=group"], ["tf_schedule=constant"], ["n_future=1"]], ids=str)
def test_a_batch_of_one_trains_where_no_frame_is_alone(train, drawn, words):
    assert train(*tiny(drawn, *words), "batch_size=1").code == 0
