"""Parses the replies of a server: their values, or why a request was refused."""

from __future__ import annotations

import stat
from typing import List, Optional

from ssh_service.copying.failures import Refused
from ssh_service.copying.sftp import decode, protocol
from ssh_service.copying.sftp.protocol import Attributes, FolderEntry, Pieces, ProtocolError
from ssh_service.copying.sftp.reply import Reply

__all__ = [
    "check_status",
    "is_file",
    "is_folder",
    "is_link",
    "parse_attributes",
    "parse_data",
    "parse_found",
    "parse_names",
    "parse_path",
    "refusal",
]


def is_folder(attributes: Attributes) -> bool:
    """Return whether it is a folder."""
    return attributes.mode is not None and stat.S_ISDIR(attributes.mode)


def is_link(attributes: Attributes) -> bool:
    """Return whether it is a symbolic link."""
    return attributes.mode is not None and stat.S_ISLNK(attributes.mode)


def is_file(attributes: Attributes) -> bool:
    """Return whether it is a regular file, or the server does not report its type."""
    return (
        attributes.mode is None
        or not stat.S_IFMT(attributes.mode)
        or stat.S_ISREG(attributes.mode)
    )


def refusal(reply: Reply, path: bytes) -> Exception:
    """Return the error for a reply of an unexpected kind."""
    if reply.kind != protocol.STATUS:
        return ProtocolError(f"unexpected reply of type {reply.kind}")
    code, text = decode.status(reply.body)
    if code == protocol.OK:
        return ProtocolError("expected a result, got status OK")
    return Refused(code, text, path)


def check_status(reply: Reply, path: bytes) -> None:
    """Raise `Refused` unless the request succeeded."""
    # Most replies are a status, so only its code is decoded.
    if reply.kind != protocol.STATUS or bytes(reply.pieces[0][:4]) != b"\0\0\0\0":
        raise refusal(reply, path)


def parse_attributes(reply: Reply, path: bytes) -> Attributes:
    """Return the attributes in a reply."""
    if reply.kind != protocol.ATTRS:
        raise refusal(reply, path)
    return decode.attributes(reply.body)


def parse_found(reply: Reply, path: bytes) -> Optional[Attributes]:
    """Return the attributes in a reply, or None if the path does not exist."""
    try:
        return parse_attributes(reply, path)
    except Refused as refused:
        if refused.code == protocol.NO_SUCH_FILE:
            return None
        raise


def parse_data(reply: Reply, path: bytes, most: int) -> Pieces:
    """Return the data in a reply, at most `most` bytes in pieces; empty at the end of the file."""
    if reply.kind == protocol.DATA:
        pieces = decode.data(reply.pieces)
        size = sum(map(len, pieces))
        if size > most:
            raise ProtocolError(f"expected at most {most} bytes of data, got {size}")
        return pieces
    if _is_eof(reply):
        return []
    raise refusal(reply, path)


def parse_names(reply: Reply, path: bytes) -> List[FolderEntry]:
    """Return the folder entries in a reply; empty at the end of the folder."""
    if reply.kind == protocol.NAME:
        return decode.names(reply.body)
    if _is_eof(reply):
        return []
    raise refusal(reply, path)


def _is_eof(reply: Reply) -> bool:
    return reply.kind == protocol.STATUS and decode.status(reply.body)[0] == protocol.EOF


def parse_path(reply: Reply, path: bytes) -> bytes:
    """Return the path in a reply: a real path, or the target of a symbolic link."""
    names = parse_names(reply, path)
    if len(names) != 1:
        raise ProtocolError(f"expected one path, got {len(names)}")
    return names[0].filename
