"""The state in which a flow ends: every row of the rule book, under each of the three rules."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import anyio
import pytest

from undertow import (
    Cancelled,
    Completed,
    Crashed,
    Engine,
    Fail,
    Failed,
    InvalidOption,
    ParameterInvalid,
    Running,
    RunTimedOut,
    Skip,
    State,
    UndertowError,
    UpstreamFailed,
    allow_failure,
    flow,
    task,
)

if TYPE_CHECKING:
    from conftest import ListJournal

RULES = ["children", "return", "unhandled"]


class Broken(Exception):
    """What failing children raise."""


class Stop(BaseException):
    """What is no `Exception`, as KeyboardInterrupt is."""


@task
async def good(x: object = "good") -> object:
    return x


@task
async def bad() -> None:
    raise Broken("by design")


@task
async def bad_later() -> None:
    await anyio.sleep(1)
    raise Broken("by design")


@task
async def ends_crashed() -> Any:
    return Crashed("no power")


@task
async def ends_cancelled() -> Any:
    return Cancelled("no need")


@task
async def ends_skipped() -> None:
    raise Skip("no news")


@task
async def slow() -> str:
    await anyio.sleep(60)
    return "slow"


@flow
async def bad_subflow() -> None:
    raise Broken("by design")


@flow
async def good_subflow() -> None:
    await good()


# --- the rows ----------------------------------------------------------------------------------------------------

# Each body is one thing that a flow may do. The docstring says for each rule: type, and what the message holds.


async def returns_nothing() -> None:
    """children: COMPLETED; return: COMPLETED; unhandled: COMPLETED"""


async def all_children_completed() -> None:
    """children: COMPLETED All states completed.; return: COMPLETED; unhandled: COMPLETED"""
    await good()
    good.submit()
    await good_subflow()


async def failed_child_returned_as_state() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: COMPLETED"""
    await good()
    await bad(return_state=True)


async def failed_child_caught() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: COMPLETED"""
    await good()
    with pytest.raises(Broken):
        await bad()


async def failed_child_submitted_and_left() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: FAILED 1 of 2"""
    good.submit()
    bad.submit()


async def failed_child_submitted_and_waited() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: COMPLETED"""
    good.submit()
    await bad.submit().wait_async()


async def failed_child_submitted_and_awaited() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: COMPLETED"""
    good.submit()
    with pytest.raises(Broken):
        await bad.submit()


async def failed_child_result_not_raised() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: COMPLETED"""
    good.submit()
    assert isinstance(await bad.submit().result_async(raise_on_failure=False), Broken)


async def failed_child_submitted_for_its_state() -> None:
    """children: FAILED 1/1 states failed.; return: COMPLETED; unhandled: COMPLETED"""
    state = await bad.submit(return_state=True)
    assert state.is_failed()


async def failed_child_allowed() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: COMPLETED"""
    good.submit(allow_failure(bad.submit()))


async def failed_child_met_by_a_trigger() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: COMPLETED"""
    good.with_options(when="any_failed").submit(wait_for=[bad.submit()])


async def failed_child_of_an_unmet_trigger() -> None:
    """children: FAILED 1/1 states failed.; return: COMPLETED; unhandled: FAILED 1 of 1"""
    good.with_options(when="none_failed").submit(wait_for=[bad.submit()])


async def failed_later_with_an_unmet_trigger() -> None:
    """children: FAILED 1/1 states failed.; return: COMPLETED; unhandled: FAILED 1 of 1"""
    good.with_options(when="none_failed").submit(wait_for=[bad_later.submit()])


async def failed_later_with_a_downstream() -> None:
    """children: FAILED 2/2 states failed.; return: COMPLETED; unhandled: FAILED"""
    good.submit(bad_later.submit())


async def failed_child_with_a_downstream() -> None:
    """children: FAILED 2/3 states failed.; return: COMPLETED; unhandled: FAILED"""
    good.submit(bad.submit())
    good.submit()


async def failed_child_known_through_its_downstream() -> None:
    """children: FAILED 2/2 states failed.; return: COMPLETED; unhandled: COMPLETED"""
    with pytest.raises(UpstreamFailed):
        await good.submit(bad.submit())


async def failed_children_of_a_map() -> None:
    """children: FAILED 2/4 states failed.; return: COMPLETED; unhandled: FAILED 2 of 4"""
    good.map(["a", "b"])
    bad_with_argument.map(["a", "b"])


async def failed_subflow_returned_as_state() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: COMPLETED"""
    await good()
    await bad_subflow(return_state=True)


