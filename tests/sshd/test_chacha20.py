"""Servers whose only cipher is chacha20-poly1305: all that works with AES works with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

import paramiko
import pytest

from ssh_service import SshClientCache, SshConnectionLost, download
from ssh_service import paramiko as drop_in
from ssh_service import run, upload
from ssh_service.algorithms import CHACHA20_POLY1305
from ssh_service.errors import SshConnectError
from ssh_service.testing.fault_proxy import FaultProxy
from ssh_service.testing.pytest_plugin import Sshd
from ssh_service.transport.packets import SshPacketizer
from tests.common import DROP_IN_DEFAULTS, PATIENCE, in_threads
from tests.faults.clients import dialled, execute, params_for
from tests.servers import TinySshd

MIB = 1 << 20


@pytest.fixture
def sshd(sshd_factory: Callable[..., Sshd]) -> Sshd:
    return sshd_factory({"Ciphers": CHACHA20_POLY1305, "RekeyLimit": "2M"})


@pytest.mark.parametrize("compression", ["none", "zlib@openssh.com"])
def test_commands_and_copies_pass_through_rekeys(
    sshd: Sshd,
    cache: SshClientCache,
    tmp_path: Path,
    compression: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both sides begin them, in both directions, with several users of the connection."""
    monkeypatch.setattr(SshPacketizer, "REKEY_BYTES", 3 * MIB)
    web = params_for(sshd, compression_algs=[compression])
    source, there, back = (tmp_path / name for name in ("source", "there", "back"))
    source.write_bytes(os.urandom(8 * MIB))

    def use(thread: int) -> None:
        if thread:
            for number in range(10):
                process = run(web, f"echo {number}", cache=cache, timeout=PATIENCE)
                assert process.stdout == f"{number}\n"
        else:
            upload(web, source, there, cache=cache, timeout=PATIENCE, verify=True)
            download(web, there, back, cache=cache, timeout=PATIENCE)

    in_threads(2, use)
    assert back.read_bytes() == source.read_bytes()


def test_keys_can_be_renewed_at_any_time(sshd: Sshd) -> None:
    with dialled(sshd) as transport:
        assert transport.local_cipher == transport.remote_cipher == CHACHA20_POLY1305
        for _ in range(3):
            transport.renegotiate_keys()
            assert transport.packetizer._Packetizer__sequence_number_in < 10
            assert execute(transport, "cat", b"x" * 100000) == (0, b"x" * 100000)


def test_an_altered_packet_ends_the_connection(sshd: Sshd, cache: SshClientCache) -> None:
    """None of its bytes are passed on."""
    with FaultProxy(sshd.host, sshd.port) as proxy:
        web = params_for(sshd, proxy)
        assert run(web, "echo hello", cache=cache, timeout=PATIENCE).stdout == "hello\n"
        proxy.corrupt_at(500_000, "to_client")
        with pytest.raises(SshConnectionLost, match="Mismatched MAC") as caught:
            run(web, "head -c 1000000 /dev/zero", cache=cache, timeout=PATIENCE)
        process = caught.value.process
        assert process is not None and set(process.stdout) <= {"\0"}


def test_programs_of_paramikos_connect_where_they_share(sshd: Sshd, cache: SshClientCache) -> None:
    arguments: Any = {
        "hostname": sshd.host,
        "port": sshd.port,
        "username": sshd.username,
        "key_filename": sshd.client_key,
    }

    def connect(**more: Any) -> Any:
        client = drop_in.SSHClient()
        client.load_host_keys(sshd.known_hosts)
        client.connect(**arguments, **more)
        return client

    drop_in.configure(cache=cache)
    try:
        with connect() as client:
            assert client.get_transport().local_cipher == CHACHA20_POLY1305
            assert client.exec_command("echo hello")[1].read() == b"hello\n"
            assert "chacha20" in repr(client.get_transport())
        with pytest.raises(paramiko.ssh_exception.IncompatiblePeer):
            connect(disabled_algorithms={"ciphers": ["3des-cbc"]})  # it gets no unknown one
    finally:
        cache.cleanup()
        drop_in.configure(**DROP_IN_DEFAULTS)


def test_tinysshd_is_used_where_it_has_strict_key_exchange(
    tmp_path: Path, cache: SshClientCache
) -> None:
    """It has nothing but this cipher; its releases before 2024 are refused."""
    with TinySshd(tmp_path) as server:
        web, file = server.connect_params, tmp_path / "file"
        if not server.offers_strict_kex():
            with pytest.raises(SshConnectError, match="needs strict key exchange") as caught:
                run(web, "true", cache=cache, timeout=PATIENCE)
            assert caught.value.phase == "kex"
            return
        assert run(web, "echo hello", cache=cache, timeout=PATIENCE).stdout == "hello\n"
        file.write_bytes(os.urandom(MIB))
        upload(web, file, tmp_path / "there", cache=cache, timeout=PATIENCE)
        download(web, tmp_path / "there", tmp_path / "back", cache=cache, timeout=PATIENCE)
        assert (tmp_path / "back").read_bytes() == file.read_bytes()
        # The copy's idle session makes room.
        assert run(web, "echo on", cache=cache, timeout=PATIENCE).stdout == "on\n"
