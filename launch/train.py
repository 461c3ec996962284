"""Train a policy: `python -m launch.train experiment=laptop`, console script `delta-train`.

Composes the configuration, checks everything that can be checked without starting a process, makes or finds the model,
and hands over to the controller. The heavy imports wait until the configuration is known to be good.
"""

import asyncio
import os
import shlex
import signal
import sys
from pathlib import Path

from omegaconf import DictConfig

from launch.command import EXIT_INTERRUPTED, EXIT_PREEMPTED, run_configured
from launch.submit.config import SubmittedConfig
from workers.controller.config import TrainConfig
from workers.signals import Ended, end_on_signals


def train(config: TrainConfig, settings: DictConfig) -> int:
    """One run, with its files; the exit code."""
    from launch import report
    from launch.preflight import check, prepare
    from launch.run_folder import held, keep_settings
    from workers.cluster import check_cluster, cluster
    from workers.controller.console import RunConsole
    from workers.controller.loop import Controller
    from workers.controller.starting_point import is_complete

    console = RunConsole()
    if config.dry_run:
        check(config, console)
        console.say("dry run: everything that can be checked before a run is in order; nothing was started.")
        return 0
    check_cluster(config.cluster, nodes=config.nodes)
    prepared = prepare(config, console)
    run_dir = prepared.run_dir
    with held(run_dir, say=console.warn) as hold:
        if is_complete(config, train=prepared.data.train, run_dir=run_dir, say=console.warn):
            console.say(f"{run_dir} is complete: all {config.steps} steps are done. More steps continue it.")
            return 0
        keep_settings(run_dir, settings)
        start_s = config.faults.deadlines.start_s
        with cluster(config.cluster, nodes=config.nodes, timeout_s=start_s, log_folder=run_dir / "ray_logs"):
            controller = Controller(
                config,
                model_path=prepared.model_path,
                data=prepared.data,
                run_dir=run_dir,
                console=console,
                hold=hold,
            )
            try:
                complete = asyncio.run(controller.run())
            except asyncio.CancelledError:  # a second signal, or the end of the grace: at once, without a checkpoint
                complete = False
        if not complete:
            number = controller.interruption.signal or signal.SIGINT
            submitted = isinstance(config.cluster, SubmittedConfig)
            console.say(f"interrupted by {number.name}. Go on with: {_again(run_dir, submitted=submitted)}")
            return _exit_code(number)
        report.write(run_dir, seed=config.seed)
        report.show(run_dir, console.console)
        return 0


def _exit_code(number: signal.Signals) -> int:
    return EXIT_INTERRUPTED if number is signal.SIGINT else EXIT_PREEMPTED


def _again(run_dir: Path, *, submitted: bool) -> str:
    """The command that continues this run; a scheduler may be about to do so by itself."""
    settled = ("run_dir=", "resume=", "faults.grace_s=") if submitted else ("run_dir=", "resume=")
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith(settled)]
    return shlex.join(["delta-submit" if submitted else "delta-train", *overrides, f"run_dir={run_dir}"])


def main() -> None:
    """Entry point."""
    # Quiet, and no progress bars of other libraries between ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    end_on_signals()
    from launch.sweep.arguments import with_cluster

    sys.argv[1:] = with_cluster(sys.argv[1:])
    try:
        run_configured(train, config_name="train")
    except Ended as ended:
        sys.stderr.write(f"\ninterrupted by {ended.signal.name} while there was nothing to save.\n")
        sys.exit(_exit_code(ended.signal))


if __name__ == "__main__":
    main()
