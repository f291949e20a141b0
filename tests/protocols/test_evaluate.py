"""``python -m cvae.evaluate`` on a trained run: result files, tables, differences, and one line for what cannot be."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_course, tiny
from PIL import Image

from cvae import integrity
from cvae.evaluation.metrics import ssim
from cvae.evaluation.protocol import protocols
from cvae.protocols.running import known_results
from cvae.runs.evaluations import read_evaluations
from cvae.training import checkpoint


@pytest.fixture
def run(trained: Path) -> Path:
    """A copy of a tiny run, which a test may write to."""
    return Path(shutil.copytree(trained, "R"))


def evaluated(run: Path, name: str = "course") -> dict[str, Any]:
    return json.loads((run / "eval" / f"{name}.json").read_text())


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_a_result_says_what_defines_it(command, run: Path, drawn: Path) -> None:
    before = contents(run)
    result = command("evaluate", "run=R", "bair=true")
    assert result.code == 0, result.err
    found = evaluated(run)
    assert {name: data for name, data in contents(run).items() if not name.startswith("eval/")} == before
    assert sorted(path.name for path in (run / "eval").iterdir()) == ["course.json", "course.png"]
    keys = {"protocol", "split", "videos", "data", "seed", "conditions", "norm", "checkpoint", "precision", "psnr", "ssim"}
    assert keys <= found.keys()
    protocol = found["protocol"]
    assert (protocol["n_past"], protocol["n_future"], protocol["samples"], protocol["data_range"]) == (2, 10, 1, 1.0)
    assert (found["videos"], found["checkpoint"]["name"], len(found["checkpoint"]["sha256"])) == (1, "best", 64)
    assert len(found["psnr"]["per_frame"]) == 10
    assert "misses the 25 dB of BAIR" in found["marks"][0]
    assert "repeating the mean of the given frames" in result.out
    with Image.open(run / "eval/course.png") as picture:
        assert picture.size == (825, 462)
    # The copy baseline in ten lines of NumPy.
    folder = next((drawn / "test").glob("*/*"))
    video = np.stack([np.asarray(Image.open(folder / f"{t}.png"), np.float64) for t in range(12)]) / 255
    errors = ((video[2:] - video[1]) ** 2).mean(axis=(1, 2, 3))
    copy = found["baselines"]["copy_last"]
    assert copy["psnr"]["mean"] == pytest.approx((-10 * np.log10(errors)).mean(), abs=1e-4)
    true = torch.from_numpy(video).permute(0, 3, 1, 2)
    assert copy["ssim"]["mean"] == pytest.approx(ssim(true[1:2].expand(10, -1, -1, -1), true[2:]).mean().item(), abs=1e-5)
    (shown,) = read_evaluations(run)
    assert [score.metric.label for score in shown.scores] == ["PSNR", "SSIM"]


@pytest.mark.slow
def test_evaluated_twice_the_same_bytes_but_for_times(command, run: Path) -> None:
    words = ("run=R", "protocol=[srvp,diagnosis]", "protocol.srvp.samples=3", "split=validate", "checkpoint=last")
    found = []
    for _ in range(2):
        assert command("evaluate", *words).code == 0
        files = contents(run / "eval")
        assert sorted(files) == [f"{name}-validate-last.{form}" for name in ("diagnosis", "srvp") for form in ("json", "png")]
        results = {name: json.loads(data) for name, data in files.items() if name.endswith("json")}
        assert all(result.pop("times") for result in results.values())
        found.append((results, {name: data for name, data in files.items() if name.endswith("png")}))
        shutil.rmtree(run / "eval")
    assert found[0] == found[1]
    srvp = found[0][0]["srvp-validate-last.json"]
    assert srvp["missing"].keys() == {"lpips", "fvd"}
    assert srvp["marks"] == ["another protocol than srvp: samples=3"]
    assert command("evaluate", "run=R", "protocol=course", "protocol.course.metrics=[psnr]").code == 0
    assert evaluated(run)["marks"] == []


def test_a_digit_that_changed_in_a_result_is_damage(command, run: Path) -> None:
    assert command("evaluate", "run=R", "protocol.course.n_future=2").code == 0
    path = run / "eval/course.json"
    whole = path.read_text()
    path.write_text(re.sub(r'"seconds": [\d.]+', '"seconds": 1.5', whole))  # times are no part of it
    (found,) = read_evaluations(run)
    assert (found.problem, len(found.scores)) == ("", 2)
    path.write_text(re.sub(r'("mean": )\d', r"\g<1>9", whole, count=1))
    (found,) = read_evaluations(run)
    assert (found.scores, found.problem) == ((), "eval/course.json is damaged (its checksum is another): evaluate again")


def test_an_evaluation_of_another_checkpoint_is_told(command, run: Path) -> None:
    """Of an earlier one, or of another run's, however old the files are."""
    assert command("evaluate", "run=R", "protocol.course.n_future=2").code == 0
    (found,) = read_evaluations(run)
    assert found.note == "another protocol than course: n_future=2"
    path = run / "checkpoints/best.pt"
    state, facts = checkpoint.load(path), integrity.facts(path)
    state["best"] += 1.0
    checkpoint.save(path, {key: value for key, value in state.items() if key != "format"}, facts)
    (found,) = read_evaluations(run)
    assert found.note.startswith("of another best.pt than the run has: evaluate again; ")


