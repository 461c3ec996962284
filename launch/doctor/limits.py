"""What the system lets this user's processes have: processors, shared memory, files, processes, locked memory."""

import os
import resource
import shutil
from pathlib import Path

from launch.doctor.check import Finding, failed, ok, skipped, warning
from workers.controller.config import TrainConfig
from workers.learner.memory_plan import GIB, MIB

SHARED_MEMORY = Path("/dev/shm")
RAY_REFUSES = 10**10
"""Bytes of an object store from which on Ray refuses to put it anywhere but into shared memory."""
FILES_WANTED, FILES_NEEDED = 8192, 1024
"""Open files of one process: what Ray recommends, and what it does not get along without."""
PROCESSES_WANTED, PROCESSES_NEEDED = 4096, 600
"""Processes and threads of a user: Ray's processes have dozens of threads each; a run on two cores has some 600."""
PIDS_MAX = (Path("/sys/fs/cgroup/pids.max"), Path("/sys/fs/cgroup/pids/pids.max"))
"""A container's limit, in both versions of control groups."""


def processors(config: TrainConfig) -> Finding:
    """There are as many as Ray plans with, and not fewer than processes that compute at the same time."""
    there = len(os.sched_getaffinity(0))
    wanted = config.cluster.num_cpus
    if wanted > there:
        return warning(
            f"{there} processors for this process, and cluster.num_cpus={wanted}",
            expected="no more than there are",
            remedy=f"Set cluster.num_cpus={there}; processes beyond it only wait for each other.",
        )
    return ok(f"{there} for this process, {wanted} for the run")


def shared_memory(config: TrainConfig, folder: Path = SHARED_MEMORY) -> Finding:
    """Ray's object store fits."""
    wanted = config.cluster.object_store_mib * MIB
    try:
        disk = shutil.disk_usage(folder)
    except OSError as error:
        return failed(
            f"{folder}: {error.strerror}",
            expected="a tmpfs there",
            remedy=f"Mount one: mount -t tmpfs tmpfs {folder}.",
        )
    seen = f"{disk.free / GIB:.2f} of {disk.total / GIB:.2f} GiB free in {folder}"
    if disk.free < wanted:
        describe = failed if wanted > RAY_REFUSES else warning
        return describe(
            seen,
            expected=f"the object store, cluster.object_store_mib={config.cluster.object_store_mib}",
            remedy="Give the container more (docker run --shm-size=..., or an emptyDir of medium Memory), clear what "
            "others left there, or lower cluster.object_store_mib. Without, Ray uses the disk.",
        )
    return ok(seen)


def open_files(_: TrainConfig) -> Finding:
    """Ray raises the soft limit by itself, as far as the hard one goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 2**31
    seen = f"{_count(soft)}, at most {_count(hard)}"
    if most < FILES_WANTED:
        describe = failed if most < FILES_NEEDED else warning
        return describe(
            seen,
            expected=f"{FILES_WANTED} or more",
            remedy=f"ulimit -n 65535 where the hard limit is raised: LimitNOFILE, limits.conf, or docker run "
            f"--ulimit nofile=65535 (below {FILES_NEEDED} Ray does not start).",
        )
    return ok(seen)


def processes(_: TrainConfig, pids_max: tuple[Path, ...] = PIDS_MAX) -> Finding:
    """Threads count as processes, for the user's limit and for the container's."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = {"ulimit -u": soft} if soft != resource.RLIM_INFINITY and os.getuid() else {}
    for path in pids_max:
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            limits[str(path)] = int(text)
    if not limits:
        return ok("no limit")
    where, least = min(limits.items(), key=lambda pair: pair[1])
    if least < PROCESSES_WANTED:
        describe = failed if least < PROCESSES_NEEDED else warning
        return describe(
            f"{least} ({where})",
            expected=f"{PROCESSES_WANTED} or more processes and threads",
            remedy="ulimit -u, limits.conf, or docker run --pids-limit.",
        )
    return ok(f"{least} ({where})")


def locked_memory(config: TrainConfig) -> Finding:
    """RDMA registers memory, which counts as locked."""
    if not config.cluster.num_gpus:
        return skipped("only GPUs with RDMA lock memory, and cluster.num_gpus=0")
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY and not os.access("/dev/infiniband", os.F_OK):
        return ok(f"{_count(soft)} bytes; there is no InfiniBand that would need more")
    if hard != resource.RLIM_INFINITY:
        return warning(
            f"{_count(soft)} bytes, at most {_count(hard)}",
            expected="unlimited, for NCCL over InfiniBand",
            remedy="ulimit -l unlimited, limits.conf, or docker run --ulimit memlock=-1.",
        )
    return ok("unlimited")


def _count(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit}"
