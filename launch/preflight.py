"""What can fail before a process is started, fails here: data, model, tokenizer, one known answer, the run folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from delta.data.problems import Problem, ProblemSet, encode_problems
from delta.data.sources import load_problems
from delta.errors import ConfigError, DataError, ModelError
from delta.rewards import RewardConfig, check_reference
from delta.rewards.plugin import find
from delta.types import FunctionTests, Outcome, PluginAnswer, Prompt, Sample
from launch.memory import check_memory
from launch.run_folder import open_run_dir, refuse_other_run
from workers.controller.config import TrainConfig
from workers.controller.console import RunConsole
from workers.controller.loop import RunData
from workers.device import check_build
from workers.learner.engine import check_learner
from workers.learner.models import check_architecture
from workers.verifier.config import PoolConfig, ScoringConfig, VerifierConfig
from workers.verifier.supervisor import Supervisor
from workers.warm_start.config import ModelConfig, PretrainedModelConfig, WarmStartModelConfig
from workers.warm_start.make import warm_start
from workers.warm_start.tokenizer import byte_tokenizer


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run needs, found and checked."""

    run_dir: Path
    model_path: Path
    data: RunData


def prepare(config: TrainConfig, console: RunConsole) -> Prepared:
    """Check and fetch everything a run needs, cheapest first.

    Args:
        config: The run.
        console: Where progress is shown.

    Returns:
        Folder, model and prompts.

    Raises:
        DeltaError: Something cannot work; nothing was started.
    """
    data = check(config, console)
    if data is None:
        raise ModelError(f"model.path={config.model.path}: no tokenizer; expected one for anything but dry_run=true.")
    run_dir = open_run_dir(config)
    model_path = (
        warm_start(config.model, seed=config.seed, console=console)
        if isinstance(config.model, WarmStartModelConfig)
        else Path(config.model.path)
    )
    return Prepared(run_dir, model_path, data)


def check(config: TrainConfig, console: RunConsole) -> RunData | None:
    """Everything that can be checked before anything is started, and the memory plan.

    A dry run may be for another machine: it is not refused for what the learner lacks on this one, and writes nothing.

    Returns:
        The prompts; None in a dry run of a model without a tokenizer.

    Raises:
        DeltaError: Something cannot work.
    """
    if isinstance(config.model, PretrainedModelConfig):
        check_model_files(config.model, needs_weights=not config.dry_run)
        check_architecture(config.model.path, allow_untested=config.model.allow_untested)
    check_context(config.model, config.rollout.max_model_len)
    config.placement(nodes=config.nodes)
    check_learner(config.learner, on_this_machine=not config.dry_run)
    if not config.dry_run:
        check_build(num_gpus=config.cluster.num_gpus)
    check_memory(config, console)
    problems = load_problems(config.data, seed=config.seed)
    both = (*problems.train, *problems.held_out)
    check_references(both, console.warn)
    check_known_answer(config.verifier, config.reward, both, max_tokens=config.rollout.max_new_tokens)
    refuse_other_run(config)
    if config.dry_run and isinstance(config.model, PretrainedModelConfig) and not has_tokenizer(config.model):
        console.warn(f"{config.model.path} has no tokenizer: whether the prompts fit was not checked.")
        return None
    return encode(config, problems, load_tokenizer(config.model), console)


def has_tokenizer(config: PretrainedModelConfig) -> bool:
    """Whether a folder holds one; a hub name is left to the hub."""
    return not Path(config.path).is_dir() or (Path(config.path) / "tokenizer_config.json").is_file()


def check_context(model: ModelConfig, wanted: int) -> None:
    """The engine's context must fit the model's."""
    if isinstance(model, WarmStartModelConfig):
        limit, name = model.max_positions, "model.max_positions"
    else:
        settings = Path(model.path) / "config.json"
        found = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        limit, name = found.get("max_position_embeddings", wanted), f"max_position_embeddings in {settings}"
    if wanted > limit:
        raise ConfigError(
            f"rollout.max_model_len={wanted} is longer than the model's context ({name}={limit}); lower it to that."
        )