@pytest.mark.parametrize("name", ["course.json", "course.png"])
def test_a_result_is_written_into_no_pipe_and_through_no_link(command, run: Path, name: str) -> None:
    (run / "eval").mkdir()
    os.mkfifo(run / "eval" / name)
    assert f"{name} is no file of its own: remove it" in command("evaluate", "run=R", "protocol.course.n_future=2").err
    (run / "eval" / name).unlink()
    Path("elsewhere").write_text("kept")
    (run / "eval" / name).symlink_to(Path("elsewhere").absolute())
    assert f"{name} is no file of its own: remove it" in command("evaluate", "run=R", "protocol.course.n_future=2").err
    assert Path("elsewhere").read_text() == "kept"


def test_a_copy_of_last_pt_is_not_the_best(command, run: Path) -> None:
    shutil.copy(run / "checkpoints/last.pt", run / "checkpoints/best.pt")
    assert "best.pt is damaged (it is a copy of last.pt)" in command("evaluate", "run=R").err


def test_a_best_pt_of_an_earlier_epoch_is_not_the_best(command, train, run: Path) -> None:
    """Its content is whole and the run's own; the run had a better epoch later."""
    path = run / "checkpoints/best.pt"
    state, facts = checkpoint.load(path), integrity.facts(path)
    assert facts["epoch"] == facts["best_epoch"] == integrity.facts(path.with_name("last.pt"))["best_epoch"]
    earlier = {**facts, "epoch": facts["epoch"] - 1}
    checkpoint.save(path, {key: value for key, value in state.items() if key != "format"}, earlier)
    why = f"it is of epoch {earlier['epoch']}, and the run's best was epoch {facts['epoch']}"
    assert f"best.pt is damaged ({why})" in command("evaluate", "run=R").err
    assert why in " ".join(train("resume=R").out.split())
    later = {
        **facts,
        "epoch": integrity.facts(path.with_name("last.pt"))["epoch"] + 1,
    }  # written, and killed before last.pt was
    checkpoint.save(path, {key: value for key, value in state.items() if key != "format"}, later)
    assert integrity.verify(path)


@pytest.mark.parametrize(
    "word", ["protocol.course={n_future:2}", "protocol={course:{n_future:2}}", "++protocol.course.n_future=2"]
)
def test_a_changed_protocol_is_told_however_it_was_changed(command, run: Path, word: str) -> None:
    assert command("evaluate", "run=R", word).code == 0
    assert evaluated(run)["marks"] == ["another protocol than course: n_future=2"]


def test_other_data_than_the_run_s_own_are_told(command, run: Path, tmp_path: Path) -> None:
    words = ("split=validate", "protocol.course.n_future=2")
    assert command("evaluate", "run=R", *words).code == 0
    own = evaluated(run, "course-validate")["marks"]
    root = draw_course(tmp_path / "data", validate=1)
    assert command("evaluate", "run=R", f"data.root={root}", *words).code == 0
    assert evaluated(run, "course-validate")["marks"] == ["other data than the run's own validate split", *own]


