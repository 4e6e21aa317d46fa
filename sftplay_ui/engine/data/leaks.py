"""Questions that stand in train and again in val or test, in files that already lie there.

A set that was processed here has none; files that a person brought or edited may.
"""

import tempfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sftplay_ui.engine.data.examples import Example, RenderedExample, read_examples
from sftplay_ui.engine.data.findings import Finding, make_finding
from sftplay_ui.engine.data.near import Texts, near_groups
from sftplay_ui.engine.data.split import SPLITS, Split, bare_question, hash_text, plain_question
from sftplay_ui.engine.data.tally import Tally

TRAIN = SPLITS.index("train")


def find_leaks(paths: Mapping[Split, Path]) -> tuple[Finding, ...]:
    """Find the examples of val and test whose question (or nearly it) is learned in train."""
    names, lengths, splits = array("Q"), array("I"), array("B")
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder, "questions")
        with spool.open("wb") as stream:
            for split, question in _questions(paths):
                spooled = bare_question(question)
                stream.write(spooled)
                names.append(hash_text(question))
                lengths.append(len(spooled))
                splits.append(split)
        if not names:
            return ()
        sizes = np.frombuffer(lengths, np.uint32).astype(np.int64)
        own = np.frombuffer(names, np.uint64)
        near = near_groups(Texts(spool, np.cumsum(sizes) - sizes, sizes), own)
    of_split = np.frombuffer(splits, np.uint8)
    same = _learned(own, of_split)
    masks = {"split_leaks": same, "near_split_leaks": _learned(near, of_split) & ~same}
    tallies = {kind: Tally() for kind in masks}
    for row, (split, question) in enumerate(_questions(paths)):
        for kind, mask in masks.items():
            if mask[row]:
                line = row - int(np.searchsorted(of_split, split)) + 1
                tallies[kind].add(kind, f"{paths[SPLITS[split]].name}:{line}", question)
    return tuple(
        make_finding(kind, tally.counts[kind], tuple(tally.shown[kind]), fixed=False)
        for kind, tally in tallies.items()
        if tally.counts
    )


def _questions(paths: Mapping[Split, Path]) -> Iterator[tuple[int, str]]:
    for number, split in enumerate(SPLITS):
        if split in paths and paths[split].exists():
            for example in read_examples(paths[split]):
                yield number, plain_question(_question(example))


def _question(example: Example | RenderedExample) -> str:
    if isinstance(example, RenderedExample):
        return example.input
    return "\n".join(message.content for message in example.messages if message.role == "user")


def _learned(names: npt.NDArray[np.uint64], splits: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Mark the entries outside train whose name occurs in train."""
    found: npt.NDArray[np.bool_] = (splits != TRAIN) & np.isin(names, names[splits == TRAIN])
    return found
