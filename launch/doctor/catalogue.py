"""All examinations, in lanes: those of a lane run one after the other in one process, the lanes side by side."""

from launch.doctor import accelerators, folders, inputs, limits, network, services, software, submission, trials
from launch.doctor.check import Examination

Lane = tuple[Examination, ...]

MACHINE: Lane = (
    Examination("Python", software.python),
    Examination("packages", software.packages),
    Examination("locked packages", software.locked_packages),
    Examination("compiler", software.compiler, of_node=True),
    Examination("processors", limits.processors, of_node=True),
    Examination("shared memory", limits.shared_memory, of_node=True),
    Examination("open files", limits.open_files, of_node=True),
    Examination("processes", limits.processes, of_node=True),
    Examination("locked memory", limits.locked_memory, of_node=True),
    Examination("host name", network.host_name, of_node=True),
    Examination("interfaces", network.interfaces, of_node=True),
    Examination("ports", network.ports, of_node=True),
    Examination("temporary folder", folders.temporary_folder, of_node=True),
    Examination("sandbox", trials.sandbox, starts_processes=True, of_node=True),
    Examination("submission", submission.submission, timeout_s=150),
    Examination("wandb", services.wandb),
    Examination("model hub", services.hub, of_inputs=True),
    Examination("scoring service", services.scoring_service),
)
"""Light ones."""

INPUTS: Lane = (
    Examination("GPUs", accelerators.gpus, of_node=True),
    Examination("cache", folders.cache_folder, of_storage=True),
    Examination("model", inputs.model, of_inputs=True, timeout_s=120),
    Examination("learner", inputs.learner, timeout_s=120),
    Examination("memory", inputs.memory, of_inputs=True, timeout_s=120),
    Examination("run folder", folders.run_folder, of_storage=True),
    Examination("data", inputs.data, of_inputs=True, timeout_s=300),
    Examination("known verdict", inputs.known_verdict, starts_processes=True, of_inputs=True, timeout_s=300),
)
"""Those that import torch and transformers, and read the data."""

ALL_REDUCE: Lane = (Examination("all-reduce", trials.all_reduce, starts_processes=True, of_node=True, timeout_s=120),)

GENERATION: Lane = (Examination("generation", trials.generation, starts_processes=True, of_node=True, timeout_s=300),)
"""The longest: vLLM takes its time to load."""

LANES: tuple[Lane, ...] = (MACHINE, INPUTS, ALL_REDUCE, GENERATION)
