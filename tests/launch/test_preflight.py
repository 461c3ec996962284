"""What is prepared before a run, without the command around it."""

from dataclasses import replace

from delta.data.arithmetic import ArithmeticConfig
from launch.preflight import check
from workers.controller.collection import Collector
from workers.controller.config import TrainConfig
from workers.controller.console import RunConsole
from workers.controller.loop import Controller
from workers.controller.metrics import LoggerConfig, WandbMode
from workers.verifier.config import RemoteConfig
from workers.warm_start.config import WarmStartModelConfig

CONFIG = TrainConfig(
    model=WarmStartModelConfig(),
    data=ArithmeticConfig(problems=50, held_out=10),
    verifier=RemoteConfig(),
    logger=LoggerConfig(wandb=WandbMode.disabled),
)


def test_another_seed_is_another_run_from_problems_to_sampling(tmp_path):
    """With the model left alone: other problems, the same ones in another order, other rollouts of the same one."""
    console = RunConsole(quiet=True)
    one, other = (replace(CONFIG, seed=seed) for seed in (4, 5))
    data, others = check(one, console), check(other, console)
    assert data == check(one, console)
    assert {prompt.text for prompt in data.train} != {prompt.text for prompt in others.train}
    assert {prompt.text for prompt in data.held_out} != {prompt.text for prompt in others.held_out}

    def stream(config):
        controller = Controller(config, model_path=tmp_path, data=data, run_dir=tmp_path, console=console)
        return [prompt.text for prompt in controller._sampler.take(0, 50)]

    assert stream(one) == stream(one)
    assert stream(one) != stream(other)

    def sampling_seed(config):
        return Collector(config, None, rollouts=None, verifier=None).request(0, 0, 0, data.train[0]).seed

    assert sampling_seed(one) == sampling_seed(one)
    assert sampling_seed(one) != sampling_seed(other)
