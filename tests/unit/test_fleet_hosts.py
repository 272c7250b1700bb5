"""Hosts as people write them."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any, Dict, List

import pytest

from ssh_service import SshConfigError, fleet
from ssh_service.fleet.hosts import connect_params, folder_name, parse


@pytest.mark.parametrize(
    "text, meant",
    [
        ("web01", {"host": "web01"}),
        ("web01:2222", {"host": "web01", "port": 2222}),
        ("admin@web01", {"host": "web01", "username": "admin"}),
        ("a@b@web01:22", {"host": "web01", "username": "a@b", "port": 22}),
        ("10.0.0.1:2222", {"host": "10.0.0.1", "port": 2222}),
        ("fe80::1%eth0", {"host": "fe80::1%eth0"}),
        ("[::1]:2222", {"host": "::1", "port": 2222}),
        ("root@[::1]", {"host": "::1", "username": "root"}),
    ],
)
def test_a_destination_is_read(text: str, meant: Dict[str, Any]) -> None:
    assert fleet.parse(text) == meant


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "no host"),
        ("admin@", "no host"),
        ("@web01", "no user"),
        ("web01:", "no port"),
        ("web01:ssh", "not a port number"),
        ("web01:99999", "not a port number"),
        ("web 01", "not a host name"),
        ("-oProxyCommand=x", "not a host name"),
        ("[::1", "not closed"),
        ("[::1]22", "not closed"),
        ("web[a-c]", "not a host name, nor a range such as"),
        ("web[1..3]", "not a host name, nor a range such as"),
        ("web{1..3}", "not a host name, nor a range such as"),
        ("a,b", "cannot be joined by commas"),
        ("web[1-3,a]", r"\[1-3,a\] is not a range"),
        ("web[01:40]", r"\[01:40\] is not a range"),
        ("web[01-40", "a bracket is not closed"),
        ("http://web01", "http:// is not ssh://"),
        ("web[01-02]", "list them with ssh_service.fleet.expand"),
    ],
)
def test_invalid_destination_error_says_what_was_expected(text: str, complaint: str) -> None:
    with pytest.raises(SshConfigError, match=complaint) as caught:
        fleet.parse(text)
    assert "expected [user@]host[:port]" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern, hosts",
    [
        ("web01", ["web01"]),
        ("web[08-11]", ["web08", "web09", "web10", "web11"]),
        ("web[8-11]", ["web8", "web9", "web10", "web11"]),
        ("db[1,3,7-9].example.org:22", [f"db{n}.example.org:22" for n in (1, 3, 7, 8, 9)]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("127.0.0.[1-3]", ["127.0.0.1", "127.0.0.2", "127.0.0.3"]),
        ("[::1]:22", ["[::1]:22"]),
    ],
)
def test_a_range_is_written_out(pattern: str, hosts: List[str]) -> None:
    assert fleet.expand(pattern) == hosts


@pytest.mark.parametrize(
    "pattern, complaint",
    [
        ("web[3-1]", "backwards"),
        ("web[1-]", "not a range"),
        ("web[1-3],db1", r"'web\[1-3\],db1': hosts cannot be joined by commas"),
        ("web[1,,2]", "not a range"),
        ("web[0-999999999]", "more than 100000 hosts"),
        ("a[0-999]b[0-999]", "more than 100000 hosts"),
    ],
)
def test_invalid_range_is_an_error(pattern: str, complaint: str) -> None:
    with pytest.raises(SshConfigError, match=complaint):
        fleet.expand(pattern)


def test_parameters_of_a_host_override_common_ones() -> None:
    common = {"username": "deploy", "port": 22}
    assert connect_params("root@a", common) == {"host": "a", "username": "root", "port": 22}
    assert connect_params({"host": "a", "port": 23}, common)["port"] == 23
    with pytest.raises(SshConfigError, match="expected a str, a mapping or a Host"):
        connect_params(7, common)


def test_invalid_host_error_does_not_show_a_password() -> None:
    secret = {"host": "a", "password": "a-marker"}
    with pytest.raises(
        SshConfigError, match="hosts: expected an iterable .* got a dict"
    ) as caught:
        fleet.run(secret, "true")
    assert "a-marker" not in str(caught.value)
    with pytest.raises(SshConfigError, match="host: expected .* got a list") as caught:
        connect_params([secret], {})
    assert "a-marker" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../etc", "..", ".", "a/b", "", "a\0b"])
def test_folder_name_of_a_host_is_one_path_component(name: str) -> None:
    made = folder_name(name)
    assert made.strip(".") and "/" not in made and "\0" not in made


def test_different_hosts_have_different_folders() -> None:
    parts = ["", ".", "..", "/", "\\", "_", "%", "2", "2E", "%2E", "%25", "2F", "5C", "00", "a"]
    names = {"".join(three) for three in itertools.product(parts, repeat=3)}
    assert len({folder_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["web1", "deploy@web1:2222", "fe80::1%eth0", "a_b", "_.."])
def test_a_name_that_is_safe_stays_as_it_is(name: str) -> None:
    assert folder_name(name) == name


MANY = ",".join(["1-100000"] * 180)
HUGE = "9" * 5000


@pytest.mark.parametrize(
    "pattern, complaint",
    [
        (f"web[{MANY}]", "stands for more than 100000 hosts"),
        ("web[1-100000][1-2]", "stands for more than 100000 hosts"),
        ("[1-400]-[1-400]-[1-400]", "stands for more than 100000 hosts"),
        ("web[1-999999999]", "stands for more than 100000 hosts"),
        ("web[1-9999999999]", "more than 9 digits"),
        ("web[" + "9" * 1900 + "]", "more than 9 digits"),
        (f"web[{HUGE}]", "more than 2000 characters"),
        (f"web[1-{HUGE}]", "more than 2000 characters"),
        ("web:" + "9" * 1900, "is not a port number"),
    ],
    ids=range(9),
)
def test_ranges_without_bounds_are_an_error_at_no_cost(pattern: str, complaint: str) -> None:
    """1.6 kB of ranges cost 1.1 GB, and 5,000 digits a bare ValueError."""
    tracemalloc.start()
    try:
        with pytest.raises(SshConfigError, match=complaint) as caught:
            fleet.expand(pattern)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 600


def test_port_with_too_many_digits_is_an_error() -> None:
    with pytest.raises(SshConfigError, match="is not a port number"):
        fleet.parse(f"web:{HUGE}")


def test_as_many_hosts_as_are_allowed_are_listed() -> None:
    assert len(fleet.expand("web[1-100000]")) == 100_000
    assert len(fleet.expand("[1-10]-[1-10]-[1-10]")) == 1000


def test_host_with_a_password_is_an_error_without_it() -> None:
    """A password is no part of a host's text; the error says where it goes, and hides it."""
    with pytest.raises(SshConfigError, match=r"u:\*\*\*@web1.*'password'") as caught:
        parse("u:hunter2@web1")
    assert "hunter2" not in str(caught.value)
