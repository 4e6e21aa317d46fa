"""Who may talk to the window: only pages of its own, only under its own names, only with the
password where one is due.

Pure ASGI, before Gradio sees a request. How the window is started is left to `app`.
"""

import hashlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, PlainTextResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN_SITES = ("same-origin", "none")
TRIES = 5
LOCKED_SECONDS = 30.0


def headers_of(scope: Scope) -> dict[str, str]:
    return {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}


class SameOrigin:
    """Refuse changes asked for by a page of another site.

    A browser says where a request comes from in Sec-Fetch-Site, which no script can forge; where
    it does not (plain http to a name that is not loopback), Origin has to be the Host. Programs
    send neither, and may.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and foreign(scope):
            refusal = PlainTextResponse("Refused: this request comes from another site.", 403)
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)


def foreign(scope: Scope) -> bool:
    """Tell whether a page of another site asks."""
    headers = headers_of(scope)
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in OWN_SITES
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


class Healthz:
    """Answer /healthz, login or not: that this is SFT-Play, and (hashed) for which workspace."""

    def __init__(self, app: ASGIApp, workspace: Path) -> None:
        self.app = app
        self.answer = marker(workspace)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/healthz":
            await JSONResponse(self.answer)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def marker(workspace: Path) -> dict[str, str]:
    """Name this app and its workspace, without giving the path away."""
    digest = hashlib.sha256(str(workspace.resolve()).encode()).hexdigest()
    return {"app": "sft-play", "workspace": digest[:16]}


class LoginThrottle:
    """Let an address try a few passwords, then wait."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.lock = threading.Lock()
        self.failed: dict[str, list[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].rstrip("/") != "/login":
            await self.app(scope, receive, send)
            return
        address = (scope.get("client") or ("?",))[0]
        if self.locked(address):
            text = f"Too many wrong passwords: try again in {LOCKED_SECONDS:.0f} seconds."
            wait = {"Retry-After": f"{LOCKED_SECONDS:.0f}"}
            # 400 is what the login page shows as "wrong"; programs read the text and Retry-After
            await JSONResponse({"detail": text}, 429, wait)(scope, receive, send)
            return

        async def watch(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 400:
                self.note(address)
            await send(message)

        await self.app(scope, receive, watch)

    def locked(self, address: str) -> bool:
        """Tell whether an address has tried too often of late."""
        with self.lock:
            now = time.monotonic()
            recent = [at for at in self.failed.get(address, []) if now - at < LOCKED_SECONDS]
            self.failed[address] = recent
            return len(recent) >= TRIES

    def note(self, address: str) -> None:
        with self.lock:
            self.failed.setdefault(address, []).append(time.monotonic())


def is_ours(body: bytes, workspace: Path) -> bool:
    """Tell from an answer of /healthz whether it is this app with this workspace."""
    try:
        return bool(json.loads(body) == marker(workspace))
    except ValueError:
        return False
