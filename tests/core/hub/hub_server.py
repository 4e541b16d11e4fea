"""A small hub on loopback over real HTTP: repositories with branches and commits, large files by LFS, and faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".gguf", ".safetensors")
TOKEN = "hf_a_token_that_may_write"
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Repo:
    """Commits by id, each with its files, and branches that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    ignored: tuple[str, ...] = ()  # by its .gitignore

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        made = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[made] = files
        self.branches[branch] = made
        return made

    def head(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """What the hub holds, what it was asked, and how it misbehaves."""

    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, bytes sent or given
    headers: list[dict[str, str]] = field(default_factory=list)
    says: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # part of a path: status, error code, message
    cut_up: list[int] = field(default_factory=list)  # the next bodies sent are cut after so many bytes
    cut_down: list[int] = field(default_factory=list)  # ... or given
    stall_down: list[int] = field(default_factory=list)  # the next bodies given stop after so many bytes
    sizes: dict[str, int] = field(default_factory=dict)  # what is told of a file in place of the truth
    garbled: set[str] = field(default_factory=set)  # paths of files given with one bit changed
    stalled: set[str] = field(default_factory=set)  # parts of paths that are never answered
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def repo(self, name: str = "ada/tutor", **more: Any) -> Repo:
        made = self.repos[name] = Repo(**more)
        made.commit("main", {".gitattributes": b"*.gguf filter=lfs\n"})
        return made

    def count(self, method: str, part: str) -> int:
        return sum(1 for each in self.asked if each[0] == method and part in each[1])


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body go together
    hub: Hub

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815 - the names of the standard library

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self._body(path)
        if body is None:
            return
        hub.asked.append((self.command, path, len(body)))
        hub.headers.append({name.lower(): value for name, value in self.headers.items()})
        refusals = [said for part, said in hub.says.items() if part in path]
        if any(part in path for part in hub.stalled):
            hub.go_on.wait(20)
            self.close_connection = True
        elif refusals:
            self._refuse(*refusals[0])
        else:
            self._route(path, body)

    def _body(self, path: str) -> bytes | None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            return self._chunked()
        if self.command == "PUT" and self.hub.cut_up:
            self.rfile.read(min(length, self.hub.cut_up.pop(0)))
            self.hub.asked.append(("CUT", path, 0))
            self._reset()
            return None
        return self.rfile.read(length)

    def _chunked(self) -> bytes:
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _say(self, status: int, told: object, headers: dict[str, str] | None = None) -> None:
        self._give(json.dumps(told).encode(), {"Content-Type": "application/json", **(headers or {})}, status)

    def _give(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def _route(self, path: str, body: bytes) -> None:
        routes = (
            (r"/api/validate-yaml", self._validated),
            (r"/objects/(?P<oid>[0-9a-f]{64})", self._take),
            (r"/verify", lambda _body: self._say(200, {})),
            (rf"/{_REPO}\.git/info/lfs/objects/batch", self._batch),
            (rf"/api/models/{_REPO}/preupload/(?P<revision>.+)", self._preupload),
            (rf"/api/models/{_REPO}/commit/(?P<revision>.+)", self._commit),
            (rf"/api/models/{_REPO}/revision/(?P<revision>.+)", self._info),
            (rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)", self._tree),
            (rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._file),
        )
        for pattern, answer in routes:
            if found := re.fullmatch(pattern, path):
                parts = found.groupdict()
                repo = self._seen(parts) if "repo" in parts else None
                if "repo" in parts and repo is None:
                    return None
                more = {name: value for name, value in parts.items() if name != "repo"}
                return answer(body, **({"repo": repo} if repo else {}), **more)
        return self._say(404, {"error": path})

    def _seen(self, parts: dict[str, str]) -> Repo | None:
        """Return the repository where this token may see it, having said why where not."""
        writes = self.command in {"POST", "PUT"}
        repo = self.hub.repos.get(parts["repo"])
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if given and given != TOKEN:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repo is None:
            self._refuse(404 if given else 401, "RepoNotFound", "Repository not found")
        elif writes and not given:
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif repo.gated and not given:
            self._refuse(401, "GatedRepo", "Access to model is restricted")
        elif "revision" in parts and repo.resolve(parts["revision"]) is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
        else:
            return repo
        return None

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._say(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _validated(self, _body: bytes) -> None:
        self._say(200, {"errors": [], "warnings": []})

    def _info(self, _body: bytes, repo: Repo, revision: str) -> None:
        commit = str(repo.resolve(revision))
        files = [{"rfilename": path} for path in repo.commits[commit]]
        self._say(200, {"id": "x/y", "sha": commit, "siblings": files, "gated": "manual" if repo.gated else False})

    def _tree(self, _body: bytes, repo: Repo, revision: str) -> None:
        told = []
        for path, data in repo.commits[str(repo.resolve(revision))].items():
            lfs = {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 130}} if path.endswith(LARGE) else {}
            size = self.hub.sizes.get(path, len(data))
            told.append({"type": "file", "path": path, "size": size, "oid": blob_id(data), **lfs})
        self._say(200, told)

    def _preupload(self, body: bytes, repo: Repo, revision: str) -> None:
        told = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            told.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": file["path"].endswith(repo.ignored)})
        self._say(200, {"files": told, "revision": revision})

    def _batch(self, body: bytes, **_: object) -> None:
        verify, told = {"href": f"{self.hub.url}/verify"}, []
        for one in json.loads(body)["objects"]:
            upload = {"href": f"{self.hub.url}/objects/{one['oid']}?X-Signature=secretsecretsecret"}
            missing = {} if one["oid"] in self.hub.objects else {"actions": {"upload": upload, "verify": verify}}
            told.append({**one, **missing})
        self._say(200, {"transfer": "basic", "objects": told})

    def _take(self, body: bytes, oid: str) -> None:
        if sha256(body) != oid:
            return self._say(422, {"error": "other bytes"})
        self.hub.objects[oid] = body
        return self._say(200, {})

    def _commit(self, body: bytes, repo: Repo, revision: str) -> None:
        files, branch = dict(repo.head(revision)), revision
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") != repo.branches[branch]:
                return self._refuse(412, "", "A commit has happened since")
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        made = repo.commit(branch, files)
        return self._say(200, {"commitUrl": f"{self.hub.url}/x/y/commit/{made}", "commitOid": made})

    def _file(self, _body: bytes, repo: Repo, revision: str, file: str) -> None:
        commit = str(repo.resolve(revision))
        data = repo.commits[commit].get(file)
        if data is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        etag = sha256(data) if file.endswith(LARGE) else blob_id(data)
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(len(data)),
            "X-Linked-ETag": f'"{etag}"',
        }
        headers["Accept-Ranges"] = "bytes"
        if file in self.hub.garbled:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, status = 0, 200
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start, status = int(asked[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and file.endswith(LARGE) and (self.hub.cut_down or self.hub.stall_down):
            return self._cut(data[start:], headers, status)
        return self._give(data[start:], headers, status)

    def _cut(self, data: bytes, headers: dict[str, str], status: int) -> None:
        stalls = bool(self.hub.stall_down)
        kept = data[: (self.hub.stall_down if stalls else self.hub.cut_down).pop(0)]
        self._give(kept, {**headers, "Content-Length": str(len(data))}, status)
        self.wfile.flush()
        self.close_connection = True
        if stalls:
            self.hub.go_on.wait(20)
        else:
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    answer = type("Answer", (_Answer,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), answer)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
