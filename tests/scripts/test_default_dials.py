"""What one more change to the default is worth: which runs are asked for, and the page that is made of them."""

from __future__ import annotations

import sys
from pathlib import Path

import default_dials
import pytest
from fakes import fake_run

from cvae.pages.document import to_markdown
from cvae.runs.run import Run, read_run
from cvae.start import compose


@pytest.mark.slow
def test_every_dial_composes_and_differs_from_the_default_in_no_more_than_its_words() -> None:
    jobs = default_dials.plan(2)
    assert len({job.name for own in jobs.values() for job in own}) == 2 * 3 * len(default_dials.DIALS)
    plain = [compose(job.words) for job in jobs["default"]]
    for dial, own in jobs.items():
        for cfg, default in zip([compose(job.words) for job in own], plain, strict=True):
            assert (cfg == default) == (dial == "default")
            assert (cfg.data, cfg.seed, cfg.epochs, cfg.n_samples) == (default.data, default.seed, 14, 10)


def runs(place: Path, better: float, seconds: float) -> list[Run]:
    """Two runs of a dial, on two data sets."""
    found = []
    for index, (name, psnr) in enumerate({"sawyer_seed1": 24.0, "drawn_seed1": 20.0}.items()):
        rows = {"val/psnr_best": psnr + 1.0 + better, "seconds": seconds}
        gain = better * (1 + index)
        found.append(read_run(fake_run(place / name, [18.0, psnr + gain], rows=lambda epoch, rows=rows: rows, seed=1)))
    return found


def test_the_page_tells_differences_over_data_sets_of_what_is_there(tmp_path: Path) -> None:
    found = {
        "default": runs(tmp_path / "a", 0.0, 2.0),
        "GroupNorm": runs(tmp_path / "b", 0.1, 3.0),
        "AdamW": runs(tmp_path / "c", 0.0, 2.0)[:1],
        "learned prior": [],
    }
    text = to_markdown(default_dials.page(found, 3), "")
    assert "3 runs are missing" in text
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    mean = "+0.15 [-0.49, +0.79] (+0.10 to +0.20)"  # of 0.1 and 0.2
    assert f"| 2 | 1.50 | {mean} | +0.10" in rows["| GroupNorm"]
    assert "| 1 | 1.00 | +0.00 | +0.00 | 1 |" in rows["| AdamW"]
    assert "| 0 |  |  |  |  |" in rows["| learned prior"]
    assert "| 2 |  |  |  | 1, 1 |" in rows["| default"]
    assert rows["| drawn_seed1"].startswith("| drawn_seed1 | 20.00 | 21.00 | 17.00 | 1.00 |")


def test_without_a_run_of_the_default_there_is_no_page(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["default_dials.py", "--so-far", "--out", str(tmp_path / "dials.md")])
    with pytest.raises(SystemExit):
        default_dials.main()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has no run of the default yet: leave --so-far out" in said
