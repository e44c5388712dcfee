"""A message's outermost fields, counted before anything of it is unpacked.

Four mebibytes of rows that are two bytes each become 200 MB of objects, and hold up everybody while they are made.
"""

from types import MappingProxyType
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)

# Wire types (protobuf, "Encoding"); the lengths of those that have a fixed one.
_VARINT: Final = 0
_LENGTH_DELIMITED: Final = 2
_FIXED: Final = MappingProxyType({1: 8, 5: 4})
_CONTINUES: Final = 0x80
_LONGEST_VARINT: Final = 10


def parse_bounded(message: type[M], unverified: bytes, *, most_fields: int) -> M:
    """Return the message.

    Args:
        most_fields: how many fields, repetitions each, may stand in it outermost.

    Raises:
        DecodeError: it holds more, or is none.
    """
    at = count = 0
    while at < len(unverified):
        count += 1
        if count > most_fields:
            raise DecodeError("more fields than were asked for")
        tag, at = _varint(unverified, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(unverified, at)
        elif kind == _LENGTH_DELIMITED:
            length, at = _varint(unverified, at)
            at += length
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise DecodeError("a field of no kind that these messages have")
    return message.FromString(unverified)


def _varint(encoded: bytes, at: int) -> tuple[int, int]:
    """The number that begins here, and where the next thing begins."""
    value = 0
    for shift, byte in enumerate(encoded[at : at + _LONGEST_VARINT]):
        value |= (byte & ~_CONTINUES) << 7 * shift
        if not byte & _CONTINUES:
            return value, at + shift + 1
    raise DecodeError("a number without an end")
