"""A Hugging Face hub with one model in it, as far as huggingface_hub's download asks for it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(folder: Path, name: str) -> Iterator[str]:
    """Serve the files of a folder as the model `name`; gives the address for HF_ENDPOINT."""
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Says nothing."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            file = path.rpartition("/")[2]
            if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                siblings = [{"rfilename": file} for file in sorted(files)]
                self.answer({"id": name, "sha": COMMIT, "siblings": siblings})
            elif path == f"/api/models/{name}/tree/{COMMIT}":
                self.answer([entry(file, data) for file, data in sorted(files.items())])
            elif path == f"/{name}/resolve/{COMMIT}/{file}" and file in files:
                self.give(files[file], "application/octet-stream")
            else:
                known = path.startswith(f"/api/models/{name}/")
                self.send_response(HTTPStatus.NOT_FOUND)
                self.send_header("X-Error-Code", "RevisionNotFound" if known else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def answer(self, value: object) -> None:
            self.give(json.dumps(value).encode(), "application/json")

        def give(self, data: bytes, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def entry(file: str, data: bytes) -> dict[str, object]:
    """A file as the tree listing shows it."""
    return {
        "type": "file",
        "path": file,
        "size": len(data),
        "oid": hashlib.sha1(data).hexdigest(),
    }
