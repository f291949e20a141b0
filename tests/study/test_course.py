"""The report's claims on studies whose truth is known."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from fakes import fake_run, fake_study

from cvae.errors import UserError
from cvae.evaluation.intervals import runs_needed
from cvae.pages.document import to_html, to_markdown
from cvae.runs.collection import collect
from cvae.study.answers import _seeds, answer_blocks, find_answers
from cvae.study.claims import Claim, Part
from cvae.study.course import factorials, is_study

EPOCHS, HALF = 10, 5


def curve(before, after, end):
    """PSNR that climbs to ``before`` at half, starts again from ``after``, and ends at ``end``."""
    return [*np.linspace(before - 2, before, HALF), *np.linspace(after, end, EPOCHS - HALF)]


def as_the_report_says(lr, kl, tf, beta, seed):
    noise = 0.02 * np.sin(7 * seed + len(kl) + len(tf))
    if tf == "linear":
        return curve(24 + noise, 24.1 + noise, 25)
    if lr < 1e-3:
        return curve(25.5 + noise, 25.4 + noise, 26)
    return curve(24 + noise, 22 + noise, 24.2 if kl == "cyclical" else 22.5)


def flat(lr, kl, tf, beta, seed):
    noise = 0.02 * np.sin(7 * seed + len(kl) + len(tf) + 100 * lr)
    return curve(24 + noise, 24 + noise, 24 + noise)


def noisy(lr, kl, tf, beta, seed):
    generator = np.random.default_rng([seed, int(1e5 * lr), len(kl), len(tf)])
    return list(22 + 2 * generator.standard_normal(EPOCHS))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A study in which the report is right, three seeds."""
    return fake_study(tmp_path_factory.mktemp("written"), as_the_report_says)


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory):
    return fake_study(tmp_path_factory.mktemp("one_seed"), as_the_report_says, seeds=1)


def verdicts(root, bair=False):
    return [[claim.verdict for claim in factorial.claims(bair)] for factorial in factorials(collect([str(root)]).runs)]


def test_a_study_in_which_the_report_is_right_supports_it(written):
    assert verdicts(written) == [["supported"] * 4] * 2


def test_a_study_in_which_nothing_falls_refutes_what_speaks_of_falls(tmp_path, monkeypatch):
    monkeypatch.setattr("cvae.study.answers.course_curves", lambda factorial: b"")
    assert verdicts(fake_study(tmp_path / "study", flat))[0][:3] == ["supported", "refuted", "undecided"]
    assert "undecided: there was no drop" in to_markdown(answer_blocks(collect([str(tmp_path / "study")]).runs), "")


def test_noise_decides_nothing_and_says_how_many_seeds_might(tmp_path):
    (first, _) = factorials(collect([str(fake_study(tmp_path / "study", noisy))]).runs)
    parts = [part for claim in first.claims(False) for part in claim.parts]
    undecided = [part for part in parts if part.verdict == "undecided"]
    assert len(undecided) > len(parts) / 2
    assert [part.needed for part in undecided] == [runs_needed(part.values, part.threshold) for part in undecided]


def test_a_claim_waits_for_the_part_that_refutes_it_soonest_else_for_all():
    near, far = Part("", [0.1, -0.1, -0.2], True, 0.0), Part("", [0.1, -0.1, -0.05], True, 0.0)
    leaning, sure = Part("", [0.1, -0.1, 0.2], True, 0.0), Part("", [1.0, 1.1, 0.9], True, 0.0)
    assert Claim(1, "", "", [leaning, far, near, sure]).deciding == [near]
    assert Claim(1, "", "", [leaning, leaning, sure]).deciding == [leaning, leaning]
    assert Claim(1, "", "", [sure]).deciding == []
    assert near.needed < far.needed < 1000
    assert _seeds([near, far]) == f"about {far.needed} seeds"
    assert _seeds([near, Part("", [1e-3, 1.0, -1.0], True, 0.0)]) == "over 1000 seeds"


