"""Where things lie: the project's folders and the person's cache folder.

Every part gets a `Workspace` handed in, so two copies of the app never share state by accident.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from sftplay_ui.engine.errors import SFTPlayError

LONGEST_NAME = 255
PROJECT_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Workspace:
    """The folder that holds data, runs and adapters; its layout is that of the repository."""

    root: Path

    @classmethod
    def of_run(cls, run_dir: Path) -> "Workspace":
        """Find the workspace a run folder (`<root>/outputs/<run>`) belongs to."""
        return cls(run_dir.resolve().parents[1])

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def adapters(self) -> Path:
        return self.root / "adapters"

    @property
    def templates(self) -> Path:
        return self.root / "chat_templates"

    @property
    def configs(self) -> Path:
        return self.root / "configs"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def samples(self) -> Path:
        return self.data / "samples"

    def resolve(self, text: str | Path) -> Path:
        """Make a path absolute: `~` is the home folder, anything relative counts from the root.

        Raises SFTPlayError for a text that can be no path.
        """
        if "\0" in str(text):
            raise SFTPlayError(f"{str(text)!r} is no path: it holds a NUL.", "Correct the path.")
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(text).parts):
            raise SFTPlayError(
                f"{str(text)[:40]}... holds a name longer than {LONGEST_NAME} bytes.",
                "Correct the path.",
            )
        try:
            return (self.root / Path(text).expanduser()).resolve()
        except RuntimeError as error:  # links that lead to each other, a home that nobody has
            raise SFTPlayError(f"{text} is no path: {error}.", "Correct the path.") from None

    def shorten(self, path: Path) -> str:
        """Name a path the way a person would: from the root where it lies below it."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


def user_cache() -> Path:
    """Give the folder for models, caches and device locks; `SFTPLAY_HOME` overrides it."""
    override = os.environ.get("SFTPLAY_HOME")
    return Path(override) if override else Path(platformdirs.user_cache_dir("sft-play", False))
