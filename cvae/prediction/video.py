"""Video files: read and written by PyAV or by the program ffmpeg, whichever there is; GIFs are Pillow's.

A file may come from a stranger. It is read as what its name says, so that a list of addresses that is named ``.mp4`` is none.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from cvae.errors import UserError, first_line

Pixels = NDArray[np.uint8]

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi", ".gif": "gif"}
LARGEST = 50_000_000  # pixels of a frame
_NEEDED = "PyAV (pip install av) or the program ffmpeg"
_CODECS = ("libx264", "mpeg4")  # the first one that is there


def read_video(path: Path, most: int) -> list[Pixels]:
    """The first ``most`` frames of a video, each ``HWC``.

    Raises:
        UserError: it cannot be read, or there is nothing that reads it.
    """
    try:
        frames = list(_frames(path, most))
    except UserError:
        raise
    except Exception as error:  # a damaged video can raise nearly anything
        raise UserError(f"{path} is not a readable video ({first_line(error)}): convert it again, or give a folder") from error
    if not frames:
        raise UserError(f"{path} has no frames that can be read: convert it again, or give a folder of pictures")
    return frames


def _frames(path: Path, most: int) -> Iterator[Pixels]:
    if path.suffix.lower() == ".gif":
        with Image.open(path, formats=("GIF",)) as image:
            _check_size(path, image.width, image.height)
            for frame, _ in zip(ImageSequence.Iterator(image), range(most), strict=False):
                yield np.asarray(frame.convert("RGB"))
    elif (av := _pyav()) is not None:
        yield from _with_pyav(av, path, most)
    elif (program := shutil.which("ffmpeg")) is not None:
        yield from _with_ffmpeg(program, path, most)
    else:
        raise UserError(f"{path} is a video, which needs {_NEEDED}: install one, or give a folder of pictures")


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        return None
    return av


def _with_pyav(av: Any, path: Path, most: int) -> Iterator[Pixels]:
    with av.open(str(path), format=FORMATS[path.suffix.lower()]) as container:
        stream = container.streams.video[0]
        _check_size(path, stream.width, stream.height)
        for frame, _ in zip(container.decode(stream), range(most), strict=False):
            yield frame.to_ndarray(format="rgb24")


def _with_ffmpeg(program: str, path: Path, most: int) -> Iterator[Pixels]:
    """Frames come through a pipe as PPM pictures, whose headers tell their size."""
    read = ["-protocol_whitelist", "file", "-f", FORMATS[path.suffix.lower()], "-i", f"file:{path}"]
    write = ["-map", "0:v:0", "-frames:v", str(most), "-f", "image2pipe", "-c:v", "ppm", "-"]
    command = [program, "-nostdin", "-v", "error", *read, *write]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while process.stdout.readline() == b"P6\n":
                width, height = map(int, process.stdout.readline().split())
                _check_size(path, width, height)
                process.stdout.readline()
                content = process.stdout.read(width * height * 3)
                yield np.frombuffer(content, np.uint8).reshape(height, width, 3)
            if process.wait():
                raise ValueError(process.stderr.read().decode(errors="replace").strip()[-120:])
        finally:
            process.kill()


def _check_size(path: Path, width: int, height: int) -> None:
    if not 0 < width * height <= LARGEST:
        raise UserError(f"{path} has frames of {width}x{height}: at most {LARGEST // 1_000_000} million pixels are read")


def write_mp4(path: Path, frames: Sequence[Pixels], rate: int) -> bool:
    """Write frames ``HWC`` of even width and height as MP4; False where nothing here can.

    Raises:
        OSError: the file cannot be written.
    """
    program = shutil.which("ffmpeg")
    av = _pyav()
    for codec in _CODECS:
        if av is not None and _written_by_pyav(av, path, frames, rate, codec):
            return True
        if av is None and program is not None and _written_by_ffmpeg(program, path, frames, rate, codec):
            return True
    return False


def _written_by_pyav(av: Any, path: Path, frames: Sequence[Pixels], rate: int, codec: str) -> bool:
    if codec not in av.codecs_available:
        return False
    height, width, _ = frames[0].shape
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "18"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return True


def _written_by_ffmpeg(program: str, path: Path, frames: Sequence[Pixels], rate: int, codec: str) -> bool:
    height, width, _ = frames[0].shape
    read = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    quality = ["-crf", "18"] if codec == "libx264" else ["-q:v", "3"]
    write = ["-c:v", codec, *quality, "-pix_fmt", "yuv420p", "-f", "mp4", f"file:{path}"]
    with subprocess.Popen(
        [program, "-y", "-v", "quiet", *read, *write],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        _feed(process.stdin, frames)
        return process.wait() == 0


def _feed(pipe: IO[bytes] | None, frames: Sequence[Pixels]) -> None:
    assert pipe is not None
    with contextlib.suppress(BrokenPipeError):  # it does not have the codec
        for frame in frames:
            pipe.write(np.ascontiguousarray(frame).data)
        pipe.close()