def test_effects_have_their_sign_and_size(tmp_path):
    """Each factor is worth another number of dB, and the claims' quantities are what they say."""

    def levels(lr, kl, tf, beta, seed):
        level = 20 + seed + (1 if lr > 1e-3 else 0) + (0.5 if kl == "cyclical" else 0) + (0.25 if tf == "step" else 0)
        return [*[level] * HALF, *[level - (2 if tf == "step" else 1)] * (EPOCHS - HALF)]

    (factorial, _) = factorials(collect([str(fake_study(tmp_path / "study", levels))]).runs)
    effects = {(each.quantity, each.contrast): each.interval[0] for each in factorial.effects()}
    for quantity, forcing in (("PSNR at the end", -0.75), ("best PSNR", 0.25)):
        assert effects[quantity, "lr 0.002 minus 0.0005"] == pytest.approx(1)
        assert effects[quantity, "cyclical minus monotonic"] == pytest.approx(0.5)
        assert effects[quantity, "sudden minus linear end of forcing"] == pytest.approx(forcing)
    parts = {part.what: part.interval[0] for claim in factorial.claims(True) for part in claim.parts}
    assert parts["fall at the end of forcing, lr 0.0005"] == pytest.approx(2)
    assert parts["PSNR when forcing ends, lr 0.002 minus lr 0.0005"] == pytest.approx(1)
    assert parts["cyclical: PSNR at the end minus PSNR before forcing ends"] == pytest.approx(-2)
    assert parts["fall with linear decay, lr 0.002"] == pytest.approx(1)
    assert parts["fall, sudden minus linear, lr 0.002"] == pytest.approx(1)


def test_the_report_s_25_db_count_on_bair_alone(tmp_path):
    root = fake_study(tmp_path / "study", lambda *cell: [value - 5 for value in as_the_report_says(*cell)])
    assert verdicts(root)[0][0] == "supported"
    assert verdicts(root, bair=True)[0][0] == "refuted"
    (factorial, _) = factorials(collect([str(root)]).runs)
    assert ["25 dB" in claim.refuted_by for claim in factorial.claims(True)] == [True, True, False, False]
    assert not any("25 dB" in claim.refuted_by for claim in factorial.claims(False))


def test_differences_are_paired_within_seeds(tmp_path):
    """A seed's own level, however large, cancels in a difference."""

    def levels(lr, kl, tf, beta, seed):
        return [value + 10 * seed + (0.1 * seed if kl == "cyclical" else 0) for value in curve(20, 20, 20)]

    (factorial, _) = factorials(collect([str(fake_study(tmp_path / "study", levels))]).runs)
    effect = next(
        each
        for each in factorial.effects()
        if (each.quantity, each.contrast) == ("PSNR at the end", "cyclical minus monotonic")
    )
    assert effect.values == pytest.approx([0.1, 0.2, 0.3])


def test_a_seed_that_lacks_a_cell_is_left_out_of_what_needs_it(written, tmp_path):
    root = shutil.copytree(written, tmp_path / "study")
    missing = next(run for run in collect([str(root)]).runs if run.seed == 2 and run.settings["tf_schedule"] == "step")
    (missing.folder / "metrics.jsonl").write_text("")
    factorial = next(each for each in factorials(collect([str(root)]).runs) if each.beta == missing.settings["beta"])
    counts = [len(part.values) for claim in factorial.claims(False) for part in claim.parts]
    assert sorted(set(counts)) == [2, 3]


def test_levels_are_means_over_two_percent_of_a_run_on_each_side_of_the_end(tmp_path):
    values = np.arange(200.0)
    (factorial, _) = factorials(collect([str(fake_study(tmp_path / "study", lambda *cell: values, seeds=1))]).runs)
    run = next(run for runs in factorial.cells.values() for run in runs.values())
    assert (factorial.forced, factorial.window) == (100, 4)
    assert (factorial.before(run), factorial.after(run), factorial.end(run)) == (97.5, 101.5, 197.5)


def test_a_fall_is_from_before_to_just_after_whatever_comes_later(tmp_path):
    (factorial, _) = factorials(collect([str(fake_study(tmp_path / "study", lambda *cell: curve(20, 18, 25), seeds=1))]).runs)
    run = next(run for runs in factorial.cells.values() for run in runs.values())
    assert (factorial.fall(run), factorial.end(run)) == (2.0, 25.0)


def test_a_part_is_decided_where_its_interval_lies_on_one_side(tmp_path):
    assert Part("", [1.0, 1.1, 0.9], True, 0.5).verdict == "supported"
    assert Part("", [1.0, 1.1, 0.9], False, 0.5).verdict == "refuted"
    assert Part("", [1.0, 1.1, 0.9], True, 1.05).verdict == "undecided"
    assert Part("", [1.0], True, 0.5).verdict == "undecided"


ALIKE = ["likelihood=mse", "kl_schedule=monotonic", "tf_schedule=step"]


def of_other_data(run):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "dataset": "another"}))


