"""Whether a task starts, given how its upstreams ended: trigger rules, skips and what passes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from undertow import (
    Cancelled,
    Completed,
    Crashed,
    Engine,
    Failed,
    Future,
    InvalidOption,
    RunCancelled,
    RunSkipped,
    Skip,
    State,
    UpstreamFailed,
    allow_failure,
    flow,
    task,
)

if TYPE_CHECKING:
    from conftest import ListJournal


@task
async def end(how: str) -> Any:
    """A task that ends as told."""
    if how == "failed":
        raise KeyError(how)
    if how == "skipped":
        raise Skip("no news")
    return {"ok": how, "cancelled": Cancelled("no need"), "crashed": Crashed("no power")}[how]


@task
async def down(*values: object) -> list[str]:
    """A task with upstreams: what it was given, as text."""
    return [repr(value) for value in values]


async def final(future: Future[Any]) -> State[Any]:
    state = await future.wait_async()
    assert state is not None
    return state


def upstreams(ends: str) -> list[Future[Any]]:
    return [end.submit(how) for how in ends.split()]


# --- the rules ---------------------------------------------------------------------------------------------------

RULES = ["all_succeeded", "all_failed", "all_done", "any_failed", "any_succeeded", "none_failed"]

# How the upstreams end, and for which of the rules above the task then starts.
CASES = {
    "ok ok": "1.1.11",
    "ok failed": "..111.",
    "failed failed": ".111..",
    "failed crashed cancelled": ".111..",
    "ok cancelled": "..111.",
    "ok crashed": "..111.",
    # what was rightly skipped has neither succeeded nor failed
    "ok skipped": "..1.11",
    "skipped": "..1..1",
    "skipped failed": "..11..",
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ends", CASES)
async def test_rules(engine: Engine, rule: Any, ends: str) -> None:
    """A task starts when its trigger rule is met by all its upstreams, and is Skipped when it is not."""
    starts = CASES[ends][RULES.index(rule)] == "1"
    state = await final(down.with_options(when=rule).submit(1, wait_for=upstreams(ends)))
    assert state.type == ("COMPLETED" if starts else "SKIPPED")


@pytest.mark.parametrize("ends", CASES)
async def test_rules_see_data_and_wait_for(engine: Engine, ends: str) -> None:
    """Futures among the arguments are upstreams of a rule as those of `wait_for` are."""
    first, *others = upstreams(ends)
    state = await final(down.with_options(when="any_failed").submit(first, wait_for=others))
    assert state.is_completed() == (CASES[ends][RULES.index("any_failed")] == "1")


async def test_a_rule_hands_over_what_there_is(engine: Engine) -> None:
    """A task that starts over failed upstreams is given the exception in place of the result."""
    given = await down.with_options(when="all_done").submit(*upstreams("ok failed cancelled skipped"))
    assert given[:2] == ["'ok'", "KeyError('failed')"]
    assert given[2].startswith("RunCancelled")
    assert given[3].startswith("RunSkipped")


@pytest.mark.parametrize("rule", ["all_failed", "any_failed", "any_succeeded"])
async def test_rules_without_upstreams(engine: Engine, rule: Any) -> None:
    """A rule that asks for a failure or a success is not met where there is no upstream at all."""
    state = await down.with_options(when=rule)(1, return_state=True)
    assert state.type == "SKIPPED"


@pytest.mark.parametrize("rule", ["all_succeeded", "all_done", "none_failed"])
async def test_rules_that_ask_for_nothing(engine: Engine, rule: Any) -> None:
    """A rule that asks for no particular upstream is met where there is none."""
    assert await down.with_options(when=rule)(1) == ["1"]


async def test_a_rule_of_ones_own(engine: Engine) -> None:
    """A rule may be a function over the upstreams' final states, in the order of the arguments."""
    seen: list[list[str]] = []

    def most_succeeded(states: Sequence[State[Any]]) -> bool:
        seen.append([state.name for state in states])
        return sum(state.is_completed() for state in states) * 2 > len(states)

    most = down.with_options(when=most_succeeded)
    assert (await final(most.submit(*upstreams("ok failed ok")))).is_completed()
    unmet = await final(most.submit(*upstreams("failed skipped ok")))
    assert seen == [["Completed", "Failed", "Completed"], ["Failed", "Skipped", "Completed"]]
    assert unmet.type == "SKIPPED"
    assert "most_succeeded" in unmet.message


