"""Command lines of sweeps, completed."""

from collections.abc import Sequence

from launch.overrides import MULTIRUN

LAUNCHER, CLUSTER = "hydra/launcher=", "cluster="


def with_cluster(arguments: Sequence[str]) -> list[str]:
    """A launcher is named like the cluster that it sends members to, so that one of the two need not be said."""
    launcher = _last(arguments, LAUNCHER)
    if launcher in ("", "local", "basic") or _last(arguments, CLUSTER):
        return [*arguments]
    return [*arguments, f"{CLUSTER}{launcher}"]


def detached(arguments: Sequence[str], *, lint: bool) -> list[str]:
    """What delta-submit makes of a sweep: it sends all members and waits for none; with `lint` it only checks them."""
    cluster = _last(arguments, CLUSTER)
    if not set(MULTIRUN) & set(arguments) or cluster in ("", "local"):
        return [*arguments]
    launcher = [] if _last(arguments, LAUNCHER) else [f"{LAUNCHER}{cluster}"]
    return [*arguments, *launcher, "hydra.launcher.wait=false", *(["dry_run=true"] if lint else [])]


def _last(arguments: Sequence[str], key: str) -> str:
    """What is said last about a key; empty if nothing is."""
    return ([argument.removeprefix(key) for argument in arguments if argument.startswith(key)] or [""])[-1]
