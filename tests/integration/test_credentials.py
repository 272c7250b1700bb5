"""Key files, agents and certificates: what is loaded, in which order, and what is said if not."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator, List

import paramiko
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ssh_service import params
from ssh_service.connect.agent import AgentError, list_keys
from ssh_service.connect.credentials import Credentials
from ssh_service.errors import SshConfigError, SshConnectError, SshConnectTimeout
from ssh_service.known_hosts import fingerprint
from tests.common import PATIENCE, assert_no_frame_knows
from tests.keys import certify, generated, needs_ssh_keygen, public_parts

from .token_agent import TokenAgent, TokenKey

pytestmark = needs_ssh_keygen
needs_agent = needs_ssh_keygen

MARKER = "a-marker-that-must-not-show"


def credentials(**given: Any) -> Credentials:
    given = {"host": "web", "username": "me", "config": None, "agent_path": None, **given}
    return Credentials(params.resolve(given), time.monotonic() + 10)


def blobs(found: Credentials) -> List[bytes]:
    return [identity.key.asbytes() for identity in found.identities()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "agent")
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                list_keys(path, deadline)
                break
            except AgentError:  # not up yet
                assert process.poll() is None and time.monotonic() < deadline
                threading.Event().wait(0.01)
        yield path
    finally:
        process.kill()
        process.wait()


def add(agent: str, *keys: Path) -> None:
    for key in keys:
        subprocess.run(
            ["ssh-add", "-q", str(key)],
            env={**os.environ, "SSH_AUTH_SOCK": agent},
            check=True,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


# --- loading ---------------------------------------------------------------------------------

FORMATS = [
    ("ed25519", ""),
    ("ecdsa", ""),
    ("ecdsa", "-b 521"),
    ("ecdsa", "-m PEM"),
    ("ecdsa", "-m PKCS8"),
    ("rsa", ""),
    ("rsa", "-m PEM"),
    ("rsa", "-m PKCS8"),
]


@pytest.mark.parametrize("passphrase", ["", "correct horse"])
@pytest.mark.parametrize("kind, more", FORMATS)
def test_every_format_of_ssh_keygen_is_loaded(kind: str, more: str, passphrase: str) -> None:
    name = f"format-{kind}{more.replace(' ', '')}{bool(passphrase)}"
    path = generated(name, kind, passphrase, more)
    _, blob = public_parts_of(path)
    found = list(credentials(client_keys=[path], passphrase=passphrase or None).identities())
    assert [identity.key.asbytes() for identity in found] == [blob]
    assert found[0].label == str(path)
    signed = found[0].key.sign_ssh_data(b"data", "rsa-sha2-512" if kind == "rsa" else None)
    message = paramiko.Message(signed.asbytes())
    assert paramiko.PKey.from_type_string(found[0].key.get_name(), blob).verify_ssh_sig(
        b"data", message
    )


def public_parts_of(path: Path) -> Any:
    import base64

    words = path.with_name(path.name + ".pub").read_text().split()
    return words[0], base64.b64decode(words[1])


def test_keys_may_be_given_as_a_path_a_list_bytes_or_objects(home: Path) -> None:
    path = generated("user-a")
    _, blob = public_parts("user-a")
    key = paramiko.Ed25519Key.from_private_key_file(str(path))
    shutil.copy(str(path), str(home / "mine"))
    for given in (str(path), path, [path], path.read_bytes(), path.read_text(), key, "~/mine"):
        assert blobs(credentials(client_keys=given)) == [blob]


def broken(tmp_path: Path, what: str) -> Path:
    path = tmp_path / what.replace(" ", "-")
    plain = generated("user-a").read_bytes()
    if what == "missing":
        return path
    if what == "folder":
        path.mkdir()
        return path
    contents = {
        "junk": b"junk\n",
        "empty": b"",
        "binary": bytes(range(256)),
        "cut": plain[: len(plain) // 2],
        "flipped": plain.replace(b"b3Blbn", b"c3Blbn"),
        "flipped cipher": plain.replace(b"AAAAABG5vbmU", b"AAAAABG5vbmQ"),
        "flipped derivation": plain.replace(b"AAAAEbm9uZQ", b"AAAAEbm9uZg"),
        "flipped count": plain.replace(b"AAAAAAAAABAAAA", b"AAAAAAAAADAAAA"),
        "public": generated("user-a").with_name("user-a.pub").read_bytes(),
        "putty": b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n",
        "dsa": b"-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n",
        "pem": b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        "encrypted": generated("locked", "ed25519", "right").read_bytes(),
    }
    path.write_bytes(contents[what])
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "what, passphrase, reason",
    [
        ("missing", None, "No such file"),
        ("folder", None, "Is a directory"),
        ("junk", None, "not a private key"),
        ("empty", None, "not a private key"),
        ("binary", None, "not a private key"),
        ("cut", None, "is damaged"),
        ("flipped", None, "is damaged"),
        ("flipped cipher", None, "is damaged"),
        ("flipped derivation", None, "is damaged"),
        ("flipped count", None, "is damaged"),
        ("public", None, "is a public key"),
        ("putty", None, "PuTTY's format"),
        ("dsa", None, "unsupported type: .*, got ssh-dss"),
        ("pem", None, "is damaged"),
        ("encrypted", None, "is encrypted and no passphrase was given"),
        ("encrypted", MARKER, "wrong passphrase"),
    ],
)
def test_unusable_key_error_names_file_and_reason(
    tmp_path: Path, what: str, passphrase: str, reason: str
) -> None:
    path = broken(tmp_path, what)
    with pytest.raises(SshConfigError, match=reason) as caught:
        credentials(client_keys=[path], passphrase=passphrase)
    assert str(path) in str(caught.value) and isinstance(caught.value, ValueError)
    assert_no_frame_knows(caught.value, MARKER)


@pytest.mark.parametrize("cipher", ["aes128-ctr", "3des-cbc", "aes256-ctr"])
def test_a_key_in_an_unsupported_cipher_is_an_error_that_says_so(cipher: str) -> None:
    """Which ones are supported is up to cryptography."""
    path = generated(f"in-{cipher}", "ed25519", MARKER, f"-Z {cipher}")
    try:
        serialization.load_ssh_private_key(path.read_bytes(), MARKER.encode())
    except UnsupportedAlgorithm:
        with pytest.raises(SshConfigError, match=f"encrypted with '{cipher}', which is not supp"):
            credentials(client_keys=[path], passphrase=MARKER)
    else:
        credentials(client_keys=[path], passphrase=MARKER)


@pytest.mark.parametrize("more", ["", "-m PEM"])
def test_an_rsa_key_is_checked_once(more: str) -> None:
    """The check takes a hundred times what the rest of a dial takes."""
    if not can_skip_the_check():
        pytest.skip("this cryptography always checks RSA keys")
    path = str(generated(f"checked-once{more[-3:]}", "rsa", more=more))
    seconds = []
    for _ in range(4):
        began = time.thread_time()
        (key,) = credentials(client_keys=[path]).identities()
        seconds.append(time.thread_time() - began)
    assert min(seconds[1:]) < seconds[0] / 4
    assert key.key.can_sign()


def test_an_invalid_rsa_key_is_refused_each_time(tmp_path: Path) -> None:
    if not can_skip_the_check():
        pytest.skip("this cryptography makes no invalid key")
    numbers = rsa.generate_private_key(65537, 2048).private_numbers()
    invalid = rsa.RSAPrivateNumbers(
        numbers.p,
        numbers.q,
        numbers.d + 2,
        numbers.dmp1,
        numbers.dmq1,
        numbers.iqmp,
        numbers.public_numbers,
    ).private_key(unsafe_skip_rsa_key_validation=True)
    path = tmp_path / "invalid"
    path.write_bytes(
        invalid.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    for _ in range(2):
        with pytest.raises(SshConfigError, match="is damaged"):
            credentials(client_keys=[str(path)])


def can_skip_the_check() -> bool:
    parameters = inspect.signature(serialization.load_ssh_private_key).parameters
    return "unsafe_skip_rsa_key_validation" in parameters


def test_a_fifo_for_a_key_file_is_an_error_at_once(tmp_path: Path) -> None:
    """Nobody may ever write into it; neither the cache's key nor the dial waits for that."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    errors: List[Exception] = []

    def use_it() -> None:
        try:
            wanted = {"host": "web1", "client_keys": fifo, "config": None, "known_hosts": None}
            assert params.resolve(wanted).key
            blobs(credentials(client_keys=fifo))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=use_it, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert len(errors) == 1 and "not a regular file" in str(errors[0])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_key_is_the_same_error(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(generated("user-a").read_bytes())
    path.chmod(0)
    with pytest.raises(SshConfigError, match="Permission denied"):
        credentials(client_keys=[path])


def test_a_key_that_others_can_read_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "open"
    path.write_bytes(generated("user-a").read_bytes())
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert len(blobs(credentials(client_keys=[path]))) == 1
    assert str(path) in caplog.text and "0644" in caplog.text


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_key_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "open"
    path.write_bytes(generated("user-a").read_bytes())
    path.chmod(mode)
    with pytest.raises(SshConfigError, match=f"open' can be written by others .mode {mode:04o}"):
        credentials(client_keys=[path])


def test_default_key_that_others_can_write_is_passed_over(home: Path) -> None:
    """It was not named, so another key may work; the reason is reported if none does."""
    install(home, "user-c", "id_ed25519")
    install(home, "user-d", "id_ecdsa")
    (home / ".ssh" / "id_ed25519").chmod(0o666)
    found = credentials()
    assert blobs(found) == [public_parts("user-d")[1]]
    assert "can be written by others" in found.skipped[0]


def test_public_key_that_others_can_write_is_no_reason(home: Path) -> None:
    install(home, "user-c", "id_ed25519")
    (home / ".ssh" / "id_ed25519.pub").chmod(0o666)
    assert blobs(credentials()) == [public_parts("user-c")[1]]


@pytest.mark.parametrize("what", ["cut", "flipped", "pem", "dsa", "encrypted"])
@pytest.mark.parametrize("as_text", [True, False])
def test_no_frame_shows_the_text_of_a_key(tmp_path: Path, what: str, as_text: bool) -> None:
    path = broken(tmp_path, what)
    text = path.read_bytes()
    part = text.splitlines()[1][:40].decode()
    with pytest.raises(SshConfigError) as caught:
        credentials(client_keys=[text.decode() if as_text else path])
    assert_no_frame_knows(caught.value, part)


@pytest.mark.parametrize("begin", ["", "PuTTY-User-Key-File-3: ssh-ed25519\n"])
def test_no_frame_shows_text_that_is_not_a_key(tmp_path: Path, begin: str) -> None:
    """It may be a key in a format that is not known here."""
    path = tmp_path / "key"
    path.write_text(f"{begin}{MARKER}\n")
    with pytest.raises(SshConfigError) as caught:
        credentials(client_keys=[path])
    assert_no_frame_knows(caught.value, MARKER)


def test_no_frame_shows_the_text_of_one_among_wrong_sources() -> None:
    text = f"-----BEGIN PRIVATE KEY-----{MARKER}"
    with pytest.raises(SshConfigError, match="got int") as caught:
        params.key_sources("client_keys", [text, 7])
    assert_no_frame_knows(caught.value, MARKER)


def test_no_frame_shows_the_text_of_a_callables_key() -> None:
    text = generated("locked", "ed25519", "right").read_text()
    with pytest.raises(SshConfigError) as caught:
        credentials(client_keys=lambda: [text, 7])
    assert_no_frame_knows(caught.value, text.splitlines()[1][:40])


# --- order -----------------------------------------------------------------------------------


def install(home: Path, name: str, *keys: str) -> None:
    for suffix in ("", ".pub"):
        shutil.copy(str(generated(name)) + suffix, str(home / ".ssh" / keys[0]) + suffix)


@needs_agent
def test_explicit_keys_come_first_then_the_agent_and_no_default_files(
    home: Path, agent: str
) -> None:
    install(home, "user-c", "id_ed25519")
    add(agent, generated("user-b"))
    found = credentials(client_keys=[generated("user-a")], agent_path=agent)
    assert blobs(found) == [public_parts("user-a")[1], public_parts("user-b")[1]]


@needs_agent
def test_without_keys_the_agent_comes_first_then_the_default_files(home: Path, agent: str) -> None:
    install(home, "user-c", "id_ed25519")
    install(home, "user-d", "id_rsa")
    add(agent, generated("user-b"), generated("user-c"))
    assert blobs(credentials(agent_path=agent)) == [
        public_parts(name)[1] for name in ("user-b", "user-c", "user-d")
    ]  # and user-c not twice


@needs_agent
@pytest.mark.parametrize("explicit", [True, False])
def test_identities_only_keeps_to_the_named_files(home: Path, agent: str, explicit: bool) -> None:
    install(home, "user-c", "id_ed25519")
    add(agent, generated("user-b"))
    keys = [generated("user-a")] if explicit else None
    found = credentials(client_keys=keys, agent_path=agent, identities_only=True)
    assert blobs(found) == [public_parts("user-a" if explicit else "user-c")[1]]


@needs_agent
def test_a_locked_or_public_file_is_served_by_the_agent_that_holds_it(agent: str) -> None:
    path = generated("locked", "ed25519", "right")
    unlocked = path.with_name("unlocked")
    shutil.copy(str(path), str(unlocked))
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "right", "-N", "", "-f", str(unlocked)], check=True
    )
    add(agent, unlocked)
    for given in (path, path.with_name("locked.pub")):
        (identity,) = credentials(
            client_keys=[given], agent_path=agent, identities_only=True
        ).identities()
        assert "in the agent" in identity.label
        assert identity.key.asbytes() == public_parts_of(path)[1]


