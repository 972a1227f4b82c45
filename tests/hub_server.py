"""A local server that answers what huggingface_hub asks of the hub to upload and download files."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789" * 4


class HubServer(ThreadingHTTPServer):
    """Holds the files of repositories, each of one revision.

    Attributes:
        repositories: their files' content, by repository and name.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer secret":
            self._send(401, b'{"error": "Invalid username or password."}')
        elif self.path == "/api/repos/create":
            asked = json.loads(sent)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            self._send_json(url=f"{self.server.url}/{name}", id=name)
        elif self.path == "/api/validate-yaml":  # a model card's
            self._send_json(errors=[], warnings=[])
        elif self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(sent)["files"]]
            modes = [dict(path=n, uploadMode="regular", shouldIgnore=False) for n in names]
            self._send_json(files=modes)
        elif self.path.endswith("/commit/main"):
            owner, name = self.path.split("/")[3:5]
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[f"{owner}/{name}"][line["value"]["path"]] = content
            url = f"{self.server.url}/{owner}/{name}/commit/{COMMIT}"
            self._send_json(success=True, commitOid=COMMIT, commitUrl=url, hookOutput="")
        else:
            self._send(404)

    def do_GET(self) -> None:
        parts = self.path.split("/")
        if parts[3:4] == ["resolve"]:
            files = self.server.repositories.get("/".join(parts[1:3]))
            content = (files or {}).get(parts[-1])
            if content is None:
                code = "EntryNotFound" if files is not None else "RepoNotFound"
                self._send(404, **{"X-Error-Code": code})
            else:
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self._send(200, content, **{"ETag": etag, "X-Repo-Commit": COMMIT})
        elif parts[1:3] == ["api", "models"] and "/".join(parts[3:5]) in self.server.repositories:
            self._send_json(id="/".join(parts[3:5]), sha=COMMIT, siblings=[])
        else:
            self._send(404)

    do_HEAD = do_GET

    def _send_json(self, **content: object) -> None:
        self._send(200, json.dumps(content).encode(), **{"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
