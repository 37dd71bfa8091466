"""The decorators: what they may be put on, what the options mean and refuse, names, tags, and checked parameters."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pydantic
import pytest

from undertow import (
    ConcurrencyLimit,
    Engine,
    Flow,
    InvalidOption,
    NotCallable,
    ParameterInvalid,
    SignatureMismatch,
    Task,
    UndertowError,
    UnknownOption,
    flow,
    runtime,
    tags,
    task,
)

# --- what can be decorated ---------------------------------------------------------------------------------------


def test_the_decorated_function_stays_what_it_was() -> None:
    """A decorated function keeps its name, docstring, module and signature, and the plain function is `.fn`."""

    def load(path: str, *, strict: bool = False) -> int:
        """Load a file."""
        return len(path) + strict

    for made in (task(load), flow(load), task(name="other")(load)):
        assert isinstance(made, Task | Flow)
        assert made.fn is load
        assert made.fn("abc") == 3
        assert (made.__name__, made.__doc__, made.__module__) == ("load", "Load a file.", __name__)
        assert inspect.signature(made) == inspect.signature(load)
        assert made.description == "Load a file."
    assert [task(load).name, task(name="other")(load).name] == ["load", "other"]


async def test_sync_and_async_functions(engine: Engine) -> None:
    """The decorators work bare and with options, on sync and async functions, lambdas and partials."""

    @task()
    async def fetch(x: int) -> int:
        return x

    @flow()
    async def outer() -> list[int]:
        doubled = task(lambda x: 2 * x)
        third = task(partial(fetch.fn, 3))
        return [await fetch(1), doubled(1), await third(), await doubled.submit(4)]

    assert await outer() == [1, 2, 3, 8]


class Counter:
    """Tasks and flows as methods of every kind."""

    step = 10

    def __init__(self, start: int) -> None:
        self.start = start

    @task
    def plain(self, x: int) -> int:
        return self.start + x

    @task
    async def later(self, x: int) -> int:
        return self.start + x

    @task
    @classmethod
    def of_class(cls, x: int) -> int:
        return cls.step + x

    @classmethod
    @task
    def of_class_too(cls, x: int) -> int:
        return cls.step + x

    @task
    @staticmethod
    def static(x: int) -> int:
        return x

    @staticmethod
    @task
    def static_too(x: int) -> int:
        return x

    @flow
    async def whole(self, x: int) -> int:
        return self.plain(x) + await self.later.submit(x)

    @flow
    @classmethod
    async def whole_class(cls, x: int) -> int:
        return cls.of_class(x)  # type: ignore[operator, no-any-return]


class Tens(Counter):
    step = 100


async def test_methods(engine: Engine) -> None:
    """Methods, classmethods and staticmethods are called, submitted and mapped as tasks and flows, bound as usual."""
    one, two = Counter(1), Counter(2)
    assert [one.plain(1), two.plain(1), Counter.plain(one, 5)] == [2, 3, 6]
    assert [await one.later(1), await two.later.submit(1)] == [2, 3]
    assert [Counter.of_class(1), Tens.of_class(1), Tens(0).of_class(1)] == [11, 101, 101]  # type: ignore[call-arg, arg-type]
    assert [Counter.of_class_too(1), Tens.of_class_too(1), await Tens.of_class_too.submit(1)] == [11, 101, 101]  # type: ignore[call-arg, arg-type, attr-defined]
    assert [one.static(1), Counter.static(2), await one.static.submit(3)] == [1, 2, 3]  # type: ignore[call-arg, arg-type]
    assert [one.static_too(1), Counter.static_too(2)] == [1, 2]
    assert await one.plain.map([1, 2]) == [2, 3]
    assert one.plain.with_options(name="renamed")(1) == 2
    assert [await one.whole(1), await two.whole.submit(1), await Tens.whole_class(1)] == [4, 6, 101]  # type: ignore[call-arg, arg-type]


async def test_generators(engine: Engine, journal: Any) -> None:
    """A generator task gives its items one by one when called and a list when submitted; it runs while it is read."""

    @task
    def count(to: int) -> Iterator[int]:
        assert runtime.task_run.state.name == "Running"
        yield from range(to)

    @task
    async def count_later(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @flow
    async def outer() -> list[Any]:
        items = count(3)
        assert next(items) == 0
        assert journal.story("count") == ["Pending", "Running"]
        return [
            list(items),
            [item async for item in count_later(3)],
            await count.submit(2),
            await count_later.submit(2),
            await count.map([1, 2]),
        ]

    assert await outer() == [[1, 2], [0, 1, 2], [0, 1], [0, 1], [[0], [0, 1]]]
    assert {run.history[-1][1] for run in journal.runs.values()} == {"Completed"}


async def test_a_generator_that_raises(engine: Engine, journal: Any) -> None:
    """What a generator task raises reaches its reader after the items before it, and the run is Failed."""

    @task
    def breaks() -> Iterator[int]:
        yield 1
        raise ValueError("after one")

    @flow(final_state="return")
    async def outer() -> list[int]:
        seen = []
        with pytest.raises(ValueError, match="after one"):
            for item in breaks():
                seen.append(item)
        return seen

    assert await outer() == [1]
    assert journal.story("breaks") == ["Pending", "Running", "Failed"]


async def test_callable_objects(engine: Engine) -> None:
    """An object with a `__call__`, sync or async, can be a task as well as a function."""

    class Adder:
        def __call__(self, x: int) -> int:
            return x + 1

    class LaterAdder:
        async def __call__(self, x: int) -> int:
            return x + 1

    assert task(Adder())(1) == 2
    assert await task(Adder()).submit(1) == 2
    assert await task(LaterAdder())(1) == 2
    assert await task(LaterAdder()).submit(1) == 2


@pytest.mark.parametrize("value", [None, 5, "text", object])
@pytest.mark.parametrize("decorator", [task(name="x"), flow(name="x"), Task, Flow])
def test_only_functions_can_be_decorated(decorator: Any, value: Any) -> None:
    """A decorator on something that is no function says so, with the value and its type, when it is applied."""
    arguments = (value, decorator.options_type()) if isinstance(decorator, type) else (value,)
    with pytest.raises(NotCallable, match=f"needs a function.*not .*{type(value).__name__}"):
        decorator(*arguments)


# --- options -----------------------------------------------------------------------------------------------------


async def test_with_options(engine: Engine) -> None:
    """`with_options` makes a copy with some options changed; the original and its other options stay."""

    @task(name="first", retries=2, tags=["a"])
    def load(x: int) -> int:
        return x

    changed = load.with_options(name="second", task_run_name="load {x}")
    assert (changed.name, changed.retry.retries, changed.tags, changed.fn) == ("second", 2, {"a"}, load.fn)
    assert load.name == "first"
    assert changed(3) == load(3) == 3
    with pytest.raises(UnknownOption, match=r"no option 'retrys'. Did you mean 'retries'\?"):
        load.with_options(retrys=1)
    with pytest.raises(InvalidOption):
        load.with_options(retries=-1)


def hook(*_: object) -> None:
    """A hook that does nothing."""


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("name", "", "a text"),
        ("name", 5, "a text"),
        ("tags", "one", "a collection of texts"),
        ("tags", [1], "a collection of texts"),
        ("tags", 5, "a collection of texts"),
        ("retries", -1, "whole number, 0 or more"),
        ("retries", 1.5, "whole number"),
        ("retries", True, "whole number"),
        ("retry_delay_seconds", -1, "0 or more"),
        ("retry_delay_seconds", [1, -1], "0 or more"),
        ("retry_delay_seconds", "soon", "seconds"),
        ("retry_delay_seconds", [1] * 51, "at most 50"),
        ("retry_delay_seconds", lambda retries: 3, "returns a list"),
        ("retry_jitter_factor", -0.1, "0 or more"),
        ("retry_condition_fn", 5, "a function"),
        ("retry_on", "ValueError", "an exception class"),
        ("give_up_on", [ValueError, 5], "an exception class"),
        ("max_retry_delay_seconds", -1, "0 or more"),
        ("max_elapsed_seconds", "1h", "seconds"),
        ("timeout_seconds", 0, "above 0"),
        ("timeout_seconds", -5, "above 0"),
        ("timeout_seconds", math.nan, "above 0"),
        ("timeout_seconds", "5", "seconds"),
        ("concurrency_limit", 0, "1 or more"),
        ("concurrency_limit", "many", "whole number"),
        ("on_running", 5, "a function"),
        ("on_completion", [hook, None], "a function"),
        ("on_failure", "hook", "a function"),
        ("on_cancellation", 1, "a function"),
        ("on_crashed", {}, "a function"),
        ("version", 5, "a text"),
        ("description", 5, "a text"),
        ("log_prints", "maybe", "True or False"),
    ],
)
@pytest.mark.parametrize("decorator", [task, flow])
def test_a_bad_option_of_either(decorator: Callable[..., Any], option: str, value: Any, allowed: str) -> None:
    """A bad value of an option is refused where it is written, naming the option, the value and what is allowed."""
    with pytest.raises(InvalidOption, match=f"^{option}=.* is not possible: it must be .*{allowed}") as caught:
        decorator(**{option: value})(lambda: None)
    assert repr(value)[:20] in str(caught.value) or callable(value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("decorator", "option", "value", "allowed"),
    [
        (task, "priority", "high", "a number"),
        (task, "limits", "db", "a collection of names"),
        (task, "limits", 5, "a collection of names"),
        (task, "limits", [""], "a collection of names"),
        (task, "runner", "threads", "a runner"),
        (task, "when", "all_fine", "'all_succeeded'.*'none_failed'"),
        (task, "when", 5, "a function over states"),
        (task, "task_run_name", 5, "a template"),
        (flow, "flow_run_name", 5, "a template"),
        (flow, "final_state", "best", "one of 'children', 'return', 'unhandled'"),
        (flow, "on_child_failure", "stop", "one of 'continue', 'cancel'"),
        (flow, "task_runner", "dask", "a runner"),
        (flow, "validate_parameters", "yes", "True or False"),
    ],
)
def test_a_bad_option_of_one(decorator: Callable[..., Any], option: str, value: Any, allowed: str) -> None:
    """The options that only tasks or only flows have refuse bad values in the same words."""
    with pytest.raises(
        InvalidOption, match=f"^{option}={re.escape(repr(value))} is not possible: it must be .*{allowed}"
    ):
        decorator(**{option: value})(lambda: None)


def test_unknown_options() -> None:
    """A name that is no option is refused with the nearest one that is, or with all of them."""
    with pytest.raises(UnknownOption, match=r"@task has no option 'retry_delay'. Did you mean 'retry_delay_seconds'"):
        task(retry_delay=3)(hook)  # type: ignore[call-overload]
    with pytest.raises(UnknownOption, match=r"@flow has no option 'when'. The options are: .*final_state"):
        flow(when="all_done")(hook)  # type: ignore[call-overload]
    with pytest.raises(UnknownOption, match="@task has no option 'run_name'. Did you mean 'task_run_name'"):
        task(run_name="x")(hook)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="collision_strategy='DROP' .*one of 'ENQUEUE', 'CANCEL_NEW'"):
        ConcurrencyLimit(1, "DROP")


# --- run names ---------------------------------------------------------------------------------------------------


async def test_run_names(engine: Engine, journal: Any) -> None:
    """A run is named by a template over its arguments, by a function of them, or after its task and its id."""

    @task(task_run_name="load {path} from {options[host]!r} ({n:03d})")
    def by_template(path: str, options: dict[str, str], n: int = 7) -> str:
        return str(runtime.task_run.name)

    @task(task_run_name=lambda x: f"square of {x}")
    async def by_function(x: int, y: int = 0) -> None:
        """A task whose run name depends on one of its arguments."""

    @flow(flow_run_name="named {x}")
    async def outer(x: int) -> str:
        await by_function(4)
        await by_function.map([5])
        return by_template("a.csv", {"host": "here"})

    assert await outer(1) == "load a.csv from 'here' (007)"
    assert [run.name for run in journal.of("by_function")] == ["square of 4", "square of 5"]
    assert journal.of("outer")[0].name == "named 1"

    @task
    async def unnamed() -> str:
        return str(runtime.task_run.name)

    first, second = await unnamed(), await unnamed()
    assert first.startswith("unnamed-")
    assert first != second


@pytest.mark.parametrize(
    ("template", "message"),
    [("load {path}", r"load \{path\}.*over \{x\}"), ("load {x", "load {x"), (lambda x: 5, "returns a text")],
)
async def test_a_bad_run_name(engine: Engine, journal: Any, template: Any, message: str) -> None:
    """A run name that can't be made is refused at the call, with the names that a template may use."""

    @task(task_run_name=template)
    async def load(x: int) -> None:
        """A task that never gets a name."""

    with pytest.raises(InvalidOption, match=f"task_run_name=.*{message}"):
        load.submit(1)
    assert journal.of("load") == []


