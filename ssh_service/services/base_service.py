"""
`Service`, `FileShareService` and `Status` for a process without mlos_bench.

They have those members of mlos_bench's classes of the same names that our services and their users
need.  `host_api` selects the classes that a process uses.
"""

from __future__ import annotations

import enum
import importlib
import json
import logging
from abc import ABCMeta, abstractmethod
from types import TracebackType
from typing import Any, Callable, Dict, FrozenSet, List, Literal, Optional, Type, TypeVar, Union

__all__ = ["FileShareService", "Methods", "Service", "Status"]

_LOG = logging.getLogger(__name__)

_Self = TypeVar("_Self", bound="Service")

Methods = Union[Dict[str, Callable[..., Any]], List[Callable[..., Any]]]
"""The methods that a service exports: a list, or a dict by name."""


class Status(enum.Enum):
    """The status of an operation."""

    UNKNOWN = 0
    PENDING = 1
    READY = 2
    RUNNING = 3
    SUCCEEDED = 4
    CANCELED = 5
    FAILED = 6
    TIMED_OUT = 7

    @staticmethod
    def parse(status: Any) -> Status:
        """
        Convert a value to a status.

        Parameters
        ----------
        status : Any
            A status, its name in any case, or its number (an int or digits).

        Returns
        -------
        Status
            The status; UNKNOWN, with a warning in the log, if the value is not a status.
        """
        if isinstance(status, Status):
            return status
        text = str(status).strip().upper()
        by_number = {str(member.value): member for member in Status}
        found = Status.__members__.get(text) or by_number.get(text)
        if found is None:
            _LOG.warning("Unknown status: %s", status)
        return found or Status.UNKNOWN

    @staticmethod
    def completed_statuses() -> FrozenSet[Status]:
        """Return the statuses of operations that have ended, successfully or not."""
        return _COMPLETED

    def is_good(self) -> bool:
        """Return whether no failure has occurred so far."""
        return self in {Status.PENDING, Status.READY, Status.RUNNING, Status.SUCCEEDED}

    def is_completed(self) -> bool:
        """Return whether the operation has ended, successfully or not."""
        return self in _COMPLETED

    def is_pending(self) -> bool:
        """Return whether this is PENDING."""
        return self is Status.PENDING

    def is_ready(self) -> bool:
        """Return whether this is READY."""
        return self is Status.READY

    def is_running(self) -> bool:
        """Return whether this is RUNNING."""
        return self is Status.RUNNING

    def is_succeeded(self) -> bool:
        """Return whether this is SUCCEEDED."""
        return self is Status.SUCCEEDED

    def is_failed(self) -> bool:
        """Return whether this is FAILED."""
        return self is Status.FAILED

    def is_canceled(self) -> bool:
        """Return whether this is CANCELED."""
        return self is Status.CANCELED

    def is_timed_out(self) -> bool:
        """Return whether this is TIMED_OUT (mlos_bench 0.6.2 tests for FAILED here)."""
        return self is Status.TIMED_OUT


_COMPLETED = frozenset({Status.SUCCEEDED, Status.CANCELED, Status.FAILED, Status.TIMED_OUT})


