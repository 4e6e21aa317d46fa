"""Versions of installed packages."""

import sys
from importlib.metadata import version

from sftplay_ui.engine.versions import installed


def test_installed_packages_are_listed_and_others_left_out():
    loaded = "pyarrow" in sys.modules
    found = installed(["pyarrow", "no-such-package", "pydantic"])
    assert list(found) == ["pyarrow", "pydantic"]
    assert found["pyarrow"] == version("pyarrow")
    assert ("pyarrow" in sys.modules) == loaded
