"""Hydra's multirun as we do it: all members are checked before the first begins, and each has a folder to go on in.

Hydra composes the members and hands their overrides to a launcher. Ours differ from Hydra's in that a member that fails
does not keep the others from running, and in that the same command given again skips what is complete. How a member
is run is the business of the subclasses in `launch.sweep.local` and `launch.sweep.submitted`.
"""

import abc
import contextlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from delta.errors import ConfigError, DeltaError
from launch.command import EXIT_MEMBERS, EXIT_PREEMPTED, EXIT_USER_ERROR
from launch.overrides import quoted
from launch.run_folder import held
from launch.sweep.names import key_of, name_of_member, swept_keys, value_of
from launch.sweep.queue import jobs_as_far_as_known
from launch.sweep.reason import tail
from launch.sweep.record import (
    Event,
    EventLog,
    Member,
    Sweep,
    check_folders,
    joined,
    make_folder,
    read_sweep,
    submitted,
    write_sweep,
)
from launch.sweep.state import Job, State, Status, status_of
from launch.sweep.watch import table_of
from workers.controller.checkpoints import CheckpointStore
from workers.controller.config import TrainConfig
from workers.controller.console import RunConsole
from workers.controller.trajectory import check_same_trajectory, trajectory_of


@dataclass(frozen=True, slots=True)
class Planned:
    """A member, and the run that it will be."""

    member: Member
    config: TrainConfig


