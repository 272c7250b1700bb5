"""The subcommand ``run``."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import click

from ssh_service.cli.options import HOST_OPTIONS, RUN_CONTEXT, add_options

__all__ = ["run_command"]


class _RunCommand(click.Command):
    """A command line that ends with the words of a remote command."""

    def parse_args(self, ctx: click.Context, args: List[str]) -> List[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        words = list(ctx.params.get("command") or ())
        options = given[: len(given) - len(words)]
        # click removes a `--` before the words, and keeps one between them.
        if "--" in words and options[-1:] != ["--"] and _ends_with_host(options):
            extra = words[: words.index("--")]
            hosts = " ".join(f"-H {word}" for word in extra)
            raise click.UsageError(
                f"{' '.join(extra)!r} stands between the options and '--': each host needs its own"
                f" -H ({hosts}); if it belongs to the command, write '--' before it, too",
                ctx,
            )
        return rest


def _ends_with_host(options: List[str]) -> bool:
    last, before = options[-1:], options[-2:-1]
    return before in (["-H"], ["--host"]) or any(
        word.startswith("--host=") or (word.startswith("-H") and len(word) > 2) for word in last
    )


@click.command("run", cls=_RunCommand, context_settings=RUN_CONTEXT)
@add_options(HOST_OPTIONS)
@click.option(
    "-o",
    "--output-dir",
    metavar="DIR",
    type=click.Path(),
    help="Write each host's output to DIR/HOST.stdout and DIR/HOST.stderr, and the reason for a"
    " failure to DIR/HOST.error.  Files of an earlier run are removed first.",
)
@click.option(
    "--cwd",
    metavar="DIR",
    help="The folder on the host to run in; default: the home directory.  Where it is missing,"
    " nothing is run.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_command(command: Tuple[str, ...], output_dir: Optional[str], **options: Any) -> int:
    """
    Run a command on every host.

    The words of COMMAND are joined by spaces and run by the user's login shell on the host; quote
    what your own shell must not expand.  The command's standard input is empty.

    \b
    ssh-service run -H 'web[01-40]' -- uptime
    ssh-service run -f hosts.txt --json -- 'df -P / | tail -1' | jq -r '[.host, .stdout] | @tsv'
    ssh-service run -H db1 -H db2 -o logs -- journalctl -b
    """  # noqa: D301
    from ssh_service.cli import work

    return work.run(" ".join(command), output_dir, **options)
