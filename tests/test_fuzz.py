"""Bad values in code and settings: they are used, or refused with the error that is meant for them, and never take long."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from undertow import (
    Engine,
    InvalidOption,
    Limit,
    RateLimit,
    Schedule,
    ScheduleInvalid,
    exponential_backoff,
    flow,
    task,
)
from undertow.engine import settings as engine_settings
from undertow.engine.errors import UnknownOption
from undertow.engine.flow import FlowOptions
from undertow.engine.settings import SettingInvalid, Settings, SettingUnknown
from undertow.engine.task import TaskOptions

pytestmark = pytest.mark.real_time

MAX_SECONDS = 2.0
"""What the worst input may cost, on a machine that has other things to do; it costs a few milliseconds."""


def bounded(examples: int) -> settings:
    """So many examples, the same ones each time."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors]
    return settings(
        max_examples=examples, deadline=1000 * MAX_SECONDS, derandomize=True, database=None, suppress_health_check=quiet
    )


def said(error: Exception, *words: str) -> None:
    """See that an error says these words."""
    assert all(word in str(error) for word in words), error


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.sampled_from(["{", "{x}", "{0}", "{x.y}", "x" * 5000, "all_done", "msgpack", "raise", "trio", "power", "inf"])
    | st.timedeltas()
    | st.datetimes()
)
ANYTHING = st.recursive(
    SCALARS | st.sampled_from([len, print, int, ValueError, object(), ..., sys, Limit(1), range(3)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.sets(st.text(max_size=3) | st.integers(), max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)

# --- schedules -------------------------------------------------------------------------------------------------------

OPTIONS = ("timezone", "start", "end", "anchor", "jitter", "day_or")
MOMENTS = ["2026-01-01T00:00:00+00:00", "2026-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
TOLD = SCALARS | st.sampled_from(["UTC", "Europe/Berlin", "@daily", "FREQ=DAILY", *MOMENTS])
DATA = st.recursive(
    TOLD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["cron", "interval", "rrule", "at", "any_of", *OPTIONS]) | st.text(max_size=5), inner
        )
    ),
    max_leaves=6,
)
PLAUSIBLE = st.one_of(
    *[
        st.fixed_dictionaries({kind: TOLD}, optional=dict.fromkeys(OPTIONS, DATA))
        for kind in ("cron", "interval", "rrule", "at")
    ]
)


def part(low: int, high: int) -> st.SearchStrategy[str]:
    """A field of a cron expression, often one that can be."""
    number = st.integers(low, high).map(str)
    return st.one_of(
        st.just("*"),
        number,
        st.integers(1, 2 * high).map("*/{}".format),
        st.builds("{}-{}/{}".format, number, number, st.integers(0, 9)),
        st.lists(number, max_size=4).map(",".join),
        st.text(alphabet="0123456789*/,-L#W? lwsunmotjafe", max_size=8),
    )


CRONS = st.tuples(part(0, 59), part(0, 23), part(1, 31), part(1, 12), part(0, 7)).map(" ".join)
RULE_PARTS = {
    "INTERVAL": (1, 1000),
    "COUNT": (1, 10_000),
    "BYMONTH": (1, 12),
    "BYMONTHDAY": (-31, 31),
    "BYYEARDAY": (-366, 366),
    "BYWEEKNO": (-53, 53),
    "BYSETPOS": (-366, 366),
    "BYHOUR": (0, 23),
    "BYMINUTE": (0, 59),
    "BYSECOND": (0, 59),
}
RULES = st.builds(
    lambda start, frequency, parts: f"{start}{';'.join([f'FREQ={frequency}', *parts])}",
    st.sampled_from(["", "DTSTART:19000101T000000\n", "DTSTART:99980101T000000Z\n", "DTSTART:00020101T000000\n"]),
    st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"]),
    st.lists(
        st.one_of(
            st.sampled_from(["BYDAY=MO", "BYDAY=5SU,-1FR", "UNTIL=20260101T000000Z", "WKST=SU", "X", "BYHOUR=²"]),
            *[
                st.lists(st.integers(low, high).map(str), min_size=1, max_size=5).map(
                    lambda numbers, name=name: f"{name}={','.join(numbers)}"  # type: ignore[misc]
                )
                for name, (low, high) in RULE_PARTS.items()
            ],
        ),
        max_size=5,
        unique_by=lambda text: text.partition("=")[0],
    ),
)
NESTED = st.integers(1, 3000).map(lambda depth: nested(depth))


def nested(depth: int) -> Any:
    """A union of a union of a union ..."""
    data: Any = {"cron": "@daily"}
    for _ in range(depth):
        data = {"any_of": [data]}
    return data


@bounded(500)
@given(
    DATA
    | PLAUSIBLE
    | st.fixed_dictionaries({"cron": CRONS}, optional={"day_or": st.booleans()})
    | st.fixed_dictionaries({"rrule": RULES})
    | NESTED
)
def test_any_schedule(told: Any) -> None:
    """Data that tell of a schedule give one whose times can be asked for, and all others are refused with `ScheduleInvalid`, in a moment."""
    now = datetime(2026, 6, 1, tzinfo=UTC)
    try:
        schedule = Schedule.from_dict(told)
    except ScheduleInvalid as error:
        said(error, "is not possible: ")
        return
    for after in (now, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        schedule.next(after)
        assert schedule.due(after) >= min(after, datetime(9998, 12, 31, tzinfo=UTC))
    assert Schedule.from_dict(json.loads(str(schedule))) == schedule


@pytest.mark.parametrize(
    "told",
    [{"cron": "@daily", "jitter": 400 * 86_400}, {"any_of": [{"interval": n} for n in range(1, 1500)]}],
    ids=["jitter", "members"],
)
def test_too_much_of_a_schedule(told: Any) -> None:
    """A jitter of more than a year, and a union of more than a thousand schedules, are refused with what is allowed."""
    with pytest.raises(ScheduleInvalid, match="at most"):
        Schedule.from_dict(told)


# --- settings --------------------------------------------------------------------------------------------------------

VARIABLES = [f"UNDERTOW_{field.name.upper()}" for field in attrs.fields(Settings)] + [
    "UNDERTOW_LOGGING_LOGGERS_HTTPX_LEVEL",
    "UNDERTOW_LOGGING_LOGGERS_HTTPX_PROPAGATE",
]
# What the environment can hold: no NUL, and only such surrogates as stand for bytes.
LINES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.just("\udcff"), max_size=12)
WRITTEN = [
    *("1", "-1", "0", "0.5", "1e400", "1e308", "nan", "inf", "-inf", "9" * 400, "9" * 5000, "²", "٣", "1_000"),
    *("5s", "1e300d", "infs", "-1d", "d", "true", "TRUE", "process", "Trio ", " ", "\t", "debug", "off"),
    *("a=1", "a=5/0s", "a=1/1e-320s", "a=1e308/s", "x=nan/s", "a=//s", "a=", "=1", "=", "a=b=c", "a=5/1s,a=1"),
]
VALUES = st.one_of(
    LINES,
    st.sampled_from(WRITTEN),
    st.lists(st.sampled_from(WRITTEN), max_size=3).map(",".join),
    st.lists(st.sampled_from(WRITTEN) | LINES, max_size=3).map("".join),
)


@bounded(800)
@given(variable=st.sampled_from(VARIABLES), value=VALUES.filter(bool))
def test_any_value_in_the_environment(variable: str, value: str) -> None:
    """An environment variable is read, or refused with `SettingInvalid` that names the variable, the value and what is allowed."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(variable, value)
        try:
            if variable != "UNDERTOW_LOGGING_SETTINGS_PATH":  # files have tests of their own
                engine_settings.load()
        except SettingInvalid as error:
            said(error, variable, "it must be ")


@bounded(300)
@given(name=st.text(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0aé "), min_size=1, max_size=12))
def test_any_variable(name: str) -> None:
    """A variable that is no setting is warned of, and changes nothing."""
    with pytest.MonkeyPatch.context() as environment, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        usual = engine_settings.load()
        environment.setenv(f"UNDERTOW_NO{name}", "1")
        assert engine_settings.load() == usual
    assert {warning.category for warning in told} <= {SettingUnknown}


# --- options ---------------------------------------------------------------------------------------------------------


def names(options: type[Any], kind: str) -> list[str]:
    """The options of a decorator, as users write them."""
    return sorted({field.name for field in attrs.fields(options)} - {"run_name"} | {f"{kind}_run_name"})


DECORATIONS = [(task, name) for name in names(TaskOptions, "task")] + [
    (flow, name) for name in names(FlowOptions, "flow")
]
# A function that computes the delays is called at once, and what it raises is its own.
OWN_CODE = {"retry_delay_seconds"}


@bounded(900)
@given(decoration=st.sampled_from(DECORATIONS), value=ANYTHING)
def test_any_option(decoration: tuple[Any, str], value: Any) -> None:
    """An option of a decorator is taken, or refused with `InvalidOption` that names it, at the decorator and in `with_options`."""

    def body(x: int = 1) -> int:
        return x

    decorate, name = decoration
    if name in OWN_CODE and callable(value):
        return
    for make in (lambda: decorate(**{name: value})(body), lambda: decorate(body).with_options(**{name: value})):
        try:
            make()
        except InvalidOption as error:
            said(error, name)


@bounded(300)
@given(decorate=st.sampled_from([task, flow]), name=st.text(min_size=1, max_size=15), value=SCALARS)
def test_any_name_of_an_option(decorate: Any, name: str, value: Any) -> None:
    """`with_options` takes the decorator's own options and refuses all other names with `UnknownOption`."""
    with pytest.raises(UnknownOption, match="has no option"):
        decorate(lambda: None).with_options(**{f"no_{name}": value})


ENGINE_OPTIONS = [
    *("limits", "durability", "threads", "grace_seconds", "recover", "max_recoveries", "keep_for", "keep_runs"),
    *("result_budget_bytes", "backend", "logging", "observers"),
]


@bounded(500)
@given(name=st.sampled_from(ENGINE_OPTIONS), value=ANYTHING)
def test_any_option_of_an_engine(name: str, value: Any) -> None:
    """An option of an engine is taken, or refused with `InvalidOption` that names it; a setting of logging may be unknown."""
    try:
        Engine(":memory:", **{name: value})
    except InvalidOption as error:
        said(error, name)
    except UnknownOption as error:
        said(error, name, "logging")


@pytest.mark.parametrize("value", [10**400, 2**63])
@pytest.mark.parametrize("name", ["threads", "max_recoveries", "keep_runs", "result_budget_bytes"])
def test_numbers_beyond_use(name: str, value: int) -> None:
    """A whole number that nothing can hold is refused when the engine is made, not when a flow runs."""
    with pytest.raises(InvalidOption, match=rf"^{name}=.*below 2\*\*63"):
        Engine(":memory:", **{name: value})  # type: ignore[arg-type]


@bounded(500)
@given(first=ANYTHING, second=ANYTHING)
def test_any_limit(first: Any, second: Any) -> None:
    """A limit is made of what can be one, and all else is refused with `InvalidOption`."""
    makers: list[Callable[[], object]] = [
        lambda: Limit(first, second),
        lambda: RateLimit(first, second),
        lambda: RateLimit(5, "1s", first),
        lambda: exponential_backoff(first)(3),
    ]
    for make in makers:
        try:
            make()
        except InvalidOption:
            continue


@flow
def one() -> int:
    return 1


@pytest.fixture(scope="module")
def in_memory() -> Iterator[Engine]:
    """An open engine, one for all examples."""
    with Engine(":memory:") as engine:
        yield engine


@bounded(300)
@given(
    run_id=ANYTHING | st.text(st.sampled_from("aA0._-/ \n\0é"), max_size=140), on_conflict=ANYTHING | st.just("attach")
)
def test_any_run_id(in_memory: Engine, run_id: Any, on_conflict: Any) -> None:
    """A run's id is used as it is, or refused with `InvalidOption` before anything runs."""
    try:
        future = in_memory.start(one, run_id=run_id, on_conflict=on_conflict)
    except InvalidOption as error:
        said(error, "=", " is not possible: ")
    else:
        assert future.result() == 1
        assert run_id is None or future.run_id == run_id
