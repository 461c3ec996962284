"""Samples and verdicts as the JSON rows of `delta-verify` and of the scoring service."""

import math
from collections.abc import Mapping
from typing import Any

from delta.data.references import parse_reference, reference_fields
from delta.types import Outcome, Sample, Verdict


def sample_from_row(row: Any) -> Sample:
    """A row with `response` and what `parse_reference` wants; `prompt`, `tokens`, `max_tokens`, `truncated` if known.

    Raises:
        ValueError: It is no such row; the message says what was seen and expected.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}, not an object.")
    if not isinstance(row.get("response"), str):
        raise ValueError(f"response is {row['response']!r:.80}." if "response" in row else "no field 'response'.")
    return Sample(
        response=row["response"],
        answer=parse_reference(row),
        prompt=_typed(row, "prompt", str, ""),
        tokens=_typed(row, "tokens", int, 0),
        max_tokens=_typed(row, "max_tokens", int, 0),
        truncated=_typed(row, "truncated", bool, False),
    )


def row_of_sample(sample: Sample) -> dict[str, Any]:
    """`sample_from_row` backwards."""
    return {
        "response": sample.response,
        **reference_fields(sample.answer),
        "prompt": sample.prompt,
        "tokens": sample.tokens,
        "max_tokens": sample.max_tokens,
        "truncated": sample.truncated,
    }


def row_of_verdict(verdict: Verdict) -> dict[str, Any]:
    """What is told of a verdict."""
    return {
        "outcome": verdict.outcome.value,
        "reward": verdict.reward,
        "seconds": round(verdict.seconds, 6),
        "queue_seconds": round(verdict.queue_seconds, 6),
        "detail": verdict.detail,
        "parts": dict(verdict.parts),
    }


def verdict_from_row(row: Mapping[str, Any]) -> Verdict:
    """`row_of_verdict` backwards.

    Raises:
        ValueError: It is no such row.
    """
    try:
        return Verdict(
            outcome=Outcome(row["outcome"]),
            reward=_finite(row["reward"]),
            detail=str(row.get("detail", "")),
            seconds=_finite(row.get("seconds", 0.0)),
            queue_seconds=_finite(row.get("queue_seconds", 0.0)),
            parts={str(name): _finite(value) for name, value in row.get("parts", {}).items()},
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(row)[:80]} is no verdict ({type(error).__name__}: {error})") from error


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no finite number")
    return number


def _typed(row: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = row.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} is {value!r:.80}. Expected a JSON {kind.__name__}.")
    return value
