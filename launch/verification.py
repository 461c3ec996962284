"""Scoring a file of answers: JSON lines in, verdicts out, in the same order, whatever is wrong with some of them."""

import asyncio
import json
import statistics
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from delta.errors import ConfigError, DataError, StorageError
from delta.rewards import RewardConfig
from delta.types import FunctionTests, Outcome, PluginAnswer, Sample, StdioTests, Verdict
from workers.verifier.config import PoolConfig, ScoringConfig
from workers.verifier.rows import row_of_verdict, sample_from_row
from workers.verifier.supervisor import Supervisor

AHEAD = 64
"""Answers per worker process that are read before their turn."""


@dataclass(kw_only=True, slots=True)
class VerifyConfig:
    """Scoring from the shell: a file, or whoever asks over HTTP."""

    input: str = ""
    """JSON lines: `{id, task: math, response, answer}` or `{id, task: code, response, tests, entry_point}`."""
    output: str = ""
    """JSON lines: `{id, outcome, reward, seconds, detail}`, one for each row of the input, in its order."""
    serve: str = ""
    """HOST:PORT of a scoring service for `verifier=remote`, instead of files."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    verifier: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        """Check that there is one thing to do."""
        if self.serve:
            host, _, port = self.serve.rpartition(":")
            if self.input or self.output:
                raise ConfigError("serve answers requests and has no input or output; give one or the other.")
            if not host or not port.isdigit() or int(port) > 65535:
                raise ConfigError(f"serve={self.serve}: expected HOST:PORT, such as 127.0.0.1:8000.")
        elif not self.input or not self.output:
            raise ConfigError(
                f"input={self.input or 'nothing'}, output={self.output or 'nothing'}: expected two files, as in "
                "delta-verify input=answers.jsonl output=verdicts.jsonl"
            )
        elif Path(self.input).resolve() == Path(self.output).resolve():
            raise ConfigError(f"input and output are both {self.input}; the verdicts would overwrite the answers.")


@dataclass(frozen=True, slots=True)
class Scored:
    """A row of the input and what became of it."""

    line: int
    id: Any
    kind: str
    """`math`, `code`, the path of a judge, or `bad row`."""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that holds no answer to score, and why."""

    trouble: str


def verify_file(config: VerifyConfig, console: Console) -> list[Scored]:
    """Score every row of the input, write the output, and show a table.

    Args:
        config: Files, reward and verifier.
        console: Where progress and the table go.

    Returns:
        What became of each row. A bad one has the outcome `error`, and its line number in the detail.

    Raises:
        DataError: The input cannot be read.
        StorageError: The output cannot be written.
    """
    try:
        lines = Path(config.input).read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"input={config.input}: {error}. Expected a readable file of JSON lines.") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    try:
        output = open(config.output, "wb")  # noqa: SIM115  closed below; its errors are told apart from the others'
    except OSError as error:
        raise StorageError(f"output={config.output} cannot be written: {error}. Choose another file.") from error
    supervisor = Supervisor(ScoringConfig(config.verifier, config.reward))
    scored: list[Scored] = []
    try:
        supervisor.ready()
        with output, bar(console) as progress:
            task = progress.add_task("scoring", total=len(numbered))
            for found in _score_in_order(numbered, supervisor):
                _write(output, found, parts=len(config.reward.parts) > 1, path=config.output)
                scored.append(found)
                progress.advance(task)
    finally:
        supervisor.close()
    _show(scored, console)
    return scored


def serve(config: VerifyConfig, console: Console) -> None:
    """Answer requests until interrupted."""
    from workers.verifier.service import serve

    host, _, port = config.serve.rpartition(":")
    supervisor = Supervisor(ScoringConfig(config.verifier, config.reward))
    try:
        supervisor.ready()
        console.print(f"scoring on http://{config.serve} with {supervisor.workers} workers; Ctrl-C ends it")
        limit = config.verifier.max_in_flight * supervisor.workers
        asyncio.run(serve(supervisor, host=host.strip("[]"), port=int(port), max_waiting=limit))
    except OSError as error:
        raise ConfigError(f"serve={config.serve}: {error}. Choose another address or port.") from error
    finally:
        supervisor.close()


def _score_in_order(numbered: list[tuple[int, bytes]], supervisor: Supervisor) -> Iterator[Scored]:
    """Results in the order of the lines; a bounded number of answers is under way at a time."""
    waiting: deque[tuple[int, Any, str, Future[Verdict] | BadRow]] = deque()

    def finish() -> Scored:
        line, row_id, kind, outcome = waiting.popleft()
        if isinstance(outcome, BadRow):
            return Scored(line, row_id, "bad row", Verdict(Outcome.error, 0.0, f"line {line}: {outcome.trouble}"))
        return Scored(line, row_id, kind, outcome.result())

    for number, line in numbered:
        row_id, found = _parse(line, number)
        if isinstance(found, BadRow):
            waiting.append((number, row_id, "bad row", found))
        else:
            waiting.append((number, row_id, _kind(found), supervisor.submit(found)))
        if len(waiting) > AHEAD * supervisor.workers:
            yield finish()
    while waiting:
        yield finish()


def _parse(line: bytes, number: int) -> tuple[Any, Sample | BadRow]:
    """The row's id (its line number if it has none), and its sample."""
    row_id: Any = number
    try:
        row = json.loads(line.decode())
        if isinstance(row, dict) and row.get("id") is not None:
            row_id = row["id"]
    except (ValueError, RecursionError) as error:  # the parser has limits of its own on digits and nesting
        return row_id, BadRow(f"not JSON ({error})")
    try:
        return row_id, sample_from_row(row)
    except ValueError as error:
        return row_id, BadRow(str(error))


def _kind(sample: Sample) -> str:
    if isinstance(sample.answer, FunctionTests | StdioTests):
        return "code"
    return sample.answer.judge if isinstance(sample.answer, PluginAnswer) else "math"


def _write(output: BinaryIO, scored: Scored, *, parts: bool, path: str) -> None:
    row = row_of_verdict(scored.verdict)
    names = ("outcome", "reward", "seconds", "detail", *(("parts",) if parts else ()))
    try:
        output.write(json.dumps({"id": scored.id, **{name: row[name] for name in names}}).encode() + b"\n")
    except OSError as error:
        raise StorageError(f"output={path}: {error}. Free space or choose another file.") from error


def bar(console: Console) -> Progress:
    """A bar with counts and times; none without a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _show(scored: list[Scored], console: Console) -> None:
    table = Table(box=box.SIMPLE, padding=(0, 0), collapse_padding=True)
    for name in ("task", "rows", *(outcome.value for outcome in Outcome), "reward", "p50 s", "p99 s"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    kinds = sorted({found.kind for found in scored})
    for kind in [*kinds, *(["all"] if len(kinds) > 1 else [])]:
        verdicts = [found.verdict for found in scored if kind in (found.kind, "all")]
        seconds = sorted(verdict.seconds for verdict in verdicts)
        table.add_row(
            kind,
            str(len(verdicts)),
            *(str(sum(verdict.outcome is outcome for verdict in verdicts)) for outcome in Outcome),
            f"{statistics.fmean(verdict.reward for verdict in verdicts):.3f}",
            f"{statistics.median(seconds):.3f}",
            f"{seconds[min(int(0.99 * len(seconds)), len(seconds) - 1)]:.3f}",
        )
    console.print(table)
    bad = [found for found in scored if found.kind == "bad row"]
    for found in bad[:10]:
        console.print(found.verdict.detail, style="bold yellow")
    if len(bad) > 10:
        console.print(f"... and {len(bad) - 10} more bad rows; the output names them all", style="bold yellow")
