"""The report's claims on studies whose truth is known."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_run, fake_study

from cvae.errors import UserError
from cvae.evaluation.intervals import runs_needed
from cvae.pages.document import to_html, to_markdown
from cvae.runs.collection import collect
from cvae.study.answers import _seeds, answer_blocks, find_answers
from cvae.study.claims import Claim, Part
from cvae.study.course import at_end, factorials, fall, forced_iterations, is_study

EPOCHS, HALF = 10, 5  # an epoch is as long as the window before and after the end of forcing


def curve(before, after, end):
    """PSNR that climbs to ``before`` at half, starts again from ``after``, and ends at ``end``."""
    return [*np.linspace(before - 2, before, HALF), *np.linspace(after, end, EPOCHS - HALF)]


def as_the_report_says(lr, level, seed):
    noise = 0.02 * np.sin(7 * seed + len(level))
    if level == "linear":
        return curve(24 + noise, 24.1 + noise, 25)
    if lr < 1e-3:
        return curve(25.5 + noise, 25.4 + noise, 26)
    return curve(24 + noise, 22 + noise, 24.2 if level == "cyclical" else 22.5)


def flat(lr, level, seed):
    noise = 0.02 * np.sin(7 * seed + len(level) + 100 * lr)
    return curve(24 + noise, 24 + noise, 24 + noise)


def noisy(lr, level, seed):
    generator = np.random.default_rng([seed, int(1e5 * lr), len(level)])
    return list(22 + 2 * generator.standard_normal(EPOCHS))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A study in which the report is right, three seeds."""
    return fake_study(tmp_path_factory.mktemp("written"), as_the_report_says)


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory):
    return fake_study(tmp_path_factory.mktemp("one_seed"), as_the_report_says, seeds=1, parts=["forcing"])


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr("cvae.study.answers.course_curves", lambda part: b"")


def read(root):
    return collect([str(root)]).runs


def verdicts(root, bair=False):
    return {claim.number: claim.verdict for part in factorials(read(root)) for claim in part.claims(bair)}


def measured(root, bair=False):
    claims = [claim for part in factorials(read(root)) for claim in part.claims(bair)]
    return {each.what: each.interval[0] for claim in claims for each in claim.parts}


def test_a_study_in_which_the_report_is_right_supports_it(written):
    assert verdicts(written) == dict.fromkeys((1, 2, 3, 4), "supported")


def test_a_study_in_which_nothing_falls_refutes_what_speaks_of_falls(tmp_path, undrawn):
    root = fake_study(tmp_path / "study", flat)
    assert verdicts(root) == {1: "supported", 2: "refuted", 3: "undecided", 4: "undecided"}
    text = to_markdown(answer_blocks(read(root)), "")
    assert text.count("undecided: there was no drop") == 2
    assert text.count("| no fall |") >= 8


def test_a_part_alone_is_judged_alone(tmp_path):
    assert verdicts(fake_study(tmp_path / "study", as_the_report_says, parts=["annealing"])) == {3: "supported"}


def test_noise_decides_nothing_and_says_how_many_seeds_might(tmp_path):
    found = factorials(read(fake_study(tmp_path / "study", noisy)))
    parts = [part for each in found for claim in each.claims(False) for part in claim.parts]
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
    worth = {"cyclical": 0.5, "step": 0.25}

    def levels(lr, level, seed):
        high = 20 + seed + (1 if lr > 1e-3 else 0) + worth.get(level, 0)
        return [*[high] * HALF, *[high - (1 if level == "linear" else 2)] * (EPOCHS - HALF)]

    root = fake_study(tmp_path / "study", levels)
    forcing, annealing = factorials(read(root))
    effects = {(each.quantity, each.contrast): each.interval[0] for part in (forcing, annealing) for each in part.effects()}
    assert effects["PSNR at the end", "lr 0.002 minus 0.0005"] == pytest.approx(1)
    assert effects["PSNR at the end", "cyclical minus monotonic"] == pytest.approx(0.5)
    assert effects["PSNR at the end", "step minus linear"] == pytest.approx(-0.75)
    assert effects["KL at the end", "cyclical minus monotonic"] == 0
    parts = measured(root, bair=True)
    assert parts["fall at the end of forcing, lr 0.0005"] == pytest.approx(2)
    assert parts["PSNR when forcing ends, lr 0.002 minus lr 0.0005"] == pytest.approx(1)
    assert parts["cyclical: PSNR at the end minus PSNR before forcing ends"] == pytest.approx(-2)
    assert parts["fall with linear decay, lr 0.002"] == pytest.approx(1)
    assert parts["fall, sudden minus linear, lr 0.002"] == pytest.approx(1)
    assert forcing.falls((2e-3, "linear")).values == pytest.approx([1] * 3)


