"""
Where a peer's own tests may end differently with `ssh_service.paramiko`, and why.

Keys are patterns (`fnmatch`) of pytest's names of tests.  An entry that no test needs any more is
an error, so that the list stays true.
"""

from __future__ import annotations

from typing import Dict, NamedTuple

__all__ = ["EXPECTED", "Difference"]


class Difference(NamedTuple):
    """
    Why a test may end differently.

    Attributes
    ----------
    reason : str
        Why.
    always : bool
        Whether it does so every time; where not, the test depends on which thread is quicker.
    """

    reason: str
    always: bool = True


EXPECTED: Dict[str, Dict[str, Difference]] = {
    "paramiko": {
        "tests/test_client.py::*::test_cleanup": Difference(
            "asks whether the connection is gone a second after close(); it is kept for the next"
            " client for a minute"
        ),
        "tests/test_transport.py::*::test_keepalive": Difference(
            "its server looks for paramiko's name of the keepalive; ours has OpenSSH's, which"
            " servers answer"
        ),
        "tests/test_transport.py::*::test_can_override_packetizer_used": Difference(
            "asks for the very class of a private part"
        ),
        "tests/test_transport.py::*::test_SSHException_raised_on_out_of_order_*": Difference(
            "asks for SSHException itself; ours raises a subclass of it"
        ),
        "tests/test_transport.py::*::test_sequence_numbers_reset_on_newkeys_*": Difference(
            "reads a private counter as soon as start_client() returns, which with ours is a tenth"
            " of a second earlier: the server's next message may still be under way",
            always=False,
        ),
    },
}
