"""
The base class of the SSH services.

`SshClient` and `SshClientCache` can also be imported from here, as from mlos_bench's module with
this name.
"""

from __future__ import annotations

import os
from abc import ABCMeta
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Dict,
    Literal,
    Mapping,
    Optional,
    Tuple,
    Type,
    TypeVar,
)

from ssh_service.connections.cache import SshClientCache
from ssh_service.connections.client import SshClient
from ssh_service.errors import SshCacheClosed, SshConfigError
from ssh_service.locks import Lock
from ssh_service.services import host_api, settings
from ssh_service.services.host_api import Service

if TYPE_CHECKING:
    from ssh_service.services.base_service import Methods

__all__ = ["SshClient", "SshClientCache", "SshService"]

_Self = TypeVar("_Self", bound="SshService")

# Settings that a call may always override; others only if the service's config has them.
_OVERRIDABLE = ("ssh_port", "ssh_username", "ssh_priv_key_path")
# Other names of the host: in our mappings and asyncssh's, in paramiko and in OpenSSH.
_HOSTNAME_ALIKE = ("host", "hostname", "ssh_host", "address", "ip")

_lock = Lock()  # never held during a call that could block


class SshService(Service, metaclass=ABCMeta):
    """
    The base class of the SSH services: their settings, and the connection cache that they share.

    Parameters
    ----------
    config : Optional[dict]
        Settings such as ``{"ssh_username": "admin"}``; see the documentation's page of settings.
        The dict is copied.
    global_config : Optional[dict]
        Ignored; accepted because mlos_bench passes it.
    parent : Optional[Service]
        A service whose methods this service also exports.
    methods : Union[Dict[str, Callable], List[Callable], None]
        The methods that this service exports.

    Raises
    ------
    SshConfigError
        If a setting is unknown or has an invalid value; with mlos_bench the error is also a
        `jsonschema.ValidationError`.

    Notes
    -----
    Thread safety.  While the service is in its context, its methods may be called from any thread.

    Guarantees.  All services share one cache, and thus one connection to each destination.  The
    cache is open while at least one service is in its context (a refcount).  Outside its context,
    a service raises `SshCacheClosed`.  A service is pickled as its config, without its context.
    """

    _CLIENT_CACHE: ClassVar[SshClientCache] = SshClientCache()
    _SETTINGS: ClassVar[Mapping[str, settings.Setting]] = settings.COMMON

    def __init__(
        self,
        config: Optional[Dict[str, Any]] = None,
        global_config: Optional[Dict[str, Any]] = None,
        parent: Optional[Service] = None,
        methods: Optional[Methods] = None,
    ) -> None:
        # The id of the process in which this service keeps the cache open.
        self._leased_by: Optional[int] = None  # guarded by _lock
        super().__init__(settings.jsonable_copy(config), global_config, parent, methods)
        for name in _OVERRIDABLE:
            self.config.setdefault(name, None)

    def __reduce__(self) -> Tuple[Any, ...]:
        # without the None values that __init__ added
        config = {k: v for k, v in self.config.items() if v is not None or k not in _OVERRIDABLE}
        return type(self), (config,)

    @classmethod
    def clear_client_cache(cls) -> None:
        """
        Close all connections of the services.

        Commands and copies that use these connections fail immediately; later calls connect again.
        This may be called from any thread.
        """
        cls._CLIENT_CACHE.cleanup()

    @classmethod
    def client_cache(cls) -> SshClientCache:
        """
        Return the cache that all services share.

        Returns
        -------
        SshClientCache
            The cache, for `SshClientCache.stats` and `SshClientCache.subscribe`.
        """
        return cls._CLIENT_CACHE

    @classmethod
    def _known_settings(cls) -> Dict[str, settings.Setting]:
        known: Dict[str, settings.Setting] = {}
        for base in reversed(cls.__mro__):
            known.update(vars(base).get("_SETTINGS", {}))
        return known

    def _validate_json_config(self, config: Dict[str, Any]) -> None:
        # mlos_bench's validation only supports its own classes, by name, and would reject this
        # one.
        found = settings.problems(
            config, self._known_settings(), allow_unknown=not host_api.SCHEMA_IS_CHECKED
        )
        if not found:
            try:
                settings.require_known_hosts(config)
            except SshConfigError as exc:
                found = [str(exc)]
        if found:
            raise host_api.InvalidConfig(f"{type(self).__name__}: {'; '.join(found)}")

    # mlos_bench enters a service without exported methods without calling _enter_context.  Both
    # ways of entering therefore take the lease, and both ways of leaving return it.

    def __enter__(self: _Self) -> _Self:
        super().__enter__()
        self._take_lease()
        return self

    def __exit__(
        self,
        ex_type: Optional[Type[BaseException]],
        ex_val: Optional[BaseException],
        ex_tb: Optional[TracebackType],
    ) -> Literal[False]:
        try:
            return super().__exit__(ex_type, ex_val, ex_tb)
        finally:
            self._return_lease()

    def _enter_context(self: _Self) -> _Self:
        super()._enter_context()
        self._take_lease()
        return self

    def _exit_context(
        self,
        ex_type: Optional[Type[BaseException]],
        ex_val: Optional[BaseException],
        ex_tb: Optional[TracebackType],
    ) -> Literal[False]:
        self._return_lease()
        return super()._exit_context(ex_type, ex_val, ex_tb)

    def _take_lease(self) -> None:
        process = os.getpid()
        with _lock:
            if self._leased_by == process:
                return
            self._leased_by = process
        self._CLIENT_CACHE.enter()

    def _return_lease(self) -> None:
        with _lock:
            process, self._leased_by = self._leased_by, None
        if process == os.getpid():
            self._CLIENT_CACHE.exit()

    def _require_context(self) -> None:
        if self._leased_by is None:
            raise SshCacheClosed(f"{self!r} is outside its context: use it in `with service:`")
        self._take_lease()  # only has an effect in a child that was forked within the context

    def _merge(self, call: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
        """
        Return the service's config, overridden by a call's parameters.

        Only ``ssh_hostname`` and settings that the config has are taken from the call, except
        ``ssh_request_timeout``; other parameters are ignored.

        Raises
        ------
        SshConfigError
            If the host is missing or a value is invalid.
        """
        if call is not None and not isinstance(call, Mapping):
            raise SshConfigError(f"config must be a mapping, got {type(call).__name__}")
        given = {
            name: value
            for name, value in (call or {}).items()
            if name in self.config or name == "ssh_hostname"
        }
        given.pop("ssh_request_timeout", None)
        if given.get("ssh_port", 0) is None:  # None means the service's port
            del given["ssh_port"]
        if given.get("ssh_hostname") is None:
            text = "Missing required parameter: ssh_hostname"
            wrong = [name for name in call or {} if str(name).lower() in _HOSTNAME_ALIKE]
            if wrong:
                text += f" (got {wrong[0]!r}: did you mean 'ssh_hostname'?)"
            raise SshConfigError(text)
        known = {**self._known_settings(), **settings.PER_CALL}
        found = settings.problems(given, known, allow_unknown=True)
        if found:
            raise SshConfigError("; ".join(found))
        return {**self.config, **given}

    def _connect_params(self, merged: Mapping[str, Any]) -> Dict[str, Any]:
        """Convert merged settings to connect parameters."""
        return settings.connect_params(merged)


def _renew_lock() -> None:
    global _lock
    _lock = Lock()  # a thread that does not exist in the child may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
