"""
Find phrases that make prose hard to read, in comments, docstrings, messages and pages.

``python .ci/prose.py`` (a part of ``tox -e lint``) fails where it finds one.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from pathlib import Path
from typing import Iterator, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md")
CODE = ("ssh_service/**/*.py", "docs/_ext/*.py")

# A phrase, and what to write instead.  A space stands for any whitespace.
PHRASES = {
    r"told": "reported, notified, given, known",
    r"(?:tells?|telling) of": "report, describe",
    r"tells? whether": "Return whether",
    r"beside": "next to, alongside, in addition to",
    r"whoever": "the caller, the thread that",
    r"for ever": "without end, forever",
    r"(?:sees?|seeing|seen) to (?:it|that)": "ensure, make sure",
    # "there is none", "there is no", "is no longer" and "is no more than" are English.
    r"(?<!there\s)(?:is|are|was|were) (?-i:none)": "is not one",
    r"\w+\x20-{3,}\x20\w+": "a section of a docstring on lines of its own",
    r"(?<!there\s)(?:is|are|was|were) no (?!(?:longer|more|less|fewer|need)\b)\w+": "is not a",
}
_PHRASES = [
    (re.compile(rf"\b{phrase}\b".replace(" ", r"[\s#]+"), re.IGNORECASE), instead)
    for phrase, instead in PHRASES.items()
]
_FENCE = re.compile(r"^(```|:::)(?!\{(?:note|tip|warning)).*?^\1", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"(?<!\{)\{[^{}]*\}")
_PROSE = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
_HIDDEN = "\0"


def _hide(text: str) -> str:
    return re.sub(r"[^\n]", _HIDDEN, text)


def prose_of_code(source: str) -> str:
    """Return the source with all but its comments and strings hidden, on the same lines."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    out = list(source)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        begin = starts[token.start[0] - 1] + token.start[1]
        end = starts[min(token.end[0] - 1, len(lines))] + token.end[1]
        text = source[begin:end]
        if token.type not in _PROSE:
            out[begin:end] = _hide(text) if text.strip() else text
        elif token.type == tokenize.STRING and text[:2].lower() in ('f"', "f'", "rf", "fr"):
            out[begin:end] = _FIELD.sub(lambda match: _hide(match[0]), text)
    return "".join(out)


def prose_of_page(text: str) -> str:
    """Return the page with its code blocks hidden, on the same lines."""
    return _FENCE.sub(lambda match: _hide(match[0]), text)


def found_in(path: Path) -> List[Tuple[int, str]]:
    """List the phrases of a file, each with its line and what to write instead."""
    text = path.read_text("utf-8")
    prose = prose_of_code(text) if path.suffix == ".py" else prose_of_page(text)
    return sorted(
        (
            prose.count("\n", 0, match.start()) + 1,
            f"{' '.join(match[0].split())!r} (better: {instead})",
        )
        for phrase, instead in _PHRASES
        for match in phrase.finditer(prose)
    )


def files() -> Iterator[Path]:
    """Yield the files that are checked."""
    for pattern in (*PAGES, *CODE):
        yield from sorted(ROOT.glob(pattern))


def main() -> int:
    """Check all files."""
    found = 0
    for path in files():
        for line, phrase in found_in(path):
            print(f"{path.relative_to(ROOT).as_posix()}:{line}: {phrase}")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
