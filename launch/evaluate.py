"""Measure a model on benchmarks: `python -m launch.evaluate model.path=... benchmarks=[...]`, script `delta-eval`.

Engines sample and verifiers score as in training; there is no learner, the weights are those of the folder. Every
answer is on disk once it is judged, and the same command goes on where it was interrupted.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from launch.command import EXIT_INTERRUPTED, EXIT_PREEMPTED, run_configured
from workers.signals import Ended, end_on_signals

if TYPE_CHECKING:
    from launch.evaluation import EvalConfig


def evaluate(config: "EvalConfig", _: DictConfig) -> int:
    """Sample and score what is missing, and write the table; the exit code."""
    from rich.console import Console

    from delta.rewards import RewardConfig
    from launch.evaluation import Answers, read_benchmarks, tasks_of
    from launch.preflight import check_context, check_known_answer, check_model_files, check_references, load_tokenizer
    from launch.scores import average, score, table, write
    from launch.verification import bar
    from workers.cluster import check_cluster, cluster

    console = Console(highlight=False, soft_wrap=True)
    check_cluster(config.cluster, nodes=config.nodes)
    check_model_files(config.model)
    check_context(config.model, config.rollout.max_model_len)
    benchmarks = read_benchmarks(config, load_tokenizer(config.model))
    prompts = [prompt for found in benchmarks.values() for prompt in found]
    check_references(prompts, lambda text: console.print(text, style="bold yellow"))
    check_known_answer(config.verifier, RewardConfig(), prompts, max_tokens=config.rollout.max_new_tokens)
    tasks, output = tasks_of(config, benchmarks), Path(config.output)
    answers = Answers(output, tasks)
    wanted = sum(answers.lacks(task) or answers.unjudged(task) is not None for task in tasks)
    if wanted:
        if wanted < len(tasks):
            console.print(f"{len(tasks) - wanted} of {len(tasks)} answers are there already")
        start_s = config.deadlines.start_s
        with (
            cluster(config.cluster, nodes=config.nodes, timeout_s=start_s, log_folder=output / "ray_logs"),
            bar(console) as progress,
        ):
            from launch.answering import complete

            shown = progress.add_task("answers", total=wanted)
            asyncio.run(complete(config, tasks, answers, lambda: progress.advance(shown)))
    scores = [score(name, answers.of(name)) for name in benchmarks]
    if len(scores) > 1:
        scores.append(average(scores))
    write(output, scores, config.settings)
    console.print(table(scores))
    if failures := sum(answers.unjudged(task) is not None for task in tasks):
        console.print(
            f"{failures} answers could not be judged and count in nothing else; the same command judges them again.",
            style="bold yellow",
        )
    console.print(f"answers and scores are in {output}")
    return 0


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
