"""Bad input is one line that names the file, key or value, and how to put it right; and nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import draw_course, draw_sequence, tiny
from PIL import Image

from cvae import cli, start
from cvae.errors import named, whole

SEQUENCE = Path("train/take 0/00")
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"  # whether installed or not


def one_line(result, *words: str) -> None:
    """The command failed with a single line on standard error that holds all words."""
    assert result.code == 1
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.out


@pytest.mark.parametrize(("words", "told"), [(["lr_warmup=1e-9"], True), (["lr_warmup=0.5"], False)])
def test_a_warm_up_that_does_nothing_is_warned_of(train, drawn, words, told):
    result = train(*tiny(drawn, "epochs=1"), *words)
    assert result.code == 0, result.err
    assert ("is less than an iteration of this run: it changes nothing" in " ".join(result.out.split())) == told


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lr=abc", ("lr=abc", "Float")),
        ("lr=-1", ("lr", "-1", "above 0")),
        ("epochs=0", ("epochs is 0", "at least 1")),
        ("epochs=1.5", ("epochs=1.5", "Integer")),
        ("n_past=0", ("n_past is 0", "at least 1")),
        ("n_future=31", ("30 frames", "2 + 31 = 33", "lower n_future")),
        ("n_future=29", ("take 0", "30 frames", "2 + 29 = 31", "lower n_future")),
        ("tfr=1.5", ("tfr is 1.5", "[0, 1]")),
        ("beta=-1", ("beta is -1", "null")),
        ("seed=-1", ("seed is -1",)),
        ("kl_schedule=cylcical", ("kl_schedule=cylcical", "monotonic", "did you mean cyclical?")),
        ("kl_schedule.cycles=abc", ("kl_schedule.cycles", "'abc'", "number")),
        ("kl_schedule.cylces=3", ("kl_schedule.cylces", "no such key", "did you mean kl_schedule.cycles?")),
        ("monotonic", ("monotonic: write it as key=value",)),
        ("lr=1e-3,2e-3", ("lr=1e-3,2e-3: several values are lr=[1e-3,2e-3]", "a sweep needs -m")),
        ("+kl_schedule.cylces=3", ("Cyclical takes no cylces, but cycles, ramp", "~kl_schedule.cylces")),
        ("epoch=3", ("epoch: there is no such key", "did you mean epochs?")),
        ("validate_at=3", ("validate_at=3", "it takes a list", "one is validate_at=[3]")),
        ("validate_at={a:1}", ("validate_at={a:1}", "it takes a list")),
        ("device=null", ("device=null", "null is none of its values")),
        ("kl_schedule.ramp=2", ("kl_schedule.ramp is 2", "[0, 1]")),
        ("tf_schedule.at=[1]", ("tf_schedule.at is [1]", "number")),
        ("sigma_scale=3", ("sigma_scale is 3", "likelihood.sigma=auto")),
        ("likelihood=gaussian likelihood.sigma=0.8 sigma_scale=3", ("sigma_scale is 3", "likelihood.sigma=auto")),
        ("model.latent_dim=0", ("model.latent_dim is 0", "at least 1")),
        ("model.hidden_dim=0", ("model.hidden_dim is 0", "at least 1")),
        ("model.predictor_layers=0", ("model.predictor_layers is 0", "at least 1")),
        ("model.posterior_layers=1.5", ("model.posterior_layers is 1.5", "whole number")),
        ("prior=learned prior.layers=0", ("prior.layers is 0", "at least 1")),
        ("+model.cond_dim=3", ("model.cond_dim follows from the run",)),
        ("+optim.params=[1]", ("optim.params follows from the run",)),
        ("optim.betas=[0.9]", ("optim.betas is [0.9]", "a list of 2")),
        ("optim.betas=[0.9,abc]", ("optim.betas is [0.9, 'abc']", "a list of 2")),
        ("optim.lr=abc", ("optim.lr is 'abc'", "number")),
        ("likelihood=sigma_optimal likelihood.min_log_sigma=100", ("likelihood.min_log_sigma is 100", "[-50, 0]")),
        ("device=cuda:128", ("device=cuda:128", "CUDA devices")),
        ("hydra.launcher.jobs_per_gpu=4", ("hydra.launcher.jobs_per_gpu", "one of hydra/launcher=local", "--cfg hydra")),
        ("coin=twice", ("coin", "'twice'", "per_step")),
        ("objective=train/loss", ("objective", "train/loss", "val/psnr")),
        ("objective=val/psnr_best", ("n_samples",)),
        ("schedule_step=day", ("schedule_step", "iteration")),
        ("grad_clip=0", ("grad_clip is 0", "null")),
        ("window_growth=2", ("window_growth is 2", "share of the run")),
        ("average=0.999", ("average is 0.999", "0.05")),
        ("lr_decay=fast", ("lr_decay", "cosine")),
        ("free_bits=-1", ("free_bits is -1",)),
        ("free_bits=1e39", ("free_bits is 1e+39", "at most")),
        ("kl_balance=0.8", ("kl_balance=0.8", "prior=learned")),
        ("device=tpu", ("device", "'tpu'", "cuda")),
        ("device=cuda:9", ("device=cuda:9", "CUDA devices")),
        ("precision=fp8", ("precision", "bf16")),
        ("compile=maybe", ("compile", "auto")),
        ("compile=graphs device=cpu", ("compile=graphs", "CUDA graphs", "compile=auto")),
        ("compile=true model.backbone.checkpointing=true", ("compile=true", "checkpointing")),
        ("data.condition=speech", ("data.condition", "'speech'", "actions_positions")),
        ("data.root=nowhere", ("nowhere", "data.root")),
        ("model.rollout=dreamed", ("model.rollout", "'dreamed'", "planned")),
        ("model.skips=course", ("model.rollout=planned", "stepwise")),
        ("model.backbone.norm=layer", ("norm", "'layer'", "group")),
        ("model.backbone.width=0", ("width", "(0, 8]")),
        ("model._target_=os.system", ("model._target_", "'os.system'", "not allowed")),
        ("logger._target_=cvae.training.wandb_mirror.Nothing", ("logger._target_", "does not exist")),
        ("show=movies", ("show=movies", "schedules")),
        ("lr=", ("lr",)),
        ("lr", ("lr",)),
    ],
)
def test_a_bad_value_is_one_line(train, drawn, override, words):
    result = train(*tiny(drawn), *override.split())
    one_line(result, *words)
    assert not list(Path().glob("multirun/single/*/checkpoints/*"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-m data=course lr=1e-3,2e-3", ("data.root must be given",)),
        ("-m data=course data.root=nowhere lr=1e-3,2e-3", ("nowhere is not a folder", "set data.root")),
        ("-m experiment=course_forcing data.root=nowhere seed=1,2", ("nowhere is not a folder",)),
        ("experiment=sweep_quick data=course", ("data.root must be given",)),
        ("-m hydra/sweeper=optuna data=course data.root=nowhere lr=interval(1e-3,2e-3)", ("nowhere is not a folder",)),
    ],
)
def test_a_multirun_without_its_data_is_refused_before_its_first_trial(train, line, words):
    one_line(train(*line.split()), *words)
    assert not Path("multirun").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["data.root=a,b"],
        ["data=synthetic,course"],
        ["data=course", "data.root=/data/${seed}", "seed=1,2"],
        ["data=course", "data.root=nowhere", f"hydra.launcher._target_={SLURM}", "seed=1,2"],  # another host may have it
        ["kl_schedule=cyclical,constant", "kl_schedule.cycles=3"],  # composes with one choice: the sweeper says so
    ],
)
def test_data_that_jobs_choose_or_find_elsewhere_are_theirs_to_miss(words):
    start.check_start(["-m", *words])


@pytest.fixture
def course(tmp_path: Path) -> Path:
    return draw_course(tmp_path / "course", frames=4)


def damage_missing_split(root: Path) -> None:
    shutil.rmtree(root / "validate")


def damage_empty_split(root: Path) -> None:
    shutil.rmtree(root / "validate")
    (root / "validate").mkdir()


def damage_short_sequence(root: Path) -> None:
    shutil.rmtree(root / SEQUENCE)
    draw_sequence(root / SEQUENCE, 1, frames=3)


def damage_gap(root: Path) -> None:
    (root / SEQUENCE / "2.png").unlink()


def damage_truncated_png(root: Path) -> None:
    path = root / SEQUENCE / "3.png"
    path.write_bytes(path.read_bytes()[:60])


def damage_no_png(root: Path) -> None:
    (root / SEQUENCE / "3.png").write_text("not a picture")


def damage_size(root: Path) -> None:
    Image.new("RGB", (65, 64)).save(root / SEQUENCE / "1.png")


def damage_column(root: Path) -> None:
    (root / SEQUENCE / "actions.csv").write_text("0,0,0\n" * 4)


def damage_text(root: Path) -> None:
    (root / SEQUENCE / "actions.csv").write_text("0,0,0,0\n0,0,up,0\n" + "0,0,0,0\n" * 2)


def damage_nan(root: Path) -> None:
    (root / SEQUENCE / "endeffecter_positions.csv").write_text("1,2,3\n1,nan,3\n" + "1,2,3\n" * 2)


def damage_rows(root: Path) -> None:
    (root / SEQUENCE / "actions.csv").write_text("0,0,0,0\n" * 3)


def damage_missing_csv(root: Path) -> None:
    (root / SEQUENCE / "endeffecter_positions.csv").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_missing_split, ("validate", "missing", "found: test, train")),
        (damage_empty_split, ("validate", "no sequences", "0.png")),
        (damage_short_sequence, (str(SEQUENCE), "3 frames", "= 4 are needed")),
        (damage_gap, ("2.png is missing",)),
        (damage_truncated_png, ("3.png", "not a readable PNG")),
        (damage_no_png, ("3.png", "not a readable PNG")),
        (damage_size, ("1.png is 65x64", "64x64")),
        (damage_column, ("actions.csv row 1 has 3 columns", "4 are needed")),
        (damage_text, ("actions.csv row 2", "'up'", "finite number")),
        (damage_nan, ("endeffecter_positions.csv row 2", "'nan'", "finite number")),
        (damage_rows, ("actions.csv has 3 rows for 4 frames",)),
        (damage_missing_csv, ("endeffector_positions.csv is missing", "data.condition")),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_data_is_one_line_that_names_the_file(train, course, damage, words):
    damage(course)
    one_line(train(*tiny(course)), *words)


@pytest.mark.slow
def test_a_missing_table_matters_only_to_conditions_that_use_it(train, course):
    damage_missing_csv(course)
    assert train(*tiny(course, "data.condition=actions")).code == 0
    assert train(*tiny(course, "data.condition=none")).code == 0


def test_a_mandatory_value_that_is_missing_is_named(train):
    one_line(train("data=course", "logger=none"), "data.root", "must be given")


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_was(train, drawn):
    assert train(*tiny(drawn), "hydra.run.dir=here").code == 0
    before = {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()}
    one_line(train(*tiny(drawn), "hydra.run.dir=here", "lr=1"), "here already holds a run", "resume=here")
    assert {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_sweep_folder_that_holds_runs_is_refused(train, drawn):
    words = ["-m", "seed=1", "hydra.sweep.dir=there", *tiny(drawn)]
    assert train(*words).code == 0
    one_line(train(*words), "there/0 already holds a run")


@pytest.mark.slow
def test_one_bad_job_of_a_multirun_fails_alone(train, drawn):
    result = train("-m", "tfr=0.5,7,1", *tiny(drawn), "hydra.sweep.dir=there")
    assert result.code == 1
    assert "job 1 failed: tfr is 7" in result.out
    assert [(Path("there") / str(job) / "metrics.jsonl").exists() for job in range(3)] == [True, False, True]


def test_a_traceback_is_there_for_those_who_ask(monkeypatch, capfd):
    from cvae.errors import UserError

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def fail() -> None:
        raise UserError("bad")

    with pytest.raises(SystemExit):
        cli.guarded(fail)
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "run/.hydra/config.yaml"), "run/.hydra/config.yaml: No space left on device"),
        (OSError(36, "File name too long", "x" * 9), "xxxxxxxxx: File name too long"),
        (MemoryError(), "out of memory: lower batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."), "out of memory (CUDA out of memory): lower batch_size"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors"), "out of memory (CUDA error: out of memory): lower"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory (cuDNN error: CUDNN_STATUS_ALLOC_FAILED)"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory (libtorch_cpu)"),
        (RuntimeError("Symlink loop from '/runs'"), "/runs: a link that leads back to itself"),
        (OSError(37, "No locks available", "/nfs/x"), "/nfs/x: No locks available; its file system has no locks (flock)"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."), "out of memory"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, said, capfd):
    def refuse() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        cli.guarded(refuse)
    found = capfd.readouterr().err
    assert (stop.value.code, found.count("\n")) == (1, 1)
    assert found.startswith(f"error: {said}")


def test_other_errors_are_not_hidden():
    def broken() -> None:
        raise RuntimeError("a mistake in the code")

    with pytest.raises(RuntimeError, match="a mistake"):
        cli.guarded(broken)


def test_a_name_cannot_write_to_the_terminal(train):
    said = train("data=course", "data.root='\x1b[31m\x1b]0;title\x07'").err
    assert "\x1b" not in said
    assert "\\u001b[31m" in said


def test_output_that_nobody_reads_ends_the_command_quietly():
    command = f"{sys.executable} -m cvae.train --cfg job | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@pytest.mark.slow
def test_a_terminal_without_letters_and_a_full_one_get_one_line():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    command = [sys.executable, "-m", "cvae.train", "kl_schedule=cyclisch\u00e9"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    full = f"{sys.executable} -m cvae.train show=schedules > /dev/full"
    done = subprocess.run(["bash", "-c", full], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr


def test_sigterm_before_the_training_loop_asks_to_be_run_again(train, drawn, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(start, "check_start", lambda words: os.kill(os.getpid(), signal.SIGTERM))
    try:
        assert train(*tiny(drawn)).code == 75
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["none", "disabled", "stdout"])
def test_other_logs_of_hydras_work(train, drawn, choice):
    assert train(*tiny(drawn, "epochs=1"), f"hydra/job_logging={choice}", "hydra.run.dir=run").code == 0
    assert not Path("run/train.log").exists()


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["run", "sweep", "resume", "report"])
def test_names_that_are_too_long_and_links_in_a_circle_are_one_line(train, command, choice):
    long = "x" * 300
    Path("loop").symlink_to("loop")
    root = [f"data.root={tree}" for tree in (long, "loop")]
    sweep, small = ["-m", "hydra/sweeper=optuna", "lr=interval(1e-4,1e-3)"], ["data.train=4", "data.validate=2", "data.test=1"]
    calls = {
        "run": [
            *(["data=course", word] for word in root),
            [f"data.root={long}", "model=tiny"],
            [f"hydra.run.dir={long}"],
            ["hydra.run.dir=loop/x"],
            [f"--config-dir={long}"],
            ["--config-dir", "loop", "show=schedules"],
            [f"experiment={long}.yaml"],
            ["experiment=loop"],
            ["data.cache_dir=loop", "model=tiny"],
        ],
        "sweep": [
            *([*sweep, "data=course", word] for word in root),
            [*sweep, *small, f"hydra.sweeper.study_name={long}"],
            [*sweep, *small, "hydra.sweeper.storage=journal://loop"],
        ],
        "resume": [[f"resume={long}"], ["resume=loop"]],
        "report": [[f"runs={long}"], ["runs=loop"], ["runs=.", f"out={long}.html"]],
    }
    for words in calls[choice]:
        one_line(command("report" if choice == "report" else "train", *words))


@pytest.mark.slow
def test_a_file_system_without_locks_is_one_line(train, drawn, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert train(*tiny(drawn)).code == 0  # packing needs none
    words = ["-m", "hydra/sweeper=optuna", "lr=interval(1e-4,1e-3)", *tiny(drawn)]
    one_line(train(*words), "No locks available", ".journal")


@pytest.mark.slow
@pytest.mark.parametrize("size", ["0", "8"])
def test_a_full_disk_is_one_line_from_the_first_write_on(drawn, size):
    sweep = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "lr=interval(1e-4,1e-3)"]
    for words in (tiny(drawn), [*sweep, *tiny(drawn)], ["-m", "lr=1e-3,2e-3", *tiny(drawn)], ["show=schedules"]):
        call = f"ulimit -f {size}; {shlex.join([sys.executable, '-m', 'cvae.train', *words])}"
        done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr + done.stdout
        assert done.returncode == 1
        if size == "0":
            assert done.stderr.count("\n") == 1
            assert "File too large" in done.stderr
            assert "a file of this command" not in done.stderr


@pytest.mark.slow
def test_a_closed_output_and_one_that_nobody_reads(drawn):
    call = shlex.join([sys.executable, "-m", "cvae.train", "show=schedules"])
    done = subprocess.run(["bash", "-c", f"{call} >&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    many = shlex.join([sys.executable, "-m", "cvae.train", "-m", "seed=1,2", *tiny(drawn, "epochs=1")])
    done = subprocess.run(["bash", "-c", f"{many} | head -1"], capture_output=True, text=True, check=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_a_report_goes_into_a_device_as_it_is(command):
    Path("runs").mkdir()
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 20)
    with named("x"), whole(Path("pipe")) as target:
        target.write_text("all")
    assert (os.read(reader, 9), Path("pipe").is_fifo()) == (b"all", True)
    os.close(reader)


def test_sigterm_is_listened_for_before_the_imports():
    code = "import os, runpy, signal, sys\n"
    code += "class Stop:\n    def find_spec(self, name, *_):\n        if name == 'omegaconf':\n"
    code += "            os.kill(os.getpid(), signal.SIGTERM)\n"
    code += "sys.meta_path.insert(0, Stop()); runpy.run_module('cvae.train', run_name='__main__')\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 75


def test_a_log_that_the_system_refuses_is_one_line(train, drawn, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "train.log")

    monkeypatch.setattr(logging.FileHandler, "_open", full)
    one_line(train(*tiny(drawn)), "train.log: No space left on device")
