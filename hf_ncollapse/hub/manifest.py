"""What a publication wrote into a branch, kept there, so that the next one replaces and deletes only that."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

# The manifest's own name in a repository.
MANIFEST = "publication.json"


@dataclass(frozen=True)
class Manifest:
    """A sweep's configuration, and the files that were published of it.

    Args:
        configuration: the `sweep.json` that was published; empty where there is no sweep.
        files: path → the file's [`hashes`].
    """

    configuration: dict[str, dict[str, Any]]
    files: dict[str, list[str]]

    def wrote(self, path: str, remote_hash: str | None) -> bool:
        """Whether the file that is there now, known to the Hub by this hash, is the one that was published."""
        return remote_hash in self.files.get(path, ())

    def to_bytes(self) -> bytes:
        """The manifest as it is published."""
        # Not indented, which json does in Python itself: every branch has one, with the sweep's whole configuration.
        return (json.dumps({"configuration": self.configuration, "files": self.files}) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Manifest":
        """Read a published manifest.

        Raises:
            ValueError: it is none.
        """
        try:
            read = json.loads(content)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(read, dict):
            raise ValueError("it holds no JSON object")
        configuration, files = read.get("configuration"), read.get("files")
        if not isinstance(configuration, dict) or not all(isinstance(group, dict) for group in configuration.values()):
            raise ValueError("it has no configuration")
        if not isinstance(files, dict) or not all(isinstance(known, list) for known in files.values()):
            raise ValueError("it lists no files")
        return cls(configuration, files)


def hashes(content: bytes) -> list[str]:
    """What the Hub knows a regular and a large file by: the git blob's SHA-1, and the SHA-256."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return [git.hexdigest(), hashlib.sha256(content).hexdigest()]
