"""A local file that a download writes under a temporary name and then renames."""

from __future__ import annotations

import errno
import math
import os
import stat
import time
from typing import Callable, Iterator, Optional, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.failures import local_error, not_a_file_error
from ssh_service.copying.local.descriptors import (
    Descriptor,
    current_umask,
    digest_of,
    set_attributes,
)
from ssh_service.copying.local.positions import read_at, write_at
from ssh_service.copying.local.system import files
from ssh_service.copying.local.target_folder import (
    TargetFolder,
    Unfinished,
    check_target,
    follow_links,
    open_real,
    replaces_link,
)
from ssh_service.copying.ownership import is_our_file, may_use, owner_and_mode
from ssh_service.copying.paths import is_within, real_path
from ssh_service.copying.sftp.protocol import Attributes, Pieces
from ssh_service.interruptions import raise_interruption

__all__ = ["TargetFile", "digest_at", "remove_stale_parts", "find_file"]

_NEW_FILE_FLAGS = files.O_RDWR | files.O_CREAT | files.O_EXCL | files.O_NOFOLLOW
_STALE_FILE_FLAGS = files.O_RDWR | files.O_NOFOLLOW | files.O_NONBLOCK
_OLD_FILE_FLAGS = files.O_WRONLY | files.O_NOFOLLOW | files.O_NONBLOCK
_PRIVATE_MODE = 0o600
# The errors for files that cannot be replaced but may be writable, such as a mount point.
_NOT_REPLACEABLE = (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES)
# The chunk size for copying over a file that cannot be replaced.
_CHUNK_SIZE = 1024 * 1024
# Runs of zeros of at least this size are not written, if nothing was written there before.
_MIN_HOLE = 64 * 1024
_ZEROS = bytes(_MIN_HOLE)


def _is_zero(pieces: Pieces) -> bool:
    for piece in pieces:
        for at in range(0, len(piece), _MIN_HOLE):
            if piece[at]:  # a quick test that rejects most other data
                return False
            part = bytes(piece[at : at + _MIN_HOLE])  # compares faster than a memoryview
            if part != _ZEROS[: len(part)]:
                return False
    return True


