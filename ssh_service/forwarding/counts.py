"""Numbers of streams in words."""

from __future__ import annotations


def streams_in_words(count: int) -> str:
    """Return ``1 stream``, ``2 streams``."""
    return "1 stream" if count == 1 else f"{count} streams"
