"""The learner's state on disk, by parameter: written by any number of ranks, read by any other.

ZeRO-3 cuts each parameter, flattened, into equal shards, one per rank, the last ones padded. So do the files:

    state.json                            ranks, optimizer step, hyperparameters, shape of each trainable parameter
    weights-00001-of-00002.safetensors    name                    float32 master weights, this rank's range
    optimizer-00001-of-00002.safetensors  name.exp_avg, ...       moments of AdamW, this rank's range

A rank that loads computes its own range of every parameter and reads it from whichever files have it. Nothing is
gathered, and writing needs no collective, which is why it can happen beside a training step; torch's distributed
checkpoint would plan it with collectives from a second thread, and unpickle what it reads. Padding is not written, and
neither are frozen parameters: they are the model's that the run started from.

The weights that the forward pass computes with are the master weights, rounded to its precision, at any time; so they
follow from what is written, to the bit.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from delta.errors import CheckpointError
from workers.files import FileDigest, digests, files_in, force_to_disk, storage_errors

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Per-element state of AdamW, in torch's implementation and in DeepSpeed's."""

BYTES_PER_PARAMETER = 4 * (1 + len(MOMENTS))
"""Of a checkpoint: float32 master weight and moments of every trainable parameter."""

LEARNER, MODEL = "learner", "model"
"""Folders in a checkpoint: the trainable state, and what describes the model (configuration, tokenizer)."""

STATE = "state.json"


@dataclass(frozen=True, slots=True)
class StateIndex:
    """What the shards of a checkpoint are shards of (`state.json`)."""

    ranks: int
    """That wrote it."""
    optimizer_step: int
    """Updates done by AdamW; 0 means that it has no moments yet."""
    param_groups: list[dict[str, Any]]
    """Hyperparameters of the optimizer by group."""
    dtype: str
    """Of the weights that the forward pass computes with."""
    shapes: dict[str, list[int]]
    """Of every trainable parameter, whole, by name in the model."""


@dataclass(frozen=True, slots=True, eq=False)
class StagedState:
    """One rank's part of a checkpoint in host memory, out of reach of the next update."""

    index: StateIndex
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(tensor.nbytes for tensor in (*self.weights.values(), *self.optimizer.values()))


@dataclass(frozen=True, slots=True, eq=False)
class _Fragment:
    """This rank's range of one trainable parameter."""

    name: str
    parameter: Any
    start: int
    end: int
    """Elements [start, end) of the flattened parameter, padding excluded."""


