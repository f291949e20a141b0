"""Checkpoints of other groups: nets as SVG's published ones, pickled whole, and taken into this package's."""

from __future__ import annotations

import argparse
import json
import pickle
import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from report_loop import LSTM, DCGANDecoder, DCGANEncoder, GaussianLSTM, VGGDecoder, VGGEncoder
from torch import Tensor, nn

import cvae
from cvae.evaluation.validation import images
from cvae.runs.run import read_run

SCRIPT = Path(__file__).parents[2] / "scripts" / "import_course_checkpoint.py"
G, Z, HIDDEN, NF = 8, 4, 16, 4


def randomise(net: nn.Module, seed: int) -> None:
    """Weights under which every layer is alive, statistics of BatchNorm among them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
                value.copy_(1 + 0.2 * noise.tanh() if "running_var" in name else noise)


class Nets:
    """A group's nets and its own loop, fed in its own order."""

    def __init__(self, order: str = "h,z,cond", width: int = 7, backbone: str = "dcgan", learned: bool = False) -> None:
        self.order = order.split(",")
        self.encoder = (DCGANEncoder if backbone == "dcgan" else VGGEncoder)(G, NF)
        self.decoder = (DCGANDecoder if backbone == "dcgan" else VGGDecoder)(G, NF)
        self.frame_predictor = LSTM(G + Z + width, G, HIDDEN, 2)
        self.posterior = GaussianLSTM(G, Z, HIDDEN, 1)
        self.prior = GaussianLSTM(G, Z, HIDDEN, 1) if learned else None
        for seed, net in enumerate(self.parts().values()):
            randomise(net.eval(), seed)

    def parts(self) -> dict[str, nn.Module]:
        named = {name: getattr(self, name) for name in ("encoder", "decoder", "frame_predictor", "posterior", "prior")}
        return {name: net for name, net in named.items() if net is not None}

    def predict(self, frames_TCHW: Tensor, cond_TA: Tensor, noise_TZ: Tensor, n_past: int = 2) -> Tensor:
        """As SVG's ``generate``: the skips of the step before the last given frame."""
        for net in (self.frame_predictor, self.posterior, self.prior):
            if net is not None:
                net.start()
        x, skip, found = frames_TCHW[:1], [], []
        with torch.inference_mode():
            for t in range(1, len(noise_TZ)):
                h, skip_now = self.encoder(x)
                skip = skip_now if t < n_past else skip
                noise = noise_TZ[t : t + 1]
                given = self.prior(h, noise)[0] if self.prior is not None else noise
                z = self.posterior(self.encoder(frames_TCHW[t : t + 1])[0], noise)[0] if t < n_past else given
                parts = {"h": h, "z": z, "cond": cond_TA[t - 1 : t]}
                x = self.decoder(self.frame_predictor(torch.cat([parts[name] for name in self.order], 1)), skip)
                if t < n_past:
                    x = frames_TCHW[t : t + 1]
                else:
                    found.append(x[0])
        return torch.stack(found)


def save(nets: Nets, path: Path, **more: object) -> None:
    """Pickle nets whole, under the name of a group's own module, which nobody else can import."""
    module = types.ModuleType("their_models")
    parts = [part for net in nets.parts().values() for part in net.modules()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "their_models", module)
        for each in {type(part) for part in parts if type(part).__module__ == "report_loop"}:
            patch.setattr(each, "__module__", "their_models")
            setattr(module, each.__name__, each)
        torch.save({**nets.parts(), "args": argparse.Namespace(n_past=2, lr=np.float64(2e-3)), **more}, path)


def script(capfd: pytest.CaptureFixture[str], *words: object) -> Result:
    from cvae.console import console

    console.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
    console.cache_clear()
    return Result(code, *capfd.readouterr())


