"""The synthetic push world: its physics, its statistics, and that its files appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import cvae
from cvae.data import made, synthetic
from cvae.data.synthetic import cart, synthetic_push, write_world
from cvae.data.synthetic import world as push_world
from cvae.data.synthetic.drawing import direction, render
from cvae.data.synthetic.world import Episode, play
from cvae.errors import UserError

Array = npt.NDArray[Any]
REPOSITORY = Path(cvae.__file__).parents[1]


@pytest.fixture(scope="module")
def runs() -> list[Episode]:
    return [play((11, k)) for k in range(40)]


def make(root: Path, train: int = 2, validate: int = 1, test: int = 1, seed: int = 3, workers: int = 1, world: int = 1) -> None:
    write_world(root, {"train": train, "validate": validate, "test": test}, seed, workers, world)


def simulate(seed: int | tuple[int, ...], **options: Any) -> tuple[Array, Array, Array]:
    episode = play(seed, **options)
    return render(episode), episode.actions_T4, episode.positions_T3


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def start(root: Path, train: int) -> subprocess.Popen[str]:
    """A process that makes the world with two workers, one sequence at a time, in a process group of its own."""
    code = (
        "from pathlib import Path; from cvae.data import synthetic; synthetic.IN_PROCESS, synthetic.BATCH = 0, 1;"
        f"synthetic.write_world(Path({str(root)!r}), dict(train={train}, validate=1, test=1), 3, 2)"
    )
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=PIPE, stderr=STDOUT, text=True, start_new_session=True)


def psnr(a_THWC: Array, b_THWC: Array) -> float:
    """Mean over frames, at most 40 dB each."""
    mse_T = (((a_THWC.astype(np.float64) - b_THWC) / 255) ** 2).mean(axis=(1, 2, 3))
    return float(-10 * np.log10(np.maximum(mse_T, 1e-4)).mean())


# ---------------------------------------------------------------------------------------------------- simulate


def test_types_and_ranges() -> None:
    frames_THWC, actions_T4, positions_T3 = simulate(0)
    assert frames_THWC.shape == (30, 64, 64, 3)
    assert frames_THWC.dtype == np.uint8
    assert actions_T4.shape == (30, 4)
    assert positions_T3.shape == (30, 3)
    assert actions_T4.dtype == positions_T3.dtype == np.float32
    with pytest.raises(ValueError, match="30 x 4"):
        simulate(0, actions_T4=actions_T4[:9])


def test_a_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    one, same, other = simulate((3, 1)), simulate((3, 1)), simulate((3, 2))
    for a, b, c in zip(one, same, other, strict=True):
        assert a.tobytes() == b.tobytes()
        assert a.tobytes() != c.tobytes()


def test_actions_are_in_range_and_move_the_hand_a_frame_later(runs: list[Episode]) -> None:
    actions_NT4 = np.stack([run.actions_T4 for run in runs])
    moves_NT3 = np.diff(np.stack([run.positions_T3 for run in runs]), axis=1)
    assert np.abs(actions_NT4).max() <= 1

    def correlation(axis: int, shift: int) -> float:
        moves, actions = moves_NT3[:, 1:-1, axis], actions_NT4[:, 1 + shift : 28 + shift, axis]
        return float(np.corrcoef(moves.ravel(), actions.ravel())[0, 1])

    for axis in range(3):
        assert correlation(axis, 0) > 0.9
        assert correlation(axis, 0) > correlation(axis, -1) + 0.1
        assert correlation(axis, 0) > correlation(axis, 1) + 0.1


def test_objects_move_in_most_sequences(runs: list[Episode]) -> None:
    """By 5 cm, about an object's radius, within the 12 frames of a window."""
    far = [np.linalg.norm(run.places_TO2[11] - run.places_TO2[0], axis=1).max() > 0.05 for run in runs]
    assert np.mean(far) > 0.8


def test_the_first_object_to_move_is_touched_by_the_hand(runs: list[Episode]) -> None:
    for run in runs:
        moved_TO = np.abs(np.diff(run.places_TO2, axis=0)).max(axis=2) > 1e-9
        t = int(moved_TO.any(axis=1).argmax())
        reach_O = run.objects.radius_O + push_world.FINGER_RADIUS + push_world.FINGER_SPREAD[1]
        gaps_TO = np.linalg.norm(run.positions_T3[t : t + 2, None, :2] - run.places_TO2[t], axis=2)
        assert (gaps_TO.min(axis=0) < reach_O)[moved_TO[t]].any()


