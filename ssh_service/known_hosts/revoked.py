"""Lists of revoked keys: ssh_config's ``RevokedHostKeys``."""

from __future__ import annotations

import base64
import functools
import os
from typing import FrozenSet, Tuple

from ssh_service.errors import SshConfigError
from ssh_service.user_files import file_version, read_file

__all__ = ["load_revoked"]

_KRL_MAGIC = b"SSHKRL\n"


def load_revoked(path: str) -> FrozenSet[bytes]:
    """
    Return the keys in a list of revoked keys; the file is read again only if it has changed.

    Raises
    ------
    SshConfigError
        The list cannot be read or parsed.  As in ssh, no host key is trusted in that case.  Key
        revocation lists (KRL) are not supported.
    """
    try:
        return _parse(path, file_version(os.stat(path)))
    except OSError as error:
        raise SshConfigError(
            f"RevokedHostKeys {path!r} cannot be read: {error.strerror}; no host key is trusted "
            "without it"
        ) from error


@functools.lru_cache(maxsize=16)
def _parse(path: str, version: Tuple[int, ...]) -> FrozenSet[bytes]:
    data = read_file(path)
    if data.startswith(_KRL_MAGIC):
        raise SshConfigError(
            f"RevokedHostKeys {path!r} is a key revocation list (KRL), which is not supported; "
            "name a text file with one public key per line"
        )
    found = set()
    for number, line in enumerate(data.split(b"\n"), 1):
        fields = line.split()
        if not fields or fields[0].startswith(b"#"):
            continue
        try:
            blob = base64.b64decode(fields[1], validate=True)
            if blob[4 : 4 + int.from_bytes(blob[:4], "big")] != fields[0]:
                raise ValueError
        except (IndexError, ValueError):
            raise SshConfigError(
                f"RevokedHostKeys {path}:{number}: not a public key; no host key is trusted "
                "while a line cannot be read"
            ) from None
        found.add(blob)
    return frozenset(found)