@needs_agent
def test_a_locked_file_that_hides_its_public_half_is_known_by_the_file_beside_it(
    agent: str,
) -> None:
    path = generated("locked-pem", "rsa", "right", "-m PEM")
    unlocked = path.with_name("unlocked-pem")
    shutil.copy(str(path), str(unlocked))
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "right", "-N", "", "-f", str(unlocked)], check=True
    )
    add(agent, unlocked)
    found = credentials(client_keys=[path], agent_path=agent, identities_only=True)
    assert blobs(found) == [public_parts_of(path)[1]]


@needs_agent
@pytest.mark.parametrize("public", [False, True])
def test_a_key_of_the_agent_is_shown_with_the_certificate_beside_its_file(
    tmp_path: Path, agent: str, public: bool
) -> None:
    path = certified_copy(tmp_path)
    add(agent, path)  # ssh-add takes the certificate along
    shutil.copy(f"{generated('user-a')}.pub", f"{path}.pub")
    path.unlink()
    given = {"client_keys": [f"{path}.pub"]} if public else {"config": str(tmp_path / "config")}
    (tmp_path / "config").write_text(f"IdentityFile {path}\n")
    assert kinds(credentials(agent_path=agent, identities_only=True, **given)) == BOTH


def test_unusable_default_keys_are_skipped_and_reported(home: Path) -> None:
    install(home, "user-a", "id_rsa")
    (home / ".ssh" / "id_ed25519").write_bytes(
        generated("locked", "ed25519", "right").read_bytes()
    )
    (home / ".ssh" / "id_ecdsa").write_text("junk")
    found = credentials()
    assert blobs(found) == [public_parts("user-a")[1]]
    assert len(found.skipped) == 2
    assert "encrypted" in found.skipped[1] and "not a private key" in found.skipped[0]


