"""By which methods to log in: the caller's, or what ssh_config leaves of them."""

from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from ssh_service import algorithms, settings
from ssh_service.params.sources import Sources, error_name, first_argument
from ssh_service.ssh_config import HostConfig, Value

__all__ = ["AuthMethods", "auth_methods", "kbdint_handler", "pubkey_algs", "required_rsa_size"]

_METHODS = ("publickey", "password", "keyboard-interactive")
# Each keyword that switches a method, older names among them.
_SWITCHES = {
    "pubkeyauthentication": "publickey",
    "dsaauthentication": "publickey",
    "passwordauthentication": "password",
    "kbdinteractiveauthentication": "keyboard-interactive",
    "challengeresponseauthentication": "keyboard-interactive",
    "skeyauthentication": "keyboard-interactive",
    "tisauthentication": "keyboard-interactive",
}
_NO_KEYS = (
    "no key was shown, as client_keys=None was given: it means no public-key login, the agent "
    "included; leave it out for the default keys"
)
_SSH_MIN_RSA_SIZE = 1024  # bits; ssh lets it be raised only


class AuthMethods(NamedTuple):
    """
    How to log in.

    Attributes
    ----------
    methods : Tuple[str, ...]
        Methods to try, in order.
    notes : Tuple[str, ...]
        Why others are not tried, for the error if these are refused.

    """

    methods: Tuple[str, ...]
    notes: Tuple[str, ...]


def auth_methods(sources: Sources) -> AuthMethods:
    """
    Say by which methods to log in.

    Raises
    ------
    SshConfigError
        One of them is something else.

    """
    methods = _preferred(sources)
    notes = []
    if sources.get("preferred_auth") in (None, ()):
        for method, line in _switched_off(sources.config).items():
            methods = tuple(one for one in methods if one != method)
            notes.append(f"{method} is off ({line})")
    if "client_keys" in sources and sources.get("client_keys") is None:
        methods = tuple(one for one in methods if one != "publickey")
        notes.append(_NO_KEYS)
    return AuthMethods(methods, tuple(notes))


def _preferred(sources: Sources) -> Tuple[str, ...]:
    name = "preferred_auth"
    given = sources.get(name)
    if given is None or given == ():
        value = sources.config.get("preferredauthentications")
        if value is None:
            return _METHODS
        # The file serves ssh too: methods we do not have (gssapi) are passed over.
        wanted = [word.strip() for word in first_argument(value).split(",")]
        return tuple(word for word in wanted if word in _METHODS)
    words = given.split(",") if isinstance(given, str) else given
    if not isinstance(words, (list, tuple)) or not words:
        raise settings.invalid_setting(name, given, "a list of " + ", ".join(_METHODS))
    return tuple(settings.choice(name, word, _METHODS) for word in words)


def _switched_off(config: HostConfig) -> Dict[str, str]:
    """Return the methods that ssh_config switches off, each with the line; the first counts."""
    lines: Dict[str, str] = {}
    for keyword in config.keywords():
        method = _SWITCHES.get(keyword)
        if method is not None and method not in lines:
            lines[method] = _line_if_off(keyword, config.all(keyword)[0])
    return {method: lines[method] for method in _METHODS if lines.get(method)}


def _line_if_off(keyword: str, value: Value) -> str:
    """Return the ssh_config line that turns a method off; "" if the method is on."""
    text = first_argument(value)
    if keyword == "pubkeyauthentication" and text.lower() in ("unbound", "host-bound"):
        return ""  # both are "yes", and about forwarded agents
    return (
        ""
        if settings.flag(error_name(value, keyword), text)
        else f"{value.origin}: {keyword} {text}"
    )


def kbdint_handler(sources: Sources) -> Optional[Callable[..., Any]]:
    """
    Return who answers the questions of keyboard-interactive.

    Raises
    ------
    SshConfigError
        It is something else.

    """
    given = sources.get("kbdint_handler")
    if given is not None and not callable(given):
        raise settings.invalid_type("kbdint_handler", given, "a callable")
    return given


def pubkey_algs(sources: Sources) -> Optional[Tuple[str, ...]]:
    """
    Say which signature algorithms may be used to log in by a key.

    Return None: all that the key and the server have in common.
    """
    for keyword in sources.config.keywords():
        if keyword in ("pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes"):  # the old name
            return algorithms.select_signatures(first_argument(sources.config.all(keyword)[0]))
    return None


def required_rsa_size(sources: Sources) -> int:
    """
    Return how many bits RSA keys must have, the server's and ours.

    Raises
    ------
    SshConfigError
        It is something else.

    """
    value = sources.config.get("requiredrsasize")
    if value is None:
        return _SSH_MIN_RSA_SIZE
    text = first_argument(value)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise settings.invalid_setting(
            error_name(value, "RequiredRSASize"), text, "a number of bits"
        )
    return max(int(text), _SSH_MIN_RSA_SIZE)
