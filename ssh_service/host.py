"""`Host`: a destination with the functions of this package as methods."""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import PurePath
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Tuple,
    TypeVar,
    Union,
)

from ssh_service import api, forwarding, jobs, params, readiness
from ssh_service.commands.sudo import conceal_password, refuse_sudo
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.params import ConnectParams, Resolvable, settings_of
from ssh_service.paths.path import SshPath

if TYPE_CHECKING:
    from typing import Concatenate, ParamSpec

    P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["Host"]

# The part of a docstring about `destination`, which the methods do not have.
_DESTINATION = re.compile(r"^destination : .*\n(?:    .*\n)+", re.MULTILINE)


def _method(function: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Host, P], R]:
    """Return a method that calls a function with the host as the destination."""

    @functools.wraps(function)
    def method(self: Host, *args: P.args, **options: P.kwargs) -> R:
        if "sudo_password" in options:
            options["sudo_password"] = conceal_password(options["sudo_password"])
        if self._cache is not None:
            options.setdefault("cache", self._cache)
        return function(self, *args, **options)

    signature = inspect.signature(function)
    _, *others = signature.parameters.values()
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    setattr(method, "__signature__", signature.replace(parameters=[this, *others]))
    # Python 3.13 and later have taken the indentation away already.
    method.__doc__ = _DESTINATION.sub("", inspect.cleandoc(function.__doc__ or ""))
    method.__qualname__ = f"Host.{function.__name__}"
    return method  # type: ignore[return-value]


def _another_host(name: str) -> str:
    if name in params.SETTINGS or name == "cache":
        return f"make another one, such as Host(host, {name}=...)"
    return f"cannot set {name!r}"


