"""A small WebHDFS server on loopback: the part of the REST protocol that reading and writing need.

As in Hadoop, reads and writes are sent on to a second address, the node that has the data.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PREFIX, NODE = "/webhdfs/v1", "/node"


class WebHdfs(ThreadingHTTPServer):
    """Files by path; ``failures`` reads of data are answered by an error."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.failures = 0
        self.url = f"webhdfs://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def status(self, path: str) -> dict[str, Any] | None:
        """What the protocol says of a file or a folder."""
        if path in self.files:
            size, kind = len(self.files[path]), "FILE"
        elif any(name.startswith(path.rstrip("/") + "/") for name in self.files):
            size, kind = 0, "DIRECTORY"
        else:
            return None
        return {"pathSuffix": path.rpartition("/")[2], "type": kind, "length": size,
                "modificationTime": 1_700_000_000_000}  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebHdfs

    def _serve(self) -> None:
        asked = urlsplit(self.path)
        query = {name.lower(): value[0] for name, value in parse_qs(asked.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(asked.path)
        if path.startswith(NODE):
            self._of_node(path.removeprefix(NODE), query, body)
        else:
            getattr(self, f"_{query['op'].lower()}")(path.removeprefix(PREFIX), query)

    do_GET = do_PUT = do_POST = do_DELETE = _serve

    def _getfilestatus(self, path: str, query: dict[str, str]) -> None:
        found = self.server.status(path)
        if found is None:
            said = {"exception": "FileNotFoundException", "message": f"File does not exist: {path}"}
            return self._answer(404, json.dumps({"RemoteException": said}).encode())
        return self._answer(200, json.dumps({"FileStatus": {**found, "pathSuffix": ""}}).encode())

    def _liststatus(self, path: str, query: dict[str, str]) -> None:
        start = path.rstrip("/") + "/"
        below = [name.removeprefix(start) for name in self.server.files if name.startswith(start)]
        names = sorted({name.partition("/")[0] for name in below})
        found = [self.server.status(start + name) for name in names]
        self._answer(200, json.dumps({"FileStatuses": {"FileStatus": found}}).encode())

    def _mkdirs(self, path: str, query: dict[str, str]) -> None:
        self._answer(200, b'{"boolean": true}')

    def _delete(self, path: str, query: dict[str, str]) -> None:
        self.server.files.pop(path)
        self._answer(200, b'{"boolean": true}')

    def _open(self, path: str, query: dict[str, str]) -> None:
        self._answer(
            307, b"", f"http://127.0.0.1:{self.server.server_port}{NODE}{self.path[len(PREFIX) :]}"
        )

    _create = _append = _open

    def _of_node(self, path: str, query: dict[str, str], body: bytes) -> None:
        files, op = self.server.files, query["op"]
        if op == "OPEN" and self.server.failures:
            self.server.failures -= 1
            return self._answer(500, b'{"RemoteException": {"message": "the disk is broken"}}')
        if op == "OPEN":
            start = int(query["offset"])
            return self._answer(200, files[path][start : start + int(query["length"])])
        files[path] = body if op == "CREATE" else files[path] + body
        return self._answer(200, b"")

    def _answer(self, code: int, content: bytes, location: str = "") -> None:
        self.send_response(code)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
