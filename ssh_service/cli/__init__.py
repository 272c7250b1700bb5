"""
The command line, ``ssh-service``; it needs the extra ``cli``.

Nothing of the library itself is loaded before a command needs it, so that help is quick.
"""

from __future__ import annotations

import sys
import warnings
from typing import List, Optional

__all__ = ["main"]


def main(arguments: Optional[List[str]] = None) -> int:
    """
    Run a command line.

    Parameters
    ----------
    arguments : Optional[List[str]]
        Without the program's name; None takes those of the process.

    Returns
    -------
    int
        The exit status: 0 all well, 1 some failed, 2 usage, 130 interrupted.
    """
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        print(
            f"ssh-service: {error}; install it with: pip install 'ssh-service[cli]'",
            file=sys.stderr,
        )
        return 2
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of other packages about each other, no user's concern
    from ssh_service.cli.app import run

    return run(sys.argv[1:] if arguments is None else arguments)
