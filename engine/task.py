"""Tasks: the `@task` decorator and every way to call what it makes."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

import attrs

from .arguments import expand
from .caching import DEFAULT, SERIALIZERS, CachePolicy, KeyFunction, Serializer, read_caching
from .definition import Definition, Options
from .errors import InvalidOption
from .gathering import FutureList
from .generators import async_items, sync_items
from .hooks import Hook, check_hooks
from .naming import NameMaker
from .options import check_flag, check_one_of
from .pipeline import failure, returned
from .ports import Runner
from .retry import Condition, Delays
from .run import Kind, Outcome, Run
from .stream import Stream
from .triggers import Rule, RuleName, check_rule
from .waking import in_event_loop

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
S = TypeVar("S")
Q = ParamSpec("Q")
HookT = TypeVar("HookT", bound=Hook)


@attrs.frozen(kw_only=True)
class TaskOptions(Options):
    """The options of a task; see `task`."""

    limits: Iterable[str] = ()
    priority: float = 0
    runner: Runner | None = None
    when: RuleName | Rule | None = None
    cache_policy: CachePolicy | None = None
    cache_key_fn: KeyFunction | None = None
    cache_expiration: timedelta | None = None
    refresh_cache: bool = False
    persist_result: bool | None = None
    result_serializer: Serializer = "msgpack"
    on_commit: Iterable[Hook] | Hook | None = None
    on_rollback: Iterable[Hook] | Hook | None = None


class Task(Definition[P, R_co], Generic[P, R_co]):
    """A function whose calls are task runs. Made by `@task`; `.fn` is the plain function."""

    kind: ClassVar[Kind] = "task"
    options_type: ClassVar[type[Options]] = TaskOptions
    renamed_options: ClassVar[Mapping[str, str]] = {"task_run_name": "run_name"}
    options: TaskOptions

    def _read(self, options: Options) -> None:
        super()._read(options)
        assert isinstance(options, TaskOptions)
        self.rule = check_rule(options.when)
        if isinstance(options.priority, bool) or not isinstance(options.priority, int | float):
            raise InvalidOption("priority", options.priority, "a number; higher goes first")
        self.priority = options.priority
        if (
            isinstance(options.limits, str)
            or not isinstance(options.limits, Iterable)
            or not all(isinstance(name, str) and name for name in options.limits)
        ):
            raise InvalidOption("limits", options.limits, "a collection of names of limits")
        self.limit_names = (*self.limit_names, *options.limits)
        if options.runner is not None and not callable(getattr(options.runner, "run", None)):
            raise InvalidOption("runner", options.runner, "a runner, such as ThreadRunner()")

        self.on_commit_hooks = check_hooks("on_commit", options.on_commit)
        self.on_rollback_hooks = check_hooks("on_rollback", options.on_rollback)
        check_one_of("result_serializer", options.result_serializer, SERIALIZERS)
        check_flag("persist_result", options.persist_result)
        self.serializer = options.result_serializer
        policy = DEFAULT if options.persist_result and options.cache_policy is None else options.cache_policy
        caching = read_caching(
            self.name,
            self.signature.signature.parameters,
            policy,
            options.cache_key_fn,
            options.cache_expiration,
            options.refresh_cache,
            options.result_serializer,
        )
        self.caching = None if options.persist_result is False else caching

    def runner(self, run: Run) -> Runner:
        own = self.options.runner
        if own is not None:
            return own
        flow = run.flow
        return flow.definition.child_runner(flow) if flow is not None else run.core.threads

    async def perform(self, run: Run) -> Outcome:
        try:
            value = await self.call_body(run)
        except Exception as error:
            return failure(run, error)
        return returned(run, value)

    # --- t(x) --------------------------------------------------------------------------------------------------

    def live(self, run: Run, return_state: bool) -> Any:
        if self.is_async:
            if self.is_async_generator and not return_state:
                return async_items(run)
            if in_event_loop():
                return self.awaited(run, return_state)
            return self.from_thread(run, return_state)
        if self.is_generator and not return_state:
            return sync_items(run)
        if in_event_loop():
            return self.inline(run, return_state)
        return self.from_thread(run, return_state)

    # --- t.map(xs) ---------------------------------------------------------------------------------------------

    @overload
    def map(self, *args: Any, return_state: Literal[True], **kwargs: Any) -> Any: ...
    @overload
    def map(
        self: Task[Any, Coroutine[Any, Any, T]], *args: Any, wait_for: Iterable[Any] | None = ..., **kwargs: Any
    ) -> FutureList[T]: ...
    @overload
    def map(self: Task[Any, T], *args: Any, wait_for: Iterable[Any] | None = ..., **kwargs: Any) -> FutureList[T]: ...
    def map(self, *args: Any, return_state: bool = False, wait_for: Iterable[Any] | None = None, **kwargs: Any) -> Any:
        """Submit one run per item of the iterable arguments; strings, bytes and `unmapped(v)` go to every run.

        Raises `MappingMissingIterable`, `MappingLengthMismatch`, `SignatureMismatch` and `NoHost`, at once and
        before anything was submitted.
        """
        runs = [
            self.make_run(each, named, wait_for, map_index=index)
            for index, (each, named) in enumerate(expand(self.name, args, kwargs))
        ]
        futures: FutureList[Any] = FutureList([self.spawn(run) for run in runs])
        if not return_state:
            return futures
        return futures.wait_async() if in_event_loop() else futures.wait()

    # --- t.stream(xs) ------------------------------------------------------------------------------------------

    @overload
    def stream(
        self: Task[Any, Coroutine[Any, Any, T]],
        items: Iterable[Any] | AsyncIterable[Any],
        *args: Any,
        max_in_flight: int = ...,
        ordered: bool = ...,
        **kwargs: Any,
    ) -> Stream[T]: ...
    @overload
    def stream(
        self: Task[Any, T],
        items: Iterable[Any] | AsyncIterable[Any],
        *args: Any,
        max_in_flight: int = ...,
        ordered: bool = ...,
        **kwargs: Any,
    ) -> Stream[T]: ...
    def stream(
        self,
        items: Any,
        *args: Any,
        max_in_flight: int = 100,
        ordered: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Run the task on each item with at most `max_in_flight` runs at a time, and iterate over the results.

        `items` is any iterable or async iterable, pulled as runs end, so memory stays constant however long it is.
        Further arguments go to every run. A failure is raised when its turn comes, and cancels what is in flight.
        """
        return Stream(self, items, args, kwargs, max_in_flight, ordered)

    # --- hooks of a transaction --------------------------------------------------------------------------------

    def on_commit(self, hook: HookT) -> HookT:
        """Add a hook, as a decorator: `@write.on_commit`."""
        self.on_commit_hooks = (*self.on_commit_hooks, *check_hooks("on_commit", hook))
        self.options = attrs.evolve(self.options, on_commit=self.on_commit_hooks)
        return hook

    def on_rollback(self, hook: HookT) -> HookT:
        """Add a hook, as a decorator: `@write.on_rollback`."""
        self.on_rollback_hooks = (*self.on_rollback_hooks, *check_hooks("on_rollback", hook))
        self.options = attrs.evolve(self.options, on_rollback=self.on_rollback_hooks)
        return hook

    # --- as a method -------------------------------------------------------------------------------------------

    @overload
    def __get__(self, instance: None, owner: type) -> Task[P, R_co]: ...
    @overload
    def __get__(self: Task[Concatenate[S, Q], T], instance: S, owner: type | None = None) -> Task[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Task[..., R_co]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self.bind_to(instance, owner)


class TaskMaker(Protocol):
    """`@task(...)` with options: makes a task of a function."""

    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = ...,
    description: str | None = ...,
    tags: Iterable[str] = ...,
    version: str | None = ...,
    task_run_name: NameMaker | None = ...,
    retries: int | None = ...,
    retry_delay_seconds: Delays | None = ...,
    retry_jitter_factor: float | None = ...,
    retry_condition_fn: Condition | None = ...,
    retry_on: object = ...,
    give_up_on: object = ...,
    max_retry_delay_seconds: float | None = ...,
    max_elapsed_seconds: float | None = ...,
    timeout_seconds: float | None = ...,
    concurrency_limit: Any = ...,
    limits: Iterable[str] = ...,
    priority: float = ...,
    runner: Runner | None = ...,
    when: RuleName | Rule | None = ...,
    cache_policy: CachePolicy | None = ...,
    cache_key_fn: KeyFunction | None = ...,
    cache_expiration: timedelta | None = ...,
    refresh_cache: bool = ...,
    persist_result: bool | None = ...,
    result_serializer: Serializer = ...,
    key: NameMaker | None = ...,
    log_prints: bool | None = ...,
    on_running: Iterable[Hook] | Hook | None = ...,
    on_completion: Iterable[Hook] | Hook | None = ...,
    on_failure: Iterable[Hook] | Hook | None = ...,
    on_cancellation: Iterable[Hook] | Hook | None = ...,
    on_crashed: Iterable[Hook] | Hook | None = ...,
    on_commit: Iterable[Hook] | Hook | None = ...,
    on_rollback: Iterable[Hook] | Hook | None = ...,
) -> TaskMaker: ...
def task(fn: Any = None, /, **options: Any) -> Any:
    """Make a task of a function: sync or async, a generator, a method. Bare (`@task`) or with options.

    Identity: `name`, `description`, `version`, `tags` (a tag that names a limit takes a slot of it), and
    `task_run_name`, a template over the arguments (`"load {path}"`) or a function that returns a name.

    Retries: `retries` more attempts after `retry_delay_seconds` (a number, a list whose last item repeats, or a
    function from retries to such a list, as `exponential_backoff(2)`), jittered by `retry_jitter_factor` and cut at
    `max_retry_delay_seconds`, while less than `max_elapsed_seconds` have passed since the first attempt. Only errors
    that are in `retry_on` and not in `give_up_on`, and for which `retry_condition_fn(task, run, state)` is true.

    Bounds: `timeout_seconds` for each attempt; `concurrency_limit` runs at a time; `limits`, names of the engine's
    limits to take a slot of; `priority`, higher first, in their queues.

    `when` is the trigger rule: `"all_succeeded"` (default), `"all_failed"`, `"all_done"`, `"any_failed"`,
    `"any_succeeded"`, `"none_failed"`, or a function over the upstreams' final states.

    Caching: with a `cache_policy` (`INPUTS`, `TASK_SOURCE`, `RUN_ID`, `FLOW_PARAMETERS`, sums of them, and
    `INPUTS - "argument"`) or a `cache_key_fn(run, parameters)`, the result is kept in the journal under a key, and a
    run with the same key ends Cached without running the body: for `cache_expiration` (default: for ever), unless
    `refresh_cache` is set. Of several runs at once, one computes and the others wait. `persist_result=True` alone
    caches within one flow run. Results are msgpack; `result_serializer="pickle"` trusts the journal to hold code.

    `key`, a template over the arguments or a function of them, identifies its steps in a durable flow; see `flow`.

    `runner` says where a sync body runs when it is submitted (default: a pool of threads of the engine).

    `on_running`, `on_completion`, `on_failure`, `on_cancellation` and `on_crashed` are called with
    `(task, run, state)`. `on_commit` and `on_rollback` are called with a `Part` when the transaction around the call
    ends; see `transaction`.

    Raises `NotCallable`, `UnknownOption` and `InvalidOption`, each at decoration.
    """
    made = TaskOptions(**Task.read_options(options))
    return (lambda function: Task(function, made)) if fn is None else Task(fn, made)
