"""Every command of README and docs is run, shrunk by overrides. One that cannot run here stands in NOT_RUN with the reason."""

from __future__ import annotations

import configparser
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import course_study
import forcing_end
import numpy as np
import pytest
import yaml
from conftest import App, Result, tiny
from kept_runs import kept_runs
from PIL import Image

import cvae
from cvae.pages.document import to_markdown
from cvae.start import compose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_INSTALLED = ".ci/run installs with it"
_GPUS = "needs several GPUs"
_SERVES = "serves until it is stopped"
_ACCOUNT = "needs a W&B account"
_MEASURES = "measures for minutes: tests/scripts/test_benchmark.py runs it on a small model"
_SHRUNK = "half an hour: tests/scripts/test_quality.py runs it, shrunk"
_CHECKS = ".ci/run runs it"
NOT_RUN = {
    "python3 -m venv .venv": _INSTALLED,
    ".venv/bin/pip install -q -e .": _INSTALLED,
    ".venv/bin/pip install -q -e '.[test]'": _INSTALLED,
    "pip install -e '.[report]'": _INSTALLED,
    "pip install -e '.[docs]'": _INSTALLED,
    "pip install -e '.[test,sweep,slurm,report,docs,sim]' pre-commit": _INSTALLED,
    "pip install -c constraints/lowest.txt -e '.[test]'": "installs other versions: the workflow does",
    "source .venv/bin/activate": "changes the shell",
    ".venv/bin/python -m pytest": "it would run itself",
    "python -m pytest": "it would run itself",
    "python -m pytest -m slow": "it would run itself",
    "python -m pytest -m faults": _CHECKS,
    "python scripts/torture.py --minutes 60": "an hour: tests/faults runs the short form",
    "python scripts/torture.py --short": "tests/faults runs it",
    "python scripts/big_data.py": "16 GB and minutes: tests/scripts/test_big_data.py runs a small one",
    "python scripts/torture.py --only damage --verbose": "tests/faults runs the short form",
    "python -m pytest -m cuda": _CHECKS,
    "python -m pytest -m cuda tests/cuda/test_steps.py": _CHECKS,
    "python -m pytest -m servers": _CHECKS,
    "python -m cvae.train experiment=tune_default": "hours: tests/scripts/test_default_search.py runs it, shrunk",
    "python -m cvae.train experiment=tune_default data=course data.root=FOLDER hydra.sweeper.cases=null "
    "hydra.sweeper.warm_start=null hydra.sweeper.constraints=null hydra/sweeper/pruner=none": "hours",
    "python tests/draw_video.py data/drawn": "400 videos: tests/scripts/test_default_search.py draws a few",
    **{
        "python -m cvae.train -m seed=1,2,3 n_samples=10 validate_every=2 sample_every=0 logger=none hydra/launcher=local "
        f"hydra.launcher.n_jobs=2 {data} hydra.sweep.dir=multirun/seeds_{name}": "half an hour: a grid as others that are run"
        for name, data in (
            ("sawyer", "data=course data.root=data/sawyer_push"),
            ("world1", "data.world=1"),
            ("world2", "data.world=2"),
        )
    },
    "python -m cvae.train -m seed=1,2,3,4,5,6,7,8 model.rollout=planned,stepwise n_samples=10 validate_every=7 sample_every=0 "
    "kl_schedule.nats=0.7 logger=none hydra/launcher=local hydra.launcher.n_jobs=2 hydra.sweep.dir=multirun/batchnorm": "hours",
    **dict.fromkeys(
        (
            "python -m cvae.data make sawyer data/sawyer",
            "python tests/data/convert/course_layout.py data/sawyer data/sawyer_videos",
            "python tests/data/convert/write_with_ledataset.py data/sawyer_lerobot data/sawyer",
            "python -m cvae.data convert data/sawyer_videos data/from_videos",
            "python -m cvae.data convert data/sawyer_lerobot data/from_lerobot",
            "python -m cvae.train data=course data.root=data/sawyer n_samples=10 validate_every=7",
            "python -m cvae.train data=packed data.root=data/from_videos n_samples=10 validate_every=7",
            "python -m cvae.train data=packed data.root=data/from_lerobot n_samples=10 validate_every=7",
        ),
        "minutes: tests/data run each step on less",
    ),
    "python -m cvae.train epochs=4 'validate_at=[20:120:20,150]'": "it asks for more iterations than a shrunk run has: "
    "tests/training/test_validate_at.py",
    "python scripts/default_search.py --seeds multirun/seeds_*": "it needs those multiruns: tests/scripts has some",
    'python scripts/benchmark.py --quality --data "data=course data.root=data/sawyer_push" --data "data.world=1"': _SHRUNK,
    "python scripts/default_search.py --sweep multirun/tune_default": "it needs that sweep: tests/scripts has one",
    "pre-commit install": "changes the checkout",
    ".ci/check": _CHECKS,
    ".ci/check lint": _CHECKS,
    ".ci/run": "it runs these tests",
    "mkdocs build -f docs/mkdocs/mkdocs.yml": ".ci/check builds the site",
    "mkdocs serve -f docs/mkdocs/mkdocs.yml": _SERVES,
    "python scripts/course_study.py --out docs/study.md": "hours: tests/scripts/test_course_study.py runs it, shrunk",
    "python scripts/course_study.py --full --jobs 1 --out study.md data.root=ROOT": "it needs a GPU for long",
    "python scripts/course_study.py --pilot --out docs/study.md": "an hour",
    "python scripts/forcing_end.py --out docs/forcing_end.md": "hours: tests/scripts/test_forcing_end.py runs its parts",
    "python scripts/latent_actions.py --out docs/latent_actions.png": "hours: tests/scripts has a short one",
    "python scripts/sweep_overhead.py": "minutes: tests/scripts/test_sweep_overhead.py runs it, shrunk",
    "python docs/mkdocs/drawing.py": "writes into the checkout: test_the_drawing_is_its_script_s compares",
    "wandb login": _ACCOUNT,
    "wandb sync": _ACCOUNT,
    "wandb sweep --project cvae conf/wandb_sweep.yaml": f"{_ACCOUNT}: tests/training/test_wandb.py does as its agent does",
    "wandb sync multirun/2026-11-23_10-00-00_a1b2/*/wandb/offline-run-*": _ACCOUNT,
    "tensorboard --logdir multirun": f"{_SERVES}: tests/training/test_tensorboard.py reads what it shows",
    "optuna-dashboard multirun/studies/NAME.journal": _SERVES,
    "python -m cvae.report watch=true": f"{_SERVES}: tests/report starts and stops it",
    "python scripts/benchmark.py": _MEASURES,
    "python scripts/benchmark.py --quick": _MEASURES,
    "python scripts/benchmark.py --gpu-check": "needs a GPU: tests/scripts/test_benchmark.py runs the list on a CPU",
    "python scripts/benchmark.py --gpu-check --json gpu.json": "needs a GPU",
    "python scripts/benchmark.py --gpu-check capture,graphs": "needs a GPU",
    "torchrun --nproc_per_node=4 -m cvae.train batch_size=48": _GPUS,
    "torchrun --nproc_per_node=4 -m cvae.train resume=RUN": f"{_GPUS}: tests/training/test_distributed.py resumes on CPUs",
    "srun torchrun --nnodes=$SLURM_NNODES --nproc_per_node=4 --rdzv_backend=c10d --rdzv_id=$SLURM_JOB_ID "
    "--rdzv_endpoint=$(hostname):29500 -m cvae.train batch_size=96": "needs several hosts with GPUs",
    "python -m cvae.train experiment=sweep_lr_tfr_beta hydra.sweeper.storage=postgresql://USER@HOST/NAME": "needs a server: "
    "tests/sweep/test_postgres.py starts one",
    "python app.py -m hydra.sweeper.storage=postgresql://USER@HOST/NAME": "needs a server: see above",
    "export PGPASSWORD=...": "a password",
    "python -m cvae.predict": "it needs words",
    "python -m cvae.evaluate": "it needs words",
    "pip install -e '.[video]'": _INSTALLED,
    "pip install -e '.[evaluate]'": _INSTALLED,
    "pip install -e '.[data]'": _INSTALLED,
    "python scripts/convert_rate.py": "1.5 GB and minutes: tests/scripts/test_convert_rate.py runs a small one",
    "python scripts/convert_rate.py --kills 5": "minutes: tests/scripts/test_convert_rate.py runs a small one",
    "python scripts/damaged_inputs.py": "minutes: tests/scripts/test_damaged_inputs.py runs a few cases",
    "python -m cvae.data convert SRC DST": "a form: those with names are run",
    "python -m cvae.data": "it needs words",
    "pip install -e '.[sim]'": _INSTALLED,
    "apt-get install libosmesa6": _INSTALLED,
    "python -m cvae.data make sawyer DST": "minutes: tests/data/test_sawyer.py makes a few",
    "python scripts/big_data.py --sequences 10000 --check": "minutes: tests/scripts/test_big_data.py runs a small one",
    "python -m cvae.train data=sawyer": "minutes: tests/data/test_sawyer.py trains on a few",
    "python -c \"import torchvision.models as m; m.alexnet(weights='DEFAULT')\"": "needs a network",
    "python scripts/import_course_checkpoint.py model.pth --trust --root=ROOT": "needs a checkpoint of another group: "
    "tests/scripts/test_import_course_checkpoint.py makes one",
}
TESTED_APART = {"extending.md": "tests/test_extending.py"}  # pages whose code and commands another test takes and runs
COMMANDS = r"(?:\.venv/bin/)?(?:python3?|pip|torchrun|wandb|tensorboard|mkdocs|pre-commit|cvae-\w+|eval|\.ci/\w+) "


