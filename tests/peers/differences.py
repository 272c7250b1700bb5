"""
Where a peer's own tests may end differently with `ssh_service.paramiko`, and why.

Keys are patterns (`fnmatch`) of pytest's names of tests.  An entry that no test needs any more is
an error, so that the list stays true.
"""

from __future__ import annotations

from typing import Dict

__all__ = ["EXPECTED"]

EXPECTED: Dict[str, Dict[str, str]] = {
    "paramiko": {
        "tests/test_transport.py::*::test_keepalive": (
            "the test server looks for paramiko's name of the keepalive; ours is OpenSSH's, which"
            " servers answer"
        ),
        "tests/test_transport.py::*::test_can_override_packetizer_used": (
            "asks for the very class of a private part"
        ),
    },
}
