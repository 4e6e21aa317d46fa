"""The bar that shows whether a run fits."""

import re
from dataclasses import replace

import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.memory.estimate import Estimate, estimate
from sftplay_ui.engine.memory.forecast import Forecast
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.table import imagined_card
from sftplay_ui.tabs.fit import fit_html, time_html
from tests.model_configs import QWEN


def found(card: float, length: int = 512) -> Estimate:
    config = RunConfig.model_validate(
        {"model": {"max_seq_len": length}, "tuning": {"mode": "qlora"}}
    )
    return estimate(config, ModelShape.of(QWEN["Qwen2.5-7B"]), imagined_card(card))


def widths(page: str) -> list[float]:
    return [float(width) for width in re.findall(r"width:([\d.]+)%", page)]


@pytest.mark.parametrize("card", [4, 8, 24])
def test_the_parts_never_overflow_the_bar(card: float) -> None:
    assert 0 < sum(widths(fit_html(found(card)))) <= 100


@pytest.mark.parametrize(("card", "word"), [(24, "Fits"), (4, "Does not fit")])
def test_the_verdict_stands_in_words_and_not_in_colour_alone(card: float, word: str) -> None:
    assert f">{word}</span>" in fit_html(found(card))


def test_every_part_has_its_figure_in_the_key() -> None:
    page = fit_html(found(24))
    assert page.count("<li class=") == sum(
        1 for size in vars(found(24).categories).values() if size
    )


def test_text_is_escaped() -> None:
    page = fit_html(replace(found(8), sentence="<b onload='x'>"))
    assert "<b onload" not in page
    assert "&lt;b onload" in page


def test_time_says_where_it_comes_from() -> None:
    known = Forecast(600.0, 20.0, 1800.0, 80.0, True, "measured in the run <one>")
    page = time_html(known)
    assert "<strong>30 min</strong>, 10 min for each epoch" in page
    assert "measured in the run &lt;one&gt;" in page
    assert "once there are examples" in time_html(None)
