"""Properties of the judge over generated answers."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delta.rewards.equivalence import equivalent
from delta.rewards.final_answer import check_reference, extract_final_answer, judge_final_answer

whole = st.integers(-10_000, 10_000)
number = st.one_of(
    whole.map(str),
    st.tuples(whole, st.integers(1, 99)).map(lambda pair: f"\\frac{{{pair[0]}}}{{{pair[1]}}}"),
    st.tuples(whole, st.integers(0, 99)).map(lambda pair: f"{pair[0]}.{pair[1]:02d}"),
    st.integers(2, 50).map(lambda radicand: f"\\sqrt{{{radicand}}}"),
    st.sampled_from(["\\pi", "2\\pi", "-\\infty", "e^2", "1+i", "90^\\circ", "25\\%", "\\$18", "12\\text{ cm}"]),
)
expression = st.recursive(
    st.one_of(whole.map(str), st.sampled_from(["x", "y", "n", "\\pi", "\\theta", "a_1"])),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]} + ({pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]})({pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"\\frac{{{pair[0]}}}{{{pair[1]}}}"),
        inner.map(lambda item: f"\\sqrt{{{item}}}"),
        inner.map(lambda item: f"\\sin({item})"),
    ),
    max_leaves=6,
)
several = st.one_of(
    st.lists(number, min_size=2, max_size=4).map(", ".join),
    st.lists(number, min_size=2, max_size=4).map(lambda items: "(" + ", ".join(items) + ")"),
    st.lists(number, min_size=1, max_size=4).map(lambda items: "\\{" + ", ".join(items) + "\\}"),
    st.tuples(number, number).map(lambda ends: f"[{ends[0]}, {ends[1]})"),
    st.lists(number, min_size=2, max_size=4).map(
        lambda rows: "\\begin{pmatrix}" + "\\\\".join(rows) + "\\end{pmatrix}"
    ),
)
answers = st.one_of(
    number, expression, several, st.sampled_from(["\\text{even}", "y = 2x + 1", "2516_8", "3:2", "x > 2"])
)
renderings = st.sampled_from(
    [
        "\\boxed{%s}",
        "#### %s",
        "The answer is $%s$.",
        "**Answer:** \\(%s\\)",
        "\\[ \\boxed{\\displaystyle %s} \\]",
        "$\\boxed{ %s }$.",
    ]
)
pieces = [
    *"0123456789abxyei+-*/^_=<>()[]{}\\$%&|,.;:!' \n\u0664\u221a\u00bd",
    "\\frac",
    "\\boxed{",
    "\\text{",
    "\\pm",
    "\\cup",
]
junk = st.lists(st.sampled_from(pieces), max_size=50).map("".join)


@settings(max_examples=150, deadline=None)
@given(answers, renderings)
def test_an_answer_is_itself_in_every_rendering(answer: str, rendering: str):
    assert check_reference(answer) is None
    assert judge_final_answer(rendering % answer, answer).reward == 1.0
    assert equivalent(answer, answer, shortcuts=False)


@settings(max_examples=150, deadline=None)
@given(answers, answers)
def test_shortcuts_and_history_change_nothing(first: str, second: str):
    before = equivalent(first, second, shortcuts=False)
    equivalent(second, first)
    assert equivalent(first, second) == before == equivalent(first, second)


@settings(max_examples=150, deadline=None)
@given(expression, expression)
def test_equality_of_expressions_goes_both_ways(first: str, second: str):
    assert equivalent(first, second) == equivalent(second, first)


@settings(max_examples=200, deadline=None)
@given(st.one_of(junk, st.text(max_size=80)), answers)
def test_junk_is_judged_and_the_same_every_time(text: str, answer: str):
    for response in (text, "\\boxed{" + text + "}", "#### " + text):
        assert judge_final_answer(response, answer) == judge_final_answer(response, answer)
        extract_final_answer(response, require_mark=True)
    assert equivalent(text, answer) == equivalent(text, answer, shortcuts=False)
    check_reference(text)


@settings(max_examples=200, deadline=None)
@given(st.fractions(max_denominator=500), st.fractions(max_denominator=500))
def test_fractions_are_equal_exactly_when_they_are(first: Fraction, second: Fraction):
    shown = f"\\frac{{{first.numerator * 6}}}{{{first.denominator * 6}}}"
    assert equivalent(shown, f"{second.numerator}/{second.denominator}") == (first == second)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-99, 99), min_size=2, max_size=5), st.randoms())
def test_lists_have_no_order_and_points_do(items: list[int], random):
    shuffled = random.sample(items, len(items))
    shown, other = (", ".join(map(str, row)) for row in (items, shuffled))
    assert equivalent(other, shown)
    assert equivalent(f"({other})", f"({shown})") == (items == shuffled)
    assert not equivalent(str(items[0]), shown)
    assert not equivalent(shown, str(items[0]))


@pytest.mark.parametrize("digits", ["4\u0662", "\uff14\uff12", "\u0be8", "\U0001d7d2\U0001d7d0"])
def test_digits_of_other_scripts_are_no_digits(digits: str):
    assert not equivalent(digits, "42")
    assert not equivalent(digits, "2")
