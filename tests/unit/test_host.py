"""`Host`, and destinations as text."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any, Dict

import pytest

import ssh_service
from ssh_service import Host, SshClientCache, SshConfigError, params

NOTHING: Dict[str, Any] = {"config": None}


@pytest.mark.parametrize(
    "text, means",
    [
        ("web1", {"host": "web1"}),
        ("deploy@web1", {"host": "web1", "username": "deploy"}),
        ("deploy@web1:2222", {"host": "web1", "username": "deploy", "port": 2222}),
        ("web1:2222", {"host": "web1", "port": 2222}),
        ("[fe80::1%eth0]:22", {"host": "fe80::1%eth0", "port": 22}),
        ("fe80::1%eth0", {"host": "fe80::1%eth0"}),
        ("ssh://deploy@web1:2222", {"host": "web1", "username": "deploy", "port": 2222}),
        ("SSH://web1/", {"host": "web1"}),
        ("ssh://a%40corp@web1", {"host": "web1", "username": "a@corp"}),
        ("ssh://[fe80::1%25eth0]:22", {"host": "fe80::1%eth0", "port": 22}),
    ],
)
def test_text_means_the_same_as_the_mapping(text: str, means: Dict[str, Any]) -> None:
    assert Host(text).settings == means
    assert params.resolve(Host(text, **NOTHING)).key == params.resolve({**means, **NOTHING}).key


@pytest.mark.parametrize(
    "text, why",
    [
        ("deploy:geheim@web1", r"'deploy:\*\*\*@web1': a password cannot be part of it"),
        ("ssh://deploy:geheim@web1", r"'ssh://deploy:\*\*\*@web1': a password cannot be part"),
        ("http://web1", "http:// is not ssh://"),
        ("ssh://web1/srv", "a path cannot be part of it"),
        ("ssh://web1;fingerprint=x@web1", "parameters after a semicolon"),
        ("web[01-40", r"a bracket is not closed; a range is \[01-40\]"),
        ("web[01-40]", "a range stands for several hosts"),
        ("web1:ssh", "'ssh' is not a port number"),
        ("web1:22:33", "too many colons; an IPv6 address with a port"),
        ("@web1", "no user before the @"),
        ("", "no host"),
    ],
)
def test_text_that_is_no_destination_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(SshConfigError, match=why) as caught:
        ssh_service.run(text, "true")
    assert "geheim" not in str(caught.value)


def test_host_is_shown_without_its_secrets() -> None:
    host = Host("deploy@web1:2222", connect_timeout=5, password="geheim", tunnel={"host": "gw"})
    shown = "Host('deploy@web1:2222', connect_timeout=5, password=***, tunnel={'host': 'gw'})"
    assert (str(host), repr(host)) == ("deploy@web1:2222", shown)
    assert str(Host("[::1]:22")) == "[::1]:22" and str(Host("::1")) == "::1"
    assert "geheim" not in str(vars(host))


def test_hosts_are_equal_if_their_settings_are() -> None:
    host, cache = Host("deploy@web1", password="geheim"), SshClientCache()
    assert host == Host({"host": "web1", "username": "deploy"}, password="geheim")
    assert hash(host) == hash(Host("deploy@web1", password="another"))
    assert host != Host("deploy@web1", password="another") and host != "deploy@web1"
    assert host != Host(host, cache=cache) and Host(host) == host
    assert Host(host, port=2222, password=None) == Host("deploy@web1:2222", password=None)
    assert {host: 1}[Host(host)] == 1


def test_host_can_be_pickled_unless_it_holds_a_secret() -> None:
    host = Host("deploy@web1", cache=SshClientCache(), connect_timeout=5)
    host.resolve()
    assert pickle.loads(pickle.dumps(host)) == Host("deploy@web1", connect_timeout=5)
    with pytest.raises(TypeError, match="not picklable"):
        pickle.dumps(Host("deploy@web1", password="geheim"))


def test_host_is_immutable() -> None:
    host: Any = Host("deploy@web1")
    with pytest.raises(AttributeError, match=r"such as Host\(host, connect_timeout=...\)"):
        host.connect_timeout = 5
    for name in ("x", "run", "_settings"):
        with pytest.raises(AttributeError, match=f"a Host is immutable: cannot set '{name}'"):
            setattr(host, name, 1)
        with pytest.raises(AttributeError, match="cannot delete"):
            delattr(host, name)
    with pytest.raises(TypeError, match="does not support item assignment"):
        host.settings["connect_timeout"] = 5
    assert copy.deepcopy([host])[0] is host and host == Host("deploy@web1")


def test_start_job_without_a_script_is_refused_like_run() -> None:
    with pytest.raises(SshConfigError, match=r"script: missing; expected .* args=\[\.\.\.\]"):
        Host("web1").start_job()


@pytest.mark.parametrize(
    "call, why",
    [
        (lambda web: web.run("true", shell="/\ud800"), "shell: a lone surrogate"),
        (lambda web: web.start_job("true", shell="/\ud800"), "shell: a lone surrogate"),
        (lambda web: web.start_job("true", cwd="/\ud800"), "cwd: a lone surrogate"),
        (lambda web: web.path("/").glob("\ud800"), "pattern: expected a path that can be enc"),
        (lambda web: web.path("/x").symlink_to("\ud800"), "target: expected a path that can be"),
    ],
)
def test_paths_on_the_host_that_cannot_be_encoded_are_refused(call: Any, why: str) -> None:
    with pytest.raises(SshConfigError, match=why):
        call(Host("web.invalid", **NOTHING))


@pytest.mark.parametrize("function", [ssh_service.upload, ssh_service.download])
def test_copies_refuse_a_path_that_cannot_be_encoded(function: Any) -> None:
    with pytest.raises(SshConfigError, match="_path: expected a path that can be encoded"):
        function("web.invalid", "a\ud800", "b\ud800")


def test_host_reads_ssh_config_once(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host web\n    HostName 192.0.2.1\n    User deploy\n")
    host = Host("web", config=str(config))
    assert host.connection_id == "deploy@web:22" and host.resolve().hostname == "192.0.2.1"
    config.unlink()
    assert params.resolve(host) is host.resolve()
    assert Host("web", config=None).resolve().hostname == "web"


@pytest.mark.parametrize(
    "name",
    (
        "run start upload download start_job find_job list_jobs forward_local forward_remote"
        " forward_socks wait_for"
    ).split(),
)
def test_method_is_the_function_without_its_destination(name: str) -> None:
    """As ``help`` shows it."""
    function, method = getattr(ssh_service, name), getattr(Host, name)
    first, *others = inspect.signature(function).parameters.values()
    assert first.name == "destination"
    assert list(inspect.signature(method).parameters.values())[1:] == others
    assert "destination :" in function.__doc__ and "destination :" not in method.__doc__
    assert "Thread safety" in method.__doc__ and method.__qualname__ == f"Host.{name}"


@pytest.mark.parametrize(
    "given, options, why",
    [
        (5, {}, "a text like 'deploy@web1:22' or a mapping"),
        ("a b", {}, "'a b' is not a host name"),
        ("web1", {"cache": 5}, "cache"),
        ("web1", {"conect_timeout": 5}, "conect_timeout.*connect_timeout"),
    ],
)
def test_host_of_what_is_no_destination_is_refused_at_once(
    given: Any, options: Dict[str, Any], why: str
) -> None:
    with pytest.raises(SshConfigError, match=why):
        Host(given, **options)
