"""
What the SSH services have in common.

`SshClient` and `SshClientCache` can be imported from here too, as from the module of mlos_bench
that has this name.
"""

from __future__ import annotations

import os
import threading
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
from ssh_service.services import host_api, settings
from ssh_service.services.host_api import Service

if TYPE_CHECKING:
    from ssh_service.services.base_service import Methods

__all__ = ["SshClient", "SshClientCache", "SshService"]

_Self = TypeVar("_Self", bound="SshService")

# A call may override these always, and others only where the service's config holds them.
_OVERRIDABLE = ("ssh_port", "ssh_username", "ssh_priv_key_path")

_lock = threading.Lock()  # never held across a call of anything that could wait


class SshService(Service, metaclass=ABCMeta):
    """
    The base of the SSH services: settings, and the process's one cache of connections.

    Parameters
    ----------
    config : Optional[dict]
        Settings, see `ssh_service.services.settings`.  The dict is copied.
    global_config : Optional[dict]
        See `Service`.
    parent : Optional[Service]
        See `Service`.
    methods : Union[Dict[str, Callable], List[Callable], None]
        See `Service`.

    Raises
    ------
    SshConfigError
        If a setting is unknown or has a value it may not have; under mlos_bench the error is a
        `jsonschema.ValidationError` as well.

    Notes
    -----
    Thread safety.  In its context, a service's methods may be called from any thread.

    Guarantees.  All services share one cache, so one connection to each destination; it lives
    while any of them is in its context.  Outside its own context a service refuses to work, at
    once.  A service is pickled as its config, and is in no context afterwards.
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
        # The process for which this service keeps the cache alive.
        self._leased_by: Optional[int] = None  # guarded by _lock
        super().__init__(settings.plain(config), global_config, parent, methods)
        for name in _OVERRIDABLE:
            self.config.setdefault(name, None)

    def __reduce__(self) -> Tuple[Any, ...]:
        # without the nulls that __init__ added
        config = {k: v for k, v in self.config.items() if v is not None or k not in _OVERRIDABLE}
        return type(self), (config,)

    @classmethod
    def clear_client_cache(cls) -> None:
        """
        Close all cached connections.

        What is in flight on them ends with an error, at once; what comes next connects anew.
        """
        cls._CLIENT_CACHE.cleanup()

    @classmethod
    def client_cache(cls) -> SshClientCache:
        """
        Return the cache that all services share.

        Returns
        -------
        SshClientCache
            To ask it for `SshClientCache.stats`, or to `SshClientCache.subscribe` to events.
        """
        return cls._CLIENT_CACHE

    @classmethod
    def _known_settings(cls) -> Dict[str, settings.Setting]:
        known: Dict[str, settings.Setting] = {}
        for base in reversed(cls.__mro__):
            known.update(vars(base).get("_SETTINGS", {}))
        return known

    def _validate_json_config(self, config: Dict[str, Any]) -> None:
        # mlos_bench's own check knows its own classes only, by name, and would refuse this one.
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

    # A service without exported methods is entered by mlos_bench without a call of
    # _enter_context; so both ways in take the lease, and both ways out give it back.

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
        self._take_lease()  # does nothing but in a child forked inside the context

    def _merge(self, call: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
        """
        Put a call's parameters over the service's config.

        Parameters
        ----------
        call : Optional[Mapping[str, Any]]
            The call's.  Only ``ssh_hostname`` and what the config holds is taken, but never
            ``ssh_request_timeout``; the rest may be anything.

        Returns
        -------
        Dict[str, Any]
            A new dict.

        Raises
        ------
        SshConfigError
            If the host is missing or a value is not what its setting may be.
        """
        if call is not None and not isinstance(call, Mapping):
            raise SshConfigError(f"config: expected a mapping, got {type(call).__name__}")
        given = {
            name: value
            for name, value in (call or {}).items()
            if name in self.config or name == "ssh_hostname"
        }
        given.pop("ssh_request_timeout", None)
        if given.get("ssh_port", 0) is None:  # stands for the service's
            del given["ssh_port"]
        if given.get("ssh_hostname") is None:
            raise SshConfigError("Missing required parameter: ssh_hostname")
        known = {**self._known_settings(), **settings.PER_CALL}
        found = settings.problems(given, known, allow_unknown=True)
        if found:
            raise SshConfigError("; ".join(found))
        return {**self.config, **given}

    def _connect_params(self, merged: Mapping[str, Any]) -> Dict[str, Any]:
        """
        Translate merged settings for the engine.

        Parameters
        ----------
        merged : Mapping[str, Any]
            What `_merge` returned.

        Returns
        -------
        Dict[str, Any]
            The engine's connection parameters.
        """
        return settings.connect_params(merged)


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()  # a thread the child does not have may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
