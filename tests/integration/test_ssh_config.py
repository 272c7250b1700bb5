"""ssh_config files; the referee is `ssh -G`."""

from __future__ import annotations

import functools
import logging
import random
import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Dict, List, Optional, Tuple, Union

import pytest

from ssh_service import ssh_config
from ssh_service.errors import SshConfigError
from ssh_service.ssh_config import match_exec
from tests.common import eventually, is_running
from tests.keys import needs_ssh
from tests.unit.test_ssh_config import write

FILES = 200


HOSTS = ["web", "web1", "db.example.com", "WEB", "10.0.0.7", "x"]


VALUES: Dict[str, List[str]] = {
    "HostName": ["10.1.1.1", "%h.example.com", "real", "db.example.com"],
    "User": ["alice", "bob", "carol"],
    "Port": ["22", "2222", "2022"],
    "IdentityFile": ["/k/one", "/k/%r", '"/k/with space"', "~/.ssh/two", "/k/one"],
    "CertificateFile": ["/c/one", "/c/two"],
    "IdentitiesOnly": ["yes", "no"],
    "IdentityAgent": ["none", "/a/socket", "SSH_AUTH_SOCK"],
    "ProxyCommand": ["nc %h %p", 'nc -x "a b" %h # not a comment', "none"],
    "UserKnownHostsFile": ["/k/hosts", "/k/hosts /k/hosts2", '"/k/my hosts" /k/x # comment'],
    "StrictHostKeyChecking": ["yes", "no", "ask", "accept-new"],
    "ServerAliveInterval": ["5", "1m", "0"],
    "ServerAliveCountMax": ["2", "7"],
    "ConnectTimeout": ["10", "1m30s"],
    "HostKeyAlias": ["alias", "other"],
    "AddressFamily": ["inet", "inet6", "any"],
    "BindAddress": ["127.0.0.1"],
    "Compression": ["yes", "no"],
    "Ciphers": ["aes128-ctr", "aes256-ctr,aes128-ctr"],
    "PreferredAuthentications": ["publickey", "password,publickey"],
}


TIMES = ("serveraliveinterval", "connecttimeout")


# Where ssh -G shows another word for the same thing.
SHOWN: Dict[str, Dict[str, Optional[str]]] = {
    "stricthostkeychecking": {"yes": "true", "no": "false"},
    "proxycommand": {"none": None},
    "identityagent": {},
}


def random_patterns(rng: random.Random) -> List[str]:
    one = ["web", "web?", "*.example.com", "*", "10.0.*", "WEB", "!web", "!*.com", "other", "real"]
    return [rng.choice(one) for _ in range(rng.randrange(1, 4))]


def random_match(rng: random.Random) -> str:
    criteria = []
    for _ in range(rng.randrange(1, 3)):
        name = rng.choice(["host", "originalhost", "user", "localuser", "exec", "final"])
        negated = rng.choice(["", "", "!"])
        if name == "final":  # OpenSSH before 10.1 reads the files twice for "!final", too
            criteria.append((negated if version_of_ssh() >= (10, 1) else "") + "final")
        elif name == "exec":
            criteria.append(f'{negated}exec "test %h = web"')
        elif name in ("user", "localuser"):
            users = ["alice", "bob", "al*", "root", "*", "!bob,*"]
            criteria.append(f"{negated}{name} {rng.choice(users)}")
        else:
            criteria.append(f"{negated}{name} {','.join(random_patterns(rng))}")
    return "Match " + rng.choice([" ".join(criteria), " ".join(criteria), "all"])


def random_setting(rng: random.Random) -> str:
    keyword = rng.choice(list(VALUES))
    value = rng.choice(VALUES[keyword])
    if keyword == "UserKnownHostsFile" and rng.random() < 0.3:
        return f"{keyword} {value}   "
    spelled = rng.choice([keyword, keyword.lower(), keyword.upper()])
    return rng.choice(["  ", "", "\t"]) + spelled + rng.choice([" ", "=", " = ", "\t"]) + value


