"""
Conceal plain secrets at the entry of every function that users call.

A traceback with local variables (pytest, Sentry, `cgitb`) shows the arguments of every frame, so
each of those functions first replaces its argument by what `conceal` returns.
"""

from __future__ import annotations

import collections.abc
from typing import Any, Dict

from ssh_service.errors import SshConfigError
from ssh_service.params.address import conceal_password, parse_address
from ssh_service.secret import Secret

__all__ = ["conceal", "conceal_keys", "reveal"]

# Plain dicts come first: the check is faster for them.
_MAPPING = (dict, collections.abc.Mapping)
_SECRETS = ("password", "passphrase")
# Jump hosts may be nested in the parameters; `params.resolve` refuses more than 16.
_MAX_DEPTH = 20


def conceal(given: Any, depth: int = 0) -> Any:
    """
    Wrap the plain secrets among connect parameters; this function never raises.

    Parameters
    ----------
        Connect parameters, or a text; anything else, such as a connection, is returned unchanged.
    depth : int
        The number of jump hosts that enclose these parameters.
        How many jump hosts lead here.

    Returns
    -------
    Any
        A copy in which passwords, passphrases and the texts of private keys are `Secret` objects,
        including those of jump hosts.  In a text, a password is replaced by ``***``; such a text
        is refused later in any case.
    """
    if isinstance(given, str):
        return _conceal_in_text(given)
    if not isinstance(given, _MAPPING) or depth > _MAX_DEPTH:
        return given
    found: Dict[Any, Any] = dict(given)
    for name in _SECRETS:
        if isinstance(found.get(name), (str, bytes)):
            found[name] = Secret(found[name])
    if "client_keys" in found:
        found["client_keys"] = conceal_keys(found["client_keys"])
    if found.get("tunnel") is not None:
        found["tunnel"] = conceal(found["tunnel"], depth + 1)
    return found


def _conceal_in_text(text: str) -> str:
    """Hide the password in a text, which may have several jump hosts, joined by commas."""
    hops = text.split(",")
    return text if len(hops) > 1 and all(map(_is_address, hops)) else conceal_password(text)


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except SshConfigError:
        return False
    return True


def conceal_keys(given: Any) -> Any:
    """
    Wrap the texts of private keys; this function never raises.

    Parameters
    ----------
    given : Any
        A value of the parameter ``client_keys``.

    Returns
    -------
    Any
        The same value, with bytes and texts of keys wrapped; paths stay paths.
    """
    if isinstance(given, bytes) or (isinstance(given, str) and "PRIVATE KEY-----" in given):
        return Secret(given)
    if type(given) in (list, tuple):
        return type(given)([conceal_keys(one) for one in given])
    return given


def reveal(given: Any) -> Any:
    """
    Undo `conceal`, for parameters that are sent to another process.

    Parameters
    ----------
    given : Any
        Connect parameters, or a part of them.

    Returns
    -------
    Any
        A copy with plain secrets.
    """
    if isinstance(given, Secret):
        return given.reveal_bytes() if given.is_bytes else given.reveal()
    if type(given) in (list, tuple):
        return type(given)(reveal(one) for one in given)
    if isinstance(given, dict):
        return {name: reveal(value) for name, value in given.items()}
    return given