def test_a_raised_hand_passes_over_the_objects() -> None:
    actions_T4 = np.zeros((30, 4))
    actions_T4[:4, 2] = 1
    actions_T4[4:, :2] = np.random.default_rng(0).choice((-1, 1), (26, 2))
    still = 0
    for k in range(10):
        places_TO2 = play((12, k), actions_T4=actions_T4).places_TO2
        still += bool((places_TO2 == places_TO2[0]).all())
    assert still >= 8  # a hand may start in touch with an object


def test_copying_the_last_past_frame_scores_what_the_world_was_made_for(runs: list[Episode]) -> None:
    scores = []
    for run in runs:
        frames_THWC = render(run)
        scores.append(psnr(frames_THWC[2:12], frames_THWC[1:2]))
    assert 16 < np.mean(scores) < 19


def test_hidden_noise_changes_the_objects_and_nothing_that_is_given() -> None:
    scores = []
    for k in range(12):
        frames_THWC, actions_T4, positions_T3 = simulate((13, k))
        other = simulate((13, k), noise_seed=k, actions_T4=actions_T4)
        assert (other[0][0] == frames_THWC[0]).all()
        assert (other[1] == actions_T4).all()
        assert (other[2] == positions_T3).all()
        scores.append(psnr(frames_THWC[2:12], other[0][2:12]))
    assert 20 < np.mean(scores) < 26


# ------------------------------------------------------------------------------------------------ world 2: the cart

STOPS = range(len(cart.STOPS))
LANE = 40  # the first row of a frame that the cart may reach
ELSEWHERE = 0.005  # MSE of a model that predicts all but the cart with 23 dB


def courses(stop: int, count: int) -> Array:
    return np.stack([cart.drive(np.random.default_rng((stop, k)), push_world.FRAMES, stop) for k in range(count)])


def trips(course_T: Array) -> list[tuple[int, int, int]]:
    """Of each departure: from which stop to which, and how many frames the cart stood there after it might leave."""
    at_T = np.where(
        np.isclose(course_T[:, None], cart.STOPS).any(axis=1), np.abs(course_T[:, None] - cart.STOPS).argmin(axis=1), -1
    )
    found, since, stop = [], cart.GIVEN, int(at_T[0])
    for t in range(1, len(at_T)):
        if at_T[t] >= 0 and at_T[t - 1] < 0:
            found[-1][1] = int(at_T[t])
            since, stop = t + 1, int(at_T[t])
        elif at_T[t] < 0 and at_T[t - 1] >= 0:
            found.append([stop, -1, t - since])
    return [(a, b, stood) for a, b, stood in found if b >= 0]


def test_the_cart_stands_at_first_and_leaves_several_times() -> None:
    course_NT = np.concatenate([courses(stop, 100) for stop in STOPS])
    assert (course_NT[:, : cart.GIVEN] == np.repeat(cart.STOPS, 100)[:, None]).all()
    assert (course_NT[:, cart.GIVEN] != course_NT[:, 0]).mean() == pytest.approx(cart.LEAVES, abs=0.1)
    assert 3 < np.mean([len(trips(course_T)) for course_T in course_NT]) < 4.5
    assert np.abs(np.diff(course_NT, axis=1)).max() < 0.12  # metres a frame: it drives, it does not jump


def test_nothing_tells_when_the_cart_leaves_and_where_to() -> None:
    """The chance to leave is the same however long it has stood; both other stops are equally likely."""
    found = np.array([trip for stop in STOPS for course_T in courses(stop, 300) for trip in trips(course_T)])
    for stop in STOPS:
        goals = found[found[:, 0] == stop, 1]
        for goal in set(STOPS) - {stop}:
            assert np.mean(goals == goal) == pytest.approx(0.5, abs=0.1)
    stood = found[:, 2]
    for frames in range(3):
        assert np.mean(stood[stood >= frames] == frames) == pytest.approx(cart.LEAVES, abs=0.06)


def test_world_2_has_the_arm_and_objects_of_world_1() -> None:
    for k in range(5):
        one, two = play((14, k)), play((14, k), world=2)
        assert (one.actions_T4 == two.actions_T4).all()
        assert (one.positions_T3 == two.positions_T3).all()
        assert (one.places_TO2 == two.places_TO2).all()
        assert one.cart_T is None
        assert two.cart_T is not None


