"""Outside the loop: a signal ends the program by an exception, and never in the middle of cleaning up."""

import os
import signal

import pytest

from workers.signals import SIGNALS, Ended, end_on_signals, handlers_kept, undisturbed


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_by_an_exception_that_cleans_up_on_its_way(number):
    cleaned = []

    def work():
        try:
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 10)  # the handler runs before this returns
        finally:
            cleaned.append(True)

    with handlers_kept():
        end_on_signals()
        with pytest.raises(Ended) as caught:
            work()
    assert caught.value.signal is number
    assert cleaned == [True]


def test_cleaning_up_is_not_disturbed_and_the_handlers_come_back():
    with handlers_kept():
        end_on_signals()
        before = [signal.getsignal(number) for number in SIGNALS]
        try:
            with undisturbed():
                for number in SIGNALS:
                    os.kill(os.getpid(), number)
        except Ended as ended:  # which pytest would take for a wish to stop
            pytest.fail(f"disturbed by {ended.signal.name}")
        assert [signal.getsignal(number) for number in SIGNALS] == before
