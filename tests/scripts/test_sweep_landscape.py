"""The landscape is the one that is written down, and its sweeps can be compared."""

from __future__ import annotations

import numpy as np
import pytest
import sweep_landscape
from sweep_landscape import MARKS, Run, aligned, crossing, curve, final, outcome, progress, sweep

from cvae.errors import UserError


def test_values_worked_out_by_hand():
    assert final(10**-3.3, 0.6, 1e-5) == pytest.approx(25)
    assert final(1e-2, 1.0, 1e-5) == pytest.approx(25 - 6.76 - 0.24 - 1.4)
    assert final(1e-4, 0.0, 1e-7) == pytest.approx(25 - 1.96 - 0.54 - 1.6)
    assert (aligned(1e-4), aligned(1e-2)) == pytest.approx((8.2, 11.8))
    assert (crossing(1e-4), crossing(1e-2)) == pytest.approx((14.4, 4))
    # From 14 to 25: after as many epochs as its pace 1 - 1/e of the way.
    assert curve(25, 4, np.zeros(40))[3] == pytest.approx(20.953326)
    assert curve(25, 4, np.full(40, 0.5))[39] == pytest.approx(25.499501)


def test_pruned_and_unpruned_sweeps_see_the_same_trials_until_they_choose_otherwise():
    full = sweep(aligned, "tpe", "none", 3, trials=12)
    pruned = sweep(aligned, "tpe", "halving", 3, trials=12)
    spent = [sum(len(run.values) for run in runs) for runs in (full, pruned)]
    assert spent[0] == 12 * 40
    assert spent[1] < 0.6 * spent[0]
    for run, other in zip(full[:10], pruned[:10], strict=True):  # TPE begins with ten random trials
        assert run.true == other.true
        assert np.array_equal(run.values[: len(other.values)], other.values)
    assert not np.array_equal(full[0].values, sweep(aligned, "tpe", "none", 4, trials=1)[0].values)


def test_only_complete_trials_within_the_budget_count():
    runs = [Run(np.full(40, 20.0), 19.0), Run(np.full(10, 30.0), 30.0), Run(np.full(40, 22.0), 21.0)]
    assert outcome(runs) == sweep_landscape.Outcome(22.0, 21.0, 90, 3)
    assert outcome(runs, epochs=89) == sweep_landscape.Outcome(20.0, 19.0, 50, 2)
    assert outcome(runs, trials=1) == sweep_landscape.Outcome(20.0, 19.0, 40, 1)
    best = progress(runs, 95)
    assert np.isnan(best[38])
    assert (best[39], best[88], best[89], best[94]) == (20.0, 20.0, 22.0, 22.0)


@pytest.mark.slow
def test_the_same_command_writes_the_same_tables(tmp_path, capsys, monkeypatch):
    command = ["sweep_landscape.py", "--repetitions", "2", "--trials", "12", "--pruners", "halving", "patient", "hyperband"]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(tmp_path)])
    page = tmp_path / "results.md"
    page.write_text(f"before\n{MARKS[0]}old\n{MARKS[1]}after\n")
    sweep_landscape.main()
    first, printed = page.read_text(), capsys.readouterr().out
    assert first == f"before\n{MARKS[0]}\n{printed}\n{MARKS[1]}after\n"
    assert first.count("| tpe, halving, 192 epochs |") == 2
    sweep_landscape.main()
    assert page.read_text() == first
    assert (tmp_path / "sweep_landscape.png").stat().st_size > 10_000


def test_what_cannot_be_done_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--trials 3"):
        sweep_landscape.study(range(2), 2, ["halving"])
    with pytest.raises(UserError, match="has no place for the tables"):
        sweep_landscape.put("tables", tmp_path / "results.md")
