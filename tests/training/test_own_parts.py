"""Parts of a stranger's through a run's life: stopped in the middle and resumed it ends as if nothing had happened."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny
from fakes import Ended
from omegaconf import OmegaConf
from torch import nn

from cvae.errors import UserError
from cvae.start import compose
from cvae.training import checkpoint
from cvae.training.assembly import assemble, build_trainer, load_model
from cvae.training.averaging import Average
from cvae.training.runtime import Stopped
from cvae.trial import NoTrial

OWN = """
import numpy as np
import torch
from torch import nn
from cvae.model.backbones import dcgan64

__all__ = ["aliased", "dropping", "halves", "narrow"]


def dropping(feature_dim=16):
    backbone = dcgan64(feature_dim, 1 / 16)
    backbone.encoder.head = nn.Sequential(backbone.encoder.head, nn.Dropout(0.3))
    return backbone


def aliased(feature_dim=16):
    backbone = dcgan64(feature_dim, 1 / 16)
    backbone.trunk = backbone.encoder.stages
    return backbone


class Grouped(torch.optim.SGD):
    "What it has learned stands in its groups, as schedule-free optimizers have it."

    def step(self, closure=None):
        for group in self.param_groups:
            group["weight_sum"] = group.get("weight_sum", 0.0) + group["lr"]
        return super().step(closure)


class Late(torch.optim.SGD):
    "Has a state from its second step on."

    def step(self, closure=None):
        done = super().step(closure)
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            for parameter in group["params"]:
                if group["k"] > 1:
                    self.state[parameter].setdefault("slow", parameter.detach().clone()).lerp_(parameter.detach(), 0.5)
        return done


