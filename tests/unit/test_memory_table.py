"""The README says what the estimator says."""

from pathlib import Path

from sftplay_ui.engine.memory.table import table

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- fits on 8 GB: python -m sftplay_ui.engine.memory.table -->", "<!-- end of fits"


def test_the_table_in_the_readme_is_the_estimators() -> None:
    text = README.read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == table()


def test_the_readme_says_that_the_table_is_simulated() -> None:
    before = README.read_text(encoding="utf-8").partition(BEGIN)[0]
    assert "Simulated, not yet measured on an 8 GB card." in before.rpartition("## ")[2]
