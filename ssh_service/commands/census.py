"""Which process of the server belongs to which session of a connection."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple, cast

from ssh_service import background, known_servers
from ssh_service.commands import processes, script
from ssh_service.commands.processes import Process
from ssh_service.commands.stdin import Stdin
from ssh_service.errors import SshConnectionLost, SshServiceError, SshSessionRefused
from ssh_service.transport import ChannelSink, SshChannel, SshTransport

# Seconds that a helper script may take.
_TIMEOUT = 10.0
# Until a session is asked for again where others hold them all.
_RETRY_INTERVAL = 0.05
# What it may write.
_MAX_OUTPUT = 1 << 20
# Orders the sessions whose start the server has not answered after all others.
_LAST = 1 << 62

# Seconds to wait before the next list if one was ambiguous: by then other processes may have
# ended, or those that ended during the list are known to have ended.  (On servers other than
# OpenSSH no process is known to run for certain, so more lists would not help.)
_RETRY_DELAYS = (0.0, 0.0, 0.1, 0.2, 0.4, 1.0, 2.0, 4.0)
_RETRY_DELAYS_ELSEWHERE = (0.0, 0.1)

# Called with the output of a helper script; with None where it was not run.
OnHelperOutput = Callable[[Optional[bytes]], None]
# Runs a helper script in any session of the destination.
Helper = Callable[[str, OnHelperOutput], None]
Found = Callable[[Optional[Process]], None]
# See `SshTransport.started_sessions`.
StartedSessions = Dict[Any, Optional[int]]


class _Query(NamedTuple):
    """Somebody who wants to know a process."""

    number: int  # of the start
    run_helper: Helper
    found: Found
    asked: int = 0  # lists without a clear answer


class _Snapshot(NamedTuple):
    """The sessions that there were when a list was asked for, and when it began to be made."""

    asked: StartedSessions
    started: StartedSessions
    helper: Optional[SshChannel]  # on which it was made, if that is one of them


class Census:
    """
    The processes that the server has begun for the sessions of one connection.

    A server's process begins them one after the other, in the order of its replies.  So a list of
    its children, by age, tells which is whose, where no other answer is possible: see
    `processes.assign`.  Nothing is asked before it is needed.  Known processes
    narrow down the others, and what was ambiguous is asked again a little later, as long as that
    may help.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; none waits.

    """

    def __init__(self, transport: SshTransport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._known: Dict[int, Process] = {}  # guarded by _lock: by the number of the start
        self._waiting: List[_Query] = []  # guarded by _lock: for the list that is being made

    @staticmethod
    def of(transport: SshTransport) -> "Census":
        """Return the census of a connection."""
        return cast(Census, transport.extras.setdefault("census", Census(transport)))

    def find(self, channel: SshChannel, run_helper: Helper, found: Found) -> None:
        """Find the process of a session."""
        number = channel.start_number
        if number is None:
            found(None)
        else:
            self._add_query(_Query(number, run_helper, found))

    def _add_query(self, query: _Query) -> None:
        with self._lock:
            known = self._known.get(query.number)
            first = not self._waiting
            if known is None:
                self._waiting.append(query)
        if known is not None:
            query.found(known)
        elif first:
            self._list_processes(query.run_helper)

    def _list_processes(self, run_helper: Helper) -> None:
        transport = self._transport
        asked = transport.started_sessions()
        address = _own_address(transport)
        sessions = _Snapshot(asked, asked, None)

        def on_start(channel: SshChannel) -> None:
            nonlocal sessions
            sessions = _Snapshot(asked, transport.started_sessions(), channel)

        def answered(output: Optional[bytes]) -> None:
            self._on_list(sessions, output)

        def answered_here(output: Optional[bytes]) -> None:
            if output is None:
                elsewhere()
            else:
                answered(output)

        def elsewhere() -> None:
            nonlocal sessions
            sessions = _Snapshot(asked, asked, None)
            if address is None:
                answered(None)
            else:
                run_helper(processes.children_script(address), answered)

        if known_servers.runs_one_command(transport.remote_version):
            elsewhere()
        else:
            # Where it could be run over no other connection, it waits for a session.
            timeout = _TIMEOUT if address is None else 0.0
            run_script(transport, processes.children_script(), answered_here, on_start, timeout)

    def _on_list(self, sessions: _Snapshot, output: Optional[bytes]) -> None:
        children = processes.parse_children(output or b"")
        listed = bool(children.others or children.own)
        is_openssh = known_servers.is_openssh(self._transport.remote_version)
        after = self._transport.started_sessions()
        entries = _entries(sessions, after, is_openssh)
        announced = _announced({**sessions.asked, **after}, children.others)
        with self._lock:
            known = {**self._known, **announced}
        gone: Set[int] = set()
        if listed:
            said = processes.assign(children.others, entries, known)
            gone = said.gone & _numbers(sessions.asked)
            known.update(said.picked)
        if children.own is not None and sessions.helper is not None:
            known[cast(int, sessions.helper.start_number)] = children.own
        left = [number for number, _ in entries if number not in gone]
        with self._lock:
            self._known = _useful(known, left)
            waiting, self._waiting = self._waiting, []
        self._transport.mark_ended(gone)
        pauses = _RETRY_DELAYS if is_openssh else _RETRY_DELAYS_ELSEWHERE
        may_be_running = _numbers(after) - gone if listed else set()
        for query in waiting:
            process = known.get(query.number)
            if process is None and query.number in may_be_running and query.asked < len(pauses):
                self._query_again(query, pauses[query.asked])
            else:
                query.found(process)

    def _query_again(self, query: _Query, pause: float) -> None:
        query = query._replace(asked=query.asked + 1)
        if pause:
            background.call_at(time.monotonic() + pause, lambda: self._add_query(query))
        else:
            self._add_query(query)


def _entries(
    sessions: _Snapshot, after: StartedSessions, is_openssh: bool
) -> List[Tuple[int, bool]]:
    """List the sessions whose processes may have run when the list was made."""
    # OpenSSH does one thing after the other: a process whose end was reported before the list
    # was begun had gone, and one whose end is not reported by now was there when the list
    # was written.
    before = sessions.started if is_openssh else sessions.asked
    own = None if sessions.helper is None else sessions.helper.start_number
    entries: Dict[int, bool] = {}
    for at, session in enumerate({**before, **after}):
        number = session.start_number if isinstance(session, SshChannel) else session
        if own is not None and (number is None or number >= own):
            continue  # it was begun after the script that made the list
        certain = is_openssh and before.get(session) is not None and after.get(session) is not None
        entries[_LAST + at if number is None else number] = certain
    return sorted(entries.items())


def _numbers(sessions: StartedSessions) -> Set[int]:
    """Return the numbers of the commands that had been started at that time."""
    found = {key if isinstance(key, int) else number for key, number in sessions.items()}
    return {number for number in found if number is not None}


def _announced(sessions: StartedSessions, found: List[Process]) -> Dict[int, Process]:
    """Return the processes that their own scripts reported, by the number of the session."""
    return {
        session.start_number: session.process
        for session in sessions
        if isinstance(session, SshChannel)
        and session.start_number is not None
        and session.process in found
    }


def _useful(known: Dict[int, Process], entries: List[int]) -> Dict[int, Process]:
    """Leave out what tells no others apart: keep what runs, the one before each, and the last."""
    numbers = sorted(known)
    kept = {*entries, *numbers[-1:]}
    for entry in entries:
        kept.update(numbers[: bisect_left(numbers, entry)][-1:])
    return {number: known[number] for number in numbers if number in kept}


def _own_address(transport: SshTransport) -> Optional[Tuple[str, int]]:
    """Return the address and port of this side, as the server sees it where nothing changes it."""
    try:
        address = transport.sock.getsockname()
    except (AttributeError, OSError):
        return None  # no socket of the network's, such as a jump host's channel; or it has ended
    if not isinstance(address, tuple) or len(address) < 2 or not isinstance(address[0], str):
        return None
    return address[0], int(address[1])


def run_script(
    transport: SshTransport,
    text: str,
    reply: OnHelperOutput,
    on_start: Callable[[SshChannel], None],
    timeout: float,
) -> None:
    """Run a helper script in a session of its own."""
    _ScriptRun(transport, text, reply, on_start, timeout).ask()


class _ScriptRun:
    """Opens a session for a helper script."""

    def __init__(
        self,
        transport: SshTransport,
        text: str,
        reply: OnHelperOutput,
        on_start: Callable[[SshChannel], None],
        timeout: float,
    ) -> None:
        self._transport, self._text = transport, text
        self.reply, self.on_start = reply, on_start
        self._strand = background.Strand()
        self._deadline = time.monotonic() + timeout
        self._may_make_room = True

    def ask(self) -> None:
        """Ask for a session."""
        try:
            self._transport.start_session(_ScriptSession(self._text, self))
        except SshConnectionLost:
            self.reply(None)

    def refused(self) -> None:
        """Make room, or wait for it; not on the reader thread, which is not to wait for others."""
        background.submit(self._strand, self._ask_again)

    def _ask_again(self) -> None:
        may_make_room, self._may_make_room = self._may_make_room, False
        now = time.monotonic()
        if may_make_room and self._transport.reclaim_idle_sessions():
            self.ask()
        elif now < self._deadline:
            self._may_make_room = True
            background.call_at(now + _RETRY_INTERVAL, self.ask)
        else:
            self.reply(None)


class _ScriptSession(ChannelSink):
    """A session that runs a helper script."""

    def __init__(self, text: str, run: _ScriptRun) -> None:
        self._delivery = script.deliver(text, None, "/bin/sh")
        self._stdin = Stdin(b"", False, "")
        self._run = run
        self._channel: Optional[SshChannel] = None
        self._output = b""
        self._ran = False
        self._timer: Optional[background.Timer] = None

    def on_open(self, channel: SshChannel) -> None:
        """Run it."""
        self._channel = channel
        channel.request_exec(self._delivery.command)
        self._stdin.start(channel, self._delivery.preamble)
        self._timer = background.call_at(time.monotonic() + _TIMEOUT, channel.close)

    def on_reply(self, ok: bool) -> None:
        """Note when it was begun."""
        if ok and self._channel is not None:
            self._run.on_start(self._channel)

    def on_writable(self) -> None:
        """Send more of it."""
        self._stdin.pump()

    def on_data(self, chunk: bytes) -> None:
        """Keep what it writes."""
        self._output += chunk[: _MAX_OUTPUT - len(self._output)]

    def on_exit_status(self, status: int) -> None:
        """Note that it has run."""
        self._ran = status == 0

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Hand its output over, or ask for another session."""
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(error, SshSessionRefused):
            self._run.refused()
        else:
            self._run.reply(self._output if self._ran else None)