@pytest.mark.parametrize(
    ("order", "width", "backbone", "learned"),
    [("h,z,cond", 7, "dcgan", False), ("cond,h,z", 4, "vgg", True), ("h,z,cond", 0, "dcgan", True)],
)
def test_the_imported_model_predicts_as_theirs(
    capfd, drawn: Path, order: str, width: int, backbone: str, learned: bool
) -> None:
    nets = Nets(order, width, backbone, learned)
    save(nets, Path("model.pth"))
    result = script(capfd, "model.pth", "--trust", f"--order={order}", "--skips=course", "--n-future=4")
    assert result.code == 0, result.err
    model = cvae.load("multirun/single/imported_model")
    assert (len(model.conditions), model.n_past, model.n_future) == (width, 2, 4)
    generator = np.random.default_rng(0)
    frames_THWC = generator.integers(0, 256, (2, 64, 64, 3), np.uint8)
    cond_TA = generator.normal(size=(6, width)).astype(np.float32)
    found_KHWC = model.predict(frames_THWC, cond_TA, n_future=4)[0]
    frames_TCHW = images(frames_THWC[None], "cpu")[0]
    wanted = nets.predict(frames_TCHW, torch.from_numpy(cond_TA), model.noise(1, 0, 1, 6)[0])
    np.testing.assert_allclose(found_KHWC, wanted.movedim(1, -1), atol=1e-4)


@pytest.mark.slow
def test_the_order_is_found_by_trying_and_all_else_reads_the_run(capfd, command, drawn: Path) -> None:
    save(Nets(), Path("best model.pth"))
    result = script(capfd, "best model.pth", "--trust", f"--root={drawn}", "--n-future=3")
    assert result.code == 0, result.err
    assert result.out.count("dB on 16 validation sequences or fewer") == 12
    assert "taken: order=" in result.out
    assert "1 videos, 2 -> 3 frames, one sample: " in result.out
    folder = Path("multirun/single/imported_best model")
    scores = [float(line.split(": ")[1].split()[0]) for line in result.out.splitlines() if line.startswith("order=")]
    assert scores == sorted(scores, reverse=True)
    assert command("predict", f"run={folder}", "sequence=0", "samples=1").code == 0
    assert json.loads((folder / "run.json").read_text())["imported"]["file"] == "best model.pth"
    assert read_run(folder.absolute()).state == "finished"
    resumed = command("train", f"resume={folder}")
    assert (resumed.code, resumed.err.count("\n")) == (1, 1)
    assert "already holds a run" in script(capfd, "best model.pth", "--trust", f"--root={drawn}").err


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("harmed"),)


def test_nothing_is_read_without_trust_and_nothing_runs_with_it(capfd) -> None:
    save(Nets(), Path("model.pth"), harm=_Harm())
    refused = script(capfd, "model.pth", "--order=h,z,cond")
    assert refused.code == 1
    assert "to read it is to run what it says; if you know who made it, add --trust" in refused.err
    assert not Path("multirun").exists()
    assert script(capfd, "model.pth", "--trust", "--order=h,z,cond").code == 0
    assert not Path("harmed").exists()


def text(path: Path) -> None:
    path.write_text("hello")


def other_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"encoder": 1}))


def other_nets(path: Path) -> None:
    nets = Nets().parts()
    nets["encoder"].c2 = nn.Conv2d(3, 3, 3)
    torch.save({name: net.state_dict() for name, net in nets.items()}, path)


def no_predictor(path: Path) -> None:
    torch.save({"encoder": Nets().encoder.state_dict(), "epoch": 3}, path)


def other_width(path: Path) -> None:
    torch.save({name: net.state_dict() for name, net in Nets(width=5).parts().items()}, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (text, "is no checkpoint that PyTorch reads"),
        (other_pickle, "model.pth "),
        (other_nets, "holds other nets than SVG's for 64x64 frames"),
        (no_predictor, "has no decoder (it has encoder, epoch)"),
        (other_width, "takes 5 values with each frame: 7 (actions, positions), 4 (actions) or 0 are known"),
        (lambda path: None, "does not exist"),
    ],
)
def test_what_is_no_such_checkpoint_is_one_line(capfd, make, message: str) -> None:
    make(Path("model.pth"))
    result = script(capfd, "model.pth", "--trust", "--order=h,z,cond")
    assert result.code == 1
    assert message in result.err
    assert result.err.count("\n") == 1


def test_without_data_the_order_must_be_given(capfd) -> None:
    Path("model.pth").touch()
    assert "or --order=cond,h,z" in script(capfd, "model.pth", "--trust").err