def test_the_report_s_25_db_count_on_bair_alone(tmp_path):
    root = fake_study(tmp_path / "study", lambda *cell: [value - 5 for value in as_the_report_says(*cell)])
    assert verdicts(root)[1] == "supported"
    assert verdicts(root, bair=True)[1] == "refuted"
    forcing, _ = factorials(read(root))
    assert ["25 dB" in claim.refuted_by for claim in forcing.claims(True)] == [True, True, False]
    assert not any("25 dB" in claim.refuted_by for claim in forcing.claims(False))


def test_differences_are_paired_within_seeds(tmp_path):
    """A seed's own level, however large, cancels in a difference."""

    def levels(lr, level, seed):
        return [value + 10 * seed + (0.1 * seed if level == "cyclical" else 0) for value in curve(20, 20, 20)]

    (annealing,) = factorials(read(fake_study(tmp_path / "study", levels, parts=["annealing"])))
    effects = {(each.quantity, each.contrast): each.values for each in annealing.effects()}
    assert effects["PSNR at the end", "cyclical minus monotonic"] == pytest.approx([0.1, 0.2, 0.3])


def test_a_seed_that_lacks_a_cell_is_left_out_of_what_needs_it(written, tmp_path):
    root = shutil.copytree(written, tmp_path / "study")
    linear = [run for run in read(root) if (run.settings["tf_schedule"], run.settings["lr"]) == ("linear", 2e-3)]
    (missing,) = (run for run in linear if run.seed == 2)
    (missing.folder / "metrics.jsonl").write_text("")
    forcing, _ = factorials(read(root))
    assert {claim.number: [len(part.values) for part in claim.parts] for claim in forcing.claims(False)} == {
        1: [3],
        2: [3, 3],
        4: [2, 2],
    }


# --- the fall ---------------------------------------------------------------------------------------------------------


def inside(folder: Path, psnr: dict[int, float]):
    """A run of 10 epochs of 100 iterations with validations within epochs, and what is measured of it."""
    rows = [json.dumps({"step": step, "epoch": step / 100, "val/psnr": value}) + "\n" for step, value in psnr.items()]
    (folder / "validations.jsonl").write_text("".join(rows))
    (run,) = read(folder)
    return run


def test_a_fall_is_a_difference_of_means_of_all_validations_in_100_iterations_on_each_side(tmp_path):
    psnr = [10, 10, 10, 10, 20, 16, 10, 10, 10, 30]
    folder = fake_study(tmp_path / "study", lambda *cell: psnr, seeds=1, parts=["forcing"]) / "0"
    assert fall(inside(folder, {}), 500) == 4
    # 400 is before the window, 401 within; the end of epoch 5 at 500 counts once, though it was validated twice; 601 is after.
    run = inside(folder, {400: 99.0, 401: 22.0, 480: 21.0, 500: 20.0, 501: 13.0, 520: 13.0, 601: 0.0})
    assert fall(run, forced_iterations(run)) == pytest.approx(21 - 14)
    assert at_end(run) == 30


def test_an_end_within_an_epoch_is_known_from_its_mean_ratio(tmp_path):
    ratios = [1, 1, 1, 0.25, 0]
    folder = fake_run(
        tmp_path / "run", [1.0] * 5, rows=lambda epoch: {"tf_ratio": 0.5 * ratios[epoch - 1]}, tfr=0.5, epoch_size=40
    )
    (run,) = read(folder)
    assert forced_iterations(run) == 130


def test_a_window_without_a_validation_is_refused(tmp_path):
    root = fake_study(tmp_path / "study", flat, parts=["forcing"])
    for path in root.glob("*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows[HALF : HALF + 1]:
            del row["val/psnr"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"has no val/psnr in iterations 500 to 600: the study needs validate_at"):
        verdicts(root)


@pytest.mark.parametrize("until", [0, 10])
def test_a_study_whose_forcing_has_no_end_within_is_refused(tmp_path, until):
    root = fake_study(tmp_path / "study", flat, seeds=1, parts=["forcing"])
    for path in root.glob("*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row | {"tf_ratio": float(row["epoch"] <= until)}) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"between 1 and 999; here it ends after {100 * until}$"):
        factorials(read(root))


def test_a_part_is_decided_where_its_interval_lies_on_one_side():
    assert Part("", [1.0, 1.1, 0.9], True, 0.5).verdict == "supported"
    assert Part("", [1.0, 1.1, 0.9], False, 0.5).verdict == "refuted"
    assert Part("", [1.0, 1.1, 0.9], True, 1.05).verdict == "undecided"
    assert Part("", [1.0], True, 0.5).verdict == "undecided"


# --- what is a study --------------------------------------------------------------------------------------------------

ALIKE = ["likelihood=mse", "data.world=1", "kl_schedule=monotonic", "tf_schedule=step"]
ONE = {"psnr": range(10), "lr": 2e-3, "beta": 1.0, "epoch_size": 100}


def of_other_data(run):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "dataset": "another"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: fake_run(run, words=ALIKE, **{**ONE, "lr": 3e-3}), "two learning rates"),
        (lambda run: fake_run(run, words=ALIKE, **{**ONE, "lr": "high"}), "lr=high, the study needs a number"),
        (lambda run: fake_run(run, words=ALIKE, **{**ONE, "beta": None}), "beta=None, the study needs a number"),
        (lambda run: fake_run(run, words=["likelihood=mse", "kl_schedule=sigmoid"], **ONE), "kl_schedule=sigmoid"),
        (
            lambda run: fake_run(run, words=[*ALIKE, "kl_schedule=cyclical"], **ONE),
            "no part of the study",
        ),
        (lambda run: fake_run(run, words=ALIKE, **ONE, seed=1), "same settings and"),
        (lambda run: fake_run(run, words=ALIKE, **{**ONE, "psnr": range(9)}, seed=9), "also differ in epochs"),
        (lambda run: fake_run(run, words=ALIKE, **{**ONE, "epoch_size": 9}, seed=9), "also differ in epoch_size"),
        (lambda run: of_other_data(fake_run(run, words=ALIKE, **ONE, seed=9)), "also differ in data"),
        (lambda run: fake_study(run, flat, seeds=1, parts=["forcing"]) and rebeta(run, 0.5), "two values of beta"),
    ],
)
def test_runs_that_are_no_study_are_refused(one_seed, tmp_path, change, message):
    root = shutil.copytree(one_seed, tmp_path / "study")
    change(root / "more")
    with pytest.raises(UserError, match=message):
        factorials(read(root))


