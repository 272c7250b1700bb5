"""
Copies of files and trees over a connection, by SFTP: no shell, scp or clean profile is needed.

If the server has a shell with GNU tar, many small files are copied in one tar stream, which is
several times faster, with the same result.

From the bottom up; a module imports from those above it here, never from those below:

============================= ==================================================================
sftp                          the SFTP protocol: packets, a session, the client of one copy
paths, path_walk, temporary   paths as bytes, link by link; names that identify their writer
exclusions                    the patterns of entries that a copy leaves out
options                       the options of a copy
plan                          what a copy would do, for a dry run
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
folder_reader                 the entries of a server's folder, or an error if some are hidden
remote_owner                  our user on a server, and which of its files are ours
progress, context             the state that all parts of one copy share
parts, checksums              many parts of a large file at once; comparison of two files
removal                       the removal of an unfinished tree on the server
remote_deletion               deletes entries that only the target of an upload has
stale_files, resume_marker    the remains of dead copies on the server: removed, or resumed
self_copy_guard               detects a tree that is copied into itself
upload_file, download_file    one file, by SFTP
replacing                     replaces an entry where the server's rename does not
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

from typing import Any, BinaryIO, Optional, Union

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
    timeout: Optional[float] = None,
    stall_timeout: Optional[float] = None,
    progress: Optional[ProgressTo] = None,
    **options: Any,
) -> Optional[CopyPlan]:
    """
    Copy a local file or tree to a server, over one connection.

    Parent folders are not created.  A file is written under a temporary name and then renamed, if
    the server supports that, so it is never seen incomplete.

    In a folder that other users may write to, such as ``/tmp``, a target that another user created
    is refused; another user's folder is accepted if `remote_path` ends with a slash.

    A file that grows during the copy is copied up to the size it had when it was opened; if it is
    replaced, the old file is copied.  A file that is overwritten or truncated is an error, if its
    size and time show this.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    local_path, remote_path, timeout, stall_timeout
        As for `ssh_service.upload`; paths may be bytes.
    progress : Union[None, Callable[[Progress], None], Meter]
        As for `ssh_service.upload`.  A `Meter` counts instead, and can be read after the copy.
    **options : Any
        The other keywords of `ssh_service.upload` that `Options` has.

    Returns
    -------
    Optional[CopyPlan]
        With ``dry_run=True``, what would be done.  Otherwise None.

    Raises
    ------
    SshConfigError
        An option is invalid, or contradicts another one (a `ValueError`).
    SshServiceError
        The copy failed; `ssh_service.upload` lists the errors.
    TypeError
        An option is unknown.
    """
    checked = Options(**options).check()
    limits = limits_from_now(timeout, stall_timeout)
    source, checked = local_end(local_path, checked, is_upload=True)
    check_path("remote_path", remote_path)
    return copy("upload", transport, source, remote_path, checked, limits, progress)


def download(
    transport: SshTransport,
    remote_path: Path,
    local_path: Union[Path, BinaryIO],
    *,
    timeout: Optional[float] = None,
    stall_timeout: Optional[float] = None,
    progress: Optional[ProgressTo] = None,
    **options: Any,
) -> Optional[CopyPlan]:
    """
    Copy a file or tree from a server, over one connection.

    Servers report times in whole seconds.  A file that is overwritten during the copy, without a
    change of its size, may therefore arrive as a mixture; `verify` detects this.  The server
    cannot make this function write outside `local_path`.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    remote_path, local_path, timeout, stall_timeout
        As for `ssh_service.download`; paths may be bytes.
    progress : Union[None, Callable[[Progress], None], Meter]
        As for `ssh_service.download`.  A `Meter` counts instead, and can be read after the copy.
    **options : Any
        The other keywords of `ssh_service.download` that `Options` has.

    Returns
    -------
    Optional[CopyPlan]
        With ``dry_run=True``, what would be done.  Otherwise None.

    Raises
    ------
    SshConfigError
        An option is invalid, or contradicts another one (a `ValueError`).
    SshServiceError
        The copy failed; `ssh_service.download` lists the errors.
    TypeError
        An option is unknown.
    """
    checked = Options(**options).check()
    limits = limits_from_now(timeout, stall_timeout)
    target, checked = local_end(local_path, checked, is_upload=False)
    check_path("remote_path", remote_path)
    return copy("download", transport, remote_path, target, checked, limits, progress)


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
