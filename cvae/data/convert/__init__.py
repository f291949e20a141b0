"""``python -m cvae.data convert SRC DST``: real data of several formats into packed arrays or the course layout."""

from cvae.data.convert.command import add_arguments, run

__all__ = ["add_arguments", "run"]
