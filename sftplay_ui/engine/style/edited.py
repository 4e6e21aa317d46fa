"""Edits of processed examples made in the styled files as well, which are what training reads.

Row for row the styled files are the processed ones with the style applied, so a row follows without
the others being written anew. Where they are of other examples, nothing is touched.
"""

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Example, RenderedExample
from sftplay_ui.engine.data.table import Change, Table
from sftplay_ui.engine.project import current_data
from sftplay_ui.engine.style.apply import apply_style
from sftplay_ui.engine.workspace import Workspace


def follow_change(change: Change, table: Table, workspace: Workspace) -> bool:
    """Make the change of a processed row (`table` has it already) in the styled file of its split.

    Returns False where the styled files are of other examples, so that the style has to be applied
    again; True where they follow, or where training reads the processed files themselves.
    """
    current = current_data(workspace)
    path = workspace.data / "processed_with_style" / table.path.name
    if current is None or workspace.resolve(current.train_path).parent != path.parent.resolve():
        return True
    if not path.is_file():
        return False
    style = current.apply(RunConfig()).style
    styled = Table(path)
    grown = (change.after is not None) - (change.before is not None)
    if len(styled) + grown != len(table):
        return False
    after: Example | RenderedExample | None = change.after
    if (witness := _witness(change, table)) is not None:
        row, original = witness
        found = styled.row(row).example
        # a split that the style left out was copied as it is
        applies = found == apply_style(original, style)
        if not applies and found != original:
            return False
        after = apply_style(after, style) if after is not None and applies else after
    styled.mirror(change.row, after, inserts=change.before is None)
    return True


def _witness(change: Change, table: Table) -> tuple[int, Example | RenderedExample] | None:
    """Give a row of the styled file with the processed example it was made of."""
    if change.before is not None:
        return change.row, change.before
    if change.row + 1 < len(table):
        return change.row, table.row(change.row + 1).example
    return (change.row - 1, table.row(change.row - 1).example) if change.row else None
