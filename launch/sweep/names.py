"""Names of a sweep and of its members: the same command means the same folders, so that it can be given again.

No name holds `=` or a comma, which Hydra would read as more than a value in `run_dir=NAME`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

from workers.controller.trajectory import FREE

SWEEPS = "runs/sweeps"
"""Where the folders of sweeps are that were given none."""

MAX_NAME = 200
"""Characters of a folder's name; file systems allow 255 bytes."""

ELSEWHERE = FREE - {"steps", "resume_from"}
"""Settings, or groups of them, that say where and how a sweep runs and not what it is."""


def key_of(override: str) -> str:
    """What an override sets: `learner.learning_rate` of `+learner.learning_rate=1e-4`."""
    return override.split("=", 1)[0].lstrip("+~")


def value_of(override: str) -> str:
    """What it is set to, without quotes."""
    return override.partition("=")[2].strip("'\"")


def swept_keys(task: Sequence[str], params: Mapping[str, object] | None = None) -> list[str]:
    """The keys that a sweep goes through: those with several values, and whatever the sweeper itself is told.

    Args:
        task: Overrides of the command line.
        params: Of the sweeper, such as `hydra.sweeper.params`; a command line that fixes one of them wins.
    """
    parser = OverridesParser.create()
    swept = {
        key_of(text): override.is_sweep_override()
        for text, override in zip(task, parser.parse_overrides(list(task)), strict=True)
    }
    own = [str(key) for key in params or () if swept.get(str(key), True)]
    return [*own, *(key for key, several in swept.items() if several and key not in own)]


def folder_of_sweep(given: str, task: Sequence[str], params: Mapping[str, object] | None = None) -> str:
    """The folder of a sweep: the one that was given, else one named by what is swept and a hash of what is not.

    More values of the same keys are therefore more members of the same sweep; other settings are another sweep.
    """
    if given:
        return given
    swept = swept_keys(task, params)
    fixed = sorted(text for text in task if key_of(text) not in swept and _decides(key_of(text)))
    name = _short("+".join(key.replace("/", ".") for key in swept) or "single")
    return f"{SWEEPS}/{name}-{_hash(fixed)}" if fixed else f"{SWEEPS}/{name}"


def name_of_member(choices: Mapping[str, str]) -> str:
    """The folder of a member in that of its sweep: `credit-uniform+seed-1`."""
    return _short("+".join(f"{key.replace('/', '.')}-{_plain(value)}" for key, value in choices.items()) or "single")


def _decides(key: str) -> bool:
    return not (key.startswith("hydra") or key in ELSEWHERE or key.split(".")[0] in ELSEWHERE)


def _plain(value: str) -> str:
    """A value as part of a name; what cannot be kept is told apart by a hash."""
    plain = re.sub(r"[^\w.-]+", "_", value, flags=re.ASCII)
    return plain if plain == value else f"{plain}.{_hash([value])}"


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 7]}.{_hash([name])}"


def _hash(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:6]
