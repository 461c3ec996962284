"""Score answers from the shell: `python -m launch.verify input=FILE output=FILE`, console script `delta-verify`."""

import os
import sys
from typing import cast

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from delta.errors import ConfigError, DeltaError
from launch.overrides import check_overrides
from launch.schema import register
from launch.train import EXIT_INTERRUPTED, EXIT_USER_ERROR
from launch.verification import VerifyConfig, serve, verify_file

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="verify")
def _main(settings: DictConfig) -> None:
    try:
        config = cast("VerifyConfig", OmegaConf.to_object(settings))
    except ValueError as error:  # raised by the range checks of the config dataclasses
        raise ConfigError(str(error)) from error
    console = Console(highlight=False, soft_wrap=True)
    if config.serve:
        serve(config, console)
    else:
        verify_file(config, console)


def main() -> None:
    """Entry point."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach the handlers below instead of Hydra's own
    try:
        check_overrides(sys.argv[1:], config_name="verify")
        _main()
    except DeltaError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: the output holds the rows scored so far.\n")
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
