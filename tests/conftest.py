"""Shared by all tests: one thread, a cache of their own, frames in the course layout, the command line in-process, servers."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pretended import build as build_pretended
from pretended import lacking as lacking_for_pretended
from servers import Postgres, Slurm, missing, run_browser, run_postgres, run_slurm

# Several threads make a tiny model ten times slower, and every test worker would start its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A command has its own handler of SIGTERM, which a process that it ends takes along; this one goes on.

    A shell lets what it starts in the background ignore SIGINT: the tests are of a command in the foreground.
    """
    usual = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if usual[signal.SIGINT] is signal.SIG_IGN:
        usual[signal.SIGINT] = signal.default_int_handler
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in usual.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has its own working folder, cache and package of a user's, and no W&B account."""
    for name in [name for name in sys.modules if name.split(".")[0] == "mypkg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    _drop_hydras_handlers()
    for name in ("HYDRA_FULL_ERROR", *(name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE")):
        monkeypatch.delenv(name, raising=False)


def _drop_hydras_handlers() -> None:
    """Hydra's log handlers outlive its job, and write to a captured stream that is gone by the next test."""
    for handler in [each for each in logging.root.handlers if type(each) in (logging.StreamHandler, logging.FileHandler)]:
        logging.root.removeHandler(handler)
        handler.close()


def draw_sequence(folder: Path, seed: int, frames: int = 30, positions: str = "endeffector_positions.csv") -> None:
    """A ball on a circle over a grey floor: another motion than the package's world, positions far from zero."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    phase, speed, radius = generator.uniform(0, 6.28), generator.uniform(0.1, 0.5), generator.uniform(10, 20)
    actions, places = [], []
    for t in range(frames):
        angle = phase + speed * t
        x, y = 32 + radius * np.cos(angle), 32 + radius * np.sin(angle)
        image = Image.new("RGB", (64, 64), (90, 90, 90))
        ImageDraw.Draw(image).ellipse((x - 6, y - 6, x + 6, y + 6), fill=(200, 60, int(20 * seed) % 255))
        image.save(folder / f"{t}.png")
        actions.append([-np.sin(angle), np.cos(angle), 0.0, 0.5])
        places.append([500 + x / 64, -300 + y / 64, 12.0])
    np.savetxt(folder / "actions.csv", actions, delimiter=",", fmt="%.6f")
    np.savetxt(folder / positions, places, delimiter=",", fmt="%.6f")


def draw_course(root: Path, train: int = 4, validate: int = 2, test: int = 1, frames: int = 30) -> Path:
    """A small data set in the course layout, with folder names of its own and both spellings of the positions' file."""
    for split, count in [("train", train), ("validate", validate), ("test", test)]:
        for k in range(count):
            spelling = "endeffector_positions.csv" if k % 2 else "endeffecter_positions.csv"
            draw_sequence(root / split / f"take {k // 2}" / f"{k:02d}", 100 * len(split) + k, frames, spelling)
    return root


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that tests only read."""
    return draw_course(tmp_path_factory.mktemp("drawn") / "course")


@dataclass
class Result:
    code: int
    out: str
    err: str


def _draw_nothing(rows: object, panels: object, path: Path, chosen: object) -> None:
    Image.new("RGB", (1, 1)).save(path, format="PNG")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest):
    """Run ``python -m cvae.ENTRY WORDS`` in this process.

    To draw curves.png takes a third of a small run. Only modules that say ``DRAWS_CURVES = True`` do.
    """

    def run(entry: str, *words: str) -> Result:
        from cvae.console import console

        package = importlib.util.find_spec(f"cvae.{entry}").submodule_search_locations is not None
        module = importlib.import_module(f"cvae.{entry}.__main__" if package else f"cvae.{entry}")
        console.cache_clear()
        monkeypatch.setattr(sys, "argv", [f"cvae/{entry}/__main__.py" if package else f"cvae/{entry}.py", *map(str, words)])
        if entry == "train" and not getattr(request.module, "DRAWS_CURVES", False):
            monkeypatch.setattr("cvae.charts.curves", _draw_nothing)
        usual = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as stop:
            module.main()
        signal.signal(signal.SIGTERM, usual)  # a run has its own
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        console.cache_clear()
        _drop_hydras_handlers()
        code = stop.value.code
        out, err = capfd.readouterr()
        return Result(0 if code is None else int(code), out, err)

    return run


@pytest.fixture
def train(command):
    """Run ``python -m cvae.train WORDS`` in this process."""
    return partial(command, "train")


def _in_this_process(task: Any, jobs: Any, workers: int | None) -> Iterator[Any]:
    return (task(job, lambda: None) for job in jobs)


@pytest.fixture
def convert_apart(command):
    """Run ``python -m cvae.data convert WORDS``."""
    return partial(command, "data", "convert")


@pytest.fixture
def convert(convert_apart, monkeypatch: pytest.MonkeyPatch):
    """The same without worker processes, which take a second to start."""

    def run(*words: object) -> Result:
        from cvae.data.convert import command

        with monkeypatch.context() as patch:
            patch.setattr(command, "each_in_processes", _in_this_process)
            return convert_apart(*words)

    return run


def tiny(root: Path, *words: str) -> list[str]:
    """Overrides of a run that takes a second: a tiny model on ``root``, 2 epochs of 2 steps, no W&B."""
    return [
        "data=course",
        f"data.root={root}",
        "model=tiny",
        "likelihood=mse",
        "kl_schedule=cyclical",
        "epochs=2",
        "epoch_size=2",
        "batch_size=2",
        "n_future=2",
        "n_eval=6",
        "precision=fp32",
        "logger=none",
        *words,
    ]


@pytest.fixture(scope="session")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run, which tests only read."""
    from cvae.start import compose
    from cvae.train import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(tmp_path_factory.mktemp("trained"))
        train(compose(tiny(drawn, "n_future=4")), "multirun/single/R")
        return Path("multirun/single/R").absolute()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with run_postgres() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Postgres) -> Postgres:
    """A real PostgreSQL that runs, whatever an earlier test did to it."""
    postgres_server.start()
    return postgres_server


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Slurm]:
    with run_slurm() as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """A real Slurm with four idle CPUs, that this process and its children find; afterwards it has no jobs."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)  # of a cluster that the tests themselves run on
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_cluster
    slurm_cluster.clear()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with run_browser() as browser:
        yield browser


# --- another app ------------------------------------------------------------------------------------------------------

_CODE = """
import hydra

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
BODY

if __name__ == "__main__":
    main()
"""
_CONFIG = """
defaults:
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: random
  - _self_
hydra:
  sweeper: {n_trials: 3, n_jobs: 1, sampler: {seed: 1}, params: PARAMS}
x: 1.0
y: 1
"""


class App:
    """A Hydra app that knows nothing of this package: ``app.py`` and ``config.yaml`` in the working folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capfd = monkeypatch, capfd

    def write(
        self, body: str = "return cfg.x ** 2 + cfg.y", config: str = "", params: str = "{x: 'interval(-1.0, 1.0)'}"
    ) -> App:
        """The app's function, by its body; the config is 3 random trials of ``params``, and what ``config`` adds."""
        Path("app.py").write_text(_CODE.replace("BODY", textwrap.indent(textwrap.dedent(body).strip(), "    ")))
        Path("config.yaml").write_text(_CONFIG.replace("PARAMS", params) + textwrap.dedent(config))
        return self

    def __call__(self, *words: object, script: str = "app.py", multirun: bool = True) -> Result:
        """Run ``python app.py -m WORDS`` in this process."""
        from cvae.console import console

        console.cache_clear()
        environment = dict(os.environ)
        self._patch.setattr(sys, "argv", [script, *(["-m"] if multirun else []), *map(str, words)])
        code: Any = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        finally:
            os.environ.clear()
            os.environ.update(environment)
            console.cache_clear()
            _drop_hydras_handlers()
        out, err = self._capfd.readouterr()
        return Result(0 if code is None else int(code), out, err)

    def folders(self) -> list[Path]:
        """The folders of its sweeps, the newest last."""
        found = [path.parent for path in Path("multirun").rglob("sweep.json")]
        return sorted(found, key=lambda folder: (folder / "sweep.json").stat().st_mtime_ns)

    def record(self) -> dict[str, Any]:
        """``sweep.json`` of its newest sweep."""
        return json.loads((self.folders()[-1] / "sweep.json").read_text())


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> App:
    monkeypatch.syspath_prepend(tmp_path)
    return App(monkeypatch, capfd)


# --- a pretended CUDA runtime -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a Python process has two pretended GPUs; skips, or fails in CI, where it cannot be built."""
    if lacking := lacking_for_pretended():
        missing(f"a pretended CUDA needs {lacking}")
    variables = build_pretended(tmp_path_factory.mktemp("pretended"))
    own = {"CVAE_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    return {**os.environ, **variables, **own, "PYTHONPATH": str(Path(__file__).parents[1])}


@pytest.fixture(scope="session")
def process(pretended: dict[str, str]) -> Callable[..., str]:
    """Run Python with pretended GPUs; returns what it prints."""

    def run(*words: str, code: int = 0, **variables: str) -> str:
        environment = {**pretended, **variables}
        done = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def measured(process: Callable[..., str]) -> Callable[[dict[str, list[str]]], dict[str, dict[str, Any]]]:
    """What kinds of steps ask of CUDA: name to overrides, to what ``steps.py`` finds."""

    def measure(kinds: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
        said = process(str(Path(__file__).parent / "cuda" / "steps.py"), json.dumps(kinds))
        lines = (json.loads(line.removeprefix("FOUND ")) for line in said.splitlines() if line.startswith("FOUND "))
        return {found.pop("name"): found for found in lines}

    return measure
