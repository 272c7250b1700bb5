"""
A string that must not be seen: passwords, passphrases, private keys.

The wrapper keeps a secret out of reprs, logs, tracebacks with locals, and pickles.  Only the code
that hands it to the protocol calls `Secret.reveal`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from typing import Any, Dict, NoReturn, Union

__all__ = ["Secret", "keyed_digest"]

# Digests can be compared only inside this process: one in a core file or a log is useless.
_PROCESS_KEY = os.urandom(32)
# Half a surrogate pair, but for those that stand for bytes.
_HALF_PAIR = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def keyed_digest(data: bytes) -> str:
    """Return a digest that reveals only whether two values are equal."""
    return hmac.new(_PROCESS_KEY, data, hashlib.sha256).hexdigest()


class Secret:
    """
    A secret string; its repr is ``***`` and it refuses to be pickled.

    Notes
    -----
    *Thread safety*: immutable.

    """

    __slots__ = ("__value",)

    def __init__(self, value: Union[str, bytes]) -> None:
        self.__value = value

    def reveal(self) -> str:
        """
        Return the secret itself, as text.

        Returns
        -------
        str
            The secret.  Bytes that are not UTF-8 become surrogates.
        """
        if isinstance(self.__value, bytes):
            return self.__value.decode("utf-8", "surrogateescape")
        return self.__value

    def reveal_bytes(self) -> bytes:
        """Return the secret itself, as bytes."""
        if isinstance(self.__value, bytes):
            return self.__value
        return self.__value.encode("utf-8", "surrogateescape")

    @property
    def is_bytes(self) -> bool:
        """Whether it was given as bytes."""
        return isinstance(self.__value, bytes)

    @property
    def can_be_sent(self) -> bool:
        """Whether it can be encoded; where not, the codec's own error would hold all of it."""
        return isinstance(self.__value, bytes) or _HALF_PAIR.search(self.__value) is None

    @property
    def digest(self) -> str:
        """What may stand in a connect key: see `keyed_digest`."""
        return keyed_digest(self.reveal_bytes())

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal_bytes(), other.reveal_bytes())

    def __hash__(self) -> int:
        return hash(self.digest)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Secret is not picklable, as a pickle would show it: name a key file, pass a"
            " function that returns the secret, or set it where the pickle is loaded"
        )
