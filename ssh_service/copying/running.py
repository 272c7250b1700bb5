"""Runs one copy: gets a session, retries if that is safe, and translates errors."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import pathlib
import sys
from typing import Any, Callable, Coroutine, Iterator, Optional, Tuple, TypeVar, Union

from ssh_service.copying.channels import get_session, start_command, use_one_file_at_a_time
from ssh_service.copying.context import CommandStarter, CopyContext
from ssh_service.copying.download_object import ObjectDownload
from ssh_service.copying.download_plan import PlannedDownload
from ssh_service.copying.downloading import Download
from ssh_service.copying.failures import copy_error, display_path
from ssh_service.copying.local.file_objects import SourceBytes, TargetObject, content_of
from ssh_service.copying.new_trees import NewTrees
from ssh_service.copying.options import Options, check_path
from ssh_service.copying.paths import to_bytes, with_slashes
from ssh_service.copying.plan import CopyPlan, sorted_plan
from ssh_service.copying.progress import Meter, ProgressTo
from ssh_service.copying.recoverable_lock import LockOwner
from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.handles import HandleGivenTwice
from ssh_service.copying.sftp.session import SessionEnded, SftpSession
from ssh_service.copying.sftp.time_limits import Stalled, TimeLimits
from ssh_service.copying.upload_content import ContentUpload
from ssh_service.copying.upload_plan import PlannedUpload
from ssh_service.copying.uploading import Upload
from ssh_service.errors import transfer_error
from ssh_service.interruptions import find_interruption
from ssh_service.transport import SshTransport

__all__ = ["Path", "begin", "copy", "local_end", "run_copy", "run_task", "translate"]

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
_T = TypeVar("_T")

_log = logging.getLogger("ssh_service.copying")


def copy(
    way: str,
    transport: SshTransport,
    source: Union[Path, SourceBytes],
    target: Union[Path, TargetObject],
    options: Options,
    limits: TimeLimits,
    progress: Optional[ProgressTo] = None,
) -> Optional[CopyPlan]:
    """
    Copy over one connection; with ``dry_run=True``, return what would be copied.

    Parameters
    ----------
    way : str
        ``upload`` or ``download``.
    transport : SshTransport
        The connection.
    source, target : Union[str, bytes, os.PathLike, SourceBytes, TargetObject]
        The path to copy, and the path to copy it to; or the content that takes the place of a
        local path.
    options : Options
        The options; they must have been checked.
    limits : TimeLimits
        The time limits; the time is already running.
    progress : Union[None, Callable[[Progress], None], Meter]
        A function to call with the progress, or a meter.

    Raises
    ------
    SshServiceError
        See `ssh_service.copying.upload`.
    """
    is_upload = way == "upload"
    if not isinstance(source, SourceBytes):
        source = _path_bytes(source, "local" if is_upload else "remote")
    if not isinstance(target, TargetObject):
        target = _path_bytes(target, "remote" if is_upload else "local")
    commands = functools.partial(start_command, transport)
    new_trees = NewTrees(f"{way} {transport.connection_id}")

    def start_task(context: CopyContext) -> Coroutine[Any, Any, None]:
        if isinstance(source, SourceBytes):
            return ContentUpload(context, source).run(_as_bytes(target))
        if isinstance(target, TargetObject):
            return ObjectDownload(context, target).run(_as_bytes(source))
        return begin(is_upload, context).run(_as_bytes(source), _as_bytes(target))

    def attempt(session: SftpSession) -> Optional[CopyPlan]:
        with _hold_copy_lock(session, limits):
            return run_copy(session, start_task, options, limits, progress, commands, new_trees)

    def restart() -> None:
        if isinstance(progress, Meter):
            progress.restart()

    try:
        with translate(transport, _as_bytes(target if is_upload else source), limits):
            return _on_session(transport, attempt, limits, restart)
    finally:
        new_trees.release()


def run_task(
    transport: SshTransport,
    start_task: Callable[[CopyContext], Coroutine[Any, Any, _T]],
    path: bytes,
    options: Options = Options(),
    limits: TimeLimits = TimeLimits(),
    repeatable: bool = False,
) -> _T:
    """
    Run a task with the server's files over one connection, and return its result.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    start_task : Callable[[CopyContext], Coroutine]
        Returns the task.
    path : bytes
        The file on the server, for messages.
    options : Options
        The options of copies that the task makes.
    limits : TimeLimits
        The time limits; the time is already running.
    repeatable : bool
        Whether the task may be restarted when the session is found dead before its first reply,
        because the task begins with a query, or has the same effect if it is repeated.

    Raises
    ------
    SshServiceError
        The task failed; see `ssh_service.copying.upload`.
    """
    commands = functools.partial(start_command, transport)

    def attempt(session: SftpSession) -> _T:
        with _hold_copy_lock(session, limits), SftpClient(session, limits.deadline) as client:
            context = CopyContext(client, options, limits.stall_timeout, None, commands)
            return _run_tasks(context, start_task)

    with translate(transport, path, limits, phase="file"):
        return _on_session(transport, attempt, limits, repeatable=repeatable)


def _on_session(
    transport: SshTransport,
    attempt: Callable[[SftpSession], _T],
    limits: TimeLimits,
    restart: Callable[[], None] = lambda: None,
    repeatable: bool = True,
) -> _T:
    """Call `attempt` with the connection's session, and once more if that is safe and helps."""
    kept = get_session(transport, limits)
    try:
        return attempt(kept)
    except SessionEnded as ended:
        if not repeatable:
            raise
        if isinstance(ended.reason, HandleGivenTwice) and kept.copy_lock is None:
            _log.info("%s: %s; copying one file at a time", transport.connection_id, ended.reason)
            use_one_file_at_a_time(transport)
            restart()
            return attempt(get_session(transport, limits))
        # A session of an earlier copy may be found dead only now.  A copy that received no reply
        # has changed nothing, as it begins with queries, so it can be restarted.
        fresh = None if ended.answered else get_session(transport, limits)
        if fresh is None or fresh is kept:
            raise
        return attempt(fresh)


