"""Score answers from the shell: `python -m launch.verify input=FILE output=FILE`, console script `delta-verify`."""

import sys

from omegaconf import DictConfig
from rich.console import Console

from launch.command import EXIT_INTERRUPTED, run_configured
from launch.verification import VerifyConfig, serve, verify_file


def verify(config: VerifyConfig, _: DictConfig) -> int:
    """Score a file, or answer requests until told to end; the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    if config.serve:
        serve(config, console)
    else:
        verify_file(config, console)
    return 0


def main() -> None:
    """Entry point."""
    try:
        run_configured(verify, config_name="verify")
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: the output holds the rows scored so far.\n")
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
