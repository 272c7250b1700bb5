"""``python -m ssh_service``, which is also ``ssh-service``."""

from __future__ import annotations

import sys
from typing import List

from ssh_service import cli


def main() -> int:
    """
    Run the command that was asked for.

    Returns
    -------
    int
        The exit status: 0 all well, 1 some failed, 2 usage, 130 interrupted.
    """
    arguments = sys.argv[1:]
    if arguments[:1] == ["demo"]:  # needs neither click nor the rest
        return demo(arguments[1:])
    return cli.main(arguments)


def demo(arguments: List[str]) -> int:
    """
    Run the demonstration.

    Parameters
    ----------
    arguments : List[str]
        Its own.

    Returns
    -------
    int
        The exit status.
    """
    try:
        from ssh_service.demo import main as demonstrate
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ssh_service"):
            raise
        print(f"{error}; install it with: pip install 'ssh-service[demo]'", file=sys.stderr)
        return 2
    return demonstrate(arguments)


if __name__ == "__main__":
    sys.exit(main())