def test_a_test_split_beside_other_training_data_or_changed_since_an_evaluation_is_told(
    command, run: Path, drawn: Path
) -> None:
    """Training never opens the test split: it is known by what it came with, and by earlier results."""
    short = ("run=R", "protocol.course.n_future=2")
    other = Path(shutil.copytree(drawn, "other"))
    shutil.rmtree(next((other / "train").glob("*/*")))
    changed = Path(shutil.copytree(drawn, "changed"))
    (video,) = (changed / "test").glob("*/*")
    shutil.copyfile(video / "0.png", video / "1.png")
    assert command("evaluate", *short).code == 0
    own = evaluated(run)["marks"]
    assert own == ["another protocol than course: n_future=2"]
    course = protocols({"course": {"n_past": 2, "n_future": 2, "metrics": ["psnr"], "bar": 25.0}})
    assert known_results(run, course)
    alone = Path(shutil.copytree(drawn, "alone"))
    shutil.rmtree(alone / "validate")
    for root, mark in (
        ("alone", "other data than the run's own validate split"),
        ("other", "other data than the run's own train split"),
        ("changed", "other data than an earlier evaluation of the run's test split"),
        ("changed", "other data than an earlier evaluation of the run's test split"),  # which has its file now
    ):
        assert command("evaluate", f"data.root={root}", *short).code == 0
        assert evaluated(run)["marks"] == [mark, *own]
        assert not known_results(run, course)


def test_a_file_with_another_protocol_s_header_is_told(command, run: Path) -> None:
    Path("mine/protocol").mkdir(parents=True)
    header = "# @package protocol.course\nn_past: 2\n"
    Path("mine/protocol/easy.yaml").write_text(f"{header}n_future: 2\nsamples: 3\nmetrics: [psnr]\n")
    assert command("evaluate", "--config-dir", "mine", "run=R", "protocol=easy").code == 0
    assert evaluated(run)["marks"] == ["another protocol than course: n_future=2, samples=3, bar=null"]


def test_a_name_that_another_result_s_file_would_have_is_refused(command, run: Path) -> None:
    Path("mine/protocol").mkdir(parents=True)
    Path("mine/protocol/own.yaml").write_text("# @package protocol.course-validate\nmetrics: [psnr]\n")
    result = command("evaluate", "--config-dir", "mine", "run=R", "protocol=own")
    assert result.code == 1
    assert "protocol.course-validate ends as the file of another protocol's split or checkpoint would" in result.err


def test_a_result_is_no_other_one_by_the_name_of_its_file(command, run: Path) -> None:
    assert command("evaluate", "run=R", "protocol.course.n_future=2").code == 0
    for name in ("srvp", "course-validate", "course-last"):
        (run / "eval/course.json").rename(run / f"eval/{name}.json")
        (found,) = read_evaluations(run)
        assert found.scores == ()
        assert found.problem == f"eval/{name}.json holds what course.json should: it was renamed or copied, so evaluate again"
        (run / f"eval/{name}.json").rename(run / "eval/course.json")
    (found,) = read_evaluations(run)
    assert found.scores


def test_what_counts_as_evaluated_is_this_protocol_of_this_checkpoint(command, run: Path) -> None:
    course = protocols({"course": {"n_past": 2, "n_future": 2, "metrics": ["psnr"], "bar": 25.0}})
    assert command("evaluate", "run=R", "protocol.course.n_future=2").code == 0
    assert known_results(run, course).keys() == {"course"}
    assert known_results(run, protocols({"course": {"n_past": 2, "n_future": 3, "bar": 25.0}})) == {}
    path = run / "checkpoints/best.pt"
    state, facts = checkpoint.load(path), integrity.facts(path)
    checkpoint.save(path, {**{key: value for key, value in state.items() if key != "format"}, "best": 1.0}, facts)
    assert known_results(run, course) == {}


