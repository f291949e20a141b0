"""LeRobot datasets, v3 as lerobot-dataset writes them and v2.1 by hand: the pixels, actions and states of the source."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from servers import python_with
from smooth import frame_of, psnr, resized

from cvae.data.converted import PackedData
from cvae.data.store import VideoData

av = pytest.importorskip("av")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
HERE = Path(__file__).parent
FIXTURE = HERE.parents[1] / "fixtures" / "convert" / "lerobot_v3"
SHORT = ("--shortest", "2")
Convert = Callable[..., Result]


@pytest.fixture(autouse=True)
def _meta_here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The list of episodes is read in this process too."""
    if "convert_apart" not in request.fixturenames or "convert" in request.fixturenames:
        from cvae.data.convert import lerobot

        monkeypatch.setattr(lerobot, "each_in_processes", lambda task, jobs, workers: (task(job, None) for job in jobs))


def sequences(root: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """All sequences of a packed folder by their names."""
    data = PackedData(root)
    return {split.name(i): split[i] for split in (data.train, data.validate, data.test) for i in range(len(split))}


def check(root: str, episodes: int, frames: int, exact: bool, video: Path | None = None) -> None:
    """Against the formulas of write_with_ledataset.py, and what PyAV decodes."""
    found = sequences(root)
    assert set(found) == {f"episode_{number}/0" for number in range(episodes)}
    ahead = 0
    for number in range(episodes):
        frames_THWC, cond_TA = found[f"episode_{number}/0"]
        assert len(frames_THWC) == frames + number
        smooth = np.stack([resized(frame_of(number, t)) for t in range(len(frames_THWC))])
        if exact:
            np.testing.assert_array_equal(frames_THWC, smooth)
        else:
            assert psnr(frames_THWC, smooth) >= 30
            with av.open(str(video)) as container:
                own = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            own = own[ahead : ahead + len(frames_THWC)]
            np.testing.assert_array_equal(frames_THWC, np.stack([resized(frame) for frame in own]))
        rows = [[t / 3, -number, number, t, 0.1] for t in range(len(frames_THWC))]
        np.testing.assert_array_equal(cond_TA, np.array(rows, np.float32))
        ahead += len(frames_THWC)


@pytest.mark.parametrize("camera", ["top", "observation.images.still"])
def test_v3(camera: str, convert: Convert) -> None:
    for to in ("packed", "png"):
        result = convert(FIXTURE, to, *SHORT, "--to", to, "--camera", camera)
        assert result.code == 0, result.err
    video = FIXTURE / "videos/observation.images.top/chunk-000/file-000.mp4"
    check("packed", 4, 4, exact=camera != "top", video=video)
    course = VideoData("png", workers=1)
    assert course.fingerprint == PackedData("packed").fingerprint
    assert course.test.fingerprint == PackedData("packed").test.fingerprint
    assert course.train.cond_NA.shape[1] == 5
    assert VideoData("png", condition="actions", workers=1).train.cond_NA.shape[1] == 2
    assert PackedData("packed", condition="actions").train.cond_NA.shape[1] == 2
    tables = json.loads(Path("png/conditions.json").read_text())["tables"]
    assert [(table["file"], table["names"]) for table in tables] == [
        ("actions.csv", ["left", "right"]),
        ("states.csv", ["x", "y", "z"]),
    ]
    assert json.loads(Path("packed/dataset.json").read_text())["conditions"] == tables


@pytest.mark.servers
@pytest.mark.timeout(1800)
def test_what_lerobot_dataset_writes_today(convert_apart: Convert, tmp_path: Path) -> None:
    program = python_with("lerobot-dataset==0.4.4", tmp_path / "environment")
    subprocess.run([program, HERE / "write_with_ledataset.py", "S", "6", "12"], check=True, capture_output=True)
    for camera in ("top", "still"):
        for to in ("packed", "png"):
            assert convert_apart("S", f"{to}-{camera}", "--to", to, "--camera", camera).code == 0
        packed, course = PackedData(f"packed-{camera}"), VideoData(f"png-{camera}", workers=1)
        assert packed.fingerprint == course.fingerprint
    check("packed-still", 6, 12, exact=True)
    check("packed-top", 6, 12, exact=False, video=Path("S/videos/observation.images.top/chunk-000/file-000.mp4"))


def write_v2(root: Path, episodes: int = 3, frames: int = 6, codec: str = "libx264") -> Path:
    """A v2.1 dataset with a camera in MP4s, by hand: a list of floats as the action, a single number as the state."""
    (root / "meta").mkdir(parents=True)
    features = {
        "cam": {"dtype": "video", "shape": [80, 96, 3], "names": ["height", "width", "channel"]},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "observation.state": {"dtype": "float64", "shape": [1], "names": ["angle"]},
        "done": {"dtype": "bool", "shape": [1], "names": None},
    }
    info = {"codebase_version": "v2.1", "fps": 5, "chunks_size": 2, "features": features, "splits": {"train": "0:3"}}
    (root / "meta/info.json").write_text(json.dumps(info))
    lines = [json.dumps({"episode_index": k, "tasks": ["move"], "length": frames}) for k in range(episodes)]
    (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    for k in range(episodes):
        chunk = f"chunk-{k // 2:03d}"
        (root / "data" / chunk).mkdir(parents=True, exist_ok=True)
        table = pa.table(
            {
                "action": pa.array([[t / 7, k] for t in range(frames)], pa.list_(pa.float32())),
                "observation.state": pa.array([k - t / 3 for t in range(frames)], pa.float64()),
                "done": pa.array([False] * frames),
                "episode_index": pa.array([k] * frames, pa.int64()),
            }
        )
        pq.write_table(table, root / "data" / chunk / f"episode_{k:06d}.parquet")
        path = root / "videos" / chunk / "cam" / f"episode_{k:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=5, options={"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
            for t in range(frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_of(k, t), format="rgb24")))
            container.mux(stream.encode())
    return root


