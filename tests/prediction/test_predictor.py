"""``cvae.load``: a model without its data, in NumPy or torch; and what is no checkpoint."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_course, tiny
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

import cvae
from cvae.errors import UserError
from cvae.evaluation.validation import images
from cvae.model.recurrent import StandardNormal
from cvae.prediction.predictor import Predictor
from cvae.prediction.weights import write
from cvae.training.assembly import load_model


@pytest.fixture(scope="module")
def model(trained: Path) -> Predictor:
    return cvae.load(trained)


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def some(model: Predictor, rows: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    past_THWC = generator.integers(0, 256, (model.n_past, 64, 64, 3), np.uint8)
    return past_THWC, generator.normal(size=(rows, 7)).astype(np.float32)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, cvae; assert cvae.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=400)


def test_it_predicts_what_the_run_s_own_model_predicts(trained: Path, model: Predictor) -> None:
    own, data, _ = load_model(trained)
    frames_BTHWC, cond_BTA = data.test.gather(np.array([0]), 0, 6)
    noise_STBZ = model.noise(3, 0, 2, 6)[:, :, None]
    with torch.inference_mode():
        wanted_SBKCHW = own.generate(images(frames_BTHWC[:, :2], "cpu"), torch.from_numpy(cond_BTA), noise_STBZ)
    found_SKHWC = model.predict(frames_BTHWC[0, :2], cond_BTA[0], 2, seed=3)
    assert found_SKHWC.shape == (2, 4, 64, 64, 3)
    np.testing.assert_allclose(found_SKHWC, wanted_SBKCHW[:, 0].movedim(2, -1), atol=1e-6)
    assert model.conditions == ["dx", "dy", "dz", "gripper", "x", "y", "z"]
    assert (model.n_past, model.n_future) == (2, 4)


def test_conditions_have_the_names_that_their_data_give_them(train, tmp_path: Path) -> None:
    """Seven values need not be the course's; a run folder and an exported file say what they are."""
    pytest.importorskip("safetensors")
    root, names = draw_course(tmp_path / "data"), [f"joint {k}" for k in range(4)]
    tables = [{"file": "actions.csv", "columns": 4, "names": names}]
    tables += [{"file": "endeffector_positions.csv", "columns": 3, "names": ["a", "b", "c"]}]
    (root / "conditions.json").write_text(json.dumps({"tables": tables}))
    assert train(*tiny(root, "epochs=1", "hydra.run.dir=R")).code == 0
    model = cvae.load("R")
    assert model.conditions == [*names, "a", "b", "c"]
    write(model.model, model.config, tmp_path / "w.safetensors", model.conditions)
    for place in ("w.safetensors", "R/checkpoints/last.pt"):
        assert cvae.load(place).conditions == model.conditions
    record = json.loads(Path("R/run.json").read_text())
    for names in (["x"], ["a\n"] * 7, [3] * 7):  # a stranger's
        Path("R/run.json").write_text(
            json.dumps({key: value for key, value in record.items() if key != "sha256"} | {"conditions": names})
        )
        assert cvae.load("R").conditions[0] in ("dx", "condition 1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"device": "cuda:77"}, "device=cuda:77, but this machine has"),
        ({"allow_targets": "mypkg"}, "allow_targets is 'mypkg': give a list"),
        ({"run": None}, "run is None: give the path"),
        ({"run": 3}, "run is 3: give the path"),
    ],
)
def test_what_cannot_be_loaded_so_is_one_line(trained: Path, words, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cvae.load(**{"run": trained, **words})


def test_conditions_that_lead_nowhere_are_named(model: Predictor) -> None:
    past_THWC, cond_TA = some(model)
    cond_TA[2] = 3e38
    with pytest.raises(UserError, match=r"the prediction is not finite: \w+ is 3e\+38 in row 3, .* standard deviations"):
        model.predict(past_THWC, cond_TA)


def test_its_data_may_be_gone(train, tmp_path: Path) -> None:
    root = draw_course(tmp_path / "data")
    assert train(*tiny(root, "epochs=1", "hydra.run.dir=R")).code == 0
    shutil.rmtree(root)
    shutil.rmtree("cache")
    with pytest.raises(UserError, match="is not there"):
        load_model(Path("R").absolute())
    assert cvae.load("R").n_future == 2


def test_forms_of_input_give_the_same_future(model: Predictor) -> None:
    past_THWC, cond_TA = some(model)
    usual = model.predict(past_THWC, cond_TA, 2)
    assert isinstance(usual, np.ndarray)
    assert usual.dtype == np.float32
    floats = model.predict(past_THWC.astype(np.float32) / 255, cond_TA.astype(np.float64), 2)
    np.testing.assert_allclose(floats, usual, atol=1e-5)
    first = model.predict(torch.from_numpy(past_THWC).movedim(-1, 1), torch.from_numpy(cond_TA), 2)
    assert isinstance(first, torch.Tensor)
    assert first.shape == (2, 4, 3, 64, 64)
    np.testing.assert_allclose(first.movedim(2, -1), usual, atol=1e-6)
    batch = model.predict(np.stack([past_THWC, past_THWC]), np.stack([cond_TA, cond_TA]), 2)
    assert batch.shape == (2, 2, 4, 64, 64, 3)
    np.testing.assert_allclose(batch[:, 0], usual, atol=1e-6)
    assert np.abs(batch[:, 1] - usual).max() > 0  # each sequence has noise of its own
    past_THWC.flags.writeable = False  # as Pillow's are
    as_bytes = model.predict(past_THWC, cond_TA, 2, uint8=True)
    assert as_bytes.dtype == np.uint8
    assert np.abs(as_bytes / 255 - usual).max() <= 0.5 / 255 + 1e-6


def test_samples_do_not_depend_on_how_many_there_are(model: Predictor) -> None:
    past_THWC, cond_TA = some(model, 4)
    many = model.predict(past_THWC, cond_TA, 70)  # in two parts
    np.testing.assert_allclose(many[:3], model.predict(past_THWC, cond_TA, 3), atol=1e-6)
    assert np.abs(model.predict(past_THWC, cond_TA, 3, seed=2) - many[:3]).max() > 0
    np.testing.assert_allclose(model.predict(past_THWC, cond_TA, 1, n_future=1), many[:1, :1], atol=0.1)


def test_the_number_of_frames(model: Predictor) -> None:
    past_THWC, cond_TA = some(model, 9)
    assert len(model.predict(past_THWC, cond_TA)[0]) == 7
    assert len(model.predict(past_THWC, cond_TA, n_future=8)[0]) == 8  # the last frame's own action is not needed
    assert len(model.predict(past_THWC, cond_TA, n_future=3)[0]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"past": np.zeros((3, 64, 64, 3), np.uint8)}, r"past has the shape \(3, 64, 64, 3\): 2 frames of 64 x 64 x 3"),
        ({"past": np.zeros((2, 32, 64, 3), np.uint8)}, "past has the shape"),
        ({"past": np.zeros((2, 64, 64, 3), np.int64)}, "past is torch.int64: give bytes"),
        ({"past": np.full((2, 64, 64, 3), 255.0)}, r"outside of \[0, 1\]: divide by 255"),
        ({"past": np.full((2, 64, 64, 3), np.nan)}, r"outside of \[0, 1\]"),
        ({"past": ["a", "b"]}, "past is no array of numbers"),
        ({"cond": [[1, 2], [3]]}, "cond is no array of numbers"),
        ({"cond": None}, r"cond is missing: the model takes 7 values with each frame \(dx, dy,"),
        ({"cond": np.zeros((6, 4))}, r"cond has the shape \(6, 4\): T x 7 is needed"),
        ({"cond": np.zeros((2, 6, 7))}, r"cond has the shape \(2, 6, 7\): T x 7"),
        ({"cond": np.full((6, 7), np.inf)}, "NaN or infinity"),
        ({"cond": np.zeros((2, 7))}, "n_future is 0: .* more than 2 rows"),
        ({"n_future": 6}, "cond has 6 rows, which is too few for 2 given and 6 predicted frames: give at least 7"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_bad_input_is_named(model: Predictor, change: dict[str, object], message: str) -> None:
    past_THWC, cond_TA = some(model)
    with pytest.raises(UserError, match=message):
        model.predict(**{"past": past_THWC, "cond": cond_TA, **change})


def test_a_file_of_weights_is_the_model(trained: Path, model: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    write(model.model, model.config, tmp_path / "w.safetensors")
    again = cvae.load(tmp_path / "w.safetensors")
    past_THWC, cond_TA = some(model)
    np.testing.assert_array_equal(again.predict(past_THWC, cond_TA), model.predict(past_THWC, cond_TA))
    assert again.conditions == model.conditions
    text = (tmp_path / "w.safetensors").read_bytes()
    assert str(trained).encode() not in text
    assert b"course" not in text[:20_000].split(b'"config"')[1].split(b"_target_")[0]  # no place of the data
    assert cvae.load(trained / "checkpoints" / "last.pt").n_past == 2


@pytest.mark.parametrize("cut", [0, 7, 500, 20_000])
def test_a_cut_file_of_weights_is_one_line(model: Predictor, tmp_path: Path, cut: int) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "w.safetensors"
    write(model.model, model.config, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"w.safetensors is not a whole .safetensors file"):
        cvae.load(path)


def test_a_file_of_weights_knows_its_content_and_no_place(model: Predictor, tmp_path: Path) -> None:
    """One bit of the weights, or one digit of the config; data of the user's own may say deep inside where they lie."""
    pytest.importorskip("safetensors")
    path, config = tmp_path / "w.safetensors", model.config.copy()
    OmegaConf.update(config, "data.source", {"path": "/home/alice/private", "size": 3}, force_add=True)
    write(model.model, config, path)
    whole = path.read_bytes()
    assert b"alice" not in whole
    end = 8 + int.from_bytes(whole[:8], "little")
    for place in (end, end + 1001, len(whole) - 1):
        harmed = bytearray(whole)
        harmed[place] ^= 16
        path.write_bytes(harmed)
        with pytest.raises(UserError, match=r"w.safetensors is damaged \(its checksum is another\): export it again"):
            cvae.load(path)
    path.write_bytes(re.sub(rb'(n_future\\+": )\d', rb"\g<1>9", whole))
    assert path.read_bytes() != whole
    with pytest.raises(UserError, match="its checksum is another"):
        cvae.load(path)
    path.write_bytes(whole)
    assert cvae.load(path).config.data.source.size == 3


def test_a_file_of_weights_names_no_code(model: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    config = model.config.copy()
    config.model.backbone._target_ = "os.system"
    write(model.model, config, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"os.system.* is not allowed"):
        cvae.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("key", ["hidden_dim", "latent_dim", "predictor_layers"])
def test_weights_are_refused_before_there_is_memory_for_what_their_config_asks(model: Predictor, tmp_path: Path, key) -> None:
    """Terabytes; a machine may well hand them out, and then end the process that uses them."""
    pytest.importorskip("safetensors")
    config = model.config.copy()
    config.model[key] = 2_000_000
    write(model.model, config, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=rf"w.safetensors is damaged or of another config|model.{key}"):
        cvae.load(tmp_path / "w.safetensors")


class NeedsItsValues(StandardNormal):
    """A part that reads its weights when it is built, which a model without memory has not."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        assert torch.ones(1).item() == 1


def test_a_part_that_reads_its_weights_when_it_is_built_is_loaded(model: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    config = model.config.copy()
    config.model.prior._target_ = f"{__name__}.NeedsItsValues"
    write(model.model, config, tmp_path / "w.safetensors")
    again = cvae.load(tmp_path / "w.safetensors", allow_targets=[__name__])
    assert type(again.model.prior).__name__ == "NeedsItsValues"
    config.model.hidden_dim += 1
    write(model.model, config, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="of another config"):
        cvae.load(tmp_path / "w.safetensors", allow_targets=[__name__])


def test_a_file_of_weights_tells_nothing_of_the_environment(model: Predictor, tmp_path: Path, monkeypatch) -> None:
    """A stranger's root is not read, so that no other value can repeat it and be exported once more."""
    pytest.importorskip("safetensors")
    monkeypatch.setenv("TOKEN", "hunter2-secret")
    path = tmp_path / "w.safetensors"
    write(model.model, model.config, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + length])
    config = json.loads(text["__metadata__"]["config"])
    config["data"]["root"], config["coin"] = "${oc.env:TOKEN}", "${data.root}"
    text["__metadata__"]["config"] = json.dumps(config)
    del text["__metadata__"]["sha256"]  # a stranger could compute it
    header = json.dumps(text).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    try:
        told = str(OmegaConf.to_yaml(cvae.load(path).config, resolve=True))
    except (UserError, OmegaConfBaseException) as error:
        told = str(error)
    assert "hunter2" not in told


def test_a_part_with_two_names_is_exported(model: Predictor, tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    model.model.again = model.model.predictor
    try:
        write(model.model, model.config, tmp_path / "w.safetensors")
    finally:
        del model.model.again
    assert any(name.startswith("again.") for name in library.load_file(tmp_path / "w.safetensors"))


def test_other_weights_of_safetensors_are_refused(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    library.save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="holds no config of this package"):
        cvae.load(tmp_path / "w.safetensors")


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("harmed"),)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Harm()))


