"""What cannot work on a Slurm cluster, found before a job waits in its queue for nothing."""

import difflib
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from delta.errors import ConfigError
from launch.run_folder import is_held
from launch.submit.plan import Plan
from launch.submit.slurm.commands import ActiveJob, NodeInfo, Partition
from launch.submit.slurm.config import OPTIONS, SlurmConfig, seconds_of
from launch.submit.slurm.ports import block_size

LOCAL_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")
"""What every node usually has for itself."""
LOCAL_TYPES = ("tmpfs", "ramfs")
"""File systems that no other node can see."""


def check_files(config: SlurmConfig, plan: Plan, script: str) -> None:
    """Everything that can be seen on this machine.

    Raises:
        ConfigError: The first thing that cannot work.
    """
    for option in config.options:
        if not re.fullmatch(r"--?[\w-]+(=\S*)?", option):
            raise ConfigError(
                f"cluster.options holds {option!r}; expected options of sbatch without spaces, such as --mail-type=END."
            )
    for name in OPTIONS:
        if re.search(r"\s", value := getattr(config, name)):
            raise ConfigError(f"cluster.{name}={value!r}: expected no spaces, at which Slurm would cut it.")
    for what, path in (("run_dir", plan.run_dir), ("the folder of the command", plan.work_dir)):
        if unfit := re.search(r"[^\w./+@:,=-]", str(path)):
            raise ConfigError(
                f"{what}, {path}, has {unfit[0]!r} in it, which Slurm or Ray would misread. Expected letters, digits "
                "and ./_-+@:,= only."
            )
    cache = Path(plan.environment["DELTA_CACHE"])
    if plan.image and (odd := [str(path) for path in (plan.run_dir, cache, *plan.inputs) if {",", ":"} & {*str(path)}]):
        raise ConfigError(
            f"{odd[0]} would be mounted in the container, where ',' and ':' end a path. Expected one without."
        )
    if (ports := config.last_port + 1 - config.first_port) < block_size(plan.resources.cpus):
        raise ConfigError(
            f"cluster.first_port={config.first_port}, cluster.last_port={config.last_port} are {ports} ports; expected "
            f"at least {block_size(plan.resources.cpus)} with cluster.num_cpus={plan.resources.cpus}. Widen the range."
        )
    _check_writable(plan.run_dir)
    read_there = [
        ("run_dir", plan.run_dir),
        ("the folder of the command", plan.work_dir),
        ("DELTA_CACHE", cache),
        *(("an input", path) for path in plan.inputs),
    ]
    if config.secrets_file:
        read_there.append(("cluster.secrets_file", Path(config.secrets_file)))
    if _looks_like_file(plan.image):
        read_there.append(("cluster.image", Path(plan.image)))
    if not plan.image:
        read_there.append(("the interpreter (cluster.python)", Path(config.python or sys.executable)))
    for what, path in read_there:
        if not config.allow_local and (reason := is_local(path)):
            raise ConfigError(
                f"{what}, {path}, is {reason}, where other nodes do not see it. Expected storage that all nodes share; "
                "or set cluster.allow_local=true if they do."
            )
    if _looks_like_file(plan.image) and not Path(plan.image).is_file():
        raise ConfigError(
            f"cluster.image={plan.image} is not found: expected a file that this machine and the nodes see, or the "
            "name of an image in a registry."
        )
    _check_secrets(config.secrets_file)
    parsed = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    if parsed.returncode:
        raise ConfigError(f"the batch script cannot be read: {parsed.stderr.strip()}. Look at cluster.setup.")