@pytest.mark.parametrize("until", [0, 1, 10])
def test_a_study_without_levels_before_and_after_the_end_of_forcing_is_refused(tmp_path, until):
    root = fake_study(tmp_path / "study", lambda *cell: np.arange(10.0), seeds=1)
    for path in root.glob("*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row | {"tf_ratio": float(row["epoch"] <= until)}) + "\n" for row in rows))
    if until == 1:
        assert [factorial.forced for factorial in factorials(collect([str(root)]).runs)] == [1, 1]
    else:
        with pytest.raises(UserError, match=f"between epochs 1 and 9.*after epoch {until}"):
            factorials(collect([str(root)]).runs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: fake_run(run, words=ALIKE, lr=3e-3), "two learning rates"),
        (lambda run: fake_run(run, words=ALIKE, lr="high"), "lr=high, the study needs a number"),
        (lambda run: fake_run(run, words=["likelihood=mse", "kl_schedule=sigmoid"], lr=2e-3, beta=1.0), "kl_schedule=sigmoid"),
        (lambda run: fake_run(run, words=ALIKE, psnr=range(10), lr=2e-3, beta=1.0, seed=1, epoch_size=8), "same settings and"),
        (lambda run: fake_run(run, words=ALIKE, lr=2e-3, beta=1.0, seed=9, epoch_size=8), "also differ in epochs"),
        (
            lambda run: fake_run(run, words=ALIKE, psnr=range(10), lr=2e-3, beta=1.0, seed=9, epoch_size=9),
            "also differ in epoch_size",
        ),
        (
            lambda run: of_other_data(fake_run(run, words=ALIKE, psnr=range(10), lr=2e-3, beta=1.0, seed=9, epoch_size=8)),
            "data",
        ),
    ],
)
def test_runs_that_are_no_study_are_refused(one_seed, tmp_path, change, message):
    root = shutil.copytree(one_seed, tmp_path / "study")
    change(root / "more")
    with pytest.raises(UserError, match=message):
        factorials(collect([str(root)]).runs)


def test_a_study_is_known_by_its_factors(tmp_path):
    study = collect([str(fake_study(tmp_path / "study", flat, seeds=2))]).runs
    assert is_study(study)
    assert not is_study([run for run in study if run.settings["kl_schedule"] == "cyclical"])
    assert not is_study([run for run in study if run.seed == 1])


def test_a_study_is_found_among_other_runs_and_a_spoilt_one_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("cvae.study.answers.course_curves", lambda factorial: b"")
    study = collect([str(fake_study(tmp_path / "study", flat, seeds=2))]).runs
    second = [dataclasses.replace(run, sweep="t") for run in study]
    other = collect([str(fake_run(tmp_path / "other", lr=7e-3))]).runs
    sweep = [dataclasses.replace(run, sweep="s") for run in study]
    assert find_answers([*study, *other], False) == []
    assert find_answers([*sweep, *other], False) == answer_blocks(sweep)
    assert find_answers([*sweep, *second], False) == answer_blocks(sweep)
    (reason,) = find_answers([*study, study[0]], False)
    assert "same settings and seed" in reason.text


def test_the_page_holds_a_verdict_for_each_claim_and_beta(written):
    blocks = answer_blocks(collect([str(written)]).runs)
    text = to_markdown(blocks, "")
    for number in (1, 2, 3, 4):
        assert text.count(f"### Claim {number}: supported") == 2
    assert text.count("What would refute it") == 8
    assert "80 iterations" in text
    assert to_html(blocks).count("<img") == 2
    assert "48 finished runs: 2 values of beta, 2 learning rates" in text
    assert "sqrt(beta D / 2) on pixels" in text


def test_the_number_of_intervals_is_that_of_the_tables_and_a_learned_width_is_not_stated(tmp_path, monkeypatch):
    monkeypatch.setattr("cvae.study.answers.course_curves", lambda factorial: b"")
    root = fake_study(tmp_path / "study", noisy)
    for path in root.glob("*/.hydra/config.yaml"):
        path.write_text(
            path.read_text().replace("objective.MSE", "objective.SigmaOptimal").replace("beta: 0.0001", "beta: null")
        )
    blocks = answer_blocks(collect([str(root)]).runs)
    text = to_markdown(blocks, "")
    first = text.index("## What ran")
    assert f"of all {text.count(' [', first) - text.count('mean [95') - text.count('seeds [95')} in the tables" in text
    assert "sqrt(beta" not in text
    assert "beta = the likelihood's own" in text