def commands(page: Path) -> list[str]:
    """The commands of a page without their comments: of its blocks of bash, and those in its sentences."""
    text = page.read_text(encoding="utf-8")
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "bash" or re.match(COMMANDS, block):
            lines = re.sub(r" *\\\n *", " ", block).splitlines()
            found += [each for line in lines for each in re.sub(r"(^| +)#.*", "", line).split(" && ")]
    sentences = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found += [" ".join(each.split()) for each in re.findall(rf"`({COMMANDS}[^`]+)`", sentences)]
    return [each for each in found if each]


ALL = list(dict.fromkeys(each for page in PAGES if page.name not in TESTED_APART for each in commands(page)))
RUN = [each for each in ALL if each not in NOT_RUN]


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN, ids=str)
@pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")  # of W&B's workspaces
def test_command(line: str, place: Callable[[str], str], start: Callable[[str], Result]) -> None:
    result = start(place(line))
    assert result.code == 0, result.out + result.err
    assert "error" not in result.err


@pytest.mark.parametrize("line", [each for each in NOT_RUN if " -m cvae.train " in each])
def test_what_is_not_run_composes(line: str) -> None:
    words = shlex.split(line.partition(" -m cvae.train ")[2])
    assert compose([word for word in words if not word.startswith("-")])


