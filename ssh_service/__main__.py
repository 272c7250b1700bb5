"""``python -m ssh_service``, which is also ``ssh-service``."""

from __future__ import annotations

import sys
import warnings

from ssh_service import cli


def main() -> int:
    """Run the command that was asked for, and return the exit status of `ssh_service.cli.main`."""
    arguments = sys.argv[1:]
    if arguments[:1] != ["demo"]:
        return cli.main(arguments)
    # The demonstration needs rich but not click.
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those between other packages do not concern users
    from ssh_service import demo

    return demo.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
