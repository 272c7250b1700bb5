"""``python -m ssh_service.mlos_bench``: the command ``mlos_bench``, with these services."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any, Callable

from ssh_service.mlos_bench import install
from ssh_service.services import host_api

_NAME = "python -m ssh_service.mlos_bench"


def main() -> Any:
    """Run the command that the installed mlos_bench declares."""
    from ssh_service.mlos_bench.schemas import WrongServiceSettings  # needs mlos_bench

    sys.argv[0] = _NAME  # for the usage message
    try:
        return _command()()
    except host_api.InvalidConfig as exc:
        return f"{_NAME}: {exc}"
    except ValueError as exc:
        if not isinstance(exc.__cause__, WrongServiceSettings):
            raise
        return f"{_NAME}: {str(exc).partition(' against ')[0]}: {exc.__cause__}"


def _command() -> Callable[[], Any]:
    for entry_point in metadata.distribution("mlos_bench").entry_points:
        if (entry_point.group, entry_point.name) == ("console_scripts", "mlos_bench"):
            command: Callable[[], Any] = entry_point.load()
            return command
    raise ImportError("the installed mlos_bench declares no command mlos_bench.")


try:
    install()  # also in a process that is spawned by this one, for the configs it may load
except ImportError as exc:
    sys.exit(f"{_NAME}: {exc}")

if __name__ == "__main__":
    sys.exit(main())