def random_file(rng: random.Random, folder: Path, depth: int = 0) -> List[str]:
    lines = []
    for _ in range(rng.randrange(3, 14)):
        draw = rng.random()
        if draw < 0.2:
            lines.append("Host " + " ".join(random_patterns(rng)))
        elif draw < 0.35:
            lines.append(random_match(rng))
        elif draw < 0.4:
            lines.append(rng.choice(["# comment", "", "   # comment"]))
        elif draw < 0.5 and depth < 2:
            path = folder / f"include-{depth}-{rng.randrange(100)}"
            write(path, *random_file(rng, folder, depth + 1))
            lines.append(f"Include {path} {folder}/missing-*")
        else:
            lines.append(random_setting(rng))
    return lines


def ssh_says(path: str, host: str, *options: str) -> Dict[str, List[str]]:
    said = subprocess.run(
        ["ssh", "-G", "-F", path, *options, host],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    found: Dict[str, List[str]] = {}
    for line in said.stdout.splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword, []).append(value)
    return found


def we_say(config: ssh_config.HostConfig, keyword: str, host: str) -> List[str]:
    shown = []
    for value in config.all(keyword):
        text = " ".join(value.arguments)
        if keyword in TIMES:
            from ssh_service import settings

            text = f"{settings.time_span(keyword, text):g}"
        if keyword == "hostname":
            text = text.replace("%h", host).lower()
        shown.append(SHOWN.get(keyword, {}).get(text, text))
    return [text for text in shown if text is not None]


@needs_ssh
def test_config_values_equal_those_of_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/sh")
    compared = 0
    for seed in range(FILES):
        rng = random.Random(seed)
        path = write(tmp_path / "config", *random_file(rng, tmp_path))
        host = rng.choice(HOSTS)
        options, given = [], {}
        if rng.random() < 0.3:
            options, given = ["-l", "bob"], {"user": "bob"}
        config = ssh_config.lookup(host, [path], allow_exec=True, user=given.get("user"))
        theirs = ssh_says(path, host, *options)
        for keyword in map(str.lower, VALUES):
            if keyword == "user" and given:
                continue  # the caller's word, not the file's
            ours = we_say(config, keyword, host)
            if ours:
                about = f"seed {seed}, host {host}, {given}, {keyword}:\n" + "".join(
                    f"--- {name}\n{name.read_text()}"
                    for name in [Path(path), *tmp_path.glob("inc*")]
                )
                assert ours == theirs.get(keyword, []), about
                compared += 1
            elif keyword in ("hostkeyalias", "bindaddress", "certificatefile"):
                assert keyword not in theirs, f"seed {seed}: {keyword} missed\n{config}"
        for name in tmp_path.glob("inc*"):
            name.unlink()
    assert compared > FILES


@needs_ssh
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o646])
def test_included_file_is_taken_by_the_modes_ssh_takes(tmp_path: Path, mode: int) -> None:
    inner = tmp_path / "inner"
    write(inner, "Port 7")
    inner.chmod(mode)
    path = write(tmp_path / "c", f"Include {inner}")
    try:
        ours = ssh_config.lookup("web", [path]).get("port") is not None
    except SshConfigError:
        ours = False
    try:
        theirs = ssh_says(path, "web")["port"] == ["7"]
    except subprocess.CalledProcessError:
        theirs = False
    assert ours == (not mode & 0o022)
    if mode != 0o664:  # Debian's ssh trusts the group of a user's own
        assert ours == theirs


def test_match_exec_runs_nothing_unless_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = tmp_path / "trace"
    path = write(tmp_path / "c", f'Match exec "touch {trace}"', "Port 1")
    with caplog.at_level(logging.WARNING):
        assert ssh_config.lookup("web", [path]).get("port") is None
    assert not trace.exists() and f"{path}:1" in caplog.text
    assert ssh_config.lookup("web", [path], allow_exec=True).get("port") is not None
    assert trace.exists()


