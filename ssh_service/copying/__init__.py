"""
Copies of files and trees over a connection, by SFTP: no shell, scp or clean profile is needed.

If the server has a shell with GNU tar, many small files are copied in one tar stream, which is
several times faster, with the same result.

From the bottom up; a module imports from those above it here, never from those below:

============================= ==================================================================
sftp                          the SFTP protocol: packets, a session, the client of one copy
exclusions                    the patterns of entries that a copy leaves out
options                       the options of a copy
plan                          what a copy would do, for a dry run
paths, temporary              paths as bytes; temporary names, which identify their writer
ownership                     which files are ours, and which folders only our user can change
deletions                     which entries of a target `delete` deletes, and which stay
failures                      errors with the path and the errno
local                         local files and trees, read and written
new_trees                     the trees that copies in progress create
open_files                    how many local files the copies of the process may hold open
rate_limit                    the bytes per second of one copy
pipeline, waiting             many tasks on one thread, and the objects they wait for
replies                       parses the replies of a server
remote_files, shell_command   requests for files; commands in the server's shell
remote_owner                  our user on a server, and which of its files are ours
progress, context             the state that all parts of one copy share
parts, checksums              many parts of a large file at once; comparison of two files
removal                       the removal of an unfinished tree on the server
remote_deletion               deletes entries that only the target of an upload has
stale_files, resume_marker    the remains of dead copies on the server: removed, or resumed
self_copy_guard               detects a tree that is copied into itself
upload_file, download_file    one file, by SFTP
upload_link                   a symbolic link, copied as a link
upload_content                bytes, or a file object, as the content of one file
download_object               one file, into a file object
tar                           the archive format for many small files
upload_stream, upload_merge   many small files uploaded in one stream; into an existing folder
download_stream               many small files downloaded in one stream
listing                       the checks of what a server lists for a download
uploading, downloading        a file or a tree: which entries are copied where, and how
upload_plan, download_plan    the same decisions without the copy, for a dry run
recoverable_lock              a lock that is released if its holder dies
channels                      the channels that copies open and reuse
running                       one copy, from the call to the return
============================= ==================================================================

Retries: `channels` retries to open a session if the server has reached its limit; `running`
restarts a copy whose reused session is found to be dead before the first reply; files that a tar
stream did not deliver are copied by SFTP.
"""

from __future__ import annotations

from typing import BinaryIO, Optional, Union

from ssh_service.copying.exclusions import Patterns
from ssh_service.copying.options import Options, check_path, seconds
from ssh_service.copying.plan import CopyPlan, PlannedAction
from ssh_service.copying.progress import Meter, Progress, ProgressCallback, ProgressTo
from ssh_service.copying.running import Path, copy, local_end, run_copy
from ssh_service.copying.sftp.time_limits import TimeLimits
from ssh_service.transport import SshTransport

__all__ = [
    "CopyPlan",
    "Meter",
    "Options",
    "Path",
    "Patterns",
    "PlannedAction",
    "Progress",
    "ProgressCallback",
    "TimeLimits",
    "check_path",
    "copy",
    "download",
    "limits_from_now",
    "local_end",
    "run_copy",
    "upload",
]


def upload(
    transport: SshTransport,
    local_path: Union[Path, bytearray, memoryview, BinaryIO],
    remote_path: Path,
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
    progress: Optional[ProgressTo] = None,
) -> Optional[CopyPlan]:
    """
    Copy a local file or tree to a server, over one connection.

    A file is copied to `remote_path` or, if that is a folder, into it.  A folder is copied to
    `remote_path` or, if that exists, into it: a second copy creates a folder inside the first,
    unless `contents` is set.  Parent folders are not created.  A file is written under a temporary
    name and then renamed, if the server supports that, so it is never seen incomplete.

    In a folder that other users may write to, such as ``/tmp``, a target that another user created
    is refused; another user's folder is accepted if `remote_path` ends with a slash.

    A file that grows during the copy is copied up to the size it had when it was opened; if it is
    replaced, the old file is copied.  A file that is overwritten or truncated is an error, if its
    size and time show this.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    local_path : Union[str, os.PathLike, bytes, BinaryIO]
        The local file or folder; patterns and ``~`` are not expanded.  Bytes (also a bytearray or
        a memoryview) are the content of the file `remote_path`.  A binary file object is read from
        its current position to its end, and not closed.
    remote_path : Path
        The target.  Relative to the home directory; ``~`` or ``~user`` at the start is expanded,
        patterns are not.
    recursive : bool
        Whether a folder may be copied; if False, a folder is an error.
    timeout : Optional[float]
        Seconds from this call for the whole copy; None: no limit.
    stall_timeout : Optional[float]
        Seconds without progress after which the copy fails; None: no limit.
    verify : bool
        Whether to compare the checksums of each file after it was copied.
    resume : bool
        Whether to continue an earlier, interrupted copy of a file where it stopped.
    fsync : bool
        Whether to flush each file to the server's disk before it is renamed to its final name.  An
        error if the server does not support this.
    preserve : Optional[bool]
        Whether to preserve permissions and times.  None: if the server allows it, with one warning
        in the log if it does not.  True: a refusal is an error.  False: neither is preserved, and
        new files get the server's default permissions.
    links : str
        ``"follow"``: copy what a symbolic link points to; a dangling link is an error.
        ``"keep"``: copy links inside a tree as links, including dangling ones.
    on_error : str
        ``"stop"``: the copy ends at the first entry of a tree that cannot be copied.
        ``"continue"``: copy the other entries, then fail with one `SshTreeError` that lists the
        failures.
    update : bool
        Whether to skip files that exist on the target with the same size and time, as rsync does.
    contents : bool
        Whether to copy the contents of a folder into the target, which may exist.  Otherwise, if
        the target exists, the folder is copied as a new folder into it.  With `contents`, a second
        copy updates the first.
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
    progress : Union[None, Callable[[Progress], None], Meter]
        Called with a `Progress`, a few times per second, on the calling thread.  If it raises, the
        copy is aborted and the exception is raised here.  A `Meter` counts instead, and can be
        read after the copy.

    Returns
    -------
    Optional[CopyPlan]
        With `dry_run`, the `CopyPlan`: what would be copied, skipped and deleted, and what would
        fail.  Otherwise None.

    Raises
    ------
    SshConfigError
        An option is invalid, or contradicts another one (a `ValueError`).
    SshTransferError
        An entry cannot be copied: an `OSError` with `errno` and `filename`, of the subclass for
        that errno.  The entries of a tree before it were copied.
    SshTreeError
        With ``on_error="continue"``: `failures` lists all entries that could not be copied.
    SshTransferTimeout
        `timeout` or `stall_timeout` has expired.
    SshConnectionLost
        The connection was lost; each file on the target is either the old or the new one.
    """
    options = Options(
        recursive=recursive,
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
    ).check()
    limits = limits_from_now(timeout, stall_timeout)
    source, options = local_end(local_path, options, is_upload=True)
    check_path("remote_path", remote_path)
    return copy("upload", transport, source, remote_path, options, limits, progress)


