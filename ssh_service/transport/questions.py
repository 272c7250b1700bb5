"""Global requests and their answers, which carry no number: they are told apart by their order."""

from __future__ import annotations

import collections
from typing import Deque, Optional

from paramiko.message import Message

from ssh_service.transport.latch import Latch


class Question:
    """
    A global request that somebody waits for.

    Attributes
    ----------
    answer : Optional[Message]
        What the server says; None where it refuses, or the connection has ended.
    done : Latch
        Set when there is an answer, or none will come.
    """

    def __init__(self) -> None:
        self.answer: Optional[Message] = None
        self.done = Latch()


class Questions:
    """
    The global requests that are not answered yet, in order.

    paramiko has one event and one place for the answer, so that threads take each other's, and a
    keepalive's is taken for anybody's (fault G33).

    Notes
    -----
    Thread safety.  Every method may be called from any thread; `ask` in the order of sending.
    """

    def __init__(self) -> None:
        self._open: Deque[Optional[Question]] = collections.deque()

    def ask(self, question: Optional[Question]) -> None:
        """Take note that a request is being sent; None where nobody waits for the answer."""
        self._open.append(question)

    def answered(self, answer: Optional[Message]) -> None:
        """Give an answer to whoever waits for it."""
        try:
            question = self._open.popleft()
        except IndexError:
            return  # nobody asked
        if question is not None:
            question.answer = answer
            question.done.set()

    def end(self) -> None:
        """Release all who wait: no answer will come."""
        while self._open:
            self.answered(None)
