"""Problems as users write them (text), the held-out split, and their encoding into prompts."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType

from delta.data.held_out import hash_fraction, is_reserved
from delta.data.references import parse_reference
from delta.errors import DataError
from delta.types import Prompt, Reference

Encode = Callable[[str], list[int]]

PROMPT = "{prompt}"
"""Where a template has the text of a problem."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question and its reference answer, as text."""

    id: str
    prompt: str
    answer: Reference


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """Problems to train on and problems to measure on; no prompt text is in both."""

    train: tuple[Problem, ...]
    held_out: tuple[Problem, ...]


class Overlong(Enum):
    """What to do with a prompt that does not fit: stop with an `error`, or `drop` it and say so."""

    error = "error"
    drop = "drop"


def read_jsonl(
    path: str | Path, *, fields: Mapping[str, str] = MappingProxyType({}), template: str = PROMPT
) -> list[Problem]:
    """Read problems from a file of JSON lines: `prompt`, what `parse_reference` wants, and optionally `id`.

    Args:
        path: UTF-8 text, one object per line; blank lines are skipped.
        fields: What a field is called in the file, by the name it has here; a row may have either.
        template: What the policy is given; `{prompt}` in it is the row's prompt.

    Returns:
        The problems in file order.

    Raises:
        DataError: The file cannot be read, holds no problem, or a line is not a problem; the message has the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}. Expected a readable UTF-8 file with one JSON object per line.") from error
    # Not splitlines(): JSON strings may hold U+2028 and friends unescaped, which are no line ends here.
    problems = [
        _parse_row(line, f"{path}, line {number}", f"{path.stem}-{number}", fields, template)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if not problems:
        raise DataError(f"{path}: the file holds no problem. Expected lines such as {_EXAMPLE}")
    return problems


_EXAMPLE = '{"prompt": "12+30=", "answer": "42"}'


def _parse_row(line: str, where: str, default_id: str, fields: Mapping[str, str], template: str) -> Problem:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # the parser has limits of its own on digits and nesting
        raise DataError(f"{where}: not JSON ({error}). Expected a line such as {_EXAMPLE}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON {type(row).__name__}, not an object. Expected a line such as {_EXAMPLE}")
    row |= {name: row[called] for name, called in fields.items() if called in row and name not in row}
    if "prompt" not in row:
        names = " or ".join(repr(name) for name in ("prompt", fields.get("prompt")) if name)
        raise DataError(f"{where}: no field {names}, only {sorted(row)}. Expected a line such as {_EXAMPLE}")
    prompt = row["prompt"]
    if isinstance(prompt, bool) or not isinstance(prompt, str | int | float) or not str(prompt).strip():
        raise DataError(f"{where}: prompt is {prompt!r}. Expected a text (or a number) that is not empty.")
    try:
        str(prompt).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: prompt is no Unicode text ({error}). Expected text without lone surrogates."
        ) from error
    try:
        answer = parse_reference(row)
    except ValueError as error:
        raise DataError(f"{where}: {error} For example {_EXAMPLE}") from error
    text = template.replace(PROMPT, str(prompt))
    return Problem(str(default_id if row.get("id") is None else row["id"]), text, answer)


def hold_out(problems: Iterable[Problem], *, count: int) -> ProblemSet:
    """Keep some problems back for measuring: the same ones in every run, whatever the order of the file.

    Repeated prompts are one problem (the first), so that nothing held out is ever trained on. Held out are reserved
    problems (see `held_out.py`), up to `count`; a file without any gives up the one closest to it.

    Args:
        problems: All problems.
        count: Problems to hold out.

    Returns:
        The split, each part in the given order.

    Raises:
        DataError: Fewer than two different prompts.
    """
    unique: dict[str, Problem] = {}
    for problem in problems:
        unique.setdefault(problem.prompt, problem)
    if len(unique) < 2:
        raise DataError(f"found {len(unique)} different problem(s); expected at least 2, one of them to measure on.")
    ranked = sorted(unique, key=hash_fraction)
    held = set([text for text in ranked if is_reserved(text)][:count] or ranked[:1])
    if len(held) == len(unique):
        held.remove(ranked[-1])
    return ProblemSet(
        train=tuple(problem for problem in unique.values() if problem.prompt not in held),
        held_out=tuple(problem for problem in unique.values() if problem.prompt in held),
    )


def held_out_apart(problems: Iterable[Problem], held_out: Iterable[Problem]) -> ProblemSet:
    """Problems to train on and others to measure on, from files of their own.

    Repeated prompts are one problem (the first); one that is measured on is not trained on.

    Raises:
        DataError: Nothing is left to train on.
    """
    measured = {problem.prompt: problem for problem in reversed((*held_out,))}
    train = {problem.prompt: problem for problem in reversed((*problems,)) if problem.prompt not in measured}
    if not train:
        raise DataError("every problem is also in data.held_out_path; expected others to train on.")
    return ProblemSet(train=tuple(reversed(train.values())), held_out=tuple(reversed(measured.values())))


def encode_problems(
    problems: Sequence[Problem], encode: Encode, *, max_prompt_tokens: int, overlong: Overlong
) -> tuple[list[Prompt], list[Problem]]:
    """Turn problems into prompts, once for the whole run.

    Args:
        problems: What to encode.
        encode: The policy's tokenizer.
        max_prompt_tokens: Tokens that leave room for an answer in the context.
        overlong: What to do with longer prompts.

    Returns:
        The prompts, and the problems that were dropped for their length.

    Raises:
        DataError: A prompt is too long (and `overlong` is `error`), or none is left.
    """
    prompts: list[Prompt] = []
    dropped: list[Problem] = []
    longest = 0
    for problem in problems:
        token_ids = tuple(encode(problem.prompt))
        if not token_ids:
            raise DataError(
                f"problem {problem.id}: the tokenizer makes no token of the prompt {problem.prompt[:40]!r}."
            )
        if len(token_ids) > max_prompt_tokens:
            dropped.append(problem)
            longest = max(longest, len(token_ids))
        else:
            prompts.append(Prompt(problem.id, problem.prompt, problem.answer, token_ids))
    if dropped and (overlong is Overlong.error or not prompts):
        names = ", ".join(problem.id for problem in dropped[:5]) + (", ..." if len(dropped) > 5 else "")
        raise DataError(
            f"{len(dropped)} of {len(problems)} prompts are longer than the {max_prompt_tokens} tokens that the "
            f"context leaves them (longest: {longest} tokens; {names}). Raise rollout.max_model_len, lower "
            "rollout.max_new_tokens, or leave them out with data.overlong=drop."
        )
    return prompts, dropped
