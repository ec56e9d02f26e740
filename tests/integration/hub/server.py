"""A loopback server that speaks the Hub's read protocol over plain folders: real requests, real client.

``root/<owner>/<name>/`` is a repository; its one commit is the digest of its files, so a changed file is a new
commit. What the server was asked is kept in ``requests``; what it should do wrong is set on ``faults``, never
through HTTP.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<rev>[^/]+))?")
_TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<rev>[^/]+)")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass
class Faults:
    """What the server does wrong.

    Attributes:
        gated: Repositories that need access.
        status: Answer this to everything.
    """

    gated: set[str] = field(default_factory=set)
    status: int | None = None


@dataclass(frozen=True)
class Request:
    """One request that arrived, the bytes of body that were sent for it, its status, and whether it had a token."""

    method: str
    path: str
    range: str | None
    sent_bytes: int
    status: int
    has_token: bool = False


class HubError(Exception):
    """An error answer: status, ``X-Error-Code``, message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Hub:
    """The state behind the server.

    Attributes:
        root: Folder of repositories.
        tags: (repository, tag) to commit.
        faults: What to do wrong.
        requests: Everything that was asked, in order.
        endpoint: Address, once the server runs.
    """

    root: Path
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""

    def folder(self, repo: str) -> Path:
        """Folder of a repository that may be read."""
        folder = self.root / repo
        if not folder.is_dir():
            raise HubError(404, "RepoNotFound", "Repository not found")
        if repo in self.faults.gated:
            raise HubError(403, "GatedRepo", f"Access to model {repo} is restricted")
        return folder

    def files(self, repo: str) -> dict[str, Path]:
        """Path in the repository to the file."""
        folder = self.folder(repo)
        return {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}

    def commit(self, repo: str, revision: str = "main") -> str:
        """The commit that a branch, tag or commit names."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, file in self.files(repo).items():
            digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        head = digest.hexdigest()
        known = self.tags.get((repo, revision), head if revision in {"main", head} else None)
        if known != head:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return head

    def info(self, repo: str, revision: str) -> bytes:
        """The ModelInfo of a revision."""
        commit = self.commit(repo, revision)
        siblings = [{"rfilename": name} for name in self.files(repo)]
        gated = "manual" if repo in self.faults.gated else False
        info = {"id": repo, "sha": commit, "private": False, "gated": gated, "disabled": False, "tags": [],
                "downloads": 0, "likes": 0, "siblings": siblings}  # fmt: skip
        return json.dumps(info).encode()

    def tree(self, repo: str, revision: str) -> bytes:
        """Every file of a revision, with its size."""
        self.commit(repo, revision)
        files = [(name, file.read_bytes()) for name, file in self.files(repo).items()]
        return json.dumps(
            [{"type": "file", "path": name, "size": len(data), "oid": hashlib.sha256(data).hexdigest()[:40]}
             for name, data in files]
        ).encode()  # fmt: skip

    def content(self, repo: str, revision: str, path: str) -> tuple[str, bytes]:
        """Commit and bytes of a file."""
        commit = self.commit(repo, revision)
        file = self.files(repo).get(path)
        if file is None:
            raise HubError(404, "EntryNotFound", f"Entry not found: {path}")
        return commit, file.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Tests read ``hub.requests``."""

    def _answer(self) -> None:
        try:
            self._route(urlsplit(self.path).path)
        except HubError as error:
            headers = {"X-Error-Message": str(error), **({"X-Error-Code": error.code} if error.code else {})}
            self._send(error.status, json.dumps({"error": str(error)}).encode(), headers)

    def _route(self, path: str) -> None:
        """One branch per endpoint; parts of a path are unquoted after it was split, for revisions with a slash."""
        if self.hub.faults.status is not None:
            raise HubError(self.hub.faults.status, "", "out of order")
        if match := _API.fullmatch(path):
            self._send(200, self.hub.info(match["repo"], unquote(match["rev"] or "main")))
        elif match := _TREE.fullmatch(path):
            self._send(200, self.hub.tree(match["repo"], unquote(match["rev"])))
        elif match := _RESOLVE.fullmatch(path):
            commit, data = self.hub.content(match["repo"], unquote(match["rev"]), unquote(match["path"]))
            self._send_file(commit, data)
        else:
            raise HubError(404, "", "no such route")  # /api/agent-harnesses among them

    def _send_file(self, commit: str, data: bytes) -> None:
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        wanted = _RANGE.fullmatch(self.headers.get("Range") or "")
        if wanted is None:
            self._send(200, data, headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(206, data[first : last + 1], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        sent = 0 if self.command == "HEAD" else len(body)
        asked = self.headers.get("Range"), sent, status, "Authorization" in self.headers
        self.hub.requests.append(Request(self.command, self.path, *asked))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if sent:
            self.wfile.write(body)


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """Serve a folder of repositories on a free port of the loopback interface."""
    hub = Hub(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
