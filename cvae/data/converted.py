"""What ``python -m cvae.data convert`` packed, as a dataset: ROOT/{train,validate,test} hold ``cvae.data.packed`` arrays."""

from __future__ import annotations

from pathlib import Path

from cvae.data.layout import SPLITS, refuse_absent
from cvae.data.packed import PackedSplit, PackedSplits
from cvae.data.sealed import Damaged
from cvae.errors import UserError

__all__ = ["PackedData"]

UNFINISHED = ".convert"  # in a folder into which something is converted, until it is whole
_AGAIN = "convert the source again into a new folder"


class PackedData(PackedSplits):
    """Packed arrays that are read where they lie; nothing is copied to a cache.

    Args:
        root: the folder that a conversion wrote.
        condition: ``actions_positions`` (all tables), ``actions`` (the first one) or ``none``.
        normalise, random_start, resident: see ``contract.Dataset``.

    Raises:
        UserError: ``condition`` is none of these; when a split is first used: it is not there or damaged.
    """

    def check(self) -> None:
        for name in ("train", "validate"):
            self._refuse_absent(name)

    def _open(self, name: str) -> PackedSplit:
        self._refuse_absent(name)
        try:
            return PackedSplit(self.root / name, self.condition, _AGAIN)
        except Damaged as error:
            raise UserError(f"{self.root / name} is damaged or of another version ({error}): {_AGAIN}") from error

    def _refuse_absent(self, name: str) -> None:
        if (self.root / UNFINISHED).exists():
            raise UserError(f"{self.root} is not converted to its end: run python -m cvae.data convert again")
        refuse_absent(self.root, name)
        if not (self.root / name / "meta.json").exists():
            course: Path | None = next((self.root / name).glob("*/*/*.png"), None)
            hint = "read it with data=course" if course else f"it needs converted {', '.join(SPLITS)}"
            raise UserError(f"{self.root / name} holds no packed arrays (meta.json is missing): {hint}")
