"""Make a run folder of a checkpoint of SVG or of the course: python scripts/import_course_checkpoint.py FILE.pth --trust

Such a file holds whole pickled modules (encoder, decoder, frame_predictor, posterior, perhaps prior). To read a pickle is to
run what it says, so nothing is read without --trust. With it, an unpickler is used that knows PyTorch's own layers and tensors.
Every other name in the file becomes an empty shell, so the code of its models is not needed, and none is run.

The weights are taken into the nets of this package; conditions stay raw. With --root=DATA the result predicts the validate
split to find out in which order the frame predictor was fed (--order) and from which frame the skips came (--skips), where they
are not given, then the test split. Everything else reads the folder as that of a run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pickle
import shlex
import sys
import types
from collections.abc import Iterator, Mapping
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from cvae import integrity
from cvae.cli import fail, quoted
from cvae.config import build, signature
from cvae.console import command, say, short
from cvae.data.contract import Dataset
from cvae.errors import UserError, first_line, writing
from cvae.evaluation.metrics import psnr
from cvae.evaluation.validation import free_run, score_copy, validate
from cvae.metrics import BUILT_IN, as_record
from cvae.model.cvae import CVAE
from cvae.run_record import settings_hashes, write_record
from cvae.start import compose, refuse_used
from cvae.training import checkpoint
from cvae.training.loading import restored

PARTS = ("encoder", "decoder", "frame_predictor", "posterior")
ORDERS = [",".join(order) for order in permutations(("cond", "h", "z"))]
TRIED = 16  # validation sequences by which order and skips are told apart
CONDITIONS = {7: "actions_positions", 4: "actions", 0: "none"}
PLAIN = {  # what a pickle may make besides layers and storages
    *("builtins.object", "builtins.set", "collections.OrderedDict", "argparse.Namespace", "copyreg._reconstructor"),
    *("torch.Size", "torch.device", "torch.nn.parameter.Parameter", "torch._utils._rebuild_tensor"),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
}
_REFUSED = (
    "is a pickle of whole modules, as SVG and the course write them: to read it is to run what it says; if you know who made "
    "it, add --trust"
)
Weights = dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the checkpoint, a .pth")
    parser.add_argument("--trust", action="store_true", help="read it although it is a pickle")
    parser.add_argument("--root", type=Path, help="the data in the course layout, to try the model on")
    parser.add_argument("--out", type=Path, help="the run folder to write (multirun/single/imported_<name>)")
    parser.add_argument("--order", choices=ORDERS, help="in which order the frame predictor is fed; found by trying")
    parser.add_argument("--skips", choices=("course", "past"), help="from the frame before the last given one, or the last")
    parser.add_argument("--n-past", type=int, help="given frames (as the file says, else 2)")
    parser.add_argument("--n-future", type=int, default=10, help="predicted frames when it is tried (10)")
    words = parser.parse_args()
    try:
        run(words)
    except UserError as error:
        fail(error)


def run(words: argparse.Namespace) -> None:
    if not words.file.is_file():
        raise UserError(f"{words.file} does not exist: check the path")
    if not words.trust:
        raise UserError(f"{words.file} {_REFUSED}")
    out = (words.out or Path("multirun/single") / f"imported_{words.file.stem}").absolute()
    refuse_used(out)
    if words.root is None and words.order is None:
        raise UserError(
            "give --root=DATA, so that the order in which the frame predictor is fed can be found, or --order=cond,h,z"
        )
    state = read(words.file)
    weights = {part: weights_of(state, part, words.file) for part in PARTS}
    prior = weights_of(state, "prior", words.file, needed=False)
    n_past = words.n_past or int(getattr(state.get("args") or state.get("opt"), "n_past", 2))
    cfg, model = choose(words, weights, prior, n_past)
    write(out, cfg, model, words.file)
    say(f"run folder  {short(out)}")
    if words.root is not None:
        test(cfg, model)
    for line in (["python", "-m", "cvae.evaluate", f"run={short(out)}"], ["python", "-m", "cvae.predict", f"run={short(out)}"]):
        say(f"go on with  {shlex.join(line)}")


# --- reading a pickle -------------------------------------------------------------------------------------------------


class Shell(nn.Module):
    """Stands for a class that is not PyTorch's own: it keeps what was in it and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):  # of a module; whatever else a class may keep is not needed
            super().__setstate__(state)

    def __call__(self, *_: object, **__: object) -> Shell:
        return Shell()


