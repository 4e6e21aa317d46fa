"""The window: `main` serves it, `build_app` makes it for whoever serves it otherwise.

Nothing here imports Gradio before the browser has something to show.
"""

import argparse
import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
import urllib.error
import urllib.request
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace, user_cache
from sftplay_ui.splash import Splash, prepare_gradio
from sftplay_ui.web import LOOPBACK, Healthz, LoginThrottle, SameOrigin, is_ours

if TYPE_CHECKING:
    import gradio as gr

    from sftplay_ui.live import LiveRuns

FIRST_PORT, LAST_PORT = 7860, 7959
USER = "sft"
MAX_UPLOAD = "200mb"
EXIT_DONE = 0
EXIT_FAILED = 1


@dataclass(frozen=True)
class Options:
    """How the window is served."""

    workspace: Workspace
    host: str = "127.0.0.1"
    port: int = FIRST_PORT
    share: bool = False
    browser: bool = True
    password: str | None = None

    @property
    def url(self) -> str:
        host = self.host if self.host in LOOPBACK else "127.0.0.1"
        return f"http://{host}:{self.port}"

    @property
    def for_others(self) -> bool:
        """Tell whether people at other computers may use the window."""
        return self.share or self.host not in LOOPBACK or on_a_space()

    def at(self, port: int) -> "Options":
        """Give the same options with another port."""
        return Options(
            self.workspace, self.host, port, self.share, self.browser, password=self.password
        )


def main(argv: list[str]) -> int:
    """Serve the window until Ctrl-C; the exit code is 0 unless it could not start."""
    options = read_arguments(argv)
    splash, port = take_port(options)
    if splash is None:
        print(f"SFT-Play is open already: {options.at(port).url}")
        if options.browser:
            webbrowser.open(options.at(port).url)
        return EXIT_DONE
    if port != options.port:
        print(f"Port {options.port} is taken by another program; using {port} instead.")
    options = options.at(port)
    print(f"SFT-Play: {options.url}", flush=True)
    if options.browser:
        threading.Thread(target=webbrowser.open, args=[options.url], daemon=True).start()
    prepare_gradio()
    workspace = options.workspace
    window, live = assemble(workspace, may_install=not options.for_others, warm=True)
    splash.leave()
    serve(window, options)
    wait_for_ctrl_c()
    say_goodbye(live)
    window.close()
    return EXIT_DONE


def build_app(workspace: Workspace) -> "gr.Blocks":
    """Make the window for a workspace, ready to be launched with `launch_options`."""
    prepare_gradio()
    return assemble(workspace)[0]


def assemble(
    workspace: Workspace, *, may_install: bool = False, warm: bool = False
) -> "tuple[gr.Blocks, LiveRuns]":
    """Import Gradio and lay out the window around the workspace's runs.

    `may_install` lets those who use it install another backend on this computer; with `warm`
    a worker waits for the next run.
    """
    from sftplay_ui.backend_setup import BackendSetup
    from sftplay_ui.engine.warm_worker import Standby
    from sftplay_ui.live import LiveRuns
    from sftplay_ui.shell import build_window

    setup = BackendSetup(PROJECT_ROOT) if may_install else None
    live = LiveRuns(workspace, setup, Standby() if warm else None)
    return build_window(workspace, live), live


def read_arguments(argv: list[str]) -> Options:
    """Read the command line; a Space gets the address its platform expects."""
    parser = argparse.ArgumentParser(
        prog="launch.py", description="Open the window of SFT-Play in the browser."
    )
    parser.add_argument("--port", type=int, default=None, help=f"port ({FIRST_PORT})")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (this machine)")
    parser.add_argument("--share", action="store_true", help="make a public link, with a password")
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    parser.add_argument("--workspace", default=str(PROJECT_ROOT), help="folder of data and runs")
    given = parser.parse_args(argv)
    workspace = Workspace(Path(given.workspace).expanduser().resolve())
    if on_a_space():
        return Options(workspace, "0.0.0.0", given.port or FIRST_PORT, browser=False)
    guarded = given.share or given.host not in LOOPBACK
    return Options(
        workspace=workspace,
        host=given.host,
        port=given.port or FIRST_PORT,
        share=given.share,
        browser=not given.no_browser,
        password=(os.environ.get("SFTPLAY_PASSWORD") or secrets.token_urlsafe(16))
        if guarded
        else None,
    )


