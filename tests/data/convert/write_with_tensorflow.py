"""Write records as BAIR's are, with TensorFlow: python write_with_tensorflow.py FILE RECORDS FRAMES; pixels by a formula."""

import sys

import numpy as np
import tensorflow as tf


def main(path: str, count: int, frames: int) -> None:
    grid_HWC = np.arange(64 * 64 * 3).reshape(64, 64, 3)
    with tf.io.TFRecordWriter(path) as writer:
        for k in range(count):
            features = {}
            for t in range(frames):
                for number, camera in enumerate(("main", "aux1")):
                    pixels = ((grid_HWC * (k + 1) + 7 * t + 100 * number) % 256).astype(np.uint8)
                    features[f"{t}/image_{camera}/encoded"] = tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[pixels.tobytes()])
                    )
                action = [k + t / 10, -t / 3, k * 1e-9, 0.1]
                position = [1 / (k + t + 1), 1e20, -0.0]
                features[f"{t}/action"] = tf.train.Feature(float_list=tf.train.FloatList(value=action))
                features[f"{t}/endeffector_pos"] = tf.train.Feature(float_list=tf.train.FloatList(value=position))
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
