"""The demonstration on a real server."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from ssh_service import demo
from ssh_service.demo import hosts
from ssh_service.errors import SshTransferError
from ssh_service.testing.local_sshd import Sshd


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own: no keys, no known hosts, no ssh_config, no agent."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


def know(home: Path, sshd: Sshd) -> None:
    (home / ".ssh" / "known_hosts").write_text(Path(sshd.known_hosts).read_text())


def address(sshd: Sshd) -> str:
    return f"{sshd.username}@{sshd.host}:{sshd.port}"


def test_every_step_holds_on_a_real_server(
    sshd: Sshd,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    know(home, sshd)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    status = demo.main(["--host", address(sshd), "--key", sshd.client_key])
    told = capsys.readouterr()
    assert status == 0, told.out + told.err
    assert f"The server is {address(sshd)}." in told.out
    assert "names, contents, modes, times compared: 0 differ" in told.out
    assert "the lost one had begun once" in told.out
    assert "the same port gives it again" in told.out
    assert "the host has kept what became of it: ended(3)" in told.out
    assert "Every check passed" in told.out
    assert not os.listdir(temporary)
    assert sshd.logins() == 1 + 2 + 3  # one to try, two at once, one after each cut


def test_an_alias_of_ssh_config_is_all_it_takes(
    sshd: Sshd, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = Path(sshd.known_hosts).read_text().split(" ", 1)[1]
    (home / ".ssh" / "known_hosts").write_text(f"web1 {key}")
    (home / ".ssh" / "config").write_text(
        f"Host web1\n HostName {sshd.host}\n Port {sshd.port}\n User {sshd.username}\n"
        f" HostKeyAlias web1\n IdentityFile {sshd.client_key}\n"
    )
    assert demo.main(["--host", "web1"]) == 0, capsys.readouterr()


def test_it_works_through_a_jump_host(
    sshd: Sshd, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    know(home, sshd)
    (home / ".ssh" / "config").write_text(
        f"Host inner\n HostName {sshd.host}\n HostKeyAlias [{sshd.host}]:{sshd.port}\n"
        f" ProxyJump {address(sshd)}\n"
        f"Host *\n IdentityFile {sshd.client_key}\n Port {sshd.port}\n User {sshd.username}\n"
    )
    assert demo.main(["--host", "inner"]) == 0, capsys.readouterr()


def test_a_server_whose_key_is_not_known_is_refused(
    sshd: Sshd, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--host", address(sshd), "--key", sshd.client_key]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "host key" in told.err and "--host-key accept-new" in told.err


@pytest.mark.parametrize("policy, lines", [("off", 0), ("accept-new", 1)])
def test_its_key_need_not_be_known_where_that_is_asked_for(
    policy: str, lines: int, sshd: Sshd, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--host", address(sshd), "--key", sshd.client_key, "--host-key", policy]
    assert demo.main(arguments) == 0, capsys.readouterr()
    known = home / ".ssh" / "known_hosts"
    assert len(known.read_text().splitlines() if known.exists() else []) == lines


def test_a_refused_login_is_one_line_and_exit_status_2(
    sshd: Sshd, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    know(home, sshd)
    assert demo.main(["--host", address(sshd)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1


def test_a_server_without_room_for_a_folder_says_why(
    sshd: Sshd, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    know(home, sshd)
    run = hosts.RealStage._run

    def in_vain(stage: hosts.RealStage, cache: object, script: str, env: object = None) -> object:
        return run(stage, cache, "echo no space left >&2; exit 1")  # type: ignore[arg-type]

    monkeypatch.setattr(hosts.RealStage, "_run", in_vain)
    assert demo.main(["--host", address(sshd), "--key", sshd.client_key]) == 1
    out = capsys.readouterr().out
    assert (
        SshTransferError.__name__ in out
        and "could not create a temporary folder: no space left" in out
    )
