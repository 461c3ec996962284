"""Metrics of a run: a local file first, wandb and TensorBoard after it; logging never stops a run."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from delta.errors import StorageError
from workers.files import write_whole


class WandbMode(Enum):
    """Where Weights & Biases logs to: nowhere, the run folder, or its server."""

    disabled = "disabled"
    offline = "offline"
    online = "online"


@dataclass(kw_only=True, slots=True)
class LoggerConfig:
    """Where metrics go beside `metrics.jsonl`."""

    wandb: WandbMode = WandbMode.offline
    """`offline` writes to the run folder (`wandb sync` uploads it later), `online` needs network and a key."""
    project: str = "delta"
    """wandb project."""
    tensorboard: bool = False
    """Write TensorBoard events to the run folder."""


Row = Mapping[str, float]


class JsonLines:
    """A file of JSON lines that grows by whole rows, and can be cut back to a step when a run resumes."""

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        self._path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row and hand it to the operating system.

        Raises:
            StorageError: The disk is full, or the file cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise self._storage_error(error) from error

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows; a last line that a crash cut off is ignored."""
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def cut(self, *, last_step: int) -> None:
        """Forget the rows after `last_step`, at once or not at all: a resumed run writes them anew.

        Raises:
            StorageError: The disk is full, or the file cannot be written.
        """
        if not self._path.exists():
            return
        kept = [row for row in self.rows() if row["step"] <= last_step]
        try:
            write_whole(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        except OSError as error:
            raise self._storage_error(error) from error

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write {self._path}: {error}. Free space or mend the permissions, then start the same command "
            "again: it goes on from the last checkpoint."
        )


class Tracker:
    """Copies rows to wandb and TensorBoard; whatever goes wrong there is reported once and then left alone."""

    def __init__(self, config: LoggerConfig, *, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """Open the trackers that `config` names."""
        self._sinks: dict[str, tuple[Callable[[Row, int], None], Callable[[], None]]] = {}
        if config.wandb is not WandbMode.disabled:
            self._guard("wandb", lambda: self._open_wandb(config, run_dir, settings))
        if config.tensorboard:
            self._guard("tensorboard", lambda: self._open_tensorboard(run_dir))

    def log(self, row: Row, *, step: int) -> None:
        """Send one row to every tracker."""
        for name, (send, _) in list(self._sinks.items()):
            self._guard(name, partial(send, row, step))

    def close(self) -> None:
        """Flush and end the trackers."""
        for name, (_, finish) in list(self._sinks.items()):
            self._guard(name, finish)
        self._sinks.clear()

    def _open_wandb(self, config: LoggerConfig, run_dir: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        run = wandb.init(
            project=config.project,
            name=run_dir.name,
            dir=str(run_dir),
            mode=config.wandb.value,
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )
        self._sinks["wandb"] = (lambda row, step: run.log(dict(row), step=step), run.finish)

    def _open_tensorboard(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(log_dir=str(run_dir / "tensorboard"))

        def send(row: Row, step: int) -> None:
            for name, value in row.items():
                writer.add_scalar(name, value, step)

        self._sinks["tensorboard"] = (send, writer.close)

    def _guard(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  the boundary to other people's services
            self._sinks.pop(name, None)
            warnings.warn(f"{name} failed and is switched off: {error}. metrics.jsonl is complete.", stacklevel=2)
