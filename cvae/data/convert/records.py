"""TFRecord files without TensorFlow: the framing, its checksums, and ``tf.train.Example``.

    record = length (8 bytes, little endian) | CRC of length (4) | data | CRC of data (4)

The CRCs are CRC-32C, rotated and offset. A file may lie in an uncompressed tar.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from cvae.data.convert.episodes import BadEpisode

_HEAD, _FOOT = 12, 4


@dataclass(frozen=True)
class Slice:
    """Bytes of a file: a whole one, or a member of a tar."""

    path: Path
    start: int
    size: int
    label: str
    """What messages call it."""
    inside: str = ""
    """Its path within the source."""


@dataclass(frozen=True)
class Record:
    """A record's data: where they begin in the file that holds them, and how long they are."""

    path: Path
    start: int
    length: int


def records(file: BinaryIO, part: Slice) -> Iterator[tuple[int, Record]]:
    """The offset in ``part`` of each record, and the record. Its data are not read.

    Raises:
        BadEpisode: a length fails its CRC, or the file ends within a record: nothing after it can be found. The message says
            where.
    """
    offset = 0
    while offset < part.size:
        file.seek(part.start + offset)
        head = file.read(min(_HEAD, part.size - offset))
        if len(head) < _HEAD:
            raise BadEpisode(f"{part.label} at offset {offset}: it ends within a record, which is lost")
        length, checksum = struct.unpack("<QI", head)
        if _masked(head[:8]) != checksum:
            raise BadEpisode(f"{part.label} at offset {offset}: a length fails its CRC, the rest of the file is lost")
        if offset + _HEAD + length + _FOOT > part.size:
            raise BadEpisode(f"{part.label} at offset {offset}: it ends within a record, which is lost")
        yield offset, Record(part.path, part.start + offset + _HEAD, length)
        offset += _HEAD + length + _FOOT


def read_record(file: BinaryIO, record: Record) -> bytes:
    """A record's data.

    Raises:
        BadEpisode: they fail their CRC.
    """
    file.seek(record.start)
    content = file.read(record.length + _FOOT)
    data, foot = content[: record.length], content[record.length :]
    if len(foot) < _FOOT or _masked(data) != struct.unpack("<I", foot)[0]:
        raise BadEpisode("the record fails its CRC")
    return data


def _masked(data: bytes) -> int:
    """The CRC as the format stores it: one of data that hold CRCs would be weak."""
    value = int(google_crc32c.value(data))
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_example(data: bytes) -> Mapping[str, Any]:
    """The features of a ``tf.train.Example`` by name; each has ``bytes_list``, ``float_list`` and ``int64_list``.

    Raises:
        BadEpisode: the bytes are none.
    """
    from google.protobuf.message import DecodeError

    try:
        return example_class().FromString(data).features.feature  # type: ignore[no-any-return]
    except DecodeError as error:
        raise BadEpisode("the record is no tf.train.Example") from error


@cache
def example_class() -> Any:
    """The message class, from TensorFlow's public definition of the format (example.proto and feature.proto)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="cvae/example.proto", package="cvae", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, Any, bool]) -> Any:
        """A message whose fields have a name, a number, a type (a message's by its name), and may be repeated."""
        made = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            own = {"type_name": kind, "type": kinds.TYPE_MESSAGE} if isinstance(kind, str) else {"type": kind}
            made.field.add(name=field, number=number, label=label, **own)
        return made

    message("BytesList", ("value", 1, kinds.TYPE_BYTES, True))
    message("FloatList", ("value", 1, kinds.TYPE_FLOAT, True))
    message("Int64List", ("value", 1, kinds.TYPE_INT64, True))
    lists = (("bytes_list", 1, ".cvae.BytesList"), ("float_list", 2, ".cvae.FloatList"), ("int64_list", 3, ".cvae.Int64List"))
    feature = message("Feature", *((*each, False) for each in lists))
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", 1, ".cvae.Features.FeatureEntry", True))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_STRING)
    entry.field.add(name="value", number=2, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_MESSAGE, type_name=".cvae.Feature")
    message("Example", ("features", 1, ".cvae.Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("cvae.Example"))
