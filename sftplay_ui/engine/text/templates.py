"""Chat templates: which one a model gets, why, and the text it makes of a conversation.

Rendering happens in the sandbox of `template_sandbox`; which characters are learned is decided in
`tokens`; whether a template is any good is judged by `template_check`. What a person wrote is only
ever a value here, never a template.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.special_tokens import SpecialTokens, read_json, read_special_tokens
from sftplay_ui.engine.text.template_sandbox import (
    OUTPUT_CHARACTERS,
    chat_values,
    check_size,
    render_source,
)
from sftplay_ui.engine.text.template_trial import try_in_child
from sftplay_ui.engine.workspace import PROJECT_ROOT

# `<|im_end|>`, `</s>`, `<end_of_turn>`, `[/INST]`: a mark of its own, possibly after a blank.
_MARK = re.compile(r"\s*(<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\])")
# How a model of an encoder and a decoder is asked: no chat markup, only what was said; the end
# token closes what the encoder reads, as it was taught. Only the last answer is the decoder's.
ENCODED = "{#- the encoder reads the prompt, the decoder writes the answer -#}"
_ENCODER_SOURCE = (
    ENCODED
    + """
{%- set chat = messages | rejectattr("role", "equalto", "system") | list | length > 2 -%}
{%- for message in messages -%}
  {%- if message.role == "assistant" and loop.last -%}
    {{- eos_token + message.content + eos_token -}}
  {%- else -%}
    {{- "" if loop.first else "\n" -}}
    {{- message.role | capitalize + ": " if chat and message.role != "system" else "" -}}
    {{- message.content -}}
  {%- endif -%}
{%- endfor -%}
{{- eos_token if add_generation_prompt else "" -}}
"""
)
_WRITE_BOS = "{{- bos_token -}}\n"
_SENTINEL = "\ue000{}\ue001"

# Which bundled template a family was taught with, and the mark its vocabulary must have.
_FAMILIES: dict[str, tuple[tuple[str, str], ...]] = {
    "llama": (("llama3", "<|eot_id|>"), ("default", "<|im_end|>")),
    "gemma": (("gemma", "<end_of_turn>"),),
    "mistral": (("mistral", "</s>"),),
    "mixtral": (("mistral", "</s>"),),
    "phi": (("phi", "<|end|>"),),
    "qwen": (("default", "<|im_end|>"),),
}


@dataclass(frozen=True)
class TurnEnd:
    """What follows an answer: the mark that ends the turn, which is learned, and the rest."""

    mark: str
    rest: str


@dataclass(frozen=True)
class ChatTemplate:
    """One template with the special tokens it is rendered with; equal parts make equal texts."""

    source: str
    name: str
    reason: str
    bos: str
    eos: str

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Turn messages into the text a model reads; the system turn is folded where it must be.

        Raises TemplateError with the template's line where it fails or refuses the conversation.
        """
        if self.folds_system and messages and messages[0].role == "system":
            messages = fold_system(messages)
        return self._render(messages, add_generation_prompt=add_generation_prompt)

    @cached_property
    def folds_system(self) -> bool:
        """Whether the template has no place for a system turn, so that the question carries it."""
        return _folds_system(self.source, self.bos, self.eos)

    @cached_property
    def turn_end(self) -> TurnEnd:
        """What the template writes after an answer; the mark is empty where it writes none."""
        answer = _SENTINEL.format("a")
        text = self.render((Message("user", "?"), Message("assistant", answer)))
        return split_turn_end(text.rpartition(answer)[2], self.eos)

    @property
    def is_encoded(self) -> bool:
        """Whether an encoder reads the prompt, so that only the last answer can be learned."""
        return self.source.startswith(ENCODED)

    @cached_property
    def opening(self) -> str:
        """What a text ends with where the model begins to write, such as the assistant's header.

        Empty where the template has no such words; see `tokens` for what it is good for.
        """
        question = _SENTINEL.format("q")
        turn = (Message("user", question),)
        try:
            asked = self.render(turn, add_generation_prompt=True)
            told = self.render(turn)
        except TemplateError:
            return ""
        # forms without a generation prompt, such as Mistral's, open by the end of the question
        opening = asked.removeprefix(told) or asked.rpartition(question)[2]
        return opening if opening.strip() and question not in opening else ""

    @property
    def hash(self) -> str:
        """The sha256 of the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        # the one door: no template runs in this process that was not tried in a limited one
        try_in_child(self.source, self.name)
        values = chat_values(
            messages, add_generation_prompt=add_generation_prompt, bos=self.bos, eos=self.eos
        )
        # long conversations are fine, a template that adds a megabyte to them is not
        limit = OUTPUT_CHARACTERS + 2 * sum(len(message.content) for message in messages)
        return render_source(self.source, values, limit=limit, name=self.name)


@dataclass(frozen=True)
class TemplateContract:
    """What training and every later use of an adapter must share, or answers silently go wrong."""

    template_hash: str
    system: str
    eos: str

    @property
    def hash(self) -> str:
        """One sha256 over all three."""
        parts = json.dumps([self.template_hash, self.system, self.eos], ensure_ascii=True)
        return hashlib.sha256(parts.encode()).hexdigest()


def template_contract(template: ChatTemplate, system: str) -> TemplateContract:
    """State what a model is trained with: the template, the common system text, the end token."""
    return TemplateContract(template_hash=template.hash, system=system, eos=template.eos)


def choose_template(
    model_folder: Path, template_path: Path | None, templates_dir: Path
) -> ChatTemplate:
    """Choose a template: the named file, the model's own, its family's, or the plain form.

    Raises TemplateError where the named file is unusable, or the template turns out to be a bomb or
    an escape. What was chosen and why is said in `reason`. An encoder-decoder model is asked
    without any.
    """
    special = read_special_tokens(model_folder)
    if read_json(model_folder / "config.json").get("is_encoder_decoder"):
        return _none_for_encoders(template_path, special)
    template = (
        _named(template_path, special)
        or _own(model_folder, special)
        or _of_family(model_folder, special, templates_dir)
    )
    try_in_child(template.source, template.name)
    return template


def template_files(templates_dir: Path) -> dict[str, Path]:
    """Find all template files by name: the bundled ones, and over them those of a workspace."""
    folders = (PROJECT_ROOT / "chat_templates", templates_dir)
    return {path.name: path for folder in folders for path in sorted(folder.glob("*.jinja"))}


def load_template(path: Path, *, bos: str, eos: str) -> ChatTemplate:
    """Read one template file; raise TemplateError where it is missing, too large or not text."""
    try:
        size = path.stat().st_size
        source = path.read_text(encoding="utf-8") if size < 10 * OUTPUT_CHARACTERS else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise TemplateError(
            f"The chat template {path} cannot be read: {reason}.",
            "Choose one of chat_templates, or leave data.template_path empty.",
        ) from error
    if not source.strip():
        raise TemplateError(
            f"The chat template {path} is {'empty' if size < 10 * OUTPUT_CHARACTERS else 'huge'}.",
            "Choose another file, or leave data.template_path empty.",
        )
    check_size(source, str(path))
    return ChatTemplate(source, path.name, f"{path.name} was chosen", bos, eos)


def fold_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Move a leading system turn into the first user turn, above the question."""
    system, rest = messages[0].content, list(messages[1:])
    for number, message in enumerate(rest):
        if message.role == "user":
            rest[number] = replace(message, content=f"{system}\n\n{message.content}".strip("\n"))
            break
    return tuple(rest)