async def failed_subflow_submitted() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: FAILED 1 of 2"""
    good.submit()
    bad_subflow.submit()


async def crashed_child() -> None:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: FAILED 1 of 2"""
    good.submit()
    ends_crashed.submit()


async def cancelled_child() -> None:
    """children: CANCELLED 1/3 states cancelled.; return: COMPLETED; unhandled: FAILED 2 of 3"""
    good.submit()
    bad.submit()
    ends_cancelled.submit()


async def skipped_child() -> None:
    """children: COMPLETED All states completed.; return: COMPLETED; unhandled: COMPLETED"""
    good.submit()
    ends_skipped.submit()


async def only_a_skipped_child() -> None:
    """children: COMPLETED; return: COMPLETED; unhandled: COMPLETED"""
    ends_skipped.submit()


async def child_still_running() -> None:
    """children: COMPLETED All states completed.; return: COMPLETED; unhandled: COMPLETED"""
    slow.submit()


async def returns_data() -> int:
    """children: COMPLETED; return: COMPLETED; unhandled: COMPLETED"""
    await bad(return_state=True)
    return 3


async def returns_data_over_an_unseen_failure() -> int:
    """children: COMPLETED; return: COMPLETED; unhandled: FAILED 1 of 1"""
    bad.submit()
    return 3


async def raises() -> None:
    """children: FAILED Broken: of the flow; return: FAILED Broken: of; unhandled: FAILED Broken: of the flow"""
    await good()
    raise Broken("of the flow")


async def raises_fail() -> None:
    """children: FAILED Fail: no way; return: FAILED Fail: no way; unhandled: FAILED Fail: no way"""
    raise Fail("no way")


async def raises_skip() -> None:
    """children: SKIPPED no news; return: SKIPPED no news; unhandled: SKIPPED no news"""
    raise Skip("no news")


async def lets_the_failure_out() -> None:
    """children: FAILED Broken: by design; return: FAILED Broken: by design; unhandled: FAILED Broken: by design"""
    await bad()


async def returns_a_completed_state_by_hand() -> Any:
    """children: COMPLETED by hand; return: COMPLETED by hand; unhandled: COMPLETED by hand"""
    await bad(return_state=True)
    return Completed("by hand", data=3)


async def returns_a_failed_state_by_hand() -> Any:
    """children: FAILED by hand; return: FAILED by hand; unhandled: FAILED by hand"""
    return Failed("by hand")


async def returns_a_cancelled_state_by_hand() -> Any:
    """children: CANCELLED by hand; return: CANCELLED by hand; unhandled: CANCELLED by hand"""
    return Cancelled("by hand")


async def returns_the_state_of_a_child() -> Any:
    """children: FAILED 1/1 states failed.; return: FAILED 1/1 states failed.; unhandled: FAILED 1/1 states failed."""
    await good()
    return await bad(return_state=True)


async def returns_the_future_of_a_child() -> Any:
    """children: FAILED 1/1 states failed.; return: FAILED 1/1 states failed.; unhandled: FAILED 1/1 states failed."""
    good.submit()
    return bad.submit()


async def returns_the_future_of_a_good_child() -> Any:
    """children: COMPLETED All states; return: COMPLETED All states; unhandled: COMPLETED"""
    await bad(return_state=True)
    return good.submit()


