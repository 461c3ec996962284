"""Run folders with known numbers, written as runs write them: settings, metrics, evaluations, summary, events."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf

from launch import report
from launch.run_folder import keep_settings
from launch.sweep.record import Event, EventLog, Member, Sweep, What, write_sweep
from workers.controller.evaluation import Answer, Evaluation
from workers.controller.metrics import JsonLines
from workers.controller.starting_point import SUMMARY
from workers.files import write_whole

STEPS = 12
REWARDS = {"dapo": [0.2, 0.4, 0.6, 0.8], "delta": [0.5, 0.8, 0.9, 1.0]}
"""Each holds for three steps."""
SAMPLED = {"dapo": (0.50, 0.60, 0.55), "delta": (0.70, 0.75, 0.60)}
"""Held out after the last step, of seeds 1, 2, 3; 0.05 more in the middle, 0.1 before the first."""
STEP_S = 9.0
TOKENS = 1000


def curve(method: str, seed: int) -> list[float]:
    return [reward - 0.05 * seed for reward in REWARDS[method] for _ in range(3)]


def evaluation(step: int, sampled: float) -> Evaluation:
    answer = Answer(prompt="1+1=", expected="2", response="1+1=2\n#### 2", correct=step > 0)
    return Evaluation(
        step=step,
        problems=1,
        accuracy=sampled + 0.1,
        accuracy_interval=(0.0, 1.0),
        sampled_accuracy=sampled,
        sampled_accuracy_interval=(0.0, 1.0),
        reasoned_share=1.0,
        length_mean=20.0,
        failures=0,
        answers=(answer,),
    )


def make_run(
    folder: Path,
    *,
    method: str,
    seed: int,
    label: bool = True,
    rows: int = STEPS,
    evaluated: bool = True,
    settings: Mapping[str, object] | None = None,
) -> None:
    """As the run left it after `rows` steps; complete after all of them."""
    folder.mkdir(parents=True)
    own = {"steps": STEPS, "seed": seed, "run_dir": str(folder), "label": method if label else "", **(settings or {})}
    nested = OmegaConf.create({"nodes": 2, "cluster": {"num_cpus": 4, "num_gpus": 0}, "rollout": {"group_size": 8}})
    for name, value in own.items():
        OmegaConf.update(nested, name, value)
    keep_settings(folder, nested)
    metrics, evaluations = JsonLines(folder / "metrics.jsonl"), JsonLines(folder / "evaluations.jsonl")
    zeros = {f"time/{phase}_s": 0.1 for phase in report.PHASES}
    zeros |= {"rollout/length_mean": 20.0, "policy/entropy": 0.1, "policy/mismatch_max": 1e-6}
    evaluations.append(asdict(evaluation(0, 0.1)))
    sampled = SAMPLED[method][seed - 1]
    for step, reward in enumerate(curve(method, seed)[:rows], start=1):
        metrics.append({"step": step, "reward/mean": reward, "time/step_s": STEP_S, "rollout/tokens": TOKENS, **zeros})
        if step == STEPS // 2:
            evaluations.append(asdict(evaluation(step, sampled + 0.05)))
    if rows == STEPS and evaluated:
        evaluations.append(asdict(evaluation(STEPS, sampled)))
        (folder / "export").mkdir()
        (folder / "export" / "config.json").write_text("{}")
        summary = report.summarize(metrics.rows(), evaluations.rows(), seed=seed)
        write_whole(folder / SUMMARY, json.dumps(summary))  # as `report.write` does, without a second's plot


def make_sweep(folder: Path, *, methods: Sequence[str] = tuple(REWARDS), seeds: Sequence[int] = (1, 2, 3)) -> Sweep:
    """The record of a sweep over `algorithm` and `seed`; its members have not begun."""
    members = []
    for method in methods:
        for seed in seeds:
            name = f"algorithm-{method}+seed-{seed}"
            choices = {"algorithm": method, "seed": str(seed)}
            overrides = (f"algorithm={method}", f"seed={seed}")
            members.append(Member(name=name, choices=choices, run_dir=folder / name, overrides=overrides))
    folder.mkdir(parents=True)
    sweep = Sweep(folder=folder, command=("delta-train", "-m"), members=tuple(members))
    write_sweep(sweep)
    return sweep


def ended(member: Member, code: int, reason: str = "", *, folder: Path) -> None:
    EventLog(folder).add(Event(member=member.name, what=What.ended, code=code, reason=reason))