@contextlib.contextmanager
def translate(
    transport: SshTransport, path: bytes, limits: TimeLimits, phase: str = "copy"
) -> Iterator[None]:
    """Translate the errors of a block for the caller; `path` is on the server."""
    outer = sys.exc_info()[1]  # the exception that the caller is handling, if any
    try:
        yield
    except Exception as error:
        interruption = find_interruption(error, outer)
        if interruption is error:
            raise
        if interruption is not None:
            raise interruption from error
        translated = copy_error(error, display_path(path), transport.connection_id, limits, phase)
        if translated is error:
            raise
        raise translated from error


def local_end(value: Any, options: Options, is_upload: bool) -> Tuple[Any, Options]:
    """
    Return a local path, or the content that is given in its place, and the options for it.

    Raises
    ------
    SshConfigError
        The value is neither, or an option needs a path.
    """
    content = content_of("local_path", value, is_upload)
    if content is not None:
        return content, options.for_content(is_upload)
    check_path("local_path", value)
    return value, options


def begin(is_upload: bool, context: CopyContext) -> Union[Upload, Download]:
    """Return the tasks of a copy, or those that only plan it."""
    if is_upload:
        return PlannedUpload(context) if context.options.dry_run else Upload(context)
    return PlannedDownload(context) if context.options.dry_run else Download(context)


@contextlib.contextmanager
def _hold_copy_lock(session: SftpSession, limits: TimeLimits) -> Iterator[None]:
    """Hold the session's lock, if the session allows only one copy at a time."""
    if session.copy_lock is None:
        yield
        return
    owner = LockOwner()
    try:
        if not session.copy_lock.acquire(owner, limits.next_wait()):
            limits.raise_if_expired()
            raise Stalled()
        yield
    finally:
        session.copy_lock.release(owner)


def _as_bytes(path: Any) -> bytes:
    if not isinstance(path, bytes):
        raise TypeError(f"expected a path as bytes, got {type(path).__name__}")
    return path


def _path_bytes(path: Path, side: str) -> bytes:
    if side == "remote" and isinstance(path, pathlib.PureWindowsPath):
        path = path.as_posix()
    plain = to_bytes(path) if side == "remote" else os.fsencode(path)
    if side == "local":
        plain = with_slashes(plain)
    if not plain:  # a server would take it as the whole home directory
        why = "a path cannot be empty; '.' is the remote home, or the local working directory"
        raise transfer_error(errno.ENOENT, "", why, side=side)
    return plain


def run_copy(
    session: SftpSession,
    start_task: Callable[[CopyContext], Coroutine[Any, Any, None]],
    options: Options,
    limits: TimeLimits = TimeLimits(),
    progress: Optional[ProgressTo] = None,
    commands: Optional[CommandStarter] = None,
    new_trees: Optional[NewTrees] = None,
) -> Optional[CopyPlan]:
    """
    Run one copy on a negotiated session; with ``dry_run=True``, return what would be copied.

    Parameters
    ----------
    session : SftpSession
        The session.
    start_task : Callable[[CopyContext], Coroutine]
        Returns the first task.
    options : Options
        The options; they must have been checked.
    limits : TimeLimits
        The time limits; the time is already running.
    progress : Union[None, Callable[[Progress], None], Meter]
        A function to call with the progress, or a meter.
    commands : Optional[Callable[[bytes, ShellProcess], None]]
        Starts a command in the server's shell; None: only SFTP is available.
    new_trees : Optional[NewTrees]
        The trees that this call creates, including those of an earlier attempt.
    """
    with SftpClient(session, limits.deadline) as client:
        context = CopyContext(client, options, limits.stall_timeout, progress, commands, new_trees)
        _run_tasks(context, start_task)
        return sorted_plan(context.planned) if options.dry_run else None


def _run_tasks(
    context: CopyContext, start_task: Callable[[CopyContext], Coroutine[Any, Any, _T]]
) -> _T:
    with context.closing:
        result = context.pipeline.run(start_task(context))
    context.progress.finish()
    return result
