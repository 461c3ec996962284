"""Whether a job could be submitted from here: what delta-submit looks at before it sends anything."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from launch.doctor.check import Finding, Status, explained, ok, skipped
from launch.doctor.place import is_submitted
from launch.submit.__main__ import backend_for
from launch.submit.config import SubmittedConfig
from launch.submit.plan import idle_gpus, plan_for
from workers.controller.config import TrainConfig


@explained
def submission(config: TrainConfig) -> Finding:
    """The cluster can be asked, has what the job asks for, and would take it."""
    if not isinstance(config.cluster, SubmittedConfig):
        return skipped("cluster=local: nothing is submitted")
    if not is_submitted(config):
        return skipped("this is a node of a job: nothing is submitted from here")
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    plan, backend = plan_for(config, overrides, work_dir=Path.cwd()), backend_for(config.cluster)
    warnings = [*backend.lint(plan, backend.render(plan)), *backend.check(plan)]
    if idle := idle_gpus(config):
        warnings.append(idle)
    if warnings:
        return Finding(Status.warning, "\n".join(warnings))
    nodes = f"{plan.resources.nodes} node{'s' if plan.resources.nodes > 1 else ''}"
    return ok(
        f"{plan.name}: the cluster would take it, {nodes} of {plan.resources.cpus} CPUs, {plan.resources.gpus} GPUs"
    )
