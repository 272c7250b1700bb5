"""The timer thread and the callback threads, when the program ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.common import PATIENCE


@pytest.mark.parametrize(
    "callback, seconds, said",
    [("lambda: (time.sleep(0.05), print('told'))", PATIENCE, "told\n"), ("forever", 0.05, "")],
)
def test_callbacks_that_are_due_when_the_program_ends_are_made_and_none_holds_it_up(
    callback: str, seconds: float, said: str
) -> None:
    code = f"""
import threading, time
from ssh_service import background
forever = threading.Event().wait
background._LAST_CALLS = {seconds}
background.run_callback({callback})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=PATIENCE, check=True
    )
    assert done.stdout.decode() == said