class Host(Resolvable):
    """
    A destination with its settings; its methods run commands, copy files and more.

    The methods are functions of this package, without the parameter ``destination``.  A `Host`
    need not be opened or closed: as with the functions, a cache keeps the connection.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host]
        ``"[user@]host[:port]"``, ``"ssh://[user@]host[:port]"``, settings such as
        ``{"host": "web1"}``, or another `Host`, whose settings are copied.
    cache : Optional[SshClientCache]
        The cache that provides the connections.  None: the cache of `destination` if that is a
        `Host`, otherwise `default_cache`.
    **settings : Any
        Further settings, such as ``connect_timeout=5`` (`ssh_service.params.SETTINGS`
        lists all); they take precedence over those of `destination`.

    Attributes
    ----------
    settings : Mapping[str, Any]
        The settings; secrets are shown as ``***``.
    cache : Optional[SshClientCache]
        The cache that provides the connections; None: `default_cache`.
    connection_id : str
        ``user@host:port`` of the connection, as in log lines and messages.

    Raises
    ------
    SshConfigError
        `destination` is not a valid destination, or a setting is unknown.  The values are checked
        at the first use.

    Notes
    -----
    Thread safety.  A `Host` is immutable and may be used from any thread.

    The first use reads ssh_config and checks the settings.  To use a changed ssh_config, make a
    new `Host`.

    Two hosts are equal if their settings and caches are equal.  A host can be pickled, without
    its cache, unless its settings contain the text of a password, a passphrase or a private key.

    A ``with`` block connects at its beginning, and keeps the connection from being closed as
    unused until its end.

    Examples
    --------
    >>> web = ssh_service.Host("deploy@web1", connect_timeout=5)
    >>> web.run("uptime").stdout
    >>> web.upload("site", "/srv/www/site", contents=True)
    >>> web.path("/etc/hosts").read_text()
    """

    _cache: Optional[SshClientCache]
    _settings: Dict[str, Any]
    _target: Optional[ConnectParams]
    _held: List[Any]

    def __init__(
        self,
        destination: Union[str, Mapping[str, Any], Host],
        *,
        cache: Optional[SshClientCache] = None,
        **settings: Any,
    ) -> None:
        destination, settings = params.conceal(destination), params.conceal(settings)
        check_cache(cache)
        if cache is None and isinstance(destination, Host):
            cache = destination._cache
        settings = {**settings_of(destination), **settings}
        params.check_names(settings, params.SETTINGS)
        self._set(_cache=cache, _settings=settings, _target=None, _held=[])

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Host is immutable: {_another_host(name)}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Host is immutable: cannot delete {name!r}")

    def __copy__(self) -> Host:
        return self

    def __deepcopy__(self, memo: Dict[int, Any]) -> Host:
        return self

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings, which cannot be changed; secrets are shown as ``***``."""
        return MappingProxyType(self._settings)

    @property
    def cache(self) -> Optional[SshClientCache]:
        """The cache that provides the connections; None: `default_cache`."""
        return self._cache

    def resolve(self) -> ConnectParams:
        """
        Check the settings, and complete them from ssh_config and the defaults.

        Returns
        -------
        ConnectParams
            The resolved settings; each call returns the same object.

        Raises
        ------
        SshConfigError
            A setting is missing or invalid; see `ssh_service.params.resolve`.
        """
        target = self._target
        if target is None:
            target = params.resolve_concealed(self._settings)
            self._set(_target=target)
        return target

    @property
    def connection_id(self) -> str:
        """``user@host:port`` of the connection, as in log lines and messages."""
        return self.resolve().connection_id

    def path(
        self,
        path: Union[str, PurePath, SshPath],
        *more: str,
        sudo: Union[bool, str] = False,
    ) -> SshPath:
        """
        Return the path of a file or folder on this host; this sends nothing.

        Parameters
        ----------
        path : Union[str, PurePath, SshPath]
            The path.  A relative one starts at the home directory; ``~`` or ``~user`` at the start
            is expanded when the path is used.
        *more : str
            Further parts, which are joined by slashes.
        sudo : Union[bool, str]
            Refused: a path has the rights of the user who logs in.  The message names other ways.

        Returns
        -------
        SshPath
            The path, with the methods of `pathlib.Path`.

        Raises
        ------
        SshConfigError
            The path is empty, contains a NUL character or is not a text, or `sudo` is set (a
            `ValueError`).

        Examples
        --------
        >>> web.path("/etc/hosts").read_text()
        """
        refuse_sudo(sudo, "path")
        return SshPath(self, path, *more)

    def __enter__(self) -> Host:
        cache = api.default_cache() if self._cache is None else self._cache
        lease = cache.lease(self)
        lease.__enter__()
        self._held.append(lease)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._held.pop().__exit__(*exc_info)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Host):
            return NotImplemented
        return self._settings == other._settings and self._cache is other._cache

    def __hash__(self) -> int:
        return hash(str(self))  # other settings may be unhashable

    def __str__(self) -> str:
        user, host, port = (self._settings.get(name) for name in ("username", "host", "port"))
        host = f"[{host}]" if port is not None and ":" in str(host) else host
        return f"{'' if user is None else f'{user}@'}{host}{'' if port is None else f':{port}'}"

    def __repr__(self) -> str:
        others = sorted({*self._settings} - {"username", "host", "port"})
        more = "".join(f", {name}={self._settings[name]!r}" for name in others)
        return f"Host({str(self)!r}{more})"

    def __reduce__(self) -> Tuple[Any, ...]:
        return Host, (self._settings,)

    run = _method(api.run)
    start = _method(api.start)
    upload = _method(api.upload)
    download = _method(api.download)
    forward_local = _method(forwarding.forward_local)
    forward_remote = _method(forwarding.forward_remote)
    forward_socks = _method(forwarding.forward_socks)
    start_job = _method(jobs.start_job)
    find_job = _method(jobs.find_job)
    list_jobs = _method(jobs.list_jobs)
    wait_for = _method(readiness.wait_for)
    reboot = _method(readiness.reboot)
