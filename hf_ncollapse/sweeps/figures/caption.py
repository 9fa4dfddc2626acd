"""The words that go with a figure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """What a report says beside a figure.

    Args:
        title: heading.
        text: what is drawn, in sentences.
        shown: quantities whose values are told to readers who do not see the figure.
        of_balanced: said too where complete collapse is the optimum.
        of_panel: said too where a panel of the paper is drawn.
    """

    title: str
    text: str
    shown: tuple[str, ...] = ("gap", "nc1")
    of_balanced: str = ""
    of_panel: str = ""

    def words(self, *, is_balanced: bool = False, has_panel: bool = False) -> str:
        """The sentences that are true of this sweep."""
        parts = (self.text, self.of_balanced * is_balanced, self.of_panel * has_panel)
        return " ".join(part for part in parts if part)
