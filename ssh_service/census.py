"""Which process of the server belongs to which session of a connection."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple, cast

from ssh_service import background, known_servers, processes, script
from ssh_service.errors import SshConnectionLost, SshServiceError
from ssh_service.processes import Process
from ssh_service.streams import Stdin
from ssh_service.transport import ChannelSink, SshChannel, SshTransport

# Seconds for a script of ours.
_TIMEOUT = 10.0
# What it may write.
_LIMIT = 1 << 20
# Orders the sessions whose start the server has not answered after all others.
_LAST = 1 << 62

# Takes the output of a script of ours; None where that was not run.
Reply = Callable[[Optional[bytes]], None]
# Runs one, in any session of the destination's.
Helper = Callable[[str, Reply], None]
Found = Callable[[Optional[Process]], None]


class Census:
    """
    The processes that the server has begun for the sessions of one connection.

    A server's process begins them one after the other, in the order of its replies.  So a list of
    its children, by age, tells which is whose, where no other answer is possible: see
    `ssh_service.processes.pick`.  Nothing is asked before it is needed.

    Parameters
    ----------
    transport : SshTransport
        The connection.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; none waits.
    """

    def __init__(self, transport: SshTransport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._known: Dict[int, Process] = {}  # guarded by _lock: by the number of the start
        self._waiting: List[Tuple[int, Found]] = []  # guarded by _lock

    @staticmethod
    def of(transport: SshTransport) -> "Census":
        """
        Return the census of a connection.

        Parameters
        ----------
        transport : SshTransport
            The connection.

        Returns
        -------
        Census
            Always the same one.
        """
        return cast(Census, transport.beside.setdefault("census", Census(transport)))

    def find(self, channel: SshChannel, run_beside: Helper, found: Found) -> None:
        """
        Find the process of a session.

        Parameters
        ----------
        channel : SshChannel
            The session; the server has started its command.
        run_beside : Callable[[str, Reply], None]
            Runs a script of ours on whichever connection has room.
        found : Callable[[Optional[Process]], None]
            Gets it; None where it is not certain.
        """
        number = channel.start_number
        with self._lock:
            known = None if number is None else self._known.get(number)
            first = not self._waiting
            if known is None and number is not None:
                self._waiting.append((number, found))
        if known is not None or number is None:
            found(known)
        elif first:
            self._ask(run_beside)

    def _ask(self, run_beside: Helper) -> None:
        transport = self._transport
        before = transport.started_sessions()

        def answered(output: Optional[bytes]) -> None:
            self._answer(before, output)

        def answered_here(output: Optional[bytes]) -> None:
            if output is not None:
                answered(output)
            else:
                elsewhere()

        def elsewhere() -> None:
            address = _own_address(transport)
            if address is None:
                answered(None)
            else:
                run_beside(processes.children_script(address), answered)

        if known_servers.runs_one_command(transport.remote_version):
            elsewhere()
        else:
            run_over(transport, processes.children_script(), answered_here)

    def _answer(self, before: Dict[Any, Optional[int]], output: Optional[bytes]) -> None:
        found = processes.parse_children(output) if output else []
        entries = self._entries(before)
        picked = {number: processes.pick(found, entries, number) for number, _ in entries}
        with self._lock:
            for number, process in picked.items():
                if process is not None:
                    self._known[number] = process
            waiting, self._waiting = self._waiting, []
        for number, then in waiting:
            then(picked.get(number))

    def _entries(self, before: Dict[Any, Optional[int]]) -> List[Tuple[int, bool]]:
        """List the sessions whose processes may have run when the list was made."""
        # OpenSSH tells the end of a process before anything that was written after it, so that a
        # process whose end is not told by now was there when the list was written.
        ordered = known_servers.is_openssh(self._transport.remote_version)
        after = self._transport.started_sessions()
        entries: Dict[int, bool] = {}
        for at, session in enumerate({**before, **after}):
            number = session.start_number if isinstance(session, SshChannel) else session
            certain = (
                ordered and before.get(session) is not None and after.get(session) is not None
            )
            entries[_LAST + at if number is None else number] = certain
        return sorted(entries.items())


def _own_address(transport: SshTransport) -> Optional[Tuple[str, int]]:
    """Return the address and port of this side, as the server sees it where nothing changes it."""
    try:
        address = transport.sock.getsockname()
    except (AttributeError, OSError):
        return None  # no socket of the network's, such as a jump host's channel; or it has ended
    if not isinstance(address, tuple) or len(address) < 2 or not isinstance(address[0], str):
        return None
    return address[0], int(address[1])


def run_over(transport: SshTransport, text: str, reply: Reply) -> None:
    """
    Run a script of ours in a session of its own.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    text : str
        For a POSIX shell.
    reply : Callable[[Optional[bytes]], None]
        Gets its output.
    """
    try:
        transport.start_session(_Session(text, reply))
    except SshConnectionLost:
        reply(None)


class _Session(ChannelSink):
    """A session that runs a script of ours."""

    def __init__(self, text: str, reply: Reply) -> None:
        self._delivery = script.deliver(text, None, "/bin/sh")
        self._stdin = Stdin(b"", False, "")
        self._reply = reply
        self._output = b""
        self._ran = False
        self._timer: Optional[background.Timer] = None

    def opened(self, channel: SshChannel) -> None:
        """Run it."""
        channel.request_exec(self._delivery.command)
        self._stdin.start(channel, self._delivery.preamble)
        self._timer = background.call_at(time.monotonic() + _TIMEOUT, channel.close)

    def writable(self) -> None:
        """Send more of it."""
        self._stdin.pump()

    def data(self, chunk: bytes) -> None:
        """Keep what it writes."""
        self._output += chunk[: _LIMIT - len(self._output)]

    def exit_status(self, status: int) -> None:
        """Note that it has run."""
        self._ran = status == 0

    def closed(self, error: Optional[SshServiceError]) -> None:
        """Hand its output over."""
        if self._timer is not None:
            self._timer.cancel()
        self._reply(self._output if self._ran else None)
