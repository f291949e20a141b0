"""The notebook runs from its first cell to its last, shrunk."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def read() -> Any:
    return pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of Jupyter's sockets
def test_the_notebook_runs(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = read()
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    small = [word for word in tiny(drawn) if not word.startswith("kl_schedule=")]
    parameters.source = f"overrides = {[*small, 'epochs=2']!r}"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert shown.count("image/png") == 3  # curves, a table of frames, PSNR by frame
    assert shown.count("image/gif") == 1
    assert len(list((tmp_path / "multirun" / "single").iterdir())) == 1
    assert (tmp_path / "predictions" / "quickstart" / "strip.png").is_file()
    assert len(list(tmp_path.glob("multirun/*/*/run.json"))) == 1 + 3  # the run, and the sweep's trials
    assert (tmp_path / "report.html").stat().st_size > 100_000


def test_the_notebook_is_clean_and_names_the_project_s_address() -> None:
    """No outputs, which name places of a machine; and the address is that of setup.cfg, be it none."""
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (address,) = [found for cell in cells for found in re.findall(r'^URL = "(.*?)"', cell.source, re.MULTILINE)]
    assert address == setup["metadata"].get("url", "")