def rebeta(root, beta):
    for path in root.glob("*/.hydra/config.yaml"):
        path.write_text(path.read_text().replace("\nbeta: 1.0", f"\nbeta: {beta}"))


def test_a_study_is_known_by_its_factors(tmp_path):
    study = read(fake_study(tmp_path / "study", flat, seeds=2))
    assert is_study(study)
    assert is_study([run for run in study if run.settings["beta"] == 1])
    assert not is_study([run for run in study if run.settings["beta"] == 1 and run.settings["tf_schedule"] == "step"])
    assert not is_study([run for run in study if run.settings["lr"] < 1e-3])
    assert not is_study([run for run in study if run.seed == 1])


def test_a_study_is_found_among_other_runs_and_a_spoilt_one_says_why(tmp_path, undrawn):
    study = read(fake_study(tmp_path / "study", flat, seeds=2))
    second = [dataclasses.replace(run, sweep="t") for run in study]
    other = read(fake_run(tmp_path / "other", lr=7e-3))
    sweep = [dataclasses.replace(run, sweep="s") for run in study]
    assert find_answers(other, False) == []
    assert find_answers([*sweep, *other], False) == answer_blocks(sweep)
    assert find_answers([*sweep, *second], False) == answer_blocks(sweep)
    (reason,) = find_answers([*study, study[0]], False)
    assert "same settings and seed" in reason.text


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_holds_verdicts_falls_and_what_the_report_saw(written):
    blocks = answer_blocks(read(written))
    text = to_markdown(blocks, "")
    first = text.split("\n\n")[0]
    assert first.startswith(
        "24 runs of 1,000 iterations on data=synthetic_push (world 1), 3 seeds a cell; teacher forcing ends after 500."
    )
    for number in (1, 2, 3, 4):
        assert text.count(f"### Claim {number}: supported") == 1
    assert text.count("What would refute it") == 4
    assert text.count("| falls |") == 3  # lr 2e-3 with a sudden end: one cell of the first part, two of the second
    assert "| 1 | 0.002 | monotonic | suddenly | " in text
    assert "a fall, then a climb |" in text
    assert "KL at the end is below" not in text
    assert to_html(blocks).count("<img") == 2
    assert "sqrt(beta D / 2) on pixels" in text


def test_a_latent_that_is_not_in_use_is_said(tmp_path, undrawn):
    root = fake_study(tmp_path / "study", flat, seeds=2)
    for path in root.glob("*/metrics.jsonl"):
        path.write_text(path.read_text().replace('"train/kld": 1.0', '"train/kld": 0.5'))
    assert "KL at the end is below 1 nat a step in lr 0.0005 cyclical (0.5)" in to_markdown(answer_blocks(read(root)), "")


def test_the_number_of_intervals_is_that_of_the_tables(tmp_path, undrawn):
    text = to_markdown(answer_blocks(read(fake_study(tmp_path / "study", noisy))), "")
    rows = [line for line in text.splitlines() if line.startswith("|") and "[95 %]" not in line]
    assert f"of all {sum(cell.count(' [') for cell in rows)} in the tables" in text


def test_the_best_of_several_samples_is_told_where_it_was_scored(tmp_path, undrawn):
    root = fake_study(tmp_path / "study", flat, seeds=2, parts=["annealing"])
    for path in root.glob("*/metrics.jsonl"):
        path.write_text(path.read_text().replace('"val/psnr_copy"', '"val/psnr_best": 26.0, "val/psnr_copy"'))
    text = to_markdown(answer_blocks(read(root)), "")
    assert "best of 1 at the end" in text
    assert "best of several samples at the end, cyclical minus monotonic" in text
