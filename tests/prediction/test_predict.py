"""``python -m cvae.predict``: a sequence, all of a split, own pictures and actions; and what does not fit, in one line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_course, tiny
from omegaconf import OmegaConf
from PIL import Image
from servers import need

from cvae.errors import UserError
from cvae.evaluation.metrics import psnr
from cvae.evaluation.validation import images
from cvae.predict import PredictConfig
from cvae.predict import predict as predict_with
from cvae.prediction import outputs, video
from cvae.prediction.inputs import fitted, length_of, read_pictures
from cvae.prediction.predictor import load
from cvae.prediction.scene import Source, under_actions
from cvae.training.assembly import load_model


@pytest.fixture
def predict(command, trained: Path):
    """Run ``python -m cvae.predict run=R WORDS`` in this process."""
    return partial(command, "predict", f"run={trained}")


@pytest.fixture
def refused(trained: Path):
    """The message with which the command's function refuses ``WORDS``: one line."""

    def message(*words: str) -> str:
        cfg = OmegaConf.merge(OmegaConf.structured(PredictConfig), OmegaConf.from_dotlist([f"run={trained}", *words]))
        with pytest.raises(UserError) as raised:
            predict_with(cfg)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return message


@pytest.fixture
def mine(drawn: Path) -> Path:
    """A user's own ten pictures, twice as large and wider than high, and a table of 7 columns beside them."""
    source, folder = drawn / "test" / "take 0" / "00", Path("mine")
    folder.mkdir()
    for t in range(10):
        with Image.open(source / f"{t}.png") as image:
            image.resize((160, 128)).save(folder / f"shot_{t}.jpg")
    shutil.copy(source / "0.png", folder / ".hidden.png")
    tables = [np.loadtxt(next(source.glob(name)), delimiter=",") for name in ("actions.csv", "endeff*.csv")]
    write_actions(np.concatenate(tables, axis=1)[:10])
    return folder


def write_actions(cond_TA: np.ndarray, name: str = "actions.csv") -> None:
    np.savetxt(name, cond_TA, delimiter=",", fmt="%.5f")


def frames_of(path: Path) -> int:
    with Image.open(path) as image:
        return getattr(image, "n_frames", 1)


def test_a_sequence_leaves_a_gif_a_strip_and_its_scores(predict, trained: Path, drawn: Path) -> None:
    result = predict("sequence=0", "png=true")
    assert (result.code, result.err) == (0, "")
    out = Path("predictions/R/test_0")
    assert "test/take 0/00: best of 5 " in result.out
    assert f"written {out}: prediction.gif, " in result.out
    assert frames_of(out / "prediction.gif") == 6
    assert frames_of(out / "strip.png") == 1
    scores = json.loads((out / "scores.json").read_text())
    assert (scores["split"], scores["sequence"], scores["n_past"], scores["n_future"]) == ("test", 0, 2, 4)
    assert len(scores["scores"]) == 5
    means = [each["psnr"]["mean"] for each in scores["scores"]]
    assert means[scores["best_sample"] - 1] == max(means)
    assert sorted(path.name for path in (out / "frames").iterdir())[0] == "best_of_5"
    assert sorted(path.name for path in (out / "frames" / "truth").iterdir()) == [f"{t}.png" for t in range(6)]
    with Image.open(out / "frames" / "best_of_5" / "2.png") as image:
        best_HWC = np.array(image)
    true_THWC = read_pictures(drawn / "test" / "take 0" / "00", 3)
    own = psnr(images(best_HWC[None, None], "cpu"), images(true_THWC[None, 2:], "cpu")).item()
    assert own == pytest.approx(
        scores["scores"][scores["best_sample"] - 1]["psnr"]["per_frame"][0], abs=0.1
    )  # of bytes, all rounded one way
    still = true_THWC[1].astype(float) / 255 - true_THWC[2].astype(float) / 255
    assert scores["copy_last"]["psnr"]["per_frame"][0] == pytest.approx(-10 * np.log10((still**2).mean()), abs=1e-3)
    assert not (trained / "predictions").exists()


