"""The tokenizer and chat template a tab counts and shows tokens with, if the model is here already.

Nothing is fetched: a page that only looks must not start a download.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sftplay_ui.engine.data.examples import Example
from sftplay_ui.engine.data.row_checks import TokenLengths
from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.models.store import find_model, list_models
from sftplay_ui.engine.text.templates import ChatTemplate, choose_template
from sftplay_ui.engine.text.tokens import Tokeniser, tokenise
from sftplay_ui.engine.workspace import Workspace


@dataclass(frozen=True)
class TokenSource:
    """What turns examples into tokens the way training does."""

    model: str
    tokeniser: Tokeniser
    template: ChatTemplate

    def lengths(self, max_seq_len: int) -> Callable[[Example], TokenLengths]:
        """Give a measure of single examples, for the data doctor."""

        def measure(example: Example) -> TokenLengths:
            found = tokenise(example, self.template, self.tokeniser, max_seq_len)
            return TokenLengths(
                tokens=len(found.input_ids) + found.cut_tokens,
                cut_tokens=found.cut_tokens,
                learned=found.learned_count + found.cut_learned,
                cut_learned=found.cut_learned,
            )

        return measure


def token_source(
    model: str, workspace: Workspace, template_path: Path | None = None
) -> TokenSource:
    """Load tokenizer and template of a base model that is on this machine.

    Raises ModelError where it is not here or unusable, TemplateError where the template is.
    """
    name = model.strip() or "starter"
    found = find_model(name, workspace=workspace)
    if found is None:
        raise ModelError(
            f"The base model {name} is not on this machine yet, so its tokens cannot be counted.",
            "Training fetches it; or name a model that is here.",
        )
    tokenizer = found.path / "tokenizer.json"
    version = tokenizer.stat().st_mtime_ns if tokenizer.is_file() else 0
    edited = template_path.stat().st_mtime_ns if template_path and template_path.is_file() else 0
    return TokenSource(
        name,
        loaded_tokeniser(found.path, version),
        chosen_template(found.path, template_path, workspace.templates, edited),
    )


@lru_cache(maxsize=2)
def loaded_tokeniser(folder: Path, _version: int) -> Tokeniser:
    """Load a tokenizer once; loading takes far longer than using it."""
    return Tokeniser.load(folder)


@lru_cache(maxsize=16)
def chosen_template(
    folder: Path, path: Path | None, templates: Path, _version: int
) -> ChatTemplate:
    """Choose a template once: each choice is tried in a process of its own."""
    return choose_template(folder, path, templates)


def model_names(workspace: Workspace, current: str = "") -> list[str]:
    """List the base models to choose from, the current one first."""
    return [*dict.fromkeys([*([current] if current else []), *list_models(workspace)])]
