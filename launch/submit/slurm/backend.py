"""Slurm as a backend: a batch script from the plan, its checks, and sbatch."""

import dataclasses
import json
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from launch.submit.backend import Submission
from launch.submit.plan import Plan
from launch.submit.slurm.checks import check_files, check_fit, refuse_duplicate, refuse_running
from launch.submit.slurm.commands import active_jobs, nodes, partitions, run
from launch.submit.slurm.config import OPTIONS, ContainerRuntime, SlurmConfig
from workers.files import storage_errors, write_whole

SCRIPT = "job.sbatch"
TOKEN = "token"
RECORD = "submission.json"


class SlurmBackend:
    """Submits plans as batch jobs."""

    def __init__(self, config: SlurmConfig) -> None:
        """Remember what is said to Slurm."""
        self.config = config

    def render(self, plan: Plan) -> Mapping[str, str]:
        """The batch script."""
        templates = Environment(
            loader=PackageLoader("launch.submit.slurm", "."),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
        )
        environment = {
            **plan.environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(plan.job_dir / TOKEN),
        }
        text = templates.get_template("job.sbatch.j2").render(
            name=plan.name,
            options=list(self._options(plan)),
            job_dir=shlex.quote(str(plan.job_dir)),
            setup=self.config.setup,
            secrets_file=shlex.quote(self.config.secrets_file) if self.config.secrets_file else "",
            environment={name: shlex.quote(value) for name, value in environment.items()},
            nodes=plan.resources.nodes,
            step=[shlex.quote(word) for word in self._step(plan)],
            program=[shlex.quote(word) for word in self._program(plan)],
            flags=[f"{name}={shlex.quote(str(value))}" for name, value in self._flags(plan).items()],
            command=[shlex.quote(word) for word in plan.command],
            starts=plan.restarts.max_requeues + 1 if plan.restarts.requeue else 1,
            requeue=plan.restarts.requeue,
        )
        return {SCRIPT: text}

    def lint(self, plan: Plan, files: Mapping[str, str]) -> Sequence[str]:
        """Everything that can be seen on this machine, without Slurm."""
        check_files(self.config, plan, files[SCRIPT])
        refuse_running(plan.run_dir)
        return []

    def check(self, plan: Plan) -> Sequence[str]:
        """Ask Slurm what it has, whether the run has a job already, and what it thinks of the script."""
        refuse_duplicate(plan, active_jobs(plan.name))
        warnings = list(check_fit(self.config, plan, nodes=nodes(), partitions=partitions()))
        run("sbatch", "--test-only", stdin=self.render(plan)[SCRIPT])
        return warnings

    def submit(self, plan: Plan, files: Mapping[str, str]) -> Submission:
        """Write the files, and a secret for this job's Ray, beside the run, and hand the script to sbatch."""
        with storage_errors(f"cannot write {plan.job_dir}", remedy="Free space or choose another run_dir."):
            for folder in (plan.job_dir, Path(plan.environment["DELTA_CACHE"])):  # a container cannot mount what is not
                folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                write_whole(plan.job_dir / name, text)
            token = plan.job_dir / TOKEN
            token.unlink(missing_ok=True)
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32), encoding="utf-8")
        answer = run("sbatch", "--parsable", str(plan.job_dir / SCRIPT))
        job_id = answer.strip().splitlines()[-1].split(";")[0]
        submission = Submission(
            job_id=job_id,
            follow=f"tail -F {shlex.quote(str(plan.job_dir / 'slurm.log'))}",
            cancel=f"scancel {job_id}",
        )
        record = {**dataclasses.asdict(submission), "name": plan.name, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_whole(plan.job_dir / RECORD, json.dumps(record, indent=1) + "\n")
        return submission

    def _options(self, plan: Plan) -> Iterator[str]:
        """What is asked of Slurm for the job."""
        config, resources = self.config, plan.resources
        yield f"--job-name={plan.name}"
        yield f"--nodes={resources.nodes}"
        yield "--ntasks-per-node=1"
        yield f"--cpus-per-task={resources.cpus}"
        if resources.gpus:
            yield f"--gres={self._gres(plan)}"
        if resources.memory_mib:
            yield f"--mem={resources.memory_mib}M"
        yield f"--chdir={plan.work_dir}"
        yield f"--output={plan.job_dir / 'slurm.log'}"
        yield "--open-mode=append"
        yield "--export=ALL"
        if config.time_limit:
            yield f"--time={config.time_limit}"
        yield f"--signal=B:USR1@{config.lead_s}"
        yield "--dependency=singleton"  # two submissions at once; names belong to one run folder each
        yield "--requeue" if plan.restarts.requeue else "--no-requeue"
        if config.no_kill:
            yield "--no-kill"
        for name in OPTIONS:
            if value := getattr(config, name):
                yield f"--{name}={value}"
        yield from config.options

    def _gres(self, plan: Plan) -> str:
        return ":".join(["gpu", *filter(None, [self.config.gpu_type]), str(plan.resources.gpus)])

    def _step(self, plan: Plan) -> Iterator[str]:
        """What starts a program on nodes of the job; since Slurm 22.05 steps do not inherit CPUs per task."""
        config = self.config
        yield from ("srun", "--overlap", "--kill-on-bad-exit=0", "--ntasks-per-node=1")
        yield f"--cpus-per-task={plan.resources.cpus}"
        if plan.resources.gpus:
            yield f"--gres={self._gres(plan)}"
        if config.no_kill:
            yield "--no-kill"
        if plan.image and config.container is ContainerRuntime.pyxis:
            yield f"--container-image={plan.image}"
            yield f"--container-mounts={','.join(self._mounts(plan))}"

    def _program(self, plan: Plan) -> Iterator[str]:
        """What runs `launch.submit.slurm.node`."""
        if plan.image and self.config.container is ContainerRuntime.apptainer:
            yield from ("apptainer", "exec", *(["--nv"] if plan.resources.gpus else []))
            yield f"--bind={','.join(self._mounts(plan))}"
            yield plan.image
        yield self.config.python or ("python" if plan.image else sys.executable)
        yield from ("-m", "launch.submit.slurm.node")

    def _mounts(self, plan: Plan) -> list[str]:
        """`SOURCE:TARGET` of everything that the run reads and writes."""
        folders = [plan.run_dir, *([Path(plan.environment["DELTA_CACHE"])]), *plan.inputs]
        return [*dict.fromkeys(f"{folder}:{folder}" for folder in folders), *self.config.mounts]

    def _flags(self, plan: Plan) -> Mapping[str, object]:
        """Options of `launch.submit.slurm.node`."""
        config, resources = self.config, plan.resources
        flags = {
            "--cpus": resources.cpus,
            "--gpus": resources.gpus,
            "--memory-mib": resources.memory_mib,
            "--object-store-mib": resources.object_store_mib,
            "--first-port": config.first_port,
            "--last-port": config.last_port,
            "--temp-dir": config.temp_dir,
            "--ready-timeout-s": f"{plan.ready_timeout_s:g}",
            "--grace-s": f"{plan.restarts.grace_s:g}",
        }
        return {**flags, "--network": config.network} if config.network else flags
