"""Check posterior collapse and the use of actions in a run: python scripts/diagnose.py RUN [--samples 10] [--split validate]

Prints the free-running PSNR and three others to compare it with: repeating the last past frame; the best of N sampled futures
(higher if the model uses its latent variable, the same after posterior collapse); and the prediction with the conditions of
another sequence (lower if the model uses the actions).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cvae import damage
from cvae.cli import fail
from cvae.errors import UserError
from cvae.evaluation.validation import score_copy, validate
from cvae.training.assembly import load_model
from cvae.training.recorder import read_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--samples", type=int, default=10, help="sampled futures for each sequence (10)")
    parser.add_argument("--split", choices=("validate", "test"), default="validate")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--allow-targets", nargs="*", default=[], help="packages of your own that the run is built of")
    words = parser.parse_args()
    try:
        diagnose(words.run.absolute(), words.samples, words.split, words.checkpoint, words.allow_targets)
    except UserError as error:
        fail(error)


def diagnose(run: Path, samples: int, split_name: str, checkpoint: str, allow_targets: list[str]) -> None:
    model, data, cfg = load_model(run, checkpoint, allow_targets)
    if why := damage.lines_damaged(run):
        raise UserError(f"{run / 'metrics.jsonl'} is damaged ({why}): {damage.way_on(run)}")
    split = getattr(data, split_name)
    length = cfg.n_past + cfg.n_future
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    copy, _ = score_copy(split, cfg.n_past, length)
    scores = validate(model, split, length, samples, cfg.seed, device)
    shuffled = validate(model, split, length, 1, cfg.seed, device, shuffled=True)
    try:
        rows = read_metrics(run / "metrics.jsonl")
    except ValueError as error:
        raise UserError(f"{run / 'metrics.jsonl'} is damaged ({error}): {damage.way_on(run)}") from error
    print(f"{split_name} split, {len(split)} videos, {cfg.n_past} past -> {cfg.n_future} future frames, {checkpoint}.pt")
    for name, value, against in [
        ("one sample", scores["psnr"], copy),
        ("repeating the last past frame", copy, None),
        (f"best of {samples} samples", scores.get("psnr_best", scores["psnr"]), scores["psnr"]),
        ("conditions of another sequence", shuffled["psnr"], scores["psnr"]),
    ]:
        print(f"  {name:32}{value:6.2f} dB" + ("" if against is None else f"  {value - against:+.2f}"))
    if rows:
        print(f"  {'KL in the last epoch':32}{rows[-1]['train/kld']:6.2f} nats a step")


if __name__ == "__main__":
    main()
