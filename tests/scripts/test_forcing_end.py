"""What is measured around the end of forcing, what goes with the fall, and which cures hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import around_the_end
import course_study
import forcing_end
import pytest
from conftest import tiny
from fakes import fake_run

from cvae.errors import UserError
from cvae.pages.document import to_markdown
from cvae.runs.run import read_run


def measured(fall: float, gradient: float):
    """Measurements of a run whose gradient grows so many times where PSNR falls."""
    usual = {"gradient": 0.1, "moment": 0.1, "update": 1.0}
    steps = [{**usual, "step": step, **({"gradient": 0.1 * gradient} if step > 500 else {})} for step in range(401, 701)]
    looks = [
        {"step": step, **dict.fromkeys(forcing_end._LOOKS.values(), 0.02), "psnr": 20 - fall * (step > 500)}
        for step in range(420, 701, 20)
    ]
    return {"words": [], "computed": "cpu, fp32", "forced": 500, "steps": steps, "looks": looks}


def of_seed(folder: Path, seed: int, fall: float, end: float):
    """A run that falls so much after 100 iterations, and ends so."""
    psnr = [20.0, 20.0 - fall, 20.0, end]
    rows = lambda epoch: {"step": 100 * epoch, "tf_ratio": float(epoch == 1)}  # noqa: E731
    return read_run(fake_run(folder / str(len(list(folder.iterdir()))), psnr, rows=rows, epoch_size=100, seed=seed))


def test_the_page_tells_what_goes_with_the_fall_and_which_cures_hold(tmp_path) -> None:
    found = {f"forcing/lr0.0005_step_seed{k}": measured(0.1 * k, 1 + k) for k in range(1, 6)}
    plain = [of_seed(tmp_path, seed, 0.5, 21.0) for seed in (1, 2)]
    cures = {
        "none": plain,
        "good": [of_seed(tmp_path, seed, 0.1, 21.5) for seed in (1, 2)],
        "one seed falls": [of_seed(tmp_path, 1, 0.1, 21.5), of_seed(tmp_path, 2, 0.3, 21.5)],
        "worse at the end": [of_seed(tmp_path, seed, 0.1, 20.5) for seed in (1, 2)],
    }
    study = {"none, in the study": plain, "linear": [of_seed(tmp_path, seed, 0.0, 20.9) for seed in (1, 2)]}
    text = to_markdown(forcing_end.page(found, [cures, study], dict.fromkeys([*cures, *study], "words")), "")
    assert "and 4 cures" in text
    assert "Computed on: cpu, fp32." in text
    assert "| lr0.0005_step_seed3 | 0.1 to 0.4 | 0.1 to 0.1 | 1 to 1 |" in text
    assert "| gradient norm | — | +1.00 (p" in text
    rows = {row.split(" | ")[0].strip("| "): row for row in text.splitlines() if row.startswith("| ")}
    verdicts = {
        name: rows[name].rstrip(" |").split(" | ")[-1] for name in ("good", "one seed falls", "worse at the end", "linear")
    }
    assert [*verdicts.values()] == ["yes", "no: it falls", "no: it ends lower", "no: it ends lower"]
    assert "-0.10 [-0.10, -0.10] dB" in rows["linear"]
    assert "+0.10, +0.30" in rows["one seed falls"]
    assert "+0.50 [+0.50, +0.50] dB" in rows["good"]


def test_a_correlation_has_its_exact_p_value() -> None:
    assert forcing_end.spearman([1, 2, 3, 4, 5, 6], [60, 50, 40, 30, 20, 10]) == pytest.approx((-1, 2 / 720))
    assert forcing_end.spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx((0.8, 8 / 24))


def test_a_fall_is_measured_as_the_study_has_it() -> None:
    assert forcing_end.fall_measured(measured(0.7, 2)) == pytest.approx(0.7)


CASES = [
    ([0.1, -0.2], [0.1, 0.0], "yes"),
    ([0.1, 0.2], [1, 1], "no: it falls"),
    ([0, 0], [-0.1, -0.11], "no: it ends lower"),
    ([0, 0], [-0.3, 0.2], "no fall; undecided whether it ends lower"),
]


@pytest.mark.parametrize(("falls", "gains", "told"), CASES)
def test_a_cure_holds_in_every_seed_and_costs_nothing_at_the_end(falls, gains, told) -> None:
    assert forcing_end.verdict(falls, gains) == told


def test_without_the_study_s_runs_it_says_what_to_run_first(monkeypatch, capsys) -> None:
    monkeypatch.setattr(course_study, "LRS", (5e-4,))
    monkeypatch.setattr(sys, "argv", ["forcing_end.py", "--seeds", "1"])
    with pytest.raises(SystemExit):
        forcing_end.main()
    assert "run scripts/course_study.py first" in capsys.readouterr().err


def test_measuring_changes_nothing_of_the_run_and_finds_its_numbers(train, drawn, tmp_path) -> None:
    words = tiny(drawn, "epochs=4", "tf_schedule=step", "tf_schedule.at=0.5", "average=0", "hydra.run.dir=run")
    assert train(*words).code == 0
    found = around_the_end.measure(words[:-1])
    assert (found["forced"], [row["step"] for row in found["steps"]]) == (4, list(range(1, 9)))
    (look,) = found["looks"]
    assert look["step"] == 4
    assert min(look[key] for key in forcing_end._LOOKS.values() if key != "gap") > 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert look["psnr"] == pytest.approx(rows[1]["val/psnr"], abs=1e-6)  # after 4 iterations
    assert all(row["gradient"] > 0 and row["moment"] > 0 for row in found["steps"])
    assert found["steps"][0]["update"] == pytest.approx(1, abs=0.4)  # Adam's first step has the length of lr, but for eps


def test_a_run_without_an_end_of_forcing_is_refused(drawn) -> None:
    with pytest.raises(UserError, match="forcing does not end"):
        around_the_end.measure(tiny(drawn, "tf_schedule=constant"))
