"""Known behaviour of servers, by their version string (RFC 4253 section 4.2)."""

from __future__ import annotations

import functools
import re
from typing import Optional, Tuple

_OPENSSH = re.compile(r"SSH-[0-9.]+-OpenSSH_(\d+)\.(\d+)")
_DROPBEAR = re.compile(r"SSH-[0-9.]+-dropbear(?:_(\d+)\.(\d+))?")
_TINYSSHD = re.compile(r"SSH-[0-9.]+-tinyssh[_ ]")

# Bytes that an exec request may have.  dropbear ends the whole connection, with everybody's
# commands, over a string of more than 9,000 (MAX_CMD_LEN); of other servers nothing is known.
EXEC_LIMIT = 8 * 1024
# On OpenSSH Linux refuses a command line of 128 KiB, and 256 KiB end the connection (measured).
OPENSSH_EXEC_LIMIT = 64 * 1024

# PACKET_MAX_SIZE of OpenSSH, less what is around the text; MAX_STRING_LEN of dropbear, measured.
_OPENSSH_PACKET, _DROPBEAR_STRING = 256 * 1024 - 1024, 9000


def exec_limit(version: str) -> int:
    """Return how many bytes an exec request may have."""
    return EXEC_LIMIT if _openssh(version) is None else OPENSSH_EXEC_LIMIT


def request_limit(version: str) -> Optional[int]:
    """
    Return how many bytes a request of a channel may have; a longer one ends the whole connection.

    None: nothing is known.
    """
    if _openssh(version) is not None:
        return _OPENSSH_PACKET
    return _DROPBEAR_STRING if _dropbear(version) is not None else None


def is_dropbear(version: str) -> bool:
    """Return whether a server is dropbear."""
    return _dropbear(version) is not None


@functools.lru_cache(maxsize=64)
def is_tinysshd(version: str) -> bool:
    """Return whether a server is tinysshd."""
    return _TINYSSHD.match(version) is not None


def accepts_pipelined_login(version: str) -> bool:
    """
    Return whether a server takes a login request before it has accepted the service for it.

    RFC 4253 (section 10) allows that after every key exchange that we know, but only OpenSSH and
    dropbear were tested.
    """
    return is_openssh(version) or is_dropbear(version)


def has_strict_kex(version: str) -> bool:
    """
    Return whether a server certainly has strict key exchange.

    OpenSSH has it since 9.6, and earlier where a distribution has added it, which its version does
    not tell.
    """
    found = _openssh(version)
    return found is not None and found >= (9, 6)


def runs_one_command(version: str) -> bool:
    """
    Return whether a connection may have one session only.

    dropbear before 2024.86 closes every session whose command has not started when the command of
    another session ends, and ends the whole connection when that command then arrives (a failed
    assertion; measured on 2022.83).
    """
    found = _dropbear(version)
    return is_tinysshd(version) or (found is not None and found < (2024, 86))


def ends_with_session(version: str) -> bool:
    """Return whether a server ends the connection with its first session, as tinysshd does."""
    return is_tinysshd(version)


def signals_group(version: str, root: bool) -> bool:
    """
    Return whether a server sends signals to the whole process group of a command.

    OpenSSH knows the request since 7.9 (session.c, `session_signal_req`), and up to 9.7 refuses it
    where the user's process is not separated from the monitor, as for root.  dropbear signals the
    shell alone, tinysshd nothing.  What other servers do is not known.
    """
    found = _openssh(version)
    return found is not None and found >= ((9, 8) if root else (7, 9))


def is_openssh(version: str) -> bool:
    """Return whether a server is OpenSSH."""
    return _openssh(version) is not None


def needs_script_to_signal(version: str, root: bool) -> bool:
    """Return whether a command's processes are to be signalled by a helper script."""
    known = is_openssh(version) or is_dropbear(version) or is_tinysshd(version)
    return (known or root) and not signals_group(version, root)


# Several of these questions are asked about each command, of few versions.
@functools.lru_cache(maxsize=64)
def _openssh(version: str) -> Optional[Tuple[int, int]]:
    found = _OPENSSH.match(version)
    return None if found is None else (int(found.group(1)), int(found.group(2)))


@functools.lru_cache(maxsize=64)
def _dropbear(version: str) -> Optional[Tuple[int, int]]:
    """Return dropbear's version; an old one if it does not say."""
    found = _DROPBEAR.match(version)
    return None if found is None else (int(found.group(1) or 0), int(found.group(2) or 0))
