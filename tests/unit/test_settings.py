"""The list of settings that form, table and checks are made from."""

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.settings import allowed, settings, settings_table


def test_every_setting_has_a_help_text_and_its_real_default():
    for setting in settings():
        value = RunConfig()
        for key in setting.path.split("."):
            value = getattr(value, key)
        assert value == setting.default, setting.path
        assert setting.help.endswith("."), setting.path


def test_limits_and_auto_are_read_from_the_schema():
    by_path = {s.path: s for s in settings()}
    rate = by_path["train.learning_rate"]
    assert (rate.kind, rate.auto, rate.maximum, rate.above_minimum) == ("float", True, 1, True)
    assert by_path["tuning.mode"].choices == ("auto", "qlora", "lora", "full")
    assert by_path["data.mapping"].kind == "map"
    assert by_path["model.revision"].optional
    assert allowed(rate) == "`auto` or number, above 0 up to 1"


def test_at_most_eight_settings_are_essential():
    assert 0 < sum(s.essential for s in settings()) <= 8


def test_the_table_has_a_row_for_each_setting():
    table = settings_table()
    assert all(f"| `{s.path}` |" in table for s in settings())
