"""Names from outside in Markdown: shown letter by letter, whatever they hold."""

import re

# What CommonMark and GitHub's tables, and HTML in Markdown, give a meaning inside a line.
_MEANINGFUL = re.compile(r"([\\`*\[\]<>&|~$#!]|\b_|_\b)")


def plain(text: object) -> str:
    """Text of one line without markup."""
    return _MEANINGFUL.sub(r"\\\1", " ".join(str(text).split()))


def code_span(text: object) -> str:
    """Text of one line as code; a longer run of backticks than it has goes around it."""
    line = " ".join(str(text).split())
    ticks = "`" * (_longest_run(line) + 1)
    space = " " if "`" in line else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def fence(text: str) -> str:
    """The line of backticks that goes before and after a block of code with this text."""
    return "`" * max(3, _longest_run(text) + 1)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
