"""The simulated Sawyer: what it does follows from its numbers, and a machine without it is told what to install."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny
from servers import missing

from cvae.data.layout import read_frames, read_table
from cvae.data.sawyer import sawyer_push, scene
from cvae.data.sawyer.policy import HAND_STEP, HIGH, REACH_HIGH, REACH_LOW, Policy, scatter
from cvae.errors import UserError


@pytest.mark.parametrize("seed", range(20))
def test_the_hand_comes_to_an_object_within_the_frames_that_are_predicted_first(seed):
    """A hand that goes where it is sent, above a table where nothing moves."""
    noise = np.random.default_rng(seed)
    places_O2 = scatter(noise, 3, 0.1)
    assert min(np.linalg.norm(places_O2[one] - places_O2[other]) for one, other in ((0, 1), (0, 2), (1, 2))) > 0.08
    policy = Policy(noise, places_O2)
    hand_3, nearest = policy.start_3, 1.0
    assert hand_3[2] == HIGH
    for _ in range(12):
        action_4 = policy.act(hand_3, places_O2)
        assert np.abs(action_4).max() <= 1
        hand_3 = np.clip(hand_3 + HAND_STEP * action_4[:3], REACH_LOW, REACH_HIGH)
        if hand_3[2] < 0.08:
            nearest = min(nearest, np.linalg.norm(places_O2 - hand_3[:2], axis=1).min())
    assert nearest < 0.055  # between two frames it comes closer; objects have a radius of 2 to 6 cm


def test_without_its_packages_one_line_says_what_to_install(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVAE_CACHE", str(tmp_path / "cache"))
    found = importlib.util.find_spec
    monkeypatch.setattr(scene.importlib.util, "find_spec", lambda name: None if name == "metaworld" else found(name))
    result = command("data", "make", "sawyer", "made")
    assert result.code == 1
    assert "needs Meta-World and MuJoCo: pip install 'cvae[sim]'" in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not Path("made").exists()
    with pytest.raises(UserError, match="needs Meta-World"):  # before a multirun
        sawyer_push().check()


# --- with Meta-World --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some sequences, of two workers."""
    if importlib.util.find_spec("metaworld") is None:
        missing("no Meta-World: pip install '.[sim]', and apt-get install libosmesa6")
    root = tmp_path_factory.mktemp("sawyer") / "made"
    make(root, "--train", "5", "--validate", "2", "--test", "0", "--workers", "2")
    return root


def make(root: Path, *words: str) -> None:
    command = [sys.executable, "-m", "cvae.data", "make", "sawyer", str(root), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.servers
@pytest.mark.timeout(500)
def test_files_depend_on_seed_split_and_number_alone(made, tmp_path):
    make(tmp_path / "other", "--train", "4", "--validate", "1", "--test", "1", "--workers", "1")
    # Drawn after others of its scene, and first by a process that draws nothing else.
    code = "import sys; from cvae.data.sawyer import _draw; sys.stdout.buffer.write(_draw((0, 0, 3))[0].tobytes())"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert alone == read_frames(made / "train/traj_0_to_255/3", 30).tobytes()
    for split, count in (("train", 4), ("validate", 1)):
        for number in range(count):
            name = f"{split}/traj_0_to_255/{number}"
            assert {path.name: path.read_bytes() for path in (made / name).iterdir()} == {
                path.name: path.read_bytes() for path in (tmp_path / "other" / name).iterdir()
            }
    firsts = [(path / "0.png").read_bytes() for path in made.glob("*/*/*")]
    firsts.append((tmp_path / "other/test/traj_0_to_255/0/0.png").read_bytes())
    assert len(set(firsts)) == len(firsts) == 8


@pytest.mark.servers
@pytest.mark.timeout(500)
def test_actions_move_the_hand_and_the_picture_shows_it(made):
    steps, wanted, moved = [], [], []
    for number in range(5):
        folder = made / f"train/traj_0_to_255/{number}"
        actions_T4, positions_T3 = (read_table(folder, name, 30)[0] for name in ("actions.csv", "endeffector_positions.csv"))
        assert np.abs(actions_T4).max() <= 1
        assert (positions_T3 > REACH_LOW - 0.02).all()
        assert (positions_T3 < REACH_HIGH + 0.02).all()
        steps.append(np.diff(positions_T3, axis=0))
        wanted.append(HAND_STEP * actions_T4[:-1, :3])
        moved.append(np.abs(np.diff(read_frames(folder, 30).astype(int), axis=0)).mean())
    for step, way in zip(np.concatenate(steps).T, np.concatenate(wanted).T, strict=True):
        assert np.corrcoef(step, way)[0, 1] > 0.75
    assert min(moved) > 1


@pytest.mark.servers
@pytest.mark.timeout(500)
def test_it_trains(made, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVAE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(made, tmp_path / "own")
    counts = ["data.train=5", "data.validate=2", "data.test=0"]
    assert train("data=sawyer", "data.root=own", *counts, *tiny(tmp_path)[2:]).code == 0
    result = train("data=sawyer", "data.root=own", "data.train=4", "data.validate=2", "data.test=0", *tiny(tmp_path)[2:])
    assert result.code == 1
    assert "own holds other data than a simulated Sawyer of" in result.err


@pytest.mark.servers
@pytest.mark.timeout(500)
def test_a_library_that_is_missing_is_named(made, command, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nothing")
    result = command("data", "make", "sawyer", tmp_path / "none", "--train", "1", "--validate", "1", "--test", "0")
    assert result.code == 1
    assert "MuJoCo cannot draw with MUJOCO_GL=nothing" in result.err
    assert "libosmesa6" in result.err
    assert list(tmp_path.glob("*none*")) in ([], [tmp_path / "none.lock"])
