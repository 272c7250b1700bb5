"""What a neighbour can be asked to do."""

from __future__ import annotations

from typing import List, Sequence

from benchmarks.target import Target

__all__ = ["Peer", "Unsupported"]


class Unsupported(Exception):
    """The neighbour has no such thing."""


class Peer:
    """
    One neighbour, with one connection to a server, which it keeps.

    Parameters
    ----------
    target : Target
        The server.

    Attributes
    ----------
    keeps_times : bool
        Whether its copies keep the times of files; where not, they have less to do.
    runs_commands : bool
        Whether it runs commands.
    copies, copies_trees, copies_again : bool
        Whether it copies at all, folders, too, and the content of one into another that has it.
    serves_threads : bool
        Whether threads can share it; where not, each gets one of its own.
    reads_much : bool
        Whether it takes large outputs in a time that is linear in their size.
    """

    name = ""
    keeps_times = True
    runs_commands = True
    copies = True
    copies_trees = True
    copies_again = False
    serves_threads = True
    reads_much = True

    def __init__(self, target: Target) -> None:
        self.target = target

    def __enter__(self) -> "Peer":
        self.connect()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        return ""

    def connect(self) -> None:
        """Make the connection."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection."""
        raise NotImplementedError

    def run(self, command: str) -> str:
        """Run a command; give its output."""
        raise NotImplementedError

    def read(self, command: str) -> int:
        """Run a command that writes much; give how many bytes of output were taken."""
        return len(self.run(command))

    def upload(self, local: str, remote: str) -> None:
        """Copy a file or a tree to a place that does not exist."""
        raise Unsupported

    def download(self, remote: str, local: str) -> None:
        """Copy a file or a tree from there to a place that does not exist."""
        raise Unsupported

    def upload_again(self, local: str, remote: str, everything: bool) -> None:
        """Copy a folder's content there again: everything, or only what differs."""
        raise Unsupported

    def download_again(self, remote: str, local: str, everything: bool) -> None:
        """Copy a folder's content here again."""
        raise Unsupported

    @classmethod
    def dial_all(cls, targets: Sequence[Target], command: str) -> List[str]:
        """Run a command on many hosts at once, beginning without any connection."""
        raise Unsupported
