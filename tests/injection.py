"""
An exception of a signal's handler (Ctrl-C), or one thrown into a thread, anywhere in a call.

Where CPython looks for signals: from 3.10 on, after a call returned, where a function begins, and
where a loop turns.  It never does so between a ``with`` statement and its block, nor between the
block and the exit, so the ``with`` of a plain lock cannot be torn; any ``__enter__`` or
``__exit__`` that is written in Python can be (`Condition`, `Event`, `Future`, generators).  3.14
alone does so after an ``__enter__`` that is written in C: see `ssh_service.locks`.
`LOOKS` raises at exactly these moments, but for the turns of loops, where Python 3.13 to 3.15.0
may skip the handlers around (gh-130279, `tests/unit/test_loops.py`).  There, `TURNS` raises at
those.

Python 3.8 and 3.9 look between nearly all instructions.  `OPCODES` does so, but for where they do
not (before ``try`` and ``with``), and for the end of a ``with`` block, where they do: there a lock
can be lost (bpo-29988), and no Python code can help it.

`LINES` raises before each line, but for those of ``try`` and ``with``; from 3.12 on, not where a
loop turns, as what a trace function raises there skips all handlers around.  Nothing is raised
inside destructors, as what they raise goes nowhere.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dis
import linecache
import os
import queue
import sys
import threading
import time
from types import CodeType, FrameType
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import ssh_service
from ssh_service.locks import GuardedLock
from tests.common import Outcome

LINES, LOOKS, OPCODES, TURNS = "lines", "looks", "opcodes", "turns"

HOWS = [LINES, LOOKS if sys.version_info >= (3, 10) else OPCODES]
"""What applies to this Python."""

HOWS_OF_LOOPS = [*HOWS, TURNS] if sys.version_info >= (3, 13) else HOWS
"""The same, for calls that do much in loops."""

PLACES: Tuple[str, ...] = (
    os.path.dirname(ssh_service.__file__),
    os.path.dirname(concurrent.futures.__file__),
    threading.__file__,
    queue.__file__,
    contextlib.__file__,
)
"""The files (or folders) of the calls that are torn, where nothing else is asked for."""

# How far apart the first moments of two passes of `tear` are; strides are no multiples of it.
_TURN = 12

_SEAMS = {
    "SETUP_FINALLY",
    "SETUP_WITH",
    "BEGIN_FINALLY",
    "CALL_FINALLY",
    "POP_FINALLY",
    "END_FINALLY",
    "WITH_CLEANUP_START",
    "WITH_CLEANUP_FINISH",
    "WITH_EXCEPT_START",
    "ROT_TWO",
    "POP_BLOCK",
}


class Torn(BaseException):
    """Raised by the signal handler, as KeyboardInterrupt is."""


class _Moments:
    """Counts the moments of a call, and raises at one."""

    def __init__(self, moment: int, places: Tuple[str, ...], error: BaseException) -> None:
        self._left = moment
        self._places = places
        self._error = error
        self.raised = False

    def is_here(self, frame: FrameType) -> bool:
        return frame.f_code.co_filename.startswith(self._places)

    def pass_by(self, frame: FrameType) -> None:
        if self.raised or _is_in_destructor(frame):
            return
        self._left -= 1
        if self._left < 0:
            self.raised = True
            raise self._error

    def profile(self, frame: FrameType, event: str, function: Any) -> None:
        if event in ("call", "return", "c_return") and self.is_here(frame):
            if not (_begins_block(frame, event, function) or _suspends(frame, event)):
                self.pass_by(frame)

    def trace(self, frame: FrameType, event: str, _: Any) -> Optional[Callable[..., Any]]:
        if not self.is_here(frame):
            return None
        if event == "line" and not _is_seam(frame):
            self.pass_by(frame)
        return self.trace

    def trace_opcodes(self, frame: FrameType, event: str, _: Any) -> Optional[Callable[..., Any]]:
        if not self.is_here(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and _opcode(frame) not in _SEAMS:
            self.pass_by(frame)
        return self.trace_opcodes

    def trace_turns(self, frame: FrameType, event: str, _: Any) -> Optional[Callable[..., Any]]:
        if not self.is_here(frame) or "JUMP_BACKWARD" not in _opcodes(frame.f_code).values():
            return None
        if event == "call":
            # Opcodes are traced only where it is set before.
            frame.f_trace = self.trace_turns
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode" and _opcode(frame) == "JUMP_BACKWARD":
            self.pass_by(frame)
        return self.trace_turns


def _is_in_destructor(frame: FrameType) -> bool:
    above: Optional[FrameType] = frame
    while above is not None:
        name, file = above.f_code.co_name, os.path.basename(above.f_code.co_filename)
        if name in ("__del__", "forget") or "weakref" in file:
            return True
        above = above.f_back
    return False


def _begins_block(frame: FrameType, event: str, function: Any) -> bool:
    """Return whether an ``__enter__`` returned after which CPython does not look for signals."""
    if event == "return":
        return frame.f_code is GuardedLock.__enter__.__code__
    if event == "c_return" and sys.version_info >= (3, 15):
        return bool(function.__name__ == "__enter__")
    return False


def _suspends(frame: FrameType, event: str) -> bool:
    """Return whether a coroutine begins to wait, where CPython does not look for signals."""
    # (Before 3.12, to raise there would end it without its handlers.)
    return event == "return" and _opcode(frame) in ("YIELD_VALUE", "YIELD_FROM", "SEND")


def _is_seam(frame: FrameType) -> bool:
    if sys.version_info >= (3, 12) and _opcode(frame) in ("JUMP_BACKWARD", "FOR_ITER"):
        return True
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return line in ("try:", "finally:") or line.startswith(("with ", "except"))


_known: Dict[CodeType, Dict[int, str]] = {}


def _opcode(frame: FrameType) -> Optional[str]:
    return _opcodes(frame.f_code).get(frame.f_lasti)


def _opcodes(code: CodeType) -> Dict[int, str]:
    if code not in _known:
        _known[code] = {each.offset: each.opname for each in dis.get_instructions(code)}
    return _known[code]


def torn_at(
    moment: int,
    call: Callable[[], Any],
    how: str,
    places: Tuple[str, ...] = PLACES,
    error: Optional[BaseException] = None,
) -> bool:
    """
    Make a call, and raise at its `moment`-th moment; tell whether it has that many.

    What the call raises otherwise is raised; that it swallows the exception is for the caller to
    find out.  The call has a thread of its own: one that was torn out of an ``except`` block goes
    on as if it were handling that exception, with all the frames it keeps.
    """
    error = Torn("torn") if error is None else error
    moments = _Moments(moment, places, error)
    outcome = Outcome(lambda: _make(call, how, moments, error)).wait()
    if outcome.error is not None:
        raise outcome.error
    return moments.raised


def _make(call: Callable[[], Any], how: str, moments: _Moments, error: BaseException) -> None:
    if how == LOOKS:
        sys.setprofile(moments.profile)
    else:
        traces = {LINES: moments.trace, OPCODES: moments.trace_opcodes, TURNS: moments.trace_turns}
        sys.settrace(traces[how])
    try:
        call()
    except BaseException as raised:
        if raised is not error and not moments.raised:
            raise
    finally:
        if how == LOOKS:
            sys.setprofile(None)
        else:
            sys.settrace(None)
        error.__traceback__ = None  # which keeps all the frames, and what they hold


def moments(limit: float, first: int = 0, step: int = 1) -> Iterator[int]:
    """Count up for at most so many seconds; the caller breaks off after the last moment."""
    until, number = time.monotonic() + limit, first
    while time.monotonic() < until:
        yield number
        number += step


def tear(
    make: Callable[[], Callable[[], Any]],
    how: str,
    check: Callable[[], Any],
    seconds: Optional[float] = None,
    stride: int = 29,
    at_least: int = 20,
    places: Tuple[str, ...] = PLACES,
) -> int:
    """
    Tear a call at its moments, or at those that some seconds allow; return at how many.

    `make` makes the call for each moment, and `check` is called afterwards.  Time does not end it
    before `at_least` moments; as they are passed through in strides, from first to last again and
    again, there are late ones among them.
    """
    until, torn = time.monotonic() + (float("inf") if seconds is None else seconds), 0
    for first in range(stride):
        moment = first * _TURN % stride
        while time.monotonic() < until or torn < at_least:
            if not torn_at(moment, make(), how, places):
                break
            torn += 1
            moment += stride
            check()
        else:
            break
    return torn
