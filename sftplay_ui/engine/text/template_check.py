"""Is a chat template any good for training? Every finding in a sentence, before a step is trained.

A template is first tried in the limited child process, then rendered on a few chats whose contents
cannot be mistaken for anything else. Faults would spoil the training (reject); warnings are facts a
person should know. Rendering and the sandbox are left to `templates` and `template_sandbox`.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sftplay_ui.engine.checks import CheckResult
from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.learned_spans import learned_spans
from sftplay_ui.engine.text.templates import ChatTemplate, load_template
from sftplay_ui.engine.text.tokens import Tokeniser, prompt_ids, tokenise

# Stand-ins for a template that is checked without a model.
_BOS, _EOS = "<s>", "</s>"

_SYSTEM = Message("system", "Zebra rules.")
_CHAT = (
    Message("user", "First quokka?"),
    Message("assistant", "Second walrus."),
    Message("user", "Third ibex?"),
    Message("assistant", "Fourth lemur."),
)
_ONE_TURN = _CHAT[:2]
# Where in a source a finding usually has its cause.
_LOOP = r"\bfor\b.*\bmessages\b|messages\s*\["
_CONTENT = r"\bcontent\b|\{\{-?\s*assistant\b"


def check_template(source: str, name: str, tokeniser: Tokeniser | None = None) -> CheckResult:
    """Judge a template by itself, or for the model whose tokeniser is given.

    Rejected: what does not compile, is hostile, loses a turn, or cannot be learned from. Each
    finding names its place (`name:line` where a line can be told) and one way to mend it.
    """
    special = tokeniser.special if tokeniser else None
    template = ChatTemplate(
        source, name, "", special.bos if special else _BOS, special.eos if special else _EOS
    )
    try:
        require_learnable(template)
        return CheckResult.of(faults=[], warnings=template_warnings(template, tokeniser))
    except TemplateError as error:
        return CheckResult.rejected(error)


def template_warnings(template: ChatTemplate, tokeniser: Tokeniser | None) -> list[str]:
    """List what a person should know of a template that can be learned from."""
    return [*_warnings(template), *(_model_warnings(template, tokeniser) if tokeniser else [])]


def require_learnable(template: ChatTemplate) -> None:
    """Raise TemplateError for the first fault that would spoil a training with this template."""
    if template.is_encoded:
        # an encoder is asked in its own way, which is ours and not a person's template
        return
    template.render(_ONE_TURN)
    for what, fix in _faults(template):
        raise TemplateError(what, fix)
    learned_spans(_ONE_TURN, template)


def check_template_file(path: Path, tokeniser: Tokeniser | None = None) -> CheckResult:
    """Judge a template file; one that cannot be read is rejected with the reason."""
    try:
        source = load_template(path, bos=_BOS, eos=_EOS).source
    except TemplateError as error:
        return CheckResult.rejected(error)
    return check_template(source, path.name, tokeniser)


def _faults(template: ChatTemplate) -> Iterator[tuple[str, str]]:
    lost = _lost(template, _ONE_TURN)
    if lost:
        yield (
            f"{_at(template, _LOOP)} never writes the {lost[0].role} turn, so there is nothing to "
            "learn from it.",
            "Write the content of every message.",
        )
        return
    text = template.render(_ONE_TURN)
    if repeated := [message for message in _ONE_TURN if text.count(message.content) > 1]:
        yield (
            f"{_at(template, _CONTENT)} writes the {repeated[0].role} turn more than once.",
            "Write it once.",
        )
    if _ignores_the_generation_prompt(template):
        yield (
            f"{_at(template, None)} has no generation prompt: asked for an answer, it does not end "
            "where the answer begins.",
            "Write the assistant's header where add_generation_prompt is true.",
        )
    if _renders(template, _CHAT) and (lost := _lost(template, _CHAT)):
        yield (
            f"{_at(template, _LOOP)} ignores turns: of four, it leaves out {len(lost)} (first a "
            f"{lost[0].role} turn).",
            "Write every message in a loop over messages.",
        )


def _warnings(template: ChatTemplate) -> Iterator[str]:
    name = template.name
    if not (_renders(template, _CHAT) and _renders(template, _CHAT[:3], asking=True)):
        yield (
            f"{name} works for one question and one answer only, not for longer conversations. "
            "Write a loop over messages if there are any."
        )
    elif not _grows_at_its_end(template):
        yield (
            f"{name} renders earlier turns differently as a conversation grows, so an answer may "
            "be asked for in another way than it was learned. Write each turn the same wherever it "
            "stands."
        )
    if template.folds_system:
        yield (
            f"{name} has no place for a system prompt; it goes above the first question instead. "
            "Write messages[0].content where its role is system, to have it elsewhere."
        )
    if _hides_who_speaks(template):
        yield (
            f"{_at(template, _CONTENT)} writes questions and answers alike, so the model cannot "
            "tell who speaks. Write message.role, or a header for each role."
        )
    if _drops_tools(template):
        yield (
            f"{_at(template, _LOOP)} leaves out the turns of tools, which some examples may have. "
            "Write their content too."
        )
    if not template.turn_end.mark:
        yield (
            f"{_at(template, _CONTENT)} does not end an answer, so the model will not learn to "
            "stop. Write {{ eos_token }} after the assistant's content."
        )
    yield from _prompt_warnings(template)
    if "strftime_now" in template.source:
        yield (
            f"{_at(template, 'strftime_now')} writes today's date, so the same example renders "
            "differently tomorrow. Write no date, or a fixed one."
        )


def _prompt_warnings(template: ChatTemplate) -> Iterator[str]:
    text = template.render(_ONE_TURN)
    prompt = template.render(_ONE_TURN[:1], add_generation_prompt=True)
    if template.bos and text.startswith(template.bos * 2):
        place = _at(template, rf"bos_token|{re.escape(template.bos)}")
        yield f"{place} writes {template.bos} twice at the start. Write it once."
    if not text.startswith(prompt):
        yield (
            f"{_at(template, 'add_generation_prompt')} asks with a text that differs from the one "
            f"it trains on (the prompt ends in {prompt[-20:]!r}). Write there what stands before "
            "an answer."
        )
        return
    extra = text[len(prompt) :].partition(_ONE_TURN[1].content)[0]
    if extra.strip():
        place = _at(template, re.escape(extra.strip().split("\n")[0]))
        yield (
            f"{place} writes {extra!r} before each answer; the model learns to write it. "
            "Write it in the generation prompt too, if it should not."
        )


def _model_warnings(template: ChatTemplate, tokeniser: Tokeniser) -> Iterator[str]:
    mark = template.turn_end.mark.strip()
    number = tokeniser.id_of(mark) if mark else None
    if mark and number is None:
        yield (
            f"{_at(template, re.escape(mark))} ends an answer with {mark}, which is no token of "
            "this model: "
            "it is spelled out, and generation cannot stop at it. Write {{ eos_token }} instead."
        )
    elif number is not None and number not in tokeniser.eos_ids:
        yield f"The model stops at {template.eos or 'no token'}; {mark} is added to its stops."
    text = template.render(_ONE_TURN)
    special = tokeniser.special
    if special.adds_bos and not text.startswith(special.bos):
        yield (
            f"{template.name}:1 begins without {special.bos}, which this model expects first. "
            "Write {{ bos_token }} at the start."
        )
    trained = list(tokenise(Example(_ONE_TURN), template, tokeniser, len(text) * 8).input_ids)
    asked = prompt_ids(_ONE_TURN[:1], template, tokeniser)
    if text.startswith(tokeniser.decode(asked)) and trained[: len(asked)] != asked:
        yield (
            f"The tokens of this model join the end of {template.name}'s prompt with the answer, "
            "so a question is asked with slightly other tokens than it was learned with. "
            "End the prompt in a word of its own, such as Assistant:."
        )


def _at(template: ChatTemplate, pattern: str | None) -> str:
    """Name the place of a finding: the last line that matches, or without a pattern the last."""
    lines = template.source.rstrip().splitlines()
    found = [n for n, line in enumerate(lines, start=1) if not pattern or re.search(pattern, line)]
    return f"{template.name}:{found[-1]}" if found else template.name


def _hides_who_speaks(template: ChatTemplate) -> bool:
    question, answer = _ONE_TURN
    try:
        spoken_by_one = template.render((question, Message("user", answer.content)))
    except TemplateError:
        return False
    return spoken_by_one == template.render(_ONE_TURN)


def _drops_tools(template: ChatTemplate) -> bool:
    result = Message("tool", "Fifth otter.")
    try:
        return result.content not in template.render((*_ONE_TURN, result))
    except TemplateError:
        # refused aloud, so nothing is lost unseen
        return False


def _lost(template: ChatTemplate, messages: Sequence[Message]) -> list[Message]:
    text = template.render(messages)
    return [message for message in messages if message.content not in text]


def _ignores_the_generation_prompt(template: ChatTemplate) -> bool:
    text = template.render(_ONE_TURN)
    asked = template.render(_ONE_TURN[:1], add_generation_prompt=True)
    if asked != template.render(_ONE_TURN[:1]):
        return False
    # some forms, such as Mistral's, need none: the question's own end opens the answer
    header = text[len(asked) :].partition(_ONE_TURN[1].content)[0]
    return not text.startswith(asked) or bool(header.strip())


def _grows_at_its_end(template: ChatTemplate) -> bool:
    return template.render(_CHAT).startswith(template.render(_CHAT[:3], add_generation_prompt=True))


def _renders(template: ChatTemplate, messages: Sequence[Message], *, asking: bool = False) -> bool:
    try:
        template.render(messages, add_generation_prompt=asking)
    except TemplateError:
        return False
    return True
