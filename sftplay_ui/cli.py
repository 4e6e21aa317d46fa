"""The command line: `python launch.py COMMAND`, the same engine without a window.

Exit codes: 0 done, 1 expected failure (`error:` and `fix:` on stderr), 2 usage, 130 stopped. With
`--json` the last line of stdout is one JSON object. What the commands do is left to `commands`.
"""

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from sftplay_ui import __version__
from sftplay_ui.commands import FAILED, STOPPED, Answer, Context
from sftplay_ui.console import Reporter, print_failure, print_json, storable
from sftplay_ui.engine.errors import DiskFullError, SFTPlayError
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace

KINDS = ("data", "config", "template", "run_name", "adapter", "model", "checkpoint")


@dataclass(frozen=True)
class Command:
    """One command: where it lives (`module:function`), its help line, and its own arguments."""

    target: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda _parser: None

    def run(self, context: Context) -> Answer:
        """Import the one module the command needs, and call it."""
        module, function = self.target.split(":")
        answer: Answer = getattr(import_module(f"sftplay_ui.commands.{module}"), function)(context)
        return answer


def check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", metavar="PATH", help="what to check (with --kind)")
    parser.add_argument("--kind", choices=KINDS, help="check one thing instead of the set-up")


def process_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", metavar="FILE", help="raw file (data.raw_path)")
    parser.add_argument("--fix", metavar="KIND,...", help="findings to mend (data.fixes)")


def style_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--style", metavar="RULE", help="preset's name or free text (style.rule)")
    parser.add_argument("--how", choices=("inject", "append", "override"), help="style.how")
    parser.add_argument("--in", dest="folder_in", metavar="FOLDER", help="processed examples")
    parser.add_argument("--out", dest="folder_out", metavar="FOLDER", help="styled examples")


def estimate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--card", type=float, metavar="GB", help="as if there were such a GPU")
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="measure this machine for some seconds, for the time of a first run",
    )
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="take a step without data for some seconds: nearer for unusual models",
    )
    parser.add_argument(
        "--prove",
        action="store_true",
        help="measure on the GPU that is here, held to 8 GB (or --card)",
    )


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", metavar="RUN", help="go on from a run's newest checkpoint")
    parser.add_argument(
        "--extend",
        type=float,
        metavar="EPOCHS",
        help="add epochs to a finished run: the last one, or that of --resume",
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="so many learn together here; one for each GPU"
    )
    parser.add_argument(
        "--nodes", type=int, metavar="N", help="print the command for each of so many machines"
    )
    parser.add_argument("--address", metavar="HOST[:PORT]", help="the first of the machines")
    parser.add_argument(
        "--queue", action="store_true", help="let the run wait in line while another one goes on"
    )
    parser.add_argument(
        "--find-lr", action="store_true", help="suggest a learning rate; nothing is trained"
    )


def eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN", help="run or adapter folder; the last by default")
    parser.add_argument("--split", choices=("train", "val", "test"), help="evaluate.split")
    parser.add_argument("--limit", type=int, metavar="N", help="most examples; 0 is all")
    parser.add_argument(
        "--base", action=argparse.BooleanOptionalAction, help="score the base model too"
    )


def infer_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", choices=("interactive", "batch"), default="interactive")
    parser.add_argument("--run", metavar="RUN", help="run or adapter folder; the last by default")
    parser.add_argument("--base", action="store_true", help="answer with the base model")
    parser.add_argument("--input_file", metavar="FILE", help="questions, one a line or JSON lines")
    parser.add_argument("--output_file", metavar="FILE", help="answers as JSON lines")


def merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--adapters", metavar="RUN", help="run or adapter folder")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the merged model")
    parser.add_argument("--dtype", choices=("fp16", "bf16"), help="precision of the weights")


def runs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cancel", metavar="RUN", help="take a run out of the line")
    parser.add_argument("--up", metavar="RUN", help="let a waiting run go before the one before it")


def setup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend", choices=("unsloth",), required=True, help="the backend to install and try"
    )


def tensorboard_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", action="store_true", help="start it in the background (default)")
    parser.add_argument("--stop", action="store_true", help="stop the one that was started")
    parser.add_argument("--clean", action="store_true", help="delete its logs")
    parser.add_argument("--open", action="store_true", help="open it in the browser")


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--question", metavar="TEXT", help="what to ask the tuned model")


COMMANDS = {
    "check": Command("check:check", "check the set-up, or one thing", check_arguments),
    "process": Command("data:process", "raw file to clean examples", process_arguments),
    "style": Command("data:style", "apply a style rule to the examples", style_arguments),
    "render": Command("data:render", "write the examples as text by the chat template"),
    "estimate": Command(
        "estimate:estimate_run", "will it fit, how long will it take", estimate_arguments
    ),
    "train": Command("jobs:train", "fine-tune the base model", train_arguments),
    "eval": Command("jobs:evaluate", "score before and after tuning", eval_arguments),
    "infer": Command("infer:infer", "talk to the model, or answer a file", infer_arguments),
    "merge": Command("jobs:merge", "fold the adapter into its base model", merge_arguments),
    "runs": Command("jobs:list_all", "list the runs, waiting ones too", runs_arguments),
    "setup": Command("setup:setup", "install another backend, and try it", setup_arguments),
    "download-model": Command("setup:download_model", "fetch the base model"),
    "tensorboard": Command("setup:tensorboard", "curves in TensorBoard", tensorboard_arguments),
    "demo": Command("demo:demo", "the bundled sample, Data to Chat", demo_arguments),
}


def build_parser() -> argparse.ArgumentParser:
    """Make the parser: one subcommand for each command, all with the common options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="configuration file")
    common.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting"
    )
    common.add_argument("--json", action="store_true", help="answer with one JSON object")
    common.add_argument(
        "--workspace", metavar="FOLDER", default=str(PROJECT_ROOT), help="folder of data and runs"
    )
    parser = argparse.ArgumentParser(
        prog="launch.py",
        description="SFT-Play without the window. `launch.py` alone opens the window; "
        "`launch.py test` runs the tests.",
    )
    parser.add_argument("--version", action="version", version=f"SFT-Play {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, parents=[common], help=command.help))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code."""
    args = build_parser().parse_args(argv)
    workspace = Workspace(Path(args.workspace).expanduser().resolve())
    context = Context(args, workspace, Reporter(quiet=args.json))
    try:
        answer = COMMANDS[args.command].run(context)
    except SFTPlayError as error:
        return refuse(error, as_json=args.json)
    except OSError as error:
        return refuse(system_failure(error), as_json=args.json)
    except KeyboardInterrupt:
        return STOPPED
    if args.json:
        print_json(answer.value)
    elif answer.text:
        sys.stdout.write(storable(answer.text) + "\n")
    return answer.code


def refuse(error: SFTPlayError, *, as_json: bool) -> int:
    """Print an expected failure, and give its exit code."""
    if as_json:
        print_json({"error": {"code": error.code, "what": error.what, "fix": error.fix}})
    print_failure(error.what, error.fix)
    return FAILED


def system_failure(error: OSError) -> SFTPlayError:
    """Put in words what the operating system refused: no room, no right, a read-only disk."""
    where = error.filename or "The file system"
    what = f"{where}: {error.strerror or error}."
    if error.errno == errno.ENOSPC:
        return DiskFullError(what, "Make room on that disk, then do it again.")
    return SFTPlayError(what, "See that it is there and may be written, then do it again.")


if __name__ == "__main__":
    sys.exit(main())
