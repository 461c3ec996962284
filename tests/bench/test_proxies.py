"""The comparison of the proxies measures what it says."""

import json
import sys

import pytest
import torch

from tests.bench import proxies


def test_kinds_follow_what_stands_before_a_token():
    response = [
        "4",
        "7",
        "+",
        "3",
        "8",
        "=",
        "8",
        "5",
        "\n",
        "8",
        "5",
        "+",
        "1",
        "=",
        "8",
        "6",
        "\n",
        "####",
        " ",
        "86",
        "",
    ]
    assert "".join(kind[0] for kind in proxies.kinds_of(response)) == "oofoofrrfoofofrrfffaf"


def test_kinds_of_negative_and_decimal_results():
    assert proxies.kinds_of(["3", "-", "5", "=", "-", "2", ".", "5"])[-4:] == ["format", "result", "format", "result"]


def test_ranks_share_the_mean_of_ties():
    assert proxies.ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_agreement_of_equal_and_of_reversed_coefficients():
    values = torch.arange(10.0)
    assert proxies.agreement(values, values)["pearson"] == 1.0
    reverse = proxies.agreement(values, -(values**3))
    assert reverse["spearman"] == -1.0
    assert -1.0 < reverse["pearson"] < 0.0
    assert reverse["top_share_in_both"] == 0.0


def test_constant_coefficients_have_no_correlation():
    assert proxies.agreement(torch.ones(5), torch.arange(5.0))["pearson"] is None


def test_proxies_prints_agreement_as_json(monkeypatch, capsys):
    tiny = ["--prompts", "3", "--rollouts", "4", "--max-new-tokens", "12"]
    monkeypatch.setattr(sys, "argv", ["proxies", *tiny])
    proxies.main()
    report = json.loads(capsys.readouterr().out)
    tokens = report["shape"]["sided_tokens"]
    assert tokens == report["shape"]["response_tokens"] > 0  # by lot, half of each group is right
    assert sum(report["kinds"][kind]["tokens"] for kind in proxies.KINDS) == tokens
    assert report["agreement"]["all"]["tokens"] == tokens
    assert report["agreement"]["positive"]["tokens"] + report["agreement"]["negative"]["tokens"] == tokens
    for proxy in proxies.PROXIES:
        counts = [(report["kinds"][kind]["tokens"], report["kinds"][kind][proxy]["all"]) for kind in proxies.KINDS]
        assert sum(count * mean for count, mean in counts if count) / tokens == pytest.approx(1.0, abs=1e-3)
        assert set(report["seconds"][proxy]) == {"fill_s", "estimate_s"}