def test_a_protocol_of_ones_own_with_the_package_s_name_is_told(command, run: Path) -> None:
    Path("mine/protocol").mkdir(parents=True)
    Path("mine/protocol/course.yaml").write_text("# @package protocol.course\nn_past: 2\nn_future: 3\nmetrics: [psnr]\n")
    result = command("evaluate", "--config-dir", "mine", "run=R", "protocol.course.n_future=2")
    assert "has protocol/course.yaml, and so has this package, whose files are taken" in " ".join(
        (result.out + result.err).split()
    )


@pytest.mark.slow
def test_differences_between_two_runs_over_the_same_videos(command, run: Path) -> None:
    shutil.copytree(run, "S")
    weights = checkpoint.load(Path("S/checkpoints/best.pt"))
    last = next(name for name in reversed(weights["model"]) if name.endswith("bias"))
    weights["model"][last] = weights["model"][last] + 0.05
    checkpoint.save(Path("S/checkpoints/best.pt"), weights)
    result = command("evaluate", "run=[R,S]", "split=train")
    assert result.code == 0, result.err
    one, other = (np.array(evaluated(Path(name), "course-train")["psnr"]["per_video"]) for name in "RS")
    assert len(one) == 4
    line = result.out.splitlines()[-1]
    assert line.split()[:2] == ["S", f"{(other - one).mean():+.2f}"]
    assert ", p 0.12" in line  # the least that four videos can give
    result = command("evaluate", "run=[R,S]", "split=train", "protocol=srvp", "protocol.srvp.samples=2")
    assert "differences to R" in result.out


def test_a_protocol_of_the_user_s_own(command, run: Path) -> None:
    Path("mine/protocol").mkdir(parents=True)
    Path("mine/protocol/short.yaml").write_text("# @package protocol.short\nn_past: 1\nn_future: 3\nmetrics: psnr\n")
    result = command("evaluate", "run=R", "protocol=short", "--config-dir", "mine")
    assert result.code == 0, result.err
    assert evaluated(run, "short")["marks"] == ["given frames: 1, where the model was trained with 2"]
    assert "ssim" not in evaluated(run, "short")


@pytest.mark.slow
def test_a_model_that_cannot_is_one_line_and_the_others_go_on(command, drawn: Path, train, run: Path) -> None:
    assert train(*tiny(drawn, "compat=course", "epochs=1", "hydra.run.dir=course")).code == 0
    result = command("evaluate", "run=[course,R]", "protocol=[first_frame,course]", "protocol.first_frame.samples=1")
    assert result.code == 0, result.err
    assert [line for line in result.out.splitlines() if line.startswith("warning: course: ") and "skips=course" in line]
    assert [path.name for path in sorted(Path("course/eval").glob("*.json"))] == ["course.json"]
    assert [path.name for path in sorted(Path("R/eval").glob("*.json"))] == ["course.json", "first_frame.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("protocol=nope", "protocol=nope: no such option; choose course, diagnosis, first_frame, srvp"),
        (
            "protocol.course.n_future=40",
            "2 given and 40 predicted ones are 42: protocol.course.n_future=28 or less",
        ),
        ("split=all", "split is 'all': choose train, validate, test"),
        ("checkpoint=first", "checkpoint is 'first'"),
        ("frames=0", "frames is 0"),
        ("lpips.net=big", "lpips.net is 'big'"),
        ("+colour=red", "+colour: an evaluation has no such key"),
        ("+data.normalise=true", "only the place of the data can be given"),
        ("data.root=nowhere", "nowhere"),
        ("-m", "an evaluation cannot be swept"),
    ],
)
def test_bad_settings_are_one_line(command, run: Path, words: str, message: str) -> None:
    result = command("evaluate", "run=R", words)
    assert (result.code, len(result.err.splitlines())) == (1, 1), result
    assert message in result.err
    assert not (run / "eval").exists()


def missing(path: Path) -> None:
    path.unlink()


def of_another_group(path: Path) -> None:
    torch.save({"encoder": {"weight": torch.zeros(3)}}, path)


def pickled(path: Path) -> None:
    torch.save({"model": print}, path)


@pytest.mark.parametrize(("spoil", "message"), [(missing, "best.pt is missing"), (of_another_group, "best.pt"), (pickled, "")])
def test_bad_checkpoints_are_one_line(command, run: Path, spoil: Any, message: str) -> None:
    spoil(run / "checkpoints" / "best.pt")
    result = command("evaluate", "run=R")
    assert (result.code, len(result.err.splitlines())) == (1, 1), result
    assert message in result.err


