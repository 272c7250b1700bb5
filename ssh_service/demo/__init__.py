"""
A demonstration of the library, in a few seconds; each step checks what it shows.

Without arguments it needs no server: two run inside the process.  This module only parses the
command line, so that ``--help`` is fast; the steps are in `ssh_service.demo.steps`.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import List, NoReturn, Optional

from ssh_service.cli.output import flush_or_drop

__all__ = ["main"]


def _command_name() -> str:
    """Return the command that was typed, for messages."""
    is_script = os.path.basename(sys.argv[0]) == "ssh-service"
    return "ssh-service demo" if is_script else "python -m ssh_service demo"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    """Parse the command line."""
    parser = _Parser(
        prog=_command_name(),
        description="Show what ssh_service does, step by step, in a few seconds.",
        epilog="Without --host no server is needed: two run inside the process, on 127.0.0.1."
        "  On a server of yours it runs small commands (echo, sleep, cat) and a job, copies 4 MB"
        " to a temporary folder and back, connects to its SSH port through a forward, and removes"
        " what it made.  Exit status: 0 every check passed, 1 one failed, 2 wrong usage or no"
        " connection, 130 interrupted.",
    )
    parser.add_argument(
        "--host",
        metavar="[USER@]HOST[:PORT]",
        help="use a server of yours; may be an alias in your ssh_config",
    )
    parser.add_argument("--key", metavar="FILE", help="the private key to log in with")
    parser.add_argument(
        "--host-key",
        choices=("strict", "accept-new", "off"),
        help="how to check the server's key with your known_hosts; accept-new records a new one"
        " (default: what your ssh_config says, else strict)",
    )
    options = parser.parse_args(arguments)
    if options.host is None and (options.key or options.host_key):
        parser.error("--key and --host-key need --host")
    return options


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the demonstration, and return its exit status."""
    try:
        return _run(parse(arguments))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except OSError as error:  # of standard output; the steps report their own
        if not isinstance(error, BrokenPipeError):
            print(f"{_command_name()}: cannot write the output: {error.strerror}", file=sys.stderr)
        return 1
    finally:
        flush_or_drop()


def _run(options: argparse.Namespace) -> int:
    try:
        from ssh_service.demo.program import run

        if options.host is None:
            import ssh_service.testing.mock_sshd  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ssh_service"):
            raise
        print(
            f"{_command_name()}: No module named {error.name!r}; install it with: pip install"
            " mock-ssh-server 'rich>=13' (in a checkout: pip install '.[demo]')",
            file=sys.stderr,
        )
        return 2
    return run(options.host, options.key, options.host_key, command_name=_command_name())
