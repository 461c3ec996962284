"""Which tests want the machine for themselves."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of the verifier: their verdicts depend on deadlines, and they look for processes that were left behind."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("alone")
