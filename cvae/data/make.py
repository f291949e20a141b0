"""``python -m cvae.data make sawyer DST``: write a simulated dataset in the course layout.

sawyer: a Sawyer arm pushes objects over a table, simulated by MuJoCo with Meta-World's arm. It needs

    pip install 'cvae[sim]'
    apt-get install libosmesa6

The files depend on --world-seed and a sequence's split and number alone: not on --workers, nor on how many sequences there are.
Train on them with data=course data.root=DST, or leave the command out: data=sawyer makes the same in the cache.
"""

from __future__ import annotations

import argparse

from cvae.console import say, short
from cvae.data.layout import SPLITS
from cvae.data.made import counted
from cvae.data.sawyer import write_sawyer
from cvae.errors import expanded, require

COUNTS = (800, 100, 100)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.epilog = __doc__
    parser.add_argument("kind", choices=("sawyer",), help="what to make")
    parser.add_argument("root", metavar="DST", help="a folder that is not there yet")
    for split, count in zip(SPLITS, COUNTS, strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"sequences of 30 frames (default: {count})")
    parser.add_argument("--world-seed", type=int, default=0, help="other scenes (default: 0)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")


def run(asked: argparse.Namespace) -> None:
    """Make a dataset; one that is there already is left as it is.

    Raises:
        UserError: a number is bad, something is not installed, or DST cannot be written or holds something else.
    """
    require(asked.workers is None or asked.workers >= 1, "--workers", asked.workers, "give a number of at least 1")
    root = expanded(asked.root, "DST")
    counts = counted(asked.train, asked.validate, asked.test, asked.world_seed)
    write_sawyer(root, counts, asked.world_seed, asked.workers)
    say(f"{sum(counts.values())} sequences are in {short(root)}: train on them with data=course data.root={short(root)}")
