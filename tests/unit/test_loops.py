"""
No loop in the package lets an interruption skip the ``with`` or ``try`` around it.

CPython looks for signals where a loop turns.  From 3.13 to 3.15.0, the jump back belongs to no
block if a condition is the last step before it (gh-130279): in ``while condition:``,
``for ...: if ...:``, and comprehensions with an ``if``, which are part of their function since
3.12.  In 3.11 and 3.12, the jump counts as part of what comes before the loop (gh-108214): if a
loop is the first thing in a ``try``, that is outside.  What a signal handler raises there skips
``__exit__``, ``finally`` and ``except``.  If the loop is in a function of its own, the exception
comes out of a call, and a call belongs to its block.
"""

from __future__ import annotations

import dis
import itertools
import signal
import sys
import textwrap
import threading
from pathlib import Path
from types import CodeType
from typing import Any, Dict, Iterator, Optional, Set

import pytest

import ssh_service

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="before Python 3.11, a loop cannot leave its block this way"
)

PACKAGE = Path(ssh_service.__file__).parent

EXEMPT: Dict[str, str] = {
    "connect/proxy_command.py _StderrLogger.run": "a thread of its own",
    "connect/proxy_command.py carry.": "threads of their own",
    "transport/relay.py Relay._copy_in": "a thread of its own",
    "transport/relay.py Relay._copy_out": "a thread of its own",
    "demo": "a program of its own, which ends with what interrupts it",
    "testing": "servers whose loops run in threads of their own; see their `close`",
}
"""What needs none of this, and why: folders, or functions of files."""

# An interruption is caught by these, and by `with`, `finally` and a plain `except`.
_CATCH_ALL = {"ABORTS", "BaseException", "Exception", "GeneratorExit", "KeyboardInterrupt"}


class _Function:
    """The bytecode of a function, and which instruction handles what another one raises."""

    def __init__(self, code: CodeType) -> None:
        self.name: str = code.co_qualname  # type: ignore[attr-defined]
        found = dis.Bytecode(code)
        self._steps = list(found)
        self._entries: Any = found.exception_entries  # type: ignore[attr-defined]
        self._index = {step.offset: index for index, step in enumerate(self._steps)}

    def unsafe_lines(self) -> Iterator[int]:
        """Yield the lines of the loops that an interruption leaves without its handler."""
        line = 0
        for step in self._steps:
            line = _line(step) or line
            if step.opname == "JUMP_BACKWARD":
                looks_at = step.offset if sys.version_info >= (3, 13) else step.argval - 2
                if self._handler(step.argval) not in (None, self._handler(looks_at)):
                    yield line

    def _handler(self, offset: int) -> Optional[int]:
        """Return the offset of what handles an interruption at `offset`."""
        for entry in self._entries:
            if entry.start <= offset < entry.end:
                return self._catch_all(self._index[entry.target])
        return None

    def _catch_all(self, index: int) -> Optional[int]:
        """Return the offset of the handler at `index`, or of where it passes interruptions on."""
        begin = self._steps[index].offset
        if self._steps[index].opname == "PUSH_EXC_INFO":
            index += 1
            while self._steps[index].opname != "RERAISE":  # for each `except` clause
                clause = index
                while self._steps[index].opname.startswith(("LOAD_", "BUILD_TUPLE")):
                    index += 1
                names = {step.argval for step in self._steps[clause:index]}
                if self._steps[index].opname != "CHECK_EXC_MATCH" or names & _CATCH_ALL:
                    return begin
                jump = next(step for step in self._steps[index:] if "JUMP" in step.opname)
                index = self._index[jump.argval]
        while self._steps[index].opname != "RERAISE":
            index += 1
        return self._handler(self._steps[index].offset)


def _line(step: dis.Instruction) -> Optional[int]:
    return step.positions.lineno if step.positions else None  # type: ignore[attr-defined]


def _functions(code: CodeType) -> Iterator[_Function]:
    yield _Function(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _functions(constant)


def unsafe_lines(source: str) -> Dict[int, str]:
    """Return the lines of the unsafe loops in a module, with the names of their functions."""
    code = compile(source, "module", "exec")
    return {line: each.name for each in _functions(code) for line in each.unsafe_lines()}


def _find(source: str) -> Set[str]:
    return set(unsafe_lines(textwrap.dedent(source)).values())


def test_no_loop_of_the_package_skips_the_handlers_around_it() -> None:
    """Whatever a signal handler raises, locks are released and files are closed."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        for line, name in unsafe_lines(path.read_text(encoding="utf-8")).items():
            if not f"{where} {name}".startswith(tuple(EXEMPT)):
                found.append(f"{path}:{line}: {name}")
    advice = "move each loop to a function of its own, or out of the block:"
    assert not found, "\n".join([advice, *found])


def test_the_exempted_places_exist() -> None:
    """An exemption goes with the code that it is for."""
    for place in EXEMPT:
        file, _, name = place.partition(" ")
        assert (PACKAGE / file).exists(), place
        if name:
            assert name.rpartition(".")[2] in (PACKAGE / file).read_text("utf-8"), place


def _is_skipped(source: str) -> bool:
    """Interrupt the endless loop of a function; return whether its ``__exit__`` was skipped."""
    scope: Dict[str, Any] = {}
    exec(source, scope)
    lock = threading.Lock()
    before = signal.signal(signal.SIGVTALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
    try:
        with pytest.raises(KeyboardInterrupt):
            scope["function"](lock, itertools.repeat(0))
    finally:
        signal.signal(signal.SIGVTALRM, before)
    return lock.locked()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="gh-130279 is of Python 3.13")
@pytest.mark.parametrize(
    "body",
    [
        "while queue: pass",
        """
        for item in queue:
            if item: pass
        """,
        "items = [item for item in queue if item]",
        """
        try:
            while queue: pass
        except OSError: pass
        """,
    ],
    ids=["while", "for", "comprehension", "nested"],
)
def test_a_loop_that_ends_with_a_condition_is_found_where_it_skips_its_block(body: str) -> None:
    """The scan of the package finds what a real signal shows, in each release of Python."""
    body = textwrap.dedent(body).strip("\n")
    inside = textwrap.indent(body, " " * 8)
    source = f"def function(lock, queue):\n    with lock:\n{inside}\n"
    is_skipped = _is_skipped(source)
    assert _find(source) == ({"function"} if is_skipped else set())
    assert is_skipped or sys.version_info >= (3, 14)
    tried = source.replace("with lock:", "try:") + "    finally: use(1)\n"
    assert _find(tried) == _find(source)
    safe = "def function(lock, queue):\n    with lock: pass\n" + textwrap.indent(body, " " * 4)
    assert not _find(safe)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="gh-108214 is of Python 3.11 and 3.12")
def test_a_loop_that_begins_its_block_is_found() -> None:
    """As above, for the older fault."""
    source = """
    def function():
        try:
            while True:
                if queue:
                    continue
                queue.add(1)
        finally:
            queue.clear()
    """
    assert _find(source) == {"function"}
