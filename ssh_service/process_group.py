"""The remote process group of a command: how it is found, and how signals get there."""

from __future__ import annotations

import contextlib
import re
import secrets
from typing import Optional

from ssh_service.errors import SshConfigError, SshConnectionLost
from ssh_service.transport import ChannelSink, SshChannel

_TOKEN_SIZE = 8
_MARK = re.compile(rb"<([0-9a-f]{%d}):(\d{1,10})>" % (2 * _TOKEN_SIZE))
_SIGNAL = re.compile(r"(?!SIG)[A-Z][A-Z0-9]{0,15}\Z")


def check_signal(name: str) -> None:
    """
    Refuse what is no signal's name.

    Parameters
    ----------
    name : str
        Without ``SIG``.

    Raises
    ------
    SshConfigError
        It is none.
    """
    if not isinstance(name, str) or not _SIGNAL.match(name):
        raise SshConfigError(f"signal: expected a name such as TERM, got {name!r:.40}")


class GroupFinder:
    """
    Learns the remote process group, where the server ignores the signal request.

    OpenSSH signals no process of a root login (measured on 9.2).  There the script's first act is
    to write its shell's process id, which is that of the group, to stderr, in a form that nobody
    else writes; it is taken out again before anyone sees it.
    """

    def __init__(self) -> None:
        token = secrets.token_hex(_TOKEN_SIZE)
        # Quoted, as the caller's environment may hold an IFS with digits in it.
        self.prologue = f"printf '<{token}:%d>' \"$$\" >&2;"
        self.number: Optional[int] = None
        self._token = token.encode()
        self._start = b"<" + self._token + b":"
        self._pending: Optional[bytes] = b""  # None once the mark was found

    def kill_command(self, name: str) -> Optional[str]:
        """Give the command that sends the group a signal, once its number is known."""
        return None if self.number is None else f"kill -s {name} -- -{self.number}"

    def strip(self, chunk: bytes) -> bytes:
        """Take the mark out of a piece of stderr, and what may be its beginning for now."""
        if self._pending is None:
            return chunk
        text = self._pending + chunk
        marks = _MARK.finditer(text)
        found = next((mark for mark in marks if mark.group(1) == self._token), None)
        if found:
            self.number, self._pending = int(found.group(2)), None
            return text[: found.start()] + text[found.end() :]
        # What may be the beginning of the mark waits for its end.
        at = text.rfind(b"<")
        partial = at >= 0 and (
            self._start.startswith(text[at : at + len(self._start)]) and len(text) - at < 40
        )
        keep = at if partial else len(text)
        self._pending = text[keep:]
        return text[:keep]

    def rest(self) -> bytes:
        """Give what was held back, at the end of stderr."""
        rest, self._pending = self._pending or b"", None
        return rest


def run_beside(channel: SshChannel, command: str) -> None:
    """
    Run a command whose outcome nobody waits for, over the connection of another.

    Parameters
    ----------
    channel : SshChannel
        The other's.
    command : str
        What to run.
    """
    with contextlib.suppress(SshConnectionLost):  # nobody can know then: see `ended`
        channel.get_transport().start_session(_OneShot(command.encode()))


class _OneShot(ChannelSink):
    """A command whose outcome nobody waits for."""

    def __init__(self, command: bytes) -> None:
        self._command = command

    def opened(self, channel: SshChannel) -> None:
        """Run it."""
        channel.request_exec(self._command)
        channel.send_eof()
