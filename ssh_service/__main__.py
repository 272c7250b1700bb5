"""``python -m ssh_service``, which is also ``ssh-service``."""

from __future__ import annotations

import sys
import warnings
from typing import List

from ssh_service import cli


def main() -> int:
    """
    Run the command that was asked for.

    Returns
    -------
    int
        The exit status: 0 success, 1 some failed, 2 usage, 130 interrupted.
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
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of other packages about each other, no user's concern
    from ssh_service.demo import main as demonstrate

    return demonstrate(arguments)


if __name__ == "__main__":
    sys.exit(main())