def test_what_the_cart_hides_is_large_and_best_of_ten_finds_it() -> None:
    """One scene under many courses of the cart: each in turn is the truth, and the others what an oracle draws."""
    run = play((14, 0), world=2)
    still = render(run)[0, :LANE].astype(int)
    rows = []
    for stop in STOPS:
        frames_NTHWC = np.stack([render(replace(run, cart_T=course_T)) for course_T in courses(stop, 12)])
        assert (frames_NTHWC[:, 0, :LANE] == still).all()  # the cart is below
        videos_NKHWC = frames_NTHWC[:, 2:12, LANE:].astype(np.float32) / 255
        for n, true_KHWC in enumerate(videos_NKHWC):
            others = np.delete(videos_NKHWC, n, axis=0)[:10]
            moved = (np.abs(others - true_KHWC).max(axis=-1) > 0.05).mean()
            guesses = np.concatenate([others, others.mean(axis=0)[None]])
            mse_SK = ((guesses - true_KHWC) ** 2).mean(axis=(2, 3, 4)) * (64 - LANE) / 64 + ELSEWHERE
            psnr_S = -10 * np.log10(mse_SK).mean(axis=1)
            rows.append((moved * (64 - LANE) / 64, psnr_S[0], psnr_S[:-1].max(), psnr_S[-1]))
    moved, one, best, average = np.mean(rows, axis=0)
    knows = -10 * np.log10(ELSEWHERE)
    assert 0.06 < moved < 0.14
    assert 1.5 < knows - average < 4
    assert 0.5 < average - one < 2
    assert 1.5 < best - one < 4


def test_world_1_is_what_it_was_in_0_1_0(tmp_path: Path) -> None:
    """As that version made it on a CPU without AVX-512; with it a few pixels were rounded otherwise."""
    data = synthetic_push(train=4, validate=2, test=0, cache_dir=str(tmp_path / "cache"))
    assert data.fingerprint == "c0d693dd0f714d6b"
    other = synthetic_push(train=4, validate=2, test=0, world=2, cache_dir=str(tmp_path / "cache"))
    assert other.root.name == "push-v2-seed0-4-2-0"
    assert other.fingerprint != data.fingerprint


@pytest.mark.parametrize("avx_512", [True, False])
def test_a_world_is_the_same_on_every_cpu(avx_512: bool) -> None:
    core = getattr(np, "_core", None) or np.core
    found = [name for name in core._multiarray_umath.__cpu_dispatch__ if name.startswith(("AVX512", "X86_V4"))]
    without = "" if avx_512 else " ".join(found)
    code = (
        "import hashlib; from cvae.data import synthetic; whole = hashlib.sha256();"
        "[whole.update(part.tobytes()) for world in (1, 2) for k in range(12) for part in synthetic._draw((world, 0, 0, k))];"
        "print(whole.hexdigest()[:16])"
    )
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": without}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "e96615aac009eee1"


def test_a_direction_is_that_of_numpy_but_for_its_last_digit() -> None:
    down, across = np.random.default_rng(0).normal(size=(2, 100_000)).astype(np.float32)
    down[:6], across[:6] = [0, 0, 1, -1, 1e-30, 1e30], [1, -1, 0, 0, -1, -1]
    found = direction(down, across)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.arctan2(down.astype(float), across), rtol=0, atol=4e-7)


# ------------------------------------------------------------------------------------------------- write_world


def test_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "PER_FOLDER", 2)
    make(tmp_path / "world", train=3)
    folders = ["train/traj_0_to_1/0", "train/traj_0_to_1/1", "train/traj_2_to_3/0"]
    folders += ["validate/traj_0_to_1/0", "test/traj_0_to_1/0"]
    names = ["actions.csv", "endeffector_positions.csv", *(f"{t}.png" for t in range(30))]
    assert set(contents(tmp_path / "world")) == {f"{folder}/{name}" for folder in folders for name in names}

    frames_THWC, actions_T4, positions_T3 = simulate((3, 0, 2))
    folder = tmp_path / "world" / folders[2]
    assert (np.asarray(Image.open(folder / "7.png")) == frames_THWC[7]).all()
    assert np.abs(np.loadtxt(folder / "actions.csv", delimiter=",") - actions_T4).max() < 1e-6
    assert np.abs(np.loadtxt(folder / "endeffector_positions.csv", delimiter=",") - positions_T3).max() < 1e-6
    assert all(len(cell.split(".")[1]) == 7 for cell in (folder / "actions.csv").read_text().split("\n")[0].split(","))


