"""How long the training examples are in tokens: what decides how much a micro-batch needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import read_examples
from sftplay_ui.engine.models.folder import ModelFolder
from sftplay_ui.engine.text.templates import choose_template
from sftplay_ui.engine.text.tokens import Tokeniser, tokenise_stream
from sftplay_ui.engine.workspace import Workspace

# A few seconds of tokenising; the rest of a longer file is taken to be like its beginning.
ENOUGH_EXAMPLES = 20_000


@dataclass(frozen=True)
class TokenLengths:
    """The examples' lengths after the cut; `examples` and `tokens` count all there are."""

    longest_first: tuple[int, ...]
    examples: int
    tokens: int
    learned_share: float

    @classmethod
    def of(cls, lengths: Sequence[int], learned: int, *, examples: int = 0) -> "TokenLengths":
        """Sum up measured lengths; `examples` is how many there are if more than were measured."""
        ordered = tuple(sorted(lengths, reverse=True))
        measured = sum(ordered)
        count = max(examples, len(ordered))
        tokens = round(measured * count / max(1, len(ordered)))
        return cls(ordered, count, tokens, learned / max(1, measured))

    @property
    def longest(self) -> int:
        return self.longest_first[0] if self.longest_first else 0

    def heaviest(self, examples: int) -> int:
        """Count the tokens of the heaviest micro-batch there can be, without padding."""
        missing = max(0, examples - len(self.longest_first))
        return sum(self.longest_first[:examples]) + missing * self.longest


def measure_lengths(
    config: RunConfig, model: ModelFolder, workspace: Workspace
) -> TokenLengths | None:
    """Tokenise the training examples as a run would; None where there are none yet.

    Raises DataError or TemplateError for examples that cannot be used.
    """
    path = workspace.resolve(config.data.train_path)
    if not path.is_file() or not model.tokenizer_path.is_file():
        return None
    named = config.data.template_path
    template = choose_template(
        model.path, workspace.resolve(named) if named else None, workspace.templates
    )
    tokeniser = Tokeniser.load(model.path)
    examples: Iterator = read_examples(path)  # type: ignore[type-arg]
    cut = config.model.max_seq_len
    lengths, learned = [], 0
    for example in tokenise_stream(islice(examples, ENOUGH_EXAMPLES), template, tokeniser, cut):
        lengths.append(len(example.input_ids))
        learned += example.learned_count
    if not lengths:
        return None
    rest = sum(1 for _ in examples)
    return TokenLengths.of(lengths, learned, examples=len(lengths) + rest)