def check_model_files(config: PretrainedModelConfig, *, needs_weights: bool = True) -> None:
    """A path must hold a model in Hugging Face format; a hub name is left to the hub.

    Args:
        config: Where it is.
        needs_weights: Without, its config.json is enough.
    """
    if not config.path:
        raise ConfigError("model.path is empty: expected a folder in Hugging Face format, or a name on the hub.")
    path = Path(config.path)
    files = ("config.json", "tokenizer_config.json") if needs_weights else ("config.json",)
    missing = [name for name in files if not (path / name).is_file()]
    if needs_weights and path.is_dir() and not list(path.glob("*.safetensors")):
        missing.append("*.safetensors")
    looks_like_path = path.exists() or config.path.startswith((".", "/", "~")) or config.path.count("/") != 1
    if missing and looks_like_path:
        raise ModelError(
            f"model.path={config.path} is no model: {', '.join(missing)} not found. Expected a folder in Hugging Face "
            "format (config.json, tokenizer, *.safetensors), such as the `export` folder of a run."
        )


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The policy's tokenizer.

    Raises:
        ModelError: The model has none, or it lacks an end token.
    """
    if isinstance(model, WarmStartModelConfig):
        return byte_tokenizer()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.path={model.path}: no usable tokenizer ({str(error).splitlines()[0]}). Expected a folder in "
            "Hugging Face format, or a hub name and network."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.path={model.path}: its tokenizer has no end token, so no answer could ever end.")
    return tokenizer


def check_references(problems: Sequence[Problem | Prompt], warn: Callable[[str], None]) -> None:
    """Name the problems whose reference answers cannot be read: no answer, or only the same text, would be right."""
    found = {
        problem.id: trouble
        for problem in problems
        if isinstance(problem.answer, str) and (trouble := check_reference(problem.answer)) is not None
    }
    if found:
        some = ", ".join(list(found)[:10]) + (", ..." if len(found) > 10 else "")
        warn(
            f"{len(found)} of {len(problems)} reference answers cannot be read: {some}. "
            f"{next(iter(found.values()))} Mend or remove them; no other spelling of them will score."
        )


def check_known_answer(
    verifier: VerifierConfig, reward: RewardConfig, problems: Sequence[Problem | Prompt], *, max_tokens: int
) -> None:
    """A known answer must score as correct in a real worker process: a verifier that fails here fails everywhere.

    Of math, the first problem's own answer; for code, a sandbox must run a program; other judges must be there.

    Raises:
        ConfigError: A judge, a sandbox or a part of the reward cannot work.
        DataError: The problem's own answer is not correct.
    """
    if not isinstance(verifier, PoolConfig):
        return  # a service elsewhere, which is asked when the run starts
    first = {type(problem.answer): problem for problem in reversed(problems)}
    supervisor = Supervisor(ScoringConfig(verifier, reward), workers=1)
    try:
        for problem in first.values():
            if isinstance(problem.answer, PluginAnswer):
                find(problem.answer.judge)
                continue
            response, answer = (
                (f"\\boxed{{{problem.answer}}}", problem.answer)
                if isinstance(problem.answer, str)
                else ("def one():\n    return 1\n", FunctionTests("assert one() == 1", "one"))
            )
            sample = Sample(response, answer, tokens=1, max_tokens=max_tokens)
            (verdict,) = supervisor.score([sample])
            if not verdict.outcome.is_judgement:
                raise ConfigError(f"the verifier fails on a known answer ({verdict.outcome.value}): {verdict.detail}")
            if verdict.outcome is not Outcome.correct:
                raise DataError(
                    f"problem {problem.id}: its own answer {response[:80]!r} scores as {verdict.outcome.value} "
                    f"({verdict.detail}). Expected a short final answer: a number or a mathematical expression."
                )
    finally:
        supervisor.close()


def encode(
    config: TrainConfig, problems: ProblemSet, tokenizer: PreTrainedTokenizerBase, console: RunConsole
) -> RunData:
    """Prompts as token ids, with the ones that do not fit reported or refused."""
    room = config.rollout.max_model_len - config.rollout.max_new_tokens
    parts: list[list[Prompt]] = []
    for part in (problems.train, problems.held_out):
        prompts, dropped = encode_problems(
            part,
            lambda text: tokenizer.encode(text, add_special_tokens=False),
            max_prompt_tokens=room,
            overlong=config.data.overlong,
        )
        if dropped:
            console.say(f"dropped {len(dropped)} of {len(part)} prompts longer than {room} tokens")
        parts.append(prompts)
    return RunData(train=parts[0], held_out=parts[1])
