"""Configs that were written for the published Optuna sweeper work as they are."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import App
from omegaconf import OmegaConf

SPHERE = """
defaults:
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: SAMPLER

hydra:
  sweeper:
    sampler:
      seed: 123
    direction: minimize
    study_name: sphere
    storage: null
    n_trials: 4
    n_jobs: 1
    max_failure_rate: 0.0
    params:
      x: range(-5.5, 5.5, step=0.5)
      y: choice(-5, 0, 5)

x: 1
y: 1
z: 1
error: false
"""
BODY = """
if cfg.get("error"):
    raise RuntimeError("cfg.error is True")
return cfg.x ** 2 + cfg.y ** 2
"""


def write(app: App, config: str, body: str = BODY) -> None:
    app.write(body)
    Path("config.yaml").write_text(textwrap.dedent(config))


def results(app: App) -> dict:
    found = OmegaConf.to_container(OmegaConf.load(app.folders()[-1] / "optimization_results.yaml"))
    assert isinstance(found, dict)
    assert found["name"] == "optuna"
    return found


@pytest.mark.slow
def test_the_sphere(app: App) -> None:
    write(app, SPHERE.replace("SAMPLER", "tpe"))
    done = app("~z", "hydra.sweeper.n_trials=12", "hydra.sweeper.sampler.n_startup_trials=3")
    assert (done.code, done.err) == (0, "")
    assert "study      sphere: 0 of 12" in done.out
    found, trials = results(app), app.record()["trials"]
    assert found.keys() == {"name", "best_params", "best_value"}
    assert app.record()["directions"] == ["minimize"]
    best = min(trials, key=lambda trial: trial["values"][0])
    assert found["best_value"] == best["values"][0]
    assert found["best_params"] == best["params"]
    for trial in trials:
        x, y = trial["params"]["x"], trial["params"]["y"]
        assert x % 0.5 == 0
        assert -5.5 <= x <= 5.5
        assert y in (-5, 0, 5)
        assert trial["values"] == [x**2 + y**2]


def test_the_command_line_replaces_params_or_fixes_them(app: App) -> None:
    write(app, SPHERE.replace("SAMPLER", "random"))
    assert app("x=choice(0, 1, 2)", "y=0").code == 0
    trials = app.record()["trials"]
    assert all(trial["params"].keys() == {"x"} for trial in trials)
    assert all(trial["values"] == [trial["params"]["x"] ** 2] for trial in trials)
    assert "y" not in results(app)["best_params"]


@pytest.mark.slow
def test_the_first_failure_ends_a_sweep_that_allows_none(app: App) -> None:
    write(app, SPHERE.replace("SAMPLER", "random"))
    done = app("error=true")
    assert done.code == 1
    assert "RuntimeError: cfg.error is True" in done.err
    assert "max_failure_rate" in done.err
    assert len(app.record()["trials"]) == 1
    assert results(app) == {"name": "optuna"}
    again = app("error=true", "hydra.sweeper.max_failure_rate=0.3", "hydra.sweeper.max_failures=10")
    assert again.code == 1
    assert len(app.record()["trials"]) == 2


# Keys that the published config of each sampler has, most with its value.
SAMPLERS = {
    "tpe": [
        "consider_prior=true",
        "prior_weight=1.0",
        "consider_magic_clip=true",
        "consider_endpoints=false",
        "n_startup_trials=2",
        "n_ei_candidates=24",
        "multivariate=false",
        "warn_independent_sampling=true",
    ],
    "random": [],
    "cmaes": [
        "x0=null",
        "sigma0=null",
        "independent_sampler=null",
        "warn_independent_sampling=false",
        "consider_pruned_trials=false",
        "restart_strategy=null",
        "inc_popsize=2",
        "use_separable_cma=false",
        "source_trials=null",
    ],
    "nsgaii": ["population_size=4", "mutation_prob=null", "crossover_prob=0.9", "swapping_prob=0.5", "constraints_func=null"],
    "grid": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_and_their_keys(app: App, sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    write(app, SPHERE.replace("SAMPLER", sampler))
    space = ["x=choice(-1, 1)", "y=range(-1, 1)"] if sampler == "grid" else ["x=interval(-5.5,5.5)", "y=interval(-5.0,5.0)"]
    done = app(*space, *(f"hydra.sweeper.sampler.{word}" for word in SAMPLERS[sampler]))
    assert (done.code, done.err) == (0, ""), done.err
    assert [trial["state"] for trial in app.record()["trials"]] == ["complete"] * 4
    # What Optuna is about to drop is said in a line a key.
    notices = [line for line in done.out.splitlines() if "deprecated" in line]
    assert all(line.startswith("warning: hydra.sweeper.sampler: ") for line in notices)
    assert len(notices) <= len(SAMPLERS[sampler])


@pytest.mark.slow
def test_a_grid_is_gone_through_once(app: App) -> None:
    write(app, SPHERE.replace("SAMPLER", "grid"))
    done = app("x=choice(-1, 1)", "y=range(0, 2)", "hydra.sweeper.n_trials=20")
    assert "the grid has 6 points: n_trials=6" in done.out
    points = [tuple(trial["params"].values()) for trial in app.record()["trials"]]
    assert sorted(points) == [(x, y) for x in (-1, 1) for y in (0, 1, 2)]
    assert "complete: 6 trials; nothing to run" in app("x=choice(-1, 1)", "y=range(0, 2)", "hydra.sweeper.n_trials=20").out


def test_cmaes_without_its_package(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    write(app, SPHERE.replace("SAMPLER", "cmaes"))
    done = app("x=interval(-5.5,5.5)", "y=interval(-5.0,5.0)")
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert "pip install cmaes" in line


@pytest.mark.slow
def test_several_objectives(app: App) -> None:
    write(
        app,
        """
        defaults:
          - override hydra/sweeper: optuna
          - override hydra/sweeper/sampler: nsgaii
        hydra:
          sweeper:
            sampler: {seed: 123}
            direction: [minimize, minimize]
            study_name: multi-objective
            storage: null
            n_trials: 12
            n_jobs: 1
            params: {x: 'range(0, 5, step=0.5)', y: 'range(0, 3, step=0.5)'}
        x: 1
        y: 1
        """,
        "return 4 * cfg.x**2 + 4 * cfg.y**2, (cfg.x - 5) ** 2 + (cfg.y - 5) ** 2",
    )
    done = app()
    assert (done.code, done.err) == (0, "")
    found = results(app)
    assert found.keys() == {"name", "solutions"}
    points = [solution["values"] for solution in found["solutions"]]
    assert points
    for one in points:
        assert not any(all(a <= b for a, b in zip(other, one, strict=True)) and other != one for other in points)
    record = app.record()
    assert [record["trials"][number]["values"] for number in record["best"]] == points
    for solution in found["solutions"]:
        assert (solution["params"]["x"] % 0.5, solution["params"]["y"] % 0.5) == (0, 0)


CUSTOM = """
import hydra

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    return cfg.x ** 2 + cfg.y ** 2 + cfg.z ** 2 + cfg.w ** 2