def test_identity_files_of_ssh_config_take_the_place_of_the_default_ones(
    home: Path, tmp_path: Path
) -> None:
    install(home, "user-c", "id_ed25519")
    config = tmp_path / "config"
    config.write_text(f"IdentityFile {generated('user-a')}\nIdentityFile /missing\n")
    assert blobs(credentials(config=str(config))) == [public_parts("user-a")[1]]


# --- callables -------------------------------------------------------------------------------


def test_callables_deliver_at_each_dial_and_only_what_is_needed() -> None:
    asked: List[str] = []

    def supply(name: str, value: Any) -> Any:
        def answer() -> Any:
            asked.append(name)
            return value

        return answer

    given = {
        "client_keys": supply("keys", [generated("locked2", "ed25519", "right")]),
        "passphrase": supply("passphrase", "right"),
        "password": supply("password", b"secret"),
    }
    for _ in range(2):
        found = credentials(**given)
        assert len(list(found.identities())) == 1
    assert asked == ["keys", "passphrase"] * 2
    password = found.password()
    assert password is not None and password.reveal() == "secret"


def use(name: str, supplier: Any) -> None:
    if name == "password":
        credentials(password=supplier).password()
    else:
        locked = generated("locked", "ed25519", "right")
        credentials(**{"client_keys": [locked], name: supplier})


