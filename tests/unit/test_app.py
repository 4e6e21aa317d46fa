"""Serving the window: who gets in, which port, what is said, and what is there at once."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from sftplay_ui.app import (
    Options,
    allowed_hosts,
    build_app,
    launch_options,
    login,
    read_arguments,
    take_port,
)
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.splash import Splash
from sftplay_ui.web import TRIES, Healthz, LoginThrottle, SameOrigin, is_ours, marker
from tests import stand_in

PROJECT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, b""


# What is asked for


def test_without_arguments_the_window_is_for_this_machine_only():
    options = read_arguments([])
    assert (options.host, options.port, options.password) == ("127.0.0.1", 7860, None)
    assert "*" not in allowed_hosts(options)


@pytest.mark.parametrize("arguments", [["--share"], ["--host", "0.0.0.0"], ["--host", "10.0.0.5"]])
def test_whoever_opens_the_window_to_others_gets_a_password(arguments):
    first, second = read_arguments(arguments).password, read_arguments(arguments).password
    assert first
    assert len(first) >= 20
    assert first != second


def test_only_a_window_of_this_computer_alone_may_install_on_it():
    assert not read_arguments([]).for_others
    assert read_arguments(["--share"]).for_others
    assert read_arguments(["--host", "0.0.0.0"]).for_others


def test_a_password_of_ones_own_is_taken_from_the_environment(monkeypatch):
    monkeypatch.setenv("SFTPLAY_PASSWORD", "my own long password")
    assert read_arguments(["--share"]).password == "my own long password"


def test_a_space_is_served_where_its_platform_expects_it(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "someone/sft-play")
    options = read_arguments([])
    assert (options.host, options.port, options.browser) == ("0.0.0.0", 7860, False)
    assert options.password is None
    assert options.for_others


def test_only_the_right_name_and_password_pass():
    check = login("secret")
    assert check("sft", "secret")
    assert not check("sft", "Secret")
    assert not check("root", "secret")


# Who gets in


def guarded(*middleware: Middleware) -> TestClient:
    def done(_request: object) -> PlainTextResponse:
        return PlainTextResponse("done")

    def wrong(_request: object) -> PlainTextResponse:
        return PlainTextResponse("wrong", 400)

    routes = [
        Route("/do", done, methods=["GET", "POST"]),
        Route("/login", wrong, methods=["POST"]),
    ]
    app = Starlette(routes=routes, middleware=list(middleware))
    return TestClient(app, base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:7860"}, 200),
        ({"origin": "http://127.0.0.1:7860"}, 200),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:7860"}, 403),
    ],
)
def test_only_pages_of_its_own_may_change_something(headers, status):
    client = guarded(Middleware(SameOrigin))
    assert client.post("/do", headers=headers).status_code == status
    assert client.get("/do", headers=headers).status_code == 200


def test_guessing_a_password_is_slowed_down():
    client = guarded(Middleware(LoginThrottle))
    assert [client.post("/login").status_code for _ in range(TRIES + 1)] == [400] * TRIES + [429]
    assert client.get("/do").status_code == 200


def test_healthz_names_the_app_but_not_the_path(tmp_path):
    answer = guarded(Middleware(Healthz, workspace=tmp_path)).get("/healthz")
    assert is_ours(answer.content, tmp_path)
    assert not is_ours(answer.content, tmp_path / "other")
    assert not is_ours(b"<html>", tmp_path)
    assert str(tmp_path) not in answer.text
    assert marker(tmp_path)["app"] == "sft-play"


# The window itself


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> dict:
    """Build a window and give what it tells a browser about itself."""
    root = tmp_path_factory.mktemp("config")
    (root / "outputs").mkdir()
    return dict(build_app(Workspace(root)).get_config_file())


def test_a_page_needs_no_heartbeat_and_no_account(config):
    assert config["connect_heartbeat"] is False
    assert config["analytics_enabled"] is False


def test_no_component_of_the_window_needs_a_state_or_a_timer(config):
    assert not {part["type"] for part in config["components"]} & {"state", "timer", "chatinterface"}


def test_every_button_tab_and_input_has_an_id(config):
    kinds = {"button", "tabitem", "textbox", "dropdown", "number", "checkbox", "radio"}
    nameless = [
        part["props"].get("label") or part["props"].get("value")
        for part in config["components"]
        if part["type"] in kinds and part["props"].get("visible") and not part["props"]["elem_id"]
    ]
    assert nameless == []


def test_nothing_of_the_window_is_a_public_endpoint(config):
    public = [d["api_name"] for d in config["dependencies"] if d["api_visibility"] == "public"]
    assert public == []


def test_the_launch_keeps_everything_shut_that_is_not_needed(workspace):
    given = launch_options(Options(workspace))
    assert given["allowed_paths"] == []
    assert given["run_history"] is False
    assert given["enable_monitoring"] is False
    assert given["app_kwargs"]["openapi_url"] is None


# Ports and processes


def test_the_splash_answers_at_once_and_frees_its_port():
    port = free_port()
    splash = Splash("127.0.0.1", port)
    assert get(f"http://127.0.0.1:{port}/")[0] == 200
    assert get(f"http://127.0.0.1:{port}/healthz")[0] == 503
    splash.leave()
    Splash("127.0.0.1", port).leave()


def test_a_port_taken_by_a_stranger_is_passed_over(workspace):
    port = free_port()
    stranger = Splash("127.0.0.1", port)
    splash, taken = take_port(Options(workspace, port=port))
    assert splash is not None
    assert taken > port
    splash.leave()
    stranger.leave()


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[int, Path, "subprocess.Popen[str]"]]:
    """Run the window as a person does, in a process of its own."""
    root = tmp_path_factory.mktemp("served")
    (root / "outputs").mkdir()
    port = free_port()
    process = open_window(root, port)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if get(f"http://127.0.0.1:{port}/config")[0] == 200:
                break
        except OSError:
            pass
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            raise TimeoutError(process.communicate()[0])
        time.sleep(0.1)
    yield port, root, process
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def open_window(root: Path, port: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "sftplay_ui", "--no-browser", "--port", str(port)]
    return subprocess.Popen(
        [*command, "--workspace", str(root)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "SFTPLAY_HOME": str(root / "home")},
    )


def test_a_second_start_opens_the_window_there_is(served):
    port, root, _ = served
    second = open_window(root, port)
    said, _ = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0
    assert f"open already: http://127.0.0.1:{port}" in said


def test_another_host_name_is_refused(served):
    port, _, _ = served
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/config", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 400
    connection.close()


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/monitoring"])
def test_pages_nobody_needs_are_shut(served, path):
    port, _, _ = served
    status, body = get(f"http://127.0.0.1:{port}{path}")
    assert status in (403, 404) or json.loads(body or b"{}").get("paths") is None


def test_the_working_folder_of_the_server_gives_nothing_away(served):
    port, root, process = served
    assert Path(f"/proc/{process.pid}/cwd").resolve() == root / "home" / "window"
    assert get(f"http://127.0.0.1:{port}/gradio_api/file=config.yaml")[0] in (403, 404)


def test_ctrl_c_says_which_runs_go_on(served):
    _, root, process = served
    living = stand_in.start(stand_in.make_run(Workspace(root), "patient"), "--pause", "30")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert "still running: patient" in said
    assert living.poll() is None
    living.kill()
    living.wait()
