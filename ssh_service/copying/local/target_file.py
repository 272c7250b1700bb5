"""A local file that a download writes: beside its place, then renamed over what is there."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple, Optional

from ssh_service.copying import temporary
from ssh_service.copying.failures import local_error, not_a_file
from ssh_service.copying.local.descriptors import current_umask, digest_of, set_attributes
from ssh_service.copying.local.target_folder import TargetFolder, open_real, way_inside
from ssh_service.copying.sftp.protocol import Attributes, Pieces

__all__ = ["TargetFile"]

_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _CLOEXEC
_OLD_FILE_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | _CLOEXEC
_PRIVATE = 0o600
# What says that a file cannot be replaced, though it may be written into: a mount point, say.
_NOT_REPLACED = (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES)
# What a file is copied by when it cannot be renamed.
_PIECE = 1024 * 1024
# Zeros, from how many on there is no use in writing them where nothing was before.
_LEAST_HOLE = 64 * 1024
_ZEROS = bytes(_LEAST_HOLE)


def _is_zero(pieces: Pieces) -> bool:
    for piece in pieces:
        for at in range(0, len(piece), _LEAST_HOLE):
            if piece[at]:  # what most other data is told by
                return False
            part = bytes(piece[at : at + _LEAST_HOLE])  # compares at once, which a view does not
            if part != _ZEROS[: len(part)]:
                return False
    return True


class _Existing(NamedTuple):
    uid: int
    gid: int
    is_file: bool
    mode: int


class TargetFile:
    """
    One local file that a download writes: beside its place, then renamed over it.

    Parameters
    ----------
    folder : TargetFolder
        Where it goes; to be kept open meanwhile.
    name : bytes
        Its name in there.
    resume : bool
        Whether to go on with what an earlier, interrupted copy left, and to leave what there is
        when this one is interrupted.

    Attributes
    ----------
    path : bytes
        Its path, for errors.
    present : int
        How many bytes an earlier copy left; nobody knows yet whether they are right.
    """

    def __init__(self, folder: TargetFolder, name: bytes, resume: bool = False) -> None:
        self._resume = resume
        self.present = 0
        self._folder = folder
        self._own_folder: Optional[TargetFolder] = None  # where a link led to
        self._name = name
        self.path = os.path.join(folder.path, name)
        self._temporary: Optional[bytes] = None
        self._fd = -1
        self._end = 0  # of what was written so far
        self._existing: Optional[_Existing] = None
        try:
            if not folder.is_new:
                self._look()
            self._open()
        except OSError as error:
            self.discard()
            raise local_error(error, self.path) from error

    def _look(self) -> None:
        """Find what stands in its place, and follow a link of the user's."""
        try:
            found = os.stat(self._name, dir_fd=self._folder.fd, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                self._follow_link()
                found = os.stat(self._name, dir_fd=self._folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._existing = _Existing(
            found.st_uid, found.st_gid, stat.S_ISREG(found.st_mode), stat.S_IMODE(found.st_mode)
        )

    def _follow_link(self) -> None:
        real = os.path.realpath(self.path)
        root = self._folder.root
        if root is not None and way_inside(root, self.path) is None:
            raise OSError(errno.ELOOP, "a local symbolic link that leads out of the target")
        folder, self._name = os.path.split(real)
        self._own_folder = self._folder = open_real(folder, root)

    def _open(self) -> None:
        existing = self._existing
        if existing is not None and not existing.is_file:
            self._open_existing()  # a device, say: it is written to, never replaced
            return
        name = temporary.names.new(self._name)
        try:
            flags = _NEW_FILE_FLAGS
            if self._resume and self._claim_leftover(name):
                flags = _OLD_FILE_FLAGS
            self._fd = os.open(name, flags, _PRIVATE, dir_fd=self._folder.fd)
        except OSError as error:
            temporary.names.release(name)
            if existing is None or error.errno not in (errno.EACCES, errno.EPERM):
                raise
            self._open_existing()
            return
        self._temporary = name
        if existing is not None and not self._keep_owner(existing):
            self.discard_temporary()
            self._open_existing()

    def _claim_leftover(self, name: bytes) -> bool:
        """Take over what an earlier copy to the same target left, by renaming it."""
        fd = self._folder.fd
        found = []
        for other in map(os.fsencode, os.listdir(fd)):
            if temporary.names.is_left_of(other, self._name):
                status = os.stat(other, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_size, other))
        if not found:
            return False
        self.present, other = max(found)
        self._end = self.present
        os.rename(other, name, src_dir_fd=fd, dst_dir_fd=fd)
        return True

    def digest(self, size: int) -> bytes:
        """Give the digest of the first `size` bytes, as they can be read now."""
        try:
            name = self._temporary or self._name
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | _CLOEXEC, dir_fd=self._folder.fd)
            try:
                return digest_of(fd, size)
            finally:
                os.close(fd)
        except OSError as error:
            raise local_error(error, self.path) from error

    def restart(self, size: int) -> None:
        """Drop all after the first `size` bytes."""
        self.present = self._end = size
        os.ftruncate(self._fd, size)

    def keep(self) -> None:
        """Close it, and leave what there is to the next copy, if it may resume."""
        if self._resume and self._temporary is not None:
            temporary.names.release(self._temporary)
            self._temporary = None
        self.discard()

    @property
    def is_device(self) -> bool:
        """Whether it is none that could be read again."""
        return self._existing is not None and not self._existing.is_file

    def _keep_owner(self, existing: _Existing) -> bool:
        own = os.fstat(self._fd)
        if (own.st_uid, own.st_gid) == (existing.uid, existing.gid):
            return True
        try:
            os.fchown(self._fd, existing.uid, existing.gid)
        except OSError:
            return False
        return True

    def _open_existing(self) -> None:
        self._fd = os.open(self._name, _OLD_FILE_FLAGS, dir_fd=self._folder.fd)
        os.set_blocking(self._fd, True)
        found = os.fstat(self._fd)
        if stat.S_ISREG(found.st_mode):
            os.ftruncate(self._fd, 0)
        elif not stat.S_ISCHR(found.st_mode):
            raise not_a_file(self.path, found.st_mode)

    def write(self, offset: int, pieces: Pieces) -> None:
        """Write `pieces`, one after the other, from `offset` on; a hole for nothing but zeros."""
        end = offset + sum(map(len, pieces))
        try:
            if end - offset >= _LEAST_HOLE and not self.is_device and _is_zero(pieces):
                if end > self._end:
                    os.ftruncate(self._fd, end)
                pieces = []
            self._end = max(self._end, end)
            while pieces:
                count = os.pwritev(self._fd, pieces, offset)
                offset += count
                while pieces and count >= len(pieces[0]):
                    count -= len(pieces[0])
                    pieces = pieces[1:]
                if count:
                    pieces = [pieces[0][count:], *pieces[1:]]
        except OSError as error:
            raise local_error(error, self.path) from error

    def finish(self, attributes: Attributes, fsync: bool) -> None:
        """
        Give it its attributes and its name.

        Parameters
        ----------
        attributes : Attributes
            Mode and times; without a mode, it has that of what it replaces, or of new files.
        fsync : bool
            Whether to have it written to the disk.
        """
        try:
            if self._existing is None or self._existing.is_file:
                if attributes.mode is None:
                    attributes = attributes._replace(mode=self._usual_mode())
                self._set(attributes)
            if fsync:
                os.fsync(self._fd)
            if self._temporary is not None:
                self._rename()
                if fsync:
                    os.fsync(self._folder.fd)
        except OSError as error:
            raise local_error(error, self.path) from error
        finally:
            self.discard()

    def _usual_mode(self) -> int:
        return 0o666 & ~current_umask() if self._existing is None else self._existing.mode

    def _set(self, attributes: Attributes) -> None:
        try:
            set_attributes(self._fd, attributes)
        except PermissionError:
            if self._temporary is not None:
                raise
            # Written into somebody else's file, which is theirs to describe.

    def _rename(self) -> None:
        assert self._temporary is not None
        fd = self._folder.fd
        try:
            os.rename(self._temporary, self._name, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError as error:
            if self._existing is None or error.errno not in _NOT_REPLACED:
                raise
            self._copy_over()
            return
        temporary.names.release(self._temporary)
        self._temporary = None

    def _copy_over(self) -> None:
        """Write into what cannot be renamed over: a mount point, say."""
        assert self._temporary is not None
        written = os.fstat(self._fd)
        source = os.open(self._temporary, os.O_RDONLY | _CLOEXEC, dir_fd=self._folder.fd)
        os.close(self._fd)
        self._fd = -1
        try:
            self._open_existing()
            while True:
                data = os.read(source, _PIECE)
                if not data:
                    break
                view = memoryview(data)
                while view:
                    view = view[os.write(self._fd, view) :]
            self._set(Attributes(mode=written.st_mode))
            os.utime(self._fd, ns=(written.st_atime_ns, written.st_mtime_ns))
        finally:
            os.close(source)

    def discard(self) -> None:
        """Close it, and remove what is unfinished; may be called more than once."""
        self.discard_temporary()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._own_folder is not None:
            self._own_folder.release()
            self._own_folder = None

    def discard_temporary(self) -> None:
        """Remove what is unfinished."""
        if self._temporary is None:
            return
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        try:
            os.unlink(self._temporary, dir_fd=self._folder.fd)
        except OSError:
            pass  # it is litter now: the next run removes it
        temporary.names.release(self._temporary)
        self._temporary = None