def check_fit(
    config: SlurmConfig, plan: Plan, *, nodes: Sequence[NodeInfo], partitions: Sequence[Partition]
) -> Iterator[str]:
    """What is asked for, against what the cluster has.

    Yields:
        What should be known, but need not be mended.

    Raises:
        ConfigError: The first thing that no wait can bring.
    """
    chosen, refused = list(_chosen(config, partitions)), list[str]()
    for partition in chosen:
        try:
            yield from list(_check_partition(config, plan, partition, nodes))
        except ConfigError as error:
            refused.append(str(error))
    if len(refused) == len(chosen):
        raise ConfigError("\n".join(refused))
    yield from (f"not the partition that Slurm will choose: {reason}" for reason in refused)


def _check_partition(config: SlurmConfig, plan: Plan, partition: Partition, nodes: Sequence[NodeInfo]) -> Iterator[str]:
    yield from _check_limits(config, plan, partition)
    inside = [node for node in nodes if partition.name in node.partitions]
    fitting = _fitting(config, plan, partition, inside)
    if plan.resources.nodes > len(fitting):
        raise ConfigError(
            f"nodes={plan.resources.nodes}: partition {partition.name} has {len(fitting)} with what is asked for. "
            "Ask for fewer, for less on each, or in another partition."
        )
    up = sum(node.is_up for node in fitting)
    if plan.resources.nodes > up:
        yield f"only {up} of the {len(fitting)} nodes that fit are up; the job will wait for others."


def is_local(path: Path) -> str:
    """Why only this machine may see a path; empty if nothing speaks for that."""
    resolved = path.resolve()
    if folder := next((folder for folder in LOCAL_FOLDERS if resolved.is_relative_to(folder)), ""):
        return f"below {folder}"
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    nearest = next((parent for parent in (resolved, *resolved.parents) if parent in mounts), None)
    kind = mounts[nearest] if nearest else ""
    return f"on a file system in memory ({kind})" if kind in LOCAL_TYPES else ""


def refuse_running(run_dir: Path) -> None:
    """Refuse a run folder that a driver holds at this moment, however it was started.

    Raises:
        ConfigError: One does.
    """
    if is_held(run_dir, unknown=False):  # without locks on its file system the run itself will say so
        who = (run_dir / ".driver").read_text(errors="replace") or "it does not say which"
        raise ConfigError(
            f"run_dir={run_dir} is in use by another run ({who}). Wait for it, end it, or choose another folder."
        )


def refuse_duplicate(plan: Plan, jobs: Sequence[ActiveJob]) -> None:
    """Refuse a run folder that has a job already; the job's name is made from the folder.

    Raises:
        ConfigError: It has.
    """
    for job in jobs:
        raise ConfigError(
            f"run_dir={plan.run_dir} has a job already: {job.job_id} ({plan.name}) is {job.state}. Wait for it, end it "
            f"with scancel {job.job_id}, or choose another folder."
        )


def _check_writable(run_dir: Path) -> None:
    parent = next(folder for folder in (run_dir, *run_dir.parents) if folder.exists())
    try:
        probe = parent / f".delta-submit-{id(run_dir)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"run_dir={run_dir}: {parent} cannot be written ({error.strerror}). Choose another folder."
        ) from error


def _check_secrets(path: str) -> None:
    if not path:
        return
    if not Path(path).is_absolute() or not Path(path).is_file():
        raise ConfigError(f"cluster.secrets_file={path}: expected the absolute path of a file that is there.")
    if Path(path).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"cluster.secrets_file={path}: others may read it. Take that away: chmod 600 {path}")


def _looks_like_file(image: str) -> bool:
    return image.startswith(("/", ".")) or image.endswith((".sif", ".sqsh"))


def _chosen(config: SlurmConfig, partitions: Sequence[Partition]) -> Iterator[Partition]:
    by_name = {partition.name: partition for partition in partitions}
    default = [partition.name for partition in partitions if partition.is_default]
    for name in config.partition.split(",") if config.partition else default:
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            raise ConfigError(
                f"cluster.partition={name}: there is no such partition, but {', '.join(sorted(by_name))}."
                + (f" Did you mean {close[0]}?" if close else "")
            )
        yield by_name[name]
    if not config.partition and not default:
        raise ConfigError(
            f"cluster.partition is empty and the cluster has no default; expected one of {', '.join(sorted(by_name))}."
        )


