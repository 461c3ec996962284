"""What is installed is what is in the repository."""

import ast
import re

from tests.conftest import ROOT


def test_every_package_is_installed():
    (listed,) = re.findall(r"packages=(\[.*?\])", (ROOT / "setup.py").read_text(), re.DOTALL)
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("delta", "workers", "launch", "conf")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(ast.literal_eval(listed)) == there
