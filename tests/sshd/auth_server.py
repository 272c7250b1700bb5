"""
An SSH server inside the process whose authentication a test decides.

OpenSSH checks passwords against the machine's accounts, which a test must not touch.
"""

from __future__ import annotations

import socket
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

import paramiko

__all__ = ["AuthServer"]


class _Rules(paramiko.ServerInterface):
    def __init__(self, server: AuthServer) -> None:
        self._server = server
        self._passed: List[str] = []

    def get_allowed_auths(self, username: str) -> str:
        steps = self._server.steps
        return steps[len(self._passed)] if len(self._passed) < len(steps) else steps[-1]

    def _judge(self, method: str, ok: bool) -> int:
        self._server.attempts.append((method, ok))
        if not ok or method not in self.get_allowed_auths("").split(","):
            return paramiko.AUTH_FAILED
        self._passed.append(method)
        if len(self._passed) < len(self._server.steps):
            return paramiko.AUTH_PARTIALLY_SUCCESSFUL
        return paramiko.AUTH_SUCCESSFUL

    def check_auth_none(self, username: str) -> int:
        return self._judge("none", "none" in self._server.steps)

    def check_auth_password(self, username: str, password: str) -> int:
        self._server.before_answer()
        return self._judge("password", password == self._server.password)

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return self._judge("publickey", key.asbytes() in self._server.keys)

    def check_auth_interactive(self, username: str, submethods: str) -> Any:
        return paramiko.InteractiveQuery("the name", "the instructions", *self._server.questions)

    def check_auth_interactive_response(self, responses: List[str]) -> int:
        return self._judge("keyboard-interactive", list(responses) == self._server.answers)


class AuthServer:
    """
    Serves connections on loopback until closed; a context manager.

    Attributes
    ----------
    steps : List[str]
        Methods allowed at each step of an authentication, separated by commas.
    attempts : List[Tuple[str, bool]]
        Methods that were tried, and whether the credential was right.
    """

    def __init__(self, steps: Tuple[str, ...] = ("password",), **rules: Any) -> None:
        self.steps = list(steps)
        self.password: Optional[str] = rules.get("password")
        self.keys: List[bytes] = rules.get("keys", [])
        self.questions: List[Tuple[str, bool]] = rules.get("questions", [])
        self.answers: List[str] = rules.get("answers", [])
        self.before_answer: Callable[[], None] = rules.get("before_answer", lambda: None)
        self.attempts: List[Tuple[str, bool]] = []
        self._host_key = paramiko.ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._transports: List[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._serve, name="auth-server")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(sock)
            transport.add_server_key(self._host_key)
            self._transports.append(transport)
            try:
                transport.start_server(server=_Rules(self), event=threading.Event())
            except paramiko.SSHException:
                pass

    @property
    def connect_params(self) -> Dict[str, Any]:
        """The connect parameters, without a credential."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": "me",
            "known_hosts": None,
            "host_key_policy": "off",
            "config": None,
            "client_keys": None,
            "agent_path": None,
        }

    def cut(self) -> None:
        """End all connections without a word."""
        for transport in self._transports:
            transport.sock.close()

    def __enter__(self) -> AuthServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for transport in self._transports:
            transport.close()
            transport.join()
            transport.packetizer.complete_handshake()  # which may have been cut: ends its timer
