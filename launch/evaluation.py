"""What an evaluation measures, which answers it still lacks, and where those are kept that it has."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delta.data.problems import PROMPT, Overlong, encode_problems, read_jsonl
from delta.data.sources import check_row_fields, check_template
from delta.errors import ConfigError, DataError
from delta.types import Prompt
from launch.scores import AnswerRow
from workers.cluster import ClusterConfig
from workers.deadlines import DeadlinesConfig
from workers.files import storage_errors, write_whole
from workers.placement import NodePlacement, place
from workers.rollout.config import RolloutConfig
from workers.rollout.engine import SamplingRequest
from workers.warm_start.config import PretrainedModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLED_BYTES = 2**20
"""Of each file of weights, which tell models apart; training changes them everywhere."""
FOR_TRAINING = ("prompts_per_step", "group_size", "max_refills", "mismatch_limit")


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """A model on benchmarks. The untyped fields are config groups."""

    model: PretrainedModelConfig = field(default_factory=PretrainedModelConfig)
    benchmarks: list[str] = field(default_factory=list)
    """Files of problems as `data=jsonl` reads them; a benchmark goes by the name of its file."""
    output: str = ""
    """Folder for answers and scores; an evaluation that was interrupted goes on there."""
    samples: int = 16
    """Answers for each problem."""
    top_p: float = 0.7
    """Answers are sampled from the most probable tokens that together have this probability."""
    seed: int = 1
    """Of all samples; each has its own, made of this, its benchmark, its problem and its number."""
    fields: dict[str, str] = field(default_factory=dict)
    """What the files call the fields that go by `prompt`, `answer`, `tests`, ... here."""
    template: str = PROMPT
    """What the model is given; `{prompt}` in it is the problem."""
    nodes: int = 1
    """Nodes of the cluster, over which engines are spread."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Engines, temperature and the longest answer."""
    verifier: Any = None
    cluster: Any = field(default_factory=ClusterConfig)
    deadlines: DeadlinesConfig = field(default_factory=DeadlinesConfig)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.samples < 1 or not 0 < self.top_p <= 1:
            raise ConfigError(f"samples={self.samples}, top_p={self.top_p}: expected 1 or more, and a share in (0, 1].")
        if not self.benchmarks or not self.output:
            raise ConfigError(
                f"benchmarks={self.benchmarks}, output={self.output or 'nothing'}: expected files and a folder, as in "
                "delta-eval model.path=runs/x/export 'benchmarks=[data/aime24.jsonl,data/aime25.jsonl]' output=evals/x"
            )
        names = [Path(file).stem for file in self.benchmarks]
        if len(set(names)) < len(names):
            raise ConfigError(f"benchmarks={self.benchmarks}: expected files of different names, which name them.")
        for name in FOR_TRAINING:
            if getattr(self.rollout, name) != getattr(RolloutConfig(), name):
                raise ConfigError(f"rollout.{name} is for training; what an evaluation has is samples=N and top_p=P.")
        check_template(self.template, name="template")
        check_row_fields(self.fields, name="fields")

    def placement(self, *, nodes: int) -> tuple[NodePlacement, ...]:
        """Which engines run on which of so many nodes.

        Raises:
            ConfigError: They do not fit.
        """
        return place(
            nodes=nodes,
            gpus_per_node=self.cluster.num_gpus,
            num_ranks=0,
            num_engines=self.rollout.num_workers,
            gpus_per_engine=self.rollout.tensor_parallel_size,
        )

    @property
    def settings(self) -> dict[str, object]:
        """What decides the numbers, beside the problems."""
        return {
            "model": self.model.path,
            "dtype": self.model.dtype,
            "samples": self.samples,
            "temperature": self.rollout.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.rollout.max_new_tokens,
            "template": self.template,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Task:
    """One answer to sample."""

    benchmark: str
    prompt: Prompt
    sample: int
    request: SamplingRequest
    key: str


def digest_of(benchmarks: Mapping[str, Sequence[Prompt]]) -> str:
    """A name for the problems: files that are called the same may hold others."""
    problems = {
        name: [(one.id, one.token_ids, repr(one.answer)) for one in found] for name, found in benchmarks.items()
    }
    return hashlib.sha256(json.dumps(problems).encode()).hexdigest()[:16]


def read_benchmarks(config: EvalConfig, tokenizer: "PreTrainedTokenizerBase") -> dict[str, list[Prompt]]:
    """The problems of each benchmark.

    Raises:
        DataError: A file cannot be used, two of its problems have one id, or a prompt does not fit.
    """
    found: dict[str, list[Prompt]] = {}
    for file in config.benchmarks:
        problems = read_jsonl(file, fields=config.fields, template=config.template)
        if repeated := len(problems) - len({problem.id for problem in problems}):
            raise DataError(f"{file}: {repeated} problems have the id of another; expected ids of their own, or none.")
        found[Path(file).stem], _ = encode_problems(
            problems,
            lambda text: tokenizer.encode(text, add_special_tokens=False),
            max_prompt_tokens=config.rollout.max_model_len - config.rollout.max_new_tokens,
            overlong=Overlong.error,
        )
    return found


def tasks_of(config: EvalConfig, benchmarks: Mapping[str, Sequence[Prompt]]) -> list[Task]:
    """All answers of the evaluation. None depends on which others there are, nor on who samples it."""
    rollout, model = config.rollout, fingerprint(config.model)
    tasks = []
    for benchmark, prompts in benchmarks.items():
        for prompt in prompts:
            for sample in range(config.samples):
                seed = answer_seed(config.seed, benchmark, prompt.id, sample)
                request = SamplingRequest(
                    prompt.token_ids, rollout.temperature, rollout.max_new_tokens, seed, top_p=config.top_p
                )
                decides = [model, prompt.token_ids, rollout.temperature, rollout.max_new_tokens, seed, config.top_p]
                key = hashlib.blake2b(json.dumps(decides).encode(), digest_size=8).hexdigest()
                tasks.append(Task(benchmark, prompt, sample, request, key))
    return tasks


def answer_seed(seed: int, benchmark: str, problem: str, sample: int) -> int:
    """The sampling seed of an answer: a function of what it answers."""
    digest = hashlib.blake2b(json.dumps([seed, benchmark, problem, sample]).encode(), digest_size=8).digest()
    return int.from_bytes(digest) % 2**31


def fingerprint(model: PretrainedModelConfig) -> str:
    """Tells models apart: the name on the hub, or in a folder its configuration and a part of each file of weights."""
    folder = Path(model.path)
    found = hashlib.blake2b(model.dtype.encode(), digest_size=16)
    if not folder.is_dir():
        found.update(model.path.encode())
        return found.hexdigest()
    found.update((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            size = weights.seek(0, 2)
            weights.seek(max(size - SAMPLED_BYTES, 0))
            found.update(f"{file.name} {size}".encode() + weights.read())
    return found.hexdigest()


class Answers:
    """The answers of an evaluation on disk, a file for each benchmark, which grows by a line for each."""

    def __init__(self, folder: Path, tasks: Sequence[Task]) -> None:
        """Read what is there; a line that was cut off is dropped.

        Raises:
            ConfigError: There are answers of another model, other problems or other settings.
            StorageError: The folder cannot be written.
        """
        self._folder = folder / "answers"
        self._remedy = "Free space or mend the permissions, then start the command again."
        self.found: dict[tuple[str, str, int], AnswerRow] = {}
        """By benchmark, problem and sample."""
        keys = {(task.benchmark, task.prompt.id, task.sample): task.key for task in tasks}
        with storage_errors(f"output={folder} cannot be used", remedy=self._remedy):
            self._folder.mkdir(parents=True, exist_ok=True)
            for benchmark in dict.fromkeys(task.benchmark for task in tasks):
                rows = self._whole_rows(self._file(benchmark))
                for row in rows:
                    place = (benchmark, row.problem, row.sample)
                    if keys.get(place, row.key) != row.key:
                        raise ConfigError(
                            f"output={folder} holds answers to {benchmark} of another model, to other prompts, or with "
                            "another temperature, top_p, max_new_tokens or seed. Choose another folder, or delete it."
                        )
                    if place in keys:  # others are of more samples than are wanted now
                        self.found[place] = row

    def append(self, benchmark: str, row: AnswerRow) -> None:
        """Keep an answer, in place of an earlier verdict on the same.

        Raises:
            StorageError: The file cannot be written.
        """
        with (
            storage_errors(f"cannot write {self._file(benchmark)}", remedy=self._remedy),
            self._file(benchmark).open("a", encoding="utf-8") as file,
        ):
            file.write(row.as_json() + "\n")
        self.found[benchmark, row.problem, row.sample] = row

    def of(self, benchmark: str) -> list[AnswerRow]:
        """All answers to a benchmark."""
        return [row for (name, _, _), row in self.found.items() if name == benchmark]

    def lacks(self, task: Task) -> bool:
        """Whether an answer has yet to be sampled."""
        return self._place(task) not in self.found

    def unjudged(self, task: Task) -> AnswerRow | None:
        """An answer that is there, on which the verifier failed."""
        row = self.found.get(self._place(task))
        return None if row is None or row.outcome.is_judgement else row

    @staticmethod
    def _place(task: Task) -> tuple[str, str, int]:
        return task.benchmark, task.prompt.id, task.sample

    def _file(self, benchmark: str) -> Path:
        return self._folder / f"{benchmark}.jsonl"

    @staticmethod
    def _whole_rows(file: Path) -> list[AnswerRow]:
        """The lines up to the first that is damaged; the rest is removed, so that new ones may follow."""
        if not file.exists():
            return []
        rows: list[AnswerRow] = []
        lines = file.read_text(encoding="utf-8").split("\n")
        for line in lines[:-1]:  # the last has no end: it is empty, or was cut off
            try:
                rows.append(AnswerRow.from_json(line))
            except ValueError:
                break
        if len(rows) < len(lines) - 1 or lines[-1]:
            write_whole(file, "".join(f"{row.as_json()}\n" for row in rows))
        return rows
