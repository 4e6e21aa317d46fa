"""The commands that start workers: one process, several, several machines."""

import json
import sys
from pathlib import Path

import pytest

from sftplay_ui.cli import main
from sftplay_ui.engine.backends import Receipt
from sftplay_ui.engine.launching import Cluster, node_commands, surroundings, worker_command
from sftplay_ui.engine.workspace import PROJECT_ROOT
from tests.training import write_examples

FOLDER = Path("outputs/my run")


def test_one_process_needs_no_launcher():
    assert worker_command(FOLDER, 1) == [
        sys.executable,
        "-m",
        "sftplay_ui.engine.worker",
        str(FOLDER),
    ]


def test_several_processes_start_the_same_worker():
    several = worker_command(FOLDER, 3)
    assert "--nproc-per-node=3" in several
    assert several[-3:] == worker_command(FOLDER, 1)[1:]


def test_several_processes_share_out_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 9)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: range(9), raising=False)
    receipt = Receipt("bnb", "bnb", "in a test")
    assert "OMP_NUM_THREADS" not in surroundings(receipt)[1]
    assert surroundings(receipt, 4)[1]["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert surroundings(receipt, 4)[1]["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_each_machine_has_its_own_rank_and_the_same_first_machine(kind):
    first, second = node_commands(FOLDER, Cluster(2, 4, "10.0.0.1", 29501, kind))
    assert first != second
    assert all("10.0.0.1" in line and "29501" in line for line in (first, second))
    assert all(line.endswith("-m sftplay_ui.engine.worker 'outputs/my run'") for line in [first])
    rank = "--machine_rank {}" if kind == "cuda" else "--node-rank={}"
    assert rank.format(0) in first
    assert rank.format(1) in second
    # accelerate counts all processes, torch those of one machine
    assert ("--num_processes 8" if kind == "cuda" else "--nproc-per-node=4") in second


def test_the_configuration_that_is_named_is_there():
    (line,) = node_commands(FOLDER, Cluster(1, 1, "10.0.0.1"))
    assert (PROJECT_ROOT / line.split("--config_file ")[1].split()[0]).is_file()


def test_a_run_for_several_machines_is_prepared_and_not_started(workspace, tiny_llama, capsys):
    write_examples(workspace)
    settings = ["--workspace", str(workspace.root), "--set", f"model.name={tiny_llama}", "--json"]
    nodes = ["--nodes", "2", "--processes", "2", "--address", "10.0.0.1:29600"]
    assert main(["train", *settings, *nodes]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["commands"]) == 2
    folder = workspace.outputs / answer["run"]
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    assert "processes: 2" in (folder / "config.yaml").read_text()


def test_machines_without_an_address_are_refused(workspace, tiny_llama, capsys):
    arguments = ["--workspace", str(workspace.root), "--nodes", "2", "--json"]
    assert main(["train", *arguments]) == 1
    assert "--address" in json.loads(capsys.readouterr().out)["error"]["fix"]
