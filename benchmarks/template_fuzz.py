"""Fuzz chat templates: `python -m benchmarks.template_fuzz [SECONDS] [SEED] [FOLDER]`.

Makes template sources (a random grammar of Jinja, and mutations of the bundled templates) and puts
each through all a person can do with one: the trial in a limited process, the check, and rendering
chats the trial has never seen. Anything but a verdict or an SFTPlayError, anything slow or large,
and any process left alive is written to FOLDER (default: a new temporary one) with its seed, and
counted. One case in `REAL_EVERY` goes through the true child process; the others are tried in a
fork of this one under the same limits, which is fifty times quicker. For a long run, give it hours:
`nice -n 15 python -m benchmarks.template_fuzz 14400 7 found/`. Exit code 1 if anything was found.
"""

import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.template_grammar import mutated, random_source
from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.errors import SFTPlayError, TemplateError
from sftplay_ui.engine.text import template_trial
from sftplay_ui.engine.text.template_check import check_template
from sftplay_ui.engine.text.templates import ChatTemplate
from sftplay_ui.engine.text.tokens import render_example

TEMPLATES = Path(__file__).parents[1] / "chat_templates"
REAL_EVERY = 40
# What one whole case may take after its trial, in processor seconds and bytes: some twenty
# renderings, each of which may spend all its meter allows.
CASE_SECONDS = 20
CASE_BYTES = 700_000_000

CHATS = (
    (Message("user", "Why?"), Message("assistant", "So.")),
    (
        Message("system", "سلام 🎉 {{ x }} {% if %}"),
        Message("user", "a\n\n b\t"),
        Message("assistant", ""),
        Message("user", "<|im_end|></s>"),
        Message("assistant", " \n"),
    ),
    (Message("user", "long words " * 4000), Message("assistant", "x" * 20_000)),
    tuple(Message(("user", "assistant")[n % 2], f"turn {n}") for n in range(80)),
)


def use(source: str) -> str:
    """Check a template and render with it, as the window would; return what became of it."""
    verdict = check_template(source, "case.jinja").verdict
    if verdict == "reject":
        return "rejected"
    template = ChatTemplate(source, "case.jinja", "", "<s>", "</s>")
    refused = 0
    for chat in CHATS:
        try:
            template.render(chat[:-1], add_generation_prompt=True)
            render_example(Example(chat), template)
        except SFTPlayError:
            refused += 1
    return f"{verdict}, {refused} of {len(CHATS)} chats refused"


def forked(work: Callable[[], str], *, seconds: int, extra_bytes: int) -> str:
    """Run work in a fork with limits (`seconds` of processor time); say what ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        # on a busy machine the clock tells nothing, but nothing may hang either
        signal.alarm(20 * seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        limit = psutil.Process().memory_info().vms + extra_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        answer = ""
        try:
            answer = work()
        finally:
            # whatever was raised is the finding, and nothing of it may run on in this fork
            if sys.exc_info()[0] is not None:
                answer = f"BROKEN: {traceback.format_exc()}"
            os.write(writer, answer.encode(errors="replace")[-4000:])
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode(errors="replace")
    status = os.waitpid(pid, 0)[1]
    return answer or f"BROKEN: ended by {os.waitstatus_to_exitcode(status)}"


def trial(source: str) -> str:
    """Do in a fork what the child does."""
    return "refused" if template_trial.first_fault(source) else "passed"


def tried_case(source: str) -> str:
    """Put one source through a forked trial and, if that passes, through all uses."""
    limits = {
        "seconds": template_trial.CPU_SECONDS,
        "extra_bytes": template_trial.MEMORY_BYTES,
    }
    outcome = forked(lambda: trial(source), **limits)
    if outcome != "passed":
        # a bomb that the limits ended is what the trial is for; a traceback is not
        bad = "Traceback" in outcome
        return outcome if bad else "refused by the trial"
    template_trial.outcome_in_child = lambda _source: None
    return forked(lambda: use(source), seconds=CASE_SECONDS, extra_bytes=CASE_BYTES)


def real_case(source: str) -> str:
    """Put one source through the true child process, and see that none stays behind."""

    def work() -> str:
        try:
            template_trial.try_in_child(source, "case.jinja")
        except TemplateError as error:
            return f"refused by the child: {error.what[:60]!r}"
        finally:
            if psutil.Process().children(recursive=True):
                raise RuntimeError("a child stayed alive")
        return "passed the child"

    return forked(work, seconds=60, extra_bytes=CASE_BYTES)


def main() -> int:
    """Fuzz for the seconds asked; print counts, and keep what was found."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    folder = Path(sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp(prefix="template_fuzz_"))
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [path.read_text(encoding="utf-8") for path in sorted(TEMPLATES.glob("*.jinja"))]
    counts: Counter[str] = Counter()
    found = number = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        number += 1
        chance = random.Random(f"{seed}.{number}")
        source = random_source(chance) if chance.random() < 0.4 else mutated(chance, seeds)
        outcome = real_case(source) if number % REAL_EVERY == 0 else tried_case(source)
        counts[outcome.split(":")[0].split("\n")[0][:50]] += 1
        if "BROKEN" in outcome:
            found += 1
            (folder / f"{seed}-{number}.jinja").write_bytes(source.encode(errors="surrogatepass"))
            (folder / f"{seed}-{number}.txt").write_text(f"{outcome}\n", "utf-8")
            print(f"case {seed}.{number}: {outcome.strip()[-200:]}", flush=True)
    for outcome, count in counts.most_common():
        print(f"{count:8} {outcome}")
    print(f"{number} cases, {found} found, kept in {folder}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
