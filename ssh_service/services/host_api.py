"""
The adapter to mlos_bench, which selects the source of `Service`, `FileShareService` and `Status`.

mlos_bench requires subclasses of its own services and members of its own `Status`.  If it is
installed, our services are therefore built on its classes; otherwise, or with the environment
variable ``SSH_SERVICE_STANDALONE=1``, on those of `base_service`.  If mlos_bench is installed but
cannot be imported, this is an error, and the base classes never change silently.

Attributes
----------
InvalidConfig : Type[SshConfigError]
    The error that constructors raise for an invalid config; with mlos_bench, it is also a
    `jsonschema.ValidationError`, which callers of mlos_bench expect.
SCHEMA_IS_CHECKED : bool
    False if mlos_bench's own switch, ``MLOS_BENCH_SKIP_SCHEMA_VALIDATION``, allows unknown
    settings.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Tuple, Type

from ssh_service.errors import SshConfigError

__all__ = [
    "FileShareService",
    "InvalidConfig",
    "SCHEMA_IS_CHECKED",
    "STANDALONE_VARIABLE",
    "Service",
    "Status",
]

STANDALONE_VARIABLE = "SSH_SERVICE_STANDALONE"
_VALIDATION_VARIABLE = "MLOS_BENCH_SKIP_SCHEMA_VALIDATION"  # a variable of mlos_bench
_LOG = logging.getLogger(__name__)


def _is_set(variable: str) -> bool:
    # in the same way as mlos_bench reads its own variables
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "y", "yes", "on"}


def _use_mlos_bench() -> bool:
    if _is_set(STANDALONE_VARIABLE):
        return False
    try:
        import mlos_bench  # noqa: F401
    except ModuleNotFoundError as exc:
        if exc.name == "mlos_bench":
            return False
        raise
    return True


if TYPE_CHECKING:  # type checkers always see the bundled classes
    from ssh_service.services.base_service import FileShareService, Service, Status

    InvalidConfig: Type[SshConfigError]
    SCHEMA_IS_CHECKED: bool
else:
    try:
        if _use_mlos_bench():
            from jsonschema.exceptions import ValidationError
            from mlos_bench.environments.status import Status
            from mlos_bench.services.base_fileshare import FileShareService
            from mlos_bench.services.base_service import Service

            class InvalidConfig(SshConfigError, ValidationError):
                """An invalid config: this package's and mlos_bench's error in one class."""

                def __init__(self, message: str = "") -> None:
                    ValidationError.__init__(self, message)
                    SshConfigError.__init__(self, message)

                def __reduce__(self) -> Tuple[Any, ...]:
                    return type(self), (self.message,)

            SCHEMA_IS_CHECKED = not _is_set(_VALIDATION_VARIABLE)
        else:
            from ssh_service.services.base_service import FileShareService, Service, Status

            InvalidConfig = SshConfigError
            SCHEMA_IS_CHECKED = True
    except Exception as exc:
        raise ImportError(
            f"mlos_bench is installed but cannot be used ({type(exc).__name__}: {exc}). Repair "
            "it (pip install mlos_bench pytz), or set "
            f"{STANDALONE_VARIABLE}=1 to run without it."
        ) from exc

    _LOG.debug("Services are built on %s.%s.", Service.__module__, Service.__name__)
