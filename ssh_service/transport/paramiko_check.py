"""A check at first use that the installed paramiko works as our repairs expect."""

from __future__ import annotations

import functools
from typing import Any, List, Optional

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.channel import Channel
from paramiko.common import (
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_OPEN_SUCCESS,
    MSG_EXT_INFO,
    MSG_GLOBAL_REQUEST,
    MSG_NEWKEYS,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from paramiko.kex_curve25519 import KexCurve25519
from paramiko.message import Message
from paramiko.packet import Packetizer

from ssh_service.transport.channel import SshChannel

# Names that we override or call; if one were renamed, an override would silently have no effect.
_NEEDED = {
    paramiko.Transport: (
        "_auth_trigger",
        "_channel_handler_table",
        "_check_banner",
        "_cipher_info",
        "_compression_info",
        "_kex_info",
        "_filter_algorithm",
        "_log",
        "_next_channel",
        "_parse_channel_open",
        "_parse_channel_open_failure",
        "_parse_channel_open_success",
        "_parse_debug",
        "_parse_disconnect",
        "_parse_ext_info",
        "_parse_global_request",
        "_parse_kex_init",
        "_parse_newkeys",
        "_parse_request_failure",
        "_parse_request_success",
        "_queue_incoming_channel",
        "_really_parse_kex_init",
        "_sanitize_packet_size",
        "_sanitize_window_size",
        "_send_kex_init",
        "_send_message",
        "_send_user_message",
        "_set_forward_agent_handler",
        "_set_x11_handler",
        "_verify_key",
        "preferred_ciphers",
        "run",
        "stop_thread",
    ),
    AuthHandler: ("_parse_service_accept", "_request_auth"),
    KexCurve25519: ("start_kex",),
    paramiko.SSHClient: ("_auth", "_families_and_addresses", "_key_from_filepath"),
    Channel: (
        "_check_add_window",
        "_close_internal",
        "_event_pending",
        "_feed",
        "_log",
        "_send",
        "_send_eof",
        "_set_closed",
        "_set_remote_channel",
        "_set_transport",
        "_set_window",
        "_unlink",
        "_wait_for_event",
        "_wait_for_send_window",
    ),
    Packetizer: (
        "_trigger_rekey",
        "need_rekey",
        "read_all",
        "read_message",
        "readline",
        "send_message",
        "write_all",
    ),
}

# The same for attributes of instances that we replace or use.
_REPLACED = {
    paramiko.Transport: (
        "_channels",
        "advertise_strict_kex",
        "agreed_on_strict_kex",
        "_expected_packet",
        "auth_handler",
        "channels_seen",
        "clear_to_send",
        "clear_to_send_lock",
        "completion_event",
        "channel_timeout",
        "host_key_type",
        "local_cipher",
        "lock",
        "remote_cipher",
        "saved_exception",
        "server_accept_cv",
    ),
    paramiko.SSHClient: (
        "_host_keys",
        "_log_channel",
        "_policy",
        "_system_host_keys",
        "_transport",
    ),
    Channel: (
        "_pipe",
        "event",
        "in_buffer",
        "in_stderr_buffer",
        "in_window_sofar",
        "lock",
        "logger",
        "out_buffer_cv",
        "status_event",
    ),
    Packetizer: (
        "_Packetizer__aead_in",
        "_Packetizer__aead_out",
        "_Packetizer__block_engine_in",
        "_Packetizer__block_engine_out",
        "_Packetizer__block_size_out",
        "_Packetizer__compress_engine_in",
        "_Packetizer__compress_engine_out",
        "_Packetizer__dump_packets",
        "_Packetizer__iv_in",
        "_Packetizer__iv_out",
        "_Packetizer__need_rekey",
        "_Packetizer__received_bytes",
        "_Packetizer__received_bytes_overflow",
        "_Packetizer__received_packets",
        "_Packetizer__received_packets_overflow",
        "_Packetizer__sent_bytes",
        "_Packetizer__sent_packets",
        "_Packetizer__sequence_number_in",
        "_Packetizer__sequence_number_out",
        "_Packetizer__write_lock",
        "_initial_kex_done",
    ),
}

# The message types that call our overrides.
_HANDLERS = {
    MSG_EXT_INFO: "_parse_ext_info",
    MSG_NEWKEYS: "_parse_newkeys",
    MSG_REQUEST_FAILURE: "_parse_request_failure",
    MSG_REQUEST_SUCCESS: "_parse_request_success",
    MSG_GLOBAL_REQUEST: "_parse_global_request",
    MSG_CHANNEL_OPEN: "_parse_channel_open",
    MSG_CHANNEL_OPEN_SUCCESS: "_parse_channel_open_success",
    MSG_CHANNEL_OPEN_FAILURE: "_parse_channel_open_failure",
}


class _LoopbackPacketizer(Packetizer):  # type: ignore[misc]
    """A packetizer that reads what it wrote."""

    def __init__(self) -> None:
        super().__init__(None)
        self.stream = b""

    def write_all(self, out: bytes) -> None:
        self.stream += out

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        out, self.stream = self.stream[:n], self.stream[n:]
        return out


class _NullSocket:
    """Stands in for a transport's socket."""

    def settimeout(self, timeout: Optional[float]) -> None:
        pass


class _Recorder:
    """Stands in for a channel's transport; keeps the messages."""

    def __init__(self) -> None:
        self.sent: List[bytes] = []

    def _send_user_message(self, m: Message) -> None:
        self.sent.append(m.asbytes())

    def get_log_channel(self) -> str:
        return "ssh_service.transport"

    def _sanitize_packet_size(self, size: int) -> int:
        return size

    def _unlink_channel(self, chanid: int) -> None:
        pass


@functools.lru_cache(maxsize=None)
def check_paramiko() -> None:
    """
    Check that the parts of paramiko that we override exist and are called.

    Raises
    ------
    ImportError
        The installed paramiko differs; the message says where.
    """
    if vars(KexCurve25519(None)) != {"transport": None, "key": None}:
        raise _changed_error("KexCurve25519 has other attributes")
    if not hasattr(paramiko.transport, "_active_threads"):
        raise _changed_error("transport._active_threads is gone")
    for owner, names in _NEEDED.items():
        for name in names:
            if not hasattr(owner, name):
                raise _changed_error(f"{owner.__name__}.{name} is gone")
    _check_packetizer()
    _check_handlers()
    _check_channel()


def _check_packetizer() -> None:
    loop = _LoopbackPacketizer()
    _check_attributes(loop, Packetizer)
    ping = Message()
    ping.add_byte(b"\x02")
    ping.add_string(b"ssh_service")
    loop.send_message(ping)
    if not loop.stream:
        raise _changed_error("Packetizer.send_message no longer calls write_all")
    kind, pong = loop.read_message()
    if kind != 2 or pong.get_string() != b"ssh_service" or loop.stream:
        raise _changed_error("Packetizer.read_message no longer calls read_all")


def _check_attributes(made: Any, owner: Any) -> None:
    for name in _REPLACED[owner]:
        if name not in vars(made):
            raise _changed_error(f"{owner.__name__}.{name} is gone")


def _check_handlers() -> None:
    transport = paramiko.Transport(_NullSocket())
    _check_attributes(transport, paramiko.Transport)
    _check_attributes(paramiko.SSHClient(), paramiko.SSHClient)
    for kind, name in _HANDLERS.items():
        if getattr(transport._handler_table.get(kind), "__name__", "") != name:
            raise _changed_error(f"Transport._handler_table no longer calls {name}")


def _check_channel() -> None:
    recorder = _Recorder()
    channel = Channel(7)
    _check_attributes(channel, Channel)
    for name in vars(channel).keys() - vars(SshChannel(7)).keys() - {"logger"}:
        raise _changed_error(f"Channel.{name} is new")
    channel._set_transport(recorder)
    channel._set_window(1 << 20, 1 << 15)
    channel._set_remote_channel(9, 1 << 20, 1 << 15)
    channel.send(b"x")
    channel.close()
    if [message[0] for message in recorder.sent] != [94, 96, 97]:
        raise _changed_error("Channel no longer sends through _send_user_message")


def _changed_error(what: str) -> ImportError:
    return ImportError(
        f"ssh_service does not support paramiko {getattr(paramiko, '__version__', '?')}:"
        f" {what}.  Please report this; until it is fixed, install an older paramiko."
    )