def test_the_same_command_writes_the_same_bytes(predict) -> None:
    for out in ("a", "b"):
        assert predict("samples=2", f"out={out}").code == 0
    for name in ("prediction.gif", "strip.png", "scores.json"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes(), name


def test_a_whole_split_has_a_folder_of_frames_a_sequence(predict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_TOGETHER", 3)
    result = predict("split=train", "sequence=all", "n_future=3")
    assert result.code == 0, result.err
    assert "4 sequences, 2 given and 3 predicted frames, one sample of each: " in result.out
    out = Path("predictions/R/train_all")
    names = [f"take {k // 2}/{k:02d}" for k in range(4)]
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == [
        f"{n}/{t}.png" for n in names for t in (2, 3, 4)
    ]
    assert predict("split=train", "sequence=[2]", "n_future=3", "samples=3", "png=true", "out=one").code == 0
    sample = next(Path("one/frames").glob("best_of_3" if not Path("one/frames/sample_1").exists() else "sample_1"))
    with Image.open(sample / "3.png") as one, Image.open(out / "take 1/02/3.png") as each:
        if sample.name == "sample_1":
            np.testing.assert_allclose(np.asarray(one, int), np.asarray(each, int), atol=1)  # another batch, another rounding


def test_several_sequences_have_a_folder_each(predict) -> None:
    assert predict("split=validate", "sequence=[0,1]", "samples=1").code == 0
    assert predict("split=validate", "sequence=[0,1]", "samples=1", "out=mine").code == 0
    assert Path("predictions/R/validate_1/strip.png").is_file()
    assert Path("mine/validate_1/strip.png").is_file()


def test_ten_pictures_and_a_table_of_actions_give_a_gif(predict, mine: Path) -> None:
    result = predict(f"frames={mine}", "actions=actions.csv")
    assert result.code == 0, result.err
    assert "pictures of 160x128: of each the square in the middle is resized to 64x64 (bilinear)" in result.out
    assert "best of 5" in result.out
    assert frames_of(Path("predictions/R/mine/prediction.gif")) == 10
    assert json.loads(Path("predictions/R/mine/scores.json").read_text())["frames_with_truth"] == 8


def test_two_pictures_are_enough_and_are_not_scored(predict, mine: Path) -> None:
    for path in list(mine.iterdir())[:]:
        if path.stem not in ("shot_0", "shot_1"):
            path.unlink()
    result = predict(f"frames={mine}", "actions=actions.csv", "out=o")
    assert "10 frames, samples: 5; there is no truth to score them by" in result.out
    scores = json.loads(Path("o/scores.json").read_text())
    assert (scores["n_future"], scores["scores"], scores["best_sample"]) == (8, None, None)


def test_a_sequence_under_other_actions(predict, mine: Path) -> None:
    """As many frames as the file has rows, be it more than the data have."""
    cond_TA = np.loadtxt("actions.csv", delimiter=",")
    write_actions(np.concatenate([cond_TA] * 4), "long.csv")
    result = predict("sequence=0", "actions=long.csv", "out=long")
    assert "against what the recorded actions led to, 28 frames" in result.out
    assert frames_of(Path("long/prediction.gif")) == 40


def test_an_action_shows_from_the_frame_after_it(trained: Path, mine: Path) -> None:
    model, (_, data, _) = load(trained), load_model(trained)
    other_TA = np.loadtxt("actions.csv", delimiter=",")
    other_TA[5:] += 100
    write_actions(other_TA, "other.csv")
    source = Source(data, data.test, "test")
    scenes = [under_actions(model, source, 0, None, Path(name)) for name in ("actions.csv", "other.csv")]
    one, other = (outputs._predicted(model, [scene], 1, 1)[0, 0] for scene in scenes)
    same = (one == other).flatten(1).all(dim=1).tolist()
    assert same == [True] * 4 + [False] * 4  # frames 2 to 5, and 6 to 9: row 5 leads to frame 6


def columns(count: int) -> None:
    write_actions(np.loadtxt("actions.csv", delimiter=",")[:, [k % 7 for k in range(count)]])


def rows(count: int) -> None:
    write_actions(np.loadtxt("actions.csv", delimiter=",")[:count])


def not_a_number() -> None:
    Path("actions.csv").write_text(Path("actions.csv").read_text().replace("0.50000", "nan", 1))


def unreadable() -> None:
    Path("mine/shot_4.jpg").write_text("no picture")


def one_picture() -> None:
    for t in range(1, 10):
        Path(f"mine/shot_{t}.jpg").unlink()


def no_pictures() -> None:
    one_picture()
    Path("mine/shot_0.jpg").unlink()


def remove() -> None:
    Path("actions.csv").unlink()


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        (
            partial(columns, 4),
            "",
            "actions.csv has 4 columns, actions alone, and this model takes positions too (dx, dy, dz, gripper",
        ),
        (partial(columns, 8), "", "actions.csv row 1 has 8 columns: 7 are needed (dx, dy, dz, gripper, x, y, z)"),
        (partial(rows, 5), "", "actions.csv has 5 rows for 10 pictures: give a row a picture, or n_future=4"),
        (partial(rows, 10), "n_future=20", "actions.csv has 10 rows, which is too few for 2 given and 20 predicted frames"),
        (not_a_number, "", "row 1 holds 'nan': every value must be a finite number"),
        (unreadable, "", "mine/shot_4.jpg is not a readable PNG or JPEG (it is neither): copy or convert it again"),
        (one_picture, "", "frames= has too few pictures (1): the model is given 2"),
        (no_pictures, "", "mine holds no pictures: .png, .jpg, .jpeg are read"),
        (remove, "", "actions.csv does not exist: check the path"),
        (lambda: None, "actions=null", "needs actions=FILE.csv: the model takes 7 values with each frame (dx, dy"),
        (lambda: None, "frames=nowhere", "nowhere does not exist: give a folder of pictures, or a video"),
        (lambda: None, "frames=actions.csv", "actions.csv is no video by its name: .mp4,"),
        (lambda: Path("x.mp4").write_text("#EXTM3U"), "frames=x.mp4", "x.mp4 is"),
        (lambda: Path("x.gif").write_text("GIF89a"), "frames=x.gif", "x.gif is not a readable video"),
        (lambda: None, "frames=null sequence=all", "sequence=all takes each sequence's own actions"),
    ],
)
def test_what_does_not_fit_is_one_line(refused, mine: Path, spoil, words: str, message: str) -> None:
    spoil()
    given = {key: value for key, _, value in (word.partition("=") for word in words.split())}
    assert message in refused(*(f"{k}={v}" for k, v in {"frames": mine, "actions": "actions.csv", **given}.items()))
    assert not Path("predictions").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sequence=1", "sequence=1: test of "),
        ("sequence=-1", "sequence=-1: test of "),
        ("sequence=first", "sequence is 'first': give a number, [several], or all"),
        ("n_future=40", "has 30 frames where 2 given and 40 predicted ones are 42: n_future=28 or less"),
        ("sequence=all n_future=40", "n_future=28 or less"),
        ("n_future=0", "n_future is 0"),
        ("samples=0", "samples is 0"),
        ("split=tset", "split is 'tset': choose train, validate, test"),
        ("checkpoint=worst", "checkpoint is 'worst': choose best or last"),
        ("run=nowhere", "nowhere does not exist"),
        ("run=.", "run=. holds no run: give run folders"),
        ("data.root=nowhere", "nowhere is not a folder: set data.root"),
        ("data.condition=none", "condition"),
        ("export=w.pt", "must end in .safetensors"),
        ("device=tpu", "device is 'tpu'"),
        ("out=/proc/none", "cannot write /proc/none"),
    ],
)
def test_bad_settings_are_one_line(refused, words: str, message: str) -> None:
    assert message in refused(*words.split())
    assert not Path("predictions").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sequence=1", "error: sequence=1: test of "),
        ("+colour=red", "error: +colour: a prediction has no such key"),
        ("samples=many", "error: samples=many: "),
        ("-m sequence=0,1", "error: a prediction cannot be swept"),
    ],
)
def test_the_command_ends_with_a_line(predict, words: str, message: str) -> None:
    result = predict(*words.split())
    assert result.code == 1
    assert message in result.err
    assert result.err.count("\n") == 1


