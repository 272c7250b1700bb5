"""The services by themselves: what they ask of the engine, and what they make of its answers."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
import pickle
import threading
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Optional

import pytest

from ssh_service import (
    SshAuthError,
    SshCacheClosed,
    SshCommandCancelled,
    SshCommandTimeout,
    SshConfigError,
    SshConnectError,
    SshConnectionLost,
    SshConnectTimeout,
    SshFileShareService,
    SshHostKeyError,
    SshHostService,
    SshOutputLimitError,
    SshService,
    SshServiceError,
    SshSessionRefused,
    Status,
    operations,
)
from ssh_service.params import resolve
from ssh_service.services import host_api

FUTURE = "asyncRemoteExecResultsFuture"
HERE = {"ssh_hostname": "host.example"}


class FakeCache:
    """Counts its enters and exits."""

    def __init__(self) -> None:
        self.entered = 0
        self.most = 0
        self.cleanups = 0

    def enter(self) -> None:
        self.entered += 1
        self.most = max(self.most, self.entered)

    def exit(self) -> None:
        self.entered -= 1

    def cleanup(self) -> None:
        self.cleanups += 1


class FakeEngine:
    """Stands for `ssh_service.operations`: records calls, answers with `outcome`."""

    def __init__(self) -> None:
        self.calls: List[SimpleNamespace] = []
        self.outcome: Any = process()

    @property
    def last(self) -> SimpleNamespace:
        return self.calls[-1]

    def submit(self, cache: Any, connect_params: Any, script: Any, **options: Any) -> Any:
        self.calls.append(
            SimpleNamespace(cache=cache, params=connect_params, script=script, **options)
        )
        future: Future[Any] = Future()
        if isinstance(self.outcome, BaseException):
            future.set_exception(self.outcome)
        else:
            future.set_result(self.outcome)
        return future

    def copy(self, cache: Any, connect_params: Any, *paths: Any, **options: Any) -> None:
        self.calls.append(
            SimpleNamespace(cache=cache, params=connect_params, paths=paths, **options)
        )
        if isinstance(self.outcome, BaseException):
            raise self.outcome


def process(exit_status: Optional[int] = 0, **more: Any) -> Any:
    facts = {"returncode": exit_status, "stdout": "out\n", "stderr": "err\n", **more}
    return SimpleNamespace(exit_status=exit_status, **facts)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> FakeCache:
    fake = FakeCache()
    monkeypatch.setattr(SshService, "_CLIENT_CACHE", fake)
    return fake


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, cache: FakeCache) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(operations, "submit", fake.submit)
    monkeypatch.setattr(operations, "upload", fake.copy)
    monkeypatch.setattr(operations, "download", fake.copy)
    return fake


@pytest.fixture
def host(engine: FakeEngine) -> Iterator[SshHostService]:
    with SshHostService({"ssh_known_hosts_path": None, "ssh_config": None}) as service:
        yield service


@pytest.fixture
def share(engine: FakeEngine) -> Iterator[SshFileShareService]:
    with SshFileShareService({"ssh_known_hosts_path": None, "ssh_config": None}) as service:
        yield service


def outcome_of(host: SshHostService, engine: FakeEngine, outcome: Any) -> Any:
    engine.outcome = outcome
    _, info = host.remote_exec(["true"], HERE, {})
    return host.get_remote_exec_results(info)


class TestConstruction:
    """Constructors."""

    def test_the_host_service_exports_its_five_methods(self) -> None:
        assert sorted(SshHostService().export()) == [
            "get_remote_exec_results",
            "reboot",
            "remote_exec",
            "shutdown",
            "wait_os_operation",
        ]

    def test_the_file_share_exports_its_two(self) -> None:
        assert sorted(SshFileShareService().export()) == ["download", "upload"]

    def test_signatures_are_the_documented_ones(self) -> None:
        def names(function: Any) -> List[str]:
            return list(inspect.signature(function).parameters)[1:]

        for service in (SshService, SshHostService, SshFileShareService):
            assert names(service.__init__) == ["config", "global_config", "parent", "methods"]
        assert names(SshHostService.remote_exec) == ["script", "config", "env_params"]
        assert names(SshHostService.get_remote_exec_results) == ["config"]
        assert names(SshHostService.shutdown) == ["params", "force"]
        assert names(SshHostService.reboot) == ["params", "force"]
        assert names(SshHostService.wait_os_operation) == ["params"]
        copying = ["params", "remote_path", "local_path", "recursive"]
        assert names(SshFileShareService.download) == copying
        copying[1:3] = "local_path", "remote_path"
        assert names(SshFileShareService.upload) == copying

    @pytest.mark.parametrize("service", [SshService, SshHostService, SshFileShareService])
    def test_invalid_config_error_names_class_and_setting(self, service: Any) -> None:
        with pytest.raises(host_api.InvalidConfig) as caught:
            service({"ssh_prot": 22})
        assert str(caught.value).startswith(f"{service.__name__}: ssh_prot: unknown setting")
        assert isinstance(caught.value, (SshConfigError, ValueError))

    def test_each_service_has_settings_the_other_refuses(self) -> None:
        SshHostService({"ssh_shell": "/bin/sh"})
        SshFileShareService({"ssh_copy_verify": True})
        with pytest.raises(SshConfigError, match="ssh_shell"):
            SshFileShareService({"ssh_shell": "/bin/sh"})
        with pytest.raises(SshConfigError, match="ssh_copy_verify"):
            SshHostService({"ssh_copy_verify": True})

    @pytest.mark.parametrize("config", [5, "ssh_port", [("ssh_port", 22)]])
    def test_config_that_is_not_a_mapping_is_an_error(self, config: Any) -> None:
        with pytest.raises(SshConfigError, match="config must be a mapping"):
            SshHostService(config)
        with SshHostService() as service:
            with pytest.raises(SshConfigError, match="config must be a mapping"):
                service.remote_exec("echo", config)

    def test_a_class_that_is_both_knows_the_settings_of_both(self) -> None:
        class Both(SshHostService, SshFileShareService):
            pass

        both = Both({"ssh_shell": "/bin/sh", "ssh_copy_verify": True})
        assert len(both.export()) == 7

    def test_known_hosts_that_contradict_fail_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(SshConfigError, match="does not exist"):
            SshHostService({"ssh_known_hosts_path": str(tmp_path / "none")})
        with pytest.raises(SshConfigError, match="differ"):
            SshHostService({"ssh_known_hosts_path": None, "ssh_known_hosts_file": "x"})
        with pytest.raises(SshConfigError, match="needs ssh_known_hosts_path"):
            SshHostService({"ssh_host_key_policy": "strict"})

    def test_the_callers_dict_is_left_alone(self) -> None:
        config: Dict[str, Any] = {"ssh_username": "bob"}
        SshHostService(config).config["ssh_port"] = 23
        assert config == {"ssh_username": "bob"}

    def test_the_config_can_be_dumped_as_json(self) -> None:
        json.dumps(SshHostService({"ssh_priv_key_path": Path("key")}).config)

    def test_mlos_bench_can_leave_unknown_settings_to_others(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host_api, "SCHEMA_IS_CHECKED", False)
        assert SshHostService({"anything": 1}).config["anything"] == 1
        with pytest.raises(SshConfigError, match="ssh_port"):
            SshHostService({"ssh_port": "none"})

    @pytest.mark.parametrize("twin", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
    def test_a_service_is_pickled_as_its_config(self, host: SshHostService, twin: Any) -> None:
        other = twin(host)
        assert type(other) is SshHostService
        assert other.config == host.config
        with pytest.raises(SshCacheClosed):
            other.remote_exec("true", HERE, {})


class TestContext:
    """The lease on the process's cache."""

    def test_a_service_keeps_the_cache_alive_in_its_context_only(self, cache: FakeCache) -> None:
        service = SshHostService()
        assert cache.entered == 0
        with service:
            assert cache.entered == 1
        assert cache.entered == 0

    def test_all_services_share_one_cache(self) -> None:
        assert SshHostService._CLIENT_CACHE is SshFileShareService._CLIENT_CACHE

    def test_a_bare_service_without_methods_keeps_it_alive_too(self, cache: FakeCache) -> None:
        with SshService():
            assert cache.entered == 1
        assert cache.entered == 0

    def test_leaving_twice_gives_one_lease_back(self, cache: FakeCache) -> None:
        service = SshHostService()
        with service:
            with service:
                assert cache.entered == 1
            assert cache.entered == 0
        assert (cache.entered, cache.most) == (0, 1)

    def test_a_mixin_enters_and_leaves_its_services(self, cache: FakeCache) -> None:
        host, share = SshHostService(), SshFileShareService()
        mixin = host_api.Service(parent=host)
        mixin.register(share.export())
        with mixin:
            assert cache.entered == 2
            share._require_context()
        assert cache.entered == 0

    @pytest.mark.parametrize("when", ["before", "after", "while another is in its own"])
    def test_outside_its_context_a_service_refuses_at_once(
        self, engine: FakeEngine, when: str
    ) -> None:
        host, share = SshHostService(), SshFileShareService()
        other = SshHostService()
        if when == "after":
            with host, share:
                pass
        with other:
            for call in (
                lambda: host.remote_exec("true", HERE, {}),
                lambda: host.shutdown(HERE),
                lambda: host.reboot(HERE),
                lambda: share.upload(HERE, "a", "b"),
                lambda: share.download(HERE, "a", "b"),
            ):
                with pytest.raises(SshCacheClosed, match="outside its context") as caught:
                    call()
                assert isinstance(caught.value, RuntimeError)
        assert engine.calls == []

    def test_results_can_be_fetched_after_the_context(self, engine: FakeEngine) -> None:
        host = SshHostService()
        with host:
            _, info = host.remote_exec("true", HERE, {})
        assert host.get_remote_exec_results(info)[0] == Status.SUCCEEDED

    def test_clear_client_cache_cleans_up_and_returns_none(self, cache: FakeCache) -> None:
        assert SshHostService.clear_client_cache() is None
        assert cache.cleanups == 1

    def test_many_threads_entering_and_leaving_end_with_no_lease(self, cache: FakeCache) -> None:
        services = [SshHostService() for _ in range(8)]
        start = threading.Barrier(len(services))

        def cycle(service: SshHostService) -> None:
            start.wait(10)
            for _ in range(50):
                with service:
                    service._require_context()

        threads = [threading.Thread(target=cycle, args=(service,)) for service in services]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert all(service._leased_by is None for service in services)

    def test_child_forked_in_the_context_takes_its_own_lease(
        self, cache: FakeCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = SshHostService()
        with service:
            cache.entered = 0  # as the real one forgets in a child
            monkeypatch.setattr(os, "getpid", lambda: -1)
            service._require_context()
            assert cache.entered == 1
        assert cache.entered == 0

    def test_a_child_that_never_used_it_gives_nothing_back(
        self, cache: FakeCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with SshHostService():
            cache.entered = 0
            monkeypatch.setattr(os, "getpid", lambda: -1)
        assert cache.entered == 0


class TestRemoteExec:
    """The calls of `remote_exec` to the engine."""

    def test_it_returns_pending_and_a_new_dict_with_the_future(
        self, host: SshHostService, engine: FakeEngine, cache: FakeCache
    ) -> None:
        config = {**HERE, "something_else": 1}
        status, info = host.remote_exec(["a", "b"], config, {"X": 1})
        assert status == Status.PENDING
        assert isinstance(info.pop(FUTURE), Future)
        assert info == {**host.config, **HERE}
        assert config == {**HERE, "something_else": 1}
        assert engine.last.script == ["a", "b"]
        assert engine.last.env == {"X": 1}
        assert engine.last.cache is cache

    def test_call_overrides_settings_that_the_service_has(self, engine: FakeEngine) -> None:
        config = {
            "ssh_port": 1,
            "ssh_username": "alice",
            "ssh_shell": "/bin/sh",
            "ssh_known_hosts_path": None,
        }
        with SshHostService(config) as host:
            before = dict(host.config)
            _, info = host.remote_exec(
                "true",
                {
                    **HERE,
                    "ssh_port": "2",
                    "ssh_username": "bob",
                    "ssh_shell": "/bin/dash",
                    "ssh_max_connections": 9,
                },
                {},
            )
            assert host.config == before
        assert (engine.last.params["port"], engine.last.params["username"]) == ("2", "bob")
        assert engine.last.shell == "/bin/dash"
        assert engine.last.max_connections == 4
        assert "ssh_max_connections" not in info

    def test_port_user_and_key_can_always_be_given_per_call(
        self, host: SshHostService, engine: FakeEngine, tmp_path: Path
    ) -> None:
        key = tmp_path / "key"
        key.touch()
        call = {**HERE, "ssh_port": 2, "ssh_username": "bob", "ssh_priv_key_path": str(key)}
        host.remote_exec("true", call, {})
        assert engine.last.params["client_keys"] == str(key)
        assert (engine.last.params["port"], engine.last.params["username"]) == (2, "bob")

    def test_port_none_in_a_call_means_the_services_port(self, engine: FakeEngine) -> None:
        with SshHostService({"ssh_port": 7, "ssh_known_hosts_path": None}) as host:
            host.remote_exec("true", {**HERE, "ssh_port": None}, {})
        assert engine.last.params["port"] == 7

    def test_the_request_timeout_is_the_services_alone(self, engine: FakeEngine) -> None:
        with SshHostService({"ssh_request_timeout": 5, "ssh_known_hosts_path": None}) as host:
            _, info = host.remote_exec("true", {**HERE, "ssh_request_timeout": 1}, {})
        assert engine.last.timeout == 5
        assert info["ssh_request_timeout"] == 5

    def test_limits_are_passed_on(self, engine: FakeEngine) -> None:
        limits = {"max_connections": 2, "max_output": 10, "idle_timeout": 5, "max_lifetime": 60}
        config: Dict[str, Any] = {f"ssh_{name}": value for name, value in limits.items()}
        with SshHostService({**config, "ssh_known_hosts_path": None}) as host:
            host.remote_exec("true", HERE, {})
        assert {name: getattr(engine.last, name) for name in limits} == limits
        assert (engine.last.timeout, engine.last.shell) == (None, None)

    @pytest.mark.parametrize("call", [{}, None, {"ssh_hostname": None}])
    def test_a_call_without_a_host_fails_at_once(self, host: SshHostService, call: Any) -> None:
        for method in (lambda c: host.remote_exec("true", c, {}), host.shutdown, host.reboot):
            with pytest.raises(ValueError, match="Missing required parameter: ssh_hostname"):
                method(call)

    @pytest.mark.parametrize("name", ["hostname", "host", "ssh_host", "HostName"])
    def test_a_host_under_another_name_is_an_error_that_suggests_the_right_one(
        self, host: SshHostService, name: str
    ) -> None:
        with pytest.raises(ValueError, match=f"{name}.: did you mean 'ssh_hostname'?"):
            host.remote_exec("true", {name: "web1"}, {})

    def test_a_wrong_value_in_a_call_fails_at_once(self, host: SshHostService) -> None:
        with pytest.raises(SshConfigError, match="ssh_port: expected a port number.*, got 'http'"):
            host.remote_exec("true", {**HERE, "ssh_port": "http"}, {})

    def test_engine_config_errors_are_raised_by_the_call(
        self, host: SshHostService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: Any, **options: Any) -> Any:
            raise SshConfigError("environment: 'A-B' is no name")

        monkeypatch.setattr(operations, "submit", refuse)
        with pytest.raises(ValueError, match="A-B"):
            host.remote_exec("true", HERE, {"A-B": 1})

    def test_a_missing_private_key_shows_in_the_results(
        self, host: SshHostService, engine: FakeEngine
    ) -> None:
        status, info = host.remote_exec("true", {**HERE, "ssh_priv_key_path": "/no/key"}, {})
        assert status == Status.PENDING
        for _ in range(2):
            with pytest.raises(ValueError, match="ssh_priv_key_path /no/key does not exist"):
                host.get_remote_exec_results(info)
        assert engine.calls == []


class TestUncheckedHostKeys:
    """Whether the engine is to warn that a host key is not checked."""

    @pytest.mark.parametrize(
        ("config", "deliberate"),
        [
            ({}, False),
            ({"ssh_known_hosts_path": None}, True),
            ({"ssh_host_key_policy": "off"}, True),
        ],
    )
    def test_service_unchecked_host_key_deliberate_or_not(
        self, engine: FakeEngine, config: Dict[str, Any], deliberate: bool
    ) -> None:
        """Only a service whose settings say "off" or null gets no warning."""
        with SshHostService(config) as host:
            host.remote_exec("true", HERE, {})
        trust = resolve(engine.last.params).known_hosts
        assert (trust.policy, trust.is_deliberate) == ("off", deliberate)

    def test_service_ssh_config_check_demanded_is_checked(
        self, engine: FakeEngine, tmp_path: Path
    ) -> None:
        """A check that the user's ssh_config demands is made, so nothing is to be warned of."""
        file = tmp_path / "ssh_config"
        file.write_text("Host careful\n    StrictHostKeyChecking yes\n")
        with SshHostService({"ssh_config": str(file)}) as host:
            host.remote_exec("true", {"ssh_hostname": "careful"}, {})
        assert resolve(engine.last.params).known_hosts.policy == "strict"


class TestResults:
    """The results that outcomes of the engine become."""

    def test_success_and_failure_by_exit_status(
        self, host: SshHostService, engine: FakeEngine
    ) -> None:
        for exit_status, expected in ((0, Status.SUCCEEDED), (3, Status.FAILED)):
            result = process(exit_status)
            assert outcome_of(host, engine, result) == (
                expected,
                {"stdout": "out\n", "stderr": "err\n", "ssh_completed_process_result": result},
            )

    def test_a_signal_is_a_failure(self, host: SshHostService, engine: FakeEngine) -> None:
        status, _ = outcome_of(host, engine, process(-1, returncode=-9))
        assert status == Status.FAILED

    def test_no_exit_status_is_a_failure(self, host: SshHostService, engine: FakeEngine) -> None:
        assert outcome_of(host, engine, process(None))[0] == Status.FAILED

    @pytest.mark.parametrize(
        "error",
        [
            SshConnectError("refused"),
            SshAuthError("denied"),
            SshHostKeyError("changed"),
            SshConnectTimeout("slow"),
            SshSessionRefused("no more"),
            SshConnectionLost("before it was sent", sent=False),
            SshCommandTimeout("no free session", phase="queue"),
            SshCacheClosed("closed"),
            SshServiceError("something"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_script_that_never_started_failed_without_a_result(
        self, host: SshHostService, engine: FakeEngine, error: SshServiceError
    ) -> None:
        assert outcome_of(host, engine, error) == (
            Status.FAILED,
            {"result": None, "error": error},
        )

    @pytest.mark.parametrize(
        "cls, expected",
        [
            (SshCommandTimeout, Status.TIMED_OUT),
            (SshCommandCancelled, Status.CANCELED),
            (SshConnectionLost, Status.FAILED),
            (SshOutputLimitError, Status.FAILED),
        ],
    )
    def test_command_ended_early_keeps_its_output(
        self, host: SshHostService, engine: FakeEngine, cls: Any, expected: Status
    ) -> None:
        part = process(None, stdout="so f")
        error = cls("early", process=part)
        assert outcome_of(host, engine, error) == (
            expected,
            {
                "stdout": "so f",
                "stderr": "err\n",
                "ssh_completed_process_result": part,
                "error": error,
            },
        )

    def test_a_future_cancelled_before_it_ran_is_cancelled(self, host: SshHostService) -> None:
        future: Future[Any] = Future()
        future.cancel()
        status, result = host.get_remote_exec_results({FUTURE: future})
        assert status == Status.CANCELED
        assert isinstance(result["error"], CancelledError)

    def test_a_key_that_cannot_be_used_is_raised(
        self, host: SshHostService, engine: FakeEngine
    ) -> None:
        error = SshConfigError("client_keys: wrong passphrase")
        for _ in range(2):
            with pytest.raises(ValueError, match="wrong passphrase") as caught:
                outcome_of(host, engine, error)
            assert caught.value is not error and caught.value.__cause__ is error

    def test_a_defect_is_not_taken_for_a_failure(
        self, host: SshHostService, engine: FakeEngine
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            outcome_of(host, engine, ZeroDivisionError("a bug"))

    def test_results_can_be_fetched_again_and_are_equal(
        self, host: SshHostService, engine: FakeEngine
    ) -> None:
        for outcome in (process(), SshConnectError("refused")):
            engine.outcome = outcome
            _, info = host.remote_exec("true", HERE, {})
            first = host.get_remote_exec_results(info)
            assert host.get_remote_exec_results(info) == first
            assert host.wait_os_operation(info) == first

    @pytest.mark.parametrize("config", [{}, {FUTURE: None}])
    def test_without_a_future_there_is_nothing_to_wait_for(
        self, host: SshHostService, config: Dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match="Missing 'asyncRemoteExecResultsFuture'"):
            host.get_remote_exec_results(config)

    def test_something_else_in_its_place_is_refused(self, host: SshHostService) -> None:
        with pytest.raises(AssertionError, match="must be a Future, got a str"):
            host.get_remote_exec_results({FUTURE: "later"})

    def test_failures_are_logged_with_what_happened(
        self, host: SshHostService, engine: FakeEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        outcome_of(host, engine, SshConnectError("bob@host:22: refused"))
        assert "FAILED: bob@host:22: refused" in caplog.messages


# The real scripts end in `kill -KILL -1`: they are read here, and never run.
def commands_of(script: str) -> str:
    (line,) = [line for line in script.splitlines() if line.startswith("for cmd in ")]
    return line[len("for cmd in ") : -len("; do")]


class TestOsOperations:
    """Shutdown and reboot."""

    def test_shutdown_tries_these_in_this_order(
        self, host: SshHostService, engine: FakeEngine
    ) -> None:
        for force in (False, True):  # it makes no difference
            status, info = host.shutdown(HERE, force)
            assert status == Status.PENDING and isinstance(info[FUTURE], Future)
            assert commands_of(engine.last.script) == (
                "'shutdown -h now' 'poweroff' 'halt -p' 'systemctl poweroff'"
            )

    @pytest.mark.parametrize(
        "force, last",
        [(False, "kill -TERM 1; kill -TERM -1"), (True, "kill -KILL 1; kill -KILL -1")],
    )
    def test_reboot_tries_these_and_then_the_last_resort(
        self, host: SshHostService, engine: FakeEngine, force: bool, last: str
    ) -> None:
        status, info = host.reboot(HERE, force=force)
        assert status == Status.PENDING and isinstance(info[FUTURE], Future)
        assert commands_of(engine.last.script) == (
            f"'shutdown -r now' 'reboot' 'halt --reboot' 'systemctl reboot' '{last}'"
        )

    def test_os_operations_always_run_in_sh(self, engine: FakeEngine) -> None:
        with SshHostService({"ssh_shell": "/bin/fish", "ssh_known_hosts_path": None}) as host:
            host.shutdown(HERE)
            assert engine.last.shell == "/bin/sh"
            host.reboot(HERE)
            assert engine.last.shell == "/bin/sh"

    def test_os_operation_scripts_have_no_bashisms(
        self, host: SshHostService, engine: FakeEngine
    ) -> None:
        host.reboot(HERE)
        assert "[[" not in engine.last.script and "EUID" not in engine.last.script

    @pytest.mark.parametrize("reason", ["eof", "reset", "disconnect"])
    @pytest.mark.parametrize("operation", ["reboot", "shutdown"])
    def test_connection_closed_after_shutdown_is_success(
        self, host: SshHostService, engine: FakeEngine, operation: str, reason: str
    ) -> None:
        engine.outcome = error = SshConnectionLost("lost", process=process(None), reason=reason)
        _, info = getattr(host, operation)(HERE)
        status, result = host.wait_os_operation(info)
        assert status == Status.SUCCEEDED
        assert result["error"] is error
        assert result["stdout"] == "out\n"

    @pytest.mark.parametrize("reason", ["silence", "closed", "protocol", "host key", "unknown"])
    def test_reboot_lost_for_another_reason_failed(
        self, host: SshHostService, engine: FakeEngine, reason: str
    ) -> None:
        engine.outcome = SshConnectionLost("lost", process=process(None), reason=reason)
        _, info = host.reboot(HERE)
        assert host.wait_os_operation(info)[0] == Status.FAILED

    @pytest.mark.parametrize("part", [None, process(None, stdout="", stderr="")])
    def test_a_loss_before_the_script_began_failed(
        self, host: SshHostService, engine: FakeEngine, part: Any
    ) -> None:
        engine.outcome = SshConnectionLost("lost", process=part, reason="eof")
        _, info = host.reboot(HERE)
        assert host.wait_os_operation(info)[0] == Status.FAILED

    def test_a_script_that_loses_its_connection_is_no_reboot(
        self, host: SshHostService, engine: FakeEngine
    ) -> None:
        error = SshConnectionLost("lost", process=process(None), reason="eof")
        assert outcome_of(host, engine, error)[0] == Status.FAILED


class TestCopies:
    """The calls of `upload` and `download` to the engine."""

    def test_paths_go_in_the_order_of_the_copy(
        self, share: SshFileShareService, engine: FakeEngine, cache: FakeCache
    ) -> None:
        assert share.upload(HERE, "here", "there") is None
        assert engine.last.paths == ("here", "there")
        share.download(HERE, "there", "here", recursive=False)
        assert engine.last.paths == ("there", "here")
        assert engine.last.recursive is False
        assert engine.last.cache is cache
        assert engine.last.params["host"] == "host.example"

    def test_copy_options_come_from_the_settings(self, engine: FakeEngine) -> None:
        config = {"ssh_copy_verify": True, "ssh_copy_fsync": True, "ssh_known_hosts_path": None}
        with SshFileShareService(config) as share:
            share.upload({**HERE, "ssh_copy_fsync": False}, "a", "b")
        assert (engine.last.verify, engine.last.resume, engine.last.fsync) == (True, False, False)
        assert engine.last.recursive is True

    def test_the_limits_of_copies_come_from_two_settings(self, engine: FakeEngine) -> None:
        """The whole by `ssh_copy_timeout`, no progress by `ssh_request_timeout`."""
        config = {
            "ssh_copy_timeout": 60,
            "ssh_request_timeout": 5,
            "ssh_copy_preserve": False,
            "ssh_known_hosts_path": None,
        }
        with SshFileShareService(config) as share:
            share.upload({**HERE, "ssh_copy_timeout": 30, "ssh_request_timeout": 1}, "a", "b")
        assert (engine.last.timeout, engine.last.stall_timeout) == (30, 5)
        assert engine.last.preserve is False
        with SshFileShareService({"ssh_known_hosts_path": None}) as share:
            share.download(HERE, "a", "b")
        assert (engine.last.timeout, engine.last.stall_timeout) == (None, None)
        assert engine.last.preserve is None

    def test_failures_are_raised_as_they_are(
        self, share: SshFileShareService, engine: FakeEngine
    ) -> None:
        engine.outcome = SshConnectError("refused")
        with pytest.raises(SshConnectError) as caught:
            share.download(HERE, "a", "b")
        assert caught.value is engine.outcome

    def test_bad_input_fails_at_once(self, share: SshFileShareService, engine: FakeEngine) -> None:
        for copy_one in (share.upload, share.download):
            with pytest.raises(ValueError, match="Missing required parameter: ssh_hostname"):
                copy_one({}, "a", "b")
            with pytest.raises(ValueError, match="ssh_priv_key_path /no/key does not exist"):
                copy_one({**HERE, "ssh_priv_key_path": "/no/key"}, "a", "b")
        assert engine.calls == []

    def test_the_callers_params_are_left_alone(
        self, share: SshFileShareService, engine: FakeEngine
    ) -> None:
        params = {**HERE, "other": 1}
        share.upload(params, "a", "b")
        assert params == {**HERE, "other": 1}


def test_no_parameter_is_logged_above_debug(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with SshHostService({"ssh_username": "u-s-e-r"}) as host, SshFileShareService() as share:
        _, info = host.remote_exec("s-c-r-i-p-t", HERE, {"N-A-M-E": "v-a-l-u-e"})
        host.get_remote_exec_results(info)
        share.upload(HERE, "a", "b")
    for secret in ("u-s-e-r", "s-c-r-i-p-t", "N-A-M-E", "v-a-l-u-e"):
        assert secret not in caplog.text
