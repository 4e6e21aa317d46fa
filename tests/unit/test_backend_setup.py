"""Installing unsloth on request: a process of its own that is found again and can be stopped."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sftplay_ui import backend_setup
from sftplay_ui.backend_setup import BackendSetup, Progress
from sftplay_ui.engine.backends import PYTHON, SETUP, Verdict
from sftplay_ui.engine.errors import DiskFullError
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.environment import SetupError
from tests import unsloth_double

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the double is a shell script")


@pytest.fixture
def setup(tmp_path, monkeypatch) -> BackendSetup:
    """Prepare a copy of the app whose installer is a stand-in for uv."""
    monkeypatch.delenv(PYTHON, raising=False)
    return BackendSetup(unsloth_double.installable(tmp_path, monkeypatch))


def end_of(setup: BackendSetup) -> Progress:
    """Wait until an installation has come to its end."""
    while (progress := setup.progress()).state == "running":
        time.sleep(0.05)
    return progress


def until_said(setup: BackendSetup, text: str) -> None:
    while text not in "\n".join(setup.progress().lines):
        assert setup.is_running(), setup.progress()
        time.sleep(0.05)


@pytest.mark.timeout(120)
def test_an_installation_is_found_again_and_ends_with_its_verdict(setup):
    assert (setup.progress().state, setup.can_install()) == ("none", True)
    setup.start()
    process = ProcessRecord.read(setup.record)
    found = BackendSetup(Path(str(setup.root)))
    found.start()
    assert ProcessRecord.read(found.record) == process
    progress = end_of(found)
    assert (progress.state, progress.is_news) == ("ended", True)
    assert progress.what == found.situation() == "unsloth 2026.10.9 works on the CPU."
    assert "  unsloth 2026.10.9" in progress.lines
    assert not found.can_install()


@pytest.mark.timeout(120)
def test_a_stopped_installation_takes_its_installer_along_and_can_be_begun_again(setup):
    unsloth_double.let_installer(setup.root, "echo '+ torch==2.13.0'; exec sleep 600")
    setup.start()
    until_said(setup, "torch 2.13.0")
    process = ProcessRecord.read(setup.record)
    (installer,) = psutil.Process(process.pid).children(recursive=True)
    setup.stop()
    assert not process.is_alive()
    assert not installer.is_running()
    progress = setup.progress()
    assert (progress.state, progress.is_news) == ("stopped", True)
    assert "not installed" in progress.what
    assert setup.can_install()


@pytest.mark.timeout(120)
def test_an_installer_that_fails_is_explained_with_the_place_of_its_log(setup):
    unsloth_double.let_installer(setup.root, "echo 'No space left on device'; exit 1")
    (setup.root / "requirements-unsloth.txt").write_text("-r nowhere.txt\n")  # nor does pip manage
    setup.start()
    progress = end_of(setup)
    assert progress.state == "failed"
    assert progress.what.startswith("The disk is full.")
    assert str(setup.root / ".venv-unsloth/install.log") in progress.what
    assert "Free about" in progress.fix
    assert setup.can_install()


def test_an_installer_that_dies_without_a_word_is_no_success(setup):
    setup.folder.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ProcessRecord.of(process.pid).write(setup.record)
    assert setup.progress().state == "running"
    process.kill()
    process.communicate()
    progress = setup.progress()
    assert progress.state == "failed"
    assert str(setup.log) in progress.what


def test_what_died_without_a_word_is_news_from_when_it_last_wrote(setup):
    setup.folder.mkdir(parents=True)
    began = time.time() - 2 * backend_setup.NEWS_SECONDS
    ProcessRecord(os.getpid(), began, "an earlier start of the computer").write(setup.record)
    assert not setup.progress().is_news
    setup.say("Installing")
    progress = setup.progress()
    assert (progress.state, progress.is_news) == ("failed", True)
    assert progress.seconds == pytest.approx(2 * backend_setup.NEWS_SECONDS, abs=60)


def test_a_full_disk_is_told_as_the_end_of_the_installation(setup, monkeypatch):
    setup.folder.mkdir(parents=True)

    def fail(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backend_setup, "set_up", fail)
    assert backend_setup.main(setup.root) == 1
    ProcessRecord(os.getpid(), time.time(), "an earlier start of the computer").write(setup.record)
    assert "No space left on device" in setup.progress().what


def test_what_is_stopped_after_it_was_installed_does_not_say_that_it_is_not(setup, monkeypatch):
    setup.folder.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ProcessRecord.of(process.pid).write(setup.record)
    monkeypatch.setattr(BackendSetup, "is_installed", lambda _setup: True)
    setup.stop()
    process.communicate()
    assert setup.progress().what.endswith("unsloth is installed, but was not tried.")


def test_what_cannot_be_used_says_how_it_is_tried_again(setup, monkeypatch):
    monkeypatch.setattr(BackendSetup, "is_installed", lambda _setup: True)
    monkeypatch.setattr(backend_setup, "known_verdict", lambda *_: Verdict(False, "no kernels"))
    assert setup.situation().endswith(f"no kernels. {SETUP} tries it again.")


def test_too_little_room_is_said_before_anything_is_begun(setup, monkeypatch):
    monkeypatch.setattr(backend_setup, "needed_bytes", lambda _device: 1 << 60)
    with pytest.raises(DiskFullError, match="unsloth needs"):
        setup.start()
    assert setup.progress().state == "none"


def test_where_there_are_no_builds_nothing_is_offered_and_the_reason_is_said(setup, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert not setup.can_install()
    assert "not for Darwin" in setup.situation()
    with pytest.raises(SetupError):
        setup.start()


def test_an_environment_that_was_named_is_not_replaced(setup, monkeypatch, tmp_path):
    monkeypatch.setenv(PYTHON, str(tmp_path / "none"))
    assert not setup.can_install()
    assert "names" in setup.situation()


def test_what_it_takes_is_said_with_the_disk_and_the_time(setup):
    assert "3.5 GB of disk" in setup.situation()
    assert "minutes" in setup.situation()
