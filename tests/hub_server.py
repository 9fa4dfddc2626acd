"""A Hugging Face Hub on loopback: real HTTP for huggingface_hub, transformers and datasets, with faults on demand.

It speaks what huggingface_hub 2.4 sends. What only the real Hub enforces (rate limits, exact thresholds of large
files, permissions within an organisation) it does not show.
"""

import base64
import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from hub_store import Blob, HubError, Repository, Store, XetStorage, card_errors, file_entry, is_large, note_field

WRITER, READER, STRANGER = "hf_writer", "hf_reader", "hf_stranger"
# Token -> who it belongs to.
USERS = {
    WRITER: {"name": "tester", "orgs": ["my-org"], "role": "write"},
    READER: {"name": "tester", "orgs": ["my-org"], "role": "read"},
    STRANGER: {"name": "stranger", "orgs": ["elsewhere"], "role": "write"},
}


@dataclass
class Fault:
    """What happens to the requests that it matches, instead of an answer.

    Args:
        method, path: of the request; the path is searched for as a regular expression.
        status: answer with this.
        cut_after: read this many bytes of the body, then cut the connection.
        lose_answer: do what is asked, then cut the connection.
        silent: accept the request, and never answer.
        drip: do what is asked, and answer one byte after so many seconds each.
        content: answer with these bytes and the status, 200 by default; a web page, or JSON of another shape.
        interrupt: answer, and send this process the signal that Ctrl-C sends.
        times: how often; after that all is well.
        skip: how many matching requests go through before.
        headers: of the answer.
    """

    method: str
    path: str
    status: int | None = None
    cut_after: int | None = None
    lose_answer: bool = False
    silent: bool = False
    drip: float | None = None
    content: bytes | None = None
    interrupt: bool = False
    times: int = 1
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def strikes(self, method: str, path: str) -> bool:
        if self.times == 0 or method != self.method or not re.search(self.path, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass
class Request:
    """One request, as a route sees it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    endpoint: str

    @property
    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    @property
    def user(self) -> dict | None:
        return USERS.get(self.headers.get("authorization", "").removeprefix("Bearer "))

    def asks(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("true", "1")

    def require_user(self) -> dict:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        return self.user

    def require_writer(self, namespace: str) -> dict:
        user = self.require_user()
        if user["role"] != "write" or namespace not in (user["name"], *user["orgs"]):
            raise HubError(403, f"You don't have the rights to write under the namespace {namespace!r}")
        return user


@dataclass
class Answer:
    """Status, headers and body; anything but bytes goes out as JSON."""

    body: object = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        self.headers.setdefault("Content-Type", "application/json")
        return json.dumps(self.body).encode()


_ROUTES: list[tuple[str, re.Pattern, Callable]] = []
_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
_REPOSITORY = "/api/(?P<kinds>models|datasets|spaces)/(?P<namespace>[^/]+)/(?P<name>[^/]+)"
_WEB = "/(?:(?P<kinds>datasets|spaces)/)?(?P<namespace>[^/]+)/(?P<name>[^/]+?)"


def route(methods: str, pattern: str):
    """Register a method of the server for paths that match as a whole; groups arrive decoded, by name."""

    def register(function):
        _ROUTES.extend((method, re.compile(pattern), function) for method in methods.split())
        return function

    return register


class HubServer:
    """The server; `with HubServer() as hub:` serves at `hub.endpoint` until the block ends.

    Args:
        xet_folder: where hf_xet's local client keeps its files; None offers LFS alone, and clients must then be told
            `HF_HUB_DISABLE_XET=1`.
    """

    def __init__(self, xet_folder: Path | None = None):
        self.store = Store(xet=XetStorage(xet_folder) if xet_folder is not None else None)
        self.requests: list[tuple[str, str, int | None]] = []
        self.closing = threading.Event()
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = WRITER) -> dict[str, str]:
        """Variables for a process that knows this Hub and has an empty cache."""
        xet = {} if self.store.xet else {"HF_HUB_DISABLE_XET": "1"}
        login = {"HF_TOKEN": token} if token else {}
        return {
            "HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules"),
            "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "0", **xet, **login,
        }  # fmt: skip

    def repository(self, repo_id: str, kind: str = "model") -> Repository:
        return self.store.repositories[kind, repo_id]

    def fail(self, method: str, path: str, **keywords) -> Fault:
        """Let requests fail from now on; see [`Fault`]."""
        self._faults.append(Fault(method, path, **keywords))
        return self._faults[-1]

    def heal(self) -> None:
        """End all faults."""
        self._faults.clear()

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            return next((fault for fault in self._faults if fault.strikes(method, path)), None)

    def answer(self, request: Request) -> Answer:
        for method, pattern, function in _ROUTES:
            match = pattern.fullmatch(request.path) if method == request.method else None
            if match:
                groups = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                try:
                    with self._lock:
                        return function(self, request, **groups)
                except HubError as error:
                    return Answer({"error": error.message, **error.fields}, error.status, error.headers)
        return Answer({"error": "Not Found"}, 404, {"X-Error-Message": "Not Found"})

    def _find(self, request: Request, kinds: str, namespace: str, name: str) -> Repository:
        repository = self.store.repositories.get((_KINDS[kinds], f"{namespace}/{name}"))
        user = request.user
        may_read = repository is not None and not repository.private
        if repository is not None and repository.private and user is not None:
            may_read = namespace in (user["name"], *user["orgs"])
        if not may_read:
            # The client's own reading of a bare 401 works over https alone.
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        return repository

    def _address(self, repository: Repository) -> str:
        start = {"model": "", "dataset": "datasets/", "space": "spaces/"}[repository.kind]
        return f"{self.endpoint}/{start}{repository.id}"

    @route("GET", "/api/whoami-v2")
    def _whoami(self, request: Request) -> Answer:
        user = request.require_user()
        orgs = [{"type": "org", "id": name, "name": name, "fullname": name} for name in user["orgs"]]
        token = {"displayName": "test", "role": user["role"]}
        return Answer(
            {
                "type": "user",
                "id": user["name"],
                "name": user["name"],
                "fullname": user["name"],
                "isPro": False,
                "orgs": orgs,
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    @route("POST", "/api/repos/create")
    def _create_repository(self, request: Request) -> Answer:
        asked = request.json
        namespace, kind = asked.get("organization") or request.require_user()["name"], asked.get("type") or "model"
        request.require_writer(namespace)
        key = (kind, f"{namespace}/{asked['name']}")
        if key in self.store.repositories:
            address = self._address(self.store.repositories[key])
            raise HubError(409, f"You already created this {kind} repo", url=address)
        repository = self.store.repositories[key] = Repository(*key, private=asked.get("visibility") == "private")
        return Answer({"url": self._address(repository), "name": repository.id})

    @route("DELETE", "/api/repos/delete")
    def _delete_repository(self, request: Request) -> Answer:
        asked = request.json
        namespace = asked.get("organization") or request.require_user()["name"]
        request.require_writer(namespace)
        key = (asked.get("type") or "model", f"{namespace}/{asked['name']}")
        if self.store.repositories.pop(key, None) is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return Answer(b"OK")

    @route("PUT", _REPOSITORY + "/settings")
    def _settings(self, request: Request, **names) -> Answer:
        repository = self._find(request, **names)
        request.require_writer(repository.namespace)
        repository.private = request.json["visibility"] == "private"
        return Answer({"private": repository.private})

    @route("POST", "/api/validate-yaml")
    def _validate_card(self, request: Request) -> Answer:
        errors = [{"message": message} for message in card_errors(request.json["content"])]
        return Answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    @route("GET", "/api/(?P<kinds>models|datasets|spaces)")
    def _list(self, request: Request, kinds: str) -> Answer:
        author, search = (request.query.get(name, [""])[0] for name in ("author", "search"))
        found = []
        for (kind, repo_id), repository in sorted(self.store.repositories.items()):
            with contextlib.suppress(HubError):
                if kind == _KINDS[kinds] and search.lower() in repo_id.lower():
                    self._find(request, kinds, *repo_id.split("/"))
                    info = repository.info(repository.at("main"))
                    if author in ("", repository.namespace) and set(request.query.get("filter", ())) <= set(
                        info["tags"]
                    ):
                        found.append(info)
        return Answer(found[: int(request.query.get("limit", ["1000"])[0])])

    @route("GET HEAD", _REPOSITORY + "(?:/revision/(?P<revision>[^/]+))?")
    def _info(self, request: Request, revision: str = "main", **names) -> Answer:
        repository = self._find(request, **names)
        return Answer(repository.info(repository.at(revision), request.asks("blobs")))

    @route("GET", _REPOSITORY + "/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?")
    def _tree(self, request: Request, revision: str, folder: str = "", **names) -> Answer:
        repository = self._find(request, **names)
        commit = repository.at(revision)
        entries = repository.listing(commit, folder.strip("/"), request.asks("recursive"))
        if request.asks("expand"):
            last = {"id": commit.oid, "title": commit.title, "date": "2026-01-01T00:00:00.000Z"}
            entries = [{**entry, "lastCommit": last} for entry in entries]
        return Answer(entries)

    @route("POST", _REPOSITORY + "/paths-info/(?P<revision>[^/]+)")
    def _paths_info(self, request: Request, revision: str, **names) -> Answer:
        repository = self._find(request, **names)
        commit = repository.at(revision)
        if "json" in request.headers.get("content-type", ""):
            paths = request.json["paths"]
        else:
            paths = parse_qs(request.body.decode()).get("paths", [])
        entries = []
        for path in (path.strip("/") for path in paths):
            if path in commit.files:
                entries.append(file_entry(path, commit.files[path]))
            elif any(known.startswith(f"{path}/") for known in commit.files):
                entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
        return Answer(entries)

    @route("GET", _REPOSITORY + "/refs")
    def _refs(self, request: Request, **names) -> Answer:
        repository = self._find(request, **names)

        def listed(kind: str, references: dict[str, str]) -> list[dict]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in references.items()
            ]

        branches, tags = listed("heads", repository.branches), listed("tags", repository.tags)
        return Answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    @route("GET", _REPOSITORY + "/commits/(?P<revision>[^/]+)")
    def _commits(self, request: Request, revision: str, **names) -> Answer:
        repository = self._find(request, **names)
        history = repository.history(revision)
        return Answer(
            [
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": "",
                    "date": "2026-01-01T00:00:00.000Z",
                    "authors": [],
                }
                for commit in history
            ]
        )

    @route("POST", _REPOSITORY + "/branch/(?P<branch>[^/]+)")
    def _create_branch(self, request: Request, branch: str, **names) -> Answer:
        repository = self._find(request, **names)
        request.require_writer(repository.namespace)
        if branch in repository.branches:
            raise HubError(409, f"Reference already exists: refs/heads/{branch}")
        repository.branches[branch] = repository.at(request.json.get("startingPoint", "main")).oid
        return Answer(b"OK", 201)

    @route("POST", _REPOSITORY + "/tag/(?P<revision>[^/]+)")
    def _create_tag(self, request: Request, revision: str, **names) -> Answer:
        repository = self._find(request, **names)
        request.require_writer(repository.namespace)
        if request.json["tag"] in repository.tags:
            raise HubError(409, "Tag reference exists already")
        repository.tags[request.json["tag"]] = repository.at(revision).oid
        return Answer(b"OK", 201)

    @route("POST", _REPOSITORY + "/preupload/(?P<revision>[^/]+)")
    def _preupload(self, request: Request, revision: str, **names) -> Answer:
        repository = self._find(request, **names)
        request.require_writer(repository.namespace)
        known = repository.at(revision).files
        files = []
        for file in request.json["files"]:
            large = is_large(file["path"], file["size"], base64.b64decode(file.get("sample", "")))
            mode = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            files.append(mode | ({"oid": known[file["path"]].etag} if file["path"] in known else {}))
        return Answer({"files": files})

    @route("POST", _REPOSITORY + "/commit/(?P<branch>[^/]+)")
    def _commit(self, request: Request, branch: str, **names) -> Answer:
        repository = self._find(request, **names)
        request.require_writer(repository.namespace)
        if branch not in repository.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head, title = repository.branches[branch], ""
        files = dict(repository.commits[head].files)
        for line in request.body.splitlines():
            key, value = (json.loads(line)[name] for name in ("key", "value"))
            if key == "header":
                title = value["summary"]
                if not head.startswith(value.get("parentCommit") or ""):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                files[value["path"]] = self.store.large_file(value["oid"])
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise HubError(400, f"unknown operation {key}")
        if "README.md" in files and card_errors(files["README.md"].content.decode()):
            raise HubError(400, "Invalid metadata in README.md")
        commit = repository.commit(branch, files, title)
        address = f"{self._address(repository)}/commit/{commit.oid}"
        return Answer({"success": True, "commitOid": commit.oid, "commitUrl": address, "hookOutput": ""})

    @route("GET", _REPOSITORY + "/xet-(?:read|write)-token/(?P<revision>[^/]+)")
    def _xet_token(self, request: Request, revision: str, **names) -> Answer:
        repository = self._find(request, **names)
        if "write" in request.path:
            request.require_writer(repository.namespace)
        if self.store.xet is None:
            raise HubError(404, "this Hub has no Xet storage")
        token, expires, address = "xet", int(time.time()) + 3600, self.store.xet.address
        headers = {
            "X-Xet-Access-Token": token,
            "X-Xet-Token-Expiration": str(expires),
            "X-Xet-Cas-Url": address,
        }
        return Answer({"accessToken": token, "exp": expires, "casUrl": address}, headers=headers)

    @route("POST", _WEB + r"\.git/info/lfs/objects/batch")
    def _lfs_batch(self, request: Request, kinds: str = "models", **names) -> Answer:
        repository = self._find(request, kinds, **names)
        request.require_writer(repository.namespace)
        objects = []
        for asked in request.json["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.store.large_files:
                verify = {"href": f"{self._address(repository)}.git/info/lfs/objects/verify", "header": {}}
                upload = {"href": f"{self.endpoint}/large-files/{asked['oid']}", "header": {}}
                entry |= {"authenticated": True, "actions": {"upload": upload, "verify": verify}}
            objects.append(entry)
        return Answer({"transfer": "basic", "objects": objects, "hash_algo": "sha256"})

    @route("PUT", "/large-files/(?P<sha256>[0-9a-f]{64})")
    def _put_large_file(self, request: Request, sha256: str) -> Answer:
        if Blob(request.body).sha256 != sha256:
            raise HubError(400, "the content's SHA-256 is another")
        self.store.large_files[sha256] = request.body
        return Answer(headers={"ETag": f'"{sha256}"'})

    @route("POST", _WEB + r"\.git/info/lfs/objects/verify")
    def _lfs_verify(self, request: Request, **_) -> Answer:
        if len(self.store.large_files.get(request.json["oid"], b"")) != request.json["size"]:
            raise HubError(404, "object not found")
        return Answer({"ok": True})

    @route("GET HEAD", _WEB + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def _resolve(self, request: Request, revision: str, path: str, kinds: str = "models", **names) -> Answer:
        repository = self._find(request, kinds, **names)
        commit = repository.at(revision)
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        if blob.is_large:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        if blob.xet_hash:
            address = f"{self.endpoint}/api/{kinds}/{quote(repository.id)}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": blob.xet_hash, "Link": f'<{address}>; rel="xet-auth"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not wanted or request.method == "HEAD":
            return Answer(blob.content, headers=headers)
        first, last = int(wanted[1]), int(wanted[2] or len(blob.content) - 1)
        if first >= len(blob.content):
            return Answer(status=416, headers={"Content-Range": f"bytes */{len(blob.content)}"})
        part = blob.content[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(blob.content)}"
        return Answer(part, 206, headers)

    @route("GET", "/api/collections")
    def _list_collections(self, request: Request) -> Answer:
        owners, found = request.query.get("owner", []), []
        for collection in self.store.collections.values():
            if not owners or collection["owner"]["name"] in owners:
                # A list has no positions, and four items at most.
                listed = {name: value for name, value in collection.items() if name != "position"}
                found.append({**listed, "items": collection["items"][:4]})
        return Answer(found)

    @route("POST", "/api/collections")
    def _create_collection(self, request: Request) -> Answer:
        asked = request.json
        request.require_writer(asked["namespace"])
        if len(asked.get("description") or "") > 150:
            raise HubError(400, "description must be at most 150 characters")
        asked = (asked["namespace"], asked["title"], asked.get("description"), asked["private"])
        return Answer(self.store.create_collection(*asked))

    def _collection(self, slug: str) -> dict:
        if slug not in self.store.collections:
            raise HubError(404, "Collection not found")
        return self.store.collections[slug]

    @route("GET", "/api/collections/(?P<slug>[^/]+/[^/]+)")
    def _get_collection(self, request: Request, slug: str) -> Answer:
        return Answer(self._collection(slug))

    @route("POST", "/api/collections/(?P<slug>[^/]+/[^/]+)/items")
    def _add_item(self, request: Request, slug: str) -> Answer:
        request.require_writer(slug.split("/")[0])
        return Answer(self.store.add_item(self._collection(slug), request.json["item"], request.json.get("note")))

    @route("PATCH", "/api/collections/(?P<slug>[^/]+/[^/]+)/items/(?P<item_id>[^/]+)")
    def _update_item(self, request: Request, slug: str, item_id: str) -> Answer:
        request.require_writer(slug.split("/")[0])
        collection = self._collection(slug)
        item = next(item for item in collection["items"] if item["_id"] == item_id)
        item |= note_field(request.json.get("note"))
        if "position" in request.json:
            collection["items"].remove(item)
            collection["items"].insert(request.json["position"], item)
        return Answer(self.store.renumber(collection))


class _Cut(Exception):
    """The connection is to be cut now."""


class _Dripping:
    """A file that passes on what is written to it byte by byte."""

    def __init__(self, file, seconds: float, closing: threading.Event):
        self.file, self.seconds, self.closing = file, seconds, closing

    def write(self, content: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # who waits may give up
            for byte in content:
                if self.closing.wait(self.seconds):
                    return
                self.file.write(bytes([byte]))
                self.file.flush()

    def __getattr__(self, name: str):
        return getattr(self.file, name)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _serve(self) -> None:
        address = urlsplit(self.path)
        fault = self.hub.next_fault(self.command, unquote(address.path))
        try:
            body = self._read_body(fault.cut_after if fault is not None else None)
            if fault is not None and fault.cut_after is not None:
                raise _Cut
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = parse_qs(address.query, keep_blank_values=True)
            request = Request(self.command, address.path, query, headers, body, self.hub.endpoint)
            if fault is not None and fault.silent:
                self.hub.closing.wait()
                raise _Cut
            if fault is not None and fault.content is not None:
                answer = Answer(fault.content, fault.status or 200, fault.headers)
            elif fault is not None and fault.status is not None:
                answer = Answer({"error": "made to fail"}, fault.status, {"X-Error-Message": "made to fail"})
                answer.headers |= fault.headers
            else:
                answer = self.hub.answer(request)
            if fault is not None and fault.interrupt:
                signal.raise_signal(signal.SIGINT)
            if fault is not None and fault.lose_answer:
                raise _Cut
        except (_Cut, ConnectionError):
            self.hub.requests.append((self.command, address.path, None))
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.hub.requests.append((self.command, address.path, answer.status))
        content = answer.encode()
        if fault is not None and fault.drip is not None:
            self.wfile = _Dripping(self.wfile, fault.drip, self.hub.closing)
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _read_body(self, limit: int | None) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            return self.rfile.read(length if limit is None else min(limit, length))
        chunks = []
        while (limit is None or sum(map(len, chunks)) < limit) and (size := int(self.rfile.readline(), 16)):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        if limit is None:
            self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *_) -> None:
        """Requests are kept in `hub.requests`, not printed."""