class Unpickler(pickle.Unpickler):
    """Makes tensors, PyTorch's own layers, plain values, and shells of everything else."""

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # their names in old pickles
        found = getattr(importlib.import_module(module), name, None) if module.split(".")[0] == "torch" else None
        layer = module.startswith("torch.nn.modules.") and isinstance(found, type) and issubclass(found, nn.Module)
        storage = isinstance(found, torch.dtype) or (module == "torch" and name.endswith("Storage"))
        if f"{module}.{name}" in PLAIN or ((layer or storage) and "." not in name):
            return super().find_class(module, name)
        return type(name.rpartition(".")[2], (Shell,), {})


def read(path: Path) -> Mapping[str, Any]:
    """What the file holds by its names.

    Raises:
        UserError: it is no such file.
    """
    reader = types.ModuleType("shells")
    reader.Unpickler = Unpickler  # type: ignore[attr-defined]  # what torch.load takes of a pickle module
    reader.load = lambda file, **more: Unpickler(file, **more).load()  # type: ignore[attr-defined]
    try:
        state = torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path} is no checkpoint that PyTorch reads ({first_line(error)}): copy it again") from error
    if not isinstance(state, Mapping):
        raise UserError(f"{path} holds a {type(state).__name__}: {', '.join(PARTS)} by these names are needed")
    return state


def weights_of(state: Mapping[str, Any], part: str, path: Path, needed: bool = True) -> Weights:
    """The tensors of a part, be it a module or a state dict; without BatchNorm's counts, which old files lack."""
    found = state.get(part)
    with contextlib.suppress(Exception):  # a module whose pickle lacks something
        found = found.state_dict() if isinstance(found, nn.Module) else found
    tensors = {str(name): value for name, value in found.items()} if isinstance(found, Mapping) else {}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor) and "num_batches" not in name}
    if needed and not tensors:
        raise UserError(f"{path} has no {part} (it has {', '.join(map(str, state))[:80]}): {', '.join(PARTS)} are needed")
    return tensors


# --- taking the weights -----------------------------------------------------------------------------------------------


def compose_for(
    words: argparse.Namespace, weights: Mapping[str, Weights], prior: Weights, n_past: int, skips: str
) -> DictConfig:
    """The config whose nets have the sizes of these weights."""
    encoder, posterior, predictor = (weights[part] for part in ("encoder", "posterior", "frame_predictor"))
    convolutions = [value for value in encoder.values() if value.dim() == 4]
    feature_dim, latent_dim = len(convolutions[-1]), len(posterior["mu_net.bias"])
    width = predictor["embed.weight"].shape[1] - feature_dim - latent_dim
    if width not in CONDITIONS:
        raise UserError(
            f"{words.file} takes {width} values with each frame: 7 (actions, positions), 4 (actions) or 0 are known"
        )
    overrides = {
        "compat": "course",
        "model": "dcgan64" if len(convolutions) == 5 else "vgg64",
        "model.backbone.width": len(convolutions[0]) / 64,
        "model.backbone.feature_dim": feature_dim,
        "model.latent_dim": latent_dim,
        "model.hidden_dim": predictor["embed.weight"].shape[0],
        "model.predictor_layers": sum(name.endswith("weight_ih") for name in predictor),
        "model.posterior_layers": sum(name.endswith("weight_ih") for name in posterior),
        "model.skips": skips,
        "prior": "learned" if "mu_net.bias" in prior else "fixed",
        "data": "course",
        "data.root": "." if words.root is None else quoted(str(words.root.absolute())),
        "data.condition": CONDITIONS[width],
        "n_past": n_past,
        "n_future": words.n_future,
        "epochs": 0,  # here nothing was trained
        "logger": "none",
    }
    return compose([f"{key}={value}" for key, value in overrides.items()])


def converted(cfg: DictConfig, weights: Mapping[str, Weights], prior: Weights, order: str, path: Path) -> CVAE:
    """The model with the weights; the columns of the frame predictor's first layer come in this package's order."""
    latent_dim, feature_dim = cfg.model.latent_dim, cfg.model.backbone.feature_dim
    embed_HI = weights["frame_predictor"]["embed.weight"]
    sizes = {"h": feature_dim, "z": latent_dim, "cond": embed_HI.shape[1] - feature_dim - latent_dim}
    columns = dict(zip(order.split(","), embed_HI.split([sizes[part] for part in order.split(",")], dim=1), strict=True))
    model: CVAE = build(cfg.model, (), CVAE, cond_dim=sizes["cond"])
    found = model.state_dict()
    predictor = {**weights["frame_predictor"], "embed.weight": torch.cat([columns[part] for part in ("cond", "h", "z")], dim=1)}
    by_place = [("backbone.encoder.", weights["encoder"]), ("backbone.decoder.", weights["decoder"])]
    recurrent = {"posterior.": weights["posterior"], "predictor.": predictor, **({"prior.": prior} if prior else {})}
    try:
        for start, part in by_place:  # layer by layer, as the data pass them
            names = [name for name in found if name.startswith(start) and "num_batches" not in name]
            found |= dict(zip(names, part.values(), strict=True))
        found |= {start + our_name(name): value for start, part in recurrent.items() for name, value in part.items()}
        return restored(
            cfg, {name: value.float() if value.is_floating_point() else value for name, value in found.items()}, path
        )
    except (ValueError, UserError) as error:
        raise UserError(
            f"{path} holds other nets than SVG's for 64x64 frames ({first_line(error)}): they cannot be taken"
        ) from error


