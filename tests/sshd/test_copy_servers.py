"""Copies with servers other than OpenSSH, or without something that it has."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

from ssh_service import Host, SshClientCache, download, upload
from ssh_service.copying import channels
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, eventually, require_part
from tests.trees import describe, many_files

PROFTPD = "/usr/sbin/proftpd"
MODULES = Path("/usr/lib/proftpd")
CONFIG = """
ModulePath {modules}
{modules_to_load}
ServerName test
ServerType standalone
DefaultServer on
DefaultAddress 127.0.0.1
Port {port}
User root
Group root
RootLogin on
UseReverseDNS off
DelayEngine off
RequireValidShell off
WtmpLog off
TransferLog none
SystemLog {folder}/log
ScoreboardFile {folder}/scoreboard
PidFile {folder}/pid
AuthOrder mod_auth_file.c
AuthUserFile {folder}/passwd
AuthGroupFile {folder}/group
AllowOverwrite on
SFTPEngine on
SFTPLog {folder}/sftp.log
SFTPHostKey {folder}/key
SFTPAuthMethods password
"""


@pytest.fixture(name="proftpd")
def running_proftpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dict[str, Any]]:
    """Run proftpd with mod_sftp on loopback; give the parameters to connect with."""
    require_part(os.path.exists(PROFTPD), "needs proftpd (Debian: proftpd-core)")
    require_part((MODULES / "mod_sftp.so").exists(), "needs proftpd-mod-crypto")
    require_part(shutil.which("openssl"), "needs openssl, to make a password's hash")
    if os.geteuid():
        pytest.skip("proftpd needs root")
    folder = tmp_path_factory.mktemp("proftpd")
    run = ["openssl", "passwd", "-6", "secret"]
    hashed = subprocess.run(run, stdout=subprocess.PIPE, check=True, timeout=PATIENCE).stdout
    (folder / "passwd").write_text(f"me:{hashed.decode().strip()}:0:0::{folder}:/bin/sh\n")
    (folder / "group").write_text("root:x:0:me\n")
    for name in ("passwd", "group"):
        (folder / name).chmod(0o600)
    subprocess.run(
        [
            "ssh-keygen",
            "-q",
            "-m",
            "PEM",
            "-t",
            "rsa",
            "-b",
            "2048",
            "-N",
            "",
            "-f",
            folder / "key",
        ],
        check=True,
        timeout=PATIENCE,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "config"
    # From Debian 13 on, these too are modules of their own.
    names = [name for name in ("sftp", "xfer", "delay") if (MODULES / f"mod_{name}.so").exists()]
    load = "\n".join(f"LoadModule mod_{name}.c" for name in names)
    text = CONFIG.format(modules=MODULES, modules_to_load=load, port=port, folder=folder)
    config.write_text(text)
    with open(folder / "output", "wb") as output:
        server = subprocess.Popen(
            [PROFTPD, "-n", "-q", "-c", config], stdout=output, stderr=output
        )
    try:
        eventually(lambda: _listens(port), "proftpd listens")
        yield {
            "host": "127.0.0.1",
            "port": port,
            "username": "me",
            "password": "secret",
            "client_keys": None,
            "known_hosts": None,
            "config": None,
        }
    finally:
        server.terminate()
        server.wait(PATIENCE)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_proftpd_takes_and_gives_trees_of_many_files(
    proftpd: Dict[str, Any], tmp_path: Path
) -> None:
    """It runs no commands, and input for one must not cost the connection."""
    source = many_files(tmp_path / "source", 100, size=20_000)
    for number in range(4):
        cache = SshClientCache()  # a connection that knows nothing of the server yet
        try:
            up, down = tmp_path / f"up{number}", tmp_path / f"down{number}"
            upload(proftpd, source, up, timeout=PATIENCE, cache=cache)
            download(proftpd, up, down, timeout=PATIENCE, cache=cache)
        finally:
            cache.cleanup()
        assert describe(up) == describe(source) == describe(down)


def test_proftpd_keeps_links(proftpd: Dict[str, Any], tmp_path: Path) -> None:
    """Its order of SYMLINK's paths is found out."""
    source, cache = tmp_path / "source", SshClientCache()
    source.mkdir()
    (source / "link").symlink_to("text")
    try:
        upload(proftpd, source, tmp_path / "up", links="keep", timeout=PATIENCE, cache=cache)
        download(
            proftpd,
            tmp_path / "up",
            tmp_path / "down",
            links="keep",
            timeout=PATIENCE,
            cache=cache,
        )
    finally:
        cache.cleanup()
    assert os.readlink(tmp_path / "up" / "link") == "text"
    # It tells where a link leads, and not what it says.
    assert os.readlink(tmp_path / "down" / "link") in ("text", str(tmp_path / "up" / "text"))