def test_what_is_not_run_stands_on_a_page() -> None:
    assert set(NOT_RUN) - set(ALL) == set()


@pytest.mark.parametrize("line", RUN, ids=str)
def test_a_command_is_run_or_says_why_not(line: str) -> None:
    """In the plain tests: a new command on a page is noticed before the slow ones are run."""
    assert re.match(RUNNABLE, line), f"no test knows how to run {line!r}: teach it, or put it into NOT_RUN with the reason"


# --- where commands run, and how ---------------------------------------------------------------------------------------

DATE = "2026-11-23_10-00-00_a1b2"  # in names of folders on the pages
SMALL = tiny(Path(), "device=cpu")[2:]  # overrides without those of its data
SHORT_SWEEP = ["hydra.sweeper.n_trials=2"]
QUICK_PROTOCOLS = ["protocol.srvp.samples=2"]
SCRIPTS = {
    "sweep_landscape.py": ["--repetitions", "2", "--trials", "12", "--pruners", "halving"],
    "wandb_report.py": ["--print"],
    "readme_gif.py": ["--sequences", "0", "--frames", "6", "--out", "futures.gif"],
    "default_search.py": ["--kept", str(ROOT / "docs/default_search")],
}
RUNNABLE = (
    r"(\.venv/bin/)?python (-m cvae\.(train|report|evaluate|predict|data)|app\.py"
    rf"|scripts/({'|'.join(map(re.escape, SCRIPTS))}))( |$)|torchrun |eval "
)  # what the fixture `start` can run


