"""
The command line, ``ssh-service``; it needs the extra ``cli``.

The library itself is imported only if a command needs it, so that ``--help`` is fast.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import List, Optional

__all__ = ["main"]

# Shown if click, which generates the complete help, is missing.
_HELP = """\
Usage: ssh-service COMMAND [ARGS]...

Run commands on many hosts at once, and copy to and from them, over SSH.

Commands:
  run         Run a command on every host.
  upload      Copy a file or folder to every host.
  download    Copy a file or folder from every host.
  job         Run commands that outlive the connection and this program.
  forward     Forward ports and Unix sockets over a host, until Ctrl-C.
  shell       Open a shell on a host, or run a command in a terminal there.
  hosts       Print what ranges, files and aliases stand for.
  bench       Measure a host.
  completion  Print a script for shell completion.
  man         Print the manual page.
  demo        Watch the library work, without a server.

The commands and their options need click and rich.
"""
_INSTALL = "pip install 'click>=8.1' 'rich>=13' (in a checkout: pip install '.[cli]')"


def main(arguments: Optional[List[str]] = None) -> int:
    """Run a command line, and return 0 (success), 1 (failures), 2 (usage) or 130 (interrupted)."""
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # while modules are loaded: started work ends by itself
        print("ssh-service: interrupted", file=sys.stderr)
        return 130


def _main(arguments: List[str]) -> int:
    _replace_closed_streams()
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        if arguments[:1] in (["-h"], ["--help"]):
            print(f"{_HELP}Install them with: {_INSTALL}")
            return 0
        if arguments[:1] == ["--version"]:
            import ssh_service

            print(f"ssh-service {ssh_service.__version__}")
            return 0
        print(f"ssh-service: {error}; install it with: {_INSTALL}", file=sys.stderr)
        return 2
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # warnings between other packages do not concern users
    from ssh_service.cli.app import run

    return run(arguments)


def _replace_closed_streams() -> None:
    """Open ``/dev/null`` for standard streams that are closed (``>&-``), as sshd and ssh do."""
    # Otherwise, a connection could get the stream's descriptor, and receive printed text.
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, closefd=False))
