from delta.importance import NoneConfig
from tests.objectives import old_tokens


def test_there_is_no_factor() -> None:
    assert NoneConfig().weights(old_tokens([-1.0, -2.0], rollout_log_probs=[-3.0, -0.5])) is None
