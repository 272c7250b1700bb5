"""Keys and files for tests, made by ssh-keygen, each once per run."""

from __future__ import annotations

import atexit
import base64
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Tuple

import pytest

needs_ssh = needs_ssh_keygen = pytest.mark.usefixtures("openssh_client")


@functools.lru_cache(maxsize=None)
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="ssh-service-test-keys-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def generated(name: str, kind: str = "ed25519", passphrase: str = "", more: str = "") -> Path:
    """Return the path of a private key; the same name is the same key."""
    return _generated(name, kind, passphrase, more)


@functools.lru_cache(maxsize=None)
def _generated(name: str, kind: str, passphrase: str, more: str) -> Path:
    path = _folder() / name
    size = ["-b", "2048"] if kind == "rsa" else []  # a third of the time that the default takes
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", name, "-f", str(path)]
        + size
        + more.split(),
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


def public_line(name: str, kind: str = "ed25519") -> str:
    """Return `type base64` of a generated key."""
    path = generated(name, kind)
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])


def public_parts(name: str, kind: str = "ed25519") -> Tuple[str, bytes]:
    """Return the type and the blob of a generated key."""
    key_type, encoded = public_line(name, kind).split()
    return key_type, base64.b64decode(encoded)


def ssh_fingerprint(path: Path) -> str:
    """Return what `ssh-keygen -l` says of a public key file."""
    said = subprocess.check_output(["ssh-keygen", "-l", "-f", str(path)], text=True)
    return said.split()[1]


def certify(
    key: Path, authority: Path, *, host: bool, principals: str, more: Tuple[str, ...] = ()
) -> Path:
    """Have a copy of a public key certified; return the certificate's path."""
    folder = Path(tempfile.mkdtemp(dir=_folder()))
    public = folder / (key.name + ".pub")
    shutil.copy(str(key) + ".pub", public)
    command = ["ssh-keygen", "-q", "-s", str(authority), "-I", "the-id"]
    if host:
        command.append("-h")
    if principals:
        command += ["-n", principals]
    subprocess.run([*command, *more, str(public)], check=True, stdin=subprocess.DEVNULL)
    return folder / (key.name + "-cert.pub")