# --- tags --------------------------------------------------------------------------------------------------------


async def test_tags(engine: Engine, journal: Any) -> None:
    """A run has its own tags and those of every `with tags(...)` around the call, also of the flow's call."""

    @task(tags=["own"])
    async def tagged() -> None:
        """A task with a tag."""

    @flow(tags=["flow"])
    async def outer() -> None:
        await tagged()
        with tags("inner", "own"):
            with tags("deep"):
                await tagged.submit()
            await tagged()
        await tagged()

    with tags("outer"):
        await outer()
    assert [sorted(run.tags) for run in journal.of("tagged")] == [
        ["outer", "own"],
        ["deep", "inner", "outer", "own"],
        ["inner", "outer", "own"],
        ["outer", "own"],
    ]
    assert sorted(journal.of("outer")[0].tags) == ["flow", "outer"]


# --- the call ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"z": 1}, "unexpected keyword argument 'z'"),
        ((1,), {"x": 1}, "multiple values for argument 'x'"),
    ],
)
async def test_a_call_that_doesnt_fit(
    engine: Engine, journal: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str
) -> None:
    """A call that doesn't fit the signature raises at the call, in every form, with the signature and the reason."""

    async def body(x: int, y: int = 2) -> None:
        """A function of one or two arguments."""

    load, whole = task(name="load")(body), flow(name="whole")(body)
    for form in (load, load.submit, whole, whole.submit, partial(engine.start, whole), partial(engine.start, load)):
        with pytest.raises(SignatureMismatch, match=rf"(load|whole)\(x: .*y: .*\).* can't be called so: .*{reason}"):
            form(*args, **kwargs)
    assert journal.runs == {}


