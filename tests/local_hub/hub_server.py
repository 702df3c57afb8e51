"""The few answers of the Hugging Face Hub that uploads and downloads need, from a directory: ``HF_ENDPOINT`` names it.

huggingface_hub has no local backend, so its own client runs against this server. Every commit is a whole copy of the
repository, ``ROOT/<type>s/<owner>/<name>/commits/<hash>``; ``branches.json`` says which one a branch ends at.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

_REPO = r"(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)"


class Hub:
    """A running server; ``with Hub(directory) as hub``: ``hub.endpoint`` is its address."""

    def __init__(self, root: Path) -> None:
        handler = type("Handler", (_Handler,), {"root": root})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.root = root

    def __enter__(self) -> Hub:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def head(self, repo: str, branch: str = "main", kind: str = "models") -> Path:
        """The files that a branch ends at."""
        place = self.root / kind / repo
        return place / "commits" / json.loads((place / "branches.json").read_text())[branch]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create":
            asked = json.loads(body)
            return self._create(f"{asked.get('type', 'model')}s", f"{asked['organization']}/{asked['name']}")
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if (found := re.fullmatch(rf"/api/{_REPO}/(preupload|commit|branch)/(.+)", path)) is None:
            return self._missing("EntryNotFound")
        place, (what, revision) = self.root / found["kind"] / found["id"], found.groups()[2:]
        if what == "branch":
            return self._branch(place, revision)
        if what == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        return self._commit(place, revision, [json.loads(line) for line in body.splitlines()])

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(rf"/api/{_REPO}(?:/(revision|tree)/(.+))?", path):
            commit = self._found(self.root / found["kind"] / found["id"], found[4] or "main")
            if commit is not None:
                files = [p.relative_to(commit).as_posix() for p in sorted(commit.rglob("*")) if p.is_file()]
                listed = [{"type": "file", "path": f, "size": (commit / f).stat().st_size, "oid": "0"} for f in files]
                info = {"id": found["id"], "sha": commit.name, "siblings": [{"rfilename": f} for f in files]}
                self._json(listed if found[3] == "tree" else info)
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            commit = self._found(self.root / (found[1] or "models/") / found[2], found[3])
            if commit is not None:
                self._file(commit, found[4])
        else:
            self._missing("EntryNotFound")

    do_HEAD = do_GET  # noqa: N815

    def _create(self, kind: str, repo: str) -> None:
        place, there = self.root / kind / repo, (self.root / kind / repo).is_dir()
        if not there:
            (place / "commits" / ("0" * 40)).mkdir(parents=True)
            (place / "branches.json").write_text(json.dumps({"main": "0" * 40}))
        self._json({"url": f"http://{self.headers['Host']}/{repo}", "id": repo}, 409 if there else 200)

    def _branch(self, place: Path, branch: str) -> None:
        branches = json.loads((place / "branches.json").read_text())
        there = branch in branches
        (place / "branches.json").write_text(json.dumps({branch: branches["main"], **branches}))
        self._json({}, 409 if there else 200)

    def _commit(self, place: Path, branch: str, lines: list[dict]) -> None:
        branches = json.loads((place / "branches.json").read_text())
        if lines[0]["value"].get("parentCommit", branches[branch]) != branches[branch]:
            self._json({"error": "A commit has happened since."}, 412)
            return
        made = place / "commits" / hashlib.sha1(json.dumps([branches[branch], lines]).encode()).hexdigest()
        shutil.copytree(place / "commits" / branches[branch], made)
        for line in lines:
            path = made / line["value"].get("path", "")
            if line["key"] == "deletedFile":
                path.unlink()
            elif line["key"] == "file":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        (place / "branches.json").write_text(json.dumps({**branches, branch: made.name}))
        repo = place.relative_to(self.root).as_posix().removeprefix("models/")
        self._json({"commitUrl": f"http://{self.headers['Host']}/{repo}/commit/{made.name}", "commitOid": made.name})

    def _found(self, place: Path, revision: str) -> Path | None:
        if not place.is_dir():
            return self._missing("RepoNotFound", 401)
        branches = json.loads((place / "branches.json").read_text())
        commit = place / "commits" / branches.get(revision, revision)
        return commit if commit.is_dir() else self._missing("RevisionNotFound")

    def _file(self, commit: Path, name: str) -> None:
        if not (commit / name).is_file():
            return self._missing("EntryNotFound", commit=commit.name)
        content = (commit / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit.name}
        return self._send(content, 200, headers)

    def _missing(self, code: str, status: int = 404, commit: str = "") -> None:
        self._send(b"{}", status, {"X-Error-Code": code, **({"X-Repo-Commit": commit} if commit else {})})

    def _json(self, content: object, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
