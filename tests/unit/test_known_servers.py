"""Server behaviour that follows from its version string."""

from __future__ import annotations

import pytest

from ssh_service import known_servers


@pytest.mark.parametrize(
    "version, limit",
    [
        ("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3", 65536),
        ("SSH-2.0-OpenSSH_10.0", 65536),
        ("SSH-2.0-dropbear_2022.83", 8192),
        ("SSH-2.0-dropbear", 8192),
        ("SSH-2.0-Cisco-1.25", 8192),
        ("SSH-2.0-Not-OpenSSH_9.2", 8192),
        ("", 8192),
    ],
)
def test_exec_limit_is_what_the_server_is_known_to_take(version: str, limit: int) -> None:
    assert known_servers.exec_limit(version) == limit


@pytest.mark.parametrize(
    "version, users, roots",
    [
        ("SSH-2.0-OpenSSH_7.8", False, False),
        ("SSH-2.0-OpenSSH_7.9p1", True, False),
        ("SSH-2.0-OpenSSH_9.7p1", True, False),
        ("SSH-2.0-OpenSSH_9.8", True, True),
        ("SSH-2.0-OpenSSH_10.0p2", True, True),
        ("SSH-2.0-dropbear_2025.88", False, False),
        ("SSH-2.0-tinyssh_20230101 XyZ", False, False),
        ("SSH-2.0-OpenSSH", False, False),
        ("", False, False),
    ],
)
def test_signals_group_is_true_only_where_the_source_says_so(
    version: str, users: bool, roots: bool
) -> None:
    assert known_servers.signals_group(version, root=False) is users
    assert known_servers.signals_group(version, root=True) is roots


@pytest.mark.parametrize(
    "version, expected",
    [
        ("SSH-2.0-dropbear_2022.83", True),
        ("SSH-2.0-dropbear_2024.85", True),
        ("SSH-2.0-dropbear_2024.86", False),
        ("SSH-2.0-dropbear_2025.88", False),
        ("SSH-2.0-dropbear_0.52", True),
        ("SSH-2.0-dropbear", True),
        ("SSH-2.0-tinyssh_20230101-1 XyZ", True),
        ("SSH-2.0-tinyssh XyZ", True),
        ("SSH-2.0-OpenSSH_9.2", False),
    ],
)
def test_runs_one_command_is_true_for_old_dropbears_and_tinysshd(
    version: str, expected: bool
) -> None:
    assert known_servers.runs_one_command(version) is expected


@pytest.mark.parametrize(
    "version, expected",
    [
        ("SSH-2.0-OpenSSH_8.4", True),
        ("SSH-2.0-dropbear_2022.83", True),
        ("SSH-2.0-paramiko_3.5.1", False),
        ("SSH-2.0-mod_sftp", False),
    ],
)
def test_accepts_pipelined_login_is_true_for_tested_servers(version: str, expected: bool) -> None:
    assert known_servers.accepts_pipelined_login(version) is expected
