"""
The system's files, for the local side of copies.

`files` is `os` itself where folders have descriptors, and a substitute for it on Windows.
`HAS_MODES` is whether files have the modes of POSIX.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    from ssh_service.copying.local import path_files as files
    from ssh_service.copying.local.path_files import comparable, is_usable

    HAS_MODES = False
else:
    import os as files

    HAS_MODES = True

    def is_usable(name: bytes) -> bool:
        """Return whether a file can have a name that a server sent."""
        return True

    def comparable(name: bytes) -> bytes:
        """Return what is equal for two names of one file."""
        return name


__all__ = ["HAS_MODES", "comparable", "files", "is_usable"]