def configure(cfg, trial):
    x = trial.params["x"]
    trial.suggest_float("z", x - cfg.max_z_difference_from_x, x + cfg.max_z_difference_from_x)
    trial.suggest_float("+w", 0.0, 1.0)
    assert "y" in trial.params or trial.user_attrs["y"] == "0"

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", ["custom_app.configure", ".custom_app.configure"])
def test_a_space_that_a_function_extends(app: App, path: str) -> None:
    """The published example writes a dot before the module's name."""
    write(
        app,
        f"""
        defaults:
          - override hydra/sweeper: optuna
        hydra:
          sweeper:
            sampler: {{seed: 123}}
            direction: minimize
            study_name: custom-search-space
            storage: null
            n_trials: 4
            n_jobs: 1
            params: {{x: 'range(-5.5, 5.5, 0.5)', y: 'choice(-5, 0, 5)'}}
            custom_search_space: {path}
        x: 1
        y: 1
        z: 100
        max_z_difference_from_x: 0.5
        """,
    )
    Path("custom_app.py").write_text(CUSTOM)
    try:
        done = app("max_z_difference_from_x=0.3", *(["y=0"] if path[0] == "." else []), script="custom_app.py")
    finally:
        sys.modules.pop("custom_app", None)
    assert (done.code, done.err) == (0, ""), done.out
    for trial in app.record()["trials"]:
        params = trial["params"]
        assert abs(params["x"] - params["z"]) <= 0.3
        assert 0 <= params["+w"] <= 1
        y = params.get("y", 0)
        assert trial["values"] == [pytest.approx(params["x"] ** 2 + y**2 + params["z"] ** 2 + params["+w"] ** 2)]
    best = results(app)["best_params"]
    assert {"x", "z", "+w"} <= best.keys()


def test_a_search_space_of_before_params_is_refused_with_advice(app: App) -> None:
    old = "search_space: {x: {type: float, low: -5.5, high: 5.5, step: 0.5}}"
    write(app, SPHERE.replace("SAMPLER", "tpe").replace("params:", f"{old}\n    params:"))
    done = app()
    (line,) = done.err.strip().splitlines()
    assert done.code == 1
    assert line.startswith("error: hydra.sweeper.search_space is {'x': ")
    assert "hydra.sweeper.params=" in line


def test_an_app_that_says_nothing_is_minimised(app: App) -> None:
    """The published default; and what is asked for on the command line alone."""
    write(app, "x: 1.0\n", "return cfg.x")
    assert app("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "x=interval(0.0,1.0)").code == 0
    record = app.record()
    assert record["directions"] == ["minimize"]
    assert results(app)["best_value"] == min(trial["values"][0] for trial in record["trials"])


PUBLISHED = """
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper

@dataclass
class Conf:
    _target_: str = "hydra_plugins.hydra_optuna_sweeper.PublishedSweeper"

class PublishedSweeper(Sweeper):
    def setup(self, *, hydra_context, task_function, config): ...
    def sweep(self, arguments):
        print("the published one")

ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=Conf, provider="optuna_sweeper")
"""


@pytest.mark.slow
def test_beside_the_published_plugin(app: App, tmp_path: Path) -> None:
    """It would take the name silently."""
    plugin = tmp_path / "elsewhere" / "hydra_plugins" / "hydra_optuna_sweeper"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(PUBLISHED)
    write(app, SPHERE.replace("SAMPLER", "tpe"))
    path = os.pathsep.join([str(plugin.parents[1]), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "app.py", "-m"], env=environment, capture_output=True, text=True, check=False)
    (line,) = done.stderr.strip().splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith("error: ")
    assert "pip uninstall hydra-optuna-sweeper" in line
    # Whatever else the app does is left alone.
    single = subprocess.run([sys.executable, "app.py"], env=environment, capture_output=True, text=True, check=False)
    assert (single.returncode, single.stderr) == (0, "")