def test_proftpd_has_links_replaced_not_what_they_lead_to(
    proftpd: Dict[str, Any], tmp_path: Path
) -> None:
    """Its LSTAT follows links, and its RENAME moves and replaces what they lead to."""
    source, up, cache = tmp_path / "source", tmp_path / "up", SshClientCache()
    (source / "folder").mkdir(parents=True)
    for name in ("a", "b"):
        (source / name).write_text(name)
    links = {"one": "a", "two": "folder", "three": "none", "four": "a"}

    def upload_links() -> None:
        for name, text in links.items():
            (source / name).unlink(missing_ok=True)
            (source / name).symlink_to(text)
        options: Dict[str, Any] = {"contents": True, "links": "keep", "delete": True}
        upload(proftpd, source, up, **options, timeout=PATIENCE, cache=cache)
        assert {name: os.readlink(up / name) for name in links} == links
        assert {name: (up / name).read_text() for name in "ab"} == {"a": "a", "b": "b"}
        assert sorted(os.listdir(up)) == sorted([*links, "a", "b", "folder"])

    try:
        upload_links()
        upload_links()
        links.update(one="b", two="a", three="b", four="none")
        upload_links()
        (up / "one").unlink()
        (up / "one").write_text("a file")
        upload_links()
        folder = Host(proftpd, cache=cache).path(up)
        (up / "file").write_text("new")
        with pytest.raises(OSError, match="does not rename links"):
            (folder / "one").rename(folder / "file")
        with pytest.raises(FileNotFoundError):
            (folder / "nothing").rename(folder / "one")
        assert (up / "one").resolve() == up / "b"
        (folder / "file").rename(folder / "one")
        assert not (up / "one").is_symlink() and (up / "one").read_text() == "new"
        assert (up / "b").read_text() == "b"
    finally:
        cache.cleanup()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_login_shell_that_hangs_leaves_sftp(
    way: str,
    sshd_factory: Callable[..., Sshd],
    sftp_server: str,
    tmp_path: Path,
    cache: SshClientCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing waits for it: neither a tree nor a comparison of checksums."""
    script = tmp_path / "shell"
    script.write_text(
        "#!/bin/sh\n"
        f'case "$SSH_ORIGINAL_COMMAND" in *sftp-server*) exec {sftp_server};; esac\n'
        "exec sleep 300\n"
    )
    script.chmod(0o755)
    server = sshd_factory({"ForceCommand": str(script), "Subsystem": f"sftp {sftp_server}"})
    monkeypatch.setattr(channels, "_SHELL_START_TIMEOUT", 0.5)
    source = many_files(tmp_path / "source", 100, size=200)
    (source / "large").write_bytes(os.urandom(2_000_000))
    copy = upload if way == "up" else download
    copy(server.connect_params, source, tmp_path / "new", timeout=PATIENCE, cache=cache)
    assert describe(tmp_path / "new") == describe(source)
    large = source / "large"
    copy(
        server.connect_params, large, tmp_path / "one", verify=True, timeout=PATIENCE, cache=cache
    )
    assert (tmp_path / "one").read_bytes() == large.read_bytes()


def test_a_server_that_sets_no_modes_takes_trees(
    sshd_factory: Callable[..., Sshd],
    tmp_path: Path,
    cache: SshClientCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Managed servers forbid it; what arrives is complete, and one warning says so."""
    server = sshd_factory({"Subsystem": "sftp internal-sftp -P setstat,fsetstat"})
    source = many_files(tmp_path / "source", 10, size=100)
    (source / "folder").mkdir()
    with caplog.at_level(logging.WARNING, "ssh_service.copying"):
        for _ in range(2):
            upload(
                server.connect_params,
                source,
                tmp_path / "new",
                contents=True,
                timeout=PATIENCE,
                cache=cache,
            )
    for number in range(10):
        expected = (source / str(number)).read_bytes()
        assert (tmp_path / "new" / str(number)).read_bytes() == expected
    warnings = [record for record in caplog.records if "modes" in record.message]
    assert len(warnings) <= 2, "one for each copy"
    with pytest.raises(PermissionError):
        upload(
            server.connect_params,
            source,
            tmp_path / "kept",
            preserve=True,
            timeout=PATIENCE,
            cache=cache,
        )
