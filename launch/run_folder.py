"""The folder of a run: opened for writing, held by one driver at a time, with the settings of the run in it."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from delta.errors import ConfigError, StorageError
from workers.controller.config import Resume, TrainConfig
from workers.files import storage_errors, write_whole
from workers.hold import Hold

SETTINGS = "config.yaml"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def refuse_other_run(config: TrainConfig) -> None:
    """Refuse a folder that holds a run where `resume=never`.

    Raises:
        ConfigError: It does.
    """
    run_dir = Path(config.run_dir)
    if config.resume is Resume.never and (run_dir / SETTINGS).exists():
        raise ConfigError(
            f"run_dir={run_dir} already holds a run and resume=never. Choose another folder, or resume=auto to go on."
        )


def open_run_dir(config: TrainConfig) -> Path:
    """Create the run folder; a folder with a run in it must be meant.

    Raises:
        ConfigError: It holds a run and `resume=never`.
        StorageError: It cannot be written.
    """
    refuse_other_run(config)
    run_dir = Path(config.run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / ".writable").touch()
        (run_dir / ".writable").unlink()
    except OSError as error:
        raise StorageError(f"run_dir={run_dir} cannot be written: {error}. Choose another folder.") from error
    return run_dir


@contextlib.contextmanager
def held(run_dir: Path, *, say: Callable[[str], None], name: str = "run_dir") -> Iterator[Hold]:
    """Keep other drivers out of the folder while the block lasts: they would clear away each other's checkpoints.

    The operating system lets go of it when this process ends, however it ends. Where locks do not reach other nodes
    the yielded hold is what tells the older driver that there is a newer one.

    Args:
        run_dir: The folder.
        say: Told where the file system has no locks, as some cluster file systems do not.
        name: Of the setting that names the folder.

    Raises:
        ConfigError: Another driver holds it.
    """
    hold = Hold(run_dir / ".driver")
    with hold.file.open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = file.read().decode() or "it does not say which"
            raise ConfigError(
                f"{name}={run_dir} is in use by another run ({who}). Wait for it, end it, or choose another folder."
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say(f"{run_dir} cannot be locked ({error.strerror}): make sure that no other run uses it.")
        with contextlib.suppress(OSError):  # a full disk, on which there is no room for a name
            file.truncate(0)
            file.write(hold.name.encode())
            os.fsync(file.fileno())  # a full network disk says so only now
            hold.written = True
        yield hold


def is_held(run_dir: Path, *, unknown: bool) -> bool:
    """Whether a driver holds the folder at this moment, on whatever host.

    Args:
        run_dir: The folder.
        unknown: The answer where the file system has no locks.
    """
    try:
        with (run_dir / ".driver").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return unknown
    return False


def keep_settings(run_dir: Path, settings: DictConfig) -> None:
    """Write the whole resolved configuration into the folder, once it is certain that the run goes on with it.

    Raises:
        StorageError: It cannot be written.
    """
    with storage_errors(f"cannot write {run_dir / SETTINGS}", remedy="Free space or mend the permissions."):
        write_whole(run_dir / SETTINGS, OmegaConf.to_yaml(settings, resolve=True))
