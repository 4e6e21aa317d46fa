"""Try whether unsloth works in this environment, in a process that is thrown away.

`python -m sftplay_ui.engine.worker.try_unsloth cuda|cpu`. The last line it prints is the verdict, a
JSON object; what unsloth raises itself ends the process, and its last words are the reason.
"""

import importlib.util
import json
import sys
from importlib.metadata import PackageNotFoundError, requires, version

# Where another version is known to break: unsloth rewrites their code.
PATCHED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")
# Volta; what is older has no fast path.
OLDEST_CAPABILITY = (7, 0)


def main(kind: str) -> None:
    """Print whether unsloth can be used with a device of this kind, and why not or how."""
    fault = find_fault(kind)
    how = f"unsloth {version('unsloth')} works on {'the GPU' if kind == 'cuda' else 'the CPU'}"
    print(json.dumps({"usable": not fault, "reason": fault or how}), flush=True)


def find_fault(kind: str) -> str:
    """Look for the first thing that keeps unsloth from working; empty where there is none."""
    if importlib.util.find_spec("unsloth") is None:
        return "its environment holds no unsloth"
    if fault := outside_range() or (card_fault() if kind == "cuda" else ""):
        return fault
    sys.modules["xformers"] = None  # type: ignore[assignment]
    import unsloth  # type: ignore[import-not-found]

    return "" if hasattr(unsloth, "FastLanguageModel") else "it has no FastLanguageModel"


def outside_range() -> str:
    """Name the libraries whose versions unsloth does not accept."""
    from packaging.requirements import Requirement

    wrong = []
    for line in requires("unsloth") or ():
        wanted = Requirement(line)
        if wanted.name not in PATCHED or (wanted.marker and not wanted.marker.evaluate()):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} {found} is outside {wanted.specifier}")
    return "; ".join(wrong)


def card_fault() -> str:
    """Look for what unsloth lacks on a CUDA card."""
    import torch

    if not torch.cuda.is_available():
        return f"its PyTorch {torch.__version__} cannot use the GPU"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST_CAPABILITY:
        return f"the GPU's compute capability {capability[0]}.{capability[1]} is too old for it"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed beside it"
    import bitsandbytes

    library = type(bitsandbytes.cextension.lib).__name__
    # what bitsandbytes puts in the place of a library it could not load
    return "bitsandbytes finds no library for this CUDA" if library.startswith("Error") else ""


if __name__ == "__main__":
    main(sys.argv[1])
