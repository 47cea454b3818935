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


def handler(
    files: dict[str, bytes], name: str, *, gated: bool, altered: str, still_to_cut: set[str]
) -> type[BaseHTTPRequestHandler]:
    """What answers for `serving`; the arguments are as there."""

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Says nothing."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            file = path.rpartition("/")[2]
            if gated:
                self.refuse(HTTPStatus.FORBIDDEN, "GatedRepo")
            elif path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                siblings = [{"rfilename": file} for file in sorted(files)]
                self.answer({"id": name, "sha": COMMIT, "siblings": siblings})
            elif path == f"/api/models/{name}/tree/{COMMIT}":
                self.answer([entry(file, data) for file, data in sorted(files.items())])
            elif path == f"/{name}/resolve/{COMMIT}/{file}" and file in files:
                data = files[file]
                if file == altered:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                self.give(data, "application/octet-stream", cut=file in still_to_cut)
                if self.command == "GET":
                    still_to_cut.discard(file)
            else:
                known = path.startswith(f"/api/models/{name}/")
                code = "RevisionNotFound" if known else "RepoNotFound"
                self.refuse(HTTPStatus.NOT_FOUND, code)

        def refuse(self, status: HTTPStatus, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, value: object) -> None:
            self.give(json.dumps(value).encode(), "application/json")

        def give(self, data: bytes, kind: str, *, cut: bool = False) -> None:
            asked = self.headers.get("Range", "")
            first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
            self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data) - first))
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[first : len(data) // 2] if cut else data[first:])
                self.close_connection |= cut

    return Hub


@contextmanager
def serving(
    folder: Path, name: str, *, gated: bool = False, altered: str = "", cut: str = ""
) -> Iterator[str]:
    """Serve the files of a folder as the model `name`; gives the address for HF_ENDPOINT.

    Args:
        gated: its terms have to be accepted first.
        altered: a file of which other bytes are sent than the listing promises.
        cut: a file whose connection breaks half-way, once.
    """
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0),
        handler(files, name, gated=gated, altered=altered, still_to_cut={cut} - {""}),
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def entry(file: str, data: bytes) -> dict[str, object]:
    """A file as the tree listing shows it; weights as Git LFS keeps them."""
    plain = {
        "type": "file",
        "path": file,
        "size": len(data),
        "oid": hashlib.sha1(data).hexdigest(),
    }
    if not file.endswith(".safetensors"):
        return plain
    lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return plain | {"lfs": lfs}