class OfNumPy(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["seen"] = self.state[parameter].get("seen", np.float64(0)) + np.float32(1)
        return super().step(closure)


class Kept(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            group["history"] = object()
        return super().step(closure)


class NoRate(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})


def halves(t):
    return np.float64(0.5)


def narrow(t):
    return np.float32(0.5)


class Likelihood:
    default_beta = 1e-4
    form = staticmethod(lambda mse: mse)

    def __call__(self, mse, dims):
        return self.form(mse)

    def implied_sigma(self, beta, dims):
        return None


class OfOne(Likelihood):
    form = staticmethod(lambda mse: mse.reshape(1))


class Detached(Likelihood):
    form = staticmethod(lambda mse: mse.detach())


class Plain(Likelihood):
    form = staticmethod(lambda mse: 0.5)


class TextBeta(Likelihood):
    form = staticmethod(lambda mse: mse)
    default_beta = "1"


class TensorSigma(Likelihood):
    def implied_sigma(self, beta, dims):
        return torch.tensor(0.1)


class Falls(Likelihood):
    def __call__(self, mse, dims):
        if mse.dtype == torch.float32 and mse.numel() == 1 and mse.item() != np.float32(0.1):
            raise ValueError("too large")
        return mse


class Unmade(torch.optim.SGD):
    def __init__(self, params, lr):
        pass


class Breaks(torch.optim.SGD):
    def step(self, closure=None):
        raise ZeroDivisionError("no step")


class Broadcast(nn.Module):
    def forward(self, h_BTG, state):
        return h_BTG[..., :1], h_BTG[..., :1], None


class Pair(nn.Module):
    def forward(self, h_BTG, state):
        return h_BTG, h_BTG


class Stateless(nn.Module):
    def forward(self, h_BTG):
        return h_BTG


class Trained(nn.Module, Likelihood):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
"""
BACKBONE = [f"~model.backbone.{name}" for name in ("width", "norm", "checkpointing")]
OPTIM = [f"~optim.{name}" for name in ("betas", "weight_decay", "fused")]
PARTS = {
    "dropout": ["model.backbone._target_=own.dropping", *BACKBONE],
    "two names": ["model.backbone._target_=own.aliased", "average=0.2", *BACKBONE],
    "state in groups": ["optim._target_=own.Grouped", *OPTIM],
    "state that comes late": ["optim._target_=own.Late", *OPTIM],
    "state of NumPy's": ["optim._target_=own.OfNumPy", *OPTIM],
    "float64": ["~kl_schedule", "kl_schedule={_target_: own.halves, _partial_: true}"],
    "float32": ["~tf_schedule", "tf_schedule={_target_: own.narrow, _partial_: true}"],
}


@pytest.fixture
def compose_own(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)

    def composed(*words: str, folder: str = "run"):
        chosen = [
            word for word in tiny(drawn, "epochs=3", "sample_every=0") if not word.startswith("optim.") or "_target_" in word
        ]
        cfg = compose([*chosen, "allow_targets=[own]", *words])
        Path(folder, ".hydra").mkdir(parents=True, exist_ok=True)
        Path(folder, ".hydra/config.yaml").write_text(OmegaConf.to_yaml(cfg))
        return cfg

    return composed


def rows(folder: str) -> list[dict]:
    found = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "frames_per_second")} for row in found]


QUICK = "state that comes late"


@pytest.mark.parametrize(
    "words", [pytest.param(words, id=name, marks=[] if name == QUICK else pytest.mark.slow) for name, words in PARTS.items()]
)
def test_a_resumed_run_ends_as_if_nothing_had_happened(compose_own, words) -> None:
    cfg = compose_own(*words, folder="whole")
    assemble(cfg, Path("whole"), None, False, NoTrial())[0].fit()
    cfg = compose_own(*words, folder="parts")
    with pytest.raises(Stopped):
        assemble(cfg, Path("parts"), None, False, NoTrial())[0].fit(Ended(3))
    assemble(cfg, Path("parts"), None, True, NoTrial())[0].fit()
    assert rows("whole") == rows("parts")
    one, other = (checkpoint.load(Path(folder, "checkpoints/last.pt"))["model"] for folder in ("whole", "parts"))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    load_model(Path("parts"), allow_targets=["own"])


def test_what_no_checkpoint_can_keep_is_said_where_it_would_be_kept(compose_own) -> None:
    trainer, _ = assemble(compose_own("optim._target_=own.Kept", *OPTIM), Path("run"), None, False, NoTrial())
    with pytest.raises(UserError, match="a checkpoint keeps tensors and plain values, and the run's state has a object"):
        trainer.fit()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim._target_=own.NoRate", "~optim.lr", *OPTIM], "optim: NoRate has no lr in its parameter groups"),
        (["likelihood={_target_: own.OfOne}"], r"likelihood returns a Tensor of shape \(1,\): a scalar tensor is needed"),
        (["likelihood={_target_: own.Detached}"], r"likelihood returns a Tensor of shape \(\): a scalar tensor"),
        (["likelihood={_target_: own.Plain}"], "likelihood returns a float"),
        (["likelihood={_target_: own.TextBeta}"], "likelihood.default_beta is '1': give a plain number"),
        (["likelihood={_target_: own.TensorSigma}"], r"likelihood.implied_sigma returns tensor\(0.1000\): a plain number"),
        (["optim._target_=own.Unmade", *OPTIM], "optim: Unmade has no lr"),
        (["~prior", "prior={_target_: own.Broadcast}"], r"model.prior returns \(2, 2, 1\) and \(2, 2, 1\) for features"),
        (["~prior", "prior={_target_: own.Pair}"], "model.prior returns a tuple for features"),
        (["~prior", "prior={_target_: own.Stateless}"], "model.prior cannot be asked with .*TypeError"),
        (["likelihood={_target_: own.Trained}"], "likelihood has parameters of its own, which nobody trains"),
    ],
)
def test_a_part_that_cannot_train_is_named_before_it_does(compose_own, words, said) -> None:
    with pytest.raises(UserError, match=said):
        build_trainer(compose_own(*(["~likelihood"] * words[0].startswith("likelihood")), *words), Path("run"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim._target_=own.Breaks", *OPTIM], "own.Breaks.step raises ZeroDivisionError: no step ("),
        (["optim._target_=torch.optim.LBFGS", *OPTIM], "raises TypeError: LBFGS.step() missing 1 required"),
        (["~likelihood", "likelihood={_target_: own.Falls}"], "own.Falls.__call__ raises ValueError: too large ("),
    ],
)
def test_what_a_part_raises_in_training_is_one_line(train, drawn, tmp_path, monkeypatch, words, said) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    done = train(*tiny(drawn), "allow_targets=[own]", *words, "hydra.run.dir=run")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert said in done.err.replace("Breaks.step" if sys.version_info >= (3, 11) else "own.step", "Breaks.step")
    assert "Traceback" in Path("run/failure.txt").read_text()


class Scaled(nn.Module):
    """Puts a new tensor in its buffer's place, as a running scale or a codebook may."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.scale = 0.5 * self.scale + 0.5 * x.detach().abs().mean()
        return x / self.scale


def test_a_buffer_that_a_module_replaces_is_averaged() -> None:
    model = Scaled()
    average = Average(model, 0.1)
    model(torch.full((2,), 3.0))
    average.move(0.25)
    assert average.weights()["scale"] == 1.25  # a quarter of the way from 1 to 2
    with average.applied():
        assert model.scale == 1.25
    assert model.scale == 2.0


def test_weights_with_several_names_are_averaged_once() -> None:
    one, tied = (nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)) for _ in range(2))
    tied.again = tied[0]
    tied[1].weight = tied[0].weight
    average = Average(tied, 0.1)
    with torch.no_grad():
        tied[0].weight += 1.0
    average.move(0.25)
    live = tied[0].weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(tied[0].weight.detach(), live - 0.75)
    torch.testing.assert_close(tied[0].weight.detach(), live, rtol=0, atol=0)
    assert average.weights().keys() == tied.state_dict().keys()
    assert Average(one, 0.1).weights().keys() == one.state_dict().keys()
    assert torch.isfinite(live).all()
