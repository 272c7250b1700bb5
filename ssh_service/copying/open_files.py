"""The limit on local files that the copies of this process hold open."""

from __future__ import annotations

import os

try:
    import resource
except ImportError:  # a system without such limits
    resource = None  # type: ignore[assignment]

from ssh_service.copying.sftp.usage import UsageTotal

__all__ = ["OpenFiles", "open_files"]

# Copies hold at most one file per this many descriptors of the process: a downloaded file also
# needs its folder's descriptor, and the rest of the program needs its own.
_DESCRIPTOR_SHARE = 3
_MIN_OPEN_FILES = 8


class OpenFiles:
    """The files that copies hold open."""

    def __init__(self) -> None:
        self.usage = UsageTotal()

    @property
    def limit(self) -> float:
        """The maximum number; computed each time, as a program may raise its limit."""
        if resource is None:
            return float("inf")
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (
            float("inf")
            if soft == resource.RLIM_INFINITY
            else max(_MIN_OPEN_FILES, soft // _DESCRIPTOR_SHARE)
        )

    def has_room(self) -> bool:
        """Return whether one more file may be opened."""
        return self.usage.used < self.limit

    def reset_after_fork(self) -> None:
        """Start empty: the copies belong to the parent process."""
        self.usage = UsageTotal()


open_files = OpenFiles()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=open_files.reset_after_fork)
