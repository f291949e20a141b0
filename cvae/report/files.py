"""A report as a file: HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cvae.errors import UserError, write_whole, writing
from cvae.pages.document import write_markdown
from cvae.report.html.data import view
from cvae.report.html.render import render
from cvae.report.markdown import paper
from cvae.runs.collection import Collection, collect

_FORMS = ("html", "md")
_MEND = "choose another file with out="


def form_of(form: str | None, out: str | None) -> str:
    """A report's form: as it is named, or as the end of its file's name says.

    Raises:
        UserError: there is no such form, or the two disagree.
    """
    ending = Path(out or "").suffix.removeprefix(".")
    chosen = form or ending or "html"
    if chosen not in _FORMS:
        raise UserError(f"{f'format={form}' if form else f'out={out}'}: choose {' or '.join(_FORMS)}")
    if ending not in ("", chosen):
        raise UserError(f"out={out} and format={chosen} disagree: leave one of them away")
    return chosen


@dataclass(frozen=True)
class Report:
    """What a report is made of: places to look for runs, and how to show them. See ``cvae.report``."""

    places: Sequence[str]
    title: str | None
    command: str
    films: int
    bair: bool

    def write(self, out: Path, form: str) -> str:
        """Write the report; return what it holds, in words.

        Raises:
            UserError: there are no such runs, or the file cannot be written.
        """
        found = collect(self.places)
        if form == "html":
            with writing(out, _MEND):
                out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(out, self.page(found), _MEND)
        else:
            write_markdown(paper(found, self.name, self.command, self.bair), out)
        return counted(found)

    @property
    def name(self) -> str:
        """The title."""
        return self.title or ", ".join(Path(place).resolve().name or place for place in self.places)

    def page(self, found: Collection, live: str | None = None) -> str:
        """The HTML; with ``live``, the version that a server has of it."""
        return render(view(found, self.name, self.command, self.films, self.bair, live))


def counted(found: Collection) -> str:
    """How many runs, in words."""
    states = [run.state for run in found.runs]
    words = [f"{len(states)} runs" if len(states) != 1 else "1 run"]
    words += [f"{states.count(state)} {state}" for state in dict.fromkeys(states)] if len(set(states)) > 1 else []
    return ", ".join(words + ([f"{len(found.broken)} unreadable"] if found.broken else []))
