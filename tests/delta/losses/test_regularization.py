import math

import pytest

from delta.losses import KlEstimator, RegularizationConfig


def test_nothing_is_added_by_default() -> None:
    config = RegularizationConfig()
    assert (config.kl, config.entropy, config.kl_estimator) == (0.0, 0.0, KlEstimator.k3)


@pytest.mark.parametrize("name", ["kl", "entropy"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_config_refuses_what_cannot_work(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"regularization\.{name}={value}"):
        RegularizationConfig(**{name: value})
