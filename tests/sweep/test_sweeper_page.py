"""docs/sweeper.md: its app runs as it stands there, and its table is the plugin's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import App

import hydra_plugins.cvae_optuna as plugin
from cvae.sweep.distributions import written

PAGE = Path(__file__).parents[2].joinpath("docs", "sweeper.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def page(app: App) -> App:
    """The page's app in the working folder."""
    Path("app.py").write_text(blocks("python")[0])
    Path("config.yaml").write_text(blocks("yaml")[0])
    return app


@pytest.mark.slow
def test_the_app(page: App) -> None:
    """With a fifth of the page's trials."""
    commands = [shlex.split(line, comments=True) for line in blocks("bash")[0].splitlines()]
    assert [words[:3] for words in commands] == [["python", "app.py", "-m"]] * 3
    for words, count in zip(commands, (4, 5, 4), strict=True):
        result = page(*(word for word in words[3:] if "n_trials" not in word), f"hydra.sweeper.n_trials={count}")
        assert (result.code, result.err) == (0, "")
        assert len(page.record()["trials"]) == count
    assert page.record()["space"] == {"x": "0..3", "edge": "1..4 step 1"}
    names = {path.name.partition(".")[0] for path in Path("multirun/studies").glob("*.journal")}
    assert len(names) == 2, "the second command goes on with the first one's study"


@pytest.mark.slow
def test_conditions_hold_on_the_page(page: App) -> None:
    assert page("hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.seed=1").code == 0
    kinds = {trial["params"]["kind"]: "edge" in trial["params"] for trial in page.record()["trials"]}
    assert kinds == {"round": False, "square": True}


def test_the_table_is_the_plugin_s() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", PAGE, re.MULTILINE)
    apart = ("_target_", "_recursive_", "defaults", "search_space")  # the last is refused
    defaults = {key: written(value) for key, value in plugin._SWEEPER.items() if key not in apart}
    assert dict(rows) == defaults
    assert len(rows) == len(defaults)


@pytest.mark.parametrize(("group", "names"), [("sampler", plugin._SAMPLERS), ("pruner", plugin._PRUNERS)])
def test_samplers_and_pruners_are_all_named(group: str, names: dict) -> None:
    paragraph = PAGE[PAGE.index("`hydra/sweeper/sampler=` takes") :].split("\n\n")[0]
    for name in names:
        assert (f"`{name}`" in paragraph) == (name != "motpe")


def test_what_a_job_may_do_exists() -> None:
    from cvae.trial import NoTrial

    used = set(re.findall(r"^trial\.(\w+)", blocks("python")[1], re.MULTILINE))
    assert used == {"report", "stopping", "record", "use_data"}
    assert all(hasattr(NoTrial, name) for name in used)
