"""A value together with its reason: what every `auto` of the configuration ends as."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """What the machine decided for one setting, and why, in words for a person."""

    setting: str
    value: str | int | float | bool
    reason: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.value} ({self.reason})"
