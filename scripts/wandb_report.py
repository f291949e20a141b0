"""A W&B report that compares runs: python scripts/wandb_report.py [--project cvae] [--entity E] [--group G ...] [--title T]

A group is a multirun or a study; without one the report is about the whole project. It shows curves by schedules, lr, tfr and
beta (seeds pooled), the best validation PSNR with the KL beside it, what the settings are worth, how runs differ, and samples.
Prints the report's address; --print writes its specification as JSON instead, without any server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvae.cli import fail
from cvae.errors import UserError, first_line
from cvae.metrics import BUILT_IN, Metric, panels
from cvae.training.wandb_service import abandon, logged_in, server, silence

TEXT = """\
Validation is free-running over the whole validate split: the model is given the first frames and predicts the others from its
own predictions. `val/psnr` is in dB; `val/psnr_copy` is what repeating the last given frame scores. `train/kld` is the KL in
nats a predicted frame: read it beside the PSNR, which alone rewards a latent that is switched off (KL near 0). `kl_weight`
multiplies the KL, beta included; `tf_ratio` is the share of true frames among the inputs in training."""
METRICS = {metric.key: metric for metric in BUILT_IN}
PSNR, KL = METRICS["val/psnr"], METRICS["train/kld"]
BEST = f"{PSNR.key}.{PSNR.better}"  # the mirror asks W&B for the best epoch's
CHOICES = ("options.kl_schedule", "options.tf_schedule", "lr", "tfr", "beta")
TIMEOUT = 10  # seconds
LONGEST = 128  # letters of a title


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default="cvae", help="the project (cvae)")
    parser.add_argument("--entity", help="its user or team (who is logged in)")
    parser.add_argument("--group", nargs="+", default=[], metavar="GROUP", help="multiruns or studies (all runs)")
    parser.add_argument("--title", help="the report's title (project and groups)")
    parser.add_argument("--print", action="store_true", help="print the specification and save nothing")
    words = parser.parse_args()
    title = words.title or " ".join([words.project, *words.group])[:LONGEST]
    try:
        if len(title) > LONGEST:
            raise UserError(f"--title has {len(title)} letters: W&B takes {LONGEST}")
        if words.print:
            print(specification(words.project, words.group, title))
        else:
            print(save(words.project, words.entity, words.group, title))
    except UserError as error:
        fail(error)


def specification(project: str, groups: list[str], title: str) -> str:
    """The report as JSON. Its run sets name no project, whose number only a server knows: they are the report's own."""
    model = report(project, "", groups, title)._to_model()
    return str(model.spec.model_dump_json(by_alias=True, exclude_none=True, indent=2))


def save(project: str, entity: str | None, groups: list[str], title: str) -> str:
    """Save the report and return its address.

    Raises:
        UserError: nobody is logged in, the server refuses, or it has no such project or group.
    """
    if not logged_in():
        raise UserError(f"a report needs a login at {server()}: run wandb login, or set WANDB_API_KEY")
    silence()
    _library()
    import wandb

    with _asking():
        api = wandb.Api(timeout=TIMEOUT)
        entity = entity or str(api.default_entity)
        _require(api, f"{entity}/{project}", groups)
    made = report(project, entity, groups, title)
    with _asking():
        return str(made.save().url)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    try:
        with _alone():
            yield
    except UserError:
        raise
    except Exception as error:  # W&B and its transport have many
        with _alone():
            abandon()
        raise UserError(f"{server()} does not take the report ({first_line(error)}): check wandb login and --entity") from error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """No line on standard error but ours: W&B, its threads and its service have their own about a server that fails."""
    sys.stderr.flush()
    usual = os.dup(2)
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stderr(nothing):
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(usual, 2)
            os.close(usual)


def _require(api: Any, path: str, groups: list[str]) -> None:
    try:
        if not len(api.runs(path, per_page=1)):
            raise UserError(f"{path} has no runs: send offline ones with wandb sync RUN/wandb/offline-run-*")
    except ValueError as error:
        raise UserError(f"{path}: there is no such project ({first_line(error)}): check --project and --entity") from error
    for group in groups:
        if not len(api.runs(path, filters={"group": group}, per_page=1)):
            raise UserError(f"{path} has no run in group {group}: a group is a multirun folder's name or a study's")


def report(project: str, entity: str, groups: list[str], title: str) -> Any:
    """The report, not saved. Without an entity it can be built without a server."""
    wr = _library()

    def runs(*by: str) -> list[Any]:
        where = {"entity": entity, "project": project} if entity else {}
        keys = [f"config.{key}" for key in by]
        if not groups:
            return [wr.Runset(name=project, groupby=["group", *keys] if by else [], **where)]
        return [
            wr.Runset(name=group, filters=f"Metric('Group') == {_literal(group)}", groupby=keys, **where) for group in groups
        ]

    def curve(first: Metric, *beside: Metric) -> Any:
        keys = [metric.key for metric in (first, *beside)]
        return wr.LinePlot(
            x="epoch", y=keys, title=first.label, title_x="epoch", title_y=first.unit or None, log_y=first.log or None
        )

    def axis(metric: Any, name: str, log: bool | None = None) -> Any:
        return wr.ParallelCoordinatesPlotColumn(metric, display_name=name, log=log)

    wide, half = wr.Layout(w=24, h=9), wr.Layout(w=12, h=8)
    settings = [
        axis(wr.Config("lr"), "lr", log=True),
        axis(wr.Config("tfr"), "tfr"),
        axis(wr.Config("beta"), "beta", log=True),
        axis(wr.Config(CHOICES[0]), "KL schedule"),
        axis(wr.Config(CHOICES[1]), "forcing schedule"),
    ]
    return wr.Report(
        project=project,
        entity=entity,
        title=title,
        width="fluid",
        blocks=[
            wr.MarkdownBlock(TEXT),
            wr.H2("Curves, seeds pooled"),
            wr.PanelGrid(
                runsets=runs(*CHOICES),
                panels=[
                    *(curve(*together) for together in panels(BUILT_IN)),
                    wr.BarPlot(title=f"best {PSNR.label}", metrics=[BEST], title_x=PSNR.unit, layout=half),
                    wr.BarPlot(title=f"{KL.label} in the last epoch", metrics=[KL.key], title_x=KL.unit, layout=half),
                ],
            ),
            wr.H2("What the settings are worth, run by run"),
            wr.PanelGrid(
                runsets=runs(),
                panels=[
                    wr.ParallelCoordinatesPlot(
                        columns=[*settings, axis(wr.SummaryMetric(BEST), f"best {PSNR.short}")], layout=wide
                    ),
                    wr.ParameterImportancePlot(with_respect_to=BEST, layout=half),
                    wr.RunComparer(diff_only="split", layout=half),
                    wr.MediaBrowser(title="truth above, prediction below", media_keys=["samples"], num_columns=2, layout=wide),
                ],
            ),
        ],
    )


def _library() -> Any:
    try:
        import wandb_workspaces.reports.v2 as library
    except ImportError as error:
        raise UserError(f"a report needs a package of its own ({error}): pip install -e '.[report]'") from error
    return library


def _literal(text: str) -> str:
    """A string literal without the operators that the library rewrites even within quotes."""
    return "'" + "".join(letter if letter.isalnum() else f"\\U{ord(letter):08x}" for letter in text) + "'"


if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        if end.code != 1:
            raise
        os._exit(1)  # what W&B left behind would tell of its end
