"""A command line that ends with the words of a remote command."""

from __future__ import annotations

from typing import List

import click

__all__ = ["CommandLine"]


class CommandLine(click.Command):
    """A command line that ends with the words of a remote command."""

    def parse_args(self, ctx: click.Context, args: List[str]) -> List[str]:
        """Parse, and report a missing command, or words that were probably meant as hosts."""
        given = list(args)
        rest = super().parse_args(ctx, args)
        words = list(ctx.params.get("command") or ())
        if not words and not ctx.params.get("script") and not ctx.resilient_parsing:
            raise click.MissingParameter(ctx=ctx, param=self.params[-1])
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
