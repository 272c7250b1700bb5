"""
The settings of the services: names, valid values, and conversion to connect parameters.

The config of a service contains settings with these names.  Each call names the host, and may
override settings that the config contains.
"""

from __future__ import annotations

import difflib
import os
import re
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from ssh_service import local_paths, settings
from ssh_service.errors import SshConfigError

__all__ = [
    "COMMON",
    "FILE_SHARE",
    "HOST",
    "PER_CALL",
    "Setting",
    "connect_params",
    "known_hosts",
    "jsonable_copy",
    "problems",
    "require_identity_files",
    "require_known_hosts",
]

# The job's actual id is this name followed by a digest.
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")

Reader = Callable[[str, Any], Any]
"""Called with a setting's name and value; raises SshConfigError if the value is invalid."""


def _paths(name: str, value: Any) -> Tuple[str, ...]:
    found = settings.paths(name, value)
    if not found:
        raise settings.invalid_setting(name, value, "a path or several")
    return found


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise settings.invalid_setting(name, value, "true or false")
    return value


_JOB_ID_WORDS = (
    "a name for jobs, such as Experiment-7: up to 100 letters, digits, '.', '_' and '-', the first"
    " one a letter or a digit"
)


def _job_id(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _JOB_ID.match(value):
        raise settings.invalid_setting(name, value, _JOB_ID_WORDS)
    return value


def _policy(name: str, value: Any) -> str:
    return settings.choice(name, value, ("strict", "accept-new", "off"))


def _interval(name: str, value: Any) -> Optional[float]:
    return settings.seconds(name, value, zero_is_off=True)


def _or_null(reader: Reader) -> Reader:
    return lambda name, value: None if value is None else reader(name, value)


class Setting(NamedTuple):
    """
    A setting; the tables of the documentation are generated from these.

    Attributes
    ----------
    read : Callable[[str, Any], Any]
        Called with the name and the value; raises SshConfigError if the value is invalid.
    may_be : str
        A description of the valid values.
    default : str
        A description of the default.
    """

    read: Reader
    may_be: str
    default: str


COMMON: Dict[str, Setting] = {
    "ssh_port": Setting(_or_null(settings.port), "a port, or null", "ssh_config's, else 22"),
    "ssh_username": Setting(
        _or_null(settings.text), "a name, or null", "ssh_config's, else the current user"
    ),
    "ssh_priv_key_path": Setting(
        _or_null(_paths), "a private key file or several, or null", "as with ssh"
    ),
    "ssh_request_timeout": Setting(
        _or_null(settings.seconds),
        "for a script, seconds from the call for connecting, waiting and running; for a copy,"
        " seconds without progress; or null",
        "no limit",
    ),
    "ssh_connect_timeout": Setting(
        settings.seconds, "seconds from resolving the name to the login, jump hosts included", "30"
    ),
    "ssh_keepalive_interval": Setting(
        _or_null(_interval),
        "seconds of silence before a keepalive is sent; null or 0: never",
        "15",
    ),
    "ssh_keepalive_count_max": Setting(
        settings.positive_int, "unanswered keepalives after which a connection is lost", "3"
    ),
    "ssh_known_hosts_path": Setting(
        _or_null(_paths),
        "a known_hosts file or a list of them; null: host keys are not checked",
        "not checked, with a warning",
    ),
    "ssh_known_hosts_file": Setting(
        _or_null(_paths), "another name for `ssh_known_hosts_path`", ""
    ),
    "ssh_host_key_policy": Setting(
        _policy,
        "`strict`; `accept-new`: a new host's key is recorded, a changed key refused; `off`",
        "`strict` with a file, else `off`",
    ),
    "ssh_max_connections": Setting(
        settings.positive_int,
        "the maximum number of connections to one destination, used when sessions run out",
        "4",
    ),
    "ssh_idle_timeout": Setting(
        _or_null(settings.seconds),
        "seconds after which an unused connection is closed, or null",
        "never",
    ),
    "ssh_max_lifetime": Setting(
        _or_null(settings.seconds),
        "seconds from connecting, after which a connection is replaced once unused, or null",
        "never",
    ),
    "ssh_max_output": Setting(
        _or_null(settings.positive_int),
        "the maximum bytes of stdout and of stderr, or null; a command that writes more is ended",
        "no limit",
    ),
    "ssh_config": Setting(
        _or_null(_paths),
        "an ssh_config file or several; null: none",
        "the user's and the system's",
    ),
}
HOST: Dict[str, Setting] = {
    "ssh_shell": Setting(settings.text, "the shell that runs the scripts", "the login shell"),
    "ssh_detached": Setting(
        _flag,
        "true: scripts run as jobs, which a lost connection and a restart of mlos_bench do not"
        " end",
        "false",
    ),
    "ssh_job_id": Setting(
        _or_null(_job_id),
        "with `ssh_detached`, a name by which a restarted mlos_bench finds its jobs again, up to"
        " 100 letters, digits, '.', '_' and '-'; null: every script is a new job",
        "null",
    ),
}
FILE_SHARE: Dict[str, Setting] = {
    "ssh_copy_timeout": Setting(
        _or_null(settings.seconds),
        "seconds from the call for a whole copy, including connecting, or null",
        "no limit",
    ),
    "ssh_copy_preserve": Setting(
        _or_null(_flag),
        "modes and times. null: kept as far as both sides allow, except that downloads are"
        " writable by group and others only as far as the umask allows; true: those bits are kept"
        " too, and a refusal is an error; false: neither is kept",
        "null",
    ),
    "ssh_copy_verify": Setting(_flag, "true: compare checksums", "false"),
    "ssh_copy_resume": Setting(
        _flag, "true: continue where an interrupted copy of the file stopped", "false"
    ),
    "ssh_copy_fsync": Setting(
        _flag, "true: flush each file to the disk before it gets its final name", "false"
    ),
}
PER_CALL: Dict[str, Setting] = {
    "ssh_hostname": Setting(settings.text, "the host; a parameter of each call", "an error"),
}

_KNOWN_HOSTS = ("ssh_known_hosts_path", "ssh_known_hosts_file")
_CONNECT_PARAMS = {
    "ssh_hostname": "host",
    "ssh_port": "port",
    "ssh_username": "username",
    "ssh_priv_key_path": "client_keys",
    "ssh_connect_timeout": "connect_timeout",
    "ssh_keepalive_interval": "keepalive_interval",
    "ssh_keepalive_count_max": "keepalive_count_max",
    "ssh_config": "config",
}


def jsonable_copy(config: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
    """
    Copy settings, with path objects converted to str, so that mlos_bench can log them as JSON.

    Raises
    ------
    SshConfigError
        The settings are not a mapping.
    """
    if config is not None and not isinstance(config, Mapping):
        raise SshConfigError(f"config must be a mapping, got {type(config).__name__}")
    return {name: _jsonable(value) for name, value in (config or {}).items()}


def _jsonable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def problems(
    config: Mapping[str, Any], known: Mapping[str, Setting], *, allow_unknown: bool = False
) -> List[str]:
    """Return a message for each setting that is unknown or has an invalid value."""
    found = []
    for name, value in config.items():
        if name not in known:
            if not allow_unknown:
                found.append(_unknown(name, known))
            continue
        try:
            known[name].read(name, value)
        except SshConfigError as exc:
            found.append(str(exc))
    return found


def _unknown(name: Any, known: Mapping[str, Setting]) -> str:
    if name in PER_CALL:
        return f"{name}: belongs in each call, not in the service's config"
    close = difflib.get_close_matches(str(name), known, n=1)
    if close:
        return f"{name}: unknown setting, did you mean {close[0]}?"
    return f"{name}: unknown setting; the known ones are: {', '.join(sorted(known))}"


def known_hosts(config: Mapping[str, Any]) -> Tuple[Optional[Tuple[str, ...]], Optional[str]]:
    """
    Return the known_hosts files and the policy; None for each that is not set.

    Raises
    ------
    SshConfigError
        If the two contradict each other.
    """
    names = [name for name in _KNOWN_HOSTS if name in config]
    given = [_or_null(_paths)(name, config[name]) for name in names]
    if len(given) == 2 and given[0] != given[1]:
        both = " and ".join(f"{name} ({config[name]!r})" for name in names)
        raise SshConfigError(f"{both} have the same meaning but different values: set one of them")
    files = given[0] if given else None
    policy = config.get("ssh_host_key_policy")
    if files is None and policy in ("strict", "accept-new"):
        raise SshConfigError(
            f"ssh_host_key_policy {policy!r} needs ssh_known_hosts_path, a file such as"
            " ~/.ssh/known_hosts"
        )
    if policy is None and names:
        policy = "off" if files is None else "strict"
    return files, policy


def require_known_hosts(config: Mapping[str, Any]) -> None:
    """
    Raise an error if a known_hosts file is missing and the policy is strict.

    Raises
    ------
    SshConfigError
        If a file is missing, or an error of `known_hosts`.
    """
    files, policy = known_hosts(config)
    for path in files or ():
        if policy == "strict" and not local_paths.exists(path):
            name = next(name for name in _KNOWN_HOSTS if name in config)
            raise SshConfigError(
                f"{name}: {path} does not exist; ssh_host_key_policy 'accept-new' would create it"
            )


def require_identity_files(config: Mapping[str, Any]) -> None:
    """
    Raise an error if a private key file is missing, even if an open connection does not need it.

    Raises
    ------
    SshConfigError
        If a key file is missing.
    """
    given = config.get("ssh_priv_key_path")
    for path in settings.paths("ssh_priv_key_path", given) if given else ():
        if not local_paths.exists(path):
            raise SshConfigError(f"ssh_priv_key_path {path} does not exist")


def connect_params(config: Mapping[str, Any]) -> Dict[str, Any]:
    """
    Convert settings to connect parameters; missing ones are left to ssh_config and defaults.

    Raises
    ------
    SshConfigError
        See `known_hosts`.
    """
    params = {ours: config[name] for name, ours in _CONNECT_PARAMS.items() if name in config}
    # Null in a config means the default; None as a connect parameter does not.
    if params.get("client_keys", ()) is None:
        del params["client_keys"]
    files, policy = known_hosts(config)
    params["known_hosts"] = None if policy == "off" else files
    if policy is not None:
        params["host_key_policy"] = policy
    return params
