"""Facts that copies have learned about a server; kept with its SFTP session for later copies."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NamedTuple, Optional, Set

__all__ = ["Feature", "RemoteIdentity", "ServerFacts"]

# Seconds after which a missing feature is tried again, as it may have been installed.
MISSING_TTL = 600.0


class RemoteIdentity(NamedTuple):
    """Our user on a server, and the server's clock, determined from a file just created."""

    uid: Optional[int] = None  # None: the server reports no owners
    is_proven: bool = False  # the server has reported different owners for different files
    sets_modes: bool = True  # the server allows changing the mode of a file
    time: int = 0  # the server's clock ...
    at: float = 0.0  # ... at this time of our monotonic clock

    @property
    def now(self) -> float:
        """The server's clock, now."""
        return self.time + time.monotonic() - self.at


class Feature:
    """A feature that a server may lack; after a failure, it counts as missing for some minutes."""

    def __init__(self) -> None:
        self._failed_at: Optional[float] = None

    @property
    def is_missing(self) -> bool:
        """Whether the feature was found missing in the last minutes."""
        return self._failed_at is not None and time.monotonic() - self._failed_at < MISSING_TTL

    def mark_missing(self) -> None:
        """Treat the feature as missing for some minutes."""
        self._failed_at = time.monotonic()


@dataclasses.dataclass
class ServerFacts:
    """The facts that the copies of one session have learned about the server."""

    connection_id: str = ""
    identity: Optional[RemoteIdentity] = None  # None: not known yet
    rename_replaces: bool = True  # a plain SSH_FXP_RENAME replaces an existing file
    symlink_path_first: Optional[bool] = None  # the order in SSH_FXP_SYMLINK; None: not known yet
    symlink_probe: Any = None  # the `TaskEvent` of the copy that is determining this order
    resolves_links: Optional[bool] = None  # also in LSTAT and RENAME; None: not known yet
    cleaned_folders: Set[bytes] = dataclasses.field(default_factory=set)  # of stale files
    shell: Feature = dataclasses.field(default_factory=Feature)
    tar: Feature = dataclasses.field(default_factory=Feature)
