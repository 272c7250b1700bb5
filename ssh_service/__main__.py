"""``python -m ssh_service``: the demonstration."""

from __future__ import annotations

import sys

_USAGE = """\
usage: python -m ssh_service demo [--host [USER@]HOST[:PORT]] [--key FILE] [--host-key POLICY]

demo    show what the library does, step by step, without a server or on one
"""


def main() -> int:
    """
    Run the command that was asked for.

    Returns
    -------
    int
        The exit status: 0 all well, 1 it failed, 2 usage, 130 interrupted.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] != "demo":
        print(f"there is no command {arguments[0]!r}\n{_USAGE}", end="", file=sys.stderr)
        return 2
    try:
        from ssh_service.demo import main as demo
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ssh_service"):
            raise
        print(f"{error}; install it with: pip install 'ssh-service[demo]'", file=sys.stderr)
        return 2
    return demo(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
