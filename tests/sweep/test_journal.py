"""A study's journal: every byte that changed and every line that is missing is found, and other programs still read it."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cvae.errors import UserError
from cvae.sweep.journal import Damaged, Journal
from cvae.sweep.storage import open_storage, read_journal

PATH = Path("a.journal")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def fill(storage: Any, trials: int) -> None:
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    for _ in range(trials):
        trial = study.ask()
        trial.report(trial.suggest_float("x", 0, 1), 1)
        trial.set_user_attr("folder", "run/0")
        study.tell(trial, trial.params["x"])


def ours() -> JournalStorage:
    return JournalStorage(Journal(PATH))


def plain() -> JournalStorage:
    """As Optuna and its dashboard open it."""
    return JournalStorage(JournalFileBackend(str(PATH)))


def trials(storage: JournalStorage) -> list[tuple]:
    found = optuna.load_study(study_name="s", storage=storage).trials
    return [(each.number, each.state, each.values, each.params, each.user_attrs, each.intermediate_values) for each in found]


def test_every_flip_is_found() -> None:
    fill(ours(), 4)
    whole, good = PATH.read_bytes(), trials(ours())
    generator = random.Random(0)
    named = 0
    for turn in range(300):
        flipped = bytearray(whole)
        # Every third in the last line, which no other line covers.
        place = len(whole) - 1 - generator.randrange(200) if turn % 3 == 0 else generator.randrange(len(whole))
        flipped[place] ^= 1 << generator.randrange(8)
        PATH.write_bytes(flipped)
        try:
            assert trials(ours()) == good, (place, bytes(flipped[place - 20 : place + 20]))
        except Damaged as error:
            named += "a.journal is damaged in line" in str(error)
    assert named > 290  # but for the file's last byte, which is put right


def test_damage_is_named_with_what_is_good_and_the_command_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    fill(ours(), 3)
    lines = PATH.read_bytes().splitlines(keepends=True)
    number = next(index for index, line in enumerate(lines) if b'"trial_id":2' in line)
    lines[number] = lines[number].replace(b'"trial_id":2', b'"trial_id":1')
    PATH.write_bytes(b"".join(lines))
    for open_it in (ours, lambda: open_storage(f"journal://{PATH.absolute()}"), lambda: read_journal("journal://a.journal")):
        with pytest.raises(UserError) as caught:
            open_it()
        assert "\n" not in str(caught.value)
        assert f"line {number + 1}: the first {number} lines are good, with 2 finished trials" in str(caught.value)
    command = str(caught.value).split("keep these lines: ")[1]
    subprocess.run(command, shell=True, check=True)
    assert [each[2] for each in trials(ours()) if each[2]] == [[each[3]["x"]] for each in trials(ours())[:2]]
    assert Path("a.journal.damaged").read_bytes() == b"".join(lines)


@pytest.mark.parametrize("what", ["missing", "doubled", "in another order"])
def test_lines_that_are(what: str) -> None:
    fill(ours(), 2)
    lines = PATH.read_bytes().splitlines(keepends=True)
    for index in range(len(lines) - 1):
        one, two = lines[index : index + 2]
        new = {"missing": [two], "doubled": [one, one, two], "in another order": [two, one]}[what]
        PATH.write_bytes(b"".join([*lines[:index], *new, *lines[index + 2 :]]))
        with pytest.raises(Damaged, match=r"damaged in line"):
            ours()


@pytest.mark.parametrize("lost", range(1, 60, 7))
def test_a_last_line_that_was_cut_off_is_said_and_removed(lost: int, capsys: pytest.CaptureFixture[str]) -> None:
    fill(ours(), 2)
    whole = PATH.read_bytes()
    PATH.write_bytes(whole[:-lost])
    fill(ours(), 1)
    said = capsys.readouterr().out
    if lost == 1:
        assert said == "", "only the line's end was missing"
        assert [each[1].name for each in trials(ours())] == ["COMPLETE"] * 3
    else:
        assert said.startswith("warning: a.journal: its last line was cut off and is removed")
        assert len(trials(ours())) == 3
    assert trials(ours()) == trials(plain())


def test_a_journal_that_becomes_shorter_while_it_is_in_use() -> None:
    storage = ours()
    fill(storage, 2)
    PATH.write_bytes(b"".join(PATH.read_bytes().splitlines(keepends=True)[:-2]))
    with pytest.raises(Damaged, match="became shorter while it was in use"):
        fill(storage, 1)


def test_optuna_and_its_dashboard_read_and_write_it() -> None:
    fill(ours(), 2)
    fill(plain(), 2)  # without checks
    fill(ours(), 1)
    assert len(trials(ours())) == 5
    assert trials(plain()) == trials(ours())
    # A line of theirs is covered by the next of ours.
    whole = PATH.read_bytes()
    lines = whole.splitlines(keepends=True)
    number = next(index for index, line in enumerate(lines) if b"cvae_check" not in line and b'"values":[' in line)
    lines[number] = lines[number].replace(b'"values":[0.', b'"values":[1.')
    PATH.write_bytes(b"".join(lines))
    with pytest.raises(Damaged, match=r"or in one of the \d+ before it, which have no check"):
        ours()
    # One that they write between our look and our writing, since they take another lock, does no harm.
    PATH.write_bytes(whole)
    journal = Journal(PATH)
    catch_up = journal._catch_up

    def late() -> None:
        catch_up()
        fill(plain(), 1)

    journal._catch_up = late  # type: ignore[method-assign]
    storage = JournalStorage(journal)
    fill(storage, 1)
    assert trials(ours()) == trials(plain())


def test_a_journal_of_an_earlier_version_has_no_checks() -> None:
    fill(plain(), 2)
    lines = PATH.read_bytes().splitlines(keepends=True)
    assert len(trials(ours())) == 2
    for spoilt, line in (
        (b'{"op_code":6,"trial_id":\n', 4),
        (b"[1]\n", 4),
        (b"\xff\xfe\n", 4),
        (b'{"op_code":77}\n', 4),
        (b'{"op_code":6,"worker_id":"w","trial_id":0,"state":9,"values":null}\n', 4),
        (b"[" * 100_000 + b"\n", 4),
    ):
        PATH.write_bytes(b"".join([*lines[:3], spoilt, *lines[4:]]))
        with pytest.raises(UserError) as caught:
            open_storage.__wrapped__(f"journal://{PATH.absolute()}")
        assert f"damaged in line {line}" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_damage_ends_a_sweep_in_one_line(app) -> None:
    words = ("hydra.sweeper.study_name=s", "hydra.sweeper.n_trials=1")
    assert app.write()(*words).code == 0
    path = Path("multirun/studies/s.journal")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"state":1', b'"state":3', 1))
    open_storage.cache_clear()
    done = app(*words)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith("error: multirun/studies/s.journal is damaged in line ")
    assert path.read_bytes() != whole, "nothing repairs it silently"


# --- lost trials ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trials_that_a_cut_journal_does_not_know_are_named(app) -> None:
    words = ("hydra.sweeper.study_name=s", "hydra.sweep.dir=multirun/a", "hydra.sweeper.n_trials=2")
    assert app.write()(*words).code == 0
    path = Path("multirun/studies/s.journal")
    lines = path.read_bytes().splitlines(keepends=True)
    kept = {each: each.stat().st_mtime_ns for each in Path("multirun/a").rglob("*.yaml")}
    begun = [index for index, line in enumerate(lines) if b'"op_code":4' in line][1]
    for length in (begun + 3, begun + 1, begun):  # until its parameters were known, and before it was begun
        path.write_bytes(b"".join(lines[:length]))
        open_storage.cache_clear()
        done = app(*words)
        assert done.code == 1, (length, done.out)
        (line,) = done.err.splitlines()
        assert "has lost trials 1: multirun/a/1 holds the first of them" in line
    assert {each: each.stat().st_mtime_ns for each in Path("multirun/a").rglob("*.yaml")} == kept
    subprocess.run(line.split("go on without them: ")[1], shell=True, check=True)
    assert Path("multirun/a.lost/1/.hydra").is_dir()
    open_storage.cache_clear()
    done = app(*words)
    assert (done.code, done.err) == (0, "")
    assert len(app.record()["trials"]) == 2


@pytest.mark.slow
def test_a_study_that_is_gone_begins_anew_with_a_warning(app) -> None:
    words = ("hydra.sweeper.study_name=s", "hydra.sweeper.n_trials=1")
    assert app.write()(*words, "hydra.sweep.dir=multirun/a").code == 0
    Path("multirun/studies/s.journal").unlink()
    open_storage.cache_clear()
    done = app(*words, "hydra.sweep.dir=multirun/b")
    assert (done.code, done.err) == (0, "")
    assert "warning: study s in" in done.out
    assert "has lost trials 0: multirun/a/0 holds" in done.out
    other = app("hydra.sweeper.study_name=t", "hydra.sweeper.n_trials=1", "hydra.sweep.dir=multirun/c")
    assert "has lost" not in other.out


# --- SQLite -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["header", "page", "cut"])
def test_a_damaged_database_is_one_line(spoil: str) -> None:
    url = f"sqlite:///{Path('a.db').absolute()}"
    fill(open_storage(url), 3)
    whole = Path("a.db").read_bytes()
    Path("b.db").write_bytes(
        {"header": b"x" * 100 + whole[100:], "page": whole[:4096] + b"\x07" * 8192 + whole[12288:], "cut": whole[:-4096]}[spoil]
    )
    with pytest.raises(UserError) as caught:
        open_storage(f"sqlite:///{Path('b.db').absolute()}")
    assert "\n" not in str(caught.value)
    assert "b.db is damaged" in str(caught.value)
    assert ".recover" in str(caught.value)
