"""Connect parameters: defaults, ssh_config, bad input, and the key under which they are shared."""

from __future__ import annotations

import copy
import os
import pickle
import re
import socket
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from ssh_service import algorithms, params
from ssh_service.errors import SshConfigError
from ssh_service.params import SETTINGS, ConnectParams
from ssh_service.secret import Secret
from ssh_service.ssh_config import local_user

MARKER = "a-marker-that-must-not-show"


METHODS = ("publickey", "password", "keyboard-interactive")


@pytest.fixture(autouse=True)
def home(user_home: Path) -> Path:
    return user_home


class FolderOfBytes:
    """A path of bytes, as `os.PathLike` allows."""

    def __fspath__(self) -> bytes:
        return b"/tmp"


def resolve(**given: Any) -> ConnectParams:
    return params.resolve({"host": "web", **given})


def configured(home: Path, text: str, **given: Any) -> ConnectParams:
    (home / ".ssh" / "config").write_text(text)
    return resolve(**given)


# --- defaults --------------------------------------------------------------------------------


def test_a_host_is_enough(home: Path) -> None:
    found = resolve()
    assert (found.hostname, found.port, found.username) == ("web", 22, local_user())
    assert found.connection_id == f"{local_user()}@web:22"
    assert (found.connect_timeout, found.login_timeout) == (30.0, None)
    assert (found.keepalive_interval, found.keepalive_count_max) == (15.0, 3)
    assert found.host_key_policy == "strict"
    assert found.known_hosts.files[0] == str(home / ".ssh" / "known_hosts")
    assert found.agent_path is None and found.client_keys is None
    assert [os.path.basename(path) for path in found.identity_files][:1] == ["id_rsa"]
    assert found.tunnel is None and found.proxy_command is None


@pytest.mark.parametrize("host", ["::1", "[::1]", "fe80::1%eth0"])
def test_an_ipv6_address_stands_in_brackets_in_the_connection_id(host: str) -> None:
    found = resolve(host=host, port=2222, username="me")
    assert found.connection_id == f"me@[{host.strip('[]')}]:2222"
    assert found.connection_id in repr(found.key)


def test_only_strong_algorithms_are_offered_by_default_the_fast_ones_first() -> None:
    found = resolve()
    offered = " ".join(name for kind in algorithms.KINDS for name in getattr(found, kind))
    for weak in ("cbc", "md5", "sha1", "ssh-rsa", "ssh-dss", "group1-", "-96"):
        assert weak not in offered
    assert found.encryption_algs[0] == "aes128-gcm@openssh.com"
    assert found.encryption_algs[-1] == "chacha20-poly1305@openssh.com"
    assert found.compression_algs == ("none",)


@pytest.mark.parametrize(
    "given, means",
    [
        ({"keepalive_interval": None}, {"keepalive_interval": None}),
        ({"keepalive_interval": 0}, {"keepalive_interval": None}),
        ({"port": "2222"}, {"port": 2222}),
        ({"port": None, "username": None}, {"port": 22}),
        ({"host": "[::1]"}, {"hostname": "::1"}),
        ({"connect_timeout": None}, {"connect_timeout": 30.0}),
        ({"family": "inet6"}, {"family": int(socket.AF_INET6)}),
        ({"family": socket.AF_INET}, {"family": int(socket.AF_INET)}),
        ({"local_addr": "127.0.0.1"}, {"local_addr": ("127.0.0.1", 0)}),
        ({"local_addr": ("127.0.0.1", 40000)}, {"local_addr": ("127.0.0.1", 40000)}),
        ({"preferred_auth": "password"}, {"preferred_auth": ("password",)}),
        ({"proxy_command": ["nc", "a b"]}, {"proxy_command": "nc 'a b'"}),
        ({"client_keys": []}, {"client_keys": None, "preferred_auth": METHODS}),
        ({"client_keys": ()}, {"client_keys": None, "preferred_auth": METHODS}),
        ({"client_keys": None}, {"preferred_auth": ("password", "keyboard-interactive")}),
        ({"client_keys": None, "preferred_auth": ["publickey"]}, {"preferred_auth": ()}),
        ({"request_pty": False, "term_type": "xterm"}, {"port": 22}),
        ({"agent_path": ()}, {"agent_path": None}),
        (
            {"encryption_algs": "aes256-ctr,aes128-ctr"},
            {"encryption_algs": ("aes256-ctr", "aes128-ctr")},
        ),
        (
            {"kex_algs": "curve25519-sha256"},
            {"kex_algs": ("curve25519-sha256", "curve25519-sha256@libssh.org")},
        ),
    ],
    ids=str,
)
def test_each_form_of_a_setting_means_what_it_says(
    given: Dict[str, Any], means: Dict[str, Any]
) -> None:
    found = resolve(**given)
    assert {name: getattr(found, name) for name in means} == means