class Service:
    """
    A provider of methods, which work while it is in its context (a ``with`` block).

    A plain `Service` combines other services: `register` adds their methods to its own.  Entering
    its context enters those services too.

    Parameters
    ----------
    config : Optional[dict]
        The service's settings.
    global_config : Optional[dict]
        Settings of the whole process; ignored by the services of this package.
    parent : Optional[Service]
        A service whose methods this service also exports.
    methods : Union[Dict[str, Callable], List[Callable], None]
        The methods that this service exports.

    Notes
    -----
    Thread safety.  Registering methods, then entering and leaving the context, must happen on one
    thread.  The thread safety of the methods depends on the service.
    """

    @classmethod
    def new(
        cls,
        class_name: str,
        config: Optional[Dict[str, Any]] = None,
        global_config: Optional[Dict[str, Any]] = None,
        parent: Optional[Service] = None,
    ) -> Service:
        """
        Create a service from the name of its class.

        Parameters
        ----------
        class_name : str
            Module and class, such as ``ssh_service.SshHostService``.
        config : Optional[dict]
            The service's settings.
        global_config : Optional[dict]
            Settings of the whole process.
        parent : Optional[Service]
            A service whose methods the new service also exports.

        Returns
        -------
        Service
            The new service.

        Raises
        ------
        TypeError
            If the class is not a subclass of the class that this method was called on.
        """
        module_name, _, name = class_name.rpartition(".")
        service_class = getattr(importlib.import_module(module_name), name)
        if not (isinstance(service_class, type) and issubclass(service_class, cls)):
            raise TypeError(f"{class_name} is not a subclass of {cls.__name__}")
        return service_class(config, global_config, parent)

    def __init__(
        self,
        config: Optional[Dict[str, Any]] = None,
        global_config: Optional[Dict[str, Any]] = None,
        parent: Optional[Service] = None,
        methods: Optional[Methods] = None,
    ) -> None:
        self.config: Dict[str, Any] = config or {}
        self._validate_json_config(self.config)
        self._parent = parent
        self._service_methods: Dict[str, Callable[..., Any]] = {}
        self._services: List[Service] = []
        self._service_contexts: List[Service] = []
        self._in_context = False
        if parent:
            self.register(parent.export())
        if methods:
            self.register(methods)
        if _LOG.isEnabledFor(logging.DEBUG):
            _LOG.debug("%r config: %s", self, json.dumps(self.config, default=str))

    @staticmethod
    def merge_methods(ext_methods: Optional[Methods], local_methods: Methods) -> Methods:
        """
        Merge a service's own methods with those passed to its constructor.

        Parameters
        ----------
        ext_methods : Union[Dict[str, Callable], List[Callable], None]
            The methods passed to the constructor; these take precedence.
        local_methods : Union[Dict[str, Callable], List[Callable]]
            The service's own methods.

        Returns
        -------
        Dict[str, Callable]
            A new dict of methods by name.
        """
        return {**_by_name(local_methods), **_by_name(ext_methods or {})}

    def __enter__(self: _Self) -> _Self:
        if self._in_context:  # allowed, because environments share services
            if not self._service_contexts and self._services:
                raise RuntimeError(f"{self!r} was entered by another service that uses it.")
            return self
        entered: List[Service] = []
        try:
            for service in self._services:
                entered.append(service._enter_context())
        except BaseException:
            for service in reversed(entered):
                service._exit_context(None, None, None)
            raise
        self._service_contexts = entered
        self._in_context = True
        return self

    def __exit__(
        self,
        ex_type: Optional[Type[BaseException]],
        ex_val: Optional[BaseException],
        ex_tb: Optional[TracebackType],
    ) -> Literal[False]:
        if not self._in_context:  # an inner `with` block has already left the context
            return False
        contexts, self._service_contexts = self._service_contexts, []
        failure: Optional[Exception] = None
        for service in reversed(contexts):
            try:
                service._exit_context(ex_type, ex_val, ex_tb)
            except Exception as exc:  # leave the other contexts as well
                _LOG.error("%r: leaving its context failed: %s", service, exc)
                failure = exc
        self._in_context = False
        if failure:
            raise failure
        return False

    def _enter_context(self: _Self) -> _Self:
        """
        Enter the context of this service only; subclasses extend it.

        `__enter__` calls this for each service whose methods are registered.
        """
        if self._in_context:
            raise RuntimeError(f"{self!r} is in its context already.")
        self._in_context = True
        return self

    def _exit_context(
        self,
        ex_type: Optional[Type[BaseException]],
        ex_val: Optional[BaseException],
        ex_tb: Optional[TracebackType],
    ) -> Literal[False]:
        """
        Leave the context of this service only; subclasses extend it.

        The arguments and the result are those of `__exit__`.
        """
        if not self._in_context:
            raise RuntimeError(f"{self!r} is not in its context.")
        self._in_context = False
        return False

    def _validate_json_config(self, config: Dict[str, Any]) -> None:
        """Raise an error if the constructor's config is invalid; subclasses extend it."""

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}@{hex(id(self))}"

    def pprint(self) -> str:
        """
        Return a human-readable list of the service's methods.

        Returns
        -------
        str
            A line for the service and one for each method.
        """
        return f"{self} ::\n" + "\n".join(
            f'  "{name}": {getattr(method, "__self__", "stand-alone")}'
            for name, method in self._service_methods.items()
        )

    def register(self, services: Methods) -> None:
        """
        Export additional methods; later ones replace earlier ones of the same name.

        Parameters
        ----------
        services : Union[Dict[str, Callable], List[Callable]]
            The methods; a dict gives each its name.
        """
        if self._in_context:
            raise RuntimeError(f"{self!r} is in its context: register methods before entering.")
        self._service_methods.update(_by_name(services))
        self.__dict__.update(self._service_methods)
        owners = (getattr(method, "__self__", None) for method in self._service_methods.values())
        self._services = list(dict.fromkeys(o for o in owners if isinstance(o, Service)))

    def export(self) -> Dict[str, Callable[..., Any]]:
        """
        Return the methods that this service exports.

        Returns
        -------
        Dict[str, Callable]
            The methods by name.
        """
        return self._service_methods


class FileShareService(Service, metaclass=ABCMeta):
    """
    A service that copies files to and from a remote share.

    Parameters
    ----------
    config : Optional[dict]
        The service's settings.
    global_config : Optional[dict]
        Ignored.
    parent : Optional[Service]
        A service whose methods this service also exports.
    methods : Union[Dict[str, Callable], List[Callable], None]
        Methods to export in addition to `upload` and `download`.
    """

    def __init__(
        self,
        config: Optional[Dict[str, Any]] = None,
        global_config: Optional[Dict[str, Any]] = None,
        parent: Optional[Service] = None,
        methods: Optional[Methods] = None,
    ) -> None:
        own: Methods = [self.upload, self.download]
        super().__init__(config, global_config, parent, self.merge_methods(methods, own))

    @abstractmethod
    def download(
        self, params: Dict[str, Any], remote_path: str, local_path: str, recursive: bool = True
    ) -> None:
        """
        Copy a remote file or folder to this machine.

        Parameters
        ----------
        params : dict
            The parameters of the share.
        remote_path : str
            The file or folder to copy.
        local_path : str
            The target of the copy.
        recursive : bool
            Whether `remote_path` may be a folder.
        """

    @abstractmethod
    def upload(
        self, params: Dict[str, Any], local_path: str, remote_path: str, recursive: bool = True
    ) -> None:
        """
        Copy a local file or folder to the share.

        Parameters
        ----------
        params : dict
            The parameters of the share.
        local_path : str
            The file or folder to copy.
        remote_path : str
            The target of the copy.
        recursive : bool
            Whether `local_path` may be a folder.
        """


def _by_name(methods: Methods) -> Dict[str, Callable[..., Any]]:
    if isinstance(methods, dict):
        return methods
    return {method.__name__: method for method in methods}
