"""What the replies to a copy's requests hold, or the refusal that they are."""

from __future__ import annotations

import stat
from typing import List

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
    "parse_names",
    "parse_path",
    "refusal",
]


def is_folder(attributes: Attributes) -> bool:
    """Tell whether it is a folder."""
    return attributes.mode is not None and stat.S_ISDIR(attributes.mode)


def is_link(attributes: Attributes) -> bool:
    """Tell whether it is a symbolic link."""
    return attributes.mode is not None and stat.S_ISLNK(attributes.mode)


def is_file(attributes: Attributes) -> bool:
    """Tell whether it is a regular file; so it is taken for where the server does not say."""
    return (
        attributes.mode is None
        or not stat.S_IFMT(attributes.mode)
        or stat.S_ISREG(attributes.mode)
    )


def refusal(reply: Reply, path: bytes) -> Exception:
    """Return the error for a reply that is not of the expected kind."""
    if reply.kind != protocol.STATUS:
        return ProtocolError(f"a reply of kind {reply.kind}, out of place")
    code, text = decode.status(reply.body)
    if code == protocol.OK:
        return ProtocolError("success without the result")
    return Refused(code, text, path)


def check_status(reply: Reply, path: bytes) -> None:
    """Check that the server did what was asked; raise `Refused` if not."""
    # Most replies are of this kind, so no more is looked at than tells success.
    if reply.kind != protocol.STATUS or bytes(reply.pieces[0][:4]) != b"\0\0\0\0":
        raise refusal(reply, path)


def parse_attributes(reply: Reply, path: bytes) -> Attributes:
    """Take attributes out of a reply."""
    if reply.kind != protocol.ATTRS:
        raise refusal(reply, path)
    return decode.attributes(reply.body)


def parse_data(reply: Reply, path: bytes, most: int) -> Pieces:
    """Take data out of a reply, in pieces: at most what was asked for; none at the file's end."""
    if reply.kind == protocol.DATA:
        pieces = decode.data(reply.pieces)
        size = sum(map(len, pieces))
        if size > most:
            raise ProtocolError(f"{size} bytes of data where {most} were asked for")
        return pieces
    if _is_eof(reply):
        return []
    raise refusal(reply, path)


def parse_names(reply: Reply, path: bytes) -> List[FolderEntry]:
    """Take a part of a folder out of a reply; empty at its end."""
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
        raise ProtocolError(f"{len(names)} names for one path")
    return names[0].filename