def test_a_tilde_is_the_home_directory(home: Path) -> None:
    found = resolve(client_keys="~/k", agent_path="~/a")
    assert found.client_keys == (str(home / "k"),) and found.agent_path == str(home / "a")


def test_algorithms_may_be_added_removed_and_preferred() -> None:
    offered = resolve().mac_algs
    assert resolve(mac_algs="+hmac-sha1").mac_algs == (*offered, "hmac-sha1")
    assert resolve(mac_algs="^hmac-sha1").mac_algs == ("hmac-sha1", *offered)
    assert resolve(mac_algs="-*-etm@*").mac_algs == ("hmac-sha2-256", "hmac-sha2-512")


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value, right",
    [
        ("host", None, "name or address"),
        ("host", "", "non-empty"),
        ("host", 7, "text"),
        ("host", "a b", "host name or address"),
        ("host", "-oProxyCommand=x", "host name or address"),
        ("host", "a\nb", "control characters"),
        ("port", 0, "1 to 65535"),
        ("port", 65536, "1 to 65535"),
        ("port", True, "1 to 65535"),
        ("port", "x", "1 to 65535"),
        ("port", 22.0, "1 to 65535"),
        ("port", "\u0662\u0662", "1 to 65535"),
        ("username", 7, "text"),
        ("username", " ", "non-empty"),
        ("client_keys", 7, "a path"),
        ("client_keys", [""], "not empty"),
        ("client_keys", "a\0b", "without NUL characters"),
        ("client_keys", "\ud800", "can be encoded"),
        ("client_keys", [None], "a path"),
        ("identities_only", "maybe", "True or False"),
        ("agent_path", 7, "a path"),
        ("kbdint_handler", "x", "a callable"),
        ("preferred_auth", ["magic"], "publickey, password"),
        ("preferred_auth", [], "a list of"),
        ("known_hosts", 7, "a path"),
        ("known_hosts", FolderOfBytes(), "of str, not of bytes"),
        ("known_hosts", "/", "a file, not a folder"),
        ("known_hosts", "/no/such/file", "accept-new"),
        ("host_key_policy", "lenient", "strict, accept-new, off"),
        ("host_key_alias", 7, "text"),
        ("host_key_fingerprints", "MD5:aa", "SHA256:"),
        ("host_key_fingerprints", [], "SHA256:"),
        ("config", 7, "a path"),
        ("config", "/no/such/file", "No such file"),
        ("config_exec", "x", "True or False"),
        ("tunnel", 7, "user@host:port"),
        ("tunnel", "@host", "user@host:port"),
        ("tunnel", "host:", "user@host:port"),
        ("tunnel", "host:99999", "1 to 65535"),
        ("tunnel", "a,,b", "user@host:port"),
        ("tunnel", {"hostname": "x"}, "unknown setting"),
        ("proxy_command", 7, "a command"),
        ("proxy_command", "", "a command"),
        ("family", 99, "any, inet, inet6"),
        ("family", True, "any, inet, inet6"),
        ("local_addr", 7, "a pair of an address and a port"),
        ("local_addr", ("a",), "a pair of an address and a port"),
        ("local_addr", ("a", -1), "1 to 65535"),
        ("connect_timeout", 0, "above 0"),
        ("connect_timeout", "5", "seconds"),
        ("connect_timeout", float("nan"), "above 0"),
        ("connect_timeout", float("inf"), "above 0"),
        ("connect_timeout", 10**400, "above 0"),
        ("login_timeout", -1, "above 0"),
        ("keepalive_interval", -1, "0 or None: off"),
        ("keepalive_interval", True, "seconds"),
        ("keepalive_count_max", 0, "1 or more"),
        ("keepalive_count_max", 1.5, "1 or more"),
        ("encryption_algs", "rot13", "aes128-ctr"),
        ("encryption_algs", ["aes128-ctr", "rot13"], "'rot13' is not an algorithm"),
        ("encryption_algs", 7, "a list of algorithm names"),
        ("kex_algs", "-*", "nothing is left"),
        ("mac_algs", ["x"], "hmac-sha2-256"),
        ("server_host_key_algs", ["x"], "ssh-ed25519"),
        ("compression_algs", ["x"], "zlib"),
    ],
    ids=str,
)
def test_a_wrong_value_is_an_error_with_setting_and_what_is_right(
    name: str, value: Any, right: str
) -> None:
    with pytest.raises(SshConfigError) as caught:
        resolve(**{name: value})
    assert right in str(caught.value)
    if not isinstance(value, dict) and value != "/no/such/file":
        assert name in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "name, meant",
    [
        ("user", "username"),
        ("hostname", "host"),
        ("passwd", "password"),
        ("pkey", "client_keys"),
        ("key_filename", "client_keys"),
        ("look_for_keys", "client_keys (None: no login by key"),
        ("allow_agent", "agent_path (None: no agent)"),
        ("timeout", "connect_timeout"),
        ("ssh_username", "username"),
        ("ProxyJump", "tunnel"),
        ("proxy_jump", "tunnel"),
        ("StrictHostKeyChecking", "host_key_policy"),
        ("strict_host_key_checking", "host_key_policy"),
        ("missing_host_key_policy", "host_key_policy"),
        ("prt", "port"),
        ("keepalive-interval", "keepalive_interval"),
        ("Username", "username"),
    ],
)
def test_unknown_setting_names_what_may_be_meant(name: str, meant: str) -> None:
    with pytest.raises(SshConfigError) as caught:
        resolve(**{name: "x"})
    text = str(caught.value)
    assert f"unknown setting {name!r}: did you mean" in text and meant in text
    assert len(text) < 160


