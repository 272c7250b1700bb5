"""How many local files all copies of this process may hold open, by what the system allows it."""

from __future__ import annotations

import os

try:
    import resource
except ImportError:  # a system without such limits
    resource = None  # type: ignore[assignment]

from ssh_service.copying.sftp.usage import UsageTotal

__all__ = ["OpenFiles", "open_files"]

# Of the descriptors that the process may have, copies take one in so many: a file that comes down
# takes its folder's, too, and the rest of the program needs its own.
_DESCRIPTOR_SHARE = 3
_MIN_OPEN_FILES = 8


class OpenFiles:
    """
    The files that copies hold open.

    Attributes
    ----------
    usage : UsageTotal
        Who holds them.
    """

    def __init__(self) -> None:
        self.usage = UsageTotal()

    @property
    def limit(self) -> float:
        """How many there may be; read anew each time, as a program may raise its limit."""
        if resource is None:
            return float("inf")
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (
            float("inf")
            if soft == resource.RLIM_INFINITY
            else max(_MIN_OPEN_FILES, soft // _DESCRIPTOR_SHARE)
        )

    def has_room(self) -> bool:
        """Return whether there may be one more."""
        return self.usage.used < self.limit

    def reset_after_fork(self) -> None:
        """Begin anew: the copies that hold any are the parent's."""
        self.usage = UsageTotal()


open_files = OpenFiles()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=open_files.reset_after_fork)
