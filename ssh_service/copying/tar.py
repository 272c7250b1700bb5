"""
The part of the POSIX tar format that copies use, as pure functions: files, folders and links.

A header has 512 bytes; the data follows in blocks of this size.  Long names and the access time,
which do not fit into a header, precede it as a separate entry.
"""

from __future__ import annotations

import functools
import re
from typing import Iterator, NamedTuple, Optional, Tuple

from ssh_service.copying.sftp.protocol import Attributes, ProtocolError

__all__ = [
    "BLOCK",
    "END",
    "FILE",
    "FOLDER",
    "Header",
    "LINK",
    "MORE",
    "header",
    "padding",
    "read_header",
]

BLOCK = 512
# The end of an archive.
END = bytes(2 * BLOCK)
FILE, LINK, FOLDER, MORE = b"0", b"2", b"5", b"x"

_NAME_SIZE = 100
_LATEST = 0xFFFFFFFF
# The maximum number of digits of a number in a record; more are not a valid time.
_MAX_DIGITS = 12
# The usual content of an extended header.
_ONLY_ATIME = re.compile(rb"[0-9]+ atime=([0-9]{1,12})(?:\.[0-9]+)?\n")
_NOBODY = b"0000000\0" * 2  # uid and gid: tar gives the files to the user that unpacks them
# From the checksum on: the type, the link, the format, no owner's name, no device.
_END_OF_HEADER = b" %b%b" + b"ustar\00000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
# The sum of the bytes that are equal in all headers, with the checksum as blanks.
_FIXED_SUM = sum(_NOBODY) + sum(_END_OF_HEADER % (b"", b"")) - ord(" ") + 8 * ord(" ")
_NO_LINK = bytes(_NAME_SIZE)


class Header(NamedTuple):
    """One header of an archive."""

    name: bytes
    kind: bytes
    size: int
    attributes: Attributes


def header(name: bytes, kind: bytes, attributes: Attributes, link: bytes = b"") -> bytes:
    """Return the header of an entry, or of a link to `link`, and any extended header."""
    more = b""
    if attributes.atime is not None:
        more = _record(b"atime", b"%d" % _time(attributes.atime))
    if len(name) > _NAME_SIZE:
        more, name = more + _record(b"path", name), name[:_NAME_SIZE]
    if len(link) > _NAME_SIZE:
        more, link = more + _record(b"linkpath", link), link[:_NAME_SIZE]
    block = _header(name, kind, attributes, link)
    if not more:
        return block
    return b"".join((_header_of_more(len(more)), more, padding(len(more)), block))


def _header(name: bytes, kind: bytes, attributes: Attributes, link: bytes = b"") -> bytes:
    mode = b"%07o\0" % (attributes.mode or 0)
    numbers = b"%011o\0%011o\0" % (attributes.size or 0, _time(attributes.mtime))
    check = sum(name) + sum(mode) + sum(numbers) + sum(kind) + sum(link) + _FIXED_SUM
    name = name.ljust(_NAME_SIZE, b"\0")
    end = _END_OF_HEADER % (kind, link.ljust(_NAME_SIZE, b"\0") if link else _NO_LINK)
    return b"".join((name, mode, _NOBODY, numbers, b"%06o\0" % check, end))


@functools.lru_cache(maxsize=1000)
def _header_of_more(size: int) -> bytes:
    return _header(b"more", MORE, Attributes(size=size, mode=0o644))


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (key, value)
    size = len(rest) + 1  # includes its own digits
    while len(rest) + len(b"%d" % size) != size:
        size = len(rest) + len(b"%d" % size)
    return b"%d%b" % (size, rest)


def _time(seconds: Optional[int]) -> int:
    return min(max(seconds or 0, 0), _LATEST)


def padding(size: int) -> bytes:
    """Return the bytes that pad data of this size to whole blocks."""
    return bytes(-size % BLOCK)


def read_header(block: bytes, more: bytes = b"") -> Optional[Header]:
    """Decode a header, with the content of the extended header before it; None at the end."""
    if not block[0]:
        if block.count(0) == len(block):
            return None
        raise ProtocolError("tar entry without a name")
    size = read_size(block)
    try:
        mode, mtime = int(block[100:107], 8), int(block[136:147], 8)
    except ValueError:
        raise ProtocolError("malformed number in a tar header") from None
    name = block[:_NAME_SIZE].partition(b"\0")[0]
    if block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    atime: Optional[int] = None
    match = _ONLY_ATIME.fullmatch(more)
    if match is not None:
        atime = int(match.group(1))
    elif more:
        records = dict(_records(more))
        name = records.get(b"path", name)
        atime, size = _seconds(records.get(b"atime")), _seconds(records.get(b"size")) or size
    return Header(name, block[156:157], size, Attributes(mode=mode, atime=atime, mtime=mtime))


def read_size(block: bytes) -> int:
    """Decode only the size of an entry."""
    try:
        return int(block[124:135], 8)
    except ValueError:
        raise ProtocolError("malformed size in a tar header") from None


def _records(more: bytes) -> Iterator[Tuple[bytes, bytes]]:
    at = 0
    while at < len(more):
        length, blank, _ = more[at : at + 8].partition(b" ")
        end = at + int(length) if blank and length.isdigit() else 0
        if not at < end <= len(more) or more[end - 1 : end] != b"\n":
            raise ProtocolError("malformed record in a tar header")
        key, _, value = more[at + len(length) + 1 : end - 1].partition(b"=")
        yield key, value
        at = end


def _seconds(value: Optional[bytes]) -> Optional[int]:
    if value is None:
        return None
    whole = value.partition(b".")[0]
    if not whole.isdigit() or len(whole) > _MAX_DIGITS:
        raise ProtocolError(f"expected a number in a tar header, got {value!r}")
    return int(whole)
