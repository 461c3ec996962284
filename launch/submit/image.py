"""What of the configuration an image may not have: its `conf/` is that of the time when it was built."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from launch.overrides import CONF


def perhaps_missing(choices: Mapping[str, object], *, conf: Path = CONF) -> list[str]:
    """Files of chosen group options that are not in the repository as they are here, and so perhaps not in an image.

    Args:
        choices: Option by group, as Hydra chose.
        conf: Folder of the groups; where it is not in a git checkout nothing can be said.
    """
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--others", "--modified", "."], cwd=conf, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    own = frozenset(listed.stdout.splitlines())
    return sorted(own & {f"{group}/{option}.yaml" for group, option in choices.items()})