async def returns_the_future_of_a_running_child() -> Any:
    """children: COMPLETED All states; return: COMPLETED All states; unhandled: COMPLETED"""
    return slow.submit()


async def returns_a_list_of_futures() -> Any:
    """children: FAILED 1/2 states failed.; return: FAILED 1/2 states failed.; unhandled: FAILED 1/2 states failed."""
    return [good.submit(), bad.submit()]


async def returns_a_tuple_of_states() -> Any:
    """children: FAILED 1/2 states failed.; return: FAILED 1/2 states failed.; unhandled: FAILED 1/2 states failed."""
    return await good(return_state=True), await bad(return_state=True)


async def returns_a_set_of_futures() -> Any:
    """children: FAILED 1/2 states failed.; return: FAILED 1/2 states failed.; unhandled: FAILED 1/2 states failed."""
    return {good.submit(), bad.submit()}


async def returns_a_map() -> Any:
    """children: FAILED 3/3 states failed.; return: FAILED 3/3 states failed.; unhandled: FAILED 3/3 states failed."""
    return bad_with_argument.map(["a", "b", "c"])


async def returns_a_crashed_state_in_a_list() -> Any:
    """children: FAILED 1/1 states failed.; return: FAILED 1/1 states failed.; unhandled: FAILED 1/1 states failed."""
    return [await ends_crashed(return_state=True)]


async def returns_a_cancelled_state_in_a_list() -> Any:
    """children: CANCELLED 1/3 states c; return: CANCELLED 1/3 states c; unhandled: CANCELLED 1/3 states c"""
    return [Completed(), Cancelled(), Failed()]


async def returns_unfinished_states() -> Any:
    """children: FAILED 2/3 states are not final.; return: FAILED 2/3 states are; unhandled: FAILED 2/3 states are"""
    return [Completed(), Running(), Running()]


async def returns_a_dict_of_futures() -> Any:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: FAILED 1/2 states failed."""
    return {"a": good.submit(), "b": bad.submit()}


async def returns_a_tuple_of_a_state_and_data() -> Any:
    """children: FAILED 1/1 states failed.; return: COMPLETED; unhandled: FAILED 1/1 states failed."""
    return await bad(return_state=True), 3


async def returns_a_nested_list() -> Any:
    """children: FAILED 1/2 states failed.; return: COMPLETED; unhandled: FAILED 1/2 states failed."""
    return [[good.submit()], [bad.submit()]]


async def returns_an_empty_list() -> Any:
    """children: COMPLETED; return: COMPLETED; unhandled: COMPLETED"""
    await bad(return_state=True)
    return []


async def raises_its_own_timeout() -> None:
    """children: FAILED/Failed TimeoutError; return: FAILED/TimedOut TimeoutError; unhandled: FAILED/Failed Timeout"""
    with anyio.fail_after(1):
        await anyio.sleep(2)


@task
async def bad_with_argument(x: object) -> None:
    raise Broken(x)


class Expected(NamedTuple):
    type: str
    name: str
    message: str


def expected(body: Callable[..., Any], rule: str) -> Expected:
    """What a body's docstring promises under a rule."""
    assert body.__doc__ is not None
    rows = dict(row.split(": ", 1) for row in body.__doc__.split("; "))
    kind, _, message = rows[rule].partition(" ")
    kind, _, name = kind.partition("/")
    return Expected(kind, name or kind.capitalize(), message)