def old_pickle(path: Path) -> None:
    torch.save({"encoder": nn.Linear(2, 2), "harm": _Harm()}, path, _use_new_zipfile_serialization=False)


def modules(path: Path) -> None:
    torch.save({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2), "harm": _Harm()}, path)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 25))


def others_weights(path: Path) -> None:
    torch.save({"format": 1, "model": {"encoder.weight": torch.zeros(2)}}, path)


def no_weights(path: Path) -> None:
    torch.save({"format": 1}, path)


def odd_names(path: Path) -> None:
    torch.save({"format": 1, "model": {"cond_mean_A": torch.zeros(7), 3: 4}}, path)


def another_width(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["model"]["cond_mean_A"] = torch.zeros(3)
    torch.save(state, path)


def not_a_number(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["model"]["cond_std_A"][0] = torch.nan
    torch.save(state, path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (pickled, "is damaged"),
        (old_pickle, "is damaged"),
        (modules, "is damaged"),
        (bomb, "is damaged .*compressed"),
        (others_weights, "holds no weights of a model of this package"),
        (no_weights, "holds no weights"),
        (odd_names, "damaged or of another config"),
        (another_width, "damaged or of another config"),
        (not_a_number, "NaN or infinity"),
        (Path.unlink, "best.pt is missing"),
    ],
)
def test_what_is_no_checkpoint_is_one_line_and_runs_nothing(copy: Path, harm, message: str) -> None:
    harm(copy / "checkpoints" / "best.pt")
    (copy / "run.json").unlink()  # it says that all its checkpoints have seals, which a stranger's need not say
    with pytest.raises(UserError, match=message) as raised:
        cvae.load(copy)
    assert "\n" not in str(raised.value)
    assert not Path("harmed").exists()


def test_a_checkpoint_alone_needs_its_run(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "checkpoints" / "best.pt", tmp_path / "alone.pt")
    with pytest.raises(UserError, match=r"alone.pt lies in no run folder"):
        cvae.load(tmp_path / "alone.pt")
    with pytest.raises(UserError, match="nowhere does not exist"):
        cvae.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="checkpoint is 'worst'"):
        cvae.load(trained, "worst")