def split_turn_end(tail: str, eos: str) -> TurnEnd:
    """Split what follows the last answer into the mark that ends the turn and the rest."""
    blank = len(tail) - len(tail.lstrip())
    mark = _MARK.match(tail)
    if eos and tail.startswith(eos, blank):
        end = blank + len(eos)
    elif mark:
        end = mark.end()
    else:
        # a mark in plain words, such as "### End": the first line that is not blank
        end = blank + len(tail[blank:].split("\n", 1)[0].rstrip())
    return TurnEnd(tail[:end], tail[end:]) if tail.strip() else TurnEnd("", tail)


@lru_cache(maxsize=64)
def _folds_system(source: str, bos: str, eos: str) -> bool:
    template = ChatTemplate(source, "template", "", bos, eos)
    chat = (Message("user", "Why?"), Message("assistant", "So."))
    system = Message("system", _SENTINEL.format("s"))
    try:
        return system.content not in template._render((system, *chat), add_generation_prompt=False)
    except TemplateError:
        return _renders(template, chat)


def _renders(template: ChatTemplate, messages: Sequence[Message]) -> bool:
    try:
        template._render(messages, add_generation_prompt=False)
    except TemplateError:
        return False
    return True


def _named(path: Path | None, special: SpecialTokens) -> ChatTemplate | None:
    return None if path is None else load_template(path, bos=special.bos, eos=special.eos)


def _own(folder: Path, special: SpecialTokens) -> ChatTemplate | None:
    source = own_template_source(folder)
    if source is None:
        return None
    return ChatTemplate(
        source, "the model's own", "the model brings its own template", special.bos, special.eos
    )


def _none_for_encoders(path: Path | None, special: SpecialTokens) -> ChatTemplate:
    reason = "an encoder-decoder model reads the question as it is"
    if path is not None:
        reason += f"; {path.name} is not used"
    return ChatTemplate(_ENCODER_SOURCE, "no template", reason, "", special.eos)


def own_template_source(folder: Path) -> str | None:
    """Return the chat template a model folder brings, None where it brings none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return load_template(path, bos="", eos="").source
    for name in ("tokenizer_config.json", "chat_template.json"):
        value = read_json(folder / name).get("chat_template")
        if isinstance(value, list):
            named = {e.get("name"): e.get("template") for e in value if isinstance(e, dict)}
            value = named.get("default")
        if isinstance(value, str) and value.strip():
            return value
    return None


def _of_family(folder: Path, special: SpecialTokens, templates_dir: Path) -> ChatTemplate:
    model_type = str(read_json(folder / "config.json").get("model_type", ""))
    family = next((known for known in _FAMILIES if model_type.startswith(known)), None)
    for name, mark in _FAMILIES[family] if family else ():
        if mark in special.marks:
            path = template_files(templates_dir)[f"{name}.jinja"]
            template = load_template(path, bos=special.bos, eos=special.eos)
            reason = f"the model brings no template; {model_type} models know {mark}"
            return replace(template, reason=reason)
    plain = template_files(templates_dir)["plain.jinja"]
    template = load_template(plain, bos=special.bos, eos=special.eos)
    reason = (
        f"the model brings no template and its family ({model_type or 'unknown'}) gives no hint"
    )
    # a model that was never taught a first token is not given one; the source says so to whoever
    # uses the adapter elsewhere
    source = template.source if special.adds_bos else template.source.replace(_WRITE_BOS, "")
    return replace(template, source=source, reason=reason)