class LearnerState:
    """The trainable state of a ZeRO-3 engine on this rank: copied out, or put back."""

    def __init__(self, engine: Any, model: Any) -> None:
        """Look after `engine`.

        Args:
            engine: From `create_engine`.
            model: Whose parameter names are used; the module inside the engine's.
        """
        self._engine = engine
        self._optimizer = engine.optimizer
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._rank = torch.distributed.get_rank()
        self._ranks = torch.distributed.get_world_size()

    def size(self) -> int:
        """Bytes of this rank's part of a checkpoint, once the optimizer has moments."""
        fragments = [part for group in self._optimizer.fp16_groups for part in self._fragments(group)]
        return sum(BYTES_PER_PARAMETER * (part.end - part.start) for part in fragments)

    def stage(self) -> StagedState:
        """Copy this rank's state to host memory; the only part of a checkpoint that training waits for."""
        weights: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {"rng": torch.get_rng_state()}
        steps = set()
        for sub_group, parameters in enumerate(self._optimizer.fp16_groups):
            with self._resident(sub_group, changed=False) as (master, state):
                steps.add(int(state.get("step", 0)))
                for part in self._fragments(parameters):
                    weights[part.name] = self._local(master, part).to("cpu", torch.float32, copy=True)
                    if "step" in state:
                        for key in MOMENTS:
                            local = self._local(state[key], part)
                            moments[f"{part.name}.{key}"] = local.to("cpu", torch.float32, copy=True)
        (step,) = steps  # all sub-groups take part in every update
        return StagedState(self._index(step), weights, moments)

    def load(self, folder: Path) -> None:
        """Take over the state that any number of ranks wrote into `folder`; collective.

        Raises:
            CheckpointError: It is of another model, or has other trainable parameters.
        """
        index = read_index(folder)
        _check_same_parameters(self._shapes(), index.shapes, folder=folder)
        engine_optimizer = self._optimizer
        engine_optimizer.checkpoint_event_prologue()
        shards = Shards(folder, index)
        for sub_group, parameters in enumerate(engine_optimizer.fp16_groups):
            with self._resident(sub_group, changed=True) as (master, state):
                self._begin_state(state, master, index.optimizer_step)
                for part in self._fragments(parameters):
                    self._local(master, part).copy_(shards.weight(part.name, part.start, part.end))
                    if index.optimizer_step:
                        for key in MOMENTS:
                            values = shards.moment(part.name, key, part.start, part.end)
                            self._local(state[key], part).copy_(values)
                # What an update does at its end: round the master weights to the working precision.
                engine_optimizer._reassign_or_swap_out_partitioned_parameters(sub_group)
        engine_optimizer.checkpoint_event_epilogue()  # gathers those that every rank keeps whole
        for group, saved in zip(engine_optimizer.param_groups, index.param_groups, strict=True):
            group.update({name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()})
        if index.ranks == self._ranks:
            torch.set_rng_state(shards.rng(self._rank))

    def _index(self, step: int) -> StateIndex:
        groups = [
            {name: value for name, value in group.items() if name != "params"} for group in self._optimizer.param_groups
        ]
        dtype = str(self._optimizer.fp16_groups[0][0].dtype).removeprefix("torch.")
        return StateIndex(self._ranks, step, groups, dtype, self._shapes())

    def _shapes(self) -> dict[str, list[int]]:
        return {
            self._names[id(parameter)]: list(parameter.ds_shape)
            for group in self._optimizer.fp16_groups
            for parameter in group
        }

    def _fragments(self, parameters: list[Any]) -> Iterator[_Fragment]:
        for parameter in parameters:
            start, end = shard_range(parameter.ds_numel, self._ranks, self._rank)
            if parameter.ds_tensor.ds_numel != -(-parameter.ds_numel // self._ranks):
                raise RuntimeError(f"DeepSpeed cuts {self._names[id(parameter)]} in another way than expected")
            if start < end:
                yield _Fragment(self._names[id(parameter)], parameter, start, end)

    def _local(self, flat: Tensor, part: _Fragment) -> Tensor:
        """The view of a fragment in a flat buffer of its sub-group."""
        _, offset, _ = self._optimizer.grad_position[self._optimizer.get_param_id(part.parameter)]
        return flat.detach().narrow(0, offset, part.end - part.start)

    @contextlib.contextmanager
    def _resident(self, sub_group: int, *, changed: bool) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Master weights and optimizer state of a sub-group, in memory while this lasts even if they live on a disk."""
        optimizer = self._optimizer
        swapped = optimizer._swappable_optimizer_subgroup(sub_group)
        if swapped:
            optimizer._optimizer_states_and_gradient_swap_in(sub_group)
        master = optimizer.fp32_partitioned_groups_flat[sub_group]
        yield master, optimizer.optimizer.state[master]
        if swapped and changed:
            optimizer._optimizer_states_and_gradient_swap_out(sub_group)
        elif swapped:
            optimizer._release_swap_buffers(sub_group)

    def _begin_state(self, state: dict[str, Any], master: Tensor, step: int) -> None:
        """State as AdamW makes it before its first update, at a later step; none for step 0."""
        state.clear()
        if step:
            is_torch = isinstance(self._optimizer.optimizer, torch.optim.AdamW)
            state["step"] = torch.tensor(float(step), device=master.device) if is_torch else step
            state.update({key: torch.zeros_like(master, requires_grad=False) for key in MOMENTS})


class Shards:
    """Random access to the tensors of a written state, across the files of all ranks."""

    def __init__(self, folder: Path, index: StateIndex) -> None:
        """Read from `folder`, of which `index` is the `state.json`."""
        self._folder = folder
        self._index = index
        self._files: dict[str, Any] = {}

    def weight(self, name: str, start: int, end: int) -> Tensor:
        """(end - start,) float32, a range of a flattened parameter."""
        return self._range("weights", name, name, start, end)

    def moment(self, name: str, key: str, start: int, end: int) -> Tensor:
        """(end - start,) float32, a range of one of the `MOMENTS`."""
        return self._range("optimizer", name, f"{name}.{key}", start, end)

    def whole_weight(self, name: str) -> Tensor:
        """A whole parameter in its shape, float32."""
        shape = torch.Size(self._index.shapes[name])
        return self.weight(name, 0, shape.numel()).view(shape)

    def rng(self, rank: int) -> Tensor:
        """State of torch's random generator on a rank."""
        return self._open("optimizer", rank).get_tensor("rng")

    def _range(self, kind: str, name: str, key: str, start: int, end: int) -> Tensor:
        numel = torch.Size(self._index.shapes[name]).numel()
        parts = []
        for rank in range(self._index.ranks):
            first, last = shard_range(numel, self._index.ranks, rank)
            low, high = max(start, first), min(end, last)
            if low < high:
                parts.append(self._open(kind, rank).get_slice(key)[low - first : high - first])
        return torch.cat(parts)

    def _open(self, kind: str, rank: int) -> Any:
        name = file_name(kind, rank, self._index.ranks)
        if name not in self._files:
            self._files[name] = safe_open(self._folder / name, framework="pt")
        return self._files[name]


def shard_range(numel: int, ranks: int, rank: int) -> tuple[int, int]:
    """First and last-plus-one element of a rank's shard of `numel` elements, ZeRO-3's padding cut off."""
    size = -(-numel // ranks)
    return min(rank * size, numel), min((rank + 1) * size, numel)


def file_name(kind: str, rank: int, ranks: int) -> str:
    """Of one rank's `weights` or `optimizer` shards."""
    return f"{kind}-{rank + 1:05d}-of-{ranks:05d}.safetensors"


def write_state(staged: StagedState, folder: Path, *, rank: int) -> dict[str, FileDigest]:
    """Write one rank's part into `folder` and force it to the disk; safe in a thread of its own.

    Returns:
        Size and checksum of what was written, by name.

    Raises:
        StorageError: It cannot be written, for example because the disk is full, or the draft was discarded.
    """
    ranks = staged.index.ranks
    tensors = {file_name("weights", rank, ranks): staged.weights, file_name("optimizer", rank, ranks): staged.optimizer}
    names = list(tensors)
    with storage_errors(f"learner rank {rank}"):
        folder.mkdir(exist_ok=True)  # but never the draft it is in, which may have been given up
        for name, shards in tensors.items():
            save_file(shards, folder / name)
        if rank == 0:
            (folder / STATE).write_text(json.dumps(asdict(staged.index), indent=1), encoding="utf-8")
            names.append(STATE)
        return _sealed(folder, names)


def write_description(model: Any, tokenizer: Any, folder: Path) -> dict[str, FileDigest]:
    """Write everything of a Hugging Face model but its weights; size and checksum by name.

    Raises:
        StorageError: It cannot be written.
    """
    with storage_errors("learner rank 0"):
        folder.mkdir()
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return _sealed(folder, files_in(folder))


def _sealed(folder: Path, names: Iterable[str]) -> dict[str, FileDigest]:
    names = list(names)
    for name in names:
        force_to_disk(folder / name)
    force_to_disk(folder)
    return digests(folder, names)


def read_index(folder: Path) -> StateIndex:
    """The `state.json` of a written state.

    Raises:
        CheckpointError: There is none.
    """
    try:
        return StateIndex(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"no learner state in {folder}: {error}.") from error


def _check_same_parameters(now: Mapping[str, list[int]], then: Mapping[str, list[int]], *, folder: Path) -> None:
    different = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    if different:
        seen = "; ".join(f"{name} has shape {then.get(name)}, expected {now.get(name)}" for name in different[:3])
        raise CheckpointError(
            f"{folder} holds the state of another model: {len(different)} trainable parameters differ ({seen}). "
            "Use the model that the run began with."
        )
