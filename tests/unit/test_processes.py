"""Telling a living process from a dead or recycled one."""

import dataclasses
import os
import subprocess
import sys

from sftplay_ui.engine.processes import ProcessRecord

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_this_process_is_alive_and_reads_back(tmp_path):
    record = ProcessRecord.of(os.getpid())
    record.write(tmp_path / "worker.json")
    assert ProcessRecord.read(tmp_path / "worker.json") == record
    assert record.is_alive()


def test_a_recycled_pid_or_another_boot_is_not_alive():
    record = ProcessRecord.of(os.getpid())
    assert not dataclasses.replace(record, started=record.started - 100).is_alive()
    assert not dataclasses.replace(record, boot_id="another").is_alive()


def test_a_zombie_is_not_alive():
    with subprocess.Popen(SLEEP) as process:
        record = ProcessRecord.of(process.pid)
        assert record.is_alive()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not record.is_alive()


def test_killing_takes_the_children_along():
    parent = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(p.pid, flush=True); time.sleep(60)"  # noqa: E501
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        child = ProcessRecord.of(int(process.stdout.readline()))
        ProcessRecord.of(process.pid).kill_tree()
        assert not child.is_alive()


def test_a_damaged_record_is_no_record(tmp_path):
    path = tmp_path / "worker.json"
    for text in ("", "{}", '{"pid": "x"}', "[1]"):
        path.write_text(text)
        assert ProcessRecord.read(path) is None
