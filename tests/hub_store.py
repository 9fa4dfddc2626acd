"""What a loopback Hub keeps: repositories with commits and branches, uploaded large files, and Collections."""

import hashlib
import itertools
import json
import re
import struct
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

# The real Hub decides by size and content; these are the kinds of files that a sweep or a data set uploads.
_LARGE = (".safetensors", ".parquet", ".png", ".bin", ".arrow")
LARGEST_REGULAR_FILE = 10 * 2**20


class HubError(Exception):
    """An answer that says no: status, the Hub's error code, what went wrong, and more JSON fields."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **fields):
        super().__init__(message)
        self.status, self.message, self.fields = status, message, fields
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


@dataclass(frozen=True)
class Blob:
    """One file's content; a large one is known by its SHA-256, a regular one by its git hash."""

    content: bytes
    is_large: bool = False
    xet_hash: str | None = None

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = (
            "version https://git-lfs.github.com/spec/v1",
            f"oid sha256:{self.sha256}",
            f"size {len(self.content)}",
        )
        return "".join(f"{line}\n" for line in lines).encode()

    @cached_property
    def git_oid(self) -> str:
        stored = self.pointer if self.is_large else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored, usedforsecurity=False).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.git_oid

    @property
    def large_file(self) -> dict:
        return {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}


@dataclass(frozen=True)
class Commit:
    """A state of all files, with the commit before it."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, Blob]


_DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repository:
    """A model, dataset or space: commits, branches and tags."""

    kind: str
    id: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.commit(
            "main", {".gitattributes": Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")}, "initial"
        )

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def commit(self, branch: str, files: dict[str, Blob], title: str) -> Commit:
        parent = self.branches.get(branch)
        said = [
            self.kind,
            self.id,
            parent,
            len(self.commits),
            sorted((path, blob.etag) for path, blob in files.items()),
        ]
        oid = hashlib.sha1(json.dumps(said).encode(), usedforsecurity=False).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, files)
        self.branches[branch] = oid
        return self.commits[oid]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a hash names."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        oid = self.branches.get(name) or self.tags.get(name) or revision
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.content for path, blob in self.at(revision).files.items()}

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits of a branch, newest first."""
        found, commit = [], self.at(revision)
        while commit is not None:
            found.append(commit)
            commit = self.commits.get(commit.parent)
        return found

    def card(self, commit: Commit) -> dict:
        """The metadata of a commit's README.md."""
        if "README.md" not in commit.files:
            return {}
        return card_metadata(commit.files["README.md"].content.decode()) or {}

    def info(self, commit: Commit, with_blobs: bool = False) -> dict:
        card, siblings = self.card(commit), []
        for path, blob in sorted(commit.files.items()):
            entry = {"rfilename": path}
            if with_blobs:
                entry |= {"size": len(blob.content), "blobId": blob.git_oid}
                if blob.is_large:
                    entry["lfs"] = {**blob.large_file, "sha256": blob.sha256}
            siblings.append(entry)
        info = {
            "_id": hashlib.sha256(self.id.encode()).hexdigest()[:24], "id": self.id, "author": self.namespace,
            "sha": commit.oid, "lastModified": _DATE, "createdAt": _DATE, "private": self.private, "gated": False,
            "disabled": False, "downloads": 0, "likes": 0, "tags": list(card.get("tags") or []),
            "siblings": siblings, "cardData": card or None,
        }  # fmt: skip
        if self.kind == "model":
            info |= {
                "modelId": self.id, "library_name": card.get("library_name"),
                "pipeline_tag": card.get("pipeline_tag"), "model-index": card.get("model-index"),
            }  # fmt: skip
            if "config.json" in commit.files:
                config = json.loads(commit.files["config.json"].content)
                info["config"] = {key: config[key] for key in ("architectures", "model_type") if key in config}
        return info

    def listing(self, commit: Commit, folder: str, recursive: bool) -> list[dict]:
        start = f"{folder}/" if folder else ""
        entries: dict[str, dict] = {}
        for path, blob in sorted(commit.files.items()):
            if not path.startswith(start):
                continue
            parts = path.removeprefix(start).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                parent = start + "/".join(parts[:depth])
                oid = hashlib.sha256(parent.encode()).hexdigest()[:40]
                entries.setdefault(parent, {"type": "directory", "oid": oid, "size": 0, "path": parent})
            if recursive or len(parts) == 1:
                entries[path] = file_entry(path, blob)
        if folder and not entries:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        return list(entries.values())


def file_entry(path: str, blob: Blob) -> dict:
    """A file as `tree` and `paths-info` list it."""
    entry = {"type": "file", "oid": blob.git_oid, "size": len(blob.content), "path": path}
    if blob.is_large:
        entry["lfs"] = blob.large_file
    if blob.xet_hash:
        entry["xetHash"] = blob.xet_hash
    return entry


def is_large(path: str, size: int, sample: bytes) -> bool:
    return path.lower().endswith(_LARGE) or size > LARGEST_REGULAR_FILE or b"\0" in sample


