"""Write a LeRobot v3 dataset: python write_with_ledataset.py FOLDER EPISODES FRAMES. Pixels follow a formula.

It has a camera in an MP4, the same pictures in an image column, an action of 2 values and a state of 3.
"""

import sys

import numpy as np
from ledataset.datasets.lerobot_dataset import LeRobotDataset
from smooth import HEIGHT, WIDTH, frame_of


def main(folder: str, episodes: int, frames: int) -> None:
    picture = {"shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.images.top": {"dtype": "video", **picture},
        "observation.images.still": {"dtype": "image", **picture},
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (2,), "names": {"motors": ["left", "right"]}},
    }
    data = LeRobotDataset.create("test/made", fps=10, features=features, root=folder, use_videos=True)
    for episode in range(episodes):
        for t in range(frames + episode):
            pixels = frame_of(episode, t)
            data.add_frame(
                {
                    "observation.images.top": pixels,
                    "observation.images.still": pixels,
                    "observation.state": np.array([episode, t, 0.1], np.float32),
                    "action": np.array([t / 3, -episode], np.float32),
                    "task": "move",
                }
            )
        data.save_episode()
    data.finalize()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
