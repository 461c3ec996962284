"""Where problems come from: one dataclass per source, and the function that reads it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from delta.data.arithmetic import ArithmeticConfig, arithmetic_problems
from delta.data.gsm8k_expressions import read_gsm8k_expressions
from delta.data.problems import PROMPT, Overlong, ProblemSet, held_out_apart, hold_out, read_jsonl
from delta.errors import ConfigError

ROW_FIELDS = frozenset({"id", "prompt", "task", "answer", "tests", "entry_point"})
"""Of a problem in a file."""


@dataclass(kw_only=True, slots=True)
class JsonlConfig:
    """Problems from a file of JSON lines with `prompt` and `answer` (`data=jsonl`)."""

    path: str = ""
    """The file."""
    fields: dict[str, str] = field(default_factory=dict)
    """What the file calls the fields that go by `prompt`, `answer`, `tests`, ... here, such as `{prompt: question}`."""
    template: str = PROMPT
    """What the policy is given; `{prompt}` in it is the problem."""
    held_out_path: str = ""
    """Another such file, to measure on; nothing of it is trained on."""
    held_out: int = 200
    """Without `held_out_path`: problems kept back to measure on, about a tenth of the file at most."""
    overlong: Overlong = Overlong.error
    """Prompts that do not fit the context: stop with an `error`, or `drop` them."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_held_out(self.held_out)
        check_template(self.template, name="data.template")
        check_row_fields(self.fields, name="data.fields")


@dataclass(kw_only=True, slots=True)
class Gsm8kExpressionsConfig:
    """The arithmetic inside GSM8K's worked solutions (`data=gsm8k_expressions`)."""

    path: str = ""
    """GSM8K as JSON lines with a field `solution`."""
    held_out: int = 200
    """Problems kept back to measure on."""
    overlong: Overlong = Overlong.error
    """Prompts that do not fit the context: stop with an `error`, or `drop` them."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_held_out(self.held_out)


def check_template(template: str, *, name: str) -> None:
    """A template has a place for the problem.

    Raises:
        ValueError: It has none.
    """
    if PROMPT not in template:
        raise ValueError(f"{name}={template!r}: expected a text with {PROMPT} where the problem goes.")


def check_row_fields(names: Collection[str], *, name: str) -> None:
    """Fields of a row go by names that are known here.

    Raises:
        ValueError: Others are named.
    """
    if unknown := set(names) - ROW_FIELDS:
        raise ValueError(f"{name} names {sorted(unknown)}; expected some of {sorted(ROW_FIELDS)}.")


def _check_held_out(count: int) -> None:
    if count < 1:
        raise ValueError(f"data.held_out={count}: expected 1 or more problems to measure on.")


DataConfig = ArithmeticConfig | JsonlConfig | Gsm8kExpressionsConfig


def load_problems(config: DataConfig, *, seed: int) -> ProblemSet:
    """Read or generate the problems of a run.

    Args:
        config: The source.
        seed: Decides which problems a generator generates; files are read as they are.

    Returns:
        Problems to train on and to measure on.

    Raises:
        ConfigError: No path is given.
        DataError: The file cannot be used.
    """
    if isinstance(config, ArithmeticConfig):
        return arithmetic_problems(config, seed=seed)
    if not config.path:
        raise ConfigError("data.path is empty: expected the path of a file, for example data.path=problems.jsonl.")
    path = Path(config.path)
    if isinstance(config, Gsm8kExpressionsConfig):
        return hold_out(read_gsm8k_expressions(path), count=config.held_out)
    problems = read_jsonl(path, fields=config.fields, template=config.template)
    if not config.held_out_path:
        return hold_out(problems, count=config.held_out)
    measured = read_jsonl(config.held_out_path, fields=config.fields, template=config.template)
    return held_out_apart(problems, measured)