def test_exported_weights_predict_own_pictures(command, predict, mine: Path) -> None:
    pytest.importorskip("safetensors")
    assert "written w.safetensors" in predict("export=w.safetensors").out
    assert sorted(path.name for path in Path().iterdir()) == ["actions.csv", "mine", "w.safetensors"]
    words = [f"frames={mine}", "actions=actions.csv"]
    assert command("predict", "run=w.safetensors", *words).code == 0
    assert predict(*words).code == 0
    found = [json.loads(Path(f"predictions/{name}/mine/scores.json").read_text())["scores"] for name in ("w", "R")]
    assert found[0] == found[1]
    assert "is a file, which has no data: give frames=" in command("predict", "run=w.safetensors").err


@pytest.mark.slow
def test_the_data_may_lie_elsewhere(command, train, drawn: Path, tmp_path: Path) -> None:
    root = draw_course(tmp_path / "old", test=2)
    assert train(*tiny(root, "epochs=1", "data.condition=none", "hydra.run.dir=R")).code == 0
    root.rename(tmp_path / "new")
    shutil.rmtree("cache")
    assert "old, which is not there" in command("predict", "run=R").err
    assert command("predict", "run=R", "data.root=new", "sequence=1", "samples=1").code == 0
    own = command("predict", "run=R", "frames=new/test/take 0/00", "n_future=3", "samples=1")  # no conditions, no actions
    assert own.code == 0, own.err
    actions = ["data.root=new", "actions=new/test/take 0/00/actions.csv"]
    assert "takes no conditions; leave actions= out" in command("predict", "run=R", *actions).err


def test_names_of_sequences_do_not_lead_out_of_the_folder() -> None:
    assert str(outputs._inside("take 0/01", 3)) == "take 0/01"
    for name in ("../up", "/etc", "", "a/../../b"):
        with pytest.raises(UserError, match="sequence 3 is called"):
            outputs._inside(name, 3)


