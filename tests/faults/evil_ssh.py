"""
An SSH server that misbehaves: paramiko's own server side, made to say what no server may.

What goes wrong is given as functions: `on_exec` is called with each command, and may send any
message; `EvilTransport` can stop to read, and can be subclassed for what is wrong before that.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Callable, Dict, List, Optional, Type

import paramiko
from paramiko.common import MSG_CHANNEL_FAILURE
from paramiko.packet import Packetizer

from ssh_service.transport.packets import message

KEYS = [paramiko.ECDSAKey.generate() for _ in range(2)]
"""Host keys: the one that is shown, and another one."""

OnExec = Callable[["EvilTransport", paramiko.Channel, bytes], None]


class _Packetizer(Packetizer):
    """Reads only while it may."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.may_read = threading.Event()
        self.may_read.set()

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        self.may_read.wait(60)
        return super().read_all(n, check_rekey)


class EvilTransport(paramiko.Transport):
    """
    One connection, as the server sees it.

    Attributes
    ----------
    answers_rekeys : bool
        Whether a re-key that the client begins gets an answer.
    """

    answers_rekeys = True

    # paramiko closes a channel on which a request of its own was refused.
    _channel_handler_table = {
        **paramiko.Transport._channel_handler_table,
        MSG_CHANNEL_FAILURE: lambda channel, m: None,
    }

    def __init__(self, sock: Any) -> None:
        super().__init__(sock, packetizer_class=_Packetizer)
        self._replied: Dict[int, threading.Event] = {}

    def run(self) -> None:
        """Serve until the connection ends; paramiko leaves a timer of a handshake that failed."""
        try:
            super().run()
        finally:
            self.packetizer.complete_handshake()

    def say(self, kind: bytes, *fields: Any) -> None:
        """Send a message, whatever the protocol thinks of it."""
        self._send_message(message(kind, *fields))

    def stop_reading(self) -> None:
        """Take no more bytes, until `go_on_reading`."""
        self.packetizer.may_read.clear()

    def go_on_reading(self) -> None:
        """Take bytes again."""
        self.packetizer.may_read.set()

    def show_key(self, key: paramiko.PKey) -> None:
        """Use another host key from the next key exchange on."""
        self.server_key_dict: Dict[str, paramiko.PKey] = {}
        self.add_server_key(key)

    def begin_rekey(self) -> None:
        """Exchange keys anew."""
        self._send_kex_init()

    def wait_for_reply(self, channel: paramiko.Channel) -> None:
        """Wait until a channel's request was answered, so that nothing comes before the answer."""
        self._reply_to(channel.remote_chanid).wait(10)

    def _reply_to(self, number: int) -> threading.Event:
        return self._replied.setdefault(number, threading.Event())  # one, whoever is first

    def _send_user_message(self, m: Any) -> None:
        super()._send_user_message(m)
        if m.asbytes()[:1] == b"\x63":  # CHANNEL_SUCCESS
            self._reply_to(int.from_bytes(m.asbytes()[1:5], "big")).set()

    def _negotiate_keys(self, m: Any) -> None:
        if self.initial_kex_done and not self.answers_rekeys:
            return
        super()._negotiate_keys(m)

    def close(self) -> None:
        self.go_on_reading()
        super().close()


def echo(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
    """Write the command back, and end well."""
    channel.sendall(command)
    channel.send_exit_status(0)
    channel.close()


class Server(paramiko.ServerInterface):
    """Lets everyone in, and runs commands by `EvilSsh.on_exec`."""

    def __init__(self, transport: EvilTransport, evil: "EvilSsh") -> None:
        self._transport = transport
        self._evil = evil

    def get_allowed_auths(self, username: str) -> str:
        return "none,password,publickey,keyboard-interactive"

    def check_auth_none(self, username: str) -> int:
        return int(paramiko.AUTH_SUCCESSFUL)

    def check_auth_password(self, username: str, password: str) -> int:
        return int(paramiko.AUTH_SUCCESSFUL)

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return int(paramiko.AUTH_SUCCESSFUL)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        def answer() -> None:
            self._transport.wait_for_reply(channel)
            self._evil.on_exec(self._transport, channel, command)

        self._evil.spawn(answer)
        return True


class EvilSsh:
    """
    Listen on 127.0.0.1 and let everyone in; a context manager.

    Parameters
    ----------
    on_exec : Callable[[EvilTransport, paramiko.Channel, bytes], None]
        Called with each command, on a thread of its own.
    transport_class : Type[EvilTransport]
        Deals with each connection.
    receive_buffer : Optional[int]
        Bytes that the system takes for a connection that does not read; None: its choice.

    Attributes
    ----------
    host, port
        Where.
    transports : List[EvilTransport]
        The connections there were.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        on_exec: OnExec = echo,
        transport_class: Type[EvilTransport] = EvilTransport,
        receive_buffer: Optional[int] = None,
    ) -> None:
        self.on_exec = on_exec
        self.transports: List[EvilTransport] = []
        self._transport_class = transport_class
        self._threads: List[threading.Thread] = []
        self._listener = socket.create_server((self.host, 0))
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> "EvilSsh":
        self.spawn(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)  # no connection comes from now on
        self._listener.close()
        for transport in self.transports:
            transport.close()
        threads: List[threading.Thread] = [*self._threads, *self.transports]
        for thread in threads:
            if thread.ident is not None:
                thread.join(10)

    def spawn(self, target: Callable[..., None], *args: object) -> None:
        """Run something on a thread that ends with the server."""

        def run() -> None:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                target(*args)

        thread = threading.Thread(target=run, name="evil-ssh", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = self._transport_class(sock)
            transport.add_server_key(KEYS[0])
            self.transports.append(transport)
            done: Optional[threading.Event] = threading.Event()
            transport.start_server(event=done, server=Server(transport, self))
