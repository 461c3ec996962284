"""TRL's GRPOTrainer on the CPU, with Hugging Face `generate`: the other side of `make bench-trl`.

A step is what this project calls one: a rollout batch is generated, scored, passed once through the policy for its old
log-probabilities, and used up by `--updates` optimizer steps. TRL counts optimizer steps, so one step here is
`--updates` of TRL's. The settings are those of the project's defaults: AdamW, learning rate 1e-4, weight decay 0.1,
gradient norm clipped at 1, temperature 1, no KL term, clip bounds 0.2 and 0.28, token mean, rewards over the group's
deviation, float32.

A toy model's answers are all about the same length, those of a real one are not. `--length-schedule` decides the
lengths instead: a JSON file with a list per step, holding for each completion (those of the first prompt first) the
number of tokens it shall have. The end token is forbidden before and forced as the last of them. In vLLM the same is
`SamplingParams(min_tokens=n, max_tokens=n, ignore_eos=True)`.

Only an idle machine gives meaningful seconds: torch's threads wait for each other by spinning, which beside another
busy process slows generation down many times. `load_average` is the one at the start.

It runs in the environment of `requirements/trl.txt` and imports nothing of the project. Prints one JSON object:

    python tests/bench/trl_baseline.py --model DIR --problems FILE.jsonl --steps 12
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import chain
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

MARKER = "####"
WARM_UP_STEPS = 3


class StepClock(TrainerCallback):
    """Seconds from the end of one rollout batch to the end of the next."""

    def __init__(self, updates):
        self.seconds = []
        self._updates = updates
        self._started = None

    def on_train_begin(self, args, state, control, **_):
        self._started = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self._updates == 0:
            now = time.perf_counter()
            self.seconds.append(now - self._started)
            self._started = now


class FixedLengths:
    """Logits processor: row i ends with its `lengths[i]`-th new token, and not before."""

    def __init__(self, lengths, *, prompt_tokens, eos_token_ids):
        self._lengths = torch.tensor(lengths)
        self._prompt_tokens = prompt_tokens
        self._eos_token_ids = eos_token_ids

    def __call__(self, input_ids, scores):
        ends = self._lengths == input_ids.shape[1] - self._prompt_tokens + 1
        scores[:, self._eos_token_ids] = -torch.inf
        scores[ends] = -torch.inf
        scores[ends, self._eos_token_ids[0]] = 0.0
        return scores


class Generate:
    """`model.generate`, timed and, given a schedule, with its lengths decided."""

    def __init__(self, generate, schedule):
        self.seconds = []
        self._generate = generate
        self._schedule = schedule

    def __call__(self, input_ids, *, generation_config, **inputs):
        started = time.perf_counter()
        if self._schedule is not None:
            inputs["logits_processor"] = [
                FixedLengths(
                    self._schedule[len(self.seconds)],
                    prompt_tokens=input_ids.shape[1],
                    eos_token_ids=generation_config.eos_token_id,
                )
            ]
        output = self._generate(input_ids=input_ids, generation_config=generation_config, **inputs)
        self.seconds.append(time.perf_counter() - started)
        return output


class Scoring:
    """The reward function, which sees what TRL kept of each completion."""

    def __init__(self):
        self.__name__ = "final_answer"
        self.rewards = []
        """One list per rollout batch."""
        self.lengths = []
        """Likewise; tokens up to and with the end token."""

    def __call__(self, *, completions, completion_ids, answer, **_):
        rewards = [float(final_answer(text) == right) for text, right in zip(completions, answer, strict=True)]
        self.rewards.append(rewards)
        self.lengths.append([len(ids) for ids in completion_ids])
        return rewards


def final_answer(text):
    """What follows the last mark on its line; None without a mark."""
    _, mark, after = text.rpartition(MARKER)
    return after.split("\n", 1)[0].strip() if mark else None


def read_problems(path, *, prompts):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if len(rows) < prompts:
        sys.exit(f"--problems {path}: {len(rows)} rows, expected --prompts={prompts} or more.")
    return Dataset.from_list([{"prompt": row["prompt"], "answer": row["answer"]} for row in rows])


def read_schedule(path, options):
    schedule = json.loads(path.read_text(encoding="utf-8"))
    rows = options.prompts * options.group
    if len(schedule) < options.steps or any(len(lengths) != rows for lengths in schedule):
        sys.exit(f"--length-schedule {path}: expected {options.steps} or more lists of {rows} lengths.")
    if not all(1 <= length <= options.max_new_tokens for lengths in schedule for length in lengths):
        sys.exit(f"--length-schedule {path}: expected lengths from 1 to --max-new-tokens={options.max_new_tokens}.")
    return schedule


def grpo_config(options, folder):
    rows = options.prompts * options.group // options.updates
    micro_batch = options.micro_batch or rows
    if options.prompts * options.group % options.updates or rows % micro_batch:
        sys.exit("--prompts * --group has to divide over --updates, and an update's share over --micro-batch.")
    return GRPOConfig(
        output_dir=folder,
        # `updates` optimizer steps of `rows` completions each, and one generation of all of them before the first.
        max_steps=options.steps * options.updates,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=rows // micro_batch,
        steps_per_generation=options.updates * (rows // micro_batch),
        num_iterations=1,
        num_generations=options.group,
        max_completion_length=options.max_new_tokens,
        temperature=1.0,
        cache_implementation=options.cache,
        shuffle_dataset=False,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_type="dapo",
        scale_rewards="group",
        optim="adamw_torch_fused",
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        max_grad_norm=1.0,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        seed=options.seed,
    )


def train(options, folder):
    """Run the steps; clock, generation and scoring as they were recorded."""
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    schedule = read_schedule(options.length_schedule, options) if options.length_schedule else None
    model.generate = generate = Generate(model.generate, schedule)
    clock, scoring = StepClock(options.updates), Scoring()
    trainer = GRPOTrainer(
        model=model,
        args=grpo_config(options, folder),
        train_dataset=read_problems(options.problems, prompts=options.prompts),
        reward_funcs=scoring,
        processing_class=AutoTokenizer.from_pretrained(options.model),
        callbacks=[clock],
    )
    trainer.train()
    rows = options.prompts * options.group
    assert trainer.state.global_step == options.steps * options.updates
    assert len(clock.seconds) == len(generate.seconds) == len(scoring.lengths) == options.steps
    assert all(len(lengths) == rows for lengths in scoring.lengths)
    assert schedule is None or scoring.lengths == schedule[: options.steps], "lengths differ from the schedule"
    return clock, generate, scoring


def summary(options, clock, generate, scoring, *, load_average):
    step_s = statistics.median(clock.seconds[WARM_UP_STEPS:])
    lengths = list(chain.from_iterable(scoring.lengths[WARM_UP_STEPS:]))
    rewards = list(chain.from_iterable(scoring.rewards[WARM_UP_STEPS:]))
    return {
        "step_s": round(step_s, 4),
        "generate_s": round(statistics.median(generate.seconds[WARM_UP_STEPS:]), 4),
        "samples_per_s": round(options.prompts * options.group / step_s, 1),
        "mean_completion_tokens": round(statistics.mean(lengths), 2),
        "max_completion_tokens": max(lengths),
        "mean_reward": round(statistics.mean(rewards), 4),
        "step_seconds": [round(seconds, 4) for seconds in clock.seconds],
        "generate_seconds": [round(seconds, 4) for seconds in generate.seconds],
        "warm_up_steps": WARM_UP_STEPS,
        "threads": torch.get_num_threads(),
        "cache": options.cache,
        "load_average": round(load_average, 2),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": version("trl")},
    }


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with a causal LM and its tokenizer")
    parser.add_argument("--problems", type=Path, required=True, help="JSON lines with prompt and answer, used in order")
    parser.add_argument("--steps", type=int, required=True, help=f"rollout batches; the first {WARM_UP_STEPS} warm up")
    parser.add_argument("--prompts", type=int, default=32, help="per rollout batch")
    parser.add_argument("--group", type=int, default=8, help="completions per prompt")
    parser.add_argument("--updates", type=int, default=2, help="optimizer steps per rollout batch")
    parser.add_argument("--micro-batch", type=int, help="completions per forward pass; unset: all of an update")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--cache", choices=("dynamic", "static"), default="dynamic", help="KV cache of `generate`")
    parser.add_argument("--length-schedule", type=Path, help="JSON file, see above")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.steps <= WARM_UP_STEPS:
        parser.error(f"--steps {options.steps}: expected more than the {WARM_UP_STEPS} that warm up.")
    return options


def main():
    options = parse_options()
    load_average = os.getloadavg()[0]
    torch.set_num_threads(options.threads)
    # Trainer prints its own summary; standard output is for the JSON object.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        records = train(options, folder)
    print(json.dumps(summary(options, *records, load_average=load_average)))


if __name__ == "__main__":
    main()
