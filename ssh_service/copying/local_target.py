"""
Where a download goes: local folders and files, written so that no server can reach outside.

A folder is held open and everything in it is reached through its descriptor; a symbolic link is
never followed by accident.  The links that the local user made inside the target tree are
followed where they stay inside it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import NamedTuple, Optional, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.failures import local_error, shown
from ssh_service.copying.local_source import digest_here, not_a_file
from ssh_service.copying.protocol import Attributes, Pieces
from ssh_service.errors import transfer_error

__all__ = ["TargetFile", "TargetFolder", "TargetTree"]

_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | _CLOEXEC
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _CLOEXEC
_OLD_FILE_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | _CLOEXEC
_PRIVATE = 0o600
# What a file is copied by when it cannot be renamed.
_PIECE = 1024 * 1024
# Zeros, from how many on there is no use in writing them where nothing was before.
_LEAST_HOLE = 64 * 1024
_ZEROS = bytes(_LEAST_HOLE)

# The names that lead from a tree's root to one of its folders.
Names = Tuple[bytes, ...]


class TargetFolder:
    """
    A local folder, held open while anything is written into it.

    Attributes
    ----------
    fd : int
        Its descriptor.
    path : bytes
        Its path, for errors.
    is_new : bool
        Whether this copy made it, so that nothing can stand in the way in there.
    root : Optional[bytes]
        The real path that symbolic links met in here must not leave; None: they may lead anywhere.
    """

    def __init__(
        self, fd: int, path: bytes, is_new: bool = False, root: Optional[bytes] = None
    ) -> None:
        self.fd = fd
        self.path = path
        self.is_new = is_new
        self.root = root
        self._users = 1

    def hold(self) -> None:
        """Keep it open for one more user."""
        self._users += 1

    def release(self) -> None:
        """Let it be closed, once for each user."""
        self._users -= 1
        if not self._users:
            os.close(self.fd)

    def sweep(self, keep_young: bool) -> None:
        """Remove what dead copies left in it; but what a copy may resume, only after a day."""
        now = time.time()
        try:
            names = [os.fsencode(name) for name in os.listdir(self.fd)]
        except OSError:
            return  # nothing the copy depends on
        for name in names:
            if temporary.parse(name) is None:
                continue
            try:
                age = now - os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mtime
                if keep_young and age < temporary.OTHERS_KEPT:
                    continue
                if temporary.names.is_litter(name, age):
                    os.unlink(name, dir_fd=self.fd)
            except OSError:
                pass  # somebody else was faster, or may and we may not


def open_parent(target: bytes) -> Tuple[TargetFolder, bytes]:
    """
    Open the folder that holds a file the local user named, following the user's own links.

    Parameters
    ----------
    target : bytes
        The path of the file.

    Returns
    -------
    Tuple[TargetFolder, bytes]
        The folder, and the file's name in it.
    """
    path = os.path.realpath(target) if os.path.islink(target) else target
    folder, name = os.path.split(path)
    try:
        return TargetFolder(os.open(folder or b".", _FOLDER_FLAGS), folder or b"."), name
    except OSError as error:
        raise local_error(error, target) from error


class TargetTree:
    """
    A local tree that a download writes into.

    Parameters
    ----------
    path : bytes
        The path of its root; made if it does not exist, but not its parents.
    mode : int
        The mode to make it with.
    """

    def __init__(self, path: bytes, mode: int) -> None:
        try:
            self._is_new = _make(path, mode, None)
            fd = os.open(path, _FOLDER_FLAGS)
        except OSError as error:
            raise local_error(error, path) from error
        self._root = TargetFolder(fd, path, self._is_new, os.path.realpath(path))

    def close(self) -> None:
        """Close the root; folders that are in use stay open."""
        self._root.release()

    def make_folder(self, names: Names, mode: int) -> TargetFolder:
        """
        Make a folder, or take the one that is there, and open it.

        Parameters
        ----------
        names : Names
            Where, from the root; all but the last exist.
        mode : int
            The mode to make it with.

        Returns
        -------
        TargetFolder
            To be released.
        """
        if not names:
            self._root.hold()
            return self._root
        parent = self.open_folder(names[:-1])
        try:
            is_new = _make(names[-1], mode, parent.fd)
        except OSError as error:
            raise local_error(error, self._path(names)) from error
        finally:
            parent.release()
        folder = self.open_folder(names)
        folder.is_new = is_new
        return folder

    def open_folder(self, names: Names, links: int = 0) -> TargetFolder:
        """
        Open a folder of the tree, step by step, so that none of the steps leads outside.

        Parameters
        ----------
        names : Names
            The way from the root.
        links : int
            How many symbolic links were followed so far.

        Returns
        -------
        TargetFolder
            To be released.
        """
        fd = os.dup(self._root.fd)
        try:
            for count, name in enumerate(names, 1):
                try:
                    inner = os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
                except OSError as error:
                    if not _is_link(name, fd):
                        raise local_error(error, self._path(names[:count])) from error
                    way = self._way_inside(names[:count], links)
                    return self.open_folder(way + names[count:], links + 1)
                os.close(fd)
                fd = inner
            result, fd = TargetFolder(fd, self._path(names), root=self._root.root), -1
            return result
        finally:
            if fd >= 0:
                os.close(fd)

    def _way_inside(self, names: Names, links: int) -> Names:
        path = self._path(names)
        way = way_inside(self._root.root or b"/", path)
        if way is None or links > 40:
            raise transfer_error(
                errno.ELOOP, shown(path), "a local symbolic link that leads out of the target"
            )
        return way

    def _path(self, names: Names) -> bytes:
        return os.path.join(self._root.path, *names)


def way_inside(root: bytes, path: bytes) -> Optional[Names]:
    """Give the way from a real root to what a path leads to; None if that lies outside."""
    real = os.path.realpath(path)
    if real == root:
        return ()
    prefix = root.rstrip(b"/") + b"/"
    return tuple(real[len(prefix) :].split(b"/")) if real.startswith(prefix) else None


def _make(path: bytes, mode: int, fd: Optional[int]) -> bool:
    """Make a folder; False if there is one."""
    try:
        os.mkdir(path, mode | stat.S_IRWXU, dir_fd=fd)
        return True
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=fd).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        return False


def _is_link(name: bytes, fd: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except OSError:
        return False


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
        self._existing = _Existing(found.st_uid, found.st_gid, stat.S_ISREG(found.st_mode))

    def _follow_link(self) -> None:
        real = os.path.realpath(self.path)
        root = self._folder.root
        if root is not None and way_inside(root, self.path) is None:
            raise OSError(errno.ELOOP, "a local symbolic link that leads out of the target")
        folder, self._name = os.path.split(real)
        fd = os.open(folder, _FOLDER_FLAGS | os.O_NOFOLLOW)
        self._own_folder = self._folder = TargetFolder(fd, folder, root=root)

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
        digest = temporary.target_digest(self._name).decode()
        found = []
        for other in map(os.fsencode, os.listdir(fd)):
            parsed = temporary.parse(other)
            if parsed is not None and parsed.target == digest:
                # Its age does not matter: see `leftovers.claim_leftover`.
                status = os.stat(other, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and temporary.names.is_litter(other, 0):
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
                return digest_here(fd, size)
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
            Mode and times; what is None is left alone.
        fsync : bool
            Whether to have it written to the disk.
        """
        try:
            if self._existing is None or self._existing.is_file:
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

    def _set(self, attributes: Attributes) -> None:
        try:
            if attributes.mode is not None:
                os.fchmod(self._fd, stat.S_IMODE(attributes.mode))
            if attributes.atime is not None and attributes.mtime is not None:
                os.utime(self._fd, (attributes.atime, attributes.mtime))
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
            if self._existing is None or error.errno not in (
                errno.EBUSY,
                errno.EXDEV,
                errno.EPERM,
                errno.EACCES,
            ):
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
