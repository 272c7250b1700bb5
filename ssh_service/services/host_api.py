"""
The adapter to mlos_bench: where `Service`, `FileShareService` and `Status` come from.

mlos_bench requires subclasses of its own services and members of its own `Status`.  So our
services are built on its classes if it is installed; otherwise, or with the environment variable
``SSH_SERVICE_STANDALONE=1``, on those of `base_service`.  An mlos_bench that is installed but
broken is an error, never a silent change of base classes.

Attributes
----------
InvalidConfig : Type[SshConfigError]
    The error that a constructor raises for an invalid config; with mlos_bench it is also a
    `jsonschema.ValidationError`, which callers there expect.
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
_VALIDATION_VARIABLE = "MLOS_BENCH_SKIP_SCHEMA_VALIDATION"  # mlos_bench's own
_LOG = logging.getLogger(__name__)


def _is_set(variable: str) -> bool:
    # as mlos_bench reads its own switches
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


if TYPE_CHECKING:  # both worlds are checked against the bundled classes
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
                """An invalid config: the error of this package and of mlos_bench in one."""

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
