"""The services' settings, as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest

from ssh_service import params
from ssh_service.errors import SshConfigError
from ssh_service.services import settings
from ssh_service.services.settings import COMMON, FILE_SHARE, HOST, PER_CALL

ALL = {**COMMON, **HOST, **FILE_SHARE, **PER_CALL}

GOOD: Dict[str, List[Any]] = {
    "ssh_hostname": ["host", "10.0.0.1", "::1"],
    "ssh_port": [1, 22, 65535, "22", None],
    "ssh_username": ["root", None],
    "ssh_priv_key_path": ["~/.ssh/id_rsa", Path("key"), ["a", "b"], None],
    "ssh_request_timeout": [1, 0.5, None],
    "ssh_connect_timeout": [1, 0.5],
    "ssh_keepalive_interval": [15, 0.5, 0, None],
    "ssh_keepalive_count_max": [1, 3],
    "ssh_known_hosts_path": ["~/.ssh/known_hosts", ["a", "b"], None],
    "ssh_known_hosts_file": ["~/.ssh/known_hosts", ["a", "b"], None],
    "ssh_host_key_policy": ["strict", "accept-new", "off"],
    "ssh_shell": ["/bin/sh"],
    "ssh_detached": [True, False],
    "ssh_job_id": ["night-7", 100 * "a", None],
    "ssh_max_connections": [1, 4],
    "ssh_idle_timeout": [1, 0.5, None],
    "ssh_max_lifetime": [1, 0.5, None],
    "ssh_max_output": [1, None],
    "ssh_config": ["~/.ssh/config", ["a"], None],
    "ssh_copy_timeout": [None, 1, 2.5],
    "ssh_copy_preserve": [None, True, False],
    "ssh_copy_verify": [True, False],
    "ssh_copy_resume": [True, False],
    "ssh_copy_fsync": [True, False],
}

NAN, INFINITE = float("nan"), float("inf")
BAD = {
    "ssh_hostname": [None, "", 1],
    "ssh_port": [0, 65536, -1, "", "ssh", "0x16", 22.0, True, [22]],
    "ssh_username": [1, "", b"root"],
    "ssh_priv_key_path": [1, "", [], [None], True],
    "ssh_request_timeout": [0, -1, "2", True, NAN, INFINITE],
    "ssh_connect_timeout": [0, None, "2"],
    "ssh_keepalive_interval": [-1, "15", False],
    "ssh_keepalive_count_max": [0, 1.5, None, True],
    "ssh_known_hosts_path": [1, "", [], False],
    "ssh_known_hosts_file": [1, "", [], False],
    "ssh_host_key_policy": ["yes", "STRICT", None, True, ["off"]],
    "ssh_shell": ["", None, 1],
    "ssh_detached": [None, 1, "yes"],
    "ssh_job_id": ["", 1, "a/b", "a\n"],
    "ssh_max_connections": [0, None, 1.5],
    "ssh_idle_timeout": [0, "1"],
    "ssh_max_lifetime": [0, "1"],
    "ssh_max_output": [0, 1.5, "1M"],
    "ssh_config": [1, ""],
    "ssh_copy_timeout": [0, -1, "x"],
    "ssh_copy_preserve": [1, "yes"],
    "ssh_copy_verify": [None, 1, "yes"],
    "ssh_copy_resume": [None, 1, "yes"],
    "ssh_copy_fsync": [None, 1, "yes"],
}


def pairs(table: Dict[str, Any]) -> Any:
    return [(name, value) for name, values in table.items() for value in values]


def test_every_setting_is_in_these_tables() -> None:
    assert set(GOOD) == set(BAD) == set(ALL)


@pytest.mark.parametrize("name, value", pairs(GOOD))
def test_each_right_value_of_a_setting_is_taken(name: str, value: Any) -> None:
    assert settings.problems({name: value}, ALL) == []


@pytest.mark.parametrize("name, value", pairs(BAD))
def test_invalid_value_error_names_setting_value_and_remedy(name: str, value: Any) -> None:
    (problem,) = settings.problems({name: value}, ALL)
    assert problem.startswith(f"{name}: ")
    assert ": expected " in problem and ", got " in problem
    if not isinstance(value, list):
        assert repr(value) in problem


def test_all_invalid_settings_are_reported_at_once() -> None:
    found = settings.problems({"ssh_port": 0, "nonsense": 1, "ssh_username": 2}, COMMON)
    assert [problem.partition(":")[0] for problem in found] == [
        "ssh_port",
        "nonsense",
        "ssh_username",
    ]


@pytest.mark.parametrize(
    "typo, meant",
    [
        ("ssh_prot", "ssh_port"),
        ("ssh_user_name", "ssh_username"),
        ("ssh_private_key_path", "ssh_priv_key_path"),
        ("ssh_request_time", "ssh_request_timeout"),
        ("known_hosts_file", "ssh_known_hosts_file"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(typo: str, meant: str) -> None:
    (problem,) = settings.problems({typo: 1}, COMMON)
    assert problem == f"{typo}: unknown setting, did you mean {meant}?"


def test_unknown_name_error_lists_all_names() -> None:
    (problem,) = settings.problems({"zzz": "a secret, perhaps"}, COMMON)
    assert all(name in problem for name in COMMON)
    assert "secret" not in problem


def test_a_host_goes_with_the_call() -> None:
    (problem,) = settings.problems({"ssh_hostname": "host"}, COMMON)
    assert problem == "ssh_hostname: belongs in each call, not in the service's config"


def test_unknown_settings_can_be_passed_over() -> None:
    assert settings.problems({"zzz": 1}, COMMON, allow_unknown=True) == []


def test_paths_become_text_that_json_can_write() -> None:
    given = {"ssh_priv_key_path": [Path("a"), "b"], "ssh_config": Path("c"), "ssh_port": 22}
    copy = settings.jsonable_copy(given)
    assert json.loads(json.dumps(copy)) == {
        "ssh_priv_key_path": ["a", "b"],
        "ssh_config": "c",
        "ssh_port": 22,
    }
    assert settings.jsonable_copy(None) == {}


class TestKnownHosts:
    """Which host keys the settings trust."""

    FILE = "/some/known_hosts"

    @pytest.mark.parametrize("name", ["ssh_known_hosts_path", "ssh_known_hosts_file"])
    def test_either_name_gives_a_file_and_makes_it_strict(self, name: str) -> None:
        assert settings.known_hosts({name: self.FILE}) == ((self.FILE,), "strict")

    @pytest.mark.parametrize("name", ["ssh_known_hosts_path", "ssh_known_hosts_file"])
    def test_null_is_off(self, name: str) -> None:
        assert settings.known_hosts({name: None}) == (None, "off")

    def test_omitted_known_hosts_is_not_off(self) -> None:
        assert settings.known_hosts({}) == (None, None)

    def test_both_names_may_agree(self) -> None:
        both = {"ssh_known_hosts_path": self.FILE, "ssh_known_hosts_file": [self.FILE]}
        assert settings.known_hosts(both) == ((self.FILE,), "strict")

    @pytest.mark.parametrize("other", [None, "/another"])
    def test_both_names_must_not_differ(self, other: Any) -> None:
        both = {"ssh_known_hosts_path": self.FILE, "ssh_known_hosts_file": other}
        with pytest.raises(SshConfigError, match="ssh_known_hosts_path .* and .*_file") as caught:
            settings.known_hosts(both)
        assert repr(self.FILE) in str(caught.value) and repr(other) in str(caught.value)

    @pytest.mark.parametrize("policy", ["strict", "accept-new"])
    @pytest.mark.parametrize("given", [{}, {"ssh_known_hosts_path": None}])
    def test_a_check_needs_a_file(self, policy: str, given: Dict[str, Any]) -> None:
        with pytest.raises(SshConfigError, match="needs ssh_known_hosts_path"):
            settings.known_hosts({**given, "ssh_host_key_policy": policy})

    def test_off_beats_a_file(self) -> None:
        given = {
            "ssh_hostname": "host",
            "ssh_known_hosts_path": self.FILE,
            "ssh_host_key_policy": "off",
        }
        assert settings.connect_params(given)["known_hosts"] is None

    @pytest.mark.parametrize("name", ["ssh_known_hosts_path", "ssh_known_hosts_file"])
    def test_a_missing_file_is_an_error_under_strict_only(self, name: str, tmp_path: Path) -> None:
        given = {name: str(tmp_path / "none")}
        with pytest.raises(SshConfigError, match=f"{name}: {tmp_path}/none does not exist"):
            settings.require_known_hosts(given)
        for policy in ("accept-new", "off"):
            settings.require_known_hosts({**given, "ssh_host_key_policy": policy})


class TestConnectParams:
    """The connect parameters that settings become."""

    def test_omitted_settings_come_from_ssh_config(self) -> None:
        assert settings.connect_params({"ssh_hostname": "host"}) == {
            "host": "host",
            "known_hosts": None,
        }

    def test_each_setting_has_its_name_in_the_engine(self) -> None:
        given = {
            "ssh_hostname": "host",
            "ssh_port": "2222",
            "ssh_username": "bob",
            "ssh_priv_key_path": "~/key",
            "ssh_connect_timeout": 5,
            "ssh_keepalive_interval": None,
            "ssh_keepalive_count_max": 2,
            "ssh_config": None,
            "ssh_known_hosts_path": "/kh",
            "ssh_host_key_policy": "accept-new",
            "ssh_request_timeout": 7,
            "ssh_max_connections": 3,
        }
        assert settings.connect_params(given) == {
            "host": "host",
            "port": "2222",
            "username": "bob",
            "client_keys": "~/key",
            "connect_timeout": 5,
            "keepalive_interval": None,
            "keepalive_count_max": 2,
            "config": None,
            "known_hosts": ("/kh",),
            "host_key_policy": "accept-new",
        }

    def test_the_engine_knows_all_of_them(self) -> None:
        params = pytest.importorskip("ssh_service.params")
        given = {name: values[0] for name, values in GOOD.items()}
        translated = settings.connect_params({**given, "ssh_host_key_policy": "off"})
        assert set(translated) <= set(params.SETTINGS)

    def test_a_missing_private_key_is_named(self, tmp_path: Path) -> None:
        there, missing = tmp_path / "there", tmp_path / "missing"
        there.touch()
        settings.require_identity_files({"ssh_priv_key_path": str(there)})
        settings.require_identity_files({"ssh_priv_key_path": None})
        settings.require_identity_files({})
        with pytest.raises(ValueError, match=f"ssh_priv_key_path {missing} does not exist"):
            settings.require_identity_files({"ssh_priv_key_path": [there, missing]})


def test_null_for_the_key_is_the_default_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's null says nothing; a mapping's `client_keys=None` says "no login by key"."""
    given = {"ssh_hostname": "web", "ssh_priv_key_path": None, "ssh_config": None}
    translated = settings.connect_params(given)
    assert "client_keys" not in translated
    assert "publickey" in params.resolve(translated).preferred_auth
    assert "publickey" not in params.resolve({**translated, "client_keys": None}).preferred_auth
