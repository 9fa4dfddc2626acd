"""Names of command-line options: hyphens and underscores both, and the nearest one to a name that there is not."""

import argparse
import difflib
from collections.abc import Sequence


class ForgivingNames(argparse.ArgumentParser):
    """An argument parser whose long options may be written with hyphens or with underscores.

    An option that does not exist is an error that names the nearest one that does.
    """

    def parse_known_args(  # type: ignore[override]  # of the overloads, which differ in the namespace alone
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        args = None if args is None else [self._as_declared(word) for word in args]
        found, unknown = super().parse_known_args(args, namespace)
        for word in unknown:
            name, _, _ = word.partition("=")
            near = difflib.get_close_matches(name, self._option_string_actions, n=1) if name.startswith("--") else []
            if near:
                self.error(f"there is no option {name}; did you mean {near[0]}?")
        return found, unknown

    def _as_declared(self, word: str) -> str:
        name, equals, value = word.partition("=")
        if name.startswith("--") and name not in self._option_string_actions:
            for other in (name[2:].replace("_", "-"), name[2:].replace("-", "_")):
                if f"--{other}" in self._option_string_actions:
                    return f"--{other}{equals}{value}"
        return word