def test_unknown_setting_without_a_likeness_is_a_short_error() -> None:
    with pytest.raises(SshConfigError, match="'zzz': see ssh_service.params.SETTINGS"):
        resolve(zzz=1)
    with pytest.raises(SshConfigError, match="'connect_kwargs': give its entries themselves"):
        resolve(connect_kwargs={"key_filename": "x"})


def test_names_that_may_be_meant_are_settings() -> None:
    from ssh_service.params import parameter_names

    for name, meant in parameter_names._SUGGESTIONS.items():
        words = re.findall("[a-z_]+", meant.partition(" (")[0])
        assert set(words) - {"or"} <= set(SETTINGS) and name not in SETTINGS
    assert not parameter_names._IGNORED & set(SETTINGS)


def test_arguments_of_run_are_not_taken_for_settings() -> None:
    for name in ("sudo", "sudo_password", "check"):
        with pytest.raises(SshConfigError, match=f"'{name}': it is an argument of run"):
            resolve(**{name: "x"})


@pytest.mark.parametrize("given", [None, 5, ["host", "web"]])
def test_anything_but_a_mapping_is_an_error(given: Any) -> None:
    with pytest.raises(SshConfigError, match="a mapping like") as caught:
        params.resolve(given)
    assert ("for several hosts, see ssh_service.fleet" in str(caught.value)) == (
        isinstance(given, list)
    )


