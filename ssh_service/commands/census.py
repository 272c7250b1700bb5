"""Determines which process on the server belongs to which session of a connection."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple, cast

from ssh_service import background, known_servers
from ssh_service.commands import processes, script
from ssh_service.commands.processes import Process
from ssh_service.commands.stdin import Stdin
from ssh_service.errors import SshConnectionLost, SshServiceError, SshSessionRefused
from ssh_service.locks import Lock
from ssh_service.transport import ChannelSink, SshChannel, SshTransport

# Seconds that a helper script may take.
_TIMEOUT = 10.0
# Seconds until the next request for a session, if the server has refused one.
_RETRY_INTERVAL = 0.05
# The most bytes of a helper script's output that are kept.
_MAX_OUTPUT = 1 << 20
# Sorts sessions whose exec request the server has not answered yet after all others.
_LAST = 1 << 62

# Seconds to wait before the next list if a list was ambiguous: by then other processes may have
# ended, or the server has reported the end of those that ended during the list.  (On servers other
# than OpenSSH no process is certain to run, so more lists would not help.)
_RETRY_DELAYS = (0.0, 0.0, 0.1, 0.2, 0.4, 1.0, 2.0, 4.0)
_RETRY_DELAYS_ELSEWHERE = (0.0, 0.1)

# Called with the output of a helper script, or with None if the script was not run.
OnHelperOutput = Callable[[Optional[bytes]], None]
# Runs a helper script in any session of the destination.  It is called with the script, a function
# for its output and, where sudo should run the script, `sudo`.
Helper = Callable[..., None]
Found = Callable[[Optional[Process]], None]
# See `SshTransport.started_sessions`.
StartedSessions = Dict[Any, Optional[int]]


class _Query(NamedTuple):
    """A request for the process of a session."""

    number: int  # the start number of the session
    run_helper: Helper
    found: Found
    asked: int = 0  # how many lists were ambiguous


class _Snapshot(NamedTuple):
    """The sessions at the time a list was requested, and at the time its script started."""

    asked: StartedSessions
    started: StartedSessions
    helper: Optional[SshChannel]  # the script's session, if it is on the same connection


class Census:
    """
    The processes that the server has started for the sessions of one connection.

    The server's process for the connection starts them one after the other, in the order of its
    replies.  A list of its children, sorted by age, therefore identifies a session's process if
    only one assignment is possible: see `processes.assign`.  A list is requested only when a
    process is needed.  Known processes narrow down the others.  After an ambiguous list, the
    census requests another one a little later, as long as that may help.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; none waits.
    """

    def __init__(self, transport: SshTransport) -> None:
        self._transport = transport
        self._lock = Lock()
        self._known: Dict[int, Process] = {}  # guarded by _lock: by start number
        self._waiting: List[_Query] = []  # guarded by _lock: they wait for the current list

    @staticmethod
    def of(transport: SshTransport) -> "Census":
        """Return the census of a connection."""
        return cast(Census, transport.extras.setdefault("census", Census(transport)))

    def find(self, channel: SshChannel, run_helper: Helper, found: Found) -> None:
        """Find the process of a session, and call `found` with it, or with None."""
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
            # If the script cannot be run over another connection, wait for a session.
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
    # OpenSSH is single-threaded: a process whose end was reported before the script started did
    # not exist any more, and a process whose end is not reported by now existed when the list was
    # written.
    before = sessions.started if is_openssh else sessions.asked
    own = None if sessions.helper is None else sessions.helper.start_number
    entries: Dict[int, bool] = {}
    for at, session in enumerate({**before, **after}):
        number = session.start_number if isinstance(session, SshChannel) else session
        if own is not None and (number is None or number >= own):
            continue  # started after the script that wrote the list
        certain = is_openssh and before.get(session) is not None and after.get(session) is not None
        entries[_LAST + at if number is None else number] = certain
    return sorted(entries.items())


def _numbers(sessions: StartedSessions) -> Set[int]:
    """Return the start numbers of the sessions whose commands had been started."""
    found = {key if isinstance(key, int) else number for key, number in sessions.items()}
    return {number for number in found if number is not None}


def _announced(sessions: StartedSessions, found: List[Process]) -> Dict[int, Process]:
    """Return the processes that the sessions' own scripts reported, by start number."""
    return {
        session.start_number: session.process
        for session in sessions
        if isinstance(session, SshChannel)
        and session.start_number is not None
        and session.process in found
    }


def _useful(known: Dict[int, Process], entries: List[int]) -> Dict[int, Process]:
    """Return the processes that help to identify others: each entry, its predecessor, the last."""
    numbers = sorted(known)
    kept = {*entries, *numbers[-1:]}
    for entry in entries:
        kept.update(numbers[: bisect_left(numbers, entry)][-1:])
    return {number: known[number] for number in numbers if number in kept}


def _own_address(transport: SshTransport) -> Optional[Tuple[str, int]]:
    """Return our address and port, as the server sees them unless NAT changes them."""
    try:
        address = transport.sock.getsockname()
    except (AttributeError, OSError):
        return None  # not a network socket (a jump host's channel, for example), or closed
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
    """
    Run a helper script in a session of its own, and call `reply` with its output.

    `timeout` is the number of seconds to wait for a session while the server refuses one.
    """
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
        """Request a session."""
        try:
            self._transport.start_session(_ScriptSession(self._text, self))
        except SshConnectionLost:
            self.reply(None)

    def refused(self) -> None:
        """Reclaim an idle session or retry; on a worker, as the reader thread must not wait."""
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
        """Run the script."""
        self._channel = channel
        channel.request_exec(self._delivery.command)
        self._stdin.start(channel, self._delivery.preamble)
        self._timer = background.call_at(time.monotonic() + _TIMEOUT, channel.close)

    def on_reply(self, ok: bool) -> None:
        """Report that the script has started."""
        if ok and self._channel is not None:
            self._run.on_start(self._channel)

    def on_writable(self) -> None:
        """Send more of the script."""
        self._stdin.pump()

    def on_data(self, chunk: bytes) -> None:
        """Keep the script's output, up to a limit."""
        self._output += chunk[: _MAX_OUTPUT - len(self._output)]

    def on_exit_status(self, status: int) -> None:
        """Record whether the script succeeded."""
        self._ran = status == 0

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Reply with the script's output, or request another session."""
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(error, SshSessionRefused):
            self._run.refused()
        else:
            self._run.reply(self._output if self._ran else None)
