"""The subcommands ``demo``, ``bench``, ``completion`` and ``man``."""

from __future__ import annotations

from typing import Any, Tuple

import click

from ssh_service.cli import completion
from ssh_service.cli.options import CONNECTION_OPTIONS, CONTEXT, Count, add_options

__all__ = ["bench_command", "completion_command", "demo_command", "man_command"]


@click.command(
    "demo",
    context_settings={**CONTEXT, "ignore_unknown_options": True},
    add_help_option=False,
    short_help="Watch the library work, without a server.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo_command(arguments: Tuple[str, ...]) -> int:
    """
    Watch the library work, without a server or on one of yours (needs the extra demo).

    For a server of yours it has the options --host, --key and --host-key: see `ssh-service demo
    --help`.
    """
    from ssh_service import demo

    return demo.main(list(arguments))


@click.command("bench", context_settings=CONTEXT, short_help="Measure a host.")
@click.option(
    "-H", "--host", metavar="[USER@]HOST[:PORT]",
    help="The host.  Without it, in a checkout: compare this package with others, on loopback.",
)  # fmt: skip
@click.option(
    "-c", "--commands", "count", type=Count(min=1), default=200, show_default=True, metavar="N",
    help="How many commands to run, --parallel at once, after 30 one by one.",
)  # fmt: skip
@click.option(
    "-p", "--parallel", type=Count(min=1), default=16, show_default=True, metavar="N",
    help="How many commands to run at once.  (The port is -P.)",
)  # fmt: skip
@click.option(
    "-m", "--mebibytes", type=Count(min=0), default=16, show_default=True, metavar="N",
    help="How much to copy in each direction; 0: nothing.",
)  # fmt: skip
@add_options(CONNECTION_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def bench_command(**options: Any) -> int:
    """
    Measure a host: connecting, one command, many commands at once, a copy in each direction.

    It runs the command true, and copies one file to a temporary folder, which it then removes.
    Without a host, in a checkout, it compares this package with other SSH libraries, and draws the
    pictures of the documentation.
    """
    from ssh_service.cli import bench

    if options["host"] is None:
        status = bench.compare_packages()
        if status is None:
            raise click.UsageError(
                "--host is needed: the comparison with other packages works only in a checkout"
            )
        return status
    return bench.run(**options)


@click.command("completion", context_settings=CONTEXT)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """
    Print a script for shell completion.

    Hosts are completed from ssh_config, known_hosts, and the files given with -f.

    \b
    bash: eval "$(ssh-service completion bash)"        in ~/.bashrc
    zsh:  eval "$(ssh-service completion zsh)"         in ~/.zshrc, after `compinit`
    fish: ssh-service completion fish | source         in ~/.config/fish/config.fish
    """  # noqa: D301
    click.echo(completion.script(click.get_current_context().find_root().command, shell))


@click.command("man", context_settings=CONTEXT)
def man_command() -> None:
    """
    Print the manual page.

    \b
    ssh-service man | man -l -
    mkdir -p ~/.local/share/man/man1
    ssh-service man > ~/.local/share/man/man1/ssh-service.1     then: man ssh-service
    """  # noqa: D301
    import ssh_service
    from ssh_service.cli.man import manual_page

    root = click.get_current_context().find_root()
    page = manual_page(root.command, root.info_name or "", ssh_service.__version__)
    click.echo(page, nl=False)
