"""Train a policy: `python -m launch.train experiment=laptop`, console script `delta-train`.

Composes the configuration, checks everything that can be checked without starting a process, makes or finds the model,
and hands over to the controller.
"""

import asyncio
import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from delta.errors import ConfigError, DeltaError
from launch import report
from launch.preflight import Prepared, prepare
from launch.schema import register
from workers.controller.config import TrainConfig
from workers.controller.console import RunConsole
from workers.controller.loop import Controller
from workers.cluster import local_cluster

EXIT_USER_ERROR = 2
"""Something the user can mend; the message says what."""

EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C or SIGTERM; the run folder holds a checkpoint."""

register()


def train(config: TrainConfig, settings: DictConfig, console: RunConsole) -> int:
    """One run, with its files; the exit code."""
    prepared = prepare(config, settings, console)
    with local_cluster(config.cluster, log_folder=prepared.run_dir / "ray_logs"):
        complete = asyncio.run(_run(config, prepared, console))
    if not complete:
        console.say(f"interrupted. Go on with: {_again(prepared.run_dir)}")
        return EXIT_INTERRUPTED
    report.write(prepared.run_dir, seed=config.seed)
    report.show(prepared.run_dir, console.console)
    return 0


async def _run(config: TrainConfig, prepared: Prepared, console: RunConsole) -> bool:
    controller = Controller(
        config, model_path=prepared.model_path, data=prepared.data, run_dir=prepared.run_dir, console=console
    )
    return await controller.run()


def _again(run_dir: Path) -> str:
    """The command that continues this run."""
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith(("run_dir=", "resume="))]
    return " ".join(["delta-train", *overrides, f"run_dir={run_dir}"])


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def _main(settings: DictConfig) -> None:
    console = RunConsole()
    try:
        try:
            config = OmegaConf.to_object(settings)
        except ValueError as error:  # raised by the range checks of the config dataclasses
            raise ConfigError(str(error)) from error
        code = train(config, settings, console)
    except DeltaError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.stdout.flush()
    if code:
        sys.exit(code)


def main() -> None:
    """Entry point."""
    # Quiet, and independent of the network: models and data come from this machine unless the user says otherwise.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _main()


if __name__ == "__main__":
    main()
