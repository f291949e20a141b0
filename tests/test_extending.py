"""The examples of docs/extending.md, taken out of the page, work in a package outside of the checkout."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cvae.training import checkpoint

SAVE = checkpoint.save
PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
KINDS = ["KL schedule", "Forcing schedule", "Likelihood", "Backbone", "Optimizer", "Dataset", "Logger", "Metric"]
TOGETHER = "Together, in sweeps and reports"
FENCE = r"^```{}\n(.*?)^```"
SMALL = {
    "data.train": "data.train=4 data.validate=2 data.test=0",
    "model": "model=tiny",
    "logger": "logger=none",
    "": "epochs=2 epoch_size=2 batch_size=2 n_future=2 n_eval=6 precision=fp32 device=cpu",
}
# What a part of this kind takes the place of: the shrinking overrides that do not go with it.
REPLACED = {"Backbone": ["model"], "Dataset": ["data.train"], "Logger": ["logger"], TOGETHER: ["data.train", "model", "logger"]}
FACTS = {  # what the report's page holds of a run with this part; a logger is no setting of a run
    "KL schedule": '"kl_schedule":"ramp"',
    "Forcing schedule": '"tf_schedule":"stairs"',
    "Likelihood": '"likelihood":"nats_per_value"',
    "Backbone": '"model.backbone":"patches"',
    "Optimizer": '"optim":"sign_sgd"',
    "Dataset": '"data.source":"squares"',
    "Logger": "mypkg.loggers.CsvLogger",
    "Metric": '"key":"val/mae"',
}


def section(kind: str) -> str:
    """The text below a heading of the page."""
    return re.split(r"^## ", PAGE.read_text().partition(f"\n## {kind}\n")[2], flags=re.MULTILINE)[0]


def files(kind: str) -> dict[str, str]:
    """The files of a section: blocks of which a comment on top names one."""
    blocks = re.findall(FENCE.format("(?:python|yaml)"), section(kind), re.MULTILINE | re.DOTALL)
    return {re.search(r"^# (mypkg/\S+)$", block, re.MULTILINE)[1]: block for block in blocks}


def commands(kind: str) -> list[list[str]]:
    """The words of a section's commands."""
    blocks = re.findall(FENCE.format("bash"), section(kind), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in "".join(blocks).replace("\\\n", " ").splitlines()]


def small(kind: str) -> list[str]:
    return [word for key, words in SMALL.items() if key not in REPLACED.get(kind, []) for word in words.split()]


