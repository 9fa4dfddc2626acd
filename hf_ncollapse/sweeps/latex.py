"""Tables for a paper, as LaTeX with `booktabs`."""

from collections.abc import Sequence

from ..quantities import deviation_digits, digits

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {character: f"\\{character}" for character in "&%$#_{}"}


def latex_table(headings: Sequence[str], rows: Sequence[Sequence[str]], align: str | None = None) -> str:
    """Return a `tabular`.

    Args:
        headings, rows: cells, which are LaTeX already.
        align: one letter a column; right-aligned by default.
    """
    lines = [" & ".join(line) + r" \\" for line in (headings, *rows)]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{align or 'r' * len(headings)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def latex_text(text: object) -> str:
    """A text from outside, letter by letter."""
    return "".join(_SPECIAL.get(character, character) for character in str(text))


def latex_value(value: float | None, deviation: float | None = None) -> str:
    """A number of four digits, ± its deviation where there is one; "--" for what is missing."""
    if not digits(value):
        return "--"
    spread = deviation_digits(deviation, value)
    shown = _mathematics(digits(value)) + (r" \pm " + _mathematics(spread) if spread else "")
    return f"${shown}$"


def _mathematics(number: str) -> str:
    """1.2e-05 as a product with a power of ten."""
    factor, _, exponent = number.partition("e")
    return rf"{factor} \cdot 10^{{{int(exponent)}}}" if exponent else factor
