"""``python -m cvae.report runs=[FOLDER,...]``: read the settings, then write the HTML page or Markdown, or serve the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from cvae import cli
from cvae.console import command, say, short, warn
from cvae.errors import UserError, expanded, write_whole, writing

_FORMS = ("html", "md")
_HINT = "choose another file with out="
_LINES = 20  # of problems that the terminal shows


@dataclass
class ReportConfig:
    """The settings of a report; ``python -m cvae.report --help`` explains them."""

    runs: Any = "multirun"
    out: str | None = None
    format: str | None = None
    title: str | None = None
    videos: int = 48
    bair: bool = False
    watch: bool = False
    port: int = 8000


ConfigStore.instance().store(name="report_schema", node=ReportConfig)


def report(cfg: DictConfig) -> None:
    """Read the runs, then write the report or serve it.

    Raises:
        UserError: a setting is wrong, there are no such runs, or the file cannot be written.
    """
    # Imported here so that --help needs none of it.
    from cvae.pages.document import write_markdown
    from cvae.report.html.data import page_data
    from cvae.report.html.render import render
    from cvae.report.markdown import STRIPS, markdown_blocks
    from cvae.report.serve import serve
    from cvae.runs.collection import Collection, collect

    _check(cfg)
    form = _form(cfg.format, cfg.out)
    given = cfg.runs if OmegaConf.is_list(cfg.runs) else [cfg.runs]
    places = [str(place) for place in given if place not in (None, "")]
    title = cfg.title or ", ".join(Path(place).resolve().name or place for place in places)

    said: set[str] = set()

    def page(found: Collection, version: str | None = None) -> str:
        _name_problems(found.problems, said)
        return render(page_data(found, title, command(), cfg.videos, cfg.bair, version))

    if cfg.watch:
        serve(places, page, cfg.port)
        return
    found = collect(places)
    out = expanded(cfg.out or f"report.{form}", "out")
    if form == "md":
        _name_problems(found.problems, said)
        write_markdown(markdown_blocks(found, title, command(), cfg.bair, min(cfg.videos, STRIPS)), out)
    else:
        with writing(out, _HINT):
            out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page(found), _HINT)
    say(f"{found.counts}: {short(out)}")


def _name_problems(problems: Sequence[str], said: set[str]) -> None:
    """Warn of what is wrong in the folders, in a line each; once of each, however often the page is made."""
    from cvae.pages.document import one_line

    new = [line for line in problems if line not in said]
    for line in new[:_LINES]:
        warn(one_line(line, 400))
    if len(new) > _LINES:
        warn(f"{len(new) - _LINES} more folders have such problems: the report names them")
    said.update(new)


def _check(cfg: DictConfig) -> None:
    for key in map(str, cfg):
        if key not in ReportConfig.__dataclass_fields__:
            raise UserError(f"+{key}: a report has no such key; --help lists them")
    if cfg.watch and (cfg.format == "md" or cfg.out):
        raise UserError("watch=true serves the HTML page and writes no file: leave out format= and out=")
    if cfg.videos < 0:
        raise UserError(f"videos={cfg.videos}: give the number of runs whose sample videos are shown, 0 or more")


def _form(form: str | None, out: str | None) -> str:
    """``html`` or ``md``: the given format, else the suffix of the file.

    Raises:
        UserError: there is no such format, or the two disagree.
    """
    suffix = Path(out or "").suffix.removeprefix(".")
    chosen = form or suffix or "html"
    if chosen not in _FORMS:
        raise UserError(f"{f'format={form}' if form else f'out={out}'}: choose {' or '.join(_FORMS)}")
    if suffix not in ("", chosen):
        raise UserError(f"out={out} and format={chosen} disagree: leave out one of them")
    return chosen


main = cli.main_of(report, "report", "a report cannot be swept: leave out -m")


if __name__ == "__main__":
    main()