def write_files(page: Path) -> None:
    """Write the files that a page shows: blocks of code below a line that holds nothing but their name."""
    text = page.read_text(encoding="utf-8")
    for name, code in re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)```", text, re.MULTILINE | re.DOTALL):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(code)


def write_recordings() -> None:
    """The sources that docs/data.md converts, each a few frames."""
    fixtures = ROOT / "tests/fixtures/convert"
    for split in ("train", "test"):
        Path("softmotion30_44k", split).mkdir(parents=True)
        shutil.copy(fixtures / "two_records.tfrecords", Path("softmotion30_44k", split))
    shutil.copytree(fixtures / "lerobot_v3", "my_robot")
    Path("my_videos").mkdir()
    for k in range(4):
        frames = [Image.new("RGB", (64, 64), (60 * k, 20 * t, 90)) for t in range(12)]
        frames[0].save(f"my_videos/{k}.gif", save_all=True, append_images=frames[1:])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def place(
    made: Path, drawn: Path, train: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Put what a command names into the working folder, and return the command with the names of this machine."""

    def prepare(command: str) -> str:
        monkeypatch.setenv("CVAE_CACHE", str(made / "cache"))  # the simulated world is drawn once
        if re.search(rf"\bRUN|{DATE}", command) or "cvae.report" in command:
            if not (made / "multirun").exists():
                monkeypatch.chdir(made)
                assert train(*tiny(drawn), f"hydra.run.dir=multirun/single/{DATE}").code == 0
                sweep = ["experiment=sweep_lr_tfr_beta", "hydra.sweeper.n_trials=2", f"hydra.sweep.dir=multirun/{DATE}"]
                assert train(*tiny(drawn), *sweep).code == 0
                monkeypatch.chdir(tmp_path)
            shutil.copytree(made / "multirun", "multirun")
            for name in re.findall(r"multirun/(\w+)(?=[],])", command):
                shutil.copytree(made / "multirun" / DATE, Path("multirun") / name)
        if "my_actions" in command:
            source = drawn / "test" / "take 0" / "00"
            tables = [np.loadtxt(next(source.glob(name)), delimiter=",") for name in ("actions.csv", "endeff*.csv")]
            np.savetxt("my_actions.csv", np.concatenate(tables, axis=1), delimiter=",")
            shutil.copytree(source, "my_pictures")
        if "cvae.data convert" in command or "data/videos" in command or "data/bair" in command:
            write_recordings()
        for name in re.findall(r"data.root=(data/\w+)", command):  # converted by the command before it
            to = "packed" if "data=packed" in command else "png"
            words = ["my_videos", name, "--to", to, "--shortest", "6", "--workers", "1"]
            subprocess.run(
                [sys.executable, "-m", "cvae.data", "convert", *words], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        if "app.py" in command:
            write_files(ROOT / "docs/sweeper.md")
        if "mypkg" in command:
            write_files(ROOT / "README.md")
            monkeypatch.syspath_prepend(tmp_path)
        if "--out docs" in command:
            shutil.copytree(ROOT / "docs", "docs", ignore=shutil.ignore_patterns("mkdocs"))
        runs = {"RUN_A": f"multirun/{DATE}/0", "RUN_B": f"multirun/{DATE}/1", "RUN": f"multirun/single/{DATE}"}
        return re.sub(r"\b(RUN_A|RUN_B|RUN|ROOT)\b", lambda found: {**runs, "ROOT": str(drawn)}[found[0]], command)

    return prepare


@pytest.fixture
def start(command, app: App, monkeypatch, capfd) -> Callable[[str], Result]:
    """Run a command, shrunk: in this process where that can be."""

    def script(path: str, *words: str) -> Result:
        monkeypatch.setattr(sys, "argv", [path, *words])
        code = 0
        try:
            runpy.run_path(str(ROOT / path), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, *capfd.readouterr())

    def shell(line: str) -> Result:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=environment)
        return Result(done.returncode, done.stdout, "" if done.returncode == 0 else done.stderr)

    def run(line: str) -> Result:
        words = shlex.split(line.removeprefix(".venv/bin/"))
        if words[:3] == ["python", "-m", "cvae.train"]:
            return command("train", *_shrunk(words[3:]))
        if words[:3] == ["python", "-m", "cvae.report"]:
            return command("report", *words[3:])
        if words[:3] == ["python", "-m", "cvae.evaluate"]:
            return command("evaluate", *words[3:], *QUICK_PROTOCOLS * ("srvp" in line and "samples" not in line))
        if words[:3] == ["python", "-m", "cvae.predict"]:
            return command("predict", *words[3:])
        if words[:3] == ["python", "-m", "cvae.data"]:
            return command("data", *words[3:], *["--shortest", "3", "--workers", "1"] * (words[3] == "convert"))
        if words[:2] == ["python", "app.py"]:
            if (launcher := re.search("joblib|submitit", line)) is not None:
                pytest.importorskip(f"hydra_plugins.hydra_{launcher[0]}_launcher")
            return app(*(words[3:] + SHORT_SWEEP if "-m" in words else words[2:]), multirun="-m" in words)
        if words[:1] == ["python"] and (name := Path(words[1]).name) in SCRIPTS:
            if name == "wandb_report.py":
                pytest.importorskip("wandb_workspaces")
            return script(words[1], *words[2:], *SCRIPTS[name])
        if words[0] == "torchrun":
            return shell(shlex.join([*words, *_shrunk(words[words.index("cvae.train") + 1 :], only_more=True)]))
        if words[0] == "eval":
            return shell(line)
        raise ValueError(line)  # RUNNABLE says more than this function knows

    return run


def _shrunk(words: list[str], only_more: bool = False) -> list[str]:
    """A training command's words, and those that make it small; groups that it chooses itself stay."""
    line = " ".join(words)
    if any(word.startswith(("resume=", "show=", "--help", "--cfg")) for word in words):
        return words
    chosen = {word.partition("=")[0] for word in words}
    kept = {"kl_schedule", "likelihood", "logger", "model", "precision", "epochs", "device", "batch_size"} & chosen
    more = [word for word in SMALL if word.partition("=")[0] not in kept]
    if "experiment=" in line:  # its own schedules and likelihood
        more = [word for word in more if not word.startswith(("kl_schedule=", "likelihood="))]
    if not re.search(r"=course|=packed|course_|\.yaml", line):
        more += ["data.train=4", "data.validate=2", f"data.test={2 if 'evaluate=' in line else 0}"]
    if "optuna" in line or "experiment=sweep" in line:
        more += [*SHORT_SWEEP, "hydra.sweeper.top_k_seeds=2"]
        more += ["hydra/launcher=basic"] if "experiment=sweep_quick" in line else []
    return more if only_more else [*words, *more]


# --- pages and files say what is so ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert [link for link in links if link and "://" not in link and not (page.parent / link).exists()] == []


def test_every_room_is_on_the_page_of_the_architecture() -> None:
    on_page = set(re.findall(r"^\| `([\w.]+/?)` \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE))
    rooms = {f"{path.name}/" for path in (ROOT / "cvae").iterdir() if (path / "__init__.py").exists() and not path.is_symlink()}
    rooms |= {path.name for path in (ROOT / "cvae").glob("*.py")} - {"__init__.py"}
    assert rooms <= on_page
    drawn = set(re.findall(r">([\w.]+(?:/|\.py))<", (ROOT / "docs/architecture.svg").read_text()))
    assert drawn == on_page


def test_the_drawing_is_its_script_s() -> None:
    assert runpy.run_path(str(ROOT / "docs/mkdocs/drawing.py"))["drawing"]() == (ROOT / "docs/architecture.svg").read_text()


@pytest.mark.slow
def test_the_study_is_what_its_script_makes_of_the_runs_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvae.study.answers.course_curves", lambda part: b"")
    monkeypatch.setattr(sys, "argv", ["scripts/course_study.py", "--out", "docs/study.md"])
    jobs = [course_study.job(*cell, False, None, []) for cell in course_study.cells(3)]
    runs = course_study.judged(kept_runs(jobs, ROOT / "docs/study_files/runs"))
    page = course_study.page(runs, bair=False, planned=len(jobs))
    assert (ROOT / "docs/study.md").read_text() == to_markdown(page, "study_files/")


@pytest.mark.slow
def test_why_psnr_falls_is_what_its_script_makes_of_the_runs_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("kept_runs.process", lambda *words: pytest.fail(f"it would run {words}"))
    monkeypatch.setattr(forcing_end, "_curves", lambda measured: b"")
    monkeypatch.setattr(
        forcing_end, "write_markdown", lambda blocks, out: made.append(to_markdown(blocks, f"{out.stem}_files/"))
    )
    monkeypatch.setattr(sys, "argv", ["scripts/forcing_end.py", "--so-far", "--out", "docs/forcing_end.md"])
    forcing_end.main()
    assert made == [(ROOT / "docs/forcing_end.md").read_text()]


@pytest.mark.parametrize("name", ["install_requires", "test"])
def test_the_lowest_versions_are_those_of_setup_cfg(name: str) -> None:
    read = configparser.ConfigParser()
    read.read(ROOT / "setup.cfg")
    wanted = read["options" if name == "install_requires" else "options.extras_require"][name]
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "constraints/lowest.txt").read_text(), re.MULTILINE))
    lowest = re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)", wanted, re.MULTILINE)
    assert lowest
    for package, version in lowest:
        if package not in ("ruff", "mypy", "import-linter"):  # tools: they judge with the newest
            assert re.fullmatch(rf"{re.escape(version)}(\.0)*", pins[package]), package


def test_the_workflow_tries_each_python_that_is_claimed() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["check"]
    claimed = re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.cfg").read_text())
    assert job["strategy"]["matrix"]["python"] == claimed
    assert f"python_requires = >={claimed[0]}" in (ROOT / "setup.cfg").read_text()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == cvae.__version__
    assert f"## {cvae.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert len(citation["references"]) == 3


def test_what_commands_write_is_ignored() -> None:
    """A file that git sees would make every later run's record say ``dirty``."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    written = [
        "report.html",
        "report.md",
        "report_files/a.png",
        "schedules.png",
        "study.md",
        "study_files/a.png",
        "site/a.html",
        "contact_sheet.png",
        "show_train_3.gif",
    ]
    written += ["multirun/single/a/run.json", "predictions/a.gif", "gpu.json"]
    done = subprocess.run(["git", "-C", str(ROOT), "check-ignore", *written], capture_output=True, text=True, check=False)
    assert done.stdout.split() == written
