"""Submit a run: `python -m launch.submit cluster=slurm experiment=... nodes=4`, console script `delta-submit`.

The configuration and its overrides are those of delta-train. It becomes a plan, the plan is checked, rendered by the
backend of the chosen cluster, and sent.
"""

import functools
import os
import sys
from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from delta.errors import ConfigError
from launch.command import run_configured
from launch.submit.backend import Backend
from launch.submit.config import SubmittedConfig
from launch.submit.examine import examine
from launch.submit.image import perhaps_missing
from launch.submit.kuberay.config import KubeRayConfig
from launch.submit.plan import plan_for
from launch.submit.slurm.config import SlurmConfig
from launch.sweep.arguments import detached
from workers.cluster import check_cluster
from workers.controller.config import TrainConfig
from workers.controller.console import RunConsole

USAGE = """delta-submit: send a training run to a cluster.

  delta-submit cluster=slurm experiment=laptop nodes=2 cluster.partition=gpu   a Slurm job
  delta-submit cluster=kuberay experiment=laptop cluster.image=IMAGE           a RayJob on Kubernetes
  delta-submit experiment=laptop                                               here, as delta-train does

Overrides are those of delta-train; what can be said about a cluster is in cluster.*. Several values of a setting with
--multirun submit a run for each.

  dry_run=true    show the plan and every file of the submission, check what can be checked, and send nothing
  --lint          the same without asking the cluster, for machines that have none; exit code 2 if anything is wrong
  --cfg job       show the whole configuration
  --help          this text

The answer is the job's id, and how to follow and to cancel it. Exit codes: 0 sent, 2 something to mend; the message
says what. cluster=local ends as delta-train does.
"""


def backend_for(config: object) -> Backend:
    """Who submits to this kind of cluster."""
    match config:
        case SlurmConfig():
            from launch.submit.slurm.backend import SlurmBackend

            return SlurmBackend(config)
        case KubeRayConfig():
            from launch.submit.kuberay.backend import KubeRayBackend

            return KubeRayBackend(config)
    raise ConfigError(f"cluster={type(config).__name__}: nobody knows how to submit to it.")


def submit(config: TrainConfig, settings: DictConfig, *, lint: bool = False) -> int:
    """One run, sent to its cluster; the exit code.

    Args:
        config: The run.
        settings: The same as Hydra composed it.
        lint: Only look for mistakes, without asking the cluster.
    """
    from launch.submit.show import show_plan, show_submission

    hydra = HydraConfig.get()
    plan = plan_for(config, hydra.overrides.task, work_dir=Path.cwd(), is_sweep=hydra.mode is RunMode.MULTIRUN)
    console = RunConsole()
    if not isinstance(config.cluster, SubmittedConfig):
        check_cluster(config.cluster, nodes=config.nodes)
        if config.dry_run or lint:
            show_plan(console.console, plan, files={})
        _run_here(lint=lint)
    backend = backend_for(config.cluster)
    files = backend.render(plan)
    if config.dry_run or lint:
        show_plan(console.console, plan, files=files)
    warnings = examine(config, plan, files, backend, console, ask=not lint)
    if plan.image and (own := perhaps_missing(hydra.runtime.choices)):
        warnings.append(
            f"conf/ of this machine has {', '.join(own)} that the repository has not, or not so; the run reads these "
            f"files in {plan.image}, where they must be as they are here."
        )
    for warning in warnings:
        console.warn(f"note: {warning}")
    if config.dry_run or lint:
        console.say("nothing wrong was found; nothing was submitted.")
        return 0
    submission = backend.submit(plan, files)
    show_submission(console.console, plan, submission)
    return 0


def _run_here(*, lint: bool) -> NoReturn:
    """Become delta-train, with all that was said, so that signals and exit code are its own."""
    arguments = [*sys.argv[1:], *(["dry_run=true"] if lint else [])]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "launch.train", *arguments])


def main() -> None:
    """Entry point."""
    if {"--help", "-h"} & set(sys.argv):
        sys.stdout.write(USAGE)
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    lint = "--lint" in sys.argv
    sys.argv = detached([argument for argument in sys.argv if argument != "--lint"], lint=lint)
    run_configured(functools.partial(submit, lint=lint), config_name="train")


if __name__ == "__main__":
    main()
