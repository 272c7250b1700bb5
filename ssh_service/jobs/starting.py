"""Start jobs, once for an id."""

from __future__ import annotations

import logging
import os
import secrets
import time
from typing import Any, Mapping, Optional, Sequence, Union

from ssh_service.commands import script as scripts_of_commands
from ssh_service.commands.command import check_seconds
from ssh_service.commands.result import CompletedProcess
from ssh_service.commands.script import Script, StrPath
from ssh_service.commands.stdin import one_input
from ssh_service.commands.sudo import SudoPassword, check_sudo, conceal_password
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import (
    SshCommandTimeout,
    SshConfigError,
    SshConnectionLost,
    SshJobConflict,
    SshJobError,
    SshServiceError,
    copy_for_raise,
)
from ssh_service.jobs import scripts, start_scripts
from ssh_service.jobs.finding import OTHERS, not_ours
from ssh_service.jobs.handle import JobDestination
from ssh_service.jobs.job import Job
from ssh_service.jobs.record import Seen, check_id, digest, parse_record
from ssh_service.jobs.session import is_passing
from ssh_service.params import Destination
from ssh_service.transport.text import printable

_log = logging.getLogger(__name__)

# Seconds for which a start is repeated after its answer was lost, if there is no time limit.
_REPEAT_TIMEOUT = 60.0
_MIN_RETRY, _MAX_RETRY = 0.1, 5.0
# How often a start is repeated because another program removed the job in the meantime.
_MAX_VANISHED = 5
_ANSWERS = ("started", "found", "file", "error")
_MAY_RUN = "may have been started: find it, or start it again, by this id"
# The maximum number of characters shown of a host's error text.
_MAX_REASON = 500


def start_job(
    destination: Destination,
    script: Optional[Script] = None,
    *,
    args: Optional[Sequence[StrPath]] = None,
    id: Optional[str] = None,
    env: Optional[Mapping[str, Any]] = None,
    shell: Optional[str] = None,
    cwd: Optional[StrPath] = None,
    sudo: Union[bool, str] = False,
    sudo_password: Optional[SudoPassword] = None,
    stdin: Union[None, str, bytes, int] = b"",
    input: Union[None, str, bytes] = None,
    timeout: Optional[float] = None,
    run_timeout: Optional[float] = None,
    cache: Optional[SshClientCache] = None,
) -> Job:
    """
    Start a script on a host that continues when the connection, or this program, ends.

    An id names one job: it is started only once, however many calls with this id are made, from
    any machine, and each call returns the same job.  A call whose answer was lost with the
    connection is repeated automatically.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host]
        The host: ``"[user@]host[:port]"``, settings such as
        ``{"host": "web01", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), or a
        `Host`.
    script : Union[None, str, Iterable[str]]
        The script, or its lines, in the language of the shell on the host.
    args : Optional[Sequence[Union[str, os.PathLike]]]
        Instead of `script`: one command with its arguments, such as ``["echo", "a  b"]``.  They
        are quoted, and ``/bin/sh`` runs the command, or the POSIX shell `shell`.
    id : Optional[str]
        The job's name on the host: up to 128 letters, digits, ``.``, ``_`` and ``-``.  None: a new
        random id.
    env : Optional[Mapping[str, Any]]
        Environment variables; values are converted by `str`.  None and bytes are refused.
    shell : Optional[str]
        The path of the shell on the host that runs the script; None: the user's login shell.
    cwd : Union[None, str, os.PathLike]
        The working directory, relative to the home directory; ``~`` or ``~user`` at the start is
        expanded.  None: the home directory.
    sudo : Union[bool, str]
        Whether sudo starts the job, as root; or the name of the user whose rights it gets.  The
        job is then that user's: its files are in that home directory, and `find_job` and
        `list_jobs` find it only with the same `sudo`.
    sudo_password : Union[None, str, bytes, Secret, Callable[[], str]]
        The password for sudo, or a function that returns it, called once if sudo asks.  It is also
        sent for each session that asks about the job.  None: sudo must need none.
    stdin : Union[None, str, bytes, int]
        The script's standard input; the script reads end-of-file after it.  None and
        `subprocess.DEVNULL` are the same as ``b""``.
    input : Union[None, str, bytes]
        Another name for `stdin`, as in `subprocess.run`; only one of the two may be given.
    timeout : Optional[float]
        Seconds from this call until the job is started, including connecting.  None: no limit
        except that of connecting; if the connection is lost, the start is repeated for a minute.
    run_timeout : Optional[float]
        Seconds that the job may run; after that, the host sends TERM, and KILL five seconds later.
        None: no limit.  A job that was started before keeps the limit of its first start.
    cache : Optional[SshClientCache]
        The cache that the connection is taken from; None: `default_cache`.

    Returns
    -------
    Job
        The job: running, or already over if it was started before.

    Raises
    ------
    SshConfigError
        A parameter, the script or the name of a variable is invalid (a `ValueError`).
    SshJobConflict
        The id belongs to a job with another script, environment, shell, folder or input.
    SshJobError
        The job cannot be started on this host: the folder for jobs or `cwd` cannot be used, the
        shell is missing, the disk is full, or the job belongs to another host that shares the home
        directory.  Nothing was run.
    SshConnectionLost, SshCommandTimeout
        The answer was lost or late, and the start could not be repeated: the job may be running.
        The message has its id; call `start_job` with this id, or `find_job`, to find out.
    SshServiceError
        The host could not be reached; the errors are those of `run`.  Nothing was run.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    Exactly once: the record is created by ``link``, which is exclusive in POSIX and over NFS.

    Examples
    --------
    >>> job = ssh_service.start_job("web01", "./benchmark --hours 5", id="night-7")
    >>> job.wait().exit_status
    """
    sudo_password = conceal_password(sudo_password)
    text = scripts_of_commands.one_script(script, args)
    if args is not None:
        shell = "/bin/sh" if shell is None else shell
    host = JobDestination(destination, cache, check_sudo(sudo, sudo_password))
    job_id = new_id() if id is None else check_id(id)
    data = one_input(stdin, input)
    if not isinstance(data, bytes):
        raise SshConfigError("stdin: a file could be read only once; give its content")
    start = Start(host, job_id, text, env, shell, cwd, data, run_timeout, args is not None)
    check_seconds("timeout", timeout, zero=False)
    return Job(host, start.repeat(timeout))


