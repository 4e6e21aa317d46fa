"""The house rules that a machine can check: imports, sizes, style, and documents that agree.

Each failure names the file, the line where there is one, and the number that is over.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sftplay_ui.cli import COMMANDS
from sftplay_ui.engine import errors
from sftplay_ui.engine.settings import settings, settings_table
from sftplay_ui.environment import SetupError

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "launch.py", *sorted((ROOT / "sftplay_ui").rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 6
MAX_EQUAL_LINES = 6

# The two borders where any failure may be caught: it becomes an event there, or a message.
BORDERS = {"sftplay_ui/engine/worker/__main__.py", "sftplay_ui/tabs/guard.py"}
TORCH_WORLD = ("torch", "transformers", "peft", "datasets", "evaluate", "accelerate")
# Where packages and models come from is the business of pip and the hub, never of a file here.
REGISTRY_HOSTS = re.compile(
    r"(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|files\.pypi|npmjs\.(?:com|org)"
    r"|index-url|extra-index|find-links)"
)
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".whl")
MAKE_TARGETS = (
    *("install", "setup-dirs", "process", "style", "render", "full-pipeline", "check", "train"),
    *("train-bnb", "train-unsloth", "train-with-tb", "train-bnb-tb", "train-unsloth-tb", "eval"),
    *("eval-test", "eval-quick", "eval-full", "infer", "infer-batch", "infer-interactive"),
    *("download-model", "merge", "merge-bf16", "merge-test", "tensorboard", "tb-stop"),
    *("tb-clean", "tb-open", "clean", "help"),
)


class Function(NamedTuple):
    """A function, where it stands, and whether it is a method."""

    place: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    in_class: bool


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed() -> Iterator[tuple[Path, ast.Module]]:
    for path in SOURCES:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def functions() -> Iterator[Function]:
    for path, tree in parsed():
        methods = {
            id(child)
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for child in node.body
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Function(
                    f"{short(path)}:{node.lineno} {node.name}", node, id(node) in methods
                )


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    # a file that is deleted and not yet committed is still listed
    listed = run("git", "ls-files", "-z").split("\0")
    return [path for name in listed if name and (path := ROOT / name).is_file()]


def none(findings: Iterable[str]) -> None:
    """Fail with one finding a line."""
    found = [*findings]
    assert not found, "\n" + "\n".join(found)


def run(*command: str) -> str:
    """Run a tool in the project's folder; its output is the failure's message."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_module(*arguments: str) -> str:
    return run(sys.executable, "-m", *arguments)


# Who may import whom


def test_every_import_contract_holds() -> None:
    code = "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"
    run(sys.executable, "-c", code)


def test_the_errors_import_nothing() -> None:
    tree = ast.parse((ROOT / "sftplay_ui/engine/errors.py").read_text())
    imports = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    none(f"sftplay_ui/engine/errors.py:{line}" for line in imports)


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("sftplay_ui.app", TORCH_WORLD),
        ("sftplay_ui.cli", (*TORCH_WORLD, "gradio", "pandas")),
        ("sftplay_ui.launcher", (*TORCH_WORLD, "gradio", "pydantic", "yaml", "numpy")),
    ],
)
def test_importing_it_loads_only_what_it_needs(module: str, forbidden: tuple[str, ...]) -> None:
    # import-linter cannot look into other people's packages; this can
    loaded = run(sys.executable, "-c", f"import sys, {module}; print(*sys.modules)").split()
    assert sorted(set(forbidden) & set(loaded)) == []


def test_the_torch_free_engine_never_loads_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in SOURCES
        if "sftplay_ui/engine/" in path.as_posix()
        and "engine/worker/" not in path.as_posix()
        and path.name != "__init__.py"
    ]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules!r}]"
    loaded = run(sys.executable, "-c", f"{code}; print(*sys.modules)").split()
    assert sorted({*TORCH_WORLD, "gradio", "pandas"} & set(loaded)) == []


# Style


def test_the_linter_is_content() -> None:
    run_module("ruff", "check", "--output-format", "concise", ".")


def test_the_formatter_is_content() -> None:
    run_module("ruff", "format", "--check", ".")


def test_types_hold_in_the_engine() -> None:
    run_module("mypy")


# Sizes


