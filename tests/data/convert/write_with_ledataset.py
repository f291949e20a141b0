"""Write a LeRobot v3 dataset, for which lerobot-dataset 0.4.4 is needed.

python write_with_ledataset.py FOLDER EPISODES FRAMES    # pixels by a formula; episode k has FRAMES + k frames
python write_with_ledataset.py FOLDER ROOT               # the train split of a folder in the course layout

The first has a camera in an MP4, the same pictures in an image column, an action of 2 values and a state of 3.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from course_layout import sequences
from ledataset.datasets.lerobot_dataset import LeRobotDataset
from smooth import HEIGHT, WIDTH, frame_of

Episode = tuple[Iterable[np.ndarray], Iterable[Any], Iterable[Any]]  # frames, actions, states


def by_formula(episodes: int, frames: int) -> Iterator[Episode]:
    for episode in range(episodes):
        times = range(frames + episode)
        yield [frame_of(episode, t) for t in times], [[t / 3, -episode] for t in times], [[episode, t, 0.1] for t in times]


def write(folder: str, size: tuple[int, int], actions: list[str], still: bool, episodes: Iterable[Episode]) -> None:
    picture = {"shape": (*size, 3), "names": ["height", "width", "channels"]}
    cameras = {"observation.images.top": "video", **({"observation.images.still": "image"} if still else {})}
    features = {
        **{name: {"dtype": dtype, **picture} for name, dtype in cameras.items()},
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (len(actions),), "names": {"motors": actions}},
    }
    data = LeRobotDataset.create("test/made", fps=10, features=features, root=folder, use_videos=True)
    for frames, action_rows, state_rows in episodes:
        for pixels, action, state in zip(frames, action_rows, state_rows, strict=True):
            numbers = {"observation.state": np.array(state, np.float32), "action": np.array(action, np.float32)}
            data.add_frame({**dict.fromkeys(cameras, pixels), **numbers, "task": "move"})
        data.save_episode()
    data.finalize()


if __name__ == "__main__":
    folder, *source = sys.argv[1:]
    if len(source) == 1:
        found = ((frames, actions, states) for _, frames, actions, states in sequences(Path(source[0], "train")))
        write(folder, (64, 64), ["dx", "dy", "dz", "gripper"], False, found)
    else:
        write(folder, (HEIGHT, WIDTH), ["left", "right"], True, by_formula(*map(int, source)))
