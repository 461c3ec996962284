"""Seconds per training step and phase on this machine, DelTA beside uniform credit, as JSON.

    make bench-step                                   the laptop workload: 32 prompts x 8 rollouts, up to 32 tokens
    make bench-step ARGS="--workload uneven"          answers of 16 to 512 tokens, lengths from a fixed schedule

Both credits alternate step by step in one run on one model, so that whatever else the machine does hits both alike.
The first steps are left out. Nothing is written but a temporary run folder.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
from dataclasses import replace

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from delta.credit import DiscriminativeConfig, UniformConfig
from launch.overrides import CONF
from launch.preflight import prepare
from launch.report import PHASES
from launch.schema import register
from tests.bench.parts import machine, median_and_spread
from workers.cluster import local_cluster
from workers.controller.collection import Collector
from workers.controller.console import RunConsole
from workers.controller.loop import Controller

WARM_UP_STEPS = 4
SHORTEST, LONGEST = 16, 512


class BenchController(Controller):
    """The controller of a real run, driven step by step; answers may be given lengths."""

    lengths: list[int] | None = None

    async def begin(self):
        await self.start()
        if self.lengths is not None:
            self._collector = LengthCollector(
                self._config, self._sampler, rollouts=self._rollouts, verifier=self._verifier
            )
            self._collector.lengths = self.lengths
        await self._publish(0)

    async def set_credit(self, credit):
        await self._learners.set_algorithm(replace(self._config.algorithm, credit=credit))


class LengthCollector(Collector):
    """Answers have the lengths of a schedule, whatever the policy says."""

    lengths: list[int]

    def request(self, step, group, index, prompt):
        request = super().request(step, group, index, prompt)
        place = (step * self._config.rollout.prompts_per_step + group) * self._config.rollout.group_size + index
        return type(request)(
            request.prompt_token_ids,
            request.temperature,
            self.lengths[place % len(self.lengths)],
            request.seed,
            stop_at_end=False,
        )


def length_schedule(count: int, *, seed: int = 0) -> list[int]:
    """Uneven answer lengths, uniform in [16, 512]; the baseline of `against_trl.py` follows the same list."""
    generator = random.Random(seed)
    return [generator.randint(SHORTEST, LONGEST) for _ in range(count)]


def compose_config(overrides: list[str]):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["logger.wandb=disabled", *overrides])


async def measure(controller: BenchController, steps: int, credits: dict) -> dict[str, list[dict]]:
    """Rows of each credit, warm-up left out."""
    rows: dict[str, list[dict]] = {name: [] for name in credits}
    await controller.begin()
    for step in range(WARM_UP_STEPS + steps * len(credits)):
        name = list(credits)[step % len(credits)]
        await controller.set_credit(credits[name])
        row = await controller.step(step)
        if step >= WARM_UP_STEPS:
            rows[name].append(row)
    return rows


def run(workload: str, steps: int, overrides: list[str], credits: dict) -> dict:
    """The whole measurement of one workload."""
    with tempfile.TemporaryDirectory(prefix="delta-bench-") as folder:
        if workload == "uneven":
            overrides = [f"rollout.max_new_tokens={LONGEST}", *overrides]
        settings = compose_config([*overrides, f"run_dir={folder}/run"])
        config = OmegaConf.to_object(settings)
        console = RunConsole(quiet=True)
        prepared = prepare(config, console)
        controller = BenchController(
            config, model_path=prepared.model_path, data=prepared.data, run_dir=prepared.run_dir, console=console
        )
        if workload == "uneven":
            per_step = config.rollout.prompts_per_step * config.rollout.group_size
            controller.lengths = length_schedule(per_step * 8)
        with local_cluster(config.cluster, log_folder=prepared.run_dir / "ray_logs"):
            rows = asyncio.run(measure(controller, steps, credits))

    everything = [row for part in rows.values() for row in part]
    report = {
        "workload": workload,
        "shape": {
            "prompts": config.rollout.prompts_per_step,
            "rollouts_per_prompt": config.rollout.group_size,
            "max_new_tokens": config.rollout.max_new_tokens,
            "updates": config.learner.updates_per_step,
            "mean_length": round(statistics.mean(row["rollout/length_mean"] for row in everything), 1),
            "engines": config.rollout.num_workers,
            "learner_ranks": config.learner.num_ranks,
        },
        "machine": machine(),
        "steps_each": steps,
    }
    for name, part in rows.items():
        report[name] = {
            "step": median_and_spread([row["time/step_s"] for row in part]),
            "phases": {phase: median_and_spread([row[f"time/{phase}_s"] for row in part]) for phase in PHASES},
        }
    if {"discriminative", "uniform"} <= rows.keys():
        ratios = [
            delta["time/step_s"] / uniform["time/step_s"]
            for delta, uniform in zip(rows["discriminative"], rows["uniform"], strict=True)
        ]
        report["discriminative_over_uniform"] = {
            "paired_step_ratio_median": round(statistics.median(ratios), 4),
            "credit_phase_share_of_step": round(
                statistics.median(row["time/credit_s"] / row["time/step_s"] for row in rows["discriminative"]), 4
            ),
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=["short", "uneven"], default="short")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each credit")
    parser.add_argument("--only", choices=["discriminative", "uniform"], help="one credit instead of both")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, such as rollout.num_workers=2")
    arguments = parser.parse_args()
    credits = {"discriminative": DiscriminativeConfig(), "uniform": UniformConfig()}
    if arguments.only:
        credits = {arguments.only: credits[arguments.only]}
    print(json.dumps(run(arguments.workload, arguments.steps, arguments.overrides, credits), indent=1))


if __name__ == "__main__":
    main()
