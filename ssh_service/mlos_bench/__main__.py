"""``python -m ssh_service.mlos_bench``: the command ``mlos_bench``, with these services."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any, Callable

from ssh_service.mlos_bench import install
from ssh_service.services import host_api

_NAME = "python -m ssh_service.mlos_bench"


def main() -> Any:
    """Run mlos_bench's command; return its result, or a message about invalid settings."""
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
    raise ImportError("the installed mlos_bench has no console script mlos_bench.")


try:
    install()  # also in processes that multiprocessing spawns: they may load configs
except ImportError as exc:
    sys.exit(f"{_NAME}: {exc}")

if __name__ == "__main__":
    sys.exit(main())
