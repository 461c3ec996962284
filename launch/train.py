"""Train a policy: `python -m launch.train experiment=laptop`, console script `delta-train`.

Composes the configuration, checks everything that can be checked without starting a process, makes or finds the model,
and hands over to the controller. The heavy imports wait until the configuration is known to be good.
"""

import os
import sys
from pathlib import Path
from typing import cast

import hydra
from omegaconf import DictConfig, OmegaConf

from delta.errors import ConfigError, DeltaError
from launch.overrides import check_overrides
from launch.schema import register
from workers.controller.config import TrainConfig

EXIT_USER_ERROR = 2
"""Something the user can mend; the message says what."""

EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C or SIGTERM; the run folder holds a checkpoint."""

register()


def train(config: TrainConfig, settings: DictConfig) -> int:
    """One run, with its files; the exit code."""
    import asyncio

    from launch import report
    from launch.preflight import check, prepare
    from workers.cluster import local_cluster
    from workers.controller.console import RunConsole
    from workers.controller.loop import Controller, is_complete

    console = RunConsole()
    if config.dry_run:
        check(config, console)
        console.say("dry run: everything that can be checked before a run is in order; nothing was started.")
        return 0
    prepared = prepare(config, settings, console)
    run_dir = prepared.run_dir
    if is_complete(config, data=prepared.data, run_dir=run_dir, say=console.warn):
        console.say(f"{run_dir} is complete: all {config.steps} steps are done. More steps continue it.")
        return 0

    async def run() -> bool:
        controller = Controller(
            config, model_path=prepared.model_path, data=prepared.data, run_dir=run_dir, console=console
        )
        return await controller.run()

    with local_cluster(config.cluster, log_folder=run_dir / "ray_logs"):
        try:
            complete = asyncio.run(run())
        except asyncio.CancelledError:  # a second signal: at once, without a checkpoint
            complete = False
    if not complete:
        console.say(f"interrupted. Go on with: {_again(run_dir)}")
        return EXIT_INTERRUPTED
    report.write(run_dir, seed=config.seed)
    report.show(run_dir, console.console)
    return 0


def _again(run_dir: Path) -> str:
    """The command that continues this run."""
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith(("run_dir=", "resume="))]
    return " ".join(["delta-train", *overrides, f"run_dir={run_dir}"])


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def _main(settings: DictConfig) -> None:
    try:
        config = cast("TrainConfig", OmegaConf.to_object(settings))
    except ValueError as error:  # raised by the range checks of the config dataclasses
        raise ConfigError(str(error)) from error
    code = train(config, settings)
    if code:
        sys.exit(code)


def main() -> None:
    """Entry point."""
    # Quiet, and no progress bars of other libraries between ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach the handlers below instead of Hydra's own
    try:
        check_overrides(sys.argv[1:], config_name="train")
        _main()
    except DeltaError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted before training began: nothing to save.\n")
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
