"""The contract: failures, and how they are reported."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

from ssh_service import (
    SshAuthError,
    SshCommandCancelled,
    SshCommandTimeout,
    SshConnectError,
    SshConnectionLost,
    SshConnectTimeout,
    SshFileShareService,
    SshHostService,
    SshOutputLimitError,
    Status,
)
from ssh_service.testing.pytest_plugin import FaultProxy, Sshd
from tests.common import eventually, is_running
from tests.keys import generated

from .conftest import FUTURE, Run, catch_up, config_for, results

OUTPUT = {"stdout", "stderr", "ssh_completed_process_result"}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Return a port where connections are made, and no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


class TestConnecting:
    """Failures to connect: FAILED with an error out of the results, raised by copies."""

    def check(
        self, config: Dict[str, Any], call: Dict[str, Any], error: Any, tmp_path: Path
    ) -> None:
        with SshHostService(config) as host, SshFileShareService(config) as share:
            status, info = host.remote_exec("true", call, {})
            assert status == Status.PENDING
            for _ in range(2):
                status, result = results(host, info)
                assert status == Status.FAILED
                assert set(result) == {"result", "error"} and result["result"] is None
                assert isinstance(result["error"], error)
            assert host.wait_os_operation(info) == (status, result)
            with pytest.raises(error):
                share.upload(call, __file__, str(tmp_path / "up"))
            with pytest.raises(error):
                share.download(call, __file__, str(tmp_path / "down"))
        assert list(tmp_path.glob("[ud]*")) == []

    def test_closed_port_is_a_connect_failure(
        self, config: Dict[str, Any], call: Dict[str, Any], listener: socket.socket, tmp_path: Path
    ) -> None:
        config["ssh_port"] = listener.getsockname()[1]
        listener.close()
        self.check(config, call, SshConnectError, tmp_path)

    def test_unknown_host_name_is_a_connect_failure(
        self, config: Dict[str, Any], tmp_path: Path
    ) -> None:
        self.check(config, {"ssh_hostname": "nobody.invalid"}, SshConnectError, tmp_path)

    def test_a_key_the_server_does_not_know_is_a_failure_to_log_in(
        self, config: Dict[str, Any], call: Dict[str, Any], tmp_path: Path
    ) -> None:
        config["ssh_priv_key_path"] = str(generated("stranger"))
        self.check(config, call, SshAuthError, tmp_path)

    def test_a_server_that_speaks_no_ssh_is_a_failure_to_connect(
        self, config: Dict[str, Any], call: Dict[str, Any], listener: socket.socket, tmp_path: Path
    ) -> None:
        def talk() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200)

        threading.Thread(target=talk, daemon=True).start()
        config["ssh_port"] = listener.getsockname()[1]
        try:
            self.check(config, call, SshConnectError, tmp_path)
        finally:
            listener.shutdown(socket.SHUT_RDWR)

    def test_a_mute_server_within_the_request_timeout(
        self, config: Dict[str, Any], call: Dict[str, Any], listener: socket.socket
    ) -> None:
        config.update(ssh_port=listener.getsockname()[1], ssh_request_timeout=1)
        begin = time.monotonic()
        with SshHostService(config) as host:
            _, info = host.remote_exec("true", call, {})
            status, result = results(host, info)
        assert 0.9 < time.monotonic() - begin < 3
        assert (status, result["result"]) == (Status.FAILED, None)
        assert isinstance(result["error"], SshConnectTimeout)

    def test_a_mute_server_within_the_connect_timeout(
        self, config: Dict[str, Any], call: Dict[str, Any], listener: socket.socket, tmp_path: Path
    ) -> None:
        config.update(ssh_port=listener.getsockname()[1], ssh_connect_timeout=0.5)
        begin = time.monotonic()
        self.check(config, call, SshConnectTimeout, tmp_path)
        assert time.monotonic() - begin < 6

    def test_a_mute_host_does_not_delay_another(
        self,
        config: Dict[str, Any],
        call: Dict[str, Any],
        listener: socket.socket,
    ) -> None:
        mute = {**call, "ssh_port": listener.getsockname()[1]}
        with SshHostService({**config, "ssh_connect_timeout": 5}) as host:
            slow = [host.remote_exec("true", mute, {})[1] for _ in range(5)]
            begin = time.monotonic()
            _, info = host.remote_exec("echo quick", call, {})
            assert results(host, info)[1]["stdout"] == "quick\n"
            assert time.monotonic() - begin < 3
            assert not any(info[FUTURE].done() for info in slow)


class TestKeyFiles:
    """Unusable private keys are ValueErrors, out of the results."""

    def check(self, config: Dict[str, Any], call: Dict[str, Any], tmp_path: Path) -> None:
        with SshHostService(config) as host, SshFileShareService(config) as share:
            status, info = host.remote_exec("true", call, {})
            assert status == Status.PENDING
            for _ in range(2):
                with pytest.raises(ValueError, match="key"):
                    results(host, info)
            with pytest.raises(ValueError, match="key"):
                share.upload(call, __file__, str(tmp_path / "copy"))

    def test_a_missing_key_is_a_value_error(
        self, config: Dict[str, Any], call: Dict[str, Any], tmp_path: Path
    ) -> None:
        config["ssh_priv_key_path"] = str(tmp_path / "key")
        self.check(config, call, tmp_path)

    def test_missing_key_is_a_value_error_even_if_connected(
        self, run: Run, tmp_path: Path
    ) -> None:
        assert run("true")[0] == Status.SUCCEEDED
        with pytest.raises(ValueError, match="does not exist"):
            run("true", ssh_priv_key_path=str(tmp_path / "key"))

    def test_invalid_key_file_is_a_value_error(
        self, config: Dict[str, Any], call: Dict[str, Any], tmp_path: Path
    ) -> None:
        (tmp_path / "key").write_text("no key\n")
        config["ssh_priv_key_path"] = str(tmp_path / "key")
        self.check(config, call, tmp_path)

    def test_an_encrypted_key_without_its_passphrase_is_a_value_error(
        self, config: Dict[str, Any], call: Dict[str, Any], tmp_path: Path
    ) -> None:
        config["ssh_priv_key_path"] = str(generated("sesame", passphrase="open sesame"))
        self.check(config, call, tmp_path)

    def test_a_key_that_others_can_read_is_accepted(
        self, config: Dict[str, Any], call: Dict[str, Any], sshd: Sshd, tmp_path: Path
    ) -> None:
        key = tmp_path / "key"
        key.write_bytes(Path(sshd.client_key).read_bytes())
        key.chmod(0o644)
        with SshHostService({**config, "ssh_priv_key_path": str(key)}) as host:
            _, info = host.remote_exec("true", call, {})
            assert results(host, info)[0] == Status.SUCCEEDED


class TestTimeout:
    """The request timeout, while the script runs."""

    def test_it_keeps_the_output_so_far_and_the_connection(
        self, config: Dict[str, Any], call: Dict[str, Any], sshd: Sshd
    ) -> None:
        with SshHostService({**config, "ssh_request_timeout": 1}) as host:
            begin = time.monotonic()
            _, info = host.remote_exec("echo so far; echo well >&2; sleep 30", call, {})
            status, result = results(host, info)
            assert 0.9 < time.monotonic() - begin < 3.0
            assert status == Status.TIMED_OUT
            assert set(result) == OUTPUT | {"error"}
            assert (result["stdout"], result["stderr"]) == ("so far\n", "well\n")
            assert isinstance(result["error"], SshCommandTimeout)
            assert host.get_remote_exec_results(info) == (status, result)
            _, info = host.remote_exec("echo usable", call, {})
            assert results(host, info)[1]["stdout"] == "usable\n"
        assert sshd.logins() == 1

    def test_the_remote_process_is_ended_and_known_to_be(
        self, config: Dict[str, Any], call: Dict[str, Any]
    ) -> None:
        with SshHostService({**config, "ssh_request_timeout": 1}) as host:
            _, info = host.remote_exec("echo $$; exec sleep 30", call, {})
            _, result = results(host, info)
        assert result["error"].ended is True
        eventually(lambda: not is_running(int(result["stdout"])))

    def test_it_counts_from_the_call_and_covers_the_queue(
        self, sshd_factory: Callable[..., Sshd]
    ) -> None:
        sshd = sshd_factory({"MaxSessions": 1})
        config = config_for(sshd, ssh_request_timeout=2, ssh_max_connections=1)
        call = {"ssh_hostname": sshd.host}
        with SshHostService(config) as host:
            # It outlives the signal that ends it, and with it the time of the one that waits.
            _, first = host.remote_exec("trap '' TERM HUP; sleep 30 & wait; sleep 30", call, {})
            _, second = host.remote_exec("true", call, {})
            assert results(host, first)[0] == Status.TIMED_OUT
            status, result = results(host, second)
        assert (status, result["result"]) == (Status.FAILED, None)
        assert isinstance(result["error"], SshCommandTimeout)
        assert result["error"].phase == "queue"


def test_a_cancelled_command_ends_with_its_output_so_far(
    host: SshHostService, call: Dict[str, Any], sshd: Sshd, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    _, info = host.remote_exec(f"echo begun; touch {started}; sleep 30", call, {})
    eventually(started.exists)
    assert info[FUTURE].cancel() is True
    status, result = results(host, info, within=5)
    assert status == Status.CANCELED
    assert result["stdout"] == "begun\n"
    assert isinstance(result["error"], SshCommandCancelled)
    assert info[FUTURE].cancelled()


def test_output_beyond_its_limit_ends_the_command(
    config: Dict[str, Any], call: Dict[str, Any]
) -> None:
    with SshHostService({**config, "ssh_max_output": 1000}) as host:
        _, info = host.remote_exec("yes", call, {})
        status, result = results(host, info)
    assert status == Status.FAILED
    assert result["stdout"] == "y\n" * 500
    assert isinstance(result["error"], SshOutputLimitError)


class TestLoss:
    """A connection that ends under a command."""

    def test_lost_connection_ends_all_commands_with_their_output(
        self, host: SshHostService, call: Dict[str, Any], sshd: Sshd, tmp_path: Path
    ) -> None:
        running = [
            host.remote_exec(f"echo {n}; touch {tmp_path}/{n}; sleep 60", call, {})[1]
            for n in range(30)
        ]
        eventually(lambda: len(list(tmp_path.iterdir())) == 30)
        catch_up(host, call)
        begin = time.monotonic()
        sshd.cut()
        for number, info in enumerate(running):
            status, result = results(host, info, within=5)
            assert status == Status.FAILED
            assert set(result) == OUTPUT | {"error"}
            assert result["stdout"] == f"{number}\n"
            process = result["ssh_completed_process_result"]
            assert (process.exit_status, process.returncode) == (None, None)
            assert isinstance(result["error"], SshConnectionLost)
        assert time.monotonic() - begin < 3
        _, info = host.remote_exec("echo again", call, {})
        assert results(host, info)[1]["stdout"] == "again\n"
        assert sshd.logins() == 2

    def test_a_silent_server_is_noticed(
        self, config: Dict[str, Any], call: Dict[str, Any], sshd: Sshd, tmp_path: Path
    ) -> None:
        config.update(ssh_keepalive_interval=0.3, ssh_keepalive_count_max=2)
        with SshHostService(config) as host:
            _, info = host.remote_exec(f"touch {tmp_path}/begun; sleep 60", call, {})
            eventually((tmp_path / "begun").exists)
            sshd.freeze()
            begin = time.monotonic()
            status, result = results(host, info, within=10)
            assert time.monotonic() - begin < 2
        assert status == Status.FAILED
        assert result["error"].reason == "silence"

    def test_a_copy_raises_and_the_next_one_connects_anew(
        self,
        config: Dict[str, Any],
        call: Dict[str, Any],
        sshd: Sshd,
        fault_proxy: Callable[[str, int], FaultProxy],
        tmp_path: Path,
    ) -> None:
        proxy = fault_proxy(sshd.host, sshd.port)
        source = tmp_path / "source"
        source.write_bytes(b"x" * (4 << 20))
        config.update(ssh_port=proxy.port, ssh_known_hosts_path=None)
        with SshFileShareService(config) as share:
            proxy.limit_after(1 << 20, "to_server")
            with pytest.raises(OSError):
                share.upload(call, str(source), str(tmp_path / "target"))
            proxy.heal()
            share.upload(call, str(source), str(tmp_path / "target"))
        assert (tmp_path / "target").read_bytes() == source.read_bytes()
