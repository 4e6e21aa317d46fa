"""A double of unsloth's environment: an interpreter of its own, and a package with the two calls.

The package loads by transformers and peft, as unsloth itself does on a CPU. Everything around it is
real: the probe, the worker, the receipt.
"""

import os
import sys
from pathlib import Path

import pytest

PACKAGE = """
{before}
class FastLanguageModel:
    def from_pretrained(folder, *, dtype, **options):
        from transformers import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        return model, None

    def get_peft_model(base, *, use_gradient_checkpointing, random_state, **shape):
        from peft import LoraConfig, get_peft_model
        return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **shape))
"""


def build(folder: Path, *, before: str = "", needs: str = "torch>=2") -> Path:
    """Build the environment, and give its interpreter.

    `before` is run when the package is imported; `needs` is what it asks for beside it.
    """
    packages = folder / "lib/python3/site-packages"
    (packages / "unsloth").mkdir(parents=True, exist_ok=True)
    (packages / "unsloth/__init__.py").write_text(PACKAGE.format(before=before))
    facts = packages / "unsloth-2026.10.9.dist-info"
    facts.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: unsloth\nVersion: 2026.10.9\nRequires-Dist: {needs}\n"
    (facts / "METADATA").write_text(metadata)
    python = folder / "bin/python"
    python.parent.mkdir(exist_ok=True)
    calls = folder / "calls"
    python.write_text(
        f'#!/bin/sh\necho "$2" >> "{calls}"\nPYTHONPATH="{packages}" exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    return python


def installable(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Lay out a copy of the app whose installer is a stand-in for uv, first on the PATH.

    The double lies there from the start, as after an installation that was interrupted. A stand-in
    for the driver's tool keeps pip, which would be the tests' own, from being asked for anything.
    """
    root = folder / "app"
    root.mkdir()
    for name in ("requirements-unsloth.txt", "requirements-unsloth-cpu.txt"):
        (root / name).write_text("# nothing is fetched\n", encoding="utf-8")
    build(root / ".venv-unsloth")
    write_tool(root / "bin/nvidia-smi", "exit 0")
    let_installer(root, "echo '+ unsloth==2026.10.9'")
    patch.setenv("PATH", f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return root


def let_installer(root: Path, script: str) -> None:
    """Say in shell what the stand-in for uv does when it is to install."""
    write_tool(root / "bin/uv", f'[ "$1" = --version ] && exit 0\n{script}')


def write_tool(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