def test_folders_of_256() -> None:
    assert made.folder_of(Path("r"), "train", 255) == Path("r/train/traj_0_to_255/255")
    assert made.folder_of(Path("r"), "train", 300) == Path("r/train/traj_256_to_511/44")


def test_bytes_do_not_depend_on_workers_and_splits_share_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "IN_PROCESS", 0)
    for workers in (1, 2):
        make(tmp_path / str(workers), train=4, validate=2, test=2, workers=workers)
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert one == two
    first_frames = [data for name, data in one.items() if name.endswith("/0.png")]
    assert len(set(first_frames)) == len(first_frames) == 8
    make(tmp_path / "other", seed=4, train=1)
    assert contents(tmp_path / "other")["train/traj_0_to_255/0/0.png"] not in first_frames


def test_a_world_that_is_there_is_left_alone_and_other_data_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "world"
    make(root)
    marked = root / "train/traj_0_to_255/0/0.png"
    marked.write_bytes(b"mine")
    make(root)
    assert marked.read_bytes() == b"mine"
    with pytest.raises(UserError, match="other data"):
        make(root, train=3)
    assert marked.read_bytes() == b"mine"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    root = tmp_path / "world"
    process = start(root, train=60)
    deadline = time.monotonic() + 400
    while len(list(tmp_path.glob(".world.*/*/*/*"))) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as Ctrl-C does: to the workers too
    else:
        process.send_signal(how)
    said, _ = process.communicate(timeout=400)
    assert process.returncode != 0
    assert not root.exists()
    if how == signal.SIGINT:
        assert said.count("Traceback") == 1
        assert {path.name for path in tmp_path.iterdir()} <= {"world.lock"}
    make(root)
    assert {path.name for path in tmp_path.iterdir()} == {"world", "world.lock"}
    assert len(contents(root)) == 4 * 32


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    processes = [start(tmp_path / "world", train=6) for _ in range(2)]
    said = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    line = f"making synthetic push world in {tmp_path / 'world'}: 8 sequences\n"
    assert sorted(said) == ["", line]
    assert len(contents(tmp_path / "world")) == 8 * 32


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        make(tmp_path / "file" / "world")
    assert str(tmp_path / "file" / "world") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(made.np, "savetxt", full)
    with pytest.raises(UserError, match="No space left") as caught:
        make(tmp_path / "world")
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"world.lock"}


@pytest.mark.parametrize("argument", ["train", "validate", "world_seed"])
def test_numbers_too_small_are_refused(argument: str) -> None:
    with pytest.raises(UserError, match=f"data.{argument} is -1"):
        synthetic_push(**{argument: -1})


def test_a_world_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match=r"^data.world is 3: choose 1 or 2$"):
        synthetic_push(world=3)


def test_the_data_group_makes_its_world_in_the_cache(tmp_path: Path) -> None:
    data = synthetic_push(train=2, validate=1, test=0, cache_dir=str(tmp_path / "cache"))
    data.check()
    assert data.root == tmp_path / "cache/synthetic/push-v1-seed0-2-1-0"
    assert not data.root.exists()  # a world is made when it is used
    assert (len(data.train), len(data.validate), data.train.cond_NA.shape) == (2, 1, (60, 7))
    data.check()


def test_a_root_that_holds_another_world_is_refused_before_it_is_used(tmp_path: Path) -> None:
    make(tmp_path / "world")
    with pytest.raises(UserError, match="other data"):
        synthetic_push(train=3, validate=1, test=1, root=str(tmp_path / "world")).check()


@pytest.mark.parametrize("file", ["actions.csv", "3.png"])
def test_a_world_that_was_changed_is_named_and_made_anew_once_it_is_removed(tmp_path: Path, file: str) -> None:
    def opened() -> str:
        return synthetic_push(train=2, validate=1, test=0, cache_dir=str(tmp_path / "cache")).fingerprint

    usual = opened()
    root = tmp_path / "cache/synthetic/push-v1-seed0-2-1-0"
    path = root / "train/traj_0_to_255/1" / file
    os.utime(path)  # a copy of a cache has other times
    assert opened() == usual
    if file.endswith(".csv"):
        path.write_text(path.read_text().replace("1", "2", 1))
    else:
        path.write_bytes((root / "train/traj_0_to_255/0" / file).read_bytes())
    for _ in range(2):
        with pytest.raises(UserError, match=r"/train is not as it was made: remove .*push-v1-seed0-2-1-0, it is made anew$"):
            opened()
    shutil.rmtree(root)
    assert opened() == usual