def test_bad_places_are_one_line(command, run: Path) -> None:
    for words, message in (("run=nowhere", "run=nowhere does not exist"), ("run=[]", "run=[] names no folder")):
        result = command("evaluate", words)
        assert (result.code, len(result.err.splitlines())) == (1, 1)
        assert message in result.err
    Path("elsewhere").mkdir()
    (run / "eval").symlink_to(Path("elsewhere").absolute())
    assert "is a link that leads elsewhere" in command("evaluate", "run=R").err
    assert not list(Path("elsewhere").iterdir())


def test_training_ends_with_protocols(train, drawn: Path) -> None:
    words = tiny(drawn, "epochs=1", "hydra.run.dir=T", "evaluate=[course]")
    result = train(*words)
    assert result.code == 0, result.err
    assert evaluated(Path("T"))["protocol"]["n_future"] == 10
    assert train(*tiny(drawn, "evaluate=[nope]", "hydra.run.dir=U")).err.startswith("error: evaluate names 'nope'")
    plain = train(*tiny(drawn, "epochs=1", "hydra.run.dir=V"))
    assert plain.code == 0
    one, other = (json.loads(Path(name, "run.json").read_text())["signature"] for name in "TV")
    assert one == other


def test_a_run_with_a_protocol_of_ones_own_goes_on(train, drawn: Path) -> None:
    Path("own/protocol").mkdir(parents=True)
    Path("own/protocol/mine.yaml").write_text("# @package protocol.mine\nn_past: 1\nn_future: 3\n")
    Path("own/protocol/course.yaml").write_text("# @package protocol.course\nn_past: 1\n")
    done = train("--config-dir", "own", *tiny(drawn, "epochs=1", "hydra.run.dir=T", "evaluate=[mine]"))
    assert done.code == 0, done.err
    assert "has protocol/course.yaml, and so has this package, whose files are taken" in " ".join(done.out.split())
    assert evaluated(Path("T"), "mine")["protocol"]["n_future"] == 3
    assert "one of yours needs the --config-dir of its folder" in train("resume=T").err
    again = train("--config-dir", "own", "resume=T")
    assert (again.code, "this run is finished" in again.out) == (0, True)
    # By the search path too, which is what a run's own record of its command says.
    known = shlex.split(json.loads(Path("T/run.json").read_text())["own_command"])
    assert any(word.startswith("hydra.searchpath=") for word in known)
    repeated = train(*known[3:], "hydra.run.dir=U")
    assert repeated.code == 0, repeated.err
    assert evaluated(Path("U"), "mine")["protocol"]["n_future"] == 3
    assert train("hydra.searchpath=[own]", "resume=U").code == 0


@pytest.mark.slow
def test_in_a_sweep_only_the_best_once_more_are_evaluated(train, drawn: Path) -> None:
    sweep = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.top_k=1", "hydra.sweeper.top_k_seeds=2"]
    sweep += ["+hydra.sweeper.params={lr: 'interval(1e-4,1e-3)'}", "hydra.sweep.dir=SW", "evaluate=[course]"]
    result = train("-m", *sweep, *tiny(drawn, "epochs=1", "epoch_size=1"))
    assert result.code == 0, result.err
    assert sorted(str(path.parents[1]) for path in Path("SW").rglob("eval/course.json")) == [
        f"SW/top/trial_{number}_seed_{seed}" for number, seed in _again(Path("SW"))
    ]
    record = json.loads(Path("SW/sweep.json").read_text())
    (recorded,) = record["top_k"]["recorded"].values()
    assert recorded.keys() == {"eval/course/psnr", "eval/course/ssim"}
    assert f"recorded   trial {record['best'][0]}: eval/course/psnr {recorded['eval/course/psnr']:.4g}" in result.out


def _again(sweep: Path) -> list[tuple[int, int]]:
    top = json.loads((sweep / "sweep.json").read_text())["top_k"]
    return [(int(number), seed) for number in top["values"] for seed in top["seeds"]]