@pytest.mark.parametrize("name", ["client_keys", "passphrase", "password"])
def test_a_callable_that_raises_is_a_connect_error_without_its_text(name: str) -> None:
    def fail() -> Any:
        raise RuntimeError(MARKER)

    with pytest.raises(SshConnectError, match=f"{name} raised RuntimeError") as caught:
        use(name, fail)
    assert MARKER not in str(caught.value)
    assert caught.value.retryable  # whatever the callable asks may answer next time
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert_no_frame_knows(caught.value, MARKER)


@pytest.mark.parametrize("name", ["client_keys", "passphrase", "password"])
@pytest.mark.parametrize("mistake", [lambda needless: "secret", lambda: 1 / 0])
def test_a_callable_with_a_mistake_is_not_retryable(name: str, mistake: Any) -> None:
    with pytest.raises(SshConnectError, match=f"{name} raised (Type|ZeroDivision)Error") as caught:
        use(name, mistake)
    assert not caught.value.retryable


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_callable_that_gives_up_ends_no_thread_of_ours(error: Any) -> None:
    def fail() -> Any:
        raise error(MARKER)

    with pytest.raises(SshConnectError, match=f"password raised {error.__name__}") as caught:
        use("password", fail)
    assert MARKER not in str(caught.value)


def test_a_callable_that_never_returns_holds_up_no_dial_for_longer_than_it_may_take() -> None:
    gate = threading.Event()
    given = {"host": "web", "username": "me", "config": None, "password": gate.wait}
    found = Credentials(params.resolve(given), time.monotonic() + 0.05)
    try:
        with pytest.raises(SshConnectTimeout, match="password returned nothing within") as caught:
            found.password()
        assert (caught.value.connection_id, caught.value.phase) == ("me@web:22", "auth")
    finally:
        gate.set()


