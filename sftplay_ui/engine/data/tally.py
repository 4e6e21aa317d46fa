"""Counting what happens to rows: how many of each kind, and the first few with their places."""

from dataclasses import dataclass, field

from sftplay_ui.engine.data.private_data import mask_personal, mask_secrets
from sftplay_ui.engine.data.rows import Place

SHOWN = 5
EXCERPT_CHARS = 200


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One case of a kind: where it is, and the reason or an excerpt of the text."""

    place: str
    text: str


@dataclass(slots=True)
class Tally:
    """Counts by kind, with the first `SHOWN` occurrences of each."""

    counts: dict[str, int] = field(default_factory=dict)
    shown: dict[str, list[Occurrence]] = field(default_factory=dict)

    def add(self, kind: str, place: Place | str, text: str) -> None:
        """Count one case; its place and text are kept while there are few."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        cases = self.shown.setdefault(kind, [])
        if len(cases) < SHOWN:
            cases.append(Occurrence(str(place), excerpt(text)))

    def examples(self) -> dict[str, tuple[Occurrence, ...]]:
        """Return the kept occurrences, frozen."""
        return {kind: tuple(cases) for kind, cases in self.shown.items()}

    @property
    def total(self) -> int:
        """Sum over all kinds."""
        return sum(self.counts.values())


def excerpt(text: str) -> str:
    """Shorten a text for a list, on one line; secrets and personal data are masked."""
    # more than is shown, so that no secret is cut before it is known by its form
    masked = mask_personal(mask_secrets(text[: 4 * EXCERPT_CHARS]))
    line = " ".join(masked.split())
    return line if len(line) <= EXCERPT_CHARS else line[: EXCERPT_CHARS - 1] + "…"
