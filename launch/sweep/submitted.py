"""Members of a sweep as jobs of a cluster: each is exactly what delta-submit would send.

The launcher sends them, watches them, and says how they ended. Nothing depends on it: jobs are preempted, requeued and
finished without it. When it is ended by Ctrl-C, or by whatever else happens on login nodes, the same command comes back
to the jobs that are under way.
"""

import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from delta.errors import ConfigError, SubmissionError
from launch.command import EXIT_INTERRUPTED, EXIT_MEMBERS, EXIT_PREEMPTED, EXIT_USER_ERROR
from launch.submit.__main__ import backend_for
from launch.submit.config import SubmittedConfig
from launch.submit.examine import examine, look_ahead
from launch.submit.kuberay.config import KubeRayConfig
from launch.submit.plan import Plan, plan_for
from launch.submit.slurm.config import SlurmConfig
from launch.sweep.launcher import Planned, SweepLauncher
from launch.sweep.queue import jobs_as_far_as_known, jobs_of, log_of
from launch.sweep.rayjobs import rayjob_of
from launch.sweep.record import Event, EventLog, Member, What, submitted
from launch.sweep.state import UNDER_WAY, Job, State, Status
from launch.sweep.watch import view_on
from workers.controller.console import RunConsole
from workers.signals import Ended


