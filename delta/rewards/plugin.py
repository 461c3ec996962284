"""Judges and reward parts of your own, found by their Python path."""

import importlib
import json
from collections.abc import Callable
from typing import Any

from delta.errors import ConfigError
from delta.types import Outcome, PluginAnswer, Verdict

Judge = Callable[[str, Any], Verdict | float]
"""A judge of your own: response and the row's `answer` to a verdict, or to a reward from 0 (wrong) to 1 (correct)."""


def find(path: str) -> Callable[..., Any]:
    """The function at a Python path such as `package.module.function`.

    Raises:
        ConfigError: There is none; the message says how far the path leads.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ConfigError(f"{path!r} is no Python path. Expected package.module.function.")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{path}: {module_name} cannot be imported ({error}). Expected an installed module, or one whose folder is "
            "in PYTHONPATH."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{path}: {module_name} has no function {name!r}.")
    return function  # type: ignore[no-any-return]


def judge_by_plugin(response: str, answer: PluginAnswer) -> Verdict:
    """Ask the task's own judge.

    A number r becomes a verdict: `correct` for 1 and above, else `wrong`, with reward r; so a proof may be graded in
    between.
    """
    judge: Judge = find(answer.judge)
    found = judge(response, json.loads(answer.answer))
    if isinstance(found, Verdict):
        return found
    reward = float(found)
    return Verdict(Outcome.correct if reward >= 1.0 else Outcome.wrong, reward, f"{answer.judge} gave {reward:g}")
