"""known_hosts files and the judgement over host keys; the referee is ssh-keygen."""

from __future__ import annotations

import base64
import errno
import logging
import multiprocessing
import os
import random
import re
import stat
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator, List, Optional, Tuple

import pytest

from ssh_service.errors import SshConfigError, SshHostKeyError
from ssh_service.known_hosts import HostKeyTrust, KnownHosts, fingerprint, host_name, recording
from ssh_service.user_files import file_version, read_file
from tests.common import replace_in_place
from tests.keys import (
    certify,
    generated,
    needs_ssh_keygen,
    public_line,
    public_parts,
    ssh_fingerprint,
)

pytestmark = needs_ssh_keygen

FILES = 200
HOSTS = ["web", "web1.example.com", "db.example.com", "10.0.0.7", "::1", "example.com", "x"]
PORTS = [22, 22, 2222, 2022]


def write(folder: Path, *lines: str) -> str:
    path = folder / "known_hosts"
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def verify(
    trust: HostKeyTrust,
    name: str,
    host: str = "web",
    port: int = 22,
    kind: str = "ed25519",
    certificate: Optional[Path] = None,
) -> None:
    key_type, blob = public_parts(name, kind)
    names = dict.fromkeys((host_name(host, port), host))
    certified = base64.b64decode(certificate.read_text().split()[1]) if certificate else None
    trust.verify(key_type, blob, tuple(names), certificate=certified, connection_id="me@web:22")


# --- the format ------------------------------------------------------------------------------


def hashed(name: str, rng: random.Random) -> str:
    import hashlib
    import hmac

    salt = bytes(rng.randrange(256) for _ in range(20))
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return "|1|{}|{}".format(*(base64.b64encode(part).decode() for part in (salt, digest)))


def random_hosts_field(rng: random.Random) -> str:
    def one() -> str:
        host, port = rng.choice(HOSTS), rng.choice(PORTS)
        text = rng.choice(
            [
                host_name(host, port),
                host_name(host, port).upper(),
                "*.example.com",
                "[*.example.com]:2222",
                "web?.example.com",
                "*",
                "10.0.0.*",
                "*e*a*m*",
                "other",
                "",
            ]
        )
        return ("!" if rng.random() < 0.2 else "") + text

    if rng.random() < 0.3:
        return hashed(host_name(rng.choice(HOSTS), rng.choice(PORTS)), rng)
    return ",".join(one() for _ in range(rng.randrange(1, 4))) or "x"


def random_line(rng: random.Random) -> str:
    if rng.random() < 0.15:
        good = public_line("host-a")
        return rng.choice(
            [
                "# a comment",
                "   # another",
                "",
                "   ",
                "\t",
                "web",
                "web ssh-ed25519",
                "broken ssh-ed25519 !!!not-base64!!!",  # ssh-keygen -F reads no keys
                "@unknown-marker web " + good,
                "|1|short|hash " + good,
                "broken ecdsa-sha2-nistp256 " + good.split()[1],
            ]
        )
    marker = rng.choice(["", "", "", "", "@revoked ", "@cert-authority "])
    space = rng.choice([" ", "  ", "\t", " \t "])
    key = public_line(rng.choice(["host-a", "host-b"]))
    fields = [marker + random_hosts_field(rng), *key.split()]
    comment = rng.choice(["", " comment", "  # two words"])
    return rng.choice(["", "", " "]) + space.join(fields) + comment


def ssh_keygen_finds(path: str, name: str) -> List[int]:
    done = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return [int(n) for n in re.findall(r"found: line (\d+)", done.stdout.decode())]


def test_finds_the_lines_that_ssh_keygen_finds(tmp_path: Path) -> None:
    found = 0
    for seed in range(FILES):
        rng = random.Random(seed)
        path = write(tmp_path, *(random_line(rng) for _ in range(rng.randrange(1, 12))))
        known = KnownHosts.load([path])
        host, port = rng.choice(HOSTS), rng.choice(PORTS)
        name = host_name(host, port)
        ours = [key.line for key in known.lookup([name])]
        theirs = ssh_keygen_finds(path, name)
        assert ours == theirs, f"seed {seed}, {name}:\n{Path(path).read_text()}"
        found += len(ours)
    assert found > FILES / 2  # the generator makes lines that match


