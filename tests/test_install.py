"""A wheel carries everything and works from a directory that knows nothing of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The unpacked wheel, built from a copy: building writes into its source."""
    source = tmp_path_factory.mktemp("source") / "cvae"
    leave = shutil.ignore_patterns(".git", ".venv", "multirun", "__pycache__", "*.egg-info", ".*_cache", "build", "tests")
    shutil.copytree(ROOT, source, symlinks=True, ignore=leave)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = (source / "dist").glob("*.whl")
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(target)
    return target


def run(wheel: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_what_runs(wheel):
    assert Path(run(wheel, "-c", "import cvae; print(cvae.__file__)").strip()).parent == wheel / "cvae"


def test_the_wheel_carries_the_whole_conf(wheel):
    carried = {path.relative_to(wheel / "cvae/conf") for path in (wheel / "cvae/conf").rglob("*.yaml")}
    assert carried == {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}


def test_the_wheel_carries_the_whole_page(wheel):
    carried, own = ({path.name for path in (root / "cvae/report/html/assets").iterdir()} for root in (wheel, ROOT))
    assert carried == own


@pytest.mark.slow
def test_the_wheel_composes_and_shows_schedules(wheel):
    assert "cvae.schedules.Monotonic" in run(wheel, "-m", "cvae.train", "--cfg", "job", "kl_schedule=monotonic")
    assert "schedules.png" in run(wheel, "-m", "cvae.train", "show=schedules")
