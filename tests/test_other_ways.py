"""Bodies that take another way than the recorded one: where that is no mistake, and that none is ever missed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from undertow import Engine, StepMismatch, flow, task

if TYPE_CHECKING:
    from conftest import ListJournal


async def reacting(engine: Engine, journal: ListJournal, life: Callable[[], Any]) -> Any:
    """Run a flow that reacts to something with a step of its own, then resume it when that something is over."""

    @task
    async def react(to: str) -> None: ...

    @flow(durable=True)
    async def whole() -> Any:
        return await life(react)  # type: ignore[call-arg]

    with anyio.move_on_after(50):
        await whole(return_state=True)
    assert journal.story("react")[-1] == "Completed"
    return await engine.resume(journal.of("whole")[0].id)


async def test_a_reaction_to_a_failure(engine: Engine, journal: ListJournal) -> None:
    """What a body called because a step had failed need not be called when that step is tried again and completes."""
    trouble = [ConnectionError("once")]

    @task
    async def step() -> str:
        if trouble:
            raise trouble.pop()
        return "fine"

    async def life(react: Any) -> str:
        try:
            return await step()
        except ConnectionError:
            await react("a failure")
            raise

    assert await reacting(engine, journal, life) == "fine"


async def test_a_reaction_to_a_cancellation(engine: Engine, journal: ListJournal) -> None:
    """What a body called because it was cancelled need not be called when it is resumed."""
    slow = [100.0]

    async def life(react: Any) -> str:
        try:
            await anyio.sleep(slow.pop() if slow else 0)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await react("a cancellation")
            raise
        return "fine"

    assert await reacting(engine, journal, life) == "fine"


async def test_a_reaction_to_a_time_limit(engine: Engine, journal: ListJournal) -> None:
    """What a body called because a step took too long need not be called when the step is in time."""
    slow, trouble = [100.0], [ValueError("half way")]

    @task
    async def step() -> str:
        await anyio.sleep(slow.pop() if slow else 0)
        return "fine"

    async def life(react: Any) -> str:
        result = "late"
        with anyio.move_on_after(10):
            result = await step()
        if result == "late":
            await react("a time limit")
        if trouble:
            raise trouble.pop()
        return result

    assert await reacting(engine, journal, life) == "fine"


# --- mutations -------------------------------------------------------------------------------------------------------

Call = tuple[str, int]


def mutated(program: list[Call], dice: random.Random) -> list[Call]:
    """The program with a call removed, added, exchanged, or given another argument."""
    changed, index = list(program), dice.randrange(len(program))
    name, x = changed[index]
    kind = dice.choice(["remove", "add", "swap", "argument", "function"])
    if kind == "remove":
        del changed[index]
    elif kind == "add":
        changed.insert(index, (dice.choice("fgh"), dice.randrange(3)))
    elif kind == "swap":
        changed.insert(dice.randrange(len(changed)), changed.pop(index))
    elif kind == "argument":
        changed[index] = (name, x + 1)
    else:
        changed[index] = (dice.choice("fgh"), x)
    return changed


async def test_mutations(engine: Engine) -> None:
    """A mutated flow on an old record either says so or has just the result it would have had alone: 400 mutations."""
    program: list[Call] = []
    left = [0]

    @task
    async def f(x: int) -> str:
        return f"f{x}"

    @task
    async def g(x: int) -> str:
        return f"g{x}"

    @flow
    async def h(x: int) -> list[str]:
        return [await f(x), await g(x)]

    @flow(durable=True)
    async def whole() -> list[Any]:
        results = []
        for name, x in program:
            if left[0] == 0:
                raise ConnectionError("half way")
            left[0] -= 1
            results.append(await {"f": f, "g": g, "h": h}[name](x))
        return results

    def alone(calls: list[Call]) -> list[Any]:
        return [[f"f{x}", f"g{x}"] if name == "h" else f"{name}{x}" for name, x in calls]

    mismatches = 0
    for seed in range(400):
        dice = random.Random(seed)
        original = [(dice.choice("fgh"), dice.randrange(3)) for _ in range(dice.randint(1, 6))]
        program[:], left[0] = original, dice.randrange(len(original))
        state = await whole(return_state=True)
        program[:], left[0] = mutated(original, dice), 100
        try:
            result = await engine.resume(str(state.run_id))
        except StepMismatch:
            mismatches += 1
        else:
            assert result == alone(program), seed
    assert 20 < mismatches < 380
