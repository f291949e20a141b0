"""The course report's four claims, put to the test: python scripts/course_study.py [--full] [--out docs/study.md] [overrides]

Runs experiment=course_study_quick (two CPU cores, under 100 minutes), or with --full experiment=course_study (VGG-64 on the
course's data: add data.root=FOLDER), and writes a page with a verdict on each claim. Run it again to go on where it was
stopped; when the study is complete, only the page is made anew. Overrides are those of cvae.train, and Hydra's.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from cvae.cli import fail
from cvae.console import command, say, short
from cvae.errors import UserError
from cvae.pages.document import Block, Code, Heading, Text, write_markdown
from cvae.runs.collection import collect
from cvae.study.answers import answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the study at full size")
    parser.add_argument("--bair", action="store_true", help="the data are BAIR: hold the report's 25 dB against them")
    parser.add_argument("--out", type=Path, default=Path("study.md"), help="the page (study.md), its pictures beside it")
    words, overrides = parser.parse_known_args()
    experiment = "course_study" if words.full else "course_study_quick"
    if code := run(f"experiment={experiment}", *overrides):
        raise SystemExit(code)  # it has said why
    try:
        write_markdown(page(*latest(experiment), words.bair), words.out)
    except UserError as error:
        fail(error)
    say(f"page       {short(words.out)}")


def run(*words: str) -> int:
    """Run cvae.train to its end; return its exit code."""
    process = subprocess.Popen([sys.executable, "-m", "cvae.train", *words])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal sends it Ctrl-C as well: it saves, and says how to go on
            continue


def latest(experiment: str) -> tuple[str, list[str]]:
    """The study that was completed last, and its folders. The sweep writes its sweep.json whenever it ends."""
    names = re.compile(rf"{experiment}(_\d+)?")  # a second study of the name has a number
    records = [path for path in Path("multirun").glob("*/sweep.json") if names.fullmatch(path.parent.name)]
    records.sort(key=lambda path: path.stat().st_mtime)
    if not records:
        raise UserError(f"the study's runs are not below multirun/{experiment}: leave hydra.sweep.dir to the experiment")
    record, here = json.loads(records[-1].read_text()), records[-1].parent
    folders = [Path(trial["folder"]) for trial in record["trials"] if trial["folder"]]
    # A study that was moved or copied is where its sweep.json is, whatever that says.
    return record["study"], sorted({str(here if (here / folder.name).is_dir() else folder.parent) for folder in folders})


def page(study: str, folders: list[str], bair: bool) -> list[Block]:
    """The page of a study.

    Raises:
        UserError: its runs cannot be read, or are none of such a study.
    """
    runs = [run for run in collect(folders).runs if run.sweep == study]
    found = answers(runs, bair)
    epochs, size = runs[0].epochs, int(runs[0].settings["epoch_size"])
    return [
        Heading(1, "The course report's questions"),
        Text(
            f"Each run here took {epochs * size:,} iterations ({epochs} epochs of {size}); one of the course report's took "
            f"{300 * 600:,}. The report compared learning rates, KL annealing and the end of teacher forcing on one seed each. "
            "This page asks the same of several seeds. This command writes every number and picture in it, and first runs what "
            "it needs:"
        ),
        Code(command()),
        *found,
    ]


if __name__ == "__main__":
    main()