@pytest.mark.parametrize("name", ["passphrase", "password"])
def test_a_callable_that_returns_nonsense_is_a_config_error(name: str) -> None:
    with pytest.raises(
        SshConfigError, match=f"{name}: the callable must return str, bytes or None, got int"
    ):
        use(name, lambda: 7)


# --- certificates ----------------------------------------------------------------------------


def certified_copy(tmp_path: Path, *, beside: bool = True) -> Path:
    shown = certify(generated("user-a"), generated("ca"), host=False, principals="me")
    path = tmp_path / "id"
    shutil.copy(str(generated("user-a")), str(path))
    shutil.copy(str(shown), str(path) + "-cert.pub" if beside else str(tmp_path / "the-cert.pub"))
    return path


def kinds(found: Credentials) -> List[str]:
    return [
        identity.key.public_blob.key_type if identity.key.public_blob else identity.key.get_name()
        for identity in found.identities()
    ]


BOTH = ["ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519"]


def test_certificate_next_to_a_key_file_is_offered_first(tmp_path: Path) -> None:
    assert kinds(credentials(client_keys=[certified_copy(tmp_path)])) == BOTH


def test_a_certificate_may_be_named_with_its_key_or_in_ssh_config(tmp_path: Path) -> None:
    path = certified_copy(tmp_path, beside=False)
    certificate = tmp_path / "the-cert.pub"
    assert kinds(credentials(client_keys=[(str(path), str(certificate))])) == BOTH
    config = tmp_path / "config"
    config.write_text(f"CertificateFile {certificate}\n")
    assert kinds(credentials(client_keys=[path], config=str(config))) == BOTH