def _check_limits(config: SlurmConfig, plan: Plan, partition: Partition) -> Iterator[str]:
    if not partition.is_up:
        yield f"partition {partition.name} is not up; the job will wait until it is."
    if partition.max_nodes is not None and plan.resources.nodes > partition.max_nodes:
        raise ConfigError(
            f"nodes={plan.resources.nodes}: a job in partition {partition.name} may have {partition.max_nodes}."
        )
    asked = seconds_of(config.time_limit) if config.time_limit else None
    limit = partition.max_time_s
    if asked is not None and limit is not None and asked > limit:
        raise ConfigError(
            f"cluster.time_limit={config.time_limit} is longer than partition {partition.name} allows "
            f"({_time(limit)}). A shorter one is no loss: the run is put back into the queue and goes on."
        )
    given = partition.default_time_s or limit
    if asked is None and given is not None:
        if given <= config.lead_s:
            raise ConfigError(
                f"cluster.time_limit is empty, and partition {partition.name} then gives a job {_time(given)}; the run "
                f"is told to end {config.lead_s} s ahead. Set cluster.time_limit."
            )
        yield f"cluster.time_limit is empty: every start of the job lasts {_time(given)} at most."
    if partition.preempts and partition.grace_s < config.grace_s:
        yield (
            f"jobs in partition {partition.name} may be preempted with a grace of {partition.grace_s} s, less than "
            f"cluster.grace_s={config.grace_s:g}: a checkpoint that takes longer is lost, and the run goes on from the "
            "one before."
        )


def _fitting(config: SlurmConfig, plan: Plan, partition: Partition, nodes: Sequence[NodeInfo]) -> list[NodeInfo]:
    """The nodes of a partition that have what is asked for."""
    if re.fullmatch(r"[\w.-]+", config.constraint):  # of the rest of that language Slurm is the judge
        featured = [node for node in nodes if config.constraint in node.features]
        if not featured:
            known = sorted(frozenset().union(*(node.features for node in nodes)))
            raise ConfigError(
                f"cluster.constraint={config.constraint}: no node of partition {partition.name} has that feature; "
                f"there is {', '.join(known) or 'none at all'}."
            )
        nodes = featured
    resources, kind = plan.resources, config.gpu_type.lower()
    if kind and not any(node.gpus_of(kind) for node in nodes):
        known = sorted(frozenset[str]().union(*(node.gpus for node in nodes)) - {""})
        raise ConfigError(
            f"cluster.gpu_type={kind}: no node of partition {partition.name} has such GPUs; there is "
            f"{', '.join(known) or 'no GPU with a type'}."
        )
    memory = resources.memory_mib
    wanted: list[tuple[str, int, Callable[[NodeInfo], int]]] = [
        (f"cluster.num_cpus={resources.cpus}", resources.cpus, lambda node: node.cpus),
        (f"cluster.num_gpus={resources.gpus}", resources.gpus, lambda node: node.gpus_of(kind)),
        (f"cluster.host_memory_gib={memory / 1024:g} ({memory} MiB)", memory, lambda node: node.memory_mib),
    ]
    fitting = list(nodes)
    for setting, amount, has in wanted:
        enough = [node for node in fitting if has(node) >= amount]
        if not enough:
            largest = max(fitting, key=has, default=None)
            raise ConfigError(
                f"{setting}: no node of partition {partition.name} has that much"
                + (" beside the rest" if len(fitting) < len(nodes) else "")
                + (f"; the most is {has(largest)}, on {largest.name}." if largest else "; it has no nodes.")
            )
        fitting = enough
    return fitting


def _time(seconds: int) -> str:
    """As Slurm writes it."""
    days, rest = divmod(seconds, 86400)
    return f"{days}-" * bool(days) + f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
