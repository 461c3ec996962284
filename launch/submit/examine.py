"""What is looked at before a run is sent to a cluster, alone or as a member of a sweep."""

import dataclasses
import os
from collections.abc import Mapping

from delta.errors import SubmissionError
from launch.submit.backend import Backend
from launch.submit.kuberay.config import KubeRayConfig
from launch.submit.plan import Plan, idle_gpus, unseen
from launch.submit.slurm.config import SlurmConfig
from workers.controller.config import Resume, TrainConfig
from workers.controller.console import RunConsole
from workers.warm_start.config import PretrainedModelConfig


def examine(
    config: TrainConfig,
    plan: Plan,
    files: Mapping[str, str],
    backend: Backend,
    console: RunConsole,
    *,
    ask: bool,
    preflight: bool = True,
) -> list[str]:
    """Find what cannot work, of the submission and of the run.

    Args:
        config: The run.
        plan: What it became.
        files: The submission.
        backend: Who sends it.
        console: Where the memory plan is shown.
        ask: Also ask the cluster.
        preflight: Also find what the run would find wrong, which takes seconds.

    Returns:
        Warnings, a sentence each.

    Raises:
        DeltaError: Something cannot work, or the cluster of a run that is to be sent does not answer.
    """
    warnings = list(backend.lint(plan, files))
    if idle := idle_gpus(config):
        warnings.append(idle)
    if isinstance(config.cluster, KubeRayConfig) and config.resume is Resume.never:
        warnings.append(
            f"resume=never is not checked, since run_dir={plan.run_dir} is on the cluster: a run that is there already "
            "goes on."
        )
    if preflight:
        warnings += look_ahead(config, console)
    if ask:
        try:
            warnings += backend.check(plan)
        except SubmissionError as error:
            if not config.dry_run:
                raise
            warnings.append(f"the cluster could not be asked: {error}")
    return warnings


def look_ahead(config: TrainConfig, console: RunConsole) -> list[str]:
    """Find here what the run would find wrong on its nodes; what those nodes have is not known here.

    Returns:
        What is not here and so was not looked at, in a sentence, if anything.

    Raises:
        DeltaError: Something cannot work.
    """
    if elsewhere := [] if isinstance(config.cluster, SlurmConfig) else unseen(config):
        return [f"not here, so model, data and memory are checked when the run starts: {', '.join(elsewhere)}"]
    before = dict(os.environ)
    try:
        from launch.preflight import check, check_model_files

        if isinstance(config.model, PretrainedModelConfig) and not config.dry_run:
            check_model_files(config.model)
        check(dataclasses.replace(config, dry_run=True), console)
    finally:  # libraries set variables for themselves, with paths of this machine, which a job would inherit
        os.environ.clear()
        os.environ.update(before)
    return []
