"""The memory plan of the command: a dry run from a config.json, and refusals that say what would help."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from delta.errors import ConfigError
from launch import memory, nvidia
from launch.memory import architecture_of, available_host_bytes, memory_inputs, memory_limits, table
from launch.memory_advice import Limits, changes, shortage
from launch.submit.config import SubmittedConfig
from tests.conftest import Train
from tests.launch.test_conf import composed
from tests.workers.learner.test_memory_plan import INPUTS
from workers.cluster import ClusterConfig
from workers.controller.config import TrainConfig
from workers.learner.memory_plan import GIB, Phase, plan_memory
from workers.learner.sequence_parallel import share_sequences

QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}
"""The public sizes of Qwen3-8B, 8.19 billion parameters."""


@pytest.fixture
def eight_gpus(tmp_path):
    """Settings of Qwen3-8B on 8 GPUs with 2,048 + 20,480 tokens, given a config.json and nothing else."""
    folder = tmp_path / "qwen3-8b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    return [
        "dry_run=true",
        "model=pretrained",
        f"model.path={folder}",
        "model.dtype=bfloat16",
        "learner.num_ranks=8",
        "learner.tokens_per_micro_batch=22528",
        "rollout.num_workers=8",
        "rollout.max_model_len=22528",
        "rollout.max_new_tokens=20480",
        "cluster.num_gpus=16",
        "cluster.gpu_memory_gib=80",
        f"run_dir={tmp_path / 'run'}",
    ]


def test_an_8b_model_is_planned_from_its_config_alone(train: Train, eight_gpus, tmp_path):
    finished = train(*eight_gpus, "learner.gradient_checkpointing=true", timeout_s=120, check=True)
    assert "8,190,735,360 parameters, 8 learner ranks" in finished.stdout
    assert "dry run" in finished.stdout
    assert "no tokenizer" in finished.stdout
    # 8.19e9 / 8 parameters: two moments of 4 bytes each
    (moments,) = [line for line in finished.stdout.splitlines() if "AdamW moments" in line]
    assert "7.63" in moments
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_refused_with_what_would_help(train: Train, eight_gpus, tmp_path):
    finished = train(*eight_gpus, timeout_s=120)
    assert finished.returncode == 2
    assert "a learner rank on its GPU needs" in finished.stderr
    assert "The largest part is activations of a micro-batch" in finished.stderr
    assert "learner.gradient_checkpointing=true saves" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_that_does_not_fit_ends_before_anything_is_made(train: Train, tmp_path):
    finished = train("cluster.host_memory_gib=2", f"run_dir={tmp_path / 'run'}", timeout_s=120)
    assert finished.returncode == 2
    assert "all processes on this host needs" in finished.stderr
    assert "there are 2.00 GiB" in finished.stderr
    assert "rollout.num_workers=1 saves" in finished.stderr
    assert not (tmp_path / "run").exists()


def test_advice_is_true():
    plan = plan_memory(INPUTS)
    limit = plan.learner_device - GIB
    message = shortage(plan, Limits(limit, None))
    assert message is not None
    for text, inputs in changes(INPUTS):
        if f"{text} saves" in message:
            saved = plan.learner_device - plan_memory(inputs).learner_device
            assert saved > 0
            assert f"{text} saves {saved / GIB:,.2f} GiB" in message
    assert message.count("saves") >= 3
    helped = replace(INPUTS, gradient_checkpointing=True)
    assert shortage(plan_memory(helped), Limits(limit, None)) is None
    assert shortage(plan, Limits(plan.learner_device, plan.host)) is None


def test_an_engine_may_be_what_does_not_fit():
    """2 x 36 layers x 8 heads x 128 x 2 bytes are 147,456 for each token of a row, which must fit whole."""
    inputs = replace(INPUTS, gradient_checkpointing=True, gpus_per_node=24, gpu_bytes=80 * GIB, longest_row=400_000)
    message = shortage(plan_memory(inputs), Limits(80 * GIB, None))
    assert message is not None
    assert "an engine within its share of a GPU (rollout.gpu_memory_utilization=0.85)" in message
    assert "and there are 68.00 GiB. The largest part is KV cache, 54.93 GiB" in message
    assert "rollout.tensor_parallel_size=2 saves" in message
    assert shortage(plan_memory(replace(inputs, gpus_per_engine=2)), Limits(80 * GIB, None)) is None
    assert shortage(plan_memory(replace(inputs, longest_row=300_000)), Limits(80 * GIB, None)) is None


def test_the_table_holds_every_part():
    plan = plan_memory(INPUTS)
    shown = table(plan, Limits(80 * GIB, None))
    names = list(shown.columns[1].cells)
    assert {part.name for part in (*plan.learner, *plan.engine, *plan.shared)} <= set(names)


@pytest.mark.parametrize(
    ("folder", "limit", "current", "prefix"),
    [("", "memory.max", "memory.current", ""), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")],
)
def test_a_container_with_less_than_its_machine(tmp_path, monkeypatch, folder, limit, current, prefix):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    (place / limit).write_text(f"{GIB}\n")
    (place / current).write_text(f"{7 * GIB // 8}\n")
    (place / "memory.stat").write_text(f"{prefix}anon {GIB // 2}\n{prefix}inactive_file 0\n{prefix}active_file 0\n")
    assert available_host_bytes() == GIB // 8
    (place / "memory.stat").write_text(f"{prefix}inactive_file {GIB // 8}\n{prefix}active_file {GIB // 4}\n")
    assert available_host_bytes() == GIB // 2  # files that were read are no reason to refuse a run
    (place / limit).write_text("max\n")
    assert available_host_bytes() > GIB // 2


NVIDIA_SMI = """#!/bin/sh
[ "$*" = "--query-gpu=index,name,memory.total,memory.used,driver_version --format=csv,noheader,nounits" ] &&
printf '%s\\n' '0, Large, 81920, 4, 580.1' '1, Small, 40960, 4, 580.1' '2, Shared, [N/A], [N/A], 580.1'
"""


def test_gpus_have_what_is_configured_and_no_more_than_they_really_have(monkeypatch, tmp_path):
    config = TrainConfig(cluster=ClusterConfig(num_gpus=2, gpu_memory_gib=80, host_memory_gib=100), dry_run=True)
    assert memory_limits(config) == Limits(80 * GIB, 100 * GIB)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert memory_limits(replace(config, dry_run=False)) == Limits(80 * GIB, 100 * GIB)  # nobody to ask
    unknown = replace(config, cluster=ClusterConfig(num_gpus=2))
    assert memory_limits(unknown) == Limits(None, None)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    assert memory_limits(replace(config, dry_run=False)) == Limits(40 * GIB, 100 * GIB)
    assert memory_limits(replace(unknown, dry_run=False)).device == 40 * GIB
    assert memory_limits(config).device == 80 * GIB
    tool.write_text("#!/bin/sh\necho Unable to determine the device handle\n")
    assert nvidia.installed_gpus() == ([], "nvidia-smi: Unable to determine the device handle")
    tool.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(nvidia, "TIMEOUT_S", 0.2)
    assert memory_limits(replace(config, dry_run=False)).device == 80 * GIB  # a driver that hangs is nobody to ask
    assert memory_limits(replace(unknown, cluster=SubmittedConfig())) == Limits(None, None)  # nodes of others' machines
    assert memory_limits(replace(unknown, cluster=ClusterConfig())).host is not None
    with pytest.raises(ConfigError, match=r"gpu_memory_gib=80 with cluster\.num_gpus=0.*cluster\.gpu_memory_gib to 0"):
        memory_limits(replace(config, cluster=ClusterConfig(gpu_memory_gib=80)))


def test_more_ranks_need_more_gpus_or_more_nodes():
    with_room = replace(INPUTS, num_engines=4, gpus_per_node=24)
    assert ("learner.num_ranks=16", replace(with_room, num_ranks=16)) in changes(with_room)
    assert ("nodes=2 learner.num_ranks=16", replace(INPUTS, nodes=2, num_ranks=16)) in changes(INPUTS)
    texts = [text for text, _ in changes(INPUTS)]
    assert not any("tensor_parallel" in text for text in texts)  # all 16 GPUs are taken
    assert "rollout.tensor_parallel_size=2" in [text for text, _ in changes(with_room)]


def test_the_largest_part_is_one_without_which_less_is_needed():
    """Loading has the largest single part of a rank, but the updates need more; and engines may be many or one."""
    inputs = replace(INPUTS, gpus_per_node=0, micro_batch_tokens=1000, lm_head_chunk_tokens=1000)
    for engines, expected in (
        (1, "checkpoint on its way to the disk, 11.18 GiB in each of 8 learner ranks"),
        (8, "weights, 14.90 GiB in each of 8 engines"),
    ):
        plan = plan_memory(replace(inputs, num_engines=engines))
        assert max(plan.learner, key=lambda part: part.bytes).phases == (Phase.loading,)
        message = shortage(plan, Limits(None, plan.host - 1))
        assert message is not None
        assert f"The largest part is {expected}. What would help: " in message
    lighter = replace(plan, engine=tuple(part for part in plan.engine if part.name != "weights"))
    assert shortage(lighter, Limits(None, plan.host - 1)) is None


ADVISED = {
    "a GPU": ["cluster.num_gpus=8", "learner.num_ranks=4"],
    "padded rows": ["cluster.num_gpus=8", "learner.num_ranks=4", "learner.packing=false"],
    "compiled": ["cluster.num_gpus=8", "learner.num_ranks=4", "learner.compile=true"],
    "offloaded": ["cluster.num_gpus=8", "learner.offload.optimizer=cpu", "learner.offload.parameters=cpu"],
    "a disk": ["cluster.num_gpus=8", "learner.offload.optimizer=nvme", "learner.offload.nvme_path=/disk"],
    "a CPU": ["learner.sequence_parallel=2", "credit.proxy=last_layer", "regularization.kl=0.1"],
}


@pytest.mark.parametrize("settings", ADVISED.values(), ids=ADVISED)
def test_advice_can_be_taken(settings):
    config = composed(*settings)
    architecture = architecture_of(config)
    for text, inputs in changes(memory_inputs(config, architecture)):
        taken = composed(*settings, *text.split(" (")[0].split())
        if "tokens_per_micro_batch" not in text:  # which is about rollouts too, in words
            assert memory_inputs(taken, architecture) == inputs


@pytest.mark.parametrize(
    ("heads", "key_value_heads", "size", "advised"),
    [(32, 8, 8, True), (32, 8, 16, True), (28, 4, 8, False), (12, 3, 2, False), (12, 2, 4, True), (12, 8, 12, False)],
)
def test_sequences_are_shared_where_heads_can_be_dealt(monkeypatch, heads, key_value_heads, size, advised):
    from deepspeed.runtime.sequence_parallel import parallel_state_sp

    model = replace(INPUTS.model, num_heads=heads, num_kv_heads=key_value_heads)
    texts = [text for text, _ in changes(replace(INPUTS, model=model, num_ranks=48, sequence_parallel=size // 2))]
    assert (f"learner.sequence_parallel={size}" in texts) == advised

    class DealtError(Exception):
        """The heads were found fit."""

    def accept(**_):
        raise DealtError

    monkeypatch.setattr(parallel_state_sp, "initialize_sequence_parallel", accept)
    config = SimpleNamespace(num_attention_heads=heads, num_key_value_heads=key_value_heads)
    with pytest.raises(DealtError if advised else ConfigError):
        share_sequences(config, size)
