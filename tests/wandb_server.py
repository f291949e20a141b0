"""A stand-in for a W&B server on loopback: it takes runs and reports without an account, and keeps what it was sent."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER = {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}


class Server:
    """What the server holds. ``groups`` are the groups of its one project ``me/cvae``, by their number of runs."""

    def __init__(self, status: int = 200, groups: dict[str, int] | None = None) -> None:
        self.status = status
        self.groups = groups or {}
        self.reports: list[dict[str, Any]] = []
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.files: list[str] = []
        self.runs: list[dict[str, Any]] = []  # as their first request describes them
        self.artifact: dict[str, bytes] = {}  # the files of the artifacts
        self.url = ""

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL operation."""
        name = given.get("projectName") or given.get("project") or given.get("name")
        known = name == "cvae"
        project = {"id": "p", "internalId": "42", "name": name, "entityName": "me", "entity": {"id": "e", "name": "me"}}
        page = {"endCursor": None, "hasNextPage": False}
        if operation in ("Viewer", "GetDefaultEntity"):
            return {"viewer": USER}
        if operation == "ProjectInternalId":
            return {"project": project if known else None}
        if operation == "GetProjects":
            node = {**project, "name": "cvae", "createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None}
            return {"models": {"edges": [{"node": node, "cursor": "c"}], "pageInfo": page}}
        if operation == "Runs":
            asked = json.loads(given.get("filters") or "{}").get("group")
            count = sum(number for group, number in self.groups.items() if asked in (None, group))
            runs = {"edges": [], "pageInfo": page}
            return {"project": {"internalId": "42", "runCount": count, "readOnly": False, "runs": runs} if known else None}
        if operation == "upsertView":
            self.reports.append({**given, "spec": json.loads(given["spec"])})
            view = {"id": "Vmlldzox", "project": project, "updatedAt": "2026-01-01T00:00:00"}
            shown = {key: given[key] for key in ("type", "name", "displayName", "description", "spec")}
            return {"upsertView": {"view": {**view, **shown}, "inserted": True}}
        if operation == "RunResumeStatus":
            return {"model": None}
        if operation.startswith(("Artifact", "CreateArtifact", "UpdateArtifact", "CommitArtifact")):
            return self._artifacts(operation, given)
        if operation == "UpsertBucket":
            self.runs.append(given)
            run = {key: given.get(key) for key in ("name", "displayName", "config")}
            return {"upsertBucket": {"bucket": {"id": "r", **run, "project": project, "historyLineCount": 0}, "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _artifacts(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        manifest = {"id": "m", "file": {"id": "f", "uploadUrl": f"{self.url}/artifact/manifest", "uploadHeaders": []}}
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        if operation == "CreateArtifact":
            made = {"id": "a", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": made}}
        if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            return {operation[0].lower() + operation[1:]: {"artifactManifest": manifest}}
        if operation == "CreateArtifactFiles":
            names = [each["name"] for each in given["input"]["artifactFiles"]]
            node = {"uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": "a"}}
            edges = [{"node": {**node, "storagePath": n, "uploadUrl": f"{self.url}/artifact/{n}", "name": n}} for n in names]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        project = {"id": "p", "internalId": "42", "name": "cvae", "entity": {"id": "e", "name": "me"}}
        none = dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt"))
        plain = {"versionIndex": 0, "ttlDurationSeconds": -2, "ttlIsInherited": True, "tags": [], "size": 1, "digest": "d"}
        plain |= {"state": "COMMITTED", "fileCount": 1, "createdAt": "2026-01-01T00:00:00", "aliases": []}
        sequence = {"__typename": "ArtifactSequence", "id": "s", "name": "run", "project": project}
        return {"artifact": {"id": "a", "artifactSequence": sequence, "artifactType": {"name": "run"}, **none, **plain}}

    def take(self, path: str, body: bytes) -> None:
        """A request that is no GraphQL: the lines of a run's history, or a file."""
        if path.endswith("/file_stream"):
            lines = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.history.setdefault(path.split("/")[-2], []).extend(json.loads(line) for line in lines)
        elif path.startswith("/upload/"):
            self.files.append(path.removeprefix("/upload/"))
        elif path.startswith("/artifact/"):
            self.artifact[path.removeprefix("/artifact/")] = body


@contextlib.contextmanager
def run_wandb(status: int = 200, groups: dict[str, int] | None = None) -> Iterator[Server]:
    """Start one; with another ``status`` it answers every request with that error."""
    state = Server(status, groups)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            answer: dict[str, Any] = {}
            if status == 200 and self.path == "/graphql":
                asked = json.loads(body)
                operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                assert operation
                answer = {"data": state.answer(operation[1], asked.get("variables") or {})}
            elif status == 200:
                state.take(self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_PUT = do_POST

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
