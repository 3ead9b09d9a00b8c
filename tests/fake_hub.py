"""A hub on the loopback interface: what huggingface_hub calls to make, fill and read a model, over real HTTP.

Routes and answers are those of huggingface_hub 2.4 (`hf_api.py`, `_commit_api.py`, `lfs.py`,
`_snapshot_download.py`, `file_download.py`). Large files go by LFS; Xet, which needs a server of its own, is
turned off by the environment of `FakeHub.environment`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_NeverToBeSeenAnywhere123456"
LFS = (".safetensors", ".png")
"""Endings of the files that this hub wants by LFS."""


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    """Branch -> commit."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> its files."""
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        number = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[number] = files
        self.branches[branch] = number
        self.messages.append(message)
        return number

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


@dataclass
class FakeHub:
    """The state of the hub.

    Attributes:
        fails: (method, pattern of the path) -> the status and the error that is answered.
    """

    address: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    fails: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables that make a process use this hub, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(cache),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def downloads(self) -> list[str]:
        """Names of the files that were fetched."""
        fetched = (path for method, path in self.calls if method == "GET" and "/resolve/" in path)
        return [path.rpartition("/")[2] for path in fetched]


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.calls.append((self.command, path))
        for (method, pattern), (status, words) in self.hub.fails.items():
            if method == self.command and re.search(pattern, path):
                self._json({"error": words}, status)
                return
        for pattern, method in ROUTES.items():
            found = re.fullmatch(pattern, path)
            if found:
                method(self, content, **found.groupdict())
                return
        self._json({"error": f"no route {self.command} {path}"}, 404)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def _signed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repo(self, name: str) -> Repo | None:
        found = self.hub.repos.get(name)
        if found is None or (found.private and not self._signed):
            self._json({"error": "Repository not found"}, 401, **{"X-Error-Code": "RepoNotFound"})
            return None
        return found

    def create(self, content: bytes) -> None:
        asked = json.loads(content)
        if not self._signed:
            self._json({"error": "Invalid username or password."}, 401)
            return
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            address = f"{self.hub.address}/{name}"
            self._json({"error": "You already created this model repo", "url": address}, 409)
            return
        repo = self.hub.repos[name] = Repo(asked.get("visibility") == "private")
        repo.commit("main", {".gitattributes": b""}, "initial commit")
        self._json({"url": f"{self.hub.address}/{name}", "name": name})

    def branch(self, content: bytes, repo: str, branch: str) -> None:
        found = self._repo(repo)
        if found is not None and branch in found.branches:
            self._json({"error": "Reference already exists"}, 409)
        elif found is not None:
            found.branches[branch] = found.branches["main"]
            self._json({})

    def validate(self, content: bytes) -> None:
        text = json.loads(content)["content"]
        metadata = yaml.safe_load(text.split("---")[1])
        wrong = [] if isinstance(metadata, dict) and metadata.get("license") else ["no license"]
        self._json({"errors": [{"message": part} for part in wrong], "warnings": []}, 400 if wrong else 200)

    def preupload(self, content: bytes, repo: str, revision: str) -> None:
        if self._repo(repo) is None:
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(content)["files"]
        ]
        self._json({"files": files})

    def batch(self, content: bytes, repo: str) -> None:
        found = [
            {
                **{key: part[key] for key in ("oid", "size")},
                "actions": {"upload": {"href": f"{self.hub.address}/lfs/{part['oid']}", "header": {}}},
            }
            for part in json.loads(content)["objects"]
        ]
        self._json({"transfer": "basic", "objects": found})

    def store(self, content: bytes, oid: str) -> None:
        assert self.headers.get("Authorization") is None, "the storage of LFS must not see the token"
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.blobs[oid] = content
        self._send(b"", 200, {})

    def commit(self, content: bytes, repo: str, revision: str) -> None:
        found = self._repo(repo)
        if found is None:
            return
        files, message = dict(found.files(revision)), ""
        for line in content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                assert entry["key"] == "deletedFile", entry
                del files[value["path"]]
        number = found.commit(revision, files, message)
        self._json({"commitUrl": f"{self.hub.address}/{repo}/commit/{number}", "commitOid": number})

    def _at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        found = self._repo(repo)
        if found is None:
            return None
        number = found.branches.get(revision, revision)
        if number not in found.commits:
            self._json({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
            return None
        return number, found.commits[number]

    def info(self, content: bytes, repo: str, revision: str = "main") -> None:
        found = self._at(repo, revision)
        if found is not None:
            number, files = found
            private = self.hub.repos[repo].private
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": repo, "sha": number, "private": private, "siblings": siblings, "tags": []})

    def tree(self, content: bytes, repo: str, revision: str) -> None:
        found = self._at(repo, revision)
        if found is not None:
            self._json([_entry(name, value) for name, value in found[1].items()])

    def resolve(self, content: bytes, repo: str, revision: str, name: str) -> None:
        found = self._at(repo, revision)
        if found is None:
            return
        number, files = found
        headers = {"X-Repo-Commit": number}
        if name not in files:
            self._json({"error": "Entry not found"}, 404, **headers, **{"X-Error-Code": "EntryNotFound"})
            return
        self._send(files[name], 200, {**headers, "ETag": f'"{_etag(name, files[name])}"'})


def _etag(name: str, content: bytes) -> str:
    if name.endswith(LFS):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": _etag(name, content)}
    if name.endswith(LFS):
        found["lfs"] = {"oid": _etag(name, content), "size": len(content), "pointerSize": 130}
    return found


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES: dict[str, Any] = {
    "/api/repos/create": _Handler.create,
    "/api/validate-yaml": _Handler.validate,
    rf"/api/models/{_REPO}/branch/(?P<branch>.+)": _Handler.branch,
    rf"/api/models/{_REPO}/preupload/{_REVISION}": _Handler.preupload,
    rf"/api/models/{_REPO}/commit/{_REVISION}": _Handler.commit,
    rf"/api/models/{_REPO}/tree/{_REVISION}": _Handler.tree,
    rf"/api/models/{_REPO}/revision/{_REVISION}": _Handler.info,
    rf"/api/models/{_REPO}": _Handler.info,
    rf"/{_REPO}\.git/info/lfs/objects/batch": _Handler.batch,
    "/lfs/(?P<oid>[0-9a-f]+)": _Handler.store,
    rf"/{_REPO}/resolve/{_REVISION}/(?P<name>.+)": _Handler.resolve,
}
