"""Judges of one's own are found by their path, and what they return becomes a verdict."""

import pytest

from delta.errors import ConfigError
from delta.rewards.plugin import find, judge_by_plugin
from delta.types import Outcome, PluginAnswer, Verdict

PROOF = Verdict(Outcome.unparsable, 0.25, "no proof")


def given_reward(response, answer):
    return answer


def given_verdict(response, answer):
    return PROOF


def seen(response, answer):
    return Verdict(Outcome.wrong, 0.0, repr((response, answer)))


def reference(name: str, answer: str = "null") -> PluginAnswer:
    return PluginAnswer(f"{__name__}.{name}", answer)


@pytest.mark.parametrize(
    ("number", "outcome"),
    [("0", "wrong"), ("-1", "wrong"), ("0.75", "wrong"), ("1", "correct"), ("2.5", "correct"), ("true", "correct")],
)
def test_a_number_becomes_a_verdict_with_that_reward(number, outcome):
    verdict = judge_by_plugin("x", reference("given_reward", number))
    assert verdict.outcome is Outcome[outcome]
    assert verdict.reward == float(number if number != "true" else 1)
    assert verdict.detail == f"{__name__}.given_reward gave {verdict.reward:g}"


def test_a_verdict_stays_as_it_is():
    assert judge_by_plugin("x", reference("given_verdict")) is PROOF


def test_the_judge_gets_the_response_and_the_decoded_answer():
    verdict = judge_by_plugin("my text", reference("seen", '{"a": [1, "é"]}'))
    assert verdict.detail == "('my text', {'a': [1, 'é']})"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("judge", r"'judge' is no Python path\. Expected package\.module\.function\."),
        ("", r"'' is no Python path"),
        ("no_such_module.judge", r"no_such_module\.judge: no_such_module cannot be imported \(No module named"),
        ("delta.rewards.none.judge", r"delta\.rewards\.none cannot be imported .*Expected an installed module"),
        ("delta.rewards.plugin.none", r"delta\.rewards\.plugin has no function 'none'\."),
        ("delta.rewards.reward.math", r"delta\.rewards\.reward has no function 'math'\."),
    ],
)
def test_a_path_that_leads_nowhere_says_how_far_it_leads(path, message):
    with pytest.raises(ConfigError, match=message):
        find(path)


def test_a_module_that_fails_at_import_is_reported_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "broken_judges.py").write_text("raise ImportError('needs a rocket')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"broken_judges cannot be imported \(needs a rocket\)"):
        find("broken_judges.judge")
