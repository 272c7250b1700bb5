"""
Service, FileShareService and Status for a process without mlos_bench.

They mirror the members of mlos_bench's classes of the same names that our services, and the
people who use them, rely on.  `host_api` decides which of the two a process gets.
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
"""What a service offers to others: functions, or a name for each of them."""


class Status(enum.Enum):
    """How an operation stands."""

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
            The status; UNKNOWN, with a warning in the log, if there is no such status.
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
        """Return the statuses of operations that are over, well or not."""
        return _COMPLETED

    def is_good(self) -> bool:
        """Tell whether nothing has gone wrong so far."""
        return self in {Status.PENDING, Status.READY, Status.RUNNING, Status.SUCCEEDED}

    def is_completed(self) -> bool:
        """Tell whether the operation is over, well or not."""
        return self in _COMPLETED

    def is_pending(self) -> bool:
        """Tell whether this is PENDING."""
        return self is Status.PENDING

    def is_ready(self) -> bool:
        """Tell whether this is READY."""
        return self is Status.READY

    def is_running(self) -> bool:
        """Tell whether this is RUNNING."""
        return self is Status.RUNNING

    def is_succeeded(self) -> bool:
        """Tell whether this is SUCCEEDED."""
        return self is Status.SUCCEEDED

    def is_failed(self) -> bool:
        """Tell whether this is FAILED."""
        return self is Status.FAILED

    def is_canceled(self) -> bool:
        """Tell whether this is CANCELED."""
        return self is Status.CANCELED

    def is_timed_out(self) -> bool:
        """Tell whether this is TIMED_OUT (mlos_bench 0.6.2 answers for FAILED here)."""
        return self is Status.TIMED_OUT


_COMPLETED = frozenset({Status.SUCCEEDED, Status.CANCELED, Status.FAILED, Status.TIMED_OUT})


class Service:
    """
    Something with methods to lend, and a context in which they work.

    A bare `Service` is a mix-in: register the methods of others with it, and they become its
    own; enter it, and the services those methods belong to are entered with it.

    Parameters
    ----------
    config : Optional[dict]
        The service's settings.
    global_config : Optional[dict]
        Settings of the whole process; kept by no service of this package.
    parent : Optional[Service]
        A service whose methods this one offers as well.
    methods : Union[Dict[str, Callable], List[Callable], None]
        The methods this service offers.

    Notes
    -----
    Thread safety.  Register first, then enter, from one thread; what the methods themselves
    allow is theirs to say.
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
        Make a service from the name of its class.

        Parameters
        ----------
        class_name : str
            Module and class, such as ``ssh_service.SshHostService``.
        config : Optional[dict]
            See the class.
        global_config : Optional[dict]
            See the class.
        parent : Optional[Service]
            See the class.

        Returns
        -------
        Service
            The new service.

        Raises
        ------
        TypeError
            If that class is no subclass of the one this was called on.
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
        Join a service's own methods with those its creator gave.

        Parameters
        ----------
        ext_methods : Union[Dict[str, Callable], List[Callable], None]
            The creator's; they win.
        local_methods : Union[Dict[str, Callable], List[Callable]]
            The service's own.

        Returns
        -------
        Dict[str, Callable]
            A new dict, by name.
        """
        return {**_by_name(local_methods), **_by_name(ext_methods or {})}

    def __enter__(self: _Self) -> _Self:
        if self._in_context:  # environments share services: entering twice is allowed
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
        if not self._in_context:  # left already by an inner `with`
            return False
        contexts, self._service_contexts = self._service_contexts, []
        failure: Optional[Exception] = None
        for service in reversed(contexts):
            try:
                service._exit_context(ex_type, ex_val, ex_tb)
            except Exception as exc:  # the others must be left too
                _LOG.error("%r: leaving its context failed: %s", service, exc)
                failure = exc
        self._in_context = False
        if failure:
            raise failure
        return False

    def _enter_context(self: _Self) -> _Self:
        """
        Enter this one service's context.

        Subclasses extend it; `__enter__` calls it for each service whose methods are registered.

        Returns
        -------
        Service
            The service itself.
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
        Leave this one service's context.

        Parameters
        ----------
        ex_type : Optional[Type[BaseException]]
            As `__exit__` gets it.
        ex_val : Optional[BaseException]
            As `__exit__` gets it.
        ex_tb : Optional[TracebackType]
            As `__exit__` gets it.

        Returns
        -------
        bool
            False: exceptions pass.
        """
        if not self._in_context:
            raise RuntimeError(f"{self!r} is not in its context.")
        self._in_context = False
        return False

    def _validate_json_config(self, config: Dict[str, Any]) -> None:
        """
        Refuse a config that is wrong; subclasses extend it.

        Parameters
        ----------
        config : dict
            What the constructor was given.
        """

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}@{hex(id(self))}"

    def pprint(self) -> str:
        """
        List the service's methods, for people.

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
        Offer more methods; those registered later win.

        Parameters
        ----------
        services : Union[Dict[str, Callable], List[Callable]]
            The methods, or a name for each of them.
        """
        if self._in_context:
            raise RuntimeError(f"{self!r} is in its context: register methods before entering.")
        self._service_methods.update(_by_name(services))
        self.__dict__.update(self._service_methods)
        owners = (getattr(method, "__self__", None) for method in self._service_methods.values())
        self._services = list(dict.fromkeys(o for o in owners if isinstance(o, Service)))

    def export(self) -> Dict[str, Callable[..., Any]]:
        """
        Give the methods this service offers.

        Returns
        -------
        Dict[str, Callable]
            The methods by name.
        """
        return self._service_methods


class FileShareService(Service, metaclass=ABCMeta):
    """
    A service that copies files to and from somewhere else.

    Parameters
    ----------
    config : Optional[dict]
        See `Service`.
    global_config : Optional[dict]
        See `Service`.
    parent : Optional[Service]
        See `Service`.
    methods : Union[Dict[str, Callable], List[Callable], None]
        Methods to offer beside `upload` and `download`.
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
        Copy a remote file or folder here.

        Parameters
        ----------
        params : dict
            Where the share is.
        remote_path : str
            The file or folder to copy.
        local_path : str
            Where it goes.
        recursive : bool
            Whether `remote_path` may be a folder.
        """

    @abstractmethod
    def upload(
        self, params: Dict[str, Any], local_path: str, remote_path: str, recursive: bool = True
    ) -> None:
        """
        Copy a local file or folder there.

        Parameters
        ----------
        params : dict
            Where the share is.
        local_path : str
            The file or folder to copy.
        remote_path : str
            Where it goes.
        recursive : bool
            Whether `local_path` may be a folder.
        """


def _by_name(methods: Methods) -> Dict[str, Callable[..., Any]]:
    if isinstance(methods, dict):
        return methods
    return {method.__name__: method for method in methods}
