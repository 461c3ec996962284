"""Where problems come from: one dataclass per source, and the function that reads it."""

from dataclasses import dataclass
from pathlib import Path

from delta.data.arithmetic import ArithmeticConfig, arithmetic_problems
from delta.data.gsm8k_expressions import read_gsm8k_expressions
from delta.data.problems import Overlong, ProblemSet, hold_out, read_jsonl
from delta.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class JsonlConfig:
    """Problems from a file of JSON lines with `prompt` and `answer` (`data=jsonl`)."""

    path: str = ""
    """The file."""
    held_out: int = 200
    """Problems kept back to measure on, about a tenth of the file at most."""
    overlong: Overlong = Overlong.error
    """Prompts that do not fit the context: stop with an `error`, or `drop` them."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_held_out(self.held_out)


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
    read = read_jsonl if isinstance(config, JsonlConfig) else read_gsm8k_expressions
    return hold_out(read(path), count=config.held_out)
