"""Windows' own calls, for files that stay open while they are renamed."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Tuple

if sys.platform == "win32":
    import msvcrt
    from ctypes import wintypes

    _kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel.CreateFileW.restype = wintypes.HANDLE
    _kernel.CreateFileW.argtypes = [
        wintypes.LPCWSTR,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.LPVOID,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.HANDLE,
    ]
    _kernel.CloseHandle.argtypes = [wintypes.HANDLE]
    _kernel.SetFileTime.argtypes = [wintypes.HANDLE] + 3 * [ctypes.POINTER(wintypes.FILETIME)]

    _GENERIC_READ, _GENERIC_WRITE, _WRITE_ATTRIBUTES = 0x80000000, 0x40000000, 0x100
    _SHARE_ALL = 0x7  # also with those who rename or remove it
    _CREATE_NEW, _OPEN_EXISTING, _OPEN_ALWAYS = 1, 3, 4
    _NORMAL, _OPEN_LINK_ITSELF = 0x80, 0x00200000
    _INVALID = wintypes.HANDLE(-1).value
    # Seconds from 1601, where Windows' times begin, to 1970.
    _BEFORE_1970 = 11_644_473_600

    def open_file(path: bytes, flags: int) -> int:
        """Open a file, like `os.open`; unlike it, others may rename or remove the file."""
        access = _GENERIC_READ if not flags & os.O_WRONLY else 0
        if flags & (os.O_WRONLY | os.O_RDWR):
            access |= _GENERIC_WRITE | _WRITE_ATTRIBUTES
        way = _OPEN_EXISTING
        if flags & os.O_CREAT:
            way = _CREATE_NEW if flags & os.O_EXCL else _OPEN_ALWAYS
        # Otherwise, a file would be created where a link leads to.
        kind = _NORMAL | (_OPEN_LINK_ITSELF if way == _CREATE_NEW else 0)
        name = os.fsdecode(path)
        handle = _kernel.CreateFileW(name, access, _SHARE_ALL, None, way, kind, None)
        if handle == _INVALID:
            code = ctypes.get_last_error()
            raise OSError(None, ctypes.FormatError(code).strip(), name, code)
        kept = flags & (os.O_WRONLY | os.O_RDWR | os.O_APPEND)
        try:
            fd = msvcrt.open_osfhandle(handle, kept | os.O_BINARY | os.O_NOINHERIT)
        except BaseException:
            _kernel.CloseHandle(handle)
            raise
        return fd

    def set_times(fd: int, times: Tuple[float, float]) -> None:
        """Set the times of access and of the last change of an open file, in seconds."""
        atime, mtime = (wintypes.FILETIME(*_filetime(seconds)) for seconds in times)
        handle = msvcrt.get_osfhandle(fd)
        if not _kernel.SetFileTime(handle, None, ctypes.byref(atime), ctypes.byref(mtime)):
            raise ctypes.WinError(ctypes.get_last_error())

    def _filetime(seconds: float) -> Tuple[int, int]:
        ticks = int((seconds + _BEFORE_1970) * 10_000_000)
        return ticks & 0xFFFFFFFF, ticks >> 32