async def test_a_rule_that_raises(engine: Engine) -> None:
    """A rule that raises fails the task, with the rule's own error, and the body never runs."""

    def broken(states: Sequence[State[Any]]) -> bool:
        raise LookupError("the rule is broken")

    with pytest.raises(LookupError, match="the rule is broken"):
        await down.with_options(when=broken).submit(*upstreams("ok"))


@pytest.mark.parametrize("value", ["sometimes", 3, ["all_done"]])
def test_bad_rules(value: Any) -> None:
    """A rule that is not one is refused at decoration, with the names of those there are."""
    with pytest.raises(InvalidOption, match=r"when=.*any_failed"):
        down.with_options(when=value)


async def test_the_message_of_an_unmet_rule(engine: Engine, journal: ListJournal) -> None:
    """A task whose rule was not met ends Skipped with the rule and every upstream's end in its message."""
    ok, failed = upstreams("ok failed")
    state = await final(down.with_options(when="none_failed").submit(ok, failed))
    for word in ("none_failed", ok.run.name, "Completed", failed.run.name, "Failed"):
        assert word in state.message
    assert journal.story("down") == ["Pending", "Skipped"]
    with pytest.raises(RunSkipped, match="none_failed"):
        state.result()


# --- the default rule --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["failed", "cancelled", "crashed", "skipped"])
@pytest.mark.parametrize("form", ["argument", "keyword", "nested", "wait_for"])
async def test_upstream_failed(engine: Engine, journal: ListJournal, how: str, form: str) -> None:
    """A task whose upstream did not complete never runs; asking for its result raises `UpstreamFailed` naming it."""
    up = end.submit(how)

    @task
    async def after(x: object = None) -> None:
        raise AssertionError("this body must not run")

    future = {
        "argument": lambda: after.submit(up),
        "keyword": lambda: after.submit(x=up),
        "nested": lambda: after.submit({"deep": [(up,)]}),
        "wait_for": lambda: after.submit(wait_for=[up]),
    }[form]()
    with pytest.raises(UpstreamFailed, match=up.run.name) as error:
        await future
    assert error.value.upstream == up.run.name
    assert journal.story("after") == ["Pending", "Skipped"]
    assert up.run.name in future.state.message


async def test_the_cause_of_upstream_failed(engine: Engine) -> None:
    """The upstream's own exception is the cause of `UpstreamFailed`, through any number of skips."""
    up = end.submit("failed")
    first = down.submit(up)
    second = down.submit(first)
    with pytest.raises(UpstreamFailed, match=first.run.name) as error:
        await second
    assert isinstance(error.value.__cause__, UpstreamFailed)
    assert isinstance(error.value.__cause__.__cause__, KeyError)


async def test_called_with_a_failed_future(engine: Engine) -> None:
    """A task that is called, not submitted, is skipped by the same rule."""
    state = await down(end.submit("failed"), return_state=True)
    assert state.type == "SKIPPED"
    with pytest.raises(UpstreamFailed):
        await down(1, wait_for=[end.submit("failed")])


@pytest.mark.parametrize("how", ["failed", "skipped"])
async def test_a_state_is_an_upstream(engine: Engine, how: str) -> None:
    """A final state as an argument stands for its run as a future does: its value is passed, or the task is skipped."""
    assert await down(await end("ok", return_state=True)) == ["'ok'"]
    bad = await end(how, return_state=True)
    with pytest.raises(UpstreamFailed, match=bad.run_name):
        await down([bad])
    assert await down(allow_failure(bad)) == [repr(bad.data)]


async def test_a_subflow_is_skipped(engine: Engine, journal: ListJournal) -> None:
    """A flow with an upstream that did not complete is Skipped as a task is, and its body never runs."""

    @flow
    async def inner(x: object) -> None:
        raise AssertionError("this body must not run")

    @flow
    async def outer() -> None:
        with pytest.raises(UpstreamFailed):
            await inner.submit(end.submit("failed"))

    assert (await outer(return_state=True)).message == "2/2 states failed."
    assert journal.story("inner") == ["Pending", "Skipped"]


# --- skips go on -------------------------------------------------------------------------------------------------


async def test_skips_propagate(engine: Engine) -> None:
    """What follows a skipped task is skipped too, however far, unless its rule says otherwise."""
    first = down.submit(end.submit("failed"))
    chain = [first]
    for _ in range(5):
        chain.append(down.submit(chain[-1]))
    rescue = down.with_options(when="any_failed").submit(chain[-1])
    assert {(await final(each)).type for each in chain} == {"SKIPPED"}
    assert "UpstreamFailed" in (await rescue)[0]


