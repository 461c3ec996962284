"""Model, learner, memory and data: what a run checks before it starts anything, one by one and without ending there."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

from delta.errors import ModelError
from launch.doctor.check import Finding, Status, explained, ok, skipped, warning
from launch.doctor.place import is_submitted
from workers.controller.config import TrainConfig
from workers.controller.console import RunConsole
from workers.learner.memory_plan import GIB, total
from workers.verifier.config import PoolConfig
from workers.warm_start.config import WarmStartModelConfig

# launch.preflight and launch.memory take seconds to import, so the functions do it, in a process of their own.


class Notes(RunConsole):
    """Keeps what a run would print."""

    def __init__(self) -> None:
        """Print nothing."""
        super().__init__(quiet=True)
        self.warnings: list[str] = []
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)

    def say(self, text: str) -> None:
        """Keep a line."""
        self.said.append(text)


def _needs_model(examine: Callable[[TrainConfig], Finding]) -> Callable[[TrainConfig], Finding]:
    """Leave what is wrong with the model to the check of the model."""

    @wraps(examine)
    def examined(config: TrainConfig) -> Finding:
        try:
            return examine(config)
        except ModelError:
            return skipped("not without the model, whose own check says what is wrong")

    return examined


@explained
def model(config: TrainConfig) -> Finding:
    """It is there, of a kind that was tried, with a tokenizer, and its context is long enough."""
    from launch.preflight import check_context, check_model_files, load_tokenizer
    from workers.learner.models import check_architecture
    from workers.warm_start.make import cache_folder, cache_key

    check_context(config.model, config.rollout.max_model_len)
    if isinstance(config.model, WarmStartModelConfig):
        made = (cache_folder() / cache_key(config.model, seed=config.seed)).exists()
        return ok(f"the project's own, {'in the cache' if made else 'taught when the run starts (a minute)'}")
    check_model_files(config.model)
    check_architecture(config.model.path, allow_untested=config.model.allow_untested)
    tokenizer = load_tokenizer(config.model)
    return ok(f"{config.model.path}: {len(tokenizer)} tokens, {config.model.dtype}")


@explained
def learner(config: TrainConfig) -> Finding:
    """DeepSpeed's settings have no other owner; compiler and disk are there if they are needed."""
    from workers.learner.engine import check_learner

    check_learner(config.learner, on_this_machine=not is_submitted(config))
    return ok(f"{config.learner.num_ranks} ranks")


@explained
@_needs_model
def memory(config: TrainConfig) -> Finding:
    """The memory plan fits what there is here, or what the configuration says of the cluster."""
    from launch.memory import planned_memory
    from launch.memory_advice import shortage

    plan, limits = planned_memory(replace(config, dry_run=config.dry_run or is_submitted(config)))
    if trouble := shortage(plan, limits):
        return Finding(Status.failed, trouble)
    rows = [("all processes", plan.on_host, limits.host)]
    if plan.inputs.on_gpu:
        rows += [("a learner's GPU", plan.on_learner_device, limits.device)]
        rows += [("an engine's GPU", plan.on_engine_device, limits.device)]
    parts = [
        f"{what} {total(held()) / GIB:.1f}{f' of {limit / GIB:.1f}' if limit else ''} GiB" for what, held, limit in rows
    ]
    return ok(", ".join(parts))


@explained
@_needs_model
def data(config: TrainConfig) -> Finding:
    """Every problem can be read, its reference answer too, and its prompt leaves room for an answer."""
    from delta.data.sources import load_problems
    from launch.preflight import check_references, encode, load_tokenizer

    notes = Notes()
    problems = load_problems(config.data, seed=config.seed)
    check_references((*problems.train, *problems.held_out), notes.warn)
    prompts = encode(config, problems, load_tokenizer(config.model), notes)
    longest = max(len(prompt.token_ids) for prompt in (*prompts.train, *prompts.held_out))
    seen = f"{len(prompts.train)} problems, {len(prompts.held_out)} held out, prompts of up to {longest} tokens"
    if notes.warnings or notes.said:
        return warning(
            "; ".join([seen, *notes.said, *notes.warnings]),
            expected="all of them",
            remedy="Mend or remove these problems.",
        )
    return ok(seen)


@explained
def known_verdict(config: TrainConfig) -> Finding:
    """A worker of the verifier scores an answer that is known to be correct as correct."""
    from delta.data.sources import load_problems
    from launch.preflight import check_known_answer

    if not isinstance(config.verifier, PoolConfig):
        return skipped("verifier=remote: the service is asked when the run starts")
    problems = load_problems(config.data, seed=config.seed)
    both = (*problems.train, *problems.held_out)
    check_known_answer(config.verifier, config.reward, both, max_tokens=config.rollout.max_new_tokens)
    return ok("correct, as it should be")
