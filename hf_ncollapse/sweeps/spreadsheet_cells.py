"""Text cells of a CSV file that a spreadsheet shows and does not run."""

import re
from collections.abc import Callable

import pandas as pd

# A spreadsheet takes a text that starts like this for a formula. An apostrophe before it makes it text, and where one
# is there already another goes before it, so that reading is the exact inverse.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")


def escape_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with an apostrophe before texts that a spreadsheet would run; numbers stay what they are."""
    return _of_texts(table, lambda text: f"'{text}" if _FORMULA.match(text) else text)


def unescape_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table that [`escape_formulas`] was given."""
    return _of_texts(table, lambda text: text[1:] if _ESCAPED.match(text) else text)


def _of_texts(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    texts = table.select_dtypes(exclude=["number", "bool"]).columns
    if table.empty or not len(texts):
        return table
    changed = {
        name: table[name].map(lambda cell: change(cell) if isinstance(cell, str) else cell, na_action="ignore")
        for name in texts
    }
    return table.assign(**changed)