def our_name(name: str) -> str:
    """The name in this package of a tensor of SVG's recurrent nets."""
    first, _, rest = name.partition(".")
    if first == "lstm":
        layer, _, which = rest.partition(".")
        return f"core.lstm.{which}_l{layer}"
    own = {"embed": "core.embed", "mu_net": "mu", "logvar_net": "logvar", "output": "out"}[first]
    return f"{own}.{rest.rpartition('.')[2]}"


def choose(words: argparse.Namespace, weights: Mapping[str, Weights], prior: Weights, n_past: int) -> tuple[DictConfig, CVAE]:
    """The order and the skips that are given, or under which the validate split is predicted best."""
    has_conditions = compose_for(words, weights, prior, n_past, "course").data.condition != "none"
    orders = [words.order] if words.order else [order for order in ORDERS if has_conditions or order.startswith("cond")]
    skips = [words.skips] if words.skips else ["course", "past"] if n_past > 1 else ["past"]
    skips = skips[:1] if words.root is None else skips
    tried = []
    for order, skip in product(orders, skips):
        cfg = compose_for(words, weights, prior, n_past, skip)
        model = converted(cfg, weights, prior, order, words.file)
        tried.append((tried_on_validate(cfg, model) if len(orders) * len(skips) > 1 else 0.0, order, skip, cfg, model))
    tried.sort(key=lambda each: -each[0])
    for score, order, skip, *_ in tried if len(tried) > 1 else ():
        say(f"order={order} skips={skip}: {score:.2f} dB on {TRIED} validation sequences or fewer")
    _, order, skip, cfg, model = tried[0]
    say(f"taken: order={order} skips={skip}, {cfg.n_past} given frames, {cfg.data.condition}")
    return cfg, model


def tried_on_validate(cfg: DictConfig, model: CVAE) -> float:
    """PSNR in dB of the first validation sequences."""
    split = build(cfg.data, (), Dataset).validate
    rows = np.arange(min(TRIED, len(split)))
    scores = [psnr(predicted[0], true).mean(dim=1) for predicted, true in predict(cfg, model, split, rows)]
    return float(torch.cat(scores).mean())


def predict(cfg: DictConfig, model: CVAE, split: Any, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    yield from free_run(model, split, cfg.n_past + cfg.n_future, 1, cfg.seed, torch.device("cpu"), rows=rows)


# --- the run folder ---------------------------------------------------------------------------------------------------


def write(out: Path, cfg: DictConfig, model: CVAE, source: Path) -> None:
    """Write the run folder: config, run.json, best.pt and last.pt."""
    hint = "choose another folder with --out"
    with writing(out, hint):
        (out / ".hydra").mkdir(parents=True)
        OmegaConf.save(cfg, out / ".hydra" / "config.yaml")
        OmegaConf.save(OmegaConf.create([]), out / ".hydra" / "overrides.yaml")
        with integrity.opened(source) as file:
            origin = {"file": source.name, "crc32": f"{integrity.checksum(file):08x}"}
    identity = {"id": f"{signature(cfg)[:12]}", "signature": signature(cfg), "nonce": "", "command": command(), "group": None}
    identity["metrics"] = as_record(BUILT_IN)
    write_record(out, {**identity, "imported": origin, **settings_hashes(out)}, hint)
    for name in ("best", "last"):
        checkpoint.save(out / "checkpoints" / f"{name}.pt", {"model": model.state_dict(), "epoch": 0})


def test(cfg: DictConfig, model: CVAE) -> None:
    """Predict the test split and say how well."""
    split, length = build(cfg.data, (), Dataset).test, cfg.n_past + cfg.n_future
    scores = validate(model, split, length, 1, cfg.seed, torch.device("cpu"))
    copy, _ = score_copy(split, cfg.n_past, length)
    say(
        f"test        {len(split)} videos, {cfg.n_past} -> {cfg.n_future} frames, one sample: {scores['psnr']:.2f} dB, SSIM "
        f"{scores['ssim']:.3f}; repeating the last past frame {copy:.2f} dB"
    )


if __name__ == "__main__":
    sys.exit(main())