def test_no_module_is_longer_than_one_idea() -> None:
    lengths = {short(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    none(f"{name} has {n} lines" for name, n in lengths.items() if n > MAX_MODULE_LINES)


def test_no_function_is_longer_than_a_screen() -> None:
    none(
        f"{place} has {lines} lines"
        for place, node, _ in functions()
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    )


def test_no_function_takes_more_than_six_parameters() -> None:
    over = []
    for place, node, in_class in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len(arguments) - (in_class and arguments[:1] != [] and is_self(arguments[0]))
        if count > MAX_PARAMETERS:
            over.append(f"{place} takes {count}")
    none(over)


def is_self(argument: ast.arg) -> bool:
    return argument.arg in ("self", "cls")


def import_lines(source: str) -> set[int]:
    """Number the lines of import statements, which two modules may well have in common."""
    return {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def test_no_two_modules_share_more_than_six_equal_lines() -> None:
    seen: dict[tuple[str, ...], str] = {}
    shared = set()
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        imported = import_lines(source)
        lines = [
            (number, line.strip())
            for number, line in enumerate(source.splitlines(), 1)
            if number not in imported and re.search(r"\w", line) and not re.match(r"\s*#", line)
        ]
        for start in range(len(lines) - MAX_EQUAL_LINES):
            window = lines[start : start + MAX_EQUAL_LINES + 1]
            text = tuple(line for _, line in window)
            first = seen.setdefault(text, f"{short(path)}:{window[0][0]}")
            if not first.startswith(f"{short(path)}:"):
                shared.add(f"{first} = {short(path)}:{window[0][0]}")
    none(sorted(shared))


# What nobody may do


def test_only_the_two_borders_catch_everything() -> None:
    caught = [
        f"{short(path)}:{node.lineno}"
        for path, tree in parsed()
        if short(path) not in BORDERS
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and catches_everything(node.type)
    ]
    none(caught)


def catches_everything(kind: ast.expr | None) -> bool:
    if kind is None:
        return True
    names = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(isinstance(n, ast.Name) and n.id in ("Exception", "BaseException") for n in names)


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    none(short(path) for path in SOURCES if path.stem in drawers)


def test_every_module_says_what_it_is_for() -> None:
    none(
        short(path)
        for path, tree in parsed()
        if path.stat().st_size and not ast.get_docstring(tree)
    )


def test_no_weights_stubs_or_caches_are_kept_in_git() -> None:
    stray = [
        short(path)
        for path in tracked_files()
        if path.suffix in (*WEIGHTS, ".pyi", ".pyc") or path.stat().st_size > 5_000_000
    ]
    none(stray)


def test_no_file_names_a_package_registry() -> None:
    named = []
    for path in tracked_files():
        if path == Path(__file__) or not is_text(path) or short(path).startswith("data/"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if REGISTRY_HOSTS.search(line):
                named.append(f"{short(path)}:{number} {line.strip()[:80]}")
    none(named)


def is_text(path: Path) -> bool:
    return path.suffix in (
        *(".py", ".md", ".txt", ".toml", ".yaml", ".yml", ".sh", ".js", ".css", ".json", ".cfg"),
        "",
    )


def test_no_test_judges_by_the_clock() -> None:
    none(
        f"{short(path)}:{number}"
        for path in TESTS
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"assert .*(?:perf_counter|monotonic|time\.time)\(", line)
    )


# Documents that cannot lie


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def documents() -> str:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def test_the_readmes_settings_are_the_settings() -> None:
    # mended by: python -m sftplay_ui.engine.settings
    assert settings_table().strip() in readme()


def test_every_setting_has_a_row() -> None:
    text = readme()
    none(setting.path for setting in settings() if f"| `{setting.path}` |" not in text)


def test_every_command_is_in_the_readme() -> None:
    text = readme()
    none(command for command in (*COMMANDS, "test") if f"| `{command}` |" not in text)


def test_every_error_has_a_row() -> None:
    kinds = [*all_subclasses(errors.SFTPlayError), SetupError]
    text = documents()
    missing = sorted({kind.code for kind in kinds if f"| `{kind.code}` |" not in text})
    none(missing)


def all_subclasses(kind: type[errors.SFTPlayError]) -> Iterator[type[errors.SFTPlayError]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("sftplay_ui."):
            yield child
            yield from all_subclasses(child)


def test_error_codes_are_unique() -> None:
    codes = [kind.code for kind in errors.SFTPlayError.__subclasses__()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("target", MAKE_TARGETS)
def test_the_makefile_keeps_the_names_people_know(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{short(page)} -> {target}")
    none(broken)


def test_every_requirement_says_why() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    none(line for line in lines if line and not line.startswith("#") and "  # " not in line)
