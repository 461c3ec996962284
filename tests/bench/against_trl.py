"""Side by side with TRL's GRPOTrainer: same model, problems, batch, updates and answer lengths, runs alternated; JSON.

    make bench-trl                                    short answers, as the warm-started model writes them
    make bench-trl ARGS="--workload uneven"           answers of 16 to 512 tokens, the same schedule on both sides

TRL runs in an environment of its own (`requirements/trl.txt`) through `trl_baseline.py`: one process, two threads,
Hugging Face generate. Ours is the laptop configuration with DelTA. Each side runs several times, in turn, so that a
machine that gets slower gets slower for both; every run leaves out its first steps. The ratio is TRL's seconds over
ours: above 1, ours is faster.

The machine must be idle otherwise: beside any other load TRL's threads, which wait by spinning, slow it down many times
over. OMP_WAIT_POLICY=PASSIVE prevents that and makes it slower on an idle machine; the default is TRL at its best.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from delta.credit import DiscriminativeConfig
from delta.data.arithmetic import ArithmeticConfig, arithmetic_problems
from tests.bench.parts import machine
from tests.bench.step import LONGEST, length_schedule, run
from workers.controller.console import RunConsole
from workers.warm_start.config import WarmStartModelConfig
from workers.warm_start.make import warm_start

PROMPTS, GROUP = 32, 8


def run_trl(python: str, model: Path, folder: Path, options: argparse.Namespace) -> dict:
    """One run of the baseline; its JSON."""
    arguments = [
        python,
        str(Path(__file__).with_name("trl_baseline.py")),
        *("--model", str(model)),
        *("--problems", str(folder / "problems.jsonl")),
        *("--steps", str(options.steps + 3)),
        *("--cache", options.trl_cache),
    ]
    if options.workload == "uneven":
        arguments += ["--max-new-tokens", str(LONGEST), "--length-schedule", str(folder / "lengths.json")]
    finished = subprocess.run(arguments, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"the TRL baseline failed:\n{finished.stderr[-3000:]}")
    return json.loads(finished.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", required=True, help="interpreter of TRL's environment")
    parser.add_argument("--workload", choices=["short", "uneven"], default="short")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--trl-cache", choices=["dynamic", "static"], default="dynamic", help="TRL's KV cache")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of our side")
    options = parser.parse_args()

    ours, theirs = [], []
    with tempfile.TemporaryDirectory(prefix="delta-trl-") as name:
        folder = Path(name)
        problems = arithmetic_problems(ArithmeticConfig(), seed=1).train
        rows = [json.dumps({"prompt": problem.prompt, "answer": problem.answer}) for problem in problems]
        (folder / "problems.jsonl").write_text("\n".join(rows) + "\n")
        lengths = length_schedule(PROMPTS * GROUP * 8)
        batches = [lengths[place * PROMPTS * GROUP :][: PROMPTS * GROUP] for place in range(8)]
        (folder / "lengths.json").write_text(json.dumps([batches[step % 8] for step in range(options.steps + 3)]))
        model = warm_start(WarmStartModelConfig(), seed=1, console=RunConsole(quiet=True))
        for _ in range(options.rounds):
            credits = {"discriminative": DiscriminativeConfig()}
            ours.append(run(options.workload, options.steps, options.overrides, credits))
            theirs.append(run_trl(options.trl_python, model, folder, options))

    ours_s = [result["discriminative"]["step"]["median_s"] for result in ours]
    theirs_s = [result["step_s"] for result in theirs]
    print(
        json.dumps(
            {
                "workload": options.workload,
                "machine": machine(),
                "steps_per_run": options.steps,
                "ours_step_s": ours_s,
                "trl_step_s": theirs_s,
                "trl_over_ours": [round(trl / our, 2) for trl, our in zip(theirs_s, ours_s, strict=True)],
                "trl_over_ours_median": round(
                    statistics.median(trl / our for trl, our in zip(theirs_s, ours_s, strict=True)), 2
                ),
                "ours_phases": [result["discriminative"]["phases"] for result in ours],
                "trl_generate_s": [result["generate_s"] for result in theirs],
                "trl_cache": options.trl_cache,
                "mean_length": {
                    "ours": ours[-1]["shape"]["mean_length"],
                    "trl": theirs[-1]["mean_completion_tokens"],
                },
                "trl_versions": theirs[-1]["versions"],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