# --- pictures and counts ----------------------------------------------------------------------------------------------


def test_pictures_of_other_sizes_are_cropped_in_the_middle_and_averaged() -> None:
    wide = np.zeros((128, 300, 3), np.uint8)
    wide[:, 86:214] = 200  # the middle square
    assert (fitted(wide)[:, 2:-2] == 200).all()
    checks = np.indices((128, 128)).sum(axis=0)[:, :, None] % 2 * np.full(3, 255, np.uint8)
    assert np.abs(fitted(checks.astype(np.uint8)).astype(int) - 127)[4:-4, 4:-4].max() < 10
    small = np.full((64, 64, 3), 7, np.uint8)
    assert fitted(small) is small


def test_pictures_come_in_the_order_of_their_numbers() -> None:
    Path("p").mkdir()
    for t in (10, 9, 1):
        Image.new("RGB", (64, 64), (t, 0, 0)).save(f"p/f{t}.png")
    assert read_pictures(Path("p"))[:, 0, 0, 0].tolist() == [1, 9, 10]


@pytest.mark.parametrize(
    ("n_future", "pictures", "actions", "length"),
    [
        (None, 10, 10, 10),
        (None, 10, 9, 10),
        (None, 2, 12, 12),
        (None, None, 30, 30),
        (None, 10, None, 12),
        (5, 10, 6, 7),
        (5, 3, 20, 7),
    ],
)
def test_how_many_frames_are_predicted(n_future: int | None, pictures: int | None, actions: int | None, length: int) -> None:
    assert length_of(2, n_future, 10, pictures, actions, "actions.csv") == length


@pytest.mark.parametrize("tool", ["pyav", pytest.param("ffmpeg", marks=pytest.mark.servers)])
def test_videos_are_written_and_read_again(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if tool == "pyav":
        pytest.importorskip("av")
    else:
        need("ffmpeg")
        monkeypatch.setattr(video, "_pyav", lambda: None)
    frames = [np.full((64, 96, 3), shade, np.uint8) for shade in (20, 90, 160, 230)]
    assert video.write_mp4(Path("v.mp4"), frames, 7)
    found = video.read_video(Path("v.mp4"), 3)
    assert [frame.shape for frame in found] == [(64, 96, 3)] * 3
    assert np.abs(np.stack(found).astype(int) - np.stack(frames[:3])).max() <= 4


def test_without_pyav_and_ffmpeg_there_is_no_mp4_and_a_line_says_so(predict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_pyav", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = predict("samples=1", "out=o")
    assert result.code == 0
    assert "(no MP4: neither PyAV nor ffmpeg is here)" in result.out
    assert sorted(path.name for path in Path("o").iterdir()) == ["prediction.gif", "scores.json", "strip.png"]
    Path("x.mp4").touch()
    with pytest.raises(UserError, match="is a video, which needs PyAV"):
        video.read_video(Path("x.mp4"), 1)


def test_run_takes_what_holds_one_run(command, trained: Path, refused, tmp_path: Path) -> None:
    shutil.copytree(trained.parents[1], "multirun")
    assert command("predict", "run=multirun/sing*", "samples=1").code == 0
    assert Path("predictions/R/test_0/strip.png").is_file()
    shutil.copytree(trained, "multirun/single/S")
    assert "run=multirun names 2 runs and a prediction is of one: multirun/single/R, multirun/single/S" in refused(
        "run=multirun"
    )


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"]])
def test_answers_that_need_no_torch_do_not_load_it(words: list[str]) -> None:
    code = (
        "import sys\nfrom cvae import predict\n"
        f"sys.argv = ['cvae/predict.py', *{words!r}]\n"
        "try:\n    predict.main()\n"
        "finally:\n    assert not {'torch', 'wandb', 'optuna', 'matplotlib'} & set(sys.modules), 'heavy import'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sequence" in done.stdout


def test_the_page_s_python_runs(trained: Path, drawn: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "predict.md").read_text()
    first, second = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names = {"past": np.zeros((2, 64, 64, 3), np.uint8), "cond": np.zeros((12, 7))}
    exec(re.sub(r'"multirun/single/\S+"', repr(str(trained)), first), names)  # noqa: S102  # of our own page
    assert names["future"].shape == (5, 10, 64, 64, 3)  # as its comment says
    small = [word for word in tiny(drawn) if not word.startswith(("kl_schedule", "logger"))]
    exec(second.replace('compose(["', f'compose([*{small!r}, "'), names)  # noqa: S102
    assert names["best"] > 0
    assert len(list(Path("multirun/single").iterdir())) == 1
