"""What everybody was doing when a deadline passed: one readable file in the run folder.

Stacks of the other processes come from py-spy, which reads them from outside: a hung process cannot be asked.
"""

import asyncio
import datetime
import os
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from delta.errors import StallError
from workers.cluster.nodes import Node, everywhere, is_attached
from workers.processes import python_processes, python_processes_of_job

DUMP_S = 20.0
"""How long py-spy may take for a process."""
NODE_S = 2 * DUMP_S
"""How long another node may take for its part."""


async def write_stall_report(
    run_dir: Path,
    stall: StallError,
    *,
    step: int,
    awaited: Mapping[str, Sequence[str]],
    actors: Sequence[str],
    nodes: Sequence[Node] = (),
) -> Path:
    """Write `stall-STEP.txt`; a second one of the same step gets a number.

    Args:
        run_dir: Folder of the run.
        stall: What was waited for, and who had answered.
        step: Training steps that are complete.
        awaited: Ids of the prompts whose rollouts are not there, by the engine that samples them.
        actors: Names of all learners and engines.
        nodes: Where they work; asked for their part in a cluster that somebody else started.

    Returns:
        The file.
    """
    below = await report_on(python_processes())
    away = [name for name in actors if name not in stall.who.split(", ") and name not in stall.answered]
    lines = [
        f"A deadline passed: {stall}",
        "",
        f"time            {datetime.datetime.now().astimezone().isoformat(timespec='seconds')}",
        f"phase           {stall.phase}",
        f"last good step  {step}",
        f"did not answer  {stall.who}",
        f"answered        {', '.join(stall.answered) or 'nobody'}",
        f"not asked       {', '.join(away) or 'nobody'}",
        "",
        "Prompts awaited (ids):",
        *(f"  {name}: {', '.join(ids)}" for name, ids in awaited.items()),
        *([] if awaited else ["  none"]),
        "",
        f"Stacks of the controller, process {os.getpid()}:",
        *_own_stacks(),
        "",
        "Processes on this host:",
        *below,
    ]
    for answer in await everywhere(nodes, report_from_here, timeout_s=NODE_S) if is_attached() else []:
        told = answer.value or [f"  nothing is known of them: {answer.trouble}"]
        lines += ["", f"Processes on {answer.node}:", *told]
    path = _free_path(run_dir, step)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def report_from_here() -> list[str]:
    """In a task of the driver: its part of the report about this node."""
    return asyncio.run(report_on(python_processes_of_job()))


async def report_on(processes: Sequence[psutil.Process]) -> list[str]:
    """Lines about processes of this host: the state of each, then the stacks of each."""
    stacks = await asyncio.gather(*(stacks_of(process.pid) for process in processes))
    lines = [f"  {_state(process)}" for process in processes] or ["  none"]
    for process, stack in zip(processes, stacks, strict=True):
        lines += ["", f"Stacks of process {process.pid}:", stack.rstrip()]
    return lines


async def stacks_of(pid: int) -> str:
    """What py-spy says, or why it does not."""
    program = Path(sys.executable).parent / "py-spy"
    found = str(program) if program.exists() else shutil.which("py-spy")
    if found is None:
        return "  py-spy is not installed; pip install py-spy"
    # Not blocking: a process that is stopped already must stay as it is, and the others are waiting anyway.
    dump = await asyncio.create_subprocess_exec(
        found,
        "dump",
        "--nonblocking",
        "--pid",
        str(pid),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, trouble = await asyncio.wait_for(dump.communicate(), DUMP_S)
    except TimeoutError:
        return f"  py-spy did not answer within {DUMP_S:g} s"
    finally:
        if dump.returncode is None:
            dump.kill()
            await dump.wait()
    if dump.returncode:
        reason = (trouble.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        return (
            f"  py-spy could not read it: {reason}. Where that is not permitted, run as root, set "
            "kernel.yama.ptrace_scope=0, or give the container the capability SYS_PTRACE."
        )
    return output.decode(errors="replace")


def _state(process: psutil.Process) -> str:
    try:
        with process.oneshot():
            times = process.cpu_times()
            return (
                f"{process.pid:>8}  {process.status():<10} {process.memory_info().rss / 2**20:>7.0f} MiB  "
                f"{times.user + times.system:>8.1f} s of CPU  {' '.join(process.cmdline())[:80]}"
            )
    except psutil.Error as error:
        return f"{process.pid:>8}  gone ({type(error).__name__})"


def _own_stacks() -> list[str]:
    """This process's threads, and the tasks of its event loop, which hold no thread while they wait."""
    lines = []
    for ident, frame in sys._current_frames().items():
        lines += [f"  thread {ident}", *(f"    {line.rstrip()}" for line in traceback.format_stack(frame)[-6:])]
    for task in asyncio.all_tasks():
        stack = [
            f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})" for frame in task.get_stack()
        ]
        lines += [f"  task {task.get_name()}: {'; '.join(stack)}"]
    return lines


def _free_path(run_dir: Path, step: int) -> Path:
    path = run_dir / f"stall-{step:06d}.txt"
    number = 1
    while path.exists():
        number += 1
        path = run_dir / f"stall-{step:06d}-{number}.txt"
    return path


def oom_kills() -> int:
    """Processes of this host that the kernel has ended for want of memory since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
