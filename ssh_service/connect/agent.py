"""
The keys of an SSH agent: a small client of its protocol.

Why not paramiko's: see docs/paramiko_repairs.md#agent-keys.
"""

from __future__ import annotations

import logging
import queue
import socket
import struct
import sys
import threading
import time
from typing import Any, Callable, List, Optional, Tuple, Union

import paramiko
from paramiko.pkey import PublicBlob

from ssh_service.algorithms import CERTIFICATE

__all__ = ["AgentError", "AgentKey", "list_keys"]

_log = logging.getLogger(__name__)

# draft-miller-ssh-agent
_REQUEST_IDENTITIES = 11
_IDENTITIES_ANSWER = 12
_SIGN_REQUEST = 13
_SIGN_RESPONSE = 14
_RSA_SHA2_256, _RSA_SHA2_512 = 2, 4
_MAX_ANSWER = 256 * 1024


class AgentError(Exception):
    """The agent cannot be reached or refused a request; never raised outside this package."""


class AgentKey(paramiko.PKey):  # type: ignore[misc]
    """
    A key held by an agent, which makes every signature.

    Parameters
    ----------
    path : str
        The agent's socket; on Windows, its named pipe.
    blob : bytes
        The public key or certificate in wire format.
    comment : str
        The agent's comment on the key.
    deadline : float
        The monotonic instant by which the agent must answer; a user may have to touch a token.

    Notes
    -----
    Thread safety.  Each signature uses its own connection to the agent.
    """

    def __init__(self, path: str, blob: bytes, comment: str, deadline: float) -> None:
        # A certificate from a file.  If the agent itself holds a certificate, `blob` is it.
        self.public_blob: Optional[PublicBlob] = None
        self.path = path
        self.blob = blob
        self.comment = comment
        self.deadline = deadline
        self.failure: Optional[str] = None
        self.name = _first_string(blob).decode("utf-8", "replace")

    def asbytes(self) -> bytes:
        """Return the public key in wire format."""
        return self.blob

    def get_name(self) -> str:
        """Return the key's type, such as ``ssh-ed25519``."""
        return self.name

    def can_sign(self) -> bool:
        """Return True: the agent has the private key."""
        return True

    @property
    def _fields(self) -> Tuple[Any, ...]:
        return (self.name, self.blob)

    def sign_ssh_data(self, data: bytes, algorithm: Optional[str] = None) -> Any:
        """
        Have the agent sign `data`; `algorithm` matters only for RSA keys.

        This runs on the connection's reader thread, where an exception would end the connection
        before other keys are tried.  After a refusal, this method therefore stores the reason in
        `failure`, and returns a signature that the server rejects.
        """
        flags = 0
        if algorithm is not None and algorithm.startswith("rsa-sha2-256"):
            flags = _RSA_SHA2_256
        elif algorithm is not None and algorithm.startswith("rsa-sha2-512"):
            flags = _RSA_SHA2_512
        request = _string(self.blob) + _string(data) + struct.pack(">I", flags)
        try:
            kind, answer = _request(self.path, _SIGN_REQUEST, request, self.deadline)
            if kind != _SIGN_RESPONSE:
                raise AgentError("the agent refused to sign")
            return _first_string(answer)
        except AgentError as error:
            _log.debug("agent key %s: %s", self.comment, error)
            self.failure = str(error)
            name = (algorithm or self.name).replace(CERTIFICATE, "")
            return _string(name.encode("utf-8")) + _string(bytes(64))


def list_keys(path: str, deadline: float) -> List[AgentKey]:
    """
    Return the keys of an agent, in the agent's order.

    Raises
    ------
    AgentError
        The agent cannot be reached, does not answer in time, or sends a malformed answer.
    """
    kind, answer = _request(path, _REQUEST_IDENTITIES, b"", deadline)
    if kind != _IDENTITIES_ANSWER:
        raise AgentError("the agent refused to list its keys")
    try:
        (count,) = struct.unpack(">I", answer[:4])
        rest = answer[4:]
        keys = []
        for _ in range(count):
            blob = _first_string(rest)
            rest = rest[4 + len(blob) :]
            comment = _first_string(rest)
            rest = rest[4 + len(comment) :]
            keys.append(AgentKey(path, blob, comment.decode("utf-8", "replace"), deadline))
    except struct.error:
        raise AgentError("the agent's answer is malformed") from None
    return keys


def _request(path: str, kind: int, body: bytes, deadline: float) -> Tuple[int, bytes]:
    message = struct.pack(">IB", 1 + len(body), kind) + body
    try:
        if sys.platform == "win32":
            answer = _ask_pipe(path, message, deadline)
        else:
            answer = _ask_socket(path, message, deadline)
    except socket.timeout:
        raise AgentError("the agent did not answer in time") from None
    except OSError as error:
        raise AgentError(f"agent at {path}: {error.strerror or error}") from None
    return answer[0], answer[1:]


def _ask_socket(path: str, message: bytes, deadline: float) -> bytes:
    def receive(size: int) -> bytes:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        return sock.recv(size)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        sock.connect(path)
        sock.sendall(message)
        return _receive_answer(receive)


def _ask_pipe(path: str, message: bytes, deadline: float) -> bytes:
    """Ask over a named pipe, whose calls have no timeout: on a thread, left behind if it hangs."""
    answers: "queue.SimpleQueue[Union[bytes, Exception]]" = queue.SimpleQueue()

    def ask() -> None:
        try:
            with open(path, "r+b", buffering=0) as pipe:
                pipe.write(message)
                answers.put(_receive_answer(lambda size: pipe.read(size) or b""))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, name="ssh-service-agent", daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.001, deadline - time.monotonic()))
    except queue.Empty:
        raise socket.timeout from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _receive_answer(receive: Callable[[int], bytes]) -> bytes:
    (size,) = struct.unpack(">I", _receive(receive, 4))
    if not 1 <= size <= _MAX_ANSWER:
        raise AgentError("the agent's answer is too long")
    return _receive(receive, size)


def _receive(receive: Callable[[int], bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = receive(size - len(data))
        if not chunk:
            raise AgentError("the agent closed the connection")
        data += chunk
    return data


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _first_string(data: bytes) -> bytes:
    (size,) = struct.unpack(">I", data[:4])
    if len(data) < 4 + size:
        raise struct.error("short")
    return data[4 : 4 + size]
