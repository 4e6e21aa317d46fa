"""Is a chat template any good for training? Every finding in a sentence, before a step is trained.

A template is first tried in the limited child process, then rendered on a few chats whose contents
cannot be mistaken for anything else. Faults would spoil the training (reject); warnings are facts a
person should know. Rendering and the sandbox are left to `templates` and `template_sandbox`.
"""

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


def check_template(source: str, name: str, tokeniser: Tokeniser | None = None) -> CheckResult:
    """Judge a template by itself, or for the model whose tokeniser is given.

    Rejected: what does not compile, is hostile, loses a turn, or cannot be learned from.
    """
    special = tokeniser.special if tokeniser else None
    template = ChatTemplate(
        source, name, "", special.bos if special else _BOS, special.eos if special else _EOS
    )
    try:
        template.render(_ONE_TURN)
        faults = list(_faults(template))
        if not faults:
            learned_spans(_ONE_TURN, template)
    except TemplateError as error:
        return CheckResult.rejected(error)
    if faults:
        return CheckResult.of(faults=faults, warnings=[])
    warnings = [*_warnings(template), *(_model_warnings(template, tokeniser) if tokeniser else [])]
    return CheckResult.of(faults=[], warnings=warnings)


def check_template_file(path: Path, tokeniser: Tokeniser | None = None) -> CheckResult:
    """Judge a template file; one that cannot be read is rejected with the reason."""
    try:
        source = load_template(path, bos=_BOS, eos=_EOS).source
    except TemplateError as error:
        return CheckResult.rejected(error)
    return check_template(source, path.name, tokeniser)


def _faults(template: ChatTemplate) -> Iterator[str]:
    name = template.name
    lost = _lost(template, _ONE_TURN)
    if lost:
        yield (
            f"{name} never writes the {lost[0].role} turn, so there is nothing to learn from it. "
            "Write the content of every message."
        )
        return
    text = template.render(_ONE_TURN)
    if repeated := [message for message in _ONE_TURN if text.count(message.content) > 1]:
        yield f"{name} writes the {repeated[0].role} turn more than once. Write it once."
    if _ignores_the_generation_prompt(template):
        yield (
            f"{name} has no generation prompt: asked for an answer, it does not end where the "
            "answer begins. Write the assistant's header where add_generation_prompt is true."
        )
    if _renders(template, _CHAT) and (lost := _lost(template, _CHAT)):
        yield (
            f"{name} ignores turns: of four, it leaves out {len(lost)} (first a {lost[0].role} "
            "turn). Write every message in a loop over messages."
        )


def _warnings(template: ChatTemplate) -> Iterator[str]:
    name = template.name
    if not _renders(template, _CHAT):
        yield f"{name} works for one question and one answer only, not for longer conversations."
    elif not _grows_at_its_end(template):
        yield (
            f"{name} renders earlier turns differently as a conversation grows, so an answer may "
            "be asked for in another way than it was learned."
        )
    if template.folds_system:
        yield (
            f"{name} has no place for a system prompt; it goes above the first question instead."
        )
    if not template.turn_end.mark:
        yield (
            f"{name} does not end an answer, so the model will not learn to stop. "
            "Write {{ eos_token }} after the assistant's content."
        )
    yield from _prompt_warnings(template)
    if "strftime_now" in template.source:
        yield f"{name} writes today's date, so the same example renders differently tomorrow."


def _prompt_warnings(template: ChatTemplate) -> Iterator[str]:
    text = template.render(_ONE_TURN)
    prompt = template.render(_ONE_TURN[:1], add_generation_prompt=True)
    if template.bos and text.startswith(template.bos * 2):
        yield f"{template.name} writes {template.bos} twice at the start. Write it once."
    if not text.startswith(prompt):
        yield (
            f"{template.name} asks with a text that differs from the one it trains on "
            f"(the prompt ends in {prompt[-20:]!r})."
        )
        return
    extra = text[len(prompt) :].partition(_ONE_TURN[1].content)[0]
    if extra.strip():
        yield f"{template.name} writes {extra!r} before each answer; the model learns to write it."


def _model_warnings(template: ChatTemplate, tokeniser: Tokeniser) -> Iterator[str]:
    mark = template.turn_end.mark.strip()
    number = tokeniser.id_of(mark) if mark else None
    if mark and number is None:
        yield (
            f"{template.name} ends an answer with {mark}, which is no token of this model: "
            "it is spelled out, and generation cannot stop at it. Write {{ eos_token }} instead."
        )
    elif number is not None and number not in tokeniser.eos_ids:
        yield f"The model stops at {template.eos or 'no token'}; {mark} is added to its stops."
    text = template.render(_ONE_TURN)
    special = tokeniser.special
    if special.adds_bos and not text.startswith(special.bos):
        yield f"{template.name} begins without {special.bos}, which this model expects first."
    trained = list(tokenise(Example(_ONE_TURN), template, tokeniser, len(text) * 8).input_ids)
    asked = prompt_ids(_ONE_TURN[:1], template, tokeniser)
    if text.startswith(tokeniser.decode(asked)) and trained[: len(asked)] != asked:
        yield (
            f"The tokens of this model join the end of {template.name}'s prompt with the answer, "
            "so a question is asked with slightly other tokens than it was learned with."
        )


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


def _renders(template: ChatTemplate, messages: Sequence[Message]) -> bool:
    try:
        template.render(messages)
    except TemplateError:
        return False
    return True