async def test_a_branch_not_taken_is_neutral(engine: Engine) -> None:
    """A flow completes when what did not run was rightly skipped, with all that followed it."""

    @flow
    async def outer() -> None:
        good = end.submit("ok")
        alarm = down.with_options(when="any_failed").submit(good)
        down.submit(alarm)
        down.submit(end.submit("skipped"))

    state = await outer(return_state=True)
    assert (state.type, state.message) == ("COMPLETED", "All states completed.")


async def test_a_skip_for_a_failed_upstream_counts(engine: Engine) -> None:
    """A task that was skipped because its upstream failed counts with that failure."""

    @flow
    async def outer() -> None:
        down.submit(down.submit(end.submit("failed")))
        end.submit("ok")

    state = await outer(return_state=True)
    assert (state.type, state.message) == ("FAILED", "3/4 states failed.")


async def test_a_body_can_skip(engine: Engine, journal: ListJournal) -> None:
    """`raise Skip(reason)` ends a run as Skipped with that reason, and is not retried."""
    with pytest.raises(RunSkipped, match="no news"):
        await end.with_options(retries=3)("skipped")
    assert journal.story("end")[1:] == ["Running", "Skipped"]


# --- what passes all the same ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "given"), [("ok", "'ok'"), ("failed", "KeyError"), ("skipped", "RunSkipped"), ("cancelled", "RunCancelled")]
)
async def test_allow_failure(engine: Engine, how: str, given: str) -> None:
    """`allow_failure(f)` lets a task start whatever became of f, with the exception in place of the result."""
    assert (await down.submit(allow_failure(end.submit(how))))[0].startswith(given)


async def test_allow_failure_is_for_its_own_future(engine: Engine) -> None:
    """`allow_failure` covers what is inside of it, and no other argument."""
    futures = upstreams("failed ok")
    values = await down.submit(allow_failure(futures))
    assert values == ["[KeyError('failed'), 'ok']"]
    both = down.submit(allow_failure(futures[0]), end.submit("failed"))
    assert (await final(both)).type == "SKIPPED"
    twice = down.submit(allow_failure(futures[0]), futures[0])
    assert (await final(twice)).type == "SKIPPED"


async def test_allow_failure_in_wait_for(engine: Engine) -> None:
    """`wait_for=[allow_failure(f)]` waits for f and starts whatever became of it."""
    assert await down.submit(1, wait_for=[allow_failure(end.submit("failed"))]) == ["1"]


async def test_wait_for_orders(engine: Engine, journal: ListJournal) -> None:
    """`wait_for` makes a task wait without passing it anything, and is an edge of the graph."""

    @task
    async def slow() -> None:
        await anyio.sleep(7)

    begun = anyio.current_time()
    up = slow.submit()
    future = down.submit(1, wait_for=[up, end.submit("ok")])
    assert future.state.type == "PENDING"
    assert await future == ["1"]
    assert anyio.current_time() - begun == 7
    assert up.run_id in journal.of("down")[0].upstream_ids


async def test_map_with_failed_upstreams(engine: Engine) -> None:
    """In a map, the runs whose own upstream failed are skipped, and the others run."""
    states = await down.map(upstreams("ok failed ok"), return_state=True)
    assert [state.type for state in states] == ["COMPLETED", "SKIPPED", "COMPLETED"]


async def test_waiting_can_be_cancelled(engine: Engine) -> None:
    """A task that waits for its upstreams ends Cancelled at once when it is cancelled, and they go on."""

    @task
    async def slow() -> str:
        await anyio.sleep(7)
        return "done"

    up = slow.submit()
    waiting = down.submit(up)
    await anyio.sleep(1)
    waiting.cancel("not needed")
    assert (await final(waiting)).type == "CANCELLED"
    assert anyio.current_time() < 7
    with pytest.raises(RunCancelled, match="not needed"):
        await waiting
    assert await up == "done"


async def test_returned_states_end_a_task(engine: Engine) -> None:
    """A terminal state that a task returns becomes its own: type, name, message and data."""
    makers: list[Callable[..., State[Any]]] = [Completed, Failed, Crashed, Cancelled]
    for make in makers:

        @task
        async def made(make: Callable[..., State[Any]] = make) -> State[Any]:
            return make("by hand", name="Special")

        state = await made(return_state=True)
        assert (state.type, state.name, state.message) == (make().type, "Special", "by hand")
