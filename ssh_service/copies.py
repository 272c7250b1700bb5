"""Copies to and from a destination: `upload` and `download`."""

from __future__ import annotations

import functools
from typing import BinaryIO, Callable, Optional, Union

from ssh_service import copying, operations, params
from ssh_service.commands.script import StrPath
from ssh_service.commands.sudo import refuse_sudo
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.copying import CopyPlan, Patterns, ProgressCallback
from ssh_service.defaults import IDLE_TIMEOUT, default_cache
from ssh_service.params import Destination
from ssh_service.transport import SshTransport

__all__ = ["download", "upload"]


def upload(
    destination: Union[Destination, SshTransport],
    local_path: Union[StrPath, bytes, bytearray, memoryview, BinaryIO],
    remote_path: StrPath,
    *,
    recursive: bool = True,
    timeout: Optional[float] = None,
    stall_timeout: Optional[float] = None,
    verify: bool = False,
    resume: bool = False,
    fsync: bool = False,
    preserve: Optional[bool] = None,
    links: str = "follow",
    on_error: str = "stop",
    update: bool = False,
    contents: bool = False,
    exclude: Patterns = (),
    delete: Union[bool, str] = False,
    dry_run: bool = False,
    max_rate: Optional[float] = None,
    progress: Optional[ProgressCallback] = None,
    sudo: Union[bool, str] = False,
    cache: Optional[SshClientCache] = None,
) -> Optional[CopyPlan]:
    """
    Copy a local file or tree to a server.

    A file is copied to `remote_path`, or into `remote_path` if that is a folder.  A folder is
    copied to `remote_path`, or into `remote_path` if that exists: unless `contents` is set, a
    second copy creates a folder inside the first.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host, SshTransport]
        The server: ``"[user@]host[:port]"``, settings such as
        ``{"host": "web01", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), a
        `Host`, or an open connection.
    local_path : Union[str, os.PathLike, bytes, BinaryIO]
        The local file or folder.  The path is used literally: neither patterns nor ``~`` are
        expanded.  Bytes (also a bytearray or a memoryview) are not a path, but the content of the
        file `remote_path`.  A binary file object is read from its current position to its end, and
        not closed.
    remote_path : Union[str, os.PathLike]
        The target on the server; a relative path starts at the home directory.  ``~`` or
        ``~user`` at the start is expanded, the rest is used literally.
    recursive : bool
        Whether to copy folders; if False, a folder is an error.
    timeout : Optional[float]
        Seconds from the call for the whole copy, including the time to connect; None: no limit.
    stall_timeout : Optional[float]
        Seconds without any progress after which the copy fails; None: no limit.
    verify : bool
        Whether to compare the checksums of source and target after each file was copied.
    resume : bool
        Whether to continue an earlier, interrupted copy of a file from the point where it stopped.
    fsync : bool
        Whether to flush each file to the server's disk before it gets its final name.  If the
        server does not support this, the copy fails.
    preserve : Optional[bool]
        Whether to keep modes and times.  None: as far as the server allows, with one warning in
        the log if the server refuses.  True: a refusal is an error.  False: keep neither, so that
        a new file has the server's default mode.
    links : str
        ``"follow"``: copy what a symbolic link points to; a dangling link is an error.
        ``"keep"``: copy links inside a tree as links, including dangling ones.
    on_error : str
        ``"stop"``: the first entry of a tree that cannot be copied ends the copy.
        ``"continue"``: copy the rest, then raise one `SshTreeError` that lists the failures.
    update : bool
        Whether to skip files whose target has the same size and time, as rsync does.
    contents : bool
        Whether to copy the contents of a folder into the target, even if the target exists.  A
        second copy then updates the first.  If False, a folder is copied as a new folder into a
        target that exists.
    exclude : Union[str, Sequence[str]]
        Patterns of rsync's for the entries of a folder to leave out, with all that they contain:
        ``"*.pyc"`` matches names anywhere, ``"/build"`` only at the top of the folder,
        ``"cache/"`` only folders; the page "Copies" has the rules.
    delete : Union[bool, str]
        Whether to delete, after the copy, what the target has and the source does not; needs
        `contents`.  Nothing is deleted if an entry could not be copied; excluded entries, those of
        other users, and what links lead to stay.  True: an empty source is an error;
        ``"even-if-empty"``: it is not.
    dry_run : bool
        Whether to copy nothing, and to return what would be done.  Nothing is created or changed
        on either side.
    max_rate : Optional[float]
        The maximum number of bytes per second of this copy, on average; None: no limit.  Small
        files are then not copied in one stream.
    progress : Optional[Callable[[Progress], None]]
        Called with a `ssh_service.copying.Progress` a few times a second, on the calling thread.
        If it raises an exception, the copy is aborted and the exception is raised here.
    sudo : Union[bool, str]
        Refused: a copy has the rights of the user who logs in.  The message names other ways.
    cache : Optional[SshClientCache]
        The cache that provides the connection; None: `default_cache`.

    Returns
    -------
    Optional[CopyPlan]
        With `dry_run`, the `CopyPlan`: what would be copied, skipped and deleted, and what would
        fail.  Otherwise None.

    Raises
    ------
    SshConfigError
        A parameter or an option is invalid (a `ValueError`).
    SshConnectError
        No authenticated connection could be made; nothing was copied.
    SshTransferError
        A file or folder cannot be copied.  The error is an `OSError` with `errno` and `filename`,
        and of the subclass for its errno, such as `SshFileNotFoundError`.  The preceding entries
        of a tree were copied.
    SshTreeError
        With ``on_error="continue"``: some entries of a tree could not be copied; `failures` lists
        them.
    SshTransferTimeout
        `timeout` or `stall_timeout` was reached.
    SshConnectionLost
        The connection was lost; each file in the target is either the old or the new one.

    Notes
    -----
    Thread safety.  This may be called from any thread.  Calls with the same destination share
    its connection.

    Examples
    --------
    >>> ssh_service.upload("web01", "site", "/srv/www/site", contents=True, update=True)
    """
    destination = params.conceal(destination)
    refuse_sudo(sudo, "upload")
    copy = _bind(destination, cache, copying.upload, operations.upload)
    return copy(
        local_path,
        remote_path,
        recursive=recursive,
        timeout=timeout,
        stall_timeout=stall_timeout,
        verify=verify,
        resume=resume,
        fsync=fsync,
        preserve=preserve,
        links=links,
        on_error=on_error,
        update=update,
        contents=contents,
        exclude=exclude,
        delete=delete,
        dry_run=dry_run,
        max_rate=max_rate,
        progress=progress,
    )


