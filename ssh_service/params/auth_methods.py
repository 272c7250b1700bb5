"""The authentication methods: the caller's, or ssh's own unless ssh_config disables them."""

from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from ssh_service import algorithms, settings
from ssh_service.params.sources import Sources, error_name, first_argument
from ssh_service.ssh_config import HostConfig, Value

__all__ = ["AuthMethods", "auth_methods", "kbdint_handler", "pubkey_algs", "required_rsa_size"]

_METHODS = ("publickey", "password", "keyboard-interactive")
# Each keyword that enables or disables a method, including older names.
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
_SSH_MIN_RSA_SIZE = 1024  # bits; like ssh, we only allow a larger minimum


class AuthMethods(NamedTuple):
    """
    The authentication methods to use.

    Attributes
    ----------
    methods : Tuple[str, ...]
        Methods to try, in order.
    notes : Tuple[str, ...]
        Why the other methods are not tried; part of the error if the server refuses these.
    """

    methods: Tuple[str, ...]
    notes: Tuple[str, ...]


def auth_methods(sources: Sources) -> AuthMethods:
    """
    Return the authentication methods to try.

    Raises
    ------
    SshConfigError
        A setting of the authentication methods is invalid.
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
        # ssh reads the same file: methods that we do not support (gssapi) are skipped.
        wanted = [word.strip() for word in first_argument(value).split(",")]
        return tuple(word for word in wanted if word in _METHODS)
    words = given.split(",") if isinstance(given, str) else given
    if not isinstance(words, (list, tuple)) or not words:
        raise settings.invalid_setting(name, given, "a list of " + ", ".join(_METHODS))
    return tuple(settings.choice(name, word, _METHODS) for word in words)


def _switched_off(config: HostConfig) -> Dict[str, str]:
    """Return the methods that ssh_config disables, each with its line; the first line counts."""
    lines: Dict[str, str] = {}
    for keyword in config.keywords():
        method = _SWITCHES.get(keyword)
        if method is not None and method not in lines:
            lines[method] = _line_if_off(keyword, config.all(keyword)[0])
    return {method: lines[method] for method in _METHODS if lines.get(method)}


def _line_if_off(keyword: str, value: Value) -> str:
    """Return the ssh_config line that disables a method; "" if the method is enabled."""
    text = first_argument(value)
    if keyword == "pubkeyauthentication" and text.lower() in ("unbound", "host-bound"):
        return ""  # both mean "yes"; they differ only for forwarded agents
    return (
        ""
        if settings.flag(error_name(value, keyword), text)
        else f"{value.origin}: {keyword} {text}"
    )


def kbdint_handler(sources: Sources) -> Optional[Callable[..., Any]]:
    """
    Return the function that answers keyboard-interactive prompts; None if there is none.

    Raises
    ------
    SshConfigError
        The setting is not callable.
    """
    given = sources.get("kbdint_handler")
    if given is not None and not callable(given):
        raise settings.invalid_type("kbdint_handler", given, "a callable")
    return given


def pubkey_algs(sources: Sources) -> Optional[Tuple[str, ...]]:
    """
    Return the signature algorithms that are allowed for public-key authentication.

    None means all algorithms that both the key and the server support.
    """
    for keyword in sources.config.keywords():
        if keyword in ("pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes"):  # the old name
            return algorithms.select_signatures(first_argument(sources.config.all(keyword)[0]))
    return None


def required_rsa_size(sources: Sources) -> int:
    """
    Return the minimum size of RSA keys, in bits; it applies to the server's keys and the user's.

    Raises
    ------
    SshConfigError
        ``RequiredRSASize`` is not a valid number.
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