def test_known_hosts_bad_line_warns_and_others_still_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "web ssh-ed25519 %%%", "@what web x y", "web " + public_line("host-a"))
    with caplog.at_level(logging.WARNING):
        assert [key.line for key in KnownHosts.load([path]).lookup(["web"])] == [3]
    assert f"{path}:1:" in caplog.text and f"{path}:2:" in caplog.text


def test_a_tab_after_a_marker_does_not_undo_a_revocation(tmp_path: Path) -> None:
    """With ssh such a line counts for nothing, and the key is believed."""
    known = KnownHosts.load([write(tmp_path, "@revoked\tweb\t" + public_line("host-a"))])
    assert [key.marker for key in known.lookup(["web"])] == ["@revoked"]


@pytest.mark.parametrize("blank", [" ", "\t", " \t ", "\f", "\v", "\u00a0", "\u2003"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_known_hosts_separators_are_those_of_ssh(tmp_path: Path, blank: str, end: str) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(f"web{blank}{public_line('host-a')}{end}".encode())
    found = [key.line for key in KnownHosts.load([str(path)]).lookup(["web"])]
    assert found == ssh_keygen_finds(str(path), "web")


def test_names_are_compared_in_lower_case(tmp_path: Path) -> None:
    known = KnownHosts.load([write(tmp_path, "Web.Example.COM " + public_line("host-a"))])
    assert known.lookup([host_name("WEB.example.com", 22)])


def test_several_files_are_one_list(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("web " + public_line("host-a") + "\n")
    second.write_text("web " + public_line("host-b") + "\n")
    files = (str(first), str(second), str(tmp_path / "missing"))
    for name in ("host-a", "host-b"):
        verify(HostKeyTrust("strict", files), name)


@pytest.mark.parametrize(
    "port, scan", [(22, "ssh-keyscan web1"), (2222, "ssh-keyscan -p 2222 web1")]
)
def test_unknown_host_error_says_how_to_add_its_key(port: int, scan: str, tmp_path: Path) -> None:
    path = write(tmp_path, "web2 " + public_line("host-a"))
    with pytest.raises(SshHostKeyError) as caught:
        verify(HostKeyTrust("strict", (path, "/etc/other")), "host-a", "web1", port)
    text = str(caught.value)
    assert caught.value.received is not None and caught.value.received in text
    settings = ("ssh_known_hosts_path", "ssh_host_key_policy")  # the services have these
    for part in (
        f"{path}, /etc/other",
        f"`{scan}`",
        "accept-new",
        "host_key_fingerprints",
        *settings,
    ):
        assert part in text
    assert "\n" not in text


def test_unknown_host_error_has_a_key_fetched_where_the_host_is(tmp_path: Path) -> None:
    """Nothing answers under its HostKeyAlias, which `ssh-keyscan` got."""
    key_type, blob = public_parts("host-a")
    address = host_name("10.0.0.7", 2222)
    with pytest.raises(SshHostKeyError, match="whose name must become alias") as caught:
        HostKeyTrust("strict", ()).verify(key_type, blob, ("alias",), address=address)
    assert "`ssh-keyscan -p 2222 10.0.0.7`" in str(caught.value)


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    trust = HostKeyTrust("strict", (write(tmp_path, "web " + public_line("host-a")),))
    verify(trust, "host-a")
    write(tmp_path, "web " + public_line("host-b"), "")
    with pytest.raises(SshHostKeyError):
        verify(trust, "host-a")


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SshConfigError, match=re.escape(str(tmp_path))):
        KnownHosts.load([str(tmp_path)])


def test_the_fingerprint_is_the_one_ssh_shows() -> None:
    _, blob = public_parts("host-a")
    assert fingerprint(blob) == ssh_fingerprint(generated("host-a"))


# --- the policies ----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["strict", "accept-new"])
def test_a_changed_key_is_refused_with_both_fingerprints_file_and_line(
    tmp_path: Path, policy: str
) -> None:
    path = write(tmp_path, "# first", "web " + public_line("host-a"))
    before = Path(path).read_bytes()
    with pytest.raises(SshHostKeyError) as caught:
        verify(HostKeyTrust(policy, (path,)), "host-b")
    assert caught.value.expected == ssh_fingerprint(generated("host-a"))
    assert caught.value.received == ssh_fingerprint(generated("host-b"))
    for part in (caught.value.expected, caught.value.received, f"{path}:2", "me@web:22"):
        assert part in str(caught.value)
    assert Path(path).read_bytes() == before


def test_accept_new_refuses_a_key_of_another_type_than_the_known_one(tmp_path: Path) -> None:
    path = write(tmp_path, "web " + public_line("host-a"))
    with pytest.raises(SshHostKeyError):
        verify(HostKeyTrust("accept-new", (path,)), "host-ecdsa", kind="ecdsa")


def test_off_takes_any_key_and_writes_nothing(tmp_path: Path) -> None:
    verify(HostKeyTrust("off"), "host-a")
    path = write(tmp_path, "web " + public_line("host-b"))
    verify(HostKeyTrust("off", (path,)), "host-a")
    assert Path(path).read_text() == "web " + public_line("host-b") + "\n"


@pytest.mark.parametrize("policy", ["strict", "accept-new", "off"])
def test_revoked_wins_over_everything(tmp_path: Path, policy: str) -> None:
    key = public_line("host-a")
    path = write(tmp_path, "web " + key, "@revoked * " + key)
    pin = fingerprint(public_parts("host-a")[1])
    for pins in ((), (pin,)):
        with pytest.raises(SshHostKeyError, match="REVOKED.*known_hosts:2"):
            verify(HostKeyTrust(policy, (path,), pins), "host-a")


def test_a_pin_decides_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "web " + public_line("host-b"))
    trust = HostKeyTrust("strict", (path,), (fingerprint(public_parts("host-a")[1]),))
    verify(trust, "host-a")
    with pytest.raises(SshHostKeyError, match="pinned is SHA256:"):
        verify(trust, "host-b")


def test_a_key_of_port_22_speaks_for_another_port_but_makes_nothing_changed(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "web " + public_line("host-a"))
    verify(HostKeyTrust("strict", (path,)), "host-a", port=2222)
    verify(HostKeyTrust("accept-new", (path,)), "host-b", port=2222)
    assert "[web]:2222 " + public_line("host-b") in Path(path).read_text()


def test_a_key_of_port_22_does_not_speak_for_a_port_whose_own_key_is_on_file(
    tmp_path: Path,
) -> None:
    """The owner of one server on a machine must not be able to impersonate another one."""
    path = write(tmp_path, "web " + public_line("host-a"), "[web]:2222 " + public_line("host-b"))
    for policy in ("strict", "accept-new"):
        with pytest.raises(SshHostKeyError, match="CHANGED.*known_hosts:2"):
            verify(HostKeyTrust(policy, (path,)), "host-a", port=2222)
        verify(HostKeyTrust(policy, (path,)), "host-b", port=2222)


def test_algorithms_of_known_keys_are_offered_first(tmp_path: Path) -> None:
    offered = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")
    path = write(tmp_path, "web " + public_line("host-rsa", "rsa"))
    trust = HostKeyTrust("strict", (path,))
    assert trust.algorithms(offered, ["web"]) == offered[2:] + offered[:2]
    assert trust.algorithms(offered, ["other"]) == offered
    # At another port is another server: where its own key is on file, that is the one to ask for.
    assert trust.algorithms(offered, ["[web]:2222", "web"]) == offered[2:] + offered[:2]
    write(tmp_path, "web " + public_line("host-a"), "[web]:22 " + public_line("host-rsa", "rsa"))
    assert trust.algorithms(offered, ["[web]:22", "web"]) == offered[2:] + offered[:2]


# --- accept-new ------------------------------------------------------------------------------


def test_accept_new_writes_a_line_that_ssh_keygen_finds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "known_hosts"
    verify(HostKeyTrust("accept-new", (str(path),)), "host-a", "web1.example.com", 2222)
    assert ssh_keygen_finds(str(path), "[web1.example.com]:2222") == [1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    verify(HostKeyTrust("strict", (str(path),)), "host-a", "web1.example.com", 2222)


def test_accept_new_hashes_names_as_ssh_keygen_understands_them(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    trust = HostKeyTrust("accept-new", (str(path),), hashed=True)
    places = [("web1.example.com", 2222), ("web1.example.com", 22), ("::1", 2222)]
    for host, port in places:
        for _ in range(2):  # once is enough
            verify(trust, "host-a", host, port)
    lines = path.read_text().splitlines()
    assert len({line.split()[0] for line in lines}) == len(places) == len(lines)
    assert all(line.startswith("|1|") and "web1" not in line for line in lines)
    for number, place in enumerate(places, 1):
        assert ssh_keygen_finds(str(path), host_name(*place)) == [number]
    with pytest.raises(SshHostKeyError, match="CHANGED.*known_hosts:2"):
        verify(trust, "host-b", "web1.example.com")


def test_accept_new_keeps_mode_links_and_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("other " + public_line("host-b"))  # without a newline at its end
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    verify(HostKeyTrust("accept-new", (str(link),)), "host-a")
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640
    lines = path.read_text().splitlines()
    assert lines == ["other " + public_line("host-b"), "web " + public_line("host-a")]


def test_the_null_device_is_empty_on_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python gives no number of a device."""
    facts = SimpleNamespace(st_mode=stat.S_IFCHR, st_blksize=4096)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda descriptor: facts)
        patch.setattr(os, "stat", lambda path: facts)
        content = read_file(os.devnull)
    assert content == b""


def test_accept_new_into_the_null_device_believes_every_time() -> None:
    """As people have it in ssh_config for machines that come and go."""
    for name in ("host-a", "host-b"):
        verify(HostKeyTrust("accept-new", (os.devnull,)), name)


@pytest.mark.parametrize("hashed", [False, True])
def test_fifty_first_contacts_at_once_write_one_line(tmp_path: Path, hashed: bool) -> None:
    path = tmp_path / "known_hosts"
    trust = HostKeyTrust("accept-new", (str(path),), hashed=hashed)
    barrier = threading.Barrier(50)
    failures: List[BaseException] = []

    def meet() -> None:
        barrier.wait()
        try:
            verify(trust, "host-a")
        except BaseException as error:
            failures.append(error)

    public_line("host-a")
    threads = [threading.Thread(target=meet) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    (line,) = path.read_text().splitlines()
    assert line.split(None, 1)[1] == public_line("host-a")
    assert line.startswith("|1|" if hashed else "web ")


def _meet_in_a_process(arguments: Tuple[str, str, bytes]) -> None:
    path, key_type, blob = arguments
    HostKeyTrust("accept-new", (path,)).verify(key_type, blob, ("web",))


def test_first_contacts_of_many_processes_write_one_line(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    job = (str(path), *public_parts("host-a"))
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_meet_in_a_process, [job] * 50, chunksize=1)
        pool.close()
        pool.join()
    assert path.read_text() == "web " + public_line("host-a") + "\n"


class _FullDisk:
    """The module `os`, on a disk that takes `room` more bytes."""

    def __init__(self, room: int) -> None:
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, descriptor: int, data: bytes) -> int:
        part = data[: self._room]
        self._room -= len(part)
        if data and not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, part)


@pytest.mark.parametrize("room", [0, 1, 32, 84])
@pytest.mark.parametrize("before", ["", "other ssh-ed25519 AAAA"])
def test_a_full_disk_leaves_no_part_of_a_new_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, room: int
) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(before)
    trust = HostKeyTrust("accept-new", (str(path),))
    with monkeypatch.context() as patch:
        patch.setattr(recording, "os", _FullDisk(room))
        with pytest.raises(SshConfigError, match="cannot be written: No space left on device"):
            verify(trust, "host-a")
    assert path.read_text() == before
    verify(trust, "host-a")


def test_a_full_disk_takes_nothing_back_that_ssh_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "known_hosts"
    disk = _FullDisk(32)

    def write_as_well(descriptor: int, data: bytes) -> int:
        path.write_text(path.read_text() + "of ssh\n")
        return _FullDisk(0).write(descriptor, data)

    def write(descriptor: int, data: bytes) -> int:
        disk.write = write_as_well  # type: ignore[method-assign]
        return _FullDisk(32).write(descriptor, data)

    disk.write = write  # type: ignore[method-assign]
    monkeypatch.setattr(recording, "os", disk)
    with pytest.raises(SshConfigError, match="No space left"):
        verify(HostKeyTrust("accept-new", (str(path),)), "host-a")
    assert path.read_text().endswith("of ssh\n")


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_a_key_that_is_not_complete_is_no_key(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As ssh: a line that was cut off must not make the host look changed."""
    name = f"cut-{kind}"
    key_type, blob = public_parts(name, kind)
    whole = tmp_path / "whole"
    end = 4 + len(key_type)
    for cut in (blob[:end], blob[:-3], blob[: end + 4], blob[: end + 12], blob + b"\0\0\0\0"):
        line = f"web {key_type} {base64.b64encode(cut).decode()}\n"
        path = tmp_path / f"known_hosts{len(cut)}"
        path.write_text(line)
        assert subprocess.run(["ssh-keygen", "-lf", str(path)], capture_output=True).returncode
        caplog.clear()
        verify(HostKeyTrust("accept-new", (str(path),)), name, kind=kind)
        assert "line skipped: the key is not complete" in caplog.text
        verify(HostKeyTrust("strict", (str(path),)), name, kind=kind)
    whole.write_text(f"web {key_type} {base64.b64encode(blob).decode()}\n")
    verify(HostKeyTrust("strict", (str(whole),)), name, kind=kind)


@pytest.fixture
def null_locked() -> Iterator[None]:
    import fcntl

    with open(os.devnull) as file:  # for reading, which anybody may
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_accept_new_does_not_wait_for_a_locked_null_device(
    null_locked: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The commonest pair of settings in scripts must not be stopped by `flock /dev/null`."""

    def forbidden(*_: object) -> None:
        raise AssertionError("a lock is asked for")

    monkeypatch.setattr(recording, "_lock", forbidden)
    with caplog.at_level(logging.WARNING):
        verify(HostKeyTrust("accept-new", (os.devnull,)), "host-a")
    assert "not written to /dev/null: it is not a regular file" in caplog.text


def test_accept_new_goes_on_unrecorded_where_the_lock_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fcntl

    path = tmp_path / "known_hosts"
    path.touch()
    trust = HostKeyTrust("accept-new", (str(path),))
    key_type, blob = public_parts("host-a")
    with open(path) as file, caplog.at_level(logging.WARNING):
        fcntl.flock(file, fcntl.LOCK_EX)
        began = time.monotonic()
        trust.verify(key_type, blob, ("web",), deadline=began + 0.4)
        assert 0.2 <= time.monotonic() - began < 5
    assert "not written" in caplog.text and "somebody keeps it locked" in caplog.text
    assert path.read_text() == ""


def test_accept_new_judges_again_where_the_lock_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(*_: object) -> None:
        write(tmp_path, f"web {public_line('host-b')}")  # whoever holds it knew another key
        raise recording._Locked

    monkeypatch.setattr(recording, "_lock", keep)
    with pytest.raises(SshHostKeyError, match="CHANGED"):
        verify(HostKeyTrust("accept-new", (str(tmp_path / "known_hosts"),)), "host-a")


@pytest.mark.parametrize(
    "name", ["*", "a,github.com", "w?b", "!web", "#web", "@revoked", "|1|x|y", "a b"]
)
def test_accept_new_records_no_name_that_is_more_than_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / "known_hosts"
    with pytest.raises(SshHostKeyError, match="would stand for more than this host"):
        verify(HostKeyTrust("accept-new", (str(path),)), "host-a", name)
    assert not path.exists()
    verify(HostKeyTrust("accept-new", (str(path),), hashed=True), "host-a", name)
    assert path.read_text().startswith("|1|")


def test_known_hosts_replaced_in_place_is_read_again(tmp_path: Path) -> None:
    """Size, inode and time of modification are alike, and the old key is believed no more."""
    path = tmp_path / "known_hosts"
    write(tmp_path, f"web {public_line('host-a')}")
    trust = HostKeyTrust("strict", (str(path),))
    verify(trust, "host-a")
    replace_in_place(path, f"web {public_line('host-b')}\n")
    verify(trust, "host-b")
    with pytest.raises(SshHostKeyError, match="CHANGED"):
        verify(trust, "host-a")


@pytest.mark.parametrize("what", ["st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"])
def test_file_version_differs_in_each_way_a_file_can_be_replaced(what: str) -> None:
    """Also by one of the same number and times on another device that was mounted there."""
    names = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    before: Any = SimpleNamespace(**dict.fromkeys(names, 7))
    after: Any = SimpleNamespace(**{**vars(before), what: 8})
    assert file_version(before) != file_version(after)


def test_a_first_contact_waits_for_whoever_holds_the_lock(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "known_hosts"
    trust = HostKeyTrust("accept-new", (str(path),))
    line = "web " + public_line("host-a") + "\n"
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=verify, args=(trust, "host-a"))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and path.read_text() == ""
        file.write(line)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_UN)
        thread.join()
    assert path.read_text() == line  # what was written meanwhile counts


def test_a_file_that_is_replaced_meanwhile_gets_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ssh-keygen -R does: the locked file then has no name any more."""
    path = tmp_path / "known_hosts"
    path.write_text("other " + public_line("host-b") + "\n")
    lock = recording._lock
    replaced: List[Any] = []

    def lock_and_replace(descriptor: int, deadline: float) -> None:
        lock(descriptor, deadline)
        if not replaced:
            replaced.append(True)
            (tmp_path / "new").write_text("")
            os.replace(tmp_path / "new", path)

    monkeypatch.setattr(recording, "_lock", lock_and_replace)
    verify(HostKeyTrust("accept-new", (str(path),)), "host-a")
    assert path.read_text() == "web " + public_line("host-a") + "\n"


def test_two_keys_at_a_first_contact_only_one_is_believed(tmp_path: Path) -> None:
    """The second caller finds the first one's key on file: a change, not a new host."""
    trust = HostKeyTrust("accept-new", (str(tmp_path / "known_hosts"),))
    barrier = threading.Barrier(2)
    refused: List[str] = []

    def meet(name: str) -> None:
        barrier.wait()
        try:
            verify(trust, name)
        except SshHostKeyError:
            refused.append(name)

    for name in ("host-a", "host-b"):
        public_line(name)
    threads = [threading.Thread(target=meet, args=(name,)) for name in ("host-a", "host-b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = "/proc/ssh_service/known_hosts" if os.path.isdir("/proc/self") else "/dev/null/x"
    with pytest.raises(SshConfigError, match=re.escape(path)):
        verify(HostKeyTrust("accept-new", (path,)), "host-a")


# --- certificates ----------------------------------------------------------------------------


def certificate(principals: str = "web", *more: str, host: bool = True, ca: str = "ca") -> Path:
    return certify(
        generated("host-a"), generated(ca), host=host, principals=principals, more=tuple(more)
    )


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_certificate_of_a_known_authority_is_believed(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, f"@cert-authority web {public_line('ca-' + kind, kind)}")
    shown = certify(
        generated("host-" + kind, kind), generated("ca-" + kind, kind), host=True, principals="web"
    )
    verify(HostKeyTrust("strict", (path,)), "host-" + kind, kind=kind, certificate=shown)


@pytest.mark.parametrize(
    "shown, reason",
    [
        (lambda: certificate("other,third"), "it is for other, third"),
        (lambda: certificate(""), "it is for nobody"),
        (lambda: certificate("web", "-V", "20200101:20200102"), "it expired at 2020-01-02"),
        (lambda: certificate("web", "-V", "20990101:20990102"), "not valid before 2099-01-01"),
        (lambda: certificate("web", host=False), "not a host certificate"),
        (
            lambda: certificate("web", "-O", "critical:x@example.com"),
            "critical options: x@example.com",
        ),
    ],
    ids=["other host", "no host", "expired", "not yet", "user certificate", "critical option"],
)
def test_a_certificate_that_does_not_hold_is_refused(
    tmp_path: Path, shown: "Callable[[], Path]", reason: str  # type: ignore  # noqa: F821
) -> None:
    # Its plain key is on file too: a certificate that does not hold is refused all the same.
    path = write(
        tmp_path, "@cert-authority * " + public_line("ca"), "web " + public_line("host-a")
    )
    for policy in ("strict", "accept-new"):
        with pytest.raises(SshHostKeyError, match=reason):
            verify(HostKeyTrust(policy, (path,)), "host-a", certificate=shown())


def test_every_flipped_byte_of_a_certificate_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, "@cert-authority web " + public_line("ca"))
    blob = base64.b64decode(certificate().read_text().split()[1])
    key_type, plain = public_parts("host-a")
    trust = HostKeyTrust("strict", (path,))
    for at in range(len(blob)):
        broken = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        with pytest.raises(SshHostKeyError):
            trust.verify(key_type, plain, ["web"], certificate=broken)


def test_what_a_forged_certificate_says_of_itself_is_not_repeated(tmp_path: Path) -> None:
    """Its signature comes first, and its name is cut and escaped."""
    path = write(tmp_path, "@cert-authority web " + public_line("ca"))
    shown = certificate("elsewhere-001", "-V", "20200101:20200102")
    blob = base64.b64decode(shown.read_text().split()[1])
    forged = blob.replace(b"elsewhere-001", b"\x1b[31melse\nwhe").replace(b"the-id", b"\x1b[31md")
    key_type, plain = public_parts("host-a")
    with pytest.raises(SshHostKeyError, match="its signature is wrong") as caught:
        HostKeyTrust("strict", (path,)).verify(key_type, plain, ["web"], certificate=forged)
    assert str(caught.value).isprintable() and "else" not in str(caught.value)


def test_a_revoked_authority_is_refused(tmp_path: Path) -> None:
    ca = public_line("ca")
    path = write(tmp_path, "@cert-authority * " + ca, "@revoked * " + ca)
    with pytest.raises(SshHostKeyError, match="authority.*REVOKED"):
        verify(HostKeyTrust("accept-new", (path,)), "host-a", certificate=certificate())


@pytest.mark.parametrize("policy", ["strict", "accept-new"])
@pytest.mark.parametrize("shown", [None, "other-ca"])
def test_a_host_with_an_authority_is_never_simply_new(
    tmp_path: Path, policy: str, shown: Optional[str]
) -> None:
    path = write(tmp_path, "@cert-authority web " + public_line("ca"))
    cert = certificate(ca=shown) if shown else None
    with pytest.raises(SshHostKeyError, match="not certified by the authority at .*:1"):
        verify(HostKeyTrust(policy, (path,)), "host-a", certificate=cert)


def test_a_certificate_by_an_unknown_authority_counts_as_its_plain_key(tmp_path: Path) -> None:
    path = write(tmp_path, "web " + public_line("host-a"))
    verify(HostKeyTrust("strict", (path,)), "host-a", certificate=certificate())


def test_certificates_are_asked_for_where_an_authority_is_on_file(tmp_path: Path) -> None:
    path = write(tmp_path, "@cert-authority web " + public_line("ca"))
    offered = HostKeyTrust("strict", (path,)).algorithms(("ssh-ed25519",), ["web"])
    assert offered == ("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519")
