"""The remote process group of a command: finding it when needed, signalling and ending it."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Optional

from ssh_service import known_servers
from ssh_service.commands import processes
from ssh_service.commands.census import Census, Helper, OnHelperOutput
from ssh_service.commands.marks import Marks
from ssh_service.commands.processes import Process
from ssh_service.commands.sudo import Sudo
from ssh_service.errors import SshConfigError
from ssh_service.locks import Lock
from ssh_service.transport import SshChannel

_SIGNAL = re.compile(r"(?!SIG)[A-Z][A-Z0-9]{0,15}\Z")
# The most digits of a process id.
_MAX_DIGITS = 10
# Seconds that the processes have to end after TERM, and again after KILL.
_END_TIMEOUT = 0.6

Then = Callable[[Optional[Process]], None]


def check_signal(name: str) -> None:
    """
    Check the name of a signal, which has no ``SIG``.

    Raises
    ------
    SshConfigError
        `name` is not the name of a signal.
    """
    if not isinstance(name, str) or not _SIGNAL.match(name):
        raise SshConfigError(f"signal: expected a name such as TERM, got {name!r:.40}")


class RemoteGroup:
    """
    The remote processes of a command, also on servers that do not signal all of them.

    OpenSSH before 9.8 signals none of root's processes, and dropbear signals only the shell: see
    `ssh_service.known_servers`.  On these servers, a helper script in another session signals the
    processes.  It needs the command's process.  A script that is sent over stdin reports its
    process itself (`prologue`), in a mark that is removed from the output.  For other scripts,
    whose login shell may not be a POSIX shell, the `Census` finds the process when it is needed.

    Parameters
    ----------
    root : bool
        Whether the command runs as root.
    sudo : Optional[Sudo]
        The options by which sudo runs the command, and also the helper script that then sends the
        signals, because the server may not.  None: without sudo.
    terminal : bool
        Whether the command has a terminal.

    Attributes
    ----------
    process : Optional[Process]
        The command's process, once it is known.
    needs_script : bool
        Whether a helper script sends the signals, because the server does not.
    ends_by_script : bool
        Whether a helper script ends the processes: also where the server would send the signals,
        but closes the session, because of the terminal, while some may still run.

    Notes
    -----
    Thread safety.  `strip` and `flush` must be called on the reader thread, all other methods may
    be called from any thread.
    """

    def __init__(self, root: bool, sudo: Optional[Sudo] = None, terminal: bool = False) -> None:
        self._marks = Marks()
        self.needs_script = self.ends_by_script = False  # set by `begin`
        self.process: Optional[Process] = None
        self._root, self._terminal = root, terminal
        self._in_session = terminal or sudo is not None
        self._helper_options: Dict[str, Any] = {} if sudo is None else {"sudo": sudo}
        self._server = ""
        self._channel: Optional[SshChannel] = None
        self._lock = Lock()
        self._awaits_mark = False  # guarded by _lock
        self._is_running = False  # guarded by _lock: the server has reported the start
        self._waiting: List[Then] = []  # guarded by _lock
        self._is_being_ended = False  # guarded by _lock

    def prologue(self) -> str:
        """Return the first commands of a script that is sent over stdin: they write the mark."""
        # Only builtins; quoted, because the IFS of the caller's environment may contain digits.
        return (
            "{ IFS= read -r _ssh_s </proc/$$/stat;"
            "IFS= read -r _ssh_n </proc/sys/kernel/random/boot_id;} 2>/dev/null;"
            f'printf \'{self._marks.start}%s %s %s>\' "$$" "${{_ssh_n:--}}"'
            ' "${_ssh_s##*") "}" >&2;unset _ssh_n _ssh_s;'
        )

    def begin(self, channel: SshChannel, awaits_mark: bool) -> None:
        """Record that the command is being sent."""
        self._channel, self._server = channel, channel.get_transport().remote_version
        self.needs_script = bool(self._helper_options) or known_servers.needs_script_to_signal(
            self._server, self._root
        )
        self.ends_by_script = self.needs_script or (self._terminal and self._is_signalled())
        with self._lock:
            self._awaits_mark, self._is_running = awaits_mark, False

    def strip(self, chunk: bytes) -> bytes:
        """Remove the mark from a chunk of stderr; hold back a possible beginning of the mark."""
        if not self._awaits_mark:
            return chunk
        shown, words = self._marks.extract(chunk)
        for word in words:
            process = _read_mark(word.decode("ascii").split())
            if process is not None:
                self._set_process(process)
        return shown

    def flush(self) -> bytes:
        """Return the bytes that were held back; call this at the end of stderr."""
        return self._marks.flush()

    @property
    def may_miss_signals(self) -> bool:
        """Whether the server loses signals that come before the process leads its group."""
        return not self.needs_script and known_servers.signals_group(self._server, self._root)

    def on_started(self, channel: SshChannel, run_helper: Helper) -> None:
        """Record that the server has started the command."""
        with self._lock:
            self._is_running = True
            waiting, self._waiting = (
                ([], self._waiting) if self._awaits_mark else (self._waiting, [])
            )
        for then in waiting:
            self._find(channel, run_helper, then)

    def signal(self, channel: SshChannel, name: str, run_helper: Helper) -> None:
        """Send a signal to all processes of the command."""
        if not self.needs_script:
            channel.send_signal(name)
            return

        def send(process: Optional[Process]) -> None:
            if process is not None:
                script = processes.end_script(process, [name], in_session=self._in_session)
                run_helper(script, _ignore, **self._helper_options)
            elif self._is_signalled():
                channel.send_signal(name)  # this reaches at least the shell

        self._find(channel, run_helper, send)

    def end(
        self, channel: SshChannel, name: str, run_helper: Helper, ended: Callable[[], None]
    ) -> None:
        """
        End all processes of the command by TERM and then KILL, and call `ended` if there is proof.

        Call it for TERM and a little later for KILL: it tries again if the first try failed.
        """
        with self._lock:
            again, self._is_being_ended = self._is_being_ended, True
        if again:
            if name == "KILL" and self._is_signalled() and not self._helper_options:
                channel.send_signal(name)  # the script may be late
            return

        def on_output(output: Optional[bytes]) -> None:
            if output is not None and processes.ENDED.encode() in output.split():
                ended()
            elif output is None:  # the script was not run
                failed()

        def failed() -> None:
            with self._lock:
                self._is_being_ended = False

        def end(process: Optional[Process]) -> None:
            if process is not None:
                script = processes.end_script(
                    process, ["TERM", "KILL"], _END_TIMEOUT, in_session=self._in_session
                )
                run_helper(script, on_output, **self._helper_options)
                return
            failed()
            if self._is_signalled():
                channel.send_signal(name)

        self._find(channel, run_helper, end)

    @property
    def may_outlive_shell(self) -> bool:
        """Whether the command's children may still run after its channel was closed."""
        return self._terminal or known_servers.is_dropbear(self._server)

    def _is_signalled(self) -> bool:
        """Return whether the server signals at least the command's own process."""
        return known_servers.is_dropbear(self._server) or known_servers.signals_group(
            self._server, self._root
        )

    def _find(self, channel: SshChannel, run_helper: Helper, then: Then) -> None:
        with self._lock:
            known = self.process
            if known is None and (self._awaits_mark or not self._is_running):
                self._waiting.append(then)
                return

        def found(process: Optional[Process]) -> None:
            if process is not None:
                self.process = process
            then(process)

        if known is not None:
            then(known)
        else:
            Census.of(channel.get_transport()).find(channel, run_helper, found)

    def _set_process(self, process: Process) -> None:
        if self._channel is not None:
            self._channel.process = process  # helps to identify other processes, see `Census`
        with self._lock:
            self.process, waiting = process, self._waiting
            self._waiting = []
        for then in waiting:
            then(process)


def _read_mark(fields: List[str]) -> Optional[Process]:
    """Parse the mark of `RemoteGroup.prologue`; return None if it is malformed."""
    if len(fields) < 2 or not (fields[0].isdigit() and len(fields[0]) <= _MAX_DIGITS):
        return None
    pid, boot = int(fields[0]), "" if fields[1] == "-" else fields[1]
    return processes.parse_stat(pid, fields[2:], boot) or Process(pid, leads=True)


def _ignore(output: Optional[bytes]) -> None:
    """Ignore the output of a helper script."""


__all__ = ["Helper", "RemoteGroup", "OnHelperOutput", "check_signal"]
