"""Requests to the script of `scripts.serve`, and the parsing of its answers."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from ssh_service.jobs.record import Seen, parse
from ssh_service.transport.lock_free import LockFreeEvent

# The block size in which output is read, in bytes, and the number of blocks per read.
BLOCK = 64 * 1024
MAX_BLOCKS = 16


class Garbled(Exception):
    """An answer that cannot be parsed; its text shows it."""


class Question:
    """
    A request of one line to the script, and its answer.

    Attributes
    ----------
    line : str
        The request.
    settled : LockFreeEvent
        Set once there is an answer or an error.
    answer : Any
        The parsed answer.
    error : Optional[BaseException]
        The reason why there is no answer.

    Notes
    -----
    Thread safety.  `feed` and `settle` run on the strand of the session.
    """

    def __init__(self, line: str) -> None:
        self.line = line
        self.settled = LockFreeEvent()
        self.answer: Any = None
        self.error: Optional[BaseException] = None

    def feed(self, data: bytearray) -> bool:
        """
        Remove the answer from the beginning of `data`; return False if it is incomplete.

        Raises
        ------
        Garbled
            It is not an answer to this question.
        """
        raise NotImplementedError

    def settle(self, error: Optional[BaseException] = None) -> None:
        """Wake the waiting thread, with the answer or an error."""
        self.error = error
        self.settled.set()


class Look(Question):
    """
    Asks for the states of jobs.  The answer is a list of `Seen`.

    Attributes
    ----------
    refusal : str
        Why the host cannot answer about jobs that are not in the list; may be empty.
    """

    def __init__(self, job_ids: Sequence[str]) -> None:
        super().__init__(f"look {' '.join(job_ids)}\n")
        self.refusal = ""

    def feed(self, data: bytearray) -> bool:
        """See the base class."""
        end = 0 if data.startswith(b".\n") else data.find(b"\n.\n") + 1
        if not end and not data.startswith(b".\n"):
            return False
        lines = data[:end].decode("ascii", "replace").splitlines()
        del data[: end + 2]
        self.answer = [seen for seen in map(parse, lines) if seen is not None]
        self.refusal = next((line[2:] for line in lines if line.startswith("! ")), "")
        return True


class Poll(Look):
    """Asks which of these jobs have stopped running.  The answer is a list of `Seen`."""

    def __init__(self, jobs: Sequence[Tuple[str, str, int]]) -> None:
        super().__init__([])
        self.line = f"poll {' '.join(f'{name} {token} {pid}' for name, token, pid in jobs)}\n"


class Piece(NamedTuple):
    """
    A part of a job's output.

    Attributes
    ----------
    size : int
        The total size of the output in bytes; -1 if it does not exist, -2 if that cannot be
        determined.
    data : bytes
        The bytes from the requested offset.
    """

    size: int
    data: bytes


class Read(Question):
    """Asks for output from an offset.  The answer is a `Piece`."""

    def __init__(self, job_id: str, token: str, stream: str, offset: int) -> None:
        block, self._skip = divmod(offset, BLOCK)
        super().__init__(f"read {job_id} {token} {stream} {block} {MAX_BLOCKS}\n")
        self._start = block * BLOCK

    def feed(self, data: bytearray) -> bool:
        """See the base class."""
        head, found, _ = data.partition(b"\n")
        if not found:
            return False
        _, count = _numbers(bytes(head), 2)
        begin, end = len(head) + 1, len(head) + 1 + count
        last = data.find(b"\n", end)
        if last < 0:
            return False
        (size,) = _numbers(bytes(data[end:last]), 1) or [-1]
        # A file that shrank while it was read was padded.
        real = max(0, min(count, size - self._start))
        self.answer = Piece(size, bytes(data[begin + self._skip : begin + real]))
        del data[: last + 1]
        return True


def _numbers(text: bytes, count: int) -> List[int]:
    words = bytes(text).split()
    try:
        found = [int(word) for word in words if len(word) < 19]
    except ValueError:
        found = []
    if len(found) != count or any(number < -2 for number in found):
        raise Garbled(f"{bytes(text)!r:.80}")
    return found


__all__ = ["BLOCK", "Garbled", "Look", "Piece", "Poll", "Question", "Read", "Seen"]
