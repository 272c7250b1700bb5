"""The peers whose own tests are run, and how."""

from __future__ import annotations

from typing import Callable, Dict, Mapping, NamedTuple, Tuple

from tests.peers.server import Server

__all__ = ["SUITES", "Suite"]


class Suite(NamedTuple):
    """
    How to run a peer's own tests.

    Attributes
    ----------
    runs : Tuple[Tuple[str, ...], ...]
        Arguments for pytest, which runs in the folder of the source release, once for each.
    edits : Callable[[Server], Mapping[str, Mapping[str, str]]]
        What is replaced in the copy of the release, by file: the address of a server, which some
        peers have fixed at port 22.  A text that is not found is an error.
    environment : Callable[[Server], Mapping[str, str]]
        Variables.
    logins : int
        The most logins to our server that a run with ours may need; plain runs are not limited.
    """

    runs: Tuple[Tuple[str, ...], ...]
    edits: Callable[[Server], Mapping[str, Mapping[str, str]]] = lambda server: {}
    environment: Callable[[Server], Mapping[str, str]] = lambda server: {}
    logins: int = 0


def _words(server: Server) -> Mapping[str, Mapping[str, str]]:
    """Give Fabric's tests a list of words, which few machines have."""
    words = {"/usr/share/dict/words": server.words}
    return {"integration/connection.py": words, "integration/concurrency.py": words}


def _plumbum_port(server: Server) -> Mapping[str, Mapping[str, str]]:
    call = "ParamikoMachine(TEST_HOST, "
    return {"tests/test_remote.py": {call: f"{call}port={server.port}, "}}


def _scp_variables(server: Server) -> Mapping[str, str]:
    return {"SCPPY_PORT": str(server.port), "SCPPY_USERNAME": server.username}


def _scp_folder(server: Server) -> Mapping[str, Mapping[str, str]]:
    return {"test.py": {"/tmp/": f"{server.scratch}/"}}


_CLIENT_SIDE = ("test_client", "auth", "test_transport", "test_sftp", "test_sftp_big")
# Invoke reads stdin, which pytest would close; with -s it is empty.
_RELAXED = ("-s", "-o", "python_files=*")

SUITES: Dict[str, Suite] = {
    "paramiko": Suite((tuple(f"tests/{name}.py" for name in _CLIENT_SIDE),)),
    # Each folder by itself: both have modules of the same names.
    "fabric": Suite(
        ((*_RELAXED, "tests"), (*_RELAXED, "integration")),
        edits=_words,
        logins=2,  # as localhost, and as 127.0.0.1
    ),
    "scp": Suite((("test.py",),), edits=_scp_folder, environment=_scp_variables, logins=1),
    "plumbum": Suite(
        (("--run-optional-tests=ssh", "tests/test_remote.py", "-k", "Paramiko"),),
        edits=_plumbum_port,
        logins=1,
    ),
}
