"""A Hub over bare git repositories: real commits, real compare-and-swap, faults on request.

``root/<owner>/<name>.git`` is a repository. The server keeps no state of its own beside accounts and faults: what a
test asserts is in git. A commit is made with plumbing and lands by ``git update-ref <ref> <new> <old>``.

What the Hub would do wrong is a :class:`Fault` on :attr:`GitHub.plan`, never a route.
"""

import base64
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from server import Hub, HubError, _Handler


def _environ() -> dict[str, str]:
    """Nobody's own git settings."""
    return {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


ZERO = "0" * 40
PAGE = 2  # repositories per page of a search, so that paging is always exercised
_REPO = r"/api/models/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Fault:
    """One thing that goes wrong.

    Attributes:
        path: Pattern that the request's path contains.
        how: ``status``: answered so, nothing applied. ``after``: applied, then answered so. ``drop``: connection
            closed, nothing applied. ``drop-after``: applied, then closed. ``truncate``: half of the body. ``delay``:
            answered late. ``bare``: without the commit's header.
        method: Requests of this method only.
        status: For ``status`` and ``after``.
        times: How many requests it hits.
        seconds: For ``delay``.
    """

    path: str
    how: Literal["status", "after", "drop", "drop-after", "truncate", "delay", "bare"]
    method: str | None = None
    status: int = 503
    times: int = 1
    seconds: float = 0.0
    hits: int = 0


class ClosedError(Exception):
    """The connection is to be closed without an answer."""


@dataclass(frozen=True)
class Account:
    """Who a token belongs to, and where they may write."""

    name: str
    namespaces: frozenset[str]


@dataclass
class GitHub(Hub):
    """The state behind the server.

    Attributes:
        accounts: Token to account.
        plan: What goes wrong.
        private: Repositories that only their owners see.
        proposals: Numbers of pull requests given out.
        closed: Pull requests that their owner closed, as ``repo#number``.
        trees: Listings by commit, which never change; git is asked once.
        interrupts: What happens before a request is answered; once each.
    """

    accounts: dict[str, Account] = field(default_factory=dict)
    plan: list[Fault] = field(default_factory=list)
    private: set[str] = field(default_factory=set)
    proposals: dict[str, int] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    interrupts: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    trees: dict[str, dict[str, tuple[str, int]]] = field(default_factory=dict)
    locks: dict[str, threading.Lock] = field(default_factory=dict)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def interrupt(self, path: str, call: Callable[[], None]) -> None:
        """Before the next request whose path contains a pattern is answered, something else happens."""
        self.interrupts.append((path, call))

    def git_dir(self, repo: str) -> Path:
        """The bare repository."""
        return self.root / f"{repo}.git"

    def git(self, repo: str, *arguments: str, data: bytes | None = None, **environment: str) -> str:
        """Run git in a repository."""
        environ = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            **environment,
        }
        ran = subprocess.run(
            ["git", "--git-dir", str(self.git_dir(repo)), *arguments],
            input=data, capture_output=True, check=False, env=environ,
        )  # fmt: skip
        if ran.returncode != 0:
            raise GitError(ran.stderr.decode())
        return ran.stdout.decode()

    def refs(self, repo: str, prefix: str) -> dict[str, str]:
        """Short name to commit."""
        out = self.git(repo, "for-each-ref", "--format=%(refname) %(objectname)", prefix)
        return {line.split()[0].removeprefix(prefix): line.split()[1] for line in out.splitlines()}

    def commit_of(self, repo: str, revision: str) -> str:
        """The commit that a revision means."""
        try:
            return self.git(repo, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
        except GitError:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}") from None

    def tree(self, repo: str, commit: str) -> dict[str, tuple[str, int]]:
        """Path to blob and size."""
        if commit in self.trees:
            return self.trees[commit]
        found = {}
        for line in self.git(repo, "ls-tree", "-r", "-l", "--full-tree", commit).splitlines():
            facts, _, path = line.partition("\t")
            found[path] = (facts.split()[2], int(facts.split()[3]))
        self.trees[commit] = found
        return found

    def blob(self, repo: str, commit: str, path: str) -> bytes:
        """Bytes of a file at a commit."""
        return subprocess.run(
            ["git", "--git-dir", str(self.git_dir(repo)), "cat-file", "blob", f"{commit}:{path}"],
            capture_output=True, check=True,
        ).stdout  # fmt: skip

    def read(self, repo: str, revision: str, path: str) -> bytes:
        """For tests: a file by any revision."""
        return self.blob(repo, self.commit_of(repo, revision), path)

    def log(self, repo: str, revision: str = "main") -> list[str]:
        """For tests: titles, newest first."""
        return self.git(repo, "log", "--format=%s", revision).splitlines()

    def make(self, repo: str) -> None:
        """An empty repository."""
        folder = self.git_dir(repo)
        folder.parent.mkdir(parents=True, exist_ok=True)
        environ = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(folder)], check=True, env=environ)
        attributes = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self.write(repo, "refs/heads/main", None, attributes, [], title="initial")

    def write(
        self, repo: str, ref: str, parent: str | None, add: dict[str, bytes], delete: list[str], *, title: str
    ) -> str:
        """Commit onto a ref that is still at ``parent``.

        Raises:
            HubError: 412, where it is not.
        """
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            if parent is not None:
                self.git(repo, "read-tree", parent, **index)
            lines = [f"0 {ZERO}\t{path}\n" for path in delete]
            for path, data in add.items():
                oid = self.git(repo, "hash-object", "-w", "--stdin", data=data).strip()
                lines.append(f"100644 {oid}\t{path}\n")
            self.git(repo, "update-index", "--index-info", data="".join(lines).encode(), **index)
            tree = self.git(repo, "write-tree", **index).strip()
            who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
                   for what, value in (("NAME", "hub"), ("EMAIL", "hub@example.org"))}  # fmt: skip
            parents = ["-p", parent] if parent else []
            commit = self.git(repo, "commit-tree", tree, *parents, "-m", title, **who).strip()
        try:
            self.git(repo, "update-ref", ref, commit, parent or ZERO)
        except GitError:
            raise HubError(412, "", "A commit has happened since. Please refresh and try again.") from None
        return commit

    def lock(self, repo: str) -> threading.Lock:
        """One writer per repository."""
        with self.guard:
            return self.locks.setdefault(repo, threading.Lock())

    def tags_of(self, repo: str, commit: str) -> list[str]:
        """Tags by which a repository is found: those of its card."""
        if "README.md" not in self.tree(repo, commit):
            return []
        match = re.match(r"---\n(.*?\n)---\n", self.blob(repo, commit, "README.md").decode(), re.DOTALL)
        card = yaml.safe_load(match[1]) if match else {}
        base = card.get("base_model")
        tags = [*card.get("tags", []), *([card["library_name"]] if "library_name" in card else [])]
        return tags + ([f"base_model:{base}"] if base else [])

    def repos(self) -> list[str]:
        """Every repository."""
        return sorted(str(path.relative_to(self.root)).removesuffix(".git") for path in self.root.glob("*/*.git"))


