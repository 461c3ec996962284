"""Measure a model on benchmarks: `python -m launch.evaluate model.path=... benchmarks=[...]`, script `delta-eval`.

Engines sample and verifiers score as in training; there is no learner, the weights are those of the folder. Every
answer is on disk once it is judged, and the same command goes on where it was interrupted.
"""

import asyncio
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from launch.command import EXIT_INTERRUPTED, EXIT_PREEMPTED, run_configured
from workers.signals import Ended, end_on_signals

if TYPE_CHECKING:
    from rich.console import Console

    from launch.evaluation import Answers, EvalConfig, Task


def evaluate(config: "EvalConfig", _: DictConfig) -> int:
    """Sample and score what is missing, and write the table; the exit code."""
    from rich.console import Console

    from delta.rewards import RewardConfig
    from launch.evaluation import Answers, digest_of, read_benchmarks, tasks_of
    from launch.preflight import check_context, check_known_answer, check_model_files, check_references, load_tokenizer
    from launch.run_folder import held
    from launch.scores import average, score, table, write
    from workers.cluster import check_cluster
    from workers.device import check_build
    from workers.files import storage_errors

    console = Console(highlight=False, soft_wrap=True)
    warn = functools.partial(console.print, style="bold yellow")
    check_cluster(config.cluster, nodes=config.nodes)
    check_build(num_gpus=config.cluster.num_gpus)
    config.placement(nodes=config.nodes)
    check_model_files(config.model)
    check_context(config.model, config.rollout.max_model_len)
    benchmarks = read_benchmarks(config, load_tokenizer(config.model))
    prompts = [prompt for found in benchmarks.values() for prompt in found]
    check_references(prompts, warn)
    check_known_answer(config.verifier, RewardConfig(), prompts, max_tokens=config.rollout.max_new_tokens)
    tasks, output = tasks_of(config, benchmarks), Path(config.output)
    with storage_errors(f"output={output} cannot be used", remedy="Choose another folder."):
        output.mkdir(parents=True, exist_ok=True)
    with held(output, say=warn):
        answers = Answers(output, tasks)
        _complete(config, tasks, answers, console)
        scores = [score(name, answers.of(name)) for name in benchmarks]
        if len(scores) > 1:
            scores.append(average(scores))
        write(output, scores, {**config.settings, "problems": digest_of(benchmarks)})
    console.print(table(scores))
    if failures := sum(answers.unjudged(task) is not None for task in tasks):
        warn(f"{failures} answers could not be judged and count in nothing else; the same command judges them again.")
    console.print(f"answers and scores are in {output}")
    return 0


def _complete(config: "EvalConfig", tasks: "Sequence[Task]", answers: "Answers", console: "Console") -> None:
    """Start what it takes to get the answers that are not there or not judged; nothing, if all are."""
    from workers.cluster import cluster

    wanted = sum(answers.lacks(task) or answers.unjudged(task) is not None for task in tasks)
    if not wanted:
        return
    if wanted < len(tasks):
        console.print(f"{len(tasks) - wanted} of {len(tasks)} answers are there already")
    logs, start_s = Path(config.output) / "ray_logs", config.deadlines.start_s
    with (
        cluster(config.cluster, nodes=config.nodes, timeout_s=start_s, log_folder=logs),
        _progress(console, wanted) as advance,
    ):
        from launch.answering import complete

        asyncio.run(complete(config, tasks, answers, advance))


@contextlib.contextmanager
def _progress(console: "Console", total: int) -> Iterator[Callable[[], None]]:
    """A bar; without a terminal, a line for every tenth of the answers."""
    from launch.verification import bar

    done = 0
    with bar(console) as progress:
        task = progress.add_task("answers", total=total)

        def advance() -> None:
            nonlocal done
            done += 1
            progress.advance(task)
            if not console.is_terminal and 10 * done // total > 10 * (done - 1) // total:
                console.print(f"{done} of {total} answers")

        yield advance


def main() -> None:
    """Entry point."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    end_on_signals()
    try:
        run_configured(evaluate, config_name="eval")
    except Ended as ended:
        sys.stderr.write(f"\ninterrupted by {ended.signal.name}: answers so far are kept; the same command goes on.\n")
        sys.exit(EXIT_INTERRUPTED if ended.signal is signal.SIGINT else EXIT_PREEMPTED)


if __name__ == "__main__":
    main()
