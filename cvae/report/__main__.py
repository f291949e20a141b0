"""``python -m cvae.report runs=[FOLDER,...]``: one page that compares runs, opened from disk without network; or Markdown."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from cvae import cli, config
from cvae.console import command, say, short
from cvae.errors import UserError, expanded


@dataclass
class ReportConfig:
    """The settings of a report; ``python -m cvae.report --help`` explains them."""

    runs: Any = "multirun"
    out: str | None = None
    format: str | None = None
    title: str | None = None
    films: int = 48
    bair: bool = False
    watch: bool = False
    port: int = 8000


ConfigStore.instance().store(name="report_schema", node=ReportConfig)


def report(cfg: DictConfig) -> None:
    """Read the runs and write the report, or serve it.

    Raises:
        UserError: there are no such runs, or the file cannot be written.
    """
    from cvae.report.files import Report, form_of  # late, so that --help answers at once
    from cvae.report.serve import serve

    for key in map(str, cfg):
        if key not in ReportConfig.__dataclass_fields__:
            raise UserError(f"+{key}: a report has no such key; --help lists them")
    form = form_of(cfg.format, cfg.out)
    if cfg.watch and (form != "html" or cfg.out):
        raise UserError("watch=true serves the page and writes no file: leave format and out away")
    if cfg.films < 0:
        raise UserError(f"films={cfg.films}: give how many runs' sample videos to show, at least 0")
    places = OmegaConf.to_container(cfg.runs) if OmegaConf.is_list(cfg.runs) else [cfg.runs]
    assert isinstance(places, list)
    made = Report([str(place) for place in places if place not in (None, "")], cfg.title, command(), cfg.films, cfg.bair)
    if cfg.watch:
        serve(made, cfg.port)
        return
    out = expanded(cfg.out or f"report.{form}", "out")
    summary = made.write(out, form)
    say(f"{summary}: {short(out)}")


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="report")
def _report(cfg: DictConfig) -> None:
    try:
        report(cfg)
    except cli.MENDABLE as error:
        cli.fail(error)


def main() -> None:
    def run() -> None:
        if cli.is_multirun(sys.argv[1:]):
            raise UserError("a report has no sweep: leave -m out")
        _report()

    cli.guarded(run)


if __name__ == "__main__":
    main()
