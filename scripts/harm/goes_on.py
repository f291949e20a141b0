"""Going on as a user would: ``resume=`` of a run that has begun, else the same command once more."""

from __future__ import annotations

from harm import judge
from harm.bench import Bench, Known

FOLDERS = {"run": "run", "study": "sweep", "pack": "packed"}
_ATTEMPTS = 3


def words_of(bench: Bench, subject: str) -> list[str]:
    """The words of the command that is harmed; packing gets a cache of its own."""
    if subject == "pack":
        bench.place.cache = bench.place.root / "cache"
    return {"run": bench.run_words, "study": bench.sweep_words, "pack": bench.pack_words}[subject]()


def gone_on(bench: Bench, subject: str) -> tuple[str, str] | None:
    """Go on with the place's run, sweep or packing to its end.

    Returns:
        None if all is as if nothing had happened, else a verdict and what is broken.
    """
    known: Known = getattr(bench, subject)
    place, name = bench.place, FOLDERS[subject]
    folder = place.work / name
    for _ in range(_ATTEMPTS):
        begun = subject != "study" and (folder / "run.json").exists()
        result = place.train(f"resume={name}") if begun else place.train(*words_of(bench, subject))
        if complaint := judge.complaint(result):
            return complaint.split()[0], f"when going on: {complaint}: {judge.said(result)}"
        if result.code == 0:
            break
    else:
        return "lost", f"it does not go on: {judge.said(result)}"
    if subject == "study":
        different = judge.study_difference(folder, known.trials)
    else:
        different = judge.difference(folder, known.path(f"work/{name}"))
    return ("different", different) if different else None