class TargetFile(Unfinished):
    """
    One local file that a download writes.

    Parameters
    ----------
    folder : TargetFolder
        The target folder; the caller keeps it open.
    name : bytes
        The name in the folder.
    resume : bool
        Whether to resume the unfinished file of an earlier copy, and to keep it if interrupted.
    size : int
        The number of bytes to be written; 0 if unknown.
    is_planned : bool
        Whether the target is only examined; nothing is opened or created.

    Attributes
    ----------
    path : bytes
        The path, for errors.
    resumed_size : int
        The number of bytes from an earlier copy, not verified yet.
    has_foreign_parts : bool
        Whether there seems to be an unfinished file that may belong to another user.
    """

    def __init__(
        self,
        folder: TargetFolder,
        name: bytes,
        resume: bool = False,
        size: int = 0,
        is_planned: bool = False,
    ) -> None:
        self._resume = resume
        self._size = size
        self.resumed_size = 0
        self.has_foreign_parts = False
        self._registered_in = self._folder = folder
        self._linked_folder: Optional[TargetFolder] = None  # the folder that a link led to
        self._name = name
        self.path = os.path.join(folder.path, name)
        self._temporary: Optional[bytes] = None
        self._file = Descriptor()
        self._end = 0  # of the data written so far
        self._existing: Optional[Attributes] = None
        folder.unfinished.add(self)  # before anything is created, so that nothing is leaked
        try:
            if not folder.is_new:
                self._examine_existing()
            if not is_planned:
                self._open()
        except OSError as error:
            self.discard()
            raise local_error(error, self.path) from error

    def _examine_existing(self) -> None:
        """Examine what exists at the target, and follow a link of the user."""
        try:
            found = files.stat(self._name, dir_fd=self._folder.fd, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode) and replaces_link(self.path, self._folder):
                check_target(self.path, owner_and_mode(found), self._folder.attributes)
                return  # the rename will replace it
            if stat.S_ISLNK(found.st_mode):
                self._follow_link()
                found = files.stat(self._name, dir_fd=self._folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._existing = owner_and_mode(found)
        check_target(self.path, self._existing, self._folder.attributes)

    def _follow_link(self) -> None:
        # Use the path that was checked: a link that another user creates in the meantime is not
        # followed.
        path = follow_links(self.path)
        folder, self._name = os.path.split(path)
        folder = real_path(folder or b".")
        root = self._folder.root
        if root is not None and not is_within(os.path.join(folder, self._name), root):
            raise OSError(errno.ELOOP, "a local symbolic link that leads out of the target")
        self._linked_folder = self._folder = open_real(folder, root)

    def _open(self) -> None:
        existing = self._existing
        if self.is_device:
            self._open_existing()  # devices are written to, never replaced
            return
        self._temporary = temporary.names.new(self._name)
        try:
            if not (self._resume and self._claim_stale_part(self._temporary)):
                self._file.open(self._temporary, _NEW_FILE_FLAGS, _PRIVATE_MODE, self._folder.fd)
        except OSError as error:
            self._release_name()
            if existing is None or error.errno not in (errno.EACCES, errno.EPERM):
                raise
            self._open_existing()
            return
        if existing is not None and not self._keep_owner(existing):
            self.discard_temporary()
            self._open_existing()

    def _claim_stale_part(self, name: bytes) -> bool:
        """Take over an unfinished file of an earlier copy to this target, by renaming it."""
        fd, uid = self._folder.fd, files.geteuid()
        found = []
        for other, status in _stale_parts(self._folder, self._name):
            if is_our_file(owner_and_mode(status), uid, status.st_nlink):
                found.append((status.st_size, other))
            else:
                self.has_foreign_parts = True
        for _, other in sorted(found, reverse=True):
            left = Descriptor()
            try:
                left.open(other, _STALE_FILE_FLAGS, dir_fd=fd)
                status = files.fstat(left.fd)  # of the file that is actually open
                if not is_our_file(owner_and_mode(status), uid, status.st_nlink):
                    continue
                files.rename(other, name, src_dir_fd=fd, dst_dir_fd=fd)
            except OSError as error:
                raise_interruption(error)
                continue  # another copy has been faster
            self._file, self._end = left, status.st_size
            self.resumed_size = self._end
            return True
        return False

    def digest(self, size: int) -> bytes:
        """Return the digest of the first `size` bytes, as read now."""
        try:
            if self._temporary is not None:
                return digest_of(self._file.fd, size)
        except OSError as error:
            raise local_error(error, self.path) from error
        return digest_at(self._folder, self._name, size)

    def restart(self, size: int) -> None:
        """Truncate the file to `size` bytes, to continue from there."""
        self.resumed_size = self._end = size
        os.ftruncate(self._file.fd, size)

    def keep(self) -> None:
        """Close the file; keep it for the next copy if it may be resumed."""
        if self._resume and self._temporary is not None:
            self._release_name()
        self.discard()

    @property
    def exists(self) -> bool:
        """Whether there is a file that would be overwritten."""
        return self._existing is not None

    @property
    def is_device(self) -> bool:
        """Whether the target is not a regular file, and cannot be read back."""
        return self._existing is not None and not stat.S_ISREG(self._existing.mode or 0)

    def _keep_owner(self, existing: Attributes) -> bool:
        own = files.fstat(self._file.fd)
        if (own.st_uid, own.st_gid) == (existing.uid, existing.gid):
            return True
        try:
            files.fchown(self._file.fd, existing.uid or 0, existing.gid or 0)
        except OSError as error:
            raise_interruption(error)
            return own.st_uid == existing.uid  # the owner is right, even if the group is not
        return True

    def _open_existing(self) -> None:
        self._file.open(self._name, _OLD_FILE_FLAGS, dir_fd=self._folder.fd)
        files.set_blocking(self._file.fd, True)
        found = files.fstat(self._file.fd)
        check_target(self.path, owner_and_mode(found), self._folder.attributes)
        if stat.S_ISREG(found.st_mode):
            self._check_room(found.st_size)
            os.ftruncate(self._file.fd, 0)
        elif not stat.S_ISCHR(found.st_mode):
            raise not_a_file_error(self.path, found.st_mode, "local")

    def _check_room(self, old_size: int) -> None:
        """Raise an error if the disk is too small, before the old content is lost in vain."""
        if not files.geteuid():
            return
        space = os.fstatvfs(self._file.fd)
        if self._size - old_size > space.f_bavail * space.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, offset: int, pieces: Pieces) -> None:
        """Write `pieces` at `offset`; long runs of zeros become a hole."""
        end = offset + sum(map(len, pieces))
        try:
            if end - offset >= _MIN_HOLE and not self.is_device and _is_zero(pieces):
                if end > self._end:
                    os.ftruncate(self._file.fd, end)
                pieces = []
            self._end = max(self._end, end)
            while pieces:
                count = write_at(self._file.fd, pieces, offset)
                offset += count
                while pieces and count >= len(pieces[0]):
                    count -= len(pieces[0])
                    pieces = pieces[1:]
                if count:
                    pieces = [pieces[0][count:], *pieces[1:]]
        except OSError as error:
            raise local_error(error, self.path) from error

    def finish(
        self, attributes: Attributes, fsync: bool, on_refused: Callable[[bytes, OSError], None]
    ) -> None:
        """
        Set the attributes and rename the file.

        Parameters
        ----------
        attributes : Attributes
            Mode and times; without a mode, the mode of the existing file, or of new files, is
            used.
        fsync : bool
            Whether to flush the file to the disk.
        on_refused : Callable[[bytes, OSError], None]
            Called with the path if attributes cannot be set; may raise.
        """
        try:
            if not self.is_device:
                if attributes.mode is None:
                    attributes = attributes._replace(mode=self._usual_mode())
                error = set_attributes(self._file.fd, attributes)
                if error is not None:
                    on_refused(self.path, error)
            if fsync:
                files.fsync(self._file.fd)
            if self._temporary is not None:
                self._rename(self._temporary)
                if fsync:
                    self._folder.sync()
        except OSError as error:
            raise local_error(error, self.path) from error
        finally:
            self.discard()

    def _usual_mode(self) -> int:
        existing = self._existing
        return 0o666 & ~current_umask() if existing is None else (existing.mode or 0) & 0o777

    def _rename(self, written: bytes) -> None:
        fd = self._folder.fd
        try:
            files.rename(written, self._name, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError as error:
            if self._existing is None or error.errno not in _NOT_REPLACEABLE:
                raise
            self._copy_over()
            return
        self._release_name()

    def _release_name(self) -> None:
        if self._temporary is not None:
            temporary.names.release(self._temporary)  # first: an interrupt may occur in between
            self._temporary = None

    def _copy_over(self) -> None:
        """Overwrite a target that cannot be replaced by a rename, such as a mount point."""
        source, self._file = self._file, Descriptor()
        written = files.fstat(source.fd)
        self._size = written.st_size
        self._open_existing()
        buffer, offset = memoryview(bytearray(_CHUNK_SIZE)), 0
        while True:
            count = read_at(source.fd, buffer, offset)
            if not count:
                break
            data = buffer[:count]
            offset += count
            while data:
                data = data[os.write(self._file.fd, data) :]
        mode, times = stat.S_IMODE(written.st_mode), (written.st_atime_ns, written.st_mtime_ns)
        try:
            files.fchmod(self._file.fd, mode)
            files.utime(self._file.fd, ns=times)
        except PermissionError:
            pass  # the file belongs to another user: keep its attributes

    def discard(self) -> None:
        """Close the file, and remove it if it is unfinished; may be called more than once."""
        self.discard_temporary()
        self._file.close()
        if self._linked_folder is not None:
            self._linked_folder.release()
            self._linked_folder = None
        self._registered_in.unfinished.discard(self)

    def discard_temporary(self) -> None:
        """Remove the unfinished file."""
        if self._temporary is None:
            return
        self._file.close()
        try:
            files.unlink(self._temporary, dir_fd=self._folder.fd)
        except OSError as error:
            # It was never created; or it is stale now, and a later copy removes it.
            raise_interruption(error)
        finally:
            self._release_name()


def _stale_parts(folder: TargetFolder, name: bytes) -> Iterator[Tuple[bytes, os.stat_result]]:
    """Yield the files of any owner that dead copies to a target seem to have left."""
    for other in folder.unfinished_names():
        if not temporary.names.is_resumable_for(other, name, math.inf):
            continue
        try:
            status = files.stat(other, dir_fd=folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            continue  # another copy has been faster
        if temporary.names.is_resumable_for(other, name, time.time() - status.st_mtime):
            yield other, status


def remove_stale_parts(folder: TargetFolder, name: bytes) -> None:
    """Remove the unfinished files of a target that is complete."""
    for other, status in _stale_parts(folder, name):
        try:
            if is_our_file(owner_and_mode(status), files.geteuid(), status.st_nlink):
                files.unlink(other, dir_fd=folder.fd)
        except OSError as error:
            raise_interruption(error)  # another copy has been faster, or we have no permission


def find_file(folder: TargetFolder, name: bytes) -> Optional[os.stat_result]:
    """Return the status of a regular file that may be used; None if there is none."""
    try:
        found = files.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except OSError as error:
        raise_interruption(error)
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    # A file of another user may look like the source and have other content.
    return found if may_use(owner_and_mode(found), folder.attributes, files.geteuid()) else None


def digest_at(folder: TargetFolder, name: bytes, size: int) -> bytes:
    """Return the digest of the first `size` bytes of a file in a folder."""
    file = Descriptor()
    try:
        file.open(name, files.O_RDONLY | files.O_NOFOLLOW, dir_fd=folder.fd)
        return digest_of(file.fd, size)
    except OSError as error:
        raise local_error(error, os.path.join(folder.path, name)) from error