@pytest.mark.parametrize(
    "given",
    [
        {"tunnel": "a", "proxy_command": "nc"},
        {"known_hosts": None, "host_key_policy": "strict"},
        {"known_hosts": None, "host_key_policy": "accept-new"},
        {"host_key_policy": "off", "host_key_fingerprints": "SHA256:" + "a" * 43},
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_an_error(given: Dict[str, Any]) -> None:
    with pytest.raises(SshConfigError) as caught:
        resolve(**given)
    assert any(name in str(caught.value) for name in given)


@pytest.mark.parametrize(
    "line, right",
    [
        ("Port x", "config:1: Port: expected"),
        ("ServerAliveInterval soon", "a time such as"),
        ("ServerAliveCountMax x", "0 or more"),
        ("ServerAliveCountMax ²", "0 or more"),
        ("StrictHostKeyChecking perhaps", "one of yes"),
        ("AddressFamily ipx", "any, inet, inet6"),
        ("IdentitiesOnly x", "True or False"),
        ("HashKnownHosts x", "True or False"),
        ("Compression x", "True or False"),
        ("Ciphers rot13", "config:1: encryption_algs: nothing is left"),
        ("IdentityFile %z", "unknown token %z"),
        ("UserKnownHostsFile ${NO_SUCH_THING}", "is not set"),
        ("ProxyJump a,", "user@host:port"),
        ("Port no-such-service", "the name of a TCP service"),
        ("Port -1", "1 to 65535"),
        ("Port 0x16", "1 to 65535"),
        ("ServerAliveCountMax -1", "a whole number, 0 or more"),
    ],
)
def test_a_wrong_value_in_ssh_config_is_an_error_with_file_and_line(
    home: Path, line: str, right: str
) -> None:
    with pytest.raises(SshConfigError, match="config:1") as caught:
        configured(home, line + "\n")
    assert right in str(caught.value)


# --- ssh_config ------------------------------------------------------------------------------

CONFIG = """
Host web
    HostName %h.example.com
    User alice
    Port 2022
    IdentityFile ~/keys/%r
    IdentitiesOnly yes
    IdentityAgent /run/agent
    UserKnownHostsFile ~/hosts "~/more hosts"
    GlobalKnownHostsFile none
    StrictHostKeyChecking accept-new
    ServerAliveInterval 1m
    ServerAliveCountMax 5
    ConnectTimeout 7
    Ciphers aes256-ctr,rot13
    KexAlgorithms ^ecdh-sha2-nistp256
    MACs -hmac-sha2-256*
    HostKeyAlgorithms ssh-ed25519
    HostKeyAlias The-Alias
    HashKnownHosts yes
    AddressFamily inet
    BindAddress 127.0.0.1
    Compression yes
    ForwardAgent yes
    UnknownKeyword value
"""


def test_ssh_config_takes_effect_where_the_caller_gave_nothing(home: Path) -> None:
    found = configured(home, CONFIG)
    assert found.connection_id == "alice@web:2022"
    assert found.hostname == "web.example.com"
    assert found.identity_files == (str(home / "keys" / "alice"),)
    assert found.identities_only and found.agent_path == "/run/agent"
    assert found.known_hosts.files == (str(home / "hosts"), str(home / "more hosts"))
    assert found.host_key_policy == "accept-new" and found.known_hosts.hashed
    assert (found.keepalive_interval, found.keepalive_count_max) == (60.0, 5)
    assert found.connect_timeout == 7.0
    assert found.encryption_algs == ("aes256-ctr",)
    assert found.kex_algs[0] == "ecdh-sha2-nistp256" and len(found.kex_algs) > 1
    assert found.mac_algs == ("hmac-sha2-512-etm@openssh.com", "hmac-sha2-512")
    assert found.server_host_key_algs == ("ssh-ed25519",)
    assert found.host_key_names == ("the-alias",)
    assert found.family == int(socket.AF_INET)
    assert found.local_addr == ("127.0.0.1", 0)
    assert found.compression_algs[0] == "zlib@openssh.com"


def test_a_keyword_without_effect_is_a_debug_line(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        configured(home, CONFIG)
    assert "unknownkeyword has no effect" in caplog.text
    assert "forwardagent has no effect" in caplog.text
    assert all(record.levelname == "DEBUG" for record in caplog.records)


def test_explicit_value_overrides_ssh_config(home: Path) -> None:
    found = configured(
        home,
        CONFIG,
        port=22,
        username="bob",
        identities_only=False,
        agent_path=None,
        host_key_policy="strict",
        keepalive_interval=3,
        keepalive_count_max=1,
        connect_timeout=1,
        encryption_algs=["aes128-ctr"],
        host_key_alias="mine",
        family="any",
        compression_algs=["none"],
    )
    assert found.connection_id == "bob@web:22"
    assert found.identity_files == (str(home / "keys" / "bob"),)
    assert not found.identities_only and found.agent_path is None
    assert found.host_key_policy == "strict"
    assert (found.keepalive_interval, found.keepalive_count_max) == (3.0, 1)
    assert found.connect_timeout == 1.0
    assert found.encryption_algs == ("aes128-ctr",)
    assert found.host_key_names == ("mine",)
    assert found.family == 0 and found.compression_algs == ("none",)


def test_no_signs_of_life_are_asked_for_where_ssh_config_says_so(home: Path) -> None:
    for word in ("0", "none", "None"):
        assert configured(home, f"ServerAliveInterval {word}\n").keepalive_interval is None


def test_config_none_reads_no_file(home: Path) -> None:
    assert configured(home, CONFIG, config=None).hostname == "web"


def test_config_names_the_files_to_read(home: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("Port 1\n")
    two.write_text("Port 2\nUser two\n")
    found = configured(home, CONFIG, config=[one, two])
    assert found.connection_id == "two@web:1"


# --- whom we trust ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, written, policy",
    [
        ({}, None, "strict"),
        ({}, "ask", "strict"),
        ({}, "accept-new", "accept-new"),
        ({}, "no", "accept-new"),  # never past a changed key
        ({"host_key_policy": "strict"}, "no", "strict"),
        ({"host_key_policy": "off"}, "yes", "off"),
        ({"known_hosts": None}, None, "off"),
        ({"known_hosts": None}, "yes", "strict"),  # the strict direction wins
        ({"known_hosts": None}, "accept-new", "accept-new"),
        ({"known_hosts": None, "host_key_policy": "off"}, "yes", "off"),
        ({"known_hosts": __file__}, None, "strict"),
        ({"known_hosts": __file__}, "no", "strict"),
        ({"known_hosts": None}, "no", "off"),
        ({"known_hosts": __file__, "host_key_policy": "accept-new"}, "yes", "accept-new"),
        ({"known_hosts": "/no/such", "host_key_policy": "accept-new"}, None, "accept-new"),
        ({"known_hosts": ()}, None, "strict"),
    ],
    ids=str,
)
def test_the_host_key_policy_is_as_strict_as_what_was_written(
    home: Path, given: Dict[str, Any], written: str, policy: str
) -> None:
    text = f"StrictHostKeyChecking {written}\n" if written else ""
    found = configured(home, text, **given)
    assert found.host_key_policy == policy
    assert bool(found.known_hosts.files) == (
        found.host_key_policy != "off" or "known_hosts" not in given
    )


def test_a_user_without_known_hosts_files_has_nothing_written_into_the_systems(
    home: Path, tmp_path: Path
) -> None:
    system = tmp_path / "system"
    system.write_text(f"UserKnownHostsFile none\nGlobalKnownHostsFile {system}\n")
    found = resolve(config=str(system), host_key_policy="accept-new")
    assert found.known_hosts.files == (os.devnull, str(system))


# --- which way -------------------------------------------------------------------------------


def hops(found: ConnectParams) -> list:
    chain = []
    tunnel = found.tunnel
    while isinstance(tunnel, ConnectParams):
        chain.append(tunnel.connection_id)
        tunnel = tunnel.tunnel
    return chain


def test_jump_hosts_nest_the_last_is_the_nearest(home: Path) -> None:
    me = local_user()
    text = "Host web\nProxyJump a@one:2201,two\nHost two\nUser b\nPort 2202\nProxyJump never\n"
    assert hops(configured(home, text)) == ["b@two:2202", "a@one:2201"]
    assert hops(resolve(tunnel="x,[::1]:22,ssh://u@y:3")) == [
        "u@y:3",
        f"{me}@[::1]:22",
        f"{me}@x:22",
    ]


def test_ports_and_users_of_jump_hosts_are_not_taken_for_a_password() -> None:
    assert hops(resolve(tunnel="a@one:2201,b@two:2202")) == ["b@two:2202", "a@one:2201"]
    for text in ("a:secret@one,b@two:22", "a@one:22,b:secret@two", "ssh://a:22,secret@one:x"):
        with pytest.raises(SshConfigError) as caught:
            resolve(tunnel=text)
        assert "secret" not in str(caught.value) and "***" in str(caught.value)


def test_a_jump_host_has_a_jump_host_of_its_own(home: Path) -> None:
    text = "Host web\nProxyJump one\nHost one\nProxyJump two\nHost two\nUser last\n"
    assert hops(configured(home, text)) == [f"{local_user()}@one:22", "last@two:22"]


@pytest.mark.parametrize("given", [None, "none"])
def test_tunnel_none_goes_straight(home: Path, given: Any) -> None:
    assert configured(home, "ProxyJump one\n", tunnel=given).tunnel is None


def test_the_first_of_jump_and_command_counts(home: Path) -> None:
    found = configured(home, "ProxyCommand nc -q0 %h %p # all of it\nProxyJump one\n", port=1)
    assert found.proxy_command == "nc -q0 web 1 # all of it" and found.tunnel is None
    found = configured(home, "Host web\nProxyJump one\nProxyCommand nc\n")
    assert found.proxy_command is None and hops(found)
    found = configured(home, "ProxyCommand none\nProxyJump one\n")
    assert found.proxy_command is None and found.tunnel is None
    found = configured(home, "ProxyJump none\nProxyCommand nc\n")
    assert found.proxy_command == "nc" and found.tunnel is None


def test_jump_host_is_given_nothing_secret_of_its_targets(home: Path) -> None:
    """A handler does not know which server asks, and must not answer a jump host instead."""
    secret = {"password": MARKER, "client_keys": [_path(home, "k")], "kbdint_handler": print}
    hop = resolve(tunnel="a,b", **secret).tunnel
    while hop is not None:
        assert isinstance(hop, ConnectParams)
        assert hop.password is None and hop.kbdint_handler is None and hop.client_keys is None
        hop = hop.tunnel
    own = resolve(tunnel={"host": "a", "kbdint_handler": print}).tunnel
    assert isinstance(own, ConnectParams) and own.kbdint_handler is print


def test_jump_hosts_in_a_loop_are_an_error(home: Path) -> None:
    with pytest.raises(SshConfigError, match="loop"):
        configured(home, "Host *\nProxyJump one\n")
    with pytest.raises(SshConfigError, match="loop"):
        configured(home, "Host web\nProxyJump one\nHost one\nProxyJump web\n")
    endless: Dict[str, Any] = {"host": "web"}
    endless["tunnel"] = endless
    with pytest.raises(SshConfigError, match="too many"):
        params.resolve(endless)


def test_jump_hosts_that_differ_only_in_their_alias_are_no_loop(home: Path) -> None:
    """As hosts behind reverse tunnels; only ssh knows them apart."""
    text = "Host web\nProxyJump b\nHost b\nProxyJump c\nHost *\nHostName 127.0.0.1\nPort 2222\n"
    me = local_user()
    assert hops(configured(home, text)) == [f"{me}@b:2222", f"{me}@c:2222"]
    with pytest.raises(SshConfigError, match="loop at web"):
        configured(home, text.replace("Host *", "Host c\nProxyJump web\nHost *"))
    with pytest.raises(SshConfigError, match="too many"):  # each one is another alias
        configured(home, "Host *\nProxyJump x%n\nHostName 127.0.0.1\n")


@pytest.mark.parametrize("text", ["ssh", "+22", "022"])
def test_a_port_of_ssh_config_may_be_what_ssh_takes(home: Path, text: str) -> None:
    assert configured(home, f"Port {text}\n").port == 22
    assert hops(configured(home, f"Host web\nProxyJump me@one:{text}\n")) == ["me@one:22"]


def test_a_count_of_no_signs_of_life_is_the_least_there_is(home: Path) -> None:
    """In ssh, 0 ends the connection before any sign of life is asked for."""
    assert configured(home, "ServerAliveCountMax 0\n").keepalive_count_max == 1
    assert configured(home, "ServerAliveCountMax +4\n").keepalive_count_max == 4


def test_a_jump_host_is_judged_by_its_own_trust(home: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.touch()
    text = "Host one\nStrictHostKeyChecking accept-new\nUserKnownHostsFile /its/own\n"
    hop = configured(home, text, tunnel="one", known_hosts=None).tunnel
    assert isinstance(hop, ConnectParams)
    assert hop.host_key_policy == "accept-new" and hop.known_hosts.files[0] == "/its/own"
    hop = resolve(tunnel="two", known_hosts=None).tunnel
    assert isinstance(hop, ConnectParams) and hop.host_key_policy == "strict"
    hop = resolve(tunnel="one", known_hosts=hosts).tunnel
    assert isinstance(hop, ConnectParams) and hop.known_hosts.files == (str(hosts),)


def test_a_jump_host_may_be_given_as_parameters(home: Path) -> None:
    hop = resolve(tunnel={"host": "one", "username": "x", "port": 7}).tunnel
    assert isinstance(hop, ConnectParams) and hop.connection_id == "x@one:7"


# --- the key ---------------------------------------------------------------------------------


class Vault:
    def password(self) -> str:
        return MARKER

    def other(self) -> str:
        return MARKER


def test_equal_parameters_have_equal_keys(home: Path) -> None:
    vault = Vault()
    keys = home / "key"
    keys.write_text("a key")
    given = {
        "password": "x",
        "passphrase": vault.password,
        "client_keys": [keys],
        "tunnel": "one",
        "known_hosts": None,
        "kbdint_handler": vault.other,
    }
    first, second = resolve(**given), resolve(**{**given, "passphrase": vault.password})
    assert first.key == second.key and hash(first.key) == hash(second.key)


def _path(home: Path, name: str, text: str = "") -> str:
    (home / name).write_text(text)
    return str(home / name)


DIFFERENT: Dict[str, Callable[[Path], Any]] = {
    "host": lambda home: "db",
    "port": lambda home: 23,
    "username": lambda home: "other",
    "password": lambda home: "y",
    "passphrase": lambda home: "y",
    "client_keys": lambda home: [_path(home, "k")],
    "identities_only": lambda home: True,
    "agent_path": lambda home: "/a",
    "kbdint_handler": lambda home: print,
    "preferred_auth": lambda home: ["password"],
    "known_hosts": lambda home: None,
    "host_key_policy": lambda home: "accept-new",
    "host_key_alias": lambda home: "alias",
    "host_key_fingerprints": lambda home: ["SHA256:" + "a" * 43],
    "config": lambda home: [_path(home, "c", "User configured\n")],
    "tunnel": lambda home: "one",
    "proxy_command": lambda home: "nc",
    "family": lambda home: "inet",
    "local_addr": lambda home: "127.0.0.1",
    "encryption_algs": lambda home: ["aes128-ctr"],
    "kex_algs": lambda home: ["ecdh-sha2-nistp256"],
    "mac_algs": lambda home: ["hmac-sha2-256"],
    "server_host_key_algs": lambda home: ["ssh-ed25519"],
    "compression_algs": lambda home: ["zlib"],
    "keepalive_interval": lambda home: 1,
    "keepalive_count_max": lambda home: 1,
}
# They bound the making of a connection, and leave nothing in it.
SAME = {"connect_timeout": 1, "login_timeout": 1, "config_exec": True}


def test_every_setting_is_known_to_make_a_difference_or_none() -> None:
    assert set(DIFFERENT) | set(SAME) == set(SETTINGS)


@pytest.mark.parametrize("name", DIFFERENT)
def test_settings_with_effect_change_the_connect_key(home: Path, name: str) -> None:
    assert resolve().key != resolve(**{name: DIFFERENT[name](home)}).key


@pytest.mark.parametrize("name", SAME)
def test_settings_without_effect_keep_the_connect_key(name: str) -> None:
    assert resolve().key == resolve(**{name: SAME[name]}).key


def test_another_jump_host_further_away_makes_another_key() -> None:
    assert resolve(tunnel="one,two").key != resolve(tunnel="three,two").key
    assert resolve(tunnel={"host": "one", "password": "x"}).key != resolve(tunnel="one").key


@pytest.mark.parametrize("name", ["key", "key-cert.pub"])
def test_a_rotated_key_or_certificate_is_another_key(home: Path, name: str) -> None:
    path = home / "key"
    path.write_text("a key")
    before = resolve(client_keys=[path]).key
    assert resolve(client_keys=[path]).key == before
    (home / name).write_text("another")
    assert resolve(client_keys=[path]).key != before


def test_unhashable_callable_is_compared_by_identity() -> None:
    class Supplier:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> str:
            return MARKER

    one, two = Supplier(), Supplier()
    assert resolve(password=one).key == resolve(password=one).key
    assert resolve(password=one).key != resolve(password=two).key


# --- secrets ---------------------------------------------------------------------------------


def test_no_secret_shows_in_reprs_keys_copies_or_pickles(home: Path) -> None:
    private = f"-----BEGIN PRIVATE KEY-----{MARKER}"
    found = resolve(
        password=MARKER,
        passphrase=MARKER.encode(),
        client_keys=[private],
        tunnel={"host": "one", "password": MARKER},
    )
    assert isinstance(found.password, Secret) and found.password.reveal() == MARKER
    for text in (repr(found), str(found), f"{found}", "%s" % (found,), repr(found.key)):
        assert MARKER not in text
    assert MARKER not in repr(tuple(found.key)) and MARKER not in repr(asdict(found))
    assert MARKER not in repr(copy.deepcopy(found))
    with pytest.raises(TypeError, match="not picklable"):
        pickle.dumps(found)


def test_parameters_without_secrets_can_be_copied_and_pickled() -> None:
    found = resolve()
    assert pickle.loads(pickle.dumps(found)) == found == copy.copy(found)


@pytest.mark.parametrize("name", ["password", "passphrase", "client_keys"])
def test_a_wrong_secret_is_an_error_that_does_not_show_it(name: str) -> None:
    with pytest.raises(SshConfigError, match=name) as caught:
        resolve(**{name: {"value": MARKER}})
    assert MARKER not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        [("host", "web"), ("password", MARKER)],
        {"host": "web", "kbdint_handler": {"Password: ": MARKER}},
        {"host": "web", "tunnel": [{"host": "one", "password": MARKER}]},
    ],
)
def test_secret_of_a_wrong_type_is_not_shown(wrong: Any) -> None:
    with pytest.raises(SshConfigError, match="got (list|dict)") as caught:
        params.resolve(wrong)
    assert MARKER not in str(caught.value)


def test_no_frame_of_ours_below_the_caller_holds_a_plain_secret() -> None:
    try:
        resolve(password=MARKER, port="x")
    except SshConfigError:
        traced = traceback.TracebackException(*sys.exc_info(), capture_locals=True)
    frames = [frame for frame in traced.stack if os.sep + "tests" + os.sep not in frame.filename]
    assert len(frames) > 2
    for frame in frames[1:]:  # the first is handed the caller's own mapping
        assert MARKER not in repr(frame.locals), frame


def test_the_key_is_worth_nothing_outside_this_process() -> None:
    digest = Secret(MARKER).digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    import hashlib

    assert digest != hashlib.sha256(MARKER.encode()).hexdigest()


@pytest.mark.parametrize("tunnel", ["a b", "me@a b:22"])
def test_tunnel_that_is_no_host_is_named_tunnel(tunnel: str) -> None:
    with pytest.raises(SshConfigError, match=f"^tunnel: expected .* got '{tunnel}'"):
        params.resolve({"host": "web1", "tunnel": tunnel})


@pytest.mark.parametrize("tunnel", ["u:hunter2@bastion", "ssh://u:hunter2@bastion:22"])
def test_tunnel_with_a_password_is_an_error_without_it(tunnel: str) -> None:
    """A password is no part of a jump host's text, and the error does not show it."""
    with pytest.raises(SshConfigError, match=r"tunnel: .*u:\*\*\*@bastion") as caught:
        params.resolve({"host": "web1", "tunnel": tunnel})
    assert "hunter2" not in str(caught.value)


def test_host_with_a_password_is_an_error_without_it() -> None:
    """Nor of a host: it would be looked up, and shown, as a name."""
    with pytest.raises(
        SshConfigError, match=r"host: expected .*, got 'root:\*\*\*@web1'"
    ) as caught:
        params.resolve({"host": "root:hunter2@web1"})
    assert "hunter2" not in str(caught.value)


def test_an_unlike_name_is_not_taken_for_a_misspelt_one() -> None:
    with pytest.raises(SshConfigError) as caught:
        params.resolve({"host": "web", "gss_host": "x"})
    assert "gss_host" in str(caught.value) and "did you mean" not in str(caught.value)