def download(
    transport: SshTransport,
    remote_path: Path,
    local_path: Union[Path, BinaryIO],
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
    progress: Optional[ProgressTo] = None,
) -> Optional[CopyPlan]:
    """
    Copy a file or tree from a server, over one connection; targets are chosen as in `upload`.

    Servers report times in whole seconds.  A file that is overwritten during the copy, without a
    change of its size, may therefore arrive as a mixture; `verify` detects this.  The server
    cannot make this function write outside `local_path`.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    remote_path : Path
        The file or folder on the server.  Relative to the home directory; ``~`` or ``~user`` at
        the start is expanded, patterns are not.
    local_path : Union[str, bytes, os.PathLike, BinaryIO]
        The local target; patterns and ``~`` are not expanded.  A binary file object is written to
        at its current position, and not closed.
    recursive : bool
        Whether a folder may be copied; if False, a folder is an error.
    timeout : Optional[float]
        Seconds from this call for the whole copy; None: no limit.
    stall_timeout : Optional[float]
        Seconds without progress after which the copy fails; None: no limit.
    verify : bool
        Whether to compare the checksums of each file after it was copied.
    resume : bool
        Whether to continue an earlier, interrupted copy of a file where it stopped.  This needs a
        server with a shell and ``sha256sum``, to verify the existing part; otherwise, the file is
        copied from the start.
    fsync : bool
        Whether to flush each file to the local disk before it is renamed to its final name.
    preserve : Optional[bool]
        Whether to preserve permissions and times.  None: if the local system allows it, but group
        and others get write permission only if the umask allows it.  True: including those bits,
        and a refusal is an error.  False: neither is preserved.  setuid, setgid and sticky bits
        are never copied.
    links : str
        ``"follow"``: copy what a symbolic link points to; a dangling link is an error.
        ``"keep"``: copy links inside a tree as links, including dangling ones.
    on_error : str
        ``"stop"``: the copy ends at the first entry of a tree that cannot be copied.
        ``"continue"``: copy the other entries, then fail with one `SshTreeError` that lists the
        failures.
    update : bool
        Whether to skip files that exist on the target with the same size and time, as rsync does.
    contents : bool
        Whether to copy the contents of a folder into the target, which may exist.  Otherwise, if
        the target exists, the folder is copied as a new folder into it.  With `contents`, a second
        copy updates the first.
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
    progress : Union[None, Callable[[Progress], None], Meter]
        Called with a `Progress`, a few times per second, on the calling thread.  If it raises, the
        copy is aborted and the exception is raised here.  A `Meter` counts instead, and can be
        read after the copy.

    Returns
    -------
    Optional[CopyPlan]
        With `dry_run`, the `CopyPlan`: what would be copied, skipped and deleted, and what would
        fail.  Otherwise None.

    Raises
    ------
    SshConfigError
        An option is invalid, or contradicts another one (a `ValueError`).
    SshTransferError
        An entry cannot be copied: an `OSError` with `errno` and `filename`, of the subclass for
        that errno.  The entries of a tree before it were copied.
    SshTreeError
        With ``on_error="continue"``: `failures` lists all entries that could not be copied.
    SshTransferTimeout
        `timeout` or `stall_timeout` has expired.
    SshConnectionLost
        The connection was lost; each file on the target is either the old or the new one.
    """
    options = Options(
        recursive=recursive,
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
    ).check()
    limits = limits_from_now(timeout, stall_timeout)
    target, options = local_end(local_path, options, is_upload=False)
    check_path("remote_path", remote_path)
    return copy("download", transport, remote_path, target, options, limits, progress)


def limits_from_now(timeout: Optional[float], stall_timeout: Optional[float]) -> TimeLimits:
    """
    Return the time limits of a copy that starts now.

    Parameters
    ----------
    timeout : Optional[float]
        Seconds for the whole copy; None: no limit.
    stall_timeout : Optional[float]
        Seconds without progress; None: no limit.

    Raises
    ------
    SshConfigError
        A limit is not a valid number of seconds.
    """
    return TimeLimits.from_now(
        seconds("timeout", timeout), seconds("stall_timeout", stall_timeout)
    )