class SweepLauncher(Launcher):
    """What every launcher of ours does before and after the members run."""

    _hydra: HydraContext
    _settings: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's: remember what members are composed from. They run in processes of their own, not as a function."""
        self._hydra, self._settings = hydra_context, config
        self._folder = Path(os.path.abspath(config.hydra.sweep.dir))
        make_folder(self._folder)  # as Hydra's sweeper is about to, whose error would be a traceback
        self.console = RunConsole()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Hydra's: run the members, all of them whatever becomes of some.

        Raises:
            SystemExit: Not all are complete; the table says which.
        """
        folder = self._folder
        # Made by Hydra before anything was checked; `sweep.json` says what was done.
        (folder / "multirun.yaml").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # an earlier sweep is in it
            folder.rmdir()
        if self._settings.hydra.sweeper.get("max_batch_size") is not None:
            raise ConfigError(
                "hydra.sweeper.max_batch_size: a sweep is one batch here; with hydra/launcher=slurm say "
                "how many members may be under way with hydra.launcher.at_once."
            )
        planned = self._planned(job_overrides, folder)
        check_folders([plan.member for plan in planned])
        self.log = EventLog(folder)
        before = self.statuses(planned)
        left = [plan for plan in planned if before[plan.member.name].state is not State.complete]
        self.check(left, before)
        if self._settings.dry_run:
            self._try(left)
            return [_done(plan) for plan in planned]
        sweep = Sweep(
            folder=folder, command=("delta-train", *sys.argv[1:]), members=tuple(plan.member for plan in planned)
        )
        make_folder(folder)
        with held(folder, say=self.console.warn, name="sweep"):
            write_sweep(joined(sweep, read_sweep(folder)))
            self.console.say(f"sweep {folder}: {len(planned)} members, {len(planned) - len(left)} of them complete")
            self.run(left)
            self._close(planned, folder)
        return [_done(plan) for plan in planned]

    @abc.abstractmethod
    def run(self, left: Sequence[Planned]) -> None:
        """Bring members to their ends, and write down in `self.log` what those were.

        Raises:
            SystemExit: The sweep itself was told to end; the members that are under way were looked after.
        """

    def check(self, left: Sequence[Planned], statuses: Mapping[str, Status]) -> None:
        """Find what cannot work, before anything is started.

        Args:
            left: Members that are not complete.
            statuses: How they are doing, by name.

        Raises:
            DeltaError: Something cannot.
        """
        for plan in left:
            check_course(plan)

    def look_ahead(self, plan: Planned) -> list[str]:
        """Find what the run would find wrong before it starts a process; what could not be looked at, in sentences.

        Raises:
            DeltaError: Something cannot work.
        """
        from launch.preflight import check

        check(plan.config, RunConsole(quiet=True))  # a memory plan each would bury the errors
        return []

    def log_of(self, member: Member) -> Path:
        """Where the output of a member is."""
        return member.run_dir / "output.log"

    def jobs(self, planned: Sequence[Planned], submitted: Sequence[tuple[Member, Event]]) -> dict[str, Job]:
        """What a scheduler says about the jobs of members that were submitted, by member."""
        return jobs_as_far_as_known(submitted)

    def statuses(self, planned: Sequence[Planned]) -> dict[str, Status]:
        """How the members are doing, by name."""
        events = self.log.last()
        jobs = self.jobs(planned, submitted([plan.member for plan in planned], events))
        return {
            name: status_of(plan.member, events.get(name), jobs.get(name), steps=plan.config.steps)
            for plan in planned
            for name in [plan.member.name]
        }

    def _planned(self, job_overrides: Sequence[Sequence[str]], folder: Path) -> list[Planned]:
        hydra = self._settings.hydra
        swept = swept_keys(list(hydra.overrides.task), hydra.sweeper.get("params"))
        planned = []
        for overrides in job_overrides:
            choices = {key_of(text): value_of(text) for text in overrides if key_of(text) in swept}
            name = name_of_member(choices)
            settings = self._hydra.config_loader.load_sweep_config(self._settings, list(overrides))
            with open_dict(settings):
                del settings["hydra"]
            # The run folder of a single run has the time in its name: no place to go on in.
            raw: Any = OmegaConf.to_container(settings, resolve=False)
            if "${now:" in raw["run_dir"]:
                settings.run_dir = str(folder / name)
            run_dir = Path(os.path.abspath(settings.run_dir))
            try:
                config: Any = OmegaConf.to_object(settings)
            except ValueError as error:
                raise ConfigError(f"{name}: {error}") from error
            own = [text for text in overrides if not key_of(text).startswith("hydra") and key_of(text) != "run_dir"]
            command = (*own, f"run_dir={quoted(run_dir)}", "hydra.mode=RUN")
            member = Member(name=name, choices=choices, run_dir=run_dir, overrides=command)
            planned.append(Planned(member, replace(config, run_dir=str(run_dir))))
        return planned

    def _try(self, planned: Sequence[Planned]) -> None:
        """What a dry run does of each member.

        Raises:
            SystemExit: Some cannot work.
        """
        failed = 0
        for plan in planned:
            try:
                notes = self.look_ahead(plan)
                self.console.say(f"{plan.member.name}: {'; '.join(notes) or 'in order'}")
            except DeltaError as error:
                self.console.warn(f"{plan.member.name}: {error}")
                failed += 1
        if failed:
            self.console.warn(f"dry run: {failed} of {len(planned)} members cannot run; nothing was started.")
            raise SystemExit(EXIT_USER_ERROR)
        self.console.say(f"dry run: all {len(planned)} members are in order; nothing was started.")

    def _close(self, planned: Sequence[Planned], folder: Path) -> None:
        """The closing words.

        Raises:
            SystemExit: Not all members are complete.
        """
        statuses = self.statuses(planned)
        self.console.console.print(table_of(statuses))
        failed = [plan.member for plan in planned if statuses[plan.member.name].state is State.failed]
        for member in failed:
            log = self.log_of(member)
            self.console.warn(f"{member.name} failed; the end of {log}:")
            self.console.console.print(tail(log), markup=False)
        self.console.say(f"what came out: delta-report sweep={quoted(folder)}")
        if all(status.state is State.complete for status in statuses.values()):
            return
        self.console.say(f"the same command goes on with the others: {shlex.join(('delta-train', *sys.argv[1:]))}")
        raise SystemExit(EXIT_MEMBERS if failed else EXIT_PREEMPTED)


def check_course(plan: Planned) -> None:
    """A member that has a checkpoint goes on from it, which it only may with the settings that it had.

    Raises:
        CheckpointError: It has others now.
    """
    found = CheckpointStore(plan.member.run_dir / "checkpoints", keep=1).latest(checksums=False)
    if found is not None:
        checkpoint, manifest = found
        now, then = trajectory_of(plan.config, ()), dict(manifest.trajectory)
        then["data_hash"] = now["data_hash"]  # the problems are read, and compared, when it starts
        check_same_trajectory(now, then, folder=checkpoint)


def _done(plan: Planned) -> JobReturn:
    """What Hydra's sweepers want to hear."""
    return JobReturn(overrides=plan.member.overrides, status=JobStatus.COMPLETED, _return_value=0)
