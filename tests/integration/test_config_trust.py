"""Keywords of ssh_config that take trust away: each has its effect, or is warned of."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path
from typing import Any, List

import pytest

from ssh_service import algorithms, params
from ssh_service.connect.credentials import Credentials
from ssh_service.errors import SshConfigError, SshHostKeyError
from ssh_service.params import ConnectParams, keywords
from tests.keys import certify, generated, needs_ssh_keygen, public_line, public_parts

pytestmark = needs_ssh_keygen

ALL = ("publickey", "password", "keyboard-interactive")


@pytest.fixture(autouse=True)
def home(user_home: Path) -> Path:
    return user_home


def configured(home: Path, text: str, **given: Any) -> ConnectParams:
    (home / ".ssh" / "config").write_text(text)
    return params.resolve({"host": "web", **given})


# --- methods ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, method",
    [
        ("PubkeyAuthentication no", "publickey"),
        ("DSAAuthentication no", "publickey"),
        ("PasswordAuthentication no", "password"),
        ("KbdInteractiveAuthentication no", "keyboard-interactive"),
        ("ChallengeResponseAuthentication no", "keyboard-interactive"),
        ("SkeyAuthentication no", "keyboard-interactive"),
        ("PasswordAuthentication false\nPasswordAuthentication yes", "password"),
        ("KbdInteractiveAuthentication no\nSkeyAuthentication yes", "keyboard-interactive"),
    ],
)
def test_method_that_is_switched_off_is_not_tried(home: Path, line: str, method: str) -> None:
    found = configured(home, line + "\n", password="x", client_keys=[generated("user-a")])
    assert found.preferred_auth == tuple(one for one in ALL if one != method)
    assert found.auth_notes == (
        f"{method} is off ({home}/.ssh/config:1: {line.split()[0].lower()} {line.split()[1]})",
    )


@pytest.mark.parametrize(
    "line",
    [
        "PubkeyAuthentication yes",
        "PubkeyAuthentication unbound",
        "PubkeyAuthentication host-bound",
        "PasswordAuthentication yes\nPasswordAuthentication no",
        "SkeyAuthentication yes\nKbdInteractiveAuthentication no",
    ],
)
def test_method_that_is_on_is_tried(home: Path, line: str) -> None:
    found = configured(home, line + "\n")
    assert found.preferred_auth == ALL and not found.auth_notes


def test_switch_yields_to_the_callers_methods(home: Path) -> None:
    found = configured(home, "PasswordAuthentication no\n", preferred_auth=["password"])
    assert found.preferred_auth == ("password",) and not found.auth_notes


def test_flag_that_is_not_a_bool_is_an_error(home: Path) -> None:
    with pytest.raises(
        SshConfigError, match="config:1: passwordauthentication: .*, got 'perhaps'"
    ):
        configured(home, "PasswordAuthentication perhaps\n")


# --- the user's keys -------------------------------------------------------------------------


def shown(found: ConnectParams) -> List[str]:
    keys = Credentials(found, time.monotonic() + 10)
    names = []
    for identity in keys.identities():
        certificate = getattr(identity.key, "public_blob", None)
        names.append(certificate.key_type if certificate else identity.key.get_name())
    return names


KEYS = {
    "ssh-ed25519": "ed25519",
    "ecdsa-sha2-nistp256": "ecdsa",
    "ssh-rsa": "rsa",
}


@pytest.mark.parametrize(
    "value, expected",
    [
        ("ssh-ed25519", ["ssh-ed25519"]),
        ("ecdsa-*,ssh-ed25519", ["ssh-ed25519", "ecdsa-sha2-nistp256"]),
        ("rsa-sha2-256", ["ssh-rsa"]),
        ("-rsa-*", ["ssh-ed25519", "ecdsa-sha2-nistp256"]),
        ("-ssh-ed25519,ecdsa-*", ["ssh-rsa"]),
        ("+ssh-rsa", list(KEYS)),
        ("^ssh-ed25519", list(KEYS)),
        ("sk-*", []),
    ],
)
@pytest.mark.parametrize("keyword", ["PubkeyAcceptedAlgorithms", "PubkeyAcceptedKeyTypes"])
def test_only_accepted_keys_are_shown(
    home: Path, keyword: str, value: str, expected: List[str]
) -> None:
    files = [generated(f"accepted-{kind}", kind) for kind in KEYS.values()]
    found = configured(home, f"{keyword} {value}\n", client_keys=files, agent_path=None)
    assert shown(found) == expected
    assert found.key != configured(home, "", client_keys=files, agent_path=None).key


def test_certificate_and_key_are_accepted_apart(home: Path) -> None:
    key = generated("user-a")
    certificate = certify(key, generated("ca"), host=False, principals="me")
    given = {"client_keys": [(key, certificate)], "agent_path": None}
    both = ["ssh-ed25519" + algorithms.CERTIFICATE, "ssh-ed25519"]
    assert shown(configured(home, "", **given)) == both
    for line, index in ((f"-{both[1]}", 0), (f"-{both[0]}", 1)):
        assert shown(configured(home, f"PubkeyAcceptedAlgorithms {line}\n", **given)) == [
            both[index]
        ]


def test_short_rsa_keys_of_the_user_are_passed_over(home: Path) -> None:
    files = [generated("accepted-rsa", "rsa"), generated("user-a")]
    found = configured(home, "RequiredRSASize 3072\n", client_keys=files, agent_path=None)
    credentials = Credentials(found, time.monotonic() + 10)
    assert [one.key.get_name() for one in credentials.identities()] == ["ssh-ed25519"]
    assert "2048 bits, fewer than the 3072 required" in credentials.skipped[0]
    assert len(shown(configured(home, "RequiredRSASize 2048\n", client_keys=files))) == 2


@pytest.mark.parametrize("value", ["no", "-1", "²", "1e3"])
def test_invalid_required_rsa_size_is_an_error(home: Path, value: str) -> None:
    with pytest.raises(SshConfigError, match="config:1: RequiredRSASize"):
        configured(home, f"RequiredRSASize {value}\n")


def test_rsa_size_may_be_raised_only(home: Path) -> None:
    assert configured(home, "RequiredRSASize 0\n").required_rsa_size == 1024


# --- the server's key ------------------------------------------------------------------------


def judge(found: ConnectParams, name: str, kind: str = "ed25519", certificate: Any = None) -> None:
    import base64

    key_type, blob = public_parts(name, kind)
    blob_of_certificate = None
    if certificate is not None:
        blob_of_certificate = base64.b64decode(certificate.read_text().split()[1])
    found.known_hosts.verify(
        key_type, blob, found.host_key_names, certificate=blob_of_certificate, principal="web"
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"known_hosts": None, "host_key_policy": "off"},
        {"host_key_policy": "accept-new"},
        {"host_key_policy": "strict"},
    ],
    ids=str,
)
def test_revoked_key_is_refused_whatever_the_policy(home: Path, given: Any) -> None:
    revoked = home / "revoked"
    revoked.write_text(f"# of the old machine\n\n{public_line('host-a')} a comment\n")
    lines = f"web {public_line('host-a')}\nweb {public_line('host-b')}\n"
    (home / ".ssh" / "known_hosts").write_text(lines)
    found = configured(home, f"RevokedHostKeys {revoked}\n", **given)
    with pytest.raises(SshHostKeyError, match=f"host key is REVOKED in {revoked}"):
        judge(found, "host-a")
    judge(found, "host-b")
    assert found.key != configured(home, "", **given).key


def test_pinned_key_that_is_revoked_is_refused(home: Path) -> None:
    from ssh_service.known_hosts import fingerprint

    revoked = home / "revoked"
    revoked.write_text(public_line("host-a") + "\n")
    pin = fingerprint(public_parts("host-a")[1])
    found = configured(home, "RevokedHostKeys ~/revoked\n", host_key_fingerprints=pin)
    with pytest.raises(SshHostKeyError, match="REVOKED"):
        judge(found, "host-a")


def test_revoked_authority_of_a_certificate_is_refused(home: Path) -> None:
    (home / "revoked").write_text(public_line("ca") + "\n")
    (home / ".ssh" / "known_hosts").write_text(f"@cert-authority * {public_line('ca')}\n")
    certificate = certify(generated("host-a"), generated("ca"), host=True, principals="web")
    judge(configured(home, ""), "host-a", certificate=certificate)
    for given in ({}, {"known_hosts": None, "host_key_policy": "off"}):
        found = configured(home, "RevokedHostKeys ~/revoked\n", **given)
        with pytest.raises(SshHostKeyError, match="the authority of the host key is REVOKED"):
            judge(found, "host-a", certificate=certificate)


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "cannot be read: No such file"),
        (b"no key\n", "revoked:1: not a public key"),
        (b"ssh-ed25519\n", "revoked:1: not a public key"),
        (b"ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAA\n", "revoked:1: not a public key"),
    ],
)
def test_revoked_list_that_cannot_be_read_refuses_all(
    home: Path, content: Any, reason: str
) -> None:
    if content is not None:
        (home / "revoked").write_bytes(content)
    found = configured(home, "RevokedHostKeys ~/revoked\n", known_hosts=None)
    with pytest.raises(SshConfigError, match=reason) as caught:
        judge(found, "host-a")
    assert "no host key is trusted" in str(caught.value)


def test_revocation_list_of_ssh_keygen_is_refused_by_name(home: Path) -> None:
    public = str(generated("host-b")) + ".pub"
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", str(home / "krl"), public], check=True)
    found = configured(home, "RevokedHostKeys ~/krl\n", known_hosts=None)
    with pytest.raises(SshConfigError, match=r"krl' is a key revocation list \(KRL\)"):
        judge(found, "host-a")


def test_revoked_host_keys_none_reads_no_file(home: Path) -> None:
    found = configured(home, "RevokedHostKeys none\n", known_hosts=None, host_key_policy="off")
    assert found.known_hosts.revoked_files == ()
    judge(found, "host-a")


def test_short_rsa_host_key_is_refused(home: Path) -> None:
    given = {"known_hosts": None, "host_key_policy": "off"}
    judge(configured(home, "RequiredRSASize 2048\n", **given), "host-rsa", "rsa")
    with pytest.raises(SshHostKeyError, match="2048 bits, fewer than the 2049 required"):
        judge(configured(home, "RequiredRSASize 2049\n", **given), "host-rsa", "rsa")


@pytest.mark.parametrize("value, ok", [("rsa-*", False), ("-ssh-ed25519", False), ("ssh-*", True)])
def test_certificate_by_an_algorithm_not_allowed_is_refused(
    home: Path, value: str, ok: bool
) -> None:
    (home / ".ssh" / "known_hosts").write_text(f"@cert-authority * {public_line('ca')}\n")
    certificate = certify(generated("host-a"), generated("ca"), host=True, principals="web")
    found = configured(home, f"CASignatureAlgorithms {value}\n")
    if ok:
        return judge(found, "host-a", certificate=certificate)
    with pytest.raises(SshHostKeyError, match="it is signed with 'ssh-ed25519'"):
        judge(found, "host-a", certificate=certificate)


# --- the rest --------------------------------------------------------------------------------


def test_connection_that_the_file_refuses_is_not_made(home: Path) -> None:
    with pytest.raises(SshConfigError, match="config:2: RefuseConnection: decommissioned"):
        configured(home, 'Host web\nRefuseConnection "decommissioned"\n')


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keywords, "_warned", set())


@pytest.mark.parametrize("keyword", keywords._UNSUPPORTED)
def test_security_keyword_without_effect_is_warned_of_once(
    home: Path, forgotten: None, caplog: pytest.LogCaptureFixture, keyword: str
) -> None:
    with caplog.at_level(logging.WARNING):
        configured(home, f"{keyword} no\n")
        assert not caplog.text
        for _ in range(3):
            configured(home, f"{keyword} yes\n")
    assert caplog.text.count(f"config:1: {keyword} has no effect here") == 1


def test_no_keyword_is_both_read_and_missed() -> None:
    assert not keywords._READ & set(keywords._UNSUPPORTED)
