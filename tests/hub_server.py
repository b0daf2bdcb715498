"""A Hugging Face Hub on the loopback: what its clients ask of it, answered from folders, and what can go wrong."""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".parquet")  # what the Hub keeps apart from the repository, on another host
TOKEN = "hf_of_a_member"
WAIT = 600  # seconds until the next request, which too many of them are answered with
# What a repository can be given as its trouble; "cut" ends every download half-way, "cut once" the first of each file.
TROUBLES = ("gated", "too many", "broken", "down", "silent", "cut", "cut once")


@dataclass
class Repository:
    """Files by path, as of one commit, and older ones by tag."""

    files: dict[str, bytes] = field(default_factory=dict)
    trouble: str | None = None
    cut: set[str] = field(default_factory=set)  # files whose download was cut once
    tags: dict[str, "Repository"] = field(default_factory=dict)

    def at(self, revision: str) -> "Repository | None":
        """The repository as of a branch, tag or commit."""
        if revision in ("main", self.commit):
            return self
        return self.tags.get(revision) or next((tag for tag in self.tags.values() if tag.commit == revision), None)

    @property
    def commit(self) -> str:
        content = b"".join(path.encode() + data for path, data in sorted(self.files.items()))
        return hashlib.sha1(content).hexdigest()


class Hub:
    """Repositories by (type, name), type being "models" or "datasets", and the requests that were made, also those of
    whoever isn't logged in alone."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.renamed: dict[str, str] = {}  # old names of models, and their new ones
        self.uploads: dict[str, bytes] = {}  # large files by sha256, before they are committed
        self.requests: list[str] = []
        self.of_strangers: list[str] = []
        self.ended = threading.Event()
        self.url = self.files_url = ""

    def add(self, kind: str, name: str, folder: Path | str | None = None, trouble: str | None = None) -> str:
        """Serve a folder's files as a repository; returns its name."""
        assert trouble is None or trouble in TROUBLES
        paths = [path for path in Path(folder).rglob("*") if path.is_file()] if folder else []
        files = {path.relative_to(str(folder)).as_posix(): path.read_bytes() for path in paths}
        self.repositories[kind, name] = Repository(files, trouble)
        return name

    def environment(self, home: Path, **changes: str) -> dict[str, str]:
        """Variables of a child process that takes this server for the Hub."""
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "TUTORKD_CACHE": str(home / "rows"),
        }
        others = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        return {**others, **own, **changes}


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that answers until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads, server.block_on_close = True, False
    hub.url, hub.files_url = (f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(f"{self.command} {path}")
        if not self._member:
            self.hub.of_strangers.append(f"{self.command} {path}")
        for old, new in self.hub.renamed.items():
            if re.match(rf"(/api/models)?/{old}(/|$)", path):
                return self._send(307, b"", Location=self.path.replace(old, new, 1))
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, path):
                return answer(self, **match.groupdict())
        return self._refuse(404, "EntryNotFound", f"no such address: {path}")

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def log_message(self, *args) -> None:
        pass

    # Answers

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), Content_Type="application/json")

    def _refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        content = json.dumps({"error": message}).encode()
        self._send(status, content, X_Error_Code=code, X_Error_Message=message, **headers)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    # Who asks for what

    @property
    def _member(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _find(self, kind: str, name: str, revision: str = "main", file: str = "") -> Repository | None:
        """The repository, or None where the request has been refused."""
        found = self.hub.repositories.get((kind or "models", name))
        if found is None:
            self._refuse(404 if self._member else 401, "RepoNotFound", "Repository not found")
        elif found.trouble == "gated" and file and file != "README.md" and not self._member:
            self._refuse(401, "GatedRepo", f"Access to {name} is restricted and you are not in the authorized list")
        elif found.trouble == "too many":
            self._send(429, b"Too many requests", Retry_After=str(WAIT))
        elif found.trouble in ("broken", "down"):
            self._send(500 if found.trouble == "broken" else 503, b"no answer today")
        elif found.trouble == "silent":
            self.hub.ended.wait()
            self._hang_up()
        elif (then := found.at(unquote(revision))) is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return then
        return None

    # Downloads

    def _resolve(self, kind: str, name: str, revision: str, file: str) -> None:
        kind = (kind or "models").strip("/")
        if (found := self._find(kind, name, revision, file)) is None:
            return None
        if file not in found.files:
            return self._refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=found.commit)
        content = found.files[file]
        if not file.endswith(LARGE):
            blob = hashlib.sha1(content).hexdigest()
            return self._send(200, content, ETag=f'"{blob}"', X_Repo_Commit=found.commit)
        return self._send(
            302,
            b"",
            Location=f"{self.hub.files_url}/files/{kind}/{name}/{found.commit}/{file}",
            X_Repo_Commit=found.commit,
            X_Linked_Size=str(len(content)),
            X_Linked_ETag=f'"{hashlib.sha256(content).hexdigest()}"',
        )

    def _large(self, kind: str, name: str, commit: str, file: str) -> None:
        """What another host gives, which mustn't see the token."""
        found = self.hub.repositories[kind, name].at(commit)
        content = found.files[file]
        if "Authorization" in self.headers:
            return self._refuse(400, "", "a token went to a host that isn't the Hub's")
        start, end = 0, len(content)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or end - 1) + 1, end)
        ranged = {"Content_Range": f"bytes {start}-{end - 1}/{len(content)}"} if match else {}
        if found.trouble == "cut" or (found.trouble == "cut once" and file not in found.cut):
            found.cut.add(file)
            part = content[start : max(start, len(content) // 2)]
            self._send(206 if match else 200, part, Content_Length=str(end - start), **ranged)
            return self._hang_up()
        return self._send(206 if match else 200, content[start:end], **ranged)

    def _info(self, kind: str, name: str, revision: str = "main") -> None:
        if (found := self._find(kind, name, revision)) is not None:
            siblings = [{"rfilename": path} for path in found.files]
            self._json({"id": name, "sha": found.commit, "private": False, "tags": [], "siblings": siblings})

    def _tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        """Files and folders in a folder; all beneath it where asked for."""
        if (found := self._find(kind, name, revision)) is None:
            return None
        beginning = f"{folder}/" if folder else ""
        entries = {}
        for path in found.files:
            if not path.startswith(beginning):
                continue
            inside, *deeper = path.removeprefix(beginning).split("/")
            if deeper:
                entries[beginning + inside] = {"type": "directory", "oid": "0" * 40, "size": 0}
            if not deeper or "recursive=true" in self.path.lower():
                entries[path] = _entry(found.files[path], path)
        if folder and not entries:
            return self._refuse(404, "EntryNotFound", f"{folder} does not exist", X_Repo_Commit=found.commit)
        return self._json([{"path": path, **entry} for path, entry in entries.items()])

    def _paths(self, kind: str, name: str, revision: str) -> None:
        if (found := self._find(kind, name, revision)) is not None:
            wanted = re.findall(r"paths=([^&]*)", self.body.decode())
            paths = [path for path in (unquote(path) for path in wanted) if path in found.files]
            self._json([{"path": path, **_entry(found.files[path], path)} for path in paths])

    # Uploads

    def _may_write(self) -> bool:
        if not self._member:
            self._refuse(401, "", "Invalid username or password.")
        return self._member

    def _create(self) -> None:
        if not self._may_write():
            return None
        asked = json.loads(self.body)
        if asked.get("organization") not in (None, "member"):
            return self._refuse(403, "", "You don't have the rights to create a model under this namespace")
        name = f"member/{asked['name']}"
        self.hub.repositories.setdefault(("models", name), Repository())
        return self._json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def _check_card(self) -> None:
        self._json({"errors": [], "warnings": []})

    def _before_upload(self, kind: str, name: str, revision: str) -> None:
        if self._may_write() and self._find(kind, name) is not None:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(self.body)["files"]
            ]
            self._json({"files": files})

    def _upload_where(self, name: str) -> None:
        if self._may_write():
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.hub.files_url}/upload/{wanted['oid']}"}}}
                for wanted in json.loads(self.body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})

    def _upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._refuse(400, "", "the content isn't what was announced")
        self.hub.uploads[oid] = self.body
        return self._send(200, b"")

    def _commit(self, kind: str, name: str, revision: str) -> None:
        if not self._may_write() or (found := self._find(kind, name)) is None:
            return
        for line in self.body.splitlines():
            change = json.loads(line)
            value = change["value"]
            if change["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                found.files[value["path"]] = self.hub.uploads[value["oid"]]
        url = f"{self.hub.url}/{name}/commit/{found.commit}"
        self._json({"success": True, "commitOid": found.commit, "commitUrl": url})


def _entry(content: bytes, path: str) -> dict:
    """A file in a listing."""
    entry = {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
    if path.endswith(LARGE):
        large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return {**entry, "lfs": large}
    return entry


_NAME = r"(?P<name>[^/]+(?:/[^/]+)?)"
_API = rf"/api/(?P<kind>models|datasets)/{_NAME}"
_ROUTES = [
    (rf"/(?P<kind>datasets/)?{_NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler._resolve),
    (r"/files/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/(?P<commit>[^/]+)/(?P<file>.+)", _Handler._large),
    (rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler._tree),
    (rf"{_API}/paths-info/(?P<revision>[^/]+)", _Handler._paths),
    (rf"{_API}/preupload/(?P<revision>[^/]+)", _Handler._before_upload),
    (rf"{_API}/commit/(?P<revision>[^/]+)", _Handler._commit),
    (rf"{_API}/revision/(?P<revision>.+)", _Handler._info),
    (_API, _Handler._info),
    (r"/api/repos/create", _Handler._create),
    (r"/api/validate-yaml", _Handler._check_card),
    (r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler._upload_where),
    (r"/upload/(?P<oid>[0-9a-f]{64})", _Handler._upload),
]