def new_id() -> str:
    """Return a random id."""
    return secrets.token_hex(8)


class Start:
    """
    The start of one job, which may take several attempts.

    Raises
    ------
    SshConfigError
        A parameter is invalid.

    With `is_command`, the script is a command of `one_script`.
    """

    def __init__(
        self,
        host: JobDestination,
        job_id: str,
        script: Script,
        env: Optional[Mapping[str, Any]],
        shell: Optional[str],
        cwd: Optional[StrPath],
        stdin: bytes,
        run_timeout: Optional[float],
        is_command: bool = False,
    ) -> None:
        self._host, self._id = host, job_id
        self._text = scripts_of_commands.join(script, is_command)
        self._env = scripts_of_commands.check_environment(env)
        if isinstance(cwd, os.PathLike):
            cwd = os.fspath(cwd)
        for name, value in (("shell", shell), ("cwd", cwd)):
            if value is not None and not _is_path(value):
                raise SshConfigError(f"{name}: expected a path on the host, got {value!r:.80}")
            scripts_of_commands.check_text(name, value or "")
        if is_command and shell is not None:
            scripts_of_commands.check_posix_shell(shell)
        check_seconds("run_timeout", run_timeout, zero=False)
        self._shell, self._cwd, self._stdin = shell, cwd, stdin
        self._run_timeout = run_timeout
        self._digest = digest(self._text, self._env, shell, cwd, stdin)
        self._in_file = False
        self._is_sent = False
        self._may_run = False

    def repeat(self, timeout: Optional[float], patience: float = _REPEAT_TIMEOUT) -> Seen:
        """Start the job, or find it; without a timeout, give up after `patience` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        delay = _MIN_RETRY
        while True:
            try:
                return self._attempt(deadline)
            except (KeyboardInterrupt, SystemExit):
                if self._is_sent:  # not our exception, so that its text has no id
                    _log.warning(
                        "%s: the start of job %s was interrupted; it %s",
                        self._host.connection_id, self._id, _MAY_RUN,
                    )  # fmt: skip
                raise
            except SshServiceError as error:
                lost = isinstance(error, SshConnectionLost)
                self._may_run = self._may_run or (lost and bool(getattr(error, "sent", True)))
                if isinstance(error, SshCommandTimeout):
                    self._may_run = self._may_run or error.process is not None
                elif (lost or self._may_run) and is_passing(error):
                    now = time.monotonic()
                    deadline = now + patience if deadline is None else deadline
                    if now + delay < deadline:
                        _log.info("%s; starting job %s again", error, self._id)
                        time.sleep(delay)
                        delay = min(2 * delay, _MAX_RETRY)
                        continue
                if self._may_run and not isinstance(error, SshJobError):
                    raise self._uncertain(error, timeout) from error
                raise

    def _uncertain(self, error: SshServiceError, timeout: Optional[float]) -> SshServiceError:
        """Return the error for a start after which the job may be running."""
        uncertain = copy_for_raise(error)
        text = str(error)
        if isinstance(uncertain, SshCommandTimeout):
            text = (
                f"{self._host.connection_id}: job {self._id}: the host did not confirm the start"
                f" within {timeout or 0:g} s"
            )
            uncertain.ended = None
        uncertain.args = (f"{text}; job {self._id} {_MAY_RUN}",)
        return uncertain

    def describe(self, process: CompletedProcess) -> None:
        """Add the script and variables, which the host does not store, to a result."""
        process.command, process.env = self._text, dict(self._env) or None

    def _attempt(self, deadline: Optional[float]) -> Seen:
        for _ in range(_MAX_VANISHED):
            process = self._run(deadline)
            word, _, rest = _answer(process)
            if word == "file":
                self._in_file = True
                continue
            if word == "error":
                raise self._refused(rest)
            found = word == "found"
            seen = self._look(deadline) if found else parse_record(self._id, rest)
            if seen is None and not found:
                why = process.stderr.strip()[-300:] or process.stdout.strip()[:200]
                why = why or f"exit status {process.exit_status}"
                raise self._error(
                    f"the host did not start the job: {why!r}; perhaps its account allows no"
                    " commands, or a start-up file of the login shell ends it or reads its input"
                )
            if seen is not None:
                return seen
        raise self._error("others remove it as fast as it is started")

    def _run(self, deadline: Optional[float]) -> CompletedProcess:
        token = secrets.token_hex(8)
        text = start_scripts.start(
            self._id,
            token,
            self._digest,
            start_scripts.payload(self._text, self._env, token, self._in_file),
            stdin_size=len(self._stdin),
            shell=self._shell,
            cwd=self._cwd,
            run_timeout=self._run_timeout,
            in_file=self._in_file,
        )
        self._is_sent = True
        return self._host.run(text, _left(deadline), self._stdin)

    def _look(self, deadline: Optional[float]) -> Optional[Seen]:
        """Return the state of a job that was started before; None if it has just been removed."""
        seen = self._host.query(scripts.look(self._id), _left(deadline)).get(self._id)
        if seen is None or seen.state.name == "missing":
            return None
        if seen.state.name in OTHERS:
            raise not_ours(self._host, seen)
        if seen.digest != self._digest:
            raise SshJobConflict(
                f"{self._host.connection_id}: job {self._id} was started with another script,"
                " environment, shell, folder or input; remove it, or choose another id",
                connection_id=self._host.connection_id,
                job_id=self._id,
                state=seen.state,
            )
        return seen

    def _refused(self, text: str) -> SshJobError:
        what, _, why = text.partition(" ")
        known = {
            "cwd": "cwd",
            "folder": "the folder of jobs cannot be used",
            "shell": "shell",
            "stdin": "its input could not be stored",
            "linger": "it would be killed when the connection ends",
        }
        return self._error(
            f"{known.get(what, 'it could not be started')}: {printable(why, _MAX_REASON)}"
        )

    def _error(self, text: str) -> SshJobError:
        where = self._host.connection_id
        return SshJobError(
            f"{where}: job {self._id}: {text}", connection_id=where, job_id=self._id
        )


def _answer(process: CompletedProcess) -> Any:
    """Return the words of the start script's answer, which is its last matching line."""
    for line in reversed(process.stdout.splitlines()):
        word, _, rest = line.partition(" ")
        if word in _ANSWERS:
            return word, _, rest
    return None, "", ""


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value and "\n" not in value


def _left(deadline: Optional[float]) -> Optional[float]:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
