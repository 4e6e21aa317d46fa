"""What is on the port before Gradio is: a page that waits, served by the standard library alone.

Importing Gradio takes seconds; a person sees the window at once, and it fills itself when it is
ready.
"""

import contextlib
import http.server
import importlib.util
import os
import socketserver
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>SFT-Play</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>html{color-scheme:light dark;font:15px system-ui,sans-serif;height:100%;
background:light-dark(#f3f5f7,#0e1216);color:light-dark(#17202a,#e4e9ef)}
body{margin:0;height:100%;display:grid;place-items:center}main{text-align:center}
h1{font-size:24px;letter-spacing:-.02em;margin:0 0 4px}p{margin:0;color:light-dark(#4d5b6a,#9dabb9)}
i{display:block;width:160px;height:4px;margin:18px auto 0;border-radius:2px;overflow:hidden;
background:light-dark(#d9e0e6,#262d35)}i:after{content:"";display:block;width:40%;height:100%;
border-radius:2px;background:#14b8a6;animation:s 1.2s ease-in-out infinite alternate}
@keyframes s{to{transform:translateX(150%)}}</style>
<main role="status"><h1>SFT-Play</h1><p>Starting</p><i></i></main><script>
const t=setInterval(async()=>{try{const r=await fetch('/healthz',{cache:'no-store'});
if(r.ok){clearInterval(t);location.replace('/'+location.hash)}}catch(e){}},150)</script></html>"""


class Answer(http.server.BaseHTTPRequestHandler):
    """Answer `/` with the waiting page and everything else with "not yet"."""

    def do_GET(self) -> None:
        home = self.path == "/"
        self.send_response(200 if home else 503)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(PAGE if home else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal belongs to the app."""


class Splash(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Hold the port until Gradio takes it over; OSError when somebody else has it."""

    # on Windows reuse would let two programs share one port
    allow_reuse_address = os.name != "nt"
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        super().__init__((host, port), Answer)
        self.thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()

    def leave(self) -> None:
        """Free the port."""
        self.shutdown()
        self.server_close()


class NoStubFiles:
    """Keep Gradio from writing .pyi files when imported, half of what that costs."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "gradio.component_meta":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_without_stubs(module: ModuleType) -> None:
            execute(module)
            if hasattr(module, "create_or_modify_pyi"):
                module.create_or_modify_pyi = lambda *_args, **_named: None

        spec.loader.exec_module = execute_without_stubs  # type: ignore[method-assign]
        return spec


def prepare_gradio() -> None:
    """Set what Gradio reads when it is imported: no analytics, no stub files."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if "gradio" not in sys.modules and not any(isinstance(f, NoStubFiles) for f in sys.meta_path):
        sys.meta_path.insert(0, NoStubFiles())