class GitError(Exception):
    """git said no."""


class _GitHandler(_Handler):
    hub: GitHub
    _body = b""
    _fault: Fault | None = None

    do_POST = do_DELETE = _Handler.do_GET

    def _answer(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for interrupt in [entry for entry in self.hub.interrupts if re.search(entry[0], self.path)]:
            self.hub.interrupts.remove(interrupt)
            interrupt[1]()
        self._fault = self._next_fault()
        how = self._fault.how if self._fault else None
        try:
            if how == "drop":
                raise ClosedError  # noqa: TRY301
            if how == "delay" and self._fault:
                time.sleep(self._fault.seconds)
            if how == "status" and self._fault:
                self._fault, status = None, self._fault.status
                self._refuse(HubError(status, "", "out of order"))
                return
            super()._answer()
        except ClosedError:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _next_fault(self) -> Fault | None:
        with self.hub.guard:
            for fault in self.hub.plan:
                if (
                    fault.hits < fault.times
                    and re.search(fault.path, self.path)
                    and fault.method in {None, self.command}
                ):
                    fault.hits += 1
                    return fault
        return None

    def _refuse(self, error: HubError) -> None:
        headers = {"X-Error-Message": str(error), **({"X-Error-Code": error.code} if error.code else {})}
        self._send(error.status, json.dumps({"error": str(error)}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        fault, self._fault = self._fault, None
        if fault is not None and fault.how == "drop-after":
            raise ClosedError
        if fault is not None and fault.how == "after":
            status, body, headers = fault.status, b'{"error":"out of order"}', {}
        if fault is not None and fault.how == "bare":
            headers = {key: value for key, value in (headers or {}).items() if key != "X-Repo-Commit"}
        if fault is not None and fault.how == "truncate" and self.command != "HEAD":
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            raise ClosedError
        super()._send(status, body, headers)

    def _json(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _account(self) -> Account | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.accounts:
            raise HubError(401, "", "Invalid credentials in Authorization header")
        return self.hub.accounts.get(token)

    def _writer(self, repo: str) -> Account:
        account = self._account()
        if account is None:
            raise HubError(401, "", "Invalid username or password.")
        if repo.partition("/")[0] not in account.namespaces:
            raise HubError(403, "", "You have read access but not the required permissions for this operation")
        return account

    def _readable(self, repo: str) -> str:
        account = self._account()
        allowed = account is not None and repo.partition("/")[0] in account.namespaces
        if not self.hub.git_dir(repo).is_dir() or (repo in self.hub.private and not allowed):
            raise HubError(404, "RepoNotFound", "Repository not found")
        if repo in self.hub.faults.gated and not allowed:
            raise HubError(403, "GatedRepo", f"Access to model {repo} is restricted")
        return repo

    def _route(self, path: str) -> None:
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == ("GET" if self.command == "HEAD" else self.command):
                answer(self, **{name: unquote(value or "") for name, value in match.groupdict().items()})
                return
        raise HubError(404, "", "no such route")  # /api/agent-harnesses among them

    def whoami(self) -> None:
        account = self._account()
        if account is None:
            raise HubError(401, "", "Invalid username or password.")
        orgs = [{"name": name} for name in sorted(account.namespaces - {account.name})]
        self._json({"type": "user", "name": account.name, "orgs": orgs})

    def create(self) -> None:
        data = json.loads(self._body)
        account = self._account()
        if account is None:
            raise HubError(401, "", "Invalid username or password.")
        repo = f"{data.get('organization') or account.name}/{data['name']}"
        self._writer(repo)
        url = f"{self.hub.endpoint}/{repo}"
        with self.hub.lock(repo):
            if self.hub.git_dir(repo).is_dir():
                self._json({"error": "You already created this model repo", "url": url}, 409)
                return
            self.hub.make(repo)
            if data.get("visibility") == "private":
                self.hub.private.add(repo)
        self._json({"url": url, "name": repo, "id": repo})

    def validate(self) -> None:
        text = json.loads(self._body)["content"]
        match = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
        ok = match is not None and isinstance(yaml.safe_load(match[1]), dict)
        self._json({"errors": [] if ok else [{"message": "no metadata"}], "warnings": []}, 200 if ok else 400)

    def info(self, repo: str, rev: str = "") -> None:
        self._readable(repo)
        commit = self.hub.commit_of(repo, rev or "main")
        self._json({
            "id": repo, "sha": commit, "private": repo in self.hub.private, "gated": False, "disabled": False,
            "tags": self.hub.tags_of(repo, commit), "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": name} for name in self.hub.tree(repo, commit)],
        })  # fmt: skip

    def search(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        found = []
        for repo in self.hub.repos():
            tags = self.hub.tags_of(repo, self.hub.commit_of(repo, "main"))
            owner = query.get("author", [repo.partition("/")[0]])[0]
            text = query.get("search", [""])[0]
            if set(query.get("filter", [])) <= set(tags) and repo.startswith(f"{owner}/") and text in repo:
                found.append({"_id": repo, "id": repo, "modelId": repo, "tags": tags})
        start = int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(found):
            again = "&".join(f"{key}={value}" for key, values in query.items() for value in values if key != "cursor")
            headers["Link"] = f'<{self.hub.endpoint}/api/models?{again}&cursor={start + PAGE}>; rel="next"'
        self._json(found[start : start + PAGE], headers=headers)

    def list_refs(self, repo: str) -> None:
        self._readable(repo)
        kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/"}
        if "include_prs" in self.path:
            kinds["pullRequests"] = "refs/pr/"
        self._json({
            kind: [{"name": name, "ref": prefix + name, "targetCommit": self.hub.commit_of(repo, commit)}
                   for name, commit in self.hub.refs(repo, prefix).items()]
            for kind, prefix in kinds.items()
        })  # fmt: skip

    def discussions(self, repo: str) -> None:
        self._readable(repo)
        wanted = parse_qs(urlsplit(self.path).query).get("status", ["all"])[0]
        found = [
            {"num": int(number), "title": "", "status": status, "author": {"name": "ann"}, "isPullRequest": True,
             "createdAt": "2026-01-01T00:00:00.000Z", "repo": {"name": repo, "type": "model"}}
            for number in self.hub.refs(repo, "refs/pr/")
            if wanted in {"all", status := "closed" if f"{repo}#{number}" in self.hub.closed else "open"}
        ]  # fmt: skip
        self._json({"discussions": found, "start": 0, "count": len(found)})

    def list_tree(self, repo: str, rev: str) -> None:
        self._readable(repo)
        entries = self.hub.tree(repo, self.hub.commit_of(repo, rev))
        self._json([
            {"type": "file", "oid": oid, "size": size, "path": path} for path, (oid, size) in sorted(entries.items())
        ])  # fmt: skip

    def paths_info(self, repo: str, rev: str) -> None:
        self._readable(repo)
        entries = self.hub.tree(repo, self.hub.commit_of(repo, rev))
        wanted = parse_qs(self._body.decode()).get("paths", [])
        self._json([
            {"type": "file", "oid": entries[path][0], "size": entries[path][1], "path": path}
            for path in wanted if path in entries
        ])  # fmt: skip

    def list_commits(self, repo: str, rev: str) -> None:
        self._readable(repo)
        out = self.hub.git(repo, "log", "--format=%H%x09%s", self.hub.commit_of(repo, rev))
        lines = [line.split("\t", 1) for line in out.splitlines()]
        self._json([
            {"id": oid, "title": title, "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
            for oid, title in lines
        ])  # fmt: skip

    def preupload(self, repo: str, rev: str) -> None:
        self._readable(repo)
        tree = self.hub.tree(repo, self.hub.commit_of(repo, rev))
        files = [
            {"path": entry["path"], "uploadMode": "regular", "shouldIgnore": False,
             **({"oid": tree[entry["path"]][0]} if entry["path"] in tree else {})}
            for entry in json.loads(self._body)["files"]
        ]  # fmt: skip
        self._json({"files": files})

    def commit(self, repo: str, rev: str) -> None:
        propose = "create_pr=1" in self.path
        self._readable(repo)
        if propose:
            if self._account() is None:
                raise HubError(401, "", "Invalid username or password.")
        else:
            self._writer(repo)
        lines = [json.loads(line) for line in self._body.splitlines() if line.strip()]
        header = lines[0]["value"]
        add, delete = {}, []
        for line in lines[1:]:
            if line["key"] == "file":
                add[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                delete.append(line["value"]["path"])
            else:
                raise HubError(400, "", f"{line['key']} is not served here")
        with self.hub.lock(repo):
            self._land(repo, rev, header, add, delete, propose=propose)

    def _land(
        self, repo: str, rev: str, header: dict[str, str], add: dict[str, bytes], delete: list[str], *, propose: bool
    ) -> None:
        ref = rev if rev.startswith("refs/pr/") else f"refs/heads/{rev}"
        head = self.hub.commit_of(repo, rev)
        wanted = header.get("parentCommit")
        if not propose and wanted and not head.startswith(wanted):
            raise HubError(412, "", "A commit has happened since. Please refresh and try again.")
        parent, data = head, {}
        if propose:
            number = self.hub.proposals[repo] = self.hub.proposals.get(repo, 0) + 1
            ref = f"refs/pr/{number}"
            data = {"pullRequestUrl": f"{self.hub.endpoint}/{repo}/discussions/{number}"}
            self.hub.git(repo, "update-ref", ref, head, ZERO)
        oid = self.hub.write(repo, ref, parent, add, delete, title=header["summary"])
        self._json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{oid}", "commitOid": oid, **data})

    def make_tag(self, repo: str, rev: str) -> None:
        self._readable(repo)
        self._writer(repo)
        tag = json.loads(self._body)["tag"]
        with self.hub.lock(repo):
            try:
                self.hub.git(repo, "update-ref", f"refs/tags/{tag}", self.hub.commit_of(repo, rev), ZERO)
            except GitError:
                raise HubError(409, "", f"Tag reference exists already: {tag}") from None
        self._json({})

    def resolve(self, repo: str, rev: str, path: str) -> None:
        self._readable(repo)
        commit = self.hub.commit_of(repo, rev)
        if path not in self.hub.tree(repo, commit):
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit}
            self._send(404, b"Entry not found", headers)
            return
        data = self.hub.blob(repo, commit, path)
        self._send_file(commit, data)


_ROUTES = [
    ("GET", r"/api/whoami-v2", _GitHandler.whoami),
    ("POST", r"/api/repos/create", _GitHandler.create),
    ("POST", r"/api/validate-yaml", _GitHandler.validate),
    ("GET", r"/api/models", _GitHandler.search),
    ("GET", _REPO + r"/refs", _GitHandler.list_refs),
    ("GET", _REPO + r"/discussions", _GitHandler.discussions),
    ("GET", _REPO + r"/tree/(?P<rev>[^/]+)/?", _GitHandler.list_tree),
    ("POST", _REPO + r"/paths-info/(?P<rev>[^/]+)", _GitHandler.paths_info),
    ("GET", _REPO + r"/commits/(?P<rev>[^/]+)", _GitHandler.list_commits),
    ("POST", _REPO + r"/preupload/(?P<rev>[^/]+)", _GitHandler.preupload),
    ("POST", _REPO + r"/commit/(?P<rev>[^/]+)", _GitHandler.commit),
    ("POST", _REPO + r"/tag/(?P<rev>[^/]+)", _GitHandler.make_tag),
    ("GET", _REPO + r"(?:/revision/(?P<rev>[^/]+))?", _GitHandler.info),
    ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)", _GitHandler.resolve),
]


@contextmanager
def serve_git(root: Path) -> Iterator[GitHub]:
    """Serve a folder of repositories on a free port of the loopback interface."""
    hub = GitHub(root)
    handler = type("Handler", (_GitHandler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
