"""The end of a program, when Python starts no more threads."""

from __future__ import annotations

from tests.common import run_python


def test_what_is_left_at_the_programs_end_is_done_without_a_complaint() -> None:
    """From Python 3.12 on, calls have to wait then for the threads that are there."""
    ended = run_python(
        "import logging, time\n"
        "from ssh_service import background\n"
        "from ssh_service.strands import Strand\n"
        "logging.basicConfig()\n"
        "for _ in range(6):\n"
        "    background.submit(Strand(), time.sleep, 0.1)\n"
        "background.submit(Strand(), print, 'done')\n"
    )
    assert (ended.stdout, ended.stderr) == ("done\n", "")