def test_v2(convert: Convert) -> None:
    write_v2(Path("S"))
    assert convert("S", "packed", *SHORT).code == 0
    assert convert("S", "png", *SHORT, "--to", "png").code == 0
    assert PackedData("packed").fingerprint == VideoData("png", workers=1).fingerprint
    for k in range(3):
        frames_THWC, cond_TA = sequences("packed")[f"episode_{k}/0"]
        with av.open(f"S/videos/chunk-{k // 2:03d}/cam/episode_{k:06d}.mp4") as container:
            own = [resized(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        np.testing.assert_array_equal(frames_THWC, np.stack(own))
        assert psnr(frames_THWC, np.stack([resized(frame_of(k, t)) for t in range(6)])) >= 30
        np.testing.assert_array_equal(cond_TA, np.array([[t / 7, k, k - t / 3] for t in range(6)], np.float32))


def test_columns_and_stride_are_chosen(convert: Convert) -> None:
    write_v2(Path("S"))
    assert convert("S", "D", *SHORT, "--state", "done", "--action", "none", "--stride", "2", "--clip", "2").code == 0
    found = sequences("D")
    assert sorted(name for name in found if name.startswith("episode_1/")) == ["episode_1/0"]  # the third frame is left out
    assert found["episode_1/0"][1].shape == (2, 1)
    assert convert("S", "E", *SHORT, "--stride", "2").code == 0
    np.testing.assert_array_equal(sequences("E")["episode_0/0"][1][:, 0], np.array([0, 2 / 7, 4 / 7], np.float32))
    said = json.loads(Path("E/dataset.json").read_text())
    assert said["plan"]["options"]["camera"] == "cam"
    assert "Of every 2 frames the first is taken" in " ".join(said["rules"])
    assert "choose action, observation.state, done or none" in convert("S", "F", "--action", "other").err
    assert "choose one of the cameras" in convert("S", "F", "--camera", "other").err
    assert "choose one of the cameras" in convert(FIXTURE, "F").err


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda root: (root / "meta/info.json").write_text("{"), "info.json cannot be read"),
        (lambda root: (root / "meta/episodes.jsonl").write_text('{"episode_index": 0}\n'), "episodes.jsonl cannot be read"),
        (lambda root: (root / "data/chunk-000/episode_000001.parquet").unlink(), "episode_000001.parquet is missing"),
        (lambda root: (root / "data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1"), "episode 1: it cannot be read"),
        (
            lambda root: (root / "videos/chunk-000/cam/episode_000001.mp4").write_bytes(b"x" * 99),
            "episode 1: it cannot be read",
        ),
        (
            lambda root: (root / "meta/episodes.jsonl").write_text(
                "".join(json.dumps({"episode_index": k, "length": 7}) + "\n" for k in range(3))
            ),
            "has no frame 6 of its 7|holds 6 of its 7 rows",
        ),
        (
            lambda root: (root / "data/chunk-000/episode_000001.parquet").write_bytes(
                (root / "data/chunk-000/episode_000000.parquet").read_bytes()
            ),
            "holds rows of episode 0 in its place",
        ),
    ],
)
def test_what_is_wrong_is_named(harm: Callable[[Path], object], why: str, convert: Convert) -> None:
    import re

    harm(write_v2(Path("S"), codec="mpeg4"))
    result = convert("S", "D", *SHORT)
    assert result.code == 1
    assert re.search(why, result.err)
    assert len(result.err.splitlines()) == 1
