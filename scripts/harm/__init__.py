"""What ``scripts/torture.py`` does to runs, studies, caches and commands, and how it judges what comes of it."""

import os

# One thread: a tiny model is faster so, and a process that has started no thread can be forked safely. It must be set before
# NumPy and torch are imported.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