def download(
    destination: Union[Destination, SshTransport],
    remote_path: StrPath,
    local_path: Union[StrPath, BinaryIO],
    *,
    recursive: bool = True,
    timeout: Optional[float] = None,
    stall_timeout: Optional[float] = None,
    verify: bool = False,
    resume: bool = False,
    fsync: bool = False,
    preserve: Optional[bool] = None,
    links: str = "follow",
    on_error: str = "stop",
    update: bool = False,
    contents: bool = False,
    exclude: Patterns = (),
    delete: Union[bool, str] = False,
    dry_run: bool = False,
    max_rate: Optional[float] = None,
    progress: Optional[ProgressCallback] = None,
    sudo: Union[bool, str] = False,
    cache: Optional[SshClientCache] = None,
) -> Optional[CopyPlan]:
    """
    Copy a file or tree from a server.

    A file is copied to `local_path`, or into `local_path` if that is a folder.  A folder is
    copied to `local_path`, or into `local_path` if that exists: unless `contents` is set, a
    second copy creates a folder inside the first.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host, SshTransport]
        The server: ``"[user@]host[:port]"``, settings such as
        ``{"host": "web01", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), a
        `Host`, or an open connection.
    remote_path : Union[str, os.PathLike]
        The file or folder on the server; a relative path starts at the home directory.  ``~`` or
        ``~user`` at the start is expanded, the rest is used literally: no patterns.
    local_path : Union[str, os.PathLike, BinaryIO]
        The local target, used literally.  Whatever the server sends, nothing is written outside
        the target.  A binary file object is written to at its current position, and not closed; if
        the copy fails, it has received a part of the file.
    recursive : bool
        Whether to copy folders; if False, a folder is an error.
    timeout : Optional[float]
        Seconds from the call for the whole copy, including the time to connect; None: no limit.
    stall_timeout : Optional[float]
        Seconds without any progress after which the copy fails; None: no limit.
    verify : bool
        Whether to compare the checksums of source and target after each file was copied.
    resume : bool
        Whether to continue an earlier, interrupted copy of a file from the point where it stopped.
        This needs a server with a shell and ``sha256sum``, to check the part that exists;
        otherwise the file is copied from the start.
    fsync : bool
        Whether to flush each file to the local disk before it gets its final name.
    preserve : Optional[bool]
        Whether to keep modes and times.  None: as far as the local system allows, but group and
        others get write permission only if the umask allows it.  True: including these bits, and
        a refusal is an error.  False: keep neither.  The setuid, setgid and sticky bits are never
        copied.
    links : str
        ``"follow"``: copy what a symbolic link points to; a dangling link is an error.
        ``"keep"``: copy links inside a tree as links, including dangling ones.
    on_error : str
        ``"stop"``: the first entry of a tree that cannot be copied ends the copy.
        ``"continue"``: copy the rest, then raise one `SshTreeError` that lists the failures.
    update : bool
        Whether to skip files whose target has the same size and time, as rsync does.
    contents : bool
        Whether to copy the contents of a folder into the target, even if the target exists.  A
        second copy then updates the first.  If False, a folder is copied as a new folder into a
        target that exists.
    exclude : Union[str, Sequence[str]]
        Patterns of rsync's for the entries of a folder to leave out, with all that they contain:
        ``"*.pyc"`` matches names anywhere, ``"/build"`` only at the top of the folder,
        ``"cache/"`` only folders; the page "Copies" has the rules.
    delete : Union[bool, str]
        Whether to delete, after the copy, what the target has and the source does not; needs
        `contents`.  Nothing is deleted if an entry could not be copied; excluded entries, those of
        other users, and what links lead to stay.  True: an empty source is an error;
        ``"even-if-empty"``: it is not.
    dry_run : bool
        Whether to copy nothing, and to return what would be done.  Nothing is created or changed
        on either side.
    max_rate : Optional[float]
        The maximum number of bytes per second of this copy, on average; None: no limit.  Small
        files are then not copied in one stream.
    progress : Optional[Callable[[Progress], None]]
        Called with a `ssh_service.copying.Progress` a few times a second, on the calling thread.
        If it raises an exception, the copy is aborted and the exception is raised here.
    sudo : Union[bool, str]
        Refused: a copy has the rights of the user who logs in.  The message names other ways.
    cache : Optional[SshClientCache]
        The cache that provides the connection; None: `default_cache`.

    Returns
    -------
    Optional[CopyPlan]
        With `dry_run`, the `CopyPlan`: what would be copied, skipped and deleted, and what would
        fail.  Otherwise None.

    Raises
    ------
    SshConfigError
        A parameter or an option is invalid (a `ValueError`).
    SshConnectError
        No authenticated connection could be made; nothing was copied.
    SshTransferError
        A file or folder cannot be copied.  The error is an `OSError` with `errno` and `filename`,
        and of the subclass for its errno, such as `SshFileNotFoundError`.  The preceding entries
        of a tree were copied.
    SshTreeError
        With ``on_error="continue"``: some entries of a tree could not be copied; `failures` lists
        them.
    SshTransferTimeout
        `timeout` or `stall_timeout` was reached.
    SshConnectionLost
        The connection was lost; each file in the target is either the old or the new one.

    Notes
    -----
    Thread safety.  This may be called from any thread.  Calls with the same destination share
    its connection.

    Examples
    --------
    >>> ssh_service.download("web01", "/var/log/nginx", "logs", on_error="continue")
    """
    destination = params.conceal(destination)
    refuse_sudo(sudo, "download")
    copy = _bind(destination, cache, copying.download, operations.download)
    return copy(
        remote_path,
        local_path,
        recursive=recursive,
        timeout=timeout,
        stall_timeout=stall_timeout,
        verify=verify,
        resume=resume,
        fsync=fsync,
        preserve=preserve,
        links=links,
        on_error=on_error,
        update=update,
        contents=contents,
        exclude=exclude,
        delete=delete,
        dry_run=dry_run,
        max_rate=max_rate,
        progress=progress,
    )


def _bind(
    destination: Union[Destination, SshTransport],
    cache: Optional[SshClientCache],
    copy_over_connection: Callable[..., Optional[CopyPlan]],
    copy_over_cache: Callable[..., Optional[CopyPlan]],
) -> Callable[..., Optional[CopyPlan]]:
    """Return the copy function for the type of the destination, bound to the destination."""
    if isinstance(destination, SshTransport):
        return functools.partial(copy_over_connection, destination)
    check_cache(cache)
    cache = default_cache() if cache is None else cache
    return functools.partial(copy_over_cache, cache, destination, idle_timeout=IDLE_TIMEOUT)