def write(tmp_path: Path, kinds: list[str]) -> None:
    for kind in kinds:
        for name, content in files(kind).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is where ``python -m`` looks for packages."""
    monkeypatch.syspath_prepend(tmp_path)


def interrupted(path: Path, state: dict, facts: dict) -> None:
    """Ctrl-C after the first checkpoint."""
    SAVE(path, state, facts)
    if path.name == "last.pt":
        raise KeyboardInterrupt


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def only(pattern: str) -> Path:
    (found,) = Path().glob(pattern)
    return found


def test_the_page_shows_each_kind_with_its_files_and_both_ways():
    for kind in KINDS:
        python, option = sorted(files(kind), key=lambda name: Path(name).suffix)
        assert (Path(python).suffix, Path(option).suffix, Path(option).parts[:2]) == (".py", ".yaml", ("mypkg", "conf"))
        once, by_option, *_ = commands(kind)
        assert "--config-dir" not in once
        assert "--config-dir" in by_option


def test_all_eight_parts_build_one_run_that_trains(train, tmp_path):
    write(tmp_path, KINDS)
    ((python, m, entry, *words), *_) = commands(TOGETHER)
    assert (python, m, entry) == ("python", "-m", "cvae.train")
    result = train(*words, *small(TOGETHER), "data.source.count=10", "hydra.run.dir=run")
    assert (result.code, result.err) == (0, "")
    for said in (
        "mypkg.datasets.squares: 8 train, 2 validate",
        "patches, ",
        "2 values a condition",
        "KL Ramp(start=0.1, end=0.6), forcing stairs(count=4)",
        "NatsPerValue, beta 0.0001, implied sigma 0.111",
    ):
        assert said in result.out
    assert re.search(r"^epoch 2/2 .* MAE 0\.\d+", result.out, re.MULTILINE)
    logged = rows(Path("run"))
    assert all(0 < row["val/mae"] < 1 for row in logged)
    # t of the epoch's two iterations is 0.5 and 0.75: the ramp is at 0.8 and 1, the stairs at 0.5 and 0.25.
    assert logged[1]["kl_weight"] == pytest.approx(1e-4 * 0.9)
    assert logged[1]["tf_ratio"] == pytest.approx(0.375)
    with Path("run/metrics.csv").open() as file:
        assert [float(row["val/mae"]) for row in csv.DictReader(file)] == [row["val/mae"] for row in logged]
    assert "SignSGD" in Path("run/.hydra/config.yaml").read_text()


@pytest.mark.slow
def test_a_part_is_found_in_the_working_folder_by_a_real_command(tmp_path):
    write(tmp_path, ["KL schedule"])
    once = commands("KL schedule")[0]
    words = [*once[3:], "show=schedules"]
    done = subprocess.run([sys.executable, "-m", "cvae.train", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open("schedules.png") as drawing:
        assert min(drawing.size) > 100


def test_keys_left_over_from_the_old_option_are_named_with_the_words_that_drop_them(train, tmp_path):
    write(tmp_path, ["KL schedule"])
    words = commands("KL schedule")[0][3:]
    result = train(*(word for word in words if not word.startswith("~")), *small("KL schedule"))
    assert result.code == 1
    assert "mypkg.schedules.Ramp takes no ramp, but start, end" in result.err
    assert "~kl_schedule.ramp" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone_trains_resumes_sweeps_and_appears_in_the_report(train, command, tmp_path, monkeypatch, kind):
    write(tmp_path, [kind])
    for words in commands(kind):
        result = train(*words[3:], *small(kind))
        assert (result.code, result.err) == (0, ""), words
    runs = sorted(Path("multirun/single").iterdir())
    assert len(runs) == 2
    assert [len(rows(run)) for run in runs] == [2, 2]

    _, resume, sweep, report, *_ = commands(TOGETHER)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        assert train(*commands(kind)[1][3:], *small(kind), "hydra.run.dir=RUN").code == 130
    result = train(*resume[3:])
    assert (result.code, result.err) == (0, "")
    assert "resumed at epoch 1" in result.out
    assert [row["epoch"] for row in rows(Path("RUN"))] == [1, 2]

    choice = [word for word in commands(kind)[1][3:] if word not in sweep]
    assert "kl_schedule=ramp" in sweep
    words = [word for word in sweep[3:] if word != "kl_schedule=ramp"]
    result = train(*words, *choice, *small(kind), "hydra.sweep.dir=multirun/sweep")
    assert (result.code, result.err) == (0, ""), result.out
    record = json.loads(Path("multirun/sweep/sweep.json").read_text())
    assert (len(record["trials"]), record["directions"]) == (2, ["minimize" if kind == "Metric" else "maximize"])
    again = re.search(r"^again +python -m cvae\.train (.*)$", result.out, re.MULTILINE)
    result = train(*shlex.split(again[1]))
    assert (result.code, result.err) == (0, "")

    result = command("report", *report[3:])
    assert (result.code, result.err) == (0, "")
    page = Path("report.html").read_text()
    assert FACTS[kind] in page
    assert all(run.name in page for run in runs)
    assert sys.modules.get(f"mypkg.{Path(next(iter(files(kind)))).stem}")


@pytest.mark.slow
def test_an_installed_packages_options_are_found_by_its_name(train, tmp_path):
    write(tmp_path, ["KL schedule"])
    *_, touch, by_package = commands(TOGETHER)
    subprocess.run(touch, check=True)
    result = train(*by_package[3:], *small("KL schedule"))
    assert (result.code, result.err) == (0, "")
    assert "KL Ramp(" in result.out