class SubmitLauncher(SweepLauncher):
    """One job per member (`hydra/launcher=slurm`)."""

    def __init__(self, *, at_once: int, wait: bool, poll_s: float) -> None:
        """Take the settings of `conf/hydra/launcher`.

        Args:
            at_once: Jobs that may be waiting or running at a time; 0 is all.
            wait: Stay until all members are done, and end with their success or failure.
            poll_s: How often the queue is looked at.
        """
        self._at_once, self._wait, self._poll_s = at_once, wait, poll_s
        self._refused: list[str] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Also check the settings."""
        if self._at_once < 0 or self._poll_s <= 0:
            raise ConfigError(
                f"hydra.launcher.at_once={self._at_once}, hydra.launcher.poll_s={self._poll_s:g}: expected 0 or more "
                "jobs (0 is all) and more than 0 s."
            )
        if self._at_once and not self._wait:
            raise ConfigError(
                f"hydra.launcher.at_once={self._at_once} needs hydra.launcher.wait=true: who else sends the others?"
            )
        SweepLauncher.setup(self, hydra_context=hydra_context, task_function=task_function, config=config)

    def check(self, left: Sequence[Planned], statuses: Mapping[str, Status]) -> None:
        """Also what the cluster would refuse of a member to be sent, and what the run of the first would find wrong."""
        SweepLauncher.check(self, left, statuses)
        notes: list[str] = []
        refused: list[str] = []
        self._under_way, self._before = _under_way(left, statuses, self.log), statuses
        unsent = [plan for plan in left if plan.member.name not in self._under_way]
        for plan in unsent:
            try:
                notes += self._examine(plan, preflight=plan is unsent[0] and not plan.config.dry_run)
            except ConfigError as error:
                refused.append(str(error))
        if refused:  # all of them, so that jobs that are over and in the way can be deleted at once
            raise ConfigError("\n".join(dict.fromkeys(refused)))
        for note in dict.fromkeys(notes):
            self.console.warn(f"note: {note}")

    def look_ahead(self, plan: Planned) -> list[str]:
        """As far as what the run needs is here."""
        return look_ahead(plan.config, RunConsole(quiet=True))

    def _examine(self, plan: Planned, *, preflight: bool) -> list[str]:
        cluster = plan.config.cluster
        if not isinstance(cluster, SubmittedConfig):
            raise ConfigError(
                "hydra/launcher sends members to a cluster, and cluster=local: leave one of the two out, or name "
                "the same."
            )
        if self._wait and not isinstance(cluster, SlurmConfig):
            raise ConfigError(
                "hydra.launcher.wait=true: only Slurm's jobs can be watched. Add hydra.launcher.wait=false."
            )
        job, backend = _plan(plan), backend_for(cluster)
        quiet = RunConsole(quiet=True)
        return examine(plan.config, job, backend.render(job), backend, quiet, ask=True, preflight=preflight)

    def log_of(self, member: Member) -> Path:
        """Of its jobs."""
        return log_of(member)

    def jobs(self, planned: Sequence[Planned], submitted: Sequence[tuple[Member, Event]]) -> dict[str, Job]:
        """What Slurm says, and Kubernetes where it is the cluster of the member."""
        jobs = jobs_of(submitted) if self._wait else jobs_as_far_as_known(submitted)
        clusters = {plan.member.name: plan.config.cluster for plan in planned}
        for member, event in submitted:
            cluster = clusters[member.name]
            if isinstance(cluster, KubeRayConfig) and event.cluster == cluster.kind_of_cluster:
                jobs[member.name] = rayjob_of(event.job, cluster)
        return jobs

    def run(self, left: Sequence[Planned]) -> None:
        """Send the members that have no job, and stay until all jobs are over."""
        try:
            self._send_and_watch(left)
        except Ended as ended:
            self.console.say(
                f"\n{ended.signal.name}: the jobs that were sent go on by themselves. The same command comes back to "
                "them, and sends those that were not; scancel ends them, with a checkpoint."
            )
            raise SystemExit(EXIT_INTERRUPTED if ended.signal is signal.SIGINT else EXIT_PREEMPTED) from ended
        if not self._wait:
            self.console.say("the jobs go on by themselves; the same command sends again what has ended incomplete.")
            if self._refused:
                self.console.warn(f"{len(self._refused)} members were refused: {', '.join(self._refused)}")
            raise SystemExit(EXIT_MEMBERS if self._refused else 0)

    def _send_and_watch(self, left: Sequence[Planned]) -> None:
        by_name = {plan.member.name: plan for plan in left}
        under_way = self._under_way
        for name in sorted(under_way):
            self.console.say(f"{name}: job {self.log.last()[name].job} is under way: {self._before[name].detail}")
        unsent = deque(plan for name, plan in by_name.items() if name not in under_way)
        with view_on(self.console.console) as view:
            while unsent or under_way:
                while unsent and (not self._at_once or len(under_way) < self._at_once):
                    plan = unsent.popleft()
                    if self._send(plan):
                        under_way.add(plan.member.name)
                if not self._wait:
                    return
                if statuses := self._look(left):
                    view.show(statuses)
                    for name in [name for name in under_way if statuses[name].state not in UNDER_WAY]:
                        under_way.remove(name)
                        self._note_end(name, statuses[name])
                if under_way:
                    time.sleep(self._poll_s)

    def _send(self, plan: Planned) -> bool:
        """Submit a member; whether the cluster took it."""
        job, backend = _plan(plan), backend_for(plan.config.cluster)
        name = plan.member.name
        try:
            submission = backend.submit(job, backend.render(job))
        except SubmissionError as error:
            self._refused.append(name)
            self.log.add(Event(member=name, what=What.ended, code=EXIT_USER_ERROR, reason=str(error)))
            self.console.warn(f"{name}: {error}")
            return False
        kind = plan.config.cluster.kind_of_cluster
        self.log.add(Event(member=name, what=What.submitted, job=submission.job_id, cluster=kind))
        self.console.say(f"{name}: job {submission.job_id}; {submission.follow}")
        return True

    def _look(self, left: Sequence[Planned]) -> dict[str, Status]:
        """How the members are doing; nothing where the cluster does not answer, which says nothing about its jobs."""
        try:
            return self.statuses(left)
        except SubmissionError as error:
            self.console.warn(f"{error} Asking again in {self._poll_s:g} s.")
            return {}

    def _note_end(self, name: str, status: Status) -> None:
        code = 0 if status.state is State.complete else status.code
        self.log.add(Event(member=name, what=What.ended, code=code, reason=status.detail))


def _under_way(left: Sequence[Planned], statuses: Mapping[str, Status], log: EventLog) -> set[str]:
    """Members that have a job which waits or runs."""
    sent = {member.name for member, _ in submitted([plan.member for plan in left], log.last())}
    return {name for name in sent if statuses[name].state in UNDER_WAY}


def _plan(plan: Planned) -> Plan:
    return plan_for(plan.config, plan.member.overrides, work_dir=Path.cwd(), is_sweep=True)
