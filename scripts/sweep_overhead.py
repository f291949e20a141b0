"""What the sweeper adds to a job: python scripts/sweep_overhead.py [--trials 1000]

An app that does nothing notes when it begins and ends. Printed are medians, in seconds a trial:

    Hydra's own sweeper     from one job's beginning to the next one's, basic launcher: what a job costs Hydra itself
    optuna, basic           the same under hydra/sweeper=optuna
    optuna, local           from the end of one job to the start of the next one's process, one slot: what is not the job's own
    optuna, basic, long     trials 100-200 and 900-1000 of one study of --trials, beside each other
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

APP = """
import json, os, time
from pathlib import Path
import hydra

def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    begin = now()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    with open("log.jsonl", "a") as file:
        file.write(json.dumps({"created": ticks / os.sysconf("SC_CLK_TCK"), "begin": begin, "end": now()}) + "\\n")
    return cfg.x

if __name__ == "__main__":
    main()
"""
OPTUNA = ("hydra/sweeper=optuna", "x=interval(0.0, 1.0)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of the long study; under 300 leaves it out (1000)")
    arguments = parser.parse_args()
    own = _run("x=range(0,40)")
    ours = _run(*OPTUNA, "hydra.sweeper.n_trials=40")
    local = _run(*OPTUNA, "hydra.sweeper.n_trials=10", "hydra.sweeper.n_jobs=1", "hydra/launcher=local")
    rows = [
        ("Hydra's own sweeper", _between(own)),
        ("optuna, basic", _between(ours)),
        ("optuna, local", median(after["created"] - job["end"] for job, after in itertools.pairwise(local))),
    ]
    if arguments.trials >= 300:
        long = _run(*OPTUNA, f"hydra.sweeper.n_trials={arguments.trials}")
        early, late = _between(long[100:200]), _between(long[-100:])
        rows += [("optuna, basic, trials 100-200", early), ("optuna, basic, the last 100", late)]
        print(f"the last 100 trials of {arguments.trials} take {late / early:.2f} times what trials 100-200 take")
    for name, seconds in rows:
        print(f"{name:<32}{seconds:7.3f} s")


def _run(*words: str) -> list[dict[str, float]]:
    """What the app's jobs noted under ``python app.py -m WORDS``, in the order of their beginnings."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(APP)
        Path(folder, "config.yaml").write_text("x: 0\n")
        command = [sys.executable, "app.py", "-m", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return [json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()]


def _between(jobs: list[dict[str, float]]) -> float:
    return median(after["begin"] - job["begin"] for job, after in itertools.pairwise(jobs))


if __name__ == "__main__":
    main()