def on_a_space() -> bool:
    """Tell whether a hosting platform runs us, which guards the door by its own rules."""
    return bool(os.environ.get("SPACE_ID"))


def take_port(options: Options) -> tuple[Splash | None, int]:
    """Take the asked port, or the next free one; no splash if our own window answers there."""
    for port in range(options.port, max(LAST_PORT, options.port + 99) + 1):
        try:
            return Splash(options.host, port), port
        except OSError:
            if answers_as_us(port, options.workspace):
                return None, port
    raise SystemExit(f"No free port from {options.port} on. Name one with --port.")


def answers_as_us(port: int, workspace: Workspace) -> bool:
    """Ask whoever has a port whether it is this app with this workspace."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return is_ours(answer.read(1000), workspace.root)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def serve(window: "gr.Blocks", options: Options) -> None:
    """Let Gradio take the port over, from an empty working folder; say the password if any."""
    folder = user_cache() / "window"
    folder.mkdir(parents=True, exist_ok=True)
    # Gradio hands out non-dot files of the working folder that a handler names
    os.chdir(folder)
    os.environ.setdefault("GRADIO_TEMP_DIR", str(user_cache() / "uploads"))
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _, _, shared = window.launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        prevent_thread_lock=True,
        quiet=True,
        **launch_options(options),
    )
    if options.password:
        print(f"Login: {USER} / {options.password}", flush=True)
    if shared:
        print(f"Public link: {shared}", flush=True)
    elif options.share:
        print("No public link could be made (offline?); the window works on this machine.")


def launch_options(options: Options) -> dict[str, Any]:
    """Give what `Blocks.launch` needs besides the address: looks, and who is let in."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from sftplay_ui import theme

    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(options)),
        Middleware(Healthz, workspace=options.workspace.root),
        Middleware(SameOrigin),
        *([Middleware(LoginThrottle)] if options.password else []),
    ]
    return {
        "theme": theme.theme(),
        "css_paths": theme.CSS_PATHS,
        "head": theme.head(),
        "favicon_path": theme.ICON,
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": not on_a_space(),
        "max_file_size": MAX_UPLOAD,
        "allowed_paths": [],
        "strict_cors": True,
        "show_error": True,
        "auth": login(options.password) if options.password else None,
        "app_kwargs": {
            "openapi_url": None,
            "docs_url": None,
            "redoc_url": None,
            "middleware": guards,
        },
    }


def allowed_hosts(options: Options) -> list[str]:
    """Name the hosts the window answers to; with a password any, since then names give nothing."""
    if on_a_space() or options.password:
        return ["*"]
    return ["127.0.0.1", "localhost", "[::1]"]


def login(password: str) -> Any:
    """Check name and password without telling by the time taken how much of it was right."""

    def check(user: str, given: str) -> bool:
        right_name = secrets.compare_digest(user.encode(), USER.encode())
        return secrets.compare_digest(given.encode(), password.encode()) and right_name

    return check


def wait_for_ctrl_c() -> None:
    """Sleep until Ctrl-C or a polite signal."""
    asked = threading.Event()
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), lambda *_: asked.set())
    while not asked.wait(0.5):
        continue


def say_goodbye(live: "LiveRuns") -> None:
    """Say what goes on without the window."""
    running = [row.run for row in live.summaries() if row.state == "running"]
    live.close()
    if running:
        print(f"\nThe window is closed; still running: {', '.join(running)}.")
        print("Open the window again to watch, or stop it there.")
    else:
        print("\nThe window is closed.")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
