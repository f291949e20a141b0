"""Test the course report's four claims: python scripts/course_study.py [--full] [--out docs/study.md] [overrides]

Runs experiment=course_study_quick (two CPU cores, under 100 minutes), or with --full experiment=course_study (VGG-64 on the
course's data: add data.root=FOLDER), and writes a page with a verdict on each claim. Run it again to continue a study that was
stopped; if the study is complete, only the page is written again. Overrides are those of cvae.train, and Hydra's.
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
from cvae.study.answers import REPORT_ITERATIONS, answer_blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the study at full size")
    parser.add_argument("--bair", action="store_true", help="the data are BAIR: the report's 25 dB applies to them")
    parser.add_argument(
        "--out", type=Path, default=Path("study.md"), help="the page to write, its pictures beside it (study.md)"
    )
    words, overrides = parser.parse_known_args()
    experiment = "course_study" if words.full else "course_study_quick"
    if code := run(f"experiment={experiment}", *overrides):
        raise SystemExit(code)  # cvae.train has printed why
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
        except KeyboardInterrupt:  # Ctrl-C reaches cvae.train as well: it saves and prints how to continue
            continue


def latest(experiment: str) -> tuple[str, list[str]]:
    """The name of the study that ended last, and its folders. A sweep writes its sweep.json whenever it ends."""
    names = re.compile(rf"{experiment}(_\d+)?")  # a second study of this name gets a number
    records = [path for path in Path("multirun").glob("*/sweep.json") if names.fullmatch(path.parent.name)]
    records.sort(key=lambda path: path.stat().st_mtime)
    if not records:
        raise UserError(f"there is no study in multirun/{experiment}: leave out hydra.sweep.dir, which the experiment sets")
    record, here = json.loads(records[-1].read_text()), records[-1].parent
    folders = [Path(trial["folder"]) for trial in record["trials"] if trial["folder"]]
    # sweep.json names the folders where the trials ran; a study that was moved or copied is beside its sweep.json.
    return record["study"], sorted({str(here if (here / folder.name).is_dir() else folder.parent) for folder in folders})


def page(study: str, folders: list[str], bair: bool) -> list[Block]:
    """The page of a study.

    Raises:
        UserError: its runs cannot be read, or are not such a study.
    """
    runs = [run for run in collect(folders).runs if run.sweep == study]
    answers = answer_blocks(runs, bair)
    run = next(run for run in runs if run.state == "finished")
    iterations = run.epochs * int(run.settings["epoch_size"])
    return [
        Heading(1, "The course report's questions"),
        Text(
            f"A run of this study has {iterations:,} iterations ({run.epochs} epochs of {run.settings['epoch_size']}); a run "
            f"of the report had {REPORT_ITERATIONS:,}. The report compared learning rates, KL annealing and the end of teacher "
            "forcing with one seed each. This page asks the same questions with several seeds. This command runs the study "
            "and writes every number and picture of the page:"
        ),
        Code(command()),
        *answers,
    ]


if __name__ == "__main__":
    main()
