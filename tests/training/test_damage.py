"""A damaged run is named, with what is good and the command that goes on; what goes on ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from fakes import Ended
from omegaconf import OmegaConf

from cvae import damage, run_record
from cvae.damage import Damage
from cvae.errors import Diverged, UserError
from cvae.runs.run import read_run
from cvae.start import compose
from cvae.training import checkpoint
from cvae.training.assembly import assemble, load_model
from cvae.training.restore import _checked, restore
from cvae.training.runtime import Stopped
from cvae.training.state import Impossible
from cvae.training.trainer import Trainer
from cvae.trial import NoTrial


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def stopped(drawn, cache, tmp_path_factory) -> Path:
    """A run of 4 epochs of 2 steps that was stopped within its last: best.pt is of epoch 2, last.pt of epoch 3 and a step."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    cfg = compose([*tiny(drawn, "epochs=4", "validate_every=2", "sample_every=0"), f"data.cache_dir={cache}"])
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(cfg))
    trainer, _ = assemble(cfg, folder, None, False, NoTrial())
    with pytest.raises(Stopped):
        trainer.fit(Ended(7))
    return folder


@pytest.fixture
def run(stopped, cache, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CVAE_CACHE", str(cache))
    return shutil.copytree(stopped, tmp_path / "run")


def end_of(run: Path) -> tuple[list[dict], dict]:
    """Its rows without what the clock wrote, and its last weights."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds"), row.pop("frames_per_second")
    state = checkpoint.load(run / "checkpoints/last.pt")
    return rows, state["model"] | state["optimizer"]


@pytest.fixture(scope="module")
def end(stopped, tmp_path_factory) -> tuple[list[dict], dict]:
    """How the run ends where nothing is damaged."""
    folder = shutil.copytree(stopped, tmp_path_factory.mktemp("end") / "run")
    cfg = OmegaConf.create(OmegaConf.load(folder / ".hydra/config.yaml"))
    trainer, _ = assemble(cfg, folder, None, True, NoTrial())
    trainer.fit()
    return end_of(folder)


def assert_ends_so(run: Path, end: tuple[list[dict], dict]) -> None:
    rows, weights = end_of(run)
    assert rows == end[0]
    torch.testing.assert_close(weights, end[1], rtol=0, atol=0)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.write_bytes(content)


def refused(train: Callable[..., Any], run: Path, *words: str) -> str:
    """The one line with which a resume is refused; metrics.jsonl and checkpoints stay as they are."""
    before = {path: path.read_bytes() for path in [run / "metrics.jsonl", *run.glob("checkpoints/*")] if path.exists()}
    result = train(f"resume={run}", *words)
    assert (result.code, result.err.count("\n")) == (1, 1), result.err
    assert "Traceback" not in result.out + result.err
    assert {path: path.read_bytes() for path in before} == before
    return result.err


# --- last.pt ----------------------------------------------------------------------------------------------------------


def test_last_pt_damaged_anywhere_is_named_with_what_goes_on(run):
    path = run / "checkpoints/last.pt"
    whole, chance = path.read_bytes(), random.Random(0)
    for place in [chance.randrange(len(whole)) for _ in range(15)] + [0, len(whole) - 1, len(whole) - 600]:
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(Damage, match=r"last\.pt is damaged .*best\.pt of epoch 2 is whole; .* checkpoint=best$"):
                damage.check(run)
    path.write_bytes(whole)
    damage.check(run)


def test_the_command_in_the_message_goes_on_and_ends_the_same(run, train, end):
    flip(run / "checkpoints/last.pt", 5000)
    damaged, lines = (run / "checkpoints/last.pt").read_bytes(), (run / "metrics.jsonl").read_bytes()
    line = refused(train, run)
    assert str(run / "checkpoints/last.pt") in line
    result = train(*shlex.split(line.partition("python -m cvae.train ")[2]))
    assert result.code == 0, result.err
    assert "going back to run/checkpoints/best.pt of epoch 2; kept aside: " in result.out
    assert_ends_so(run, end)
    assert (run / "checkpoints/last.pt.damaged").read_bytes() == damaged
    assert (run / "metrics.jsonl.damaged").read_bytes() == lines


def test_going_back_survives_a_kill_at_any_of_its_steps(run, train, end):
    shutil.move(run / "checkpoints/last.pt", run / "checkpoints/last.pt.damaged")  # after its first step
    assert "last.pt is missing: best.pt of epoch 2 is whole" in refused(train, run)
    damage.go_back(run)  # but the lines are not cut yet
    assert train(f"resume={run}").code == 0
    assert_ends_so(run, end)


def test_nothing_good_is_said_as_well(run, train):
    for name in ("last", "best"):
        flip(run / f"checkpoints/{name}.pt", 300)
    assert "last.pt is damaged" in (line := refused(train, run))
    assert "best.pt is damaged as well" in line
    assert "start a new run" in line
    assert "best.pt is damaged or missing" in refused(train, run, "checkpoint=best")
    (run / "checkpoints/best.pt").unlink()
    assert "there is no best.pt" in refused(train, run)


def test_a_lost_last_pt_is_no_new_run(run, train):
    (run / "checkpoints/last.pt").unlink()
    (run / "metrics.jsonl").unlink()
    assert "last.pt is missing" in refused(train, run)


@pytest.mark.parametrize("what", ["last.pt", "both", "with their lines"])
@pytest.mark.parametrize("steps", [1, 7])
def test_checkpoints_of_another_run_are_not_believed(drawn, cache, tmp_path, monkeypatch, train, what, steps):
    """Of equal settings but for the seed, stopped before the first line or after some."""
    monkeypatch.setenv("CVAE_CACHE", str(cache))
    for name, seed in (("run", 1), ("other", 2)):
        cfg = compose([*tiny(drawn, "epochs=4", f"seed={seed}"), f"data.cache_dir={cache}"])
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(cfg))
        with pytest.raises(Stopped):
            assemble(cfg, tmp_path / name, None, False, NoTrial())[0].fit(Ended(steps))
    names = ["last.pt"] if what == "last.pt" else ["last.pt", "best.pt"]
    for path in [Path("checkpoints", name) for name in names] + [Path("metrics.jsonl")] * (what == "with their lines"):
        if Path("other", path).exists():
            shutil.copy(Path("other", path), Path("run", path))
    assert "last.pt is damaged (it is of another run than the run.json beside it)" in refused(train, Path("run"))
    assert any(each.startswith("checkpoints/last.pt is damaged (it is of another") for each in read_run(Path("run")).problems)
    if what != "last.pt" and steps > 1:
        with pytest.raises(UserError, match="of another run"):
            load_model(Path("run"))


def test_best_pt_is_checked_where_a_model_is_loaded(run):
    load_model(run)
    flip(run / "checkpoints/best.pt", 3000)
    with pytest.raises(Exception, match=r"best\.pt is damaged"):
        load_model(run)


@pytest.mark.parametrize("choice", ["worst", "best.pt", "'"])
def test_there_are_two_checkpoints_to_choose_from(run, train, choice):
    assert "choose last or best" in refused(train, run, f"checkpoint={choice}")


def attempt(run: Path) -> Trainer:
    """A further attempt of a trial in its folder: nobody is there to give a command."""

    class Attempt(NoTrial):
        number = 0

    cfg = OmegaConf.create(OmegaConf.load(run / ".hydra/config.yaml"))
    cfg.trial = {"number": 0}
    run_record.note_config(run)
    trainer, _ = assemble(cfg, run, None, True, Attempt())
    return trainer


def test_a_trial_goes_back_by_itself(run, end, capfd):
    flip(run / "checkpoints/last.pt", 5000)
    (run / ".hydra/config.yaml").write_text((run / ".hydra/config.yaml").read_text() + "\n")  # Hydra writes it anew
    trainer = attempt(run)
    assert (trainer.epoch, trainer.iteration) == (2, 0)
    out = capfd.readouterr().out
    assert "last.pt is damaged" in out
    assert "going back to run/checkpoints/best.pt of epoch 2" in out
    trainer.fit()
    assert_ends_so(run, end)
    run_record.check_config(run)


def test_a_trial_of_which_nothing_is_good_begins_again(run, end, capfd):
    for name in ("checkpoints/last.pt", "checkpoints/best.pt", "run.json"):
        flip(run / name, 300)
    trainer = attempt(run)
    assert trainer.epoch == 0
    out = capfd.readouterr().out
    assert "run.json is damaged" in out
    assert "this trial starts from the beginning" in out
    trainer.fit()
    assert_ends_so(run, end)
    assert len(list(run.rglob("*.damaged"))) == 4


# --- metrics.jsonl ----------------------------------------------------------------------------------------------------

BEFORE_BEST = {
    "a digit": lambda lines: [lines[0].replace(b"1", b"2", 1), *lines[1:]],
    "a line lost": lambda lines: lines[1:],
    "a line doubled": lambda lines: [lines[0], *lines],
    "a list": lambda lines: [b"[1]\n", *lines[1:]],
    "another key": lambda lines: [lines[0].replace(b"epoch", b"epocj", 1), *lines[1:]],
    "not UTF-8": lambda lines: [lines[0].replace(b"e", b"\xff", 1), *lines[1:]],
    "deep": lambda lines: [b"[" * 100_000 + b"\n", *lines[1:]],
    "empty": lambda lines: [],
}
AFTER_BEST = {
    "a digit": lambda lines: [*lines[:2], lines[2].replace(b"3", b"2", 1)],
    "a line lost": lambda lines: lines[:2],
    "a line cut": lambda lines: [*lines[:2], lines[2][:20]],
}


@pytest.mark.parametrize("how", BEFORE_BEST)
def test_lines_damaged_before_best_pt_are_named(run, how):
    path = run / "metrics.jsonl"
    path.write_bytes(b"".join(BEFORE_BEST[how](path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(Damage, match=r"metrics\.jsonl is damaged .*best.pt of epoch 2 is whole, but .* from a copy"):
        damage.check(run)
    with pytest.raises(Damage, match=r"metrics\.jsonl is damaged"):
        damage.go_back(run)


@pytest.mark.parametrize("how", AFTER_BEST)
def test_lines_damaged_after_best_pt_can_be_computed_again(run, how):
    path = run / "metrics.jsonl"
    path.write_bytes(b"".join(AFTER_BEST[how](path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(Damage, match=r"metrics\.jsonl is damaged .*best.pt of epoch 2 is whole; go on from it with: .*=best$"):
        damage.check(run)
    damage.go_back(run)
    damage.check(run)


@pytest.mark.slow
def test_damaged_lines_are_computed_again_and_end_the_same(run, train, end):
    flip(run / "metrics.jsonl", (run / "metrics.jsonl").stat().st_size - 30)
    assert "metrics.jsonl is damaged" in refused(train, run)
    assert train(f"resume={run}", "checkpoint=best").code == 0
    assert_ends_so(run, end)


@pytest.mark.slow
def test_what_lies_after_the_checkpoints_lines_is_dropped_unread(run, train, end):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 4, "train/mse": 99.0}\n' + b"\xff[" * 1000)
    with (run / "metrics.jsonl").open("r+b") as file:
        file.truncate(10 << 30)  # sparse
    assert train(f"resume={run}").code == 0
    assert_ends_so(run, end)


# --- run.json and the config ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit", [("lr: 0.0005", "lr: 0.002"), ("seed: 1", "seed: 2"), ("epochs: 4", "epochs: 4 "), ("lr", "\x00")]
)
def test_an_edited_config_is_named(run, edit):
    path = run / ".hydra/config.yaml"
    assert edit[0] in path.read_text()
    path.write_text(path.read_text().replace(*edit, 1))
    with pytest.raises(Damage, match=r"config\.yaml is not what the run was started with"):
        load_model(run)
    (run / "run.json").unlink()  # then the checkpoint knows it
    with pytest.raises(Damage, match=r"config\.yaml is not what the run was started with"):
        load_model(run)


def test_run_json_damaged_anywhere_is_named_or_the_same(run):
    path, before = run / "run.json", run_record.read_record(run)
    whole = path.read_bytes()
    for place in range(0, len(whole) - 1, 29):  # its last byte, a line's end, says nothing
        flip(path, place)
        with contextlib.suppress(Damage):
            assert {
                **run_record.read_record(run),
                "sha256": before["sha256"],
            }.items() >= before.items()  # its key may go
        path.write_bytes(whole[:place])
        with pytest.raises(Damage):
            run_record.read_record(run)
        path.write_bytes(whole)


def test_a_lost_run_json_is_said_and_the_run_goes_on(run, capfd):
    known = json.loads((run / "run.json").read_text())
    (run / "run.json").unlink()
    attempt(run)
    assert "run.json is missing: the run goes on with a new one" in capfd.readouterr().out
    again = run_record.read_record(run)
    assert again["dataset"]
    assert (again["id"], again["nonce"]) == (known["id"], known["nonce"])  # its checkpoints say whose they are
    attempt(run)


def test_another_precision_is_told(run, train):
    """As on a machine on which precision=auto is another."""
    was = json.loads((run / "run.json").read_text())["precision"]
    other = {"fp32": "bf16", "bf16": "fp32"}[was]
    said = " ".join(train(f"resume={run}", f"precision={other}").out.split())
    assert f"this run computed in {was} and goes on in {other}: precision={was} keeps its numbers" in said
    assert "goes on in" not in train(f"resume={run}", f"precision={was}").out, "it is finished"


# --- a version before these checks ------------------------------------------------------------------------------------


def age(run: Path) -> None:
    """Take from a run what a version before these checks did not write."""
    for path in run.glob("checkpoints/*.pt"):
        torch.save(torch.load(path, weights_only=True), path)
    record = json.loads((run / "run.json").read_text())
    for key in ("config_sha256", "splits", "sealed", "sha256"):
        del record[key]
    (run / "run.json").write_text(json.dumps(record))


def test_an_old_runs_lines_must_be_rows(run, train):
    age(run)
    whole = (run / "metrics.jsonl").read_bytes()
    for how, way in ((BEFORE_BEST["a list"], "best.pt does not help"), (AFTER_BEST["a line cut"], "checkpoint=best")):
        (run / "metrics.jsonl").write_bytes(b"".join(how(whole.splitlines(keepends=True))))
        assert way in (line := refused(train, run))
        assert "metrics.jsonl is damaged (line" in line


@pytest.mark.slow
def test_an_old_run_goes_back_and_ends_the_same(run, train, end):
    age(run)
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes()[:-20])
    assert train(f"resume={run}", "checkpoint=best").code == 0
    assert_ends_so(run, end)


def test_an_old_archives_own_checksums_are_checked(run):
    age(run)
    path, chance = run / "checkpoints/last.pt", random.Random(1)
    whole, state = path.read_bytes(), checkpoint.load(path)
    named = 0
    for place in [chance.randrange(len(whole)) for _ in range(40)]:
        flip(path, place)
        named += 1
        with contextlib.suppress(UserError):
            torch.testing.assert_close(checkpoint.load(path), state, rtol=0, atol=0)
            named -= 1
        path.write_bytes(whole)
    assert named > 10  # the rest are the archive's paddings


# --- values that cannot be --------------------------------------------------------------------------------------------


def test_a_signal_in_the_last_step_of_an_epoch_is_no_damage(run, end):
    with pytest.raises(Stopped):
        attempt(run).fit(Ended(1))
    trainer = attempt(run)
    assert (trainer.epoch, trainer.iteration) == (3, trainer.settings.epoch_size)
    trainer.fit()
    assert_ends_so(run, end)


def set_in(*keys: Any, value: Any) -> Callable[[dict], None]:
    def change(state: dict) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value(state[keys[-1]]) if callable(value) else value

    return change


IMPOSSIBLE = {
    "epoch -5": set_in("epoch", value=-5),
    "epoch huge": set_in("epoch", value=10**9),
    "epoch text": set_in("epoch", value="3"),
    "epoch true": set_in("epoch", value=True),
    "epoch NaN": set_in("epoch", value=float("nan")),
    "epoch 2.5": set_in("epoch", value=2.5),
    "epoch none": set_in("epoch", value=None),
    "iteration 99": set_in("iteration", value=99),
    "iteration -1": set_in("iteration", value=-1),
    "elapsed": set_in("elapsed", value=float("inf")),
    "best": set_in("best", value=float("nan")),
    "best text": set_in("best", value="20"),
    "sums.losses": set_in("sums", "losses", value=torch.zeros(4)),
    "sums.losses NaN": set_in("sums", "losses", value=torch.full((3,), float("nan"))),
    "sums.scheduled": set_in("sums", "scheduled", value=[1.0]),
    "sums.count": set_in("sums", "count", value=7),
    "NaN weights": set_in("model", "cond_mean_A", value=lambda weights: weights * float("nan")),
    "integer weights": set_in("model", "cond_mean_A", value=lambda weights: weights.int()),
    "text for weights": set_in("model", "cond_mean_A", value="a"),
    "state of the optimizer missing": set_in("optimizer", "state", value={}),
    "optimizer infinite": set_in("optimizer", "state", 0, "exp_avg", value=lambda moment: moment / 0),
    "optimizer shape": set_in("optimizer", "state", 0, "exp_avg", value=torch.zeros(2)),
    "optimizer key": set_in("optimizer", "state", 0, value={"step": torch.tensor(1.0)}),
    "optimizer setting": set_in("optimizer", "param_groups", 0, "eps", value="a"),
}


def test_values_that_cannot_be_are_named_with_what_goes_on(run, monkeypatch):
    trainer = attempt(run)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    path, load = run / "checkpoints/last.pt", checkpoint.load
    whole, changed = load(path), {}
    monkeypatch.setattr(checkpoint, "load", lambda path, *_: changed if path.name == "last.pt" else load(path))
    for name, change in IMPOSSIBLE.items():
        changed = copy.deepcopy(whole)
        change(changed)
        with pytest.raises(Impossible, match=rf"(?i){name.split()[0]}|model\.cond_mean_A"):
            _checked(trainer, path)
    with pytest.raises(Damage, match=r"last\.pt is damaged \(optimizer\.eps is .*\): best.pt of epoch 2 is whole; .*=best$"):
        restore(trainer, path)
    for missing in ("epoch", "optimizer", "sums", "generator", "model"):
        changed = {key: value for key, value in whole.items() if key != missing}
        with pytest.raises(UserError, match="does not fit its run's config"):
            restore(trainer, path)
    torch.testing.assert_close(trainer.model.state_dict(), before, rtol=0, atol=0)


def test_spoiled_weights_are_not_kept(run):
    trainer = attempt(run)
    kept = [run / "checkpoints/last.pt", run / "checkpoints/best.pt", run / "metrics.jsonl"]
    before, step = [path.read_bytes() for path in kept], trainer.step

    def spoil(*batch: Any) -> Any:
        losses = step(*batch)
        with torch.no_grad():
            next(trainer.model.parameters()).fill_(float("nan"))
        return losses

    trainer.step = spoil
    with pytest.raises(Diverged, match=r"weights became NaN or infinite in epoch 4, by iteration 2: lower lr .*diverged\.pt"):
        trainer.fit()
    assert before == [path.read_bytes() for path in kept]


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_best_checkpoint_that_is_lost_is_told_of_and_the_run_goes_on(train, run, end, how):
    best = run / "checkpoints/best.pt"
    flip(best, best.stat().st_size // 2)
    if how == "missing":
        best.unlink()
    done = train(f"resume={run}")
    told = {"flipped": "best.pt is damaged (", "missing": "best.pt is missing: "}[how]
    assert (done.code, (done.out + done.err).count(told)) == (0, 1)
    assert_ends_so(run, end)
