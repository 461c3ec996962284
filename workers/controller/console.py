"""What a person sees of a run: a bar for every long phase, one line per step."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from workers.controller.evaluation import Evaluation

Advance = Callable[[int], None]
"""Sets a bar to a number of finished pieces."""


class RunConsole:
    """Prints to the terminal; without one, plain lines."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Print to standard output, or nowhere."""
        self.console = Console(highlight=False, soft_wrap=True, quiet=quiet)

    def warn(self, text: str) -> None:
        """One line that should not be missed."""
        self.console.print(text, style="bold yellow")

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text)

    @contextlib.contextmanager
    def phase(self, title: str, *, total: int | None = None) -> Iterator[Advance]:
        """A bar (or, of unknown length, a spinner) while something long goes on; one line when it is done."""
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *([BarColumn(), MofNCompleteColumn()] if total else []),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with progress:
            task = progress.add_task(title, total=total)
            yield lambda completed: progress.update(task, completed=completed)
            elapsed = progress.tasks[0].elapsed or 0.0
        self.console.print(f"{title}: done in {elapsed:.1f} s")

    def step(self, row: Mapping[str, float], *, steps: int) -> None:
        """The line of a training step."""
        phases = ("generate", "score", "old_pass", "credit", "update", "sync")
        seconds = " ".join(f"{name.split('_')[0]} {row[f'time/{name}_s']:.2f}" for name in phases)
        failed = f" | not judged {row['verifier/failed']:.0f}" if row["verifier/failed"] else ""
        self.console.print(
            f"step {row['step']:>{len(str(steps))}}/{steps}"
            f" | reward {row['reward/mean']:.3f} | accuracy {row['reward/correct']:.3f}"
            f"{failed} | reasoned {row['rollout/reasoned']:.2f} | length {row['rollout/length_mean']:.1f}"
            f" | entropy {row['policy/entropy']:.3f} | mismatch {row['policy/mismatch_max']:.0e}"
            f" | {row['time/step_s']:.2f} s: {seconds}"
        )

    def evaluation(self, evaluation: Evaluation) -> None:
        """The line of a measurement."""
        low, high = evaluation.accuracy_interval
        self.console.print(
            f"held-out after {evaluation.step} steps: greedy {evaluation.accuracy:.3f} [{low:.3f}, {high:.3f}]"
            f" | sampled {evaluation.sampled_accuracy:.3f} | reasoned {evaluation.reasoned_share:.2f}"
            f" | length {evaluation.length_mean:.1f}  ({evaluation.problems} problems)",
            style="bold",
        )