def card_metadata(card: str) -> dict | None:
    """The YAML between the two lines of dashes; None where there is none."""
    match = re.match(r"\A---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    # Through JSON, which has no dates, as the Hub's answers do.
    return json.loads(json.dumps(yaml.safe_load(match[1]), default=str)) if match else None


def card_errors(card: str) -> list[str]:
    """What the Hub would refuse in a card's metadata: broken YAML, and a model-index of another shape."""
    try:
        metadata = card_metadata(card)
    except yaml.YAMLError as error:
        return [f"YAML is not valid: {error}"]
    if metadata is None:
        return []
    if not isinstance(metadata, dict):
        return ["YAML metadata must be a mapping"]
    errors = [
        f'"{name}" must be {kind.__name__}'
        for name, kind in (("tags", list), ("pipeline_tag", str), ("library_name", str), ("model-index", list))
        if name in metadata and not isinstance(metadata[name], kind)
    ]
    if errors:
        return errors
    for model in metadata.get("model-index", []):
        for result in model.get("results", ()) if "name" in model else ({},):
            needed = (("task", ("type",)), ("dataset", ("type", "name")))
            missing = [f"{key}.{name}" for key, names in needed for name in names if name not in result.get(key, {})]
            metrics = result.get("metrics") or [{}]
            missing += [f"metrics.{name}" for metric in metrics for name in ("type", "value") if name not in metric]
            errors += [f'"model-index" lacks {name}' for name in missing]
    return errors


class XetStorage:
    """Files that hf_xet's own local client wrote into a folder, found by their SHA-256 in its shards.

    The layout of a shard is an internal of hf_xet 1.8.0: a header of 48 bytes, then for each file an entry of 48 bytes
    (hash, flags, number of segments), its segments, and by its flags verification and metadata entries of 48 bytes.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def address(self) -> str:
        return f"local://{self.folder}"

    def find(self, sha256: str) -> tuple[str, bytes] | None:
        """Return the Xet hash and the content of an uploaded file, or None."""
        for shard in self.folder.rglob("shards/*.mdb"):
            for xet_hash, size, found in self._files(shard.read_bytes()):
                if found == sha256:
                    return xet_hash, self._read(xet_hash, size)
        return None

    @staticmethod
    def _files(shard: bytes):
        def hexadecimal(raw: bytes) -> str:
            return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))

        at, entry = 48, 48
        while at + entry <= len(shard) and shard[at : at + 32] != b"\xff" * 32:
            xet_hash = hexadecimal(shard[at : at + 32])
            flags, segments = struct.unpack("<II", shard[at + 32 : at + 40])
            at += entry
            size = sum(
                struct.unpack("<I", shard[at + entry * i + 36 : at + entry * i + 40])[0] for i in range(segments)
            )
            at += entry * segments * (2 if flags & 1 << 31 else 1)
            if flags & 1 << 30:
                yield xet_hash, size, hexadecimal(shard[at : at + 32])
                at += entry

    def _read(self, xet_hash: str, size: int) -> bytes:
        import hf_xet

        target = self.folder / f"{xet_hash}.file"
        with hf_xet.XetSession().new_file_download_group(endpoint=self.address) as group:
            group.start_download_file(hf_xet.XetFileInfo(xet_hash, size), str(target))
        return target.read_bytes()


@dataclass
class Store:
    """Everything a Hub holds."""

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    large_files: dict[str, bytes] = field(default_factory=dict)
    collections: dict[str, dict] = field(default_factory=dict)
    xet: XetStorage | None = None
    _numbers: itertools.count = field(default_factory=itertools.count)

    def put(self, kind: str, repo_id: str, files: dict[str, bytes], branch: str = "main") -> Repository:
        """Place a repository's files, as somebody else would have published them."""
        repository = self.repositories.setdefault((kind, repo_id), Repository(kind, repo_id))
        blobs = {path: Blob(content, is_large(path, len(content), content[:512])) for path, content in files.items()}
        before = repository.at(branch if branch in repository.branches else "main").files
        repository.commit(branch, {**before, **blobs}, "upload")
        return repository

    def large_file(self, sha256: str) -> Blob:
        if sha256 in self.large_files:
            return Blob(self.large_files[sha256], is_large=True)
        uploaded = self.xet.find(sha256) if self.xet is not None else None
        if uploaded is None:
            raise HubError(400, f"LFS object {sha256} was not uploaded")
        return Blob(uploaded[1], is_large=True, xet_hash=uploaded[0])

    def create_collection(self, namespace: str, title: str, description: str | None, private: bool) -> dict:
        for slug, known in self.collections.items():
            if (known["owner"]["name"], known["title"]) == (namespace, title):
                raise HubError(409, "You already have a collection with that title", slug=slug)
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        slug = f"{namespace}/{name}-{next(self._numbers):024x}"
        self.collections[slug] = {
            "slug": slug, "title": title, "description": description, "private": private, "items": [],
            "owner": {"type": "org", "name": namespace}, "lastUpdated": _DATE, "position": 0, "theme": "blue",
            "upvotes": 0, "gating": False, "isUpvotedByUser": False,
        }  # fmt: skip
        return self.collections[slug]

    def add_item(self, collection: dict, item: dict, note: str | None) -> dict:
        if (item["type"], item["id"]) not in self.repositories:
            raise HubError(404, f"This {item['type']} does not exist")
        if any((known["type"], known["id"]) == (item["type"], item["id"]) for known in collection["items"]):
            raise HubError(409, "This item is already in the collection")
        collection["items"].append(
            {"_id": f"{next(self._numbers):024x}", "id": item["id"], "type": item["type"], **note_field(note)}
        )
        return self.renumber(collection)

    def renumber(self, collection: dict) -> dict:
        for position, item in enumerate(collection["items"]):
            item["position"] = position
        return collection


def note_field(note: str | None) -> dict:
    if note is not None and len(note) > 500:
        raise HubError(400, "note must be at most 500 characters")
    return {"note": {"html": note, "text": note}} if note else {}