# --- parameters --------------------------------------------------------------------------------------------------


class Config(pydantic.BaseModel):
    retries: int


@flow
async def typed(x: int, names: list[str] | None = None, config: Config | None = None) -> list[Any]:
    return [x, names, config]


async def test_parameters_are_converted(engine: Engine) -> None:
    """Where pydantic is in use, a flow's arguments are converted to its annotations; what fits stays as it is."""
    names, config = ["a"], Config(retries=1)
    result = await typed(1, names, config)
    assert result[2] is config
    assert await typed("3", config={"retries": "2"}) == [3, None, Config(retries=2)]  # type: ignore[arg-type]


@pytest.mark.parametrize("with_pydantic", [True, False])
async def test_parameters_that_are_not_valid(
    engine: Engine, journal: Any, monkeypatch: pytest.MonkeyPatch, with_pydantic: bool
) -> None:
    """A flow whose arguments don't fit its annotations is Failed and its body never runs; the error names them."""
    if not with_pydantic:
        monkeypatch.delitem(sys.modules, "pydantic")
    with pytest.raises(ParameterInvalid, match="Parameter 'x' of flow 'typed' must be int.*not 'three' of type str"):
        await typed("three")  # type: ignore[arg-type]
    state = await typed("three", return_state=True)
    assert state.is_failed()
    assert journal.story("typed") == journal.story("typed", 1) == ["Pending", "Failed"]
    assert await typed.with_options(validate_parameters=False)("three") == ["three", None, None]


async def test_variable_arguments_are_checked_one_by_one(engine: Engine) -> None:
    """The annotations of `*args` and `**kwargs` hold for each of their values."""

    @flow
    async def total(*numbers: int, **named: float) -> float:
        return sum(numbers) + sum(named.values())

    assert await total(1, 2, a=0.5) == 3.5
    with pytest.raises(ParameterInvalid, match="'numbers'.*'two'"):
        await total(1, "two")  # type: ignore[arg-type]


async def test_a_subflows_parameters_may_be_futures(engine: Engine) -> None:
    """A future given to a subflow is checked and converted by its value."""

    @task
    async def text() -> str:
        return "5"

    @flow
    async def outer() -> list[Any]:
        return await typed.submit(text.submit())

    assert await outer() == [5, None, None]


def test_every_error_is_an_undertow_error() -> None:
    """The errors of bad input derive from `UndertowError` and from the builtin that Python itself would raise."""
    pairs = [
        (NotCallable, TypeError),
        (InvalidOption, ValueError),
        (UnknownOption, TypeError),
        (SignatureMismatch, TypeError),
        (ParameterInvalid, TypeError),
    ]
    assert all(issubclass(error, UndertowError) and issubclass(error, builtin) for error, builtin in pairs)
