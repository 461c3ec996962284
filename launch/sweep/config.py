"""What is said to `delta-report`."""

from dataclasses import dataclass

from delta.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """A report on a sweep, or on a run."""

    sweep: str = ""
    """Folder of a sweep, or any folder with run folders below it."""
    run: str = ""
    """Folder of a run."""
    baseline: str = ""
    """Method that the others are compared with, seed by seed; empty takes `dapo` or `uniform` where there is one."""
    threshold: float = 0.8
    """Mean reward to reach; the table says in how many steps."""

    def __post_init__(self) -> None:
        """Check that there is one thing to report on."""
        if bool(self.sweep) == bool(self.run):
            raise ConfigError(
                f"sweep={self.sweep or 'nothing'}, run={self.run or 'nothing'}: expected one folder, as in "
                "delta-report sweep=runs/sweeps/credit+seed or delta-report run=runs/seed1"
            )
