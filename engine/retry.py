"""The one retry policy, for tasks and flows alike: whether a failed attempt is tried again, and after how long.

Pure: no clock and no sleeping here. The formulas are those a user of Prefect knows; jitter is drawn from the engine's
own source of randomness, so that a seed repeats it. Tests may bound every delay of the process, with `longest_delay`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import attrs

from .errors import Fail, InvalidOption, RetryAfter, StepMismatch
from .options import is_number
from .ports import Randomness

Delays: TypeAlias = float | Sequence[float] | Callable[[int], Sequence[float]]
Condition: TypeAlias = Callable[..., Any]

MAX_DELAYS = 50

_longest = math.inf


@contextmanager
def longest_delay(seconds: float) -> Iterator[None]:
    """In the whole process, while the block lasts, no attempt waits longer than that for the next: for tests."""
    global _longest
    before, _longest = _longest, seconds
    try:
        yield
    finally:
        _longest = before


def shortened(seconds: float) -> float:
    """A delay, or the longest that is allowed just now."""
    return min(seconds, _longest)


def exponential_backoff(backoff_factor: float) -> Callable[[int], list[float]]:
    """Delays of `backoff_factor * 2**i` seconds for the i-th retry, counted from 0.

    Raises `InvalidOption` for a negative factor.
    """
    if not is_number(backoff_factor) or backoff_factor < 0:
        raise InvalidOption("backoff_factor", backoff_factor, "a number of seconds, 0 or more")

    def delays(retries: int) -> list[float]:
        return [backoff_factor * 2**i for i in range(min(retries, MAX_DELAYS))]

    return delays


def clamped_exponential(mean: float, factor: float, random: Randomness) -> float:
    """A delay near `mean`, drawn from an exponential distribution cut at both ends.

    With k = 1 + factor and c = log2(2^k / (2^k - 1)), the delay lies in [c * mean, k * mean], as often above the
    median as below. (The bounds are those of Prefect's `clamped_poisson_interval`.)
    """
    if mean <= 0 or factor <= 0:
        return mean
    high = 1.0 + factor
    low = 0.0 if high >= 50 else math.log2(2**high / (2**high - 1))
    share = random.uniform(1 - math.exp(-low), 1 - math.exp(-high))
    # -log1p(-u) is the inverse of the exponential distribution function; the ends are kept against rounding.
    return min(max(-math.log1p(-share), low), high) * mean


@attrs.frozen
class RetryPolicy:
    """How often, how soon, and for which errors an attempt is tried again."""

    retries: int = 0
    delays: tuple[float, ...] = ()
    jitter_factor: float = 0.0
    max_delay: float = math.inf
    max_elapsed: float = math.inf
    retry_on: tuple[type[BaseException], ...] = ()
    give_up_on: tuple[type[BaseException], ...] = ()
    condition: Condition | None = None

    def allows(self, attempts: int, elapsed: float, error: object) -> bool:
        """Whether the error of attempt number `attempts` (from 1), `elapsed` seconds into the run, may be retried.

        The condition function is asked separately, because it may be a coroutine function.
        """
        if attempts > self.retries or elapsed >= self.max_elapsed or isinstance(error, Fail | StepMismatch):
            return False
        if isinstance(error, self.give_up_on):
            return False
        return not self.retry_on or isinstance(error, (*self.retry_on, RetryAfter))

    def delay(self, attempts: int, error: object, random: Randomness) -> float:
        """Seconds to wait after attempt number `attempts` failed; the last delay of a list repeats."""
        return shortened(self._delay(attempts, error, random))

    def _delay(self, attempts: int, error: object, random: Randomness) -> float:
        if isinstance(error, RetryAfter):
            return error.seconds
        if not self.delays:
            return 0.0
        mean = self.delays[min(attempts, len(self.delays)) - 1]
        return min(clamped_exponential(mean, self.jitter_factor, random), self.max_delay)


def retry_policy(
    retries: int | None,
    retry_delay_seconds: Delays | None,
    retry_jitter_factor: float | None,
    max_retry_delay_seconds: float | None,
    max_elapsed_seconds: float | None,
    retry_on: object,
    give_up_on: object,
    retry_condition_fn: Condition | None,
) -> RetryPolicy:
    """Check the retry options of a decorator and build the policy; raises `InvalidOption` naming the bad one."""
    retries = 0 if retries is None else retries
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise InvalidOption("retries", retries, "a whole number, 0 or more")
    if retry_condition_fn is not None and not callable(retry_condition_fn):
        raise InvalidOption("retry_condition_fn", retry_condition_fn, "a function of (task, run, state)")
    return RetryPolicy(
        retries=retries,
        delays=_delays(retries, retry_delay_seconds),
        jitter_factor=_seconds("retry_jitter_factor", retry_jitter_factor, 0.0, "a factor, 0 or more"),
        max_delay=_seconds("max_retry_delay_seconds", max_retry_delay_seconds, math.inf),
        max_elapsed=_seconds("max_elapsed_seconds", max_elapsed_seconds, math.inf),
        retry_on=_exceptions("retry_on", retry_on),
        give_up_on=_exceptions("give_up_on", give_up_on),
        condition=retry_condition_fn,
    )


def _delays(retries: int, value: Delays | None) -> tuple[float, ...]:
    allowed = f"seconds (0 or more), a list of at most {MAX_DELAYS} of them, or a function from retries to such a list"
    if value is None:
        return ()
    try:
        listed = value(retries) if callable(value) else value
    except Exception as error:
        raise InvalidOption("retry_delay_seconds", value, f"{allowed}, and not raise") from error
    items: tuple[Any, ...] = tuple(listed) if isinstance(listed, list | tuple) else (listed,)
    if len(items) > MAX_DELAYS or not all(is_number(item) and item >= 0 for item in items):
        raise InvalidOption("retry_delay_seconds", listed, allowed)
    if callable(value) and not isinstance(listed, list | tuple):
        raise InvalidOption("retry_delay_seconds", listed, "a function that returns a list of seconds")
    return tuple(float(item) for item in items)


def _seconds(
    option: str, value: float | None, default: float, allowed: str = "a number of seconds, 0 or more"
) -> float:
    if value is None:
        return default
    if not is_number(value) or value < 0:
        raise InvalidOption(option, value, allowed)
    return float(value)


def _exceptions(option: str, value: object) -> tuple[type[BaseException], ...]:
    if value is None:
        return ()
    items: tuple[Any, ...] = tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
    if not all(isinstance(item, type) and issubclass(item, BaseException) for item in items):
        raise InvalidOption(option, value, "an exception class or several of them")
    return items