BODIES = [
    value
    for value in list(globals().values())
    if callable(value) and (getattr(value, "__doc__", None) or "").startswith("children: ")
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
async def test_rows(engine: Engine, journal: ListJournal, body: Callable[[], Awaitable[Any]], rule: Any) -> None:
    """A flow ends in the state that the rule book says, for what its body does under its `final_state` rule."""
    promised = expected(body, rule)
    state = await flow(final_state=rule)(body)(return_state=True)
    assert (state.type, state.name) == (promised.type, promised.name)
    assert promised.message in state.message
    assert journal.of(body.__name__)[0].history[-1][:3] == (state.type, state.name, state.message)
    assert all(run.ended for run in journal.runs.values())
    if not state.is_completed():
        with pytest.raises((Broken, UndertowError, TimeoutError)):
            await flow(final_state=rule)(body)()


def test_there_are_rows() -> None:
    """Each row says what it promises for each of the three rules."""
    assert len(BODIES) > 40
    assert all(expected(body, rule).type for body in BODIES for rule in RULES)


# --- what a flow gives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
async def test_data_of_a_flow(engine: Engine, rule: Any) -> None:
    """A flow gives what it returned; futures in it are replaced by their states, and one future by its value."""

    @flow(final_state=rule)
    async def outer(form: str) -> Any:
        future = good.submit(7)
        return {"plain": 7, "one": future, "list": [future], "dict": {"k": future}, "empty": []}[form]

    assert await outer("plain") == 7
    assert await outer("one") == 7
    assert [state.result() for state in await outer("list")] == [7]
    assert (await outer("dict"))["k"].result() == 7
    assert await outer("empty") == []


async def test_a_flow_raises_its_childs_error(engine: Engine) -> None:
    """A flow that failed for its children's sake raises the first failure among them, bare."""

    @flow
    async def outer(returned: bool) -> Any:
        futures = [good.submit(), bad.submit()]
        return futures if returned else None

    for returned in (True, False):
        with pytest.raises(Broken, match="by design"):
            await outer(returned)


async def test_names_of_states_by_hand(engine: Engine) -> None:
    """A state made by hand keeps its own name, and has its type's where it has none."""

    @flow
    async def names_it() -> Any:
        return Completed(name="Enough", data=3)

    @flow
    async def leaves_it() -> Any:
        return State(cast("Any", "COMPLETED"))

    named = await names_it(return_state=True)
    assert (named.type, named.name, named.result()) == ("COMPLETED", "Enough", 3)
    plain = await leaves_it(return_state=True)
    assert (plain.type, plain.name) == ("COMPLETED", "Completed")


async def test_a_flow_can_not_end_unfinished(engine: Engine, journal: ListJournal) -> None:
    """A state that is not final, made by hand and returned, fails the flow: a call that returned has ended."""

    @flow
    async def outer() -> Any:
        return Running("for ever")

    state = await outer(return_state=True)
    assert state.type == "FAILED"
    assert "RUNNING" in state.message
    assert journal.of("outer")[0].ended


@pytest.mark.parametrize("rule", RULES)
async def test_generators(engine: Engine, rule: Any) -> None:
    """A flow that returns or is a generator completes with the list of its items."""

    @flow(final_state=rule)
    async def returns_one() -> Any:
        return (i for i in range(3))

    @flow(final_state=rule)
    async def is_async() -> AsyncIterator[int]:
        for i in range(3):
            yield i

    @flow(final_state=rule)
    def is_sync() -> Iterator[int]:
        yield from range(3)

    for each in (returns_one, is_async):
        state = await cast("Any", each)(return_state=True)
        assert (state.type, state.result()) == ("COMPLETED", [0, 1, 2])
    assert await cast("Any", is_sync).submit() == [0, 1, 2]


@pytest.mark.parametrize("rule", RULES)
async def test_time_limit(engine: Engine, rule: Any) -> None:
    """A flow that exceeds its time limit is FAILED as TimedOut under every rule."""

    @flow(final_state=rule, timeout_seconds=5)
    async def outer() -> None:
        await slow()

    state = await outer(return_state=True)
    assert (state.type, state.name) == ("FAILED", "TimedOut")
    with pytest.raises(RunTimedOut):
        state.result()


# --- what ends a flow from outside -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, Stop])
@pytest.mark.parametrize("where", ["flow", "task", "subflow"])
async def test_interrupts(
    engine: Engine, journal: ListJournal, interrupt: type[BaseException], where: str, rule: Any
) -> None:
    """What is no `Exception` crashes the runs it goes through and is raised again, even with `return_state=True`."""

    @task
    async def child() -> None:
        raise interrupt("now")

    @flow(name="subflow")
    async def inner() -> None:
        raise interrupt("now")

    @flow(final_state=rule)
    async def outer() -> None:
        if where == "flow":
            raise interrupt("now")
        await (child() if where == "task" else inner())

    with pytest.raises(interrupt):
        await outer(return_state=True)
    assert {run.type for run in journal.runs.values()} == {"CRASHED"}
    assert all("Crash detected!" in run.history[-1][2] for run in journal.runs.values())
    assert interrupt.__name__ in (journal.of("outer")[0].error or "")


@pytest.mark.parametrize("rule", RULES)
async def test_cancelled_by_the_host(engine: Engine, journal: ListJournal, rule: Any) -> None:
    """A flow whose caller is cancelled ends Cancelled with all its children, and the cancellation goes on."""

    @flow(final_state=rule)
    async def outer() -> None:
        slow.submit()
        await slow()

    with anyio.move_on_after(5) as scope:
        await outer(return_state=True)
    assert scope.cancelled_caught
    assert {run.type for run in journal.runs.values()} == {"CANCELLED"}
    assert len(journal.runs) == 3


async def test_parameters_that_do_not_validate(engine: Engine, journal: ListJournal) -> None:
    """A flow whose parameters don't validate is FAILED, and its body never runs."""

    @flow
    async def outer(n: int) -> None:
        raise AssertionError("this body must not run")

    state = await outer(cast("Any", "three"), return_state=True)
    assert state.type == "FAILED"
    assert "'n'" in state.message
    assert journal.story("outer") == ["Pending", "Failed"]
    with pytest.raises(ParameterInvalid, match="three"):
        await outer(cast("Any", "three"))


# --- counters ----------------------------------------------------------------------------------------------------


async def test_the_verdict_counts(engine: Engine) -> None:
    """The verdict comes from numbers: of all the children, how many ended badly."""

    @flow
    async def outer(n: int, failing: int) -> None:
        good.map(range(n - failing))
        for _ in range(failing):
            bad.submit()

    state = await outer(50, 7, return_state=True)
    assert (state.type, state.message) == ("FAILED", "7/50 states failed.")
    assert (await outer(50, 0, return_state=True)).message == "All states completed."


class Payload:
    """A result whose life can be watched."""


async def test_a_flow_holds_no_results(engine: Engine) -> None:
    """A running flow keeps numbers, not its children's states and values."""
    alive: weakref.WeakSet[Payload] = weakref.WeakSet()

    @task
    async def make() -> Payload:
        payload = Payload()
        alive.add(payload)
        return payload

    @flow
    async def outer() -> int:
        for _ in range(10):
            await make()
            await make(return_state=True)
            await make.submit()
        gc.collect()
        return len(alive)

    assert await outer() == 0


async def test_each_subflow_is_judged_by_its_own(engine: Engine) -> None:
    """A child's failure is counted by the flow it is a child of, and the subflow by the flow around."""

    @flow
    async def inner() -> None:
        bad.submit()
        bad.submit()

    @flow
    async def outer() -> None:
        inner.submit()
        good.submit()

    assert (await outer(return_state=True)).message == "1/2 states failed."


@pytest.mark.parametrize(("option", "value"), [("final_state", "child"), ("on_child_failure", "stop")])
def test_bad_options(option: str, value: str) -> None:
    """A rule that is not one is refused at decoration, with those there are."""
    with pytest.raises(InvalidOption, match=rf"{option}='{value}'.*one of"):
        flow(**cast("Any", {option: value}))(lambda: None)
