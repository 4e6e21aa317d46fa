"""A Hub on this machine: the few routes that looking up and downloading a model need."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "meta/gated"
BROKEN = "server/broken"


class FakeHub(ThreadingHTTPServer):
    """Serves model folders by id, and remembers what was asked of it."""

    daemon_threads = True

    def __init__(self, models: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.models = models
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> list[str]:
        """List the files whose contents were sent."""
        return sorted(path.rsplit("/", 1)[1] for path in self.asked if path.startswith("GET file"))


@contextmanager
def fake_hub(models: dict[str, Path]) -> Iterator[FakeHub]:
    """Run a hub while the block runs."""
    with FakeHub(models) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class HubHandler(BaseHTTPRequestHandler):
    """Answers for one request; the paths are those of the public Hub's API."""

    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(send_body=False)

    def do_GET(self) -> None:
        self.answer(send_body=True)

    def answer(self, *, send_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.answer_api("/".join(parts[2:4]), parts[4:], send_body=send_body)
        else:
            self.answer_file("/".join(parts[:2]), "/".join(parts[4:]), send_body=send_body)

    def answer_api(self, model: str, rest: list[str], *, send_body: bool) -> None:
        self.server.asked.append(f"API {model} {'/'.join(rest)}")
        if model == BROKEN:
            return self.refuse(500, "")
        folder = self.server.models.get(model)
        if folder is None:
            return self.refuse(404, "RepoNotFound")
        if rest and rest[0] == "revision" and rest[1] not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if rest and rest[0] == "tree":
            value: object = [
                {
                    "type": "file",
                    "path": path.relative_to(folder).as_posix(),
                    "size": path.stat().st_size,
                    "oid": oid(path),
                }
                for path in files
            ]
        else:
            value = {
                "id": model,
                "sha": COMMIT,
                "siblings": [
                    {
                        "rfilename": path.relative_to(folder).as_posix(),
                        "size": path.stat().st_size,
                        "blobId": oid(path),
                    }
                    for path in files
                ],
            }
        return self.send(json.dumps(value).encode(), send_body=send_body)

    def answer_file(self, model: str, name: str, *, send_body: bool) -> None:
        if model == GATED:
            return self.refuse(403, "GatedRepo")
        path = self.server.models[model] / name
        if send_body:
            self.server.asked.append(f"GET file/{name}")
        return self.send(path.read_bytes(), send_body=send_body, etag=oid(path))

    def send(self, body: bytes, *, send_body: bool, etag: str | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json" if etag is None else "text/plain")
        if etag is not None:
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "no")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Keep the test's output free of the server's."""


def oid(path: Path) -> str:
    """Name a file's contents the way git would, near enough."""
    return hashlib.sha1(path.read_bytes()).hexdigest()
