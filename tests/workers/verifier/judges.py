"""Judges and reward parts that misbehave, for the tests of what supervises them."""

import ctypes
import math
import os
import signal
import sys
import time
from pathlib import Path

from delta.types import Outcome, PluginAnswer, Sample, Verdict


def of(judge: str, response: str = "", answer: str = "null") -> Sample:
    """A sample for a judge of this module."""
    return Sample(response, PluginAnswer(f"{__name__}.{judge}", answer))


def echo(response: str, answer: object) -> float:
    """The response is the reward: a partial one, where it is no whole number."""
    return float(response)


def sleeps(response: str, answer: object) -> float:
    """Take as long as the answer says; 0 for ever."""
    time.sleep(float(response) or 10**6)
    return 1.0


def spins_in_c(response: str, answer: object) -> float:
    """Hold the interpreter in a C function that neither ends nor looks at signals."""
    math.factorial(10**9)
    return 1.0


def forks(response: str, answer: object) -> float:
    """Leave a child behind that would outlive everybody."""
    if os.fork() == 0:
        time.sleep(10**6)
        os._exit(0)
    return 1.0


def forks_and_hangs(response: str, answer: object) -> float:
    forks(response, answer)
    return sleeps("0", answer)


def forks_and_dies(response: str, answer: object) -> float:
    forks(response, answer)
    return dies(response, answer)


def dies(response: str, answer: object) -> float:
    """As if out of memory, or hit by a stranger."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def crashes(response: str, answer: object) -> float:
    """As a fault in a C extension would."""
    ctypes.string_at(0)
    return 1.0


def exits(response: str, answer: object) -> float:
    sys.exit("enough")


def dies_once(response: str, answer: object) -> float:
    """Dies unless the file exists that the response names."""
    try:
        Path(response).touch(exist_ok=False)
    except FileExistsError:
        return 1.0
    return dies(response, answer)


def raises(response: str, answer: object) -> float:
    raise LookupError("no such lemma")


def eats_memory(response: str, answer: object) -> float:
    """Take what there is, and more."""
    hoard = []
    while True:
        hoard.append(bytearray(2**26))


def grows(response: str, answer: object) -> float:
    """Use much memory, but not too much."""
    _hoard.append(bytearray(2**29))
    return 1.0


_hoard: list[bytearray] = []


def unpicklable(response: str, answer: object) -> Verdict:
    return Verdict(Outcome.wrong, 0.0, (letter for letter in "x"))  # type: ignore[arg-type]


def pid(response: str, answer: object) -> Verdict:
    """Who judges."""
    return Verdict(Outcome.correct, 1.0, str(os.getpid()))


def draws(response: str, answer: object) -> float:
    """A judge that samples: the same answer must meet the same luck."""
    import random

    return random.random()


def sleepy_part(sample: Sample, verdict: Verdict) -> float:
    """A reward part that hangs for one answer."""
    if sample.response == "hang":
        time.sleep(10**6)
    return 1.0


def raising_part(sample: Sample, verdict: Verdict) -> float:
    raise LookupError("no style")
