"""A pretended CUDA runtime (``pretended/``), built once, and processes that run on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretended import build
from servers import missing

HERE = Path(__file__).parent
LIMIT = 600  # seconds, for hangs


@pytest.fixture(scope="session")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a Python process has two pretended GPUs; skips, or fails in CI, where it cannot be built."""
    if lacking := build.missing():
        missing(f"a pretended CUDA needs {lacking}")
    cache = tmp_path_factory.mktemp("cache")
    variables = build.build(tmp_path_factory.mktemp("pretended"))
    root = str(HERE.parents[1])
    return {
        **os.environ,
        **variables,
        "CVAE_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": root,
        "WANDB_MODE": "disabled",
    }


@pytest.fixture(scope="session")
def process(pretended: dict[str, str]) -> Callable[..., str]:
    """Run Python with pretended GPUs; returns what it prints."""

    def run(*words: str, code: int = 0, **variables: str) -> str:
        environment = {**pretended, **variables}
        done = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def measured(process: Callable[..., str]) -> Callable[[dict[str, list[str]]], dict[str, dict[str, Any]]]:
    """What kinds of steps ask of CUDA: name to overrides, to what ``steps.py`` finds."""

    def measure(kinds: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
        lines = [line for line in process(str(HERE / "steps.py"), json.dumps(kinds)).splitlines() if line.startswith("FOUND ")]
        return {found.pop("name"): found for found in map(json.loads, (line.removeprefix("FOUND ") for line in lines))}

    return measure
