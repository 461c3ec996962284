"""A plan, and what became of it, for people."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from launch.submit.backend import Submission
from launch.submit.plan import Plan, Resources

LANGUAGES = {"sbatch": "bash", "yaml": "yaml", "json": "json"}
"""By the ending of a rendered file's name."""


def show_plan(console: Console, plan: Plan, *, files: Mapping[str, str]) -> None:
    """Print everything that will happen.

    Args:
        console: Where to.
        plan: What.
        files: The submission as the backend renders it.
    """
    table = Table(show_header=False, title=f"Plan of {plan.name}", title_justify="left", title_style="bold")
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    table.add_row("run folder", str(plan.run_dir))
    table.add_row("command", " ".join(plan.command))
    table.add_row("resources", _resources(plan.resources))
    table.add_section()
    for number, share in enumerate(plan.placement):
        ranks, engines = _numbers("learner rank", share.learner_ranks), _numbers("engine", share.engines)
        head = "controller" if number == 0 else ""
        table.add_row(f"node {number}", ", ".join(filter(None, (head, ranks, engines))) or "nothing")
    table.add_section()
    table.add_row("image", plan.image or "none: on the nodes themselves")
    for path in plan.inputs:
        table.add_row("reads", str(path))
    for name, value in plan.environment.items():
        table.add_row("environment", f"{name}={value}")
    table.add_section()
    restarts = plan.restarts
    table.add_row(
        "when preempted",
        f"{restarts.grace_s:g} s for a checkpoint, then "
        + (f"back into the queue, up to {restarts.max_requeues} times" if restarts.requeue else "the end"),
    )
    if plan.ready_timeout_s:
        table.add_row("nodes missing", f"named after {plan.ready_timeout_s:g} s")
    shown = console if console.is_terminal else Console(width=120, quiet=console.quiet)
    shown.print(table)
    for name, text in files.items():
        console.rule(f"{plan.job_dir / name}", align="left")
        if console.is_terminal:
            console.print(Syntax(text, LANGUAGES.get(name.rsplit(".", 1)[-1], "text"), background_color="default"))
        else:
            console.out(text, highlight=False)


def show_submission(console: Console, plan: Plan, submission: Submission) -> None:
    """Say what was sent and what to do with it."""
    console.print(f"submitted {plan.name} as job {submission.job_id}; run folder {plan.run_dir}")
    console.print(f"  follow  {submission.follow}")
    console.print(f"  cancel  {submission.cancel}")


def _resources(resources: Resources) -> str:
    memory = f"{resources.memory_mib:,} MiB" if resources.memory_mib else "the cluster's default"
    return (
        f"{resources.nodes} node{'s'[: resources.nodes > 1]}, each with {resources.cpus} CPUs, {resources.gpus} GPUs, "
        f"memory {memory}, of which {resources.object_store_mib:,} MiB for objects in flight"
    )


def _numbers(what: str, numbers: Sequence[int]) -> str:
    """`learner ranks 0-3`; they are always neighbours."""
    if len(numbers) < 2:
        return f"{what} {numbers[0]}" if numbers else ""
    return f"{what}s {numbers[0]}-{numbers[-1]}"