def test_match_exec_that_does_not_end_is_ended_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_exec, "_TIMEOUT", 0.3)
    monkeypatch.setenv("SHELL", "/bin/sh")
    pids = tmp_path / "pids"
    command = f"sleep 60 & echo $! $$ > {pids}; wait"
    path = write(tmp_path / "c", f'Match exec "{command}"', "Port 1")
    with pytest.raises(SshConfigError, match="c:1: Match exec did not end within 0.3 s"):
        ssh_config.lookup("web", [path], allow_exec=True)
    eventually(lambda: not any(map(is_running, pids.read_text().split())))


def test_match_exec_without_a_shell_is_an_error_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", "/no/such/shell")
    path = write(tmp_path / "c", 'Match exec "true"', "Port 1")
    with pytest.raises(SshConfigError, match="c:1: Match exec cannot be run by '/no/such/shell'"):
        ssh_config.lookup("web", [path], allow_exec=True)


@needs_ssh
@pytest.mark.parametrize(
    "line",
    [
        "Match host=web",
        'Match host="web" user=root',
        "Match =host web",
        'Match host "web" # comment',
        "Match !all",
        "Match final !all",
        "Match user root host web",
        "Host db # web",
        'Host "web"',
        "Host\tdb\tweb",
    ],
)
def test_match_block_applies_as_in_ssh(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "c", "Match localuser=*", line, "  HostKeyAlias yes")
    matches = ssh_config.lookup("web", [path], user="root").get("hostkeyalias") is not None
    assert matches == ("hostkeyalias" in ssh_says(path, "web", "-l", "root"))


@pytest.mark.parametrize(
    "line, expected",
    [
        ("Match host =web", False),
        ("Match host==web", False),
        ("Match host web=1", False),
        ('Match "host=web"', True),
        ("Match host = web", "Match web needs a value"),
        ("Match host= web", "Match host needs a value"),
        ("Match user = root host web", "Match web needs a value"),
        ("Match all=", "Match all has no value"),
    ],
)
def test_match_with_an_equals_sign_is_read_as_by_openssh_10(
    tmp_path: Path, line: str, expected: Union[bool, str]
) -> None:
    """The client changed its mind: until 9.x blanks could be around the sign."""
    path = write(tmp_path / "c", "Match localuser=*", line, "  HostKeyAlias yes")
    if isinstance(expected, str):
        with pytest.raises(SshConfigError, match=f"c:2: {expected}"):
            ssh_config.lookup("web", [path], user="root")
    else:
        config = ssh_config.lookup("web", [path], user="root")
        assert (config.get("hostkeyalias") is not None) == expected
    if version_of_ssh() >= (10, 0):
        refused = isinstance(expected, str)
        with pytest.raises(subprocess.CalledProcessError) if refused else nullcontext():
            assert ("hostkeyalias" in ssh_says(path, "web", "-l", "root")) == expected


@functools.lru_cache(maxsize=None)
def version_of_ssh() -> Tuple[int, ...]:
    """Return the version of the machine's OpenSSH; (0,) without one."""
    if shutil.which("ssh") is None:
        return (0,)
    said = subprocess.run(["ssh", "-V"], stderr=subprocess.PIPE, check=True).stderr.decode()
    found = re.match(r"OpenSSH_(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)


@needs_ssh
def test_included_blocks_for_other_hosts_are_validated(tmp_path: Path) -> None:
    """As with ssh: else a file would break on the first use of that host."""
    inner = write(tmp_path / "inner", 'User "open')
    path = write(tmp_path / "c", "Host db", f"Include {inner}", "Host *", "User alice")
    with pytest.raises(SshConfigError, match="inner:1: a quote is not closed"):
        ssh_config.lookup("web", [path])
    with pytest.raises(subprocess.CalledProcessError):
        ssh_says(path, "web")


@needs_ssh
@pytest.mark.parametrize("jump", ["a # one", "a,b#c", "none # straight", "u@a:7  "])
def test_a_jump_host_ends_where_ssh_says(tmp_path: Path, jump: str) -> None:
    path = write(tmp_path / "c", f"ProxyJump {jump}")
    value = ssh_config.lookup("web", [path]).get("proxyjump")
    assert value is not None and list(value.arguments) == ssh_says(path, "web")["proxyjump"]