def test_a_named_certificate_of_another_key_is_an_error(tmp_path: Path) -> None:
    certified_copy(tmp_path, beside=False)
    with pytest.raises(SshConfigError, match="the-cert.pub' does not belong to the key"):
        credentials(client_keys=[(str(generated("user-b")), str(tmp_path / "the-cert.pub"))])


@needs_agent
@pytest.mark.usefixtures("home")
def test_certificates_of_the_agent_are_shown_before_plain_keys(tmp_path: Path, agent: str) -> None:
    add(agent, generated("user-b"), certified_copy(tmp_path))
    assert [name.split("-cert")[0] for name in kinds(credentials(agent_path=agent))] == [
        "ssh-ed25519"
    ] * 3
    assert kinds(credentials(agent_path=agent))[0] == BOTH[0]


@pytest.mark.usefixtures("home")
def test_keys_of_tokens_are_shown_last_since_somebody_has_to_touch_them(tmp_path: Path) -> None:
    token, plain = TokenKey("ed25519-sk"), SimpleNamespace(blob=public_parts("user-a")[1])
    with TokenAgent(str(tmp_path / "agent"), token, plain) as agent:
        assert blobs(credentials(agent_path=agent.path)) == [plain.blob, token.blob]


# --- the agent -------------------------------------------------------------------------------


@needs_agent
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_what_an_agent_signs_is_verified_by_its_public_key(agent: str, kind: str) -> None:
    add(agent, generated("agent-" + kind, kind))
    (key,) = list_keys(agent, time.monotonic() + 10)
    algorithm = "rsa-sha2-256" if kind == "rsa" else key.get_name()
    signed = paramiko.Message(key.sign_ssh_data(b"data", algorithm))
    public = paramiko.PKey.from_type_string(key.get_name(), key.asbytes())
    assert public.verify_ssh_sig(b"data", signed)
    assert key.failure is None
    assert fingerprint(key.asbytes()) == public.fingerprint


def test_an_agent_that_is_not_there_is_passed_over(tmp_path: Path) -> None:
    found = credentials(agent_path=tmp_path / "nobody", client_keys=[generated("user-a")])
    assert len(blobs(found)) == 1
    assert "nobody" in found.skipped[0]


def test_an_agent_that_is_mute_costs_no_more_than_the_deadline(tmp_path: Path) -> None:
    path = str(tmp_path / "mute")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        started = time.monotonic()
        with pytest.raises(AgentError, match="in time"):
            list_keys(path, time.monotonic() + 0.2)
        assert time.monotonic() - started < 0.7


@pytest.mark.parametrize(
    "answer",
    [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1\5", b"\0\0\0\5\x0c\0\0\0\2"],
    ids=["hangs up", "empty", "endless", "refuses", "cut"],
)
def test_agent_with_malformed_replies_is_an_error(tmp_path: Path, answer: bytes) -> None:
    path = str(tmp_path / "odd")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(AgentError):
            list_keys(path, time.monotonic() + 5)
        thread.join()


@needs_agent
def test_an_agent_that_will_not_sign_ends_that_key_not_the_connection(agent: str) -> None:
    add(agent, generated("user-a"))
    (key,) = list_keys(agent, time.monotonic() + 10)
    subprocess.run(
        ["ssh-add", "-q", "-D"],
        env={**os.environ, "SSH_AUTH_SOCK": agent},
        check=True,
        stderr=subprocess.DEVNULL,
    )
    signed = paramiko.Message(key.sign_ssh_data(b"data"))
    public = paramiko.PKey.from_type_string(key.get_name(), key.asbytes())
    assert not public.verify_ssh_sig(b"data", signed)
    assert key.failure == "the agent refused to sign"
