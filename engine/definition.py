"""What tasks and flows have in common: a function with options, and the ways to call it.

A definition is immutable; `with_options` makes another one. The form of the call decides where a run lives (awaited
by its caller, a member of a host, in a thread), and the pipeline does the rest.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import GeneratorType
from typing import Any, ClassVar, Generic, Literal, ParamSpec, Self, TypeVar, cast, overload

import attrs

from .arguments import Signature, find_upstreams, need_search, state_of, unwrapped
from .bridge import call_from_thread, call_on_the_spot, never_waits
from .caching import Caching, Serializer, digest, source_of
from .context import CURRENT, core_here
from .core import Core
from .durable import take_step
from .errors import InvalidOption, LimitUnknown, NoHost, NotCallable, UnknownOption, WouldBlock
from .futures import Future, deliver
from .hooks import HOOKS, Hook, check_hooks
from .limits import ConcurrencyLimit, read_concurrency_limit
from .naming import NameMaker, check_maker, made
from .options import check_flag
from .pipeline import drive, execute, member
from .ports import OnMismatch, Runner
from .prints import printing
from .registry import module_of, remember_definition
from .retry import Condition, Delays, RetryPolicy, retry_policy
from .run import Kind, Outcome, Run
from .states import State, StateType
from .triggers import Rule
from .waking import in_event_loop

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Options:
    """The options that tasks and flows share; see `task` and `flow` for what they mean."""

    name: str | None = None
    description: str | None = None
    tags: Iterable[str] = ()
    version: str | None = None
    run_name: NameMaker | None = None
    retries: int | None = None
    retry_delay_seconds: Delays | None = None
    retry_jitter_factor: float | None = None
    retry_condition_fn: Condition | None = None
    retry_on: object = None
    give_up_on: object = None
    max_retry_delay_seconds: float | None = None
    max_elapsed_seconds: float | None = None
    timeout_seconds: float | None = None
    concurrency_limit: int | ConcurrencyLimit | None = None
    key: NameMaker | None = None
    log_prints: bool | None = None
    on_running: Iterable[Hook] | Hook | None = None
    on_completion: Iterable[Hook] | Hook | None = None
    on_failure: Iterable[Hook] | Hook | None = None
    on_cancellation: Iterable[Hook] | Hook | None = None
    on_crashed: Iterable[Hook] | Hook | None = None


class Definition(Generic[P, R_co]):
    """A function that runs as a task or a flow."""

    kind: ClassVar[Kind]
    options_type: ClassVar[type[Options]]
    renamed_options: ClassVar[Mapping[str, str]]
    rule: str | Rule | None = None
    priority: float = 0
    cancels_siblings: bool = False
    validates: bool = False
    caching: Caching | None = None
    serializer: Serializer = "msgpack"
    on_mismatch: OnMismatch = "raise"
    persists: bool = False
    on_commit_hooks: tuple[Hook, ...] = ()
    on_rollback_hooks: tuple[Hook, ...] = ()

    def __init__(self, fn: Callable[P, R_co], options: Options, copied: bool = False) -> None:
        self.descriptor: type | None = None
        if isinstance(fn, classmethod | staticmethod):
            self.descriptor = type(fn)
            fn = fn.__func__
        if not callable(fn) or isinstance(fn, type):
            raise NotCallable(self.kind, fn)
        self.fn: Callable[P, R_co] = fn
        self.options = options
        self.bound: tuple[Any, ...] = ()
        functools.update_wrapper(cast("Callable[..., Any]", self), cast("Callable[..., Any]", fn))
        self.is_generator = inspect.isgeneratorfunction(fn)
        self.is_async_generator = inspect.isasyncgenfunction(fn)
        self.is_async = _makes_coroutines(fn) or self.is_async_generator
        self._read(options)
        remember_definition(self, instead=not copied)

    def _read(self, options: Options) -> None:
        """Check the options and derive what the pipeline uses."""
        self.name: str = _text("name", options.name) or str(getattr(self.fn, "__name__", type(self.fn).__name__))
        self.key = f"{module_of(self.fn)}.{getattr(self.fn, '__qualname__', self.name)}"
        self.description = _text("description", options.description) or inspect.getdoc(self.fn)
        self.version = _text("version", options.version)
        check_flag("log_prints", options.log_prints)
        self.signature = Signature(self.fn, self.name)
        self.tags = _tags(options.tags)
        self.timeout = _timeout(options.timeout_seconds)
        self.retry: RetryPolicy = retry_policy(
            options.retries,
            options.retry_delay_seconds,
            options.retry_jitter_factor,
            options.max_retry_delay_seconds,
            options.max_elapsed_seconds,
            options.retry_on,
            options.give_up_on,
            options.retry_condition_fn,
        )
        self.hooks: dict[StateType, tuple[Hook, ...]] = {
            kind: hooks for kind, option in HOOKS.items() if (hooks := check_hooks(option, getattr(options, option)))
        }
        self.own_limit = read_concurrency_limit(options.concurrency_limit)
        self.cancels_new = self.own_limit is not None and self.own_limit.collision_strategy == "CANCEL_NEW"
        self.own_limit_name = f"{self.kind}:{self.key}"
        self.limit_names: tuple[str, ...] = (self.own_limit_name,) if self.own_limit else ()
        for option, maker in ((f"{self.kind}_run_name", options.run_name), ("key", options.key)):
            check_maker(option, maker)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r}>"

    @classmethod
    def read_options(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Option names as users write them, turned into fields. Raises `UnknownOption` with a suggestion."""
        fields = {field.name for field in attrs.fields(cls.options_type)}
        known = fields - set(cls.renamed_options.values()) | set(cls.renamed_options)
        for name in given:
            if name not in known:
                raise UnknownOption(f"@{cls.kind}", name, known, get_close_matches(name, known, 1))
        return {cls.renamed_options.get(name, name): value for name, value in given.items()}

    def with_options(self, **changes: Any) -> Self:
        """A copy with some options changed; takes the decorator's own option names.

        Raises `UnknownOption` with a suggestion, and whatever the decorator raises for a bad value.
        """
        copy = type(self)(self.fn, attrs.evolve(self.options, **self.read_options(changes)), copied=True)
        copy.bound = self.bound
        copy.descriptor = self.descriptor
        return copy

    def bind_to(self, instance: Any, owner: type | None) -> Any:
        """The definition as an attribute of an object: the object becomes the first argument."""
        subject = owner if self.descriptor is classmethod else instance
        if self.descriptor is staticmethod or subject is None:
            return self
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.bound = (subject,)
        return copy

    @property
    def has_parts(self) -> bool:
        """Whether it has hooks that a transaction calls."""
        return bool(self.on_commit_hooks or self.on_rollback_hooks)

    # --- the body ----------------------------------------------------------------------------------------------

    async def perform(self, run: Run) -> Outcome:
        """Run the body once and return how that ended. Raises only what is no `Exception`."""
        raise NotImplementedError

    async def call_body(self, run: Run) -> Any:
        """Call the function with the run's arguments, where it belongs, as the current run."""
        token = CURRENT.set(run)
        try:
            with printing(run):
                if self.is_async:
                    if self.is_async_generator:
                        return [item async for item in self.fn(*run.args, **run.kwargs)]  # type: ignore[attr-defined]
                    value = await self.fn(*run.args, **run.kwargs)  # type: ignore[misc]
                    return list(value) if type(value) in _GENERATORS else value
                runner = run.runner or self.runner(run)
                return await runner.run(run, self.call_and_collect, run.args, run.kwargs)
        finally:
            CURRENT.reset(token)

    def call_and_collect(self, *args: Any, **kwargs: Any) -> Any:
        """Call a sync function; what comes as a generator is gone through where it was made."""
        value: Any = self.fn(*args, **kwargs)
        return list(value) if type(value) in _GENERATORS else value

    def refuse(self, run: Run) -> Outcome | None:
        """A last look at the arguments, where `validates` is set; an outcome means that the body must not run."""
        return None

    def runner(self, run: Run) -> Runner:
        """The runner of a sync body that was submitted."""
        return run.core.threads

    def child_runner(self, run: Run) -> Runner:
        """Where the sync bodies of what it submits run."""
        return run.core.threads

    # --- making runs -------------------------------------------------------------------------------------------

    def make_run(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        wait_for: Iterable[Any] | None = None,
        *,
        core: Core | None = None,
        map_index: int | None = None,
        run_id: str | None = None,
        parentless: bool = False,
    ) -> Run:
        """Check the call and make its run. Raises `SignatureMismatch`, `LimitUnknown`, `ArgumentsTooDeep`."""
        if self.bound:
            args = (*self.bound, *args)
        self.signature.check(args, kwargs)
        core = core or core_here()
        if self.limit_names:
            self._declare_limits(core)
        run = core.make_run(self, args, kwargs, map_index=map_index, run_id=run_id, parentless=parentless)
        upstreams: list[Any] = []
        if need_search(args, kwargs):
            upstreams = find_upstreams(self.name, args, kwargs)
            if not upstreams:
                run.args = [unwrapped(value) for value in args]
                run.kwargs = {name: unwrapped(value) for name, value in kwargs.items()}
        if wait_for is not None:
            upstreams += find_upstreams(self.name, list(wait_for))
        if upstreams:
            run.waits_on = upstreams
            run.upstream_ids = [run_id for upstream, _ in upstreams if (run_id := upstream.run_id) is not None]
        take_step(run)
        if self.options.run_name is not None:
            run.given_name = self._named(f"{self.kind}_run_name", self.options.run_name, args, kwargs)
        return run

    @functools.cached_property
    def source(self) -> str:
        """A digest of the function's source, by which a change of it is noticed."""
        return digest(source_of(self.fn))

    def step_key(self, run: Run) -> str | None:
        """The explicit key of a step, in place of the digest of its inputs."""
        return None if self.options.key is None else self._named("key", self.options.key, run.args, run.kwargs)

    def _declare_limits(self, core: Core) -> None:
        if self.own_limit is not None and self.own_limit_name not in core.limits.buckets:
            core.limits.declare(self.own_limit_name, self.own_limit.limit)
        for name in self.limit_names:
            if name not in core.limits.buckets:
                raise LimitUnknown(name, core.limits.buckets)

    def _named(self, option: str, maker: NameMaker, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        return made(option, maker, self.name, self.signature.bind(args, kwargs))

    # --- d(x) --------------------------------------------------------------------------------------------------

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self: Definition[Any, Coroutine[Any, Any, T]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State[T]]: ...
    @overload
    def __call__(self: Definition[Any, T], *args: Any, return_state: Literal[True], **kwargs: Any) -> State[T]: ...
    @overload
    def __call__(self, *args: Any, wait_for: Iterable[Any], **kwargs: Any) -> R_co: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it and return its result, as the plain function would (an awaitable one, of an async function).

        Raises what the body raised, or what a flow's children did where the verdict is theirs. With
        `return_state=True` the final state instead, and no failure of the run is raised.
        """
        return_state, wait_for = False, None
        if kwargs:
            return_state, wait_for = bool(kwargs.pop("return_state", False)), kwargs.pop("wait_for", None)
        return self.live(self.make_run(args, kwargs, wait_for), return_state)

    def live(self, run: Run, return_state: bool) -> Any:
        """Live the run in the form that the place of the call asks for."""
        raise NotImplementedError

    async def awaited(self, run: Run, return_state: bool = False) -> Any:
        """Live the run in its caller's task."""
        outcome = await execute(run)
        return outcome.state(run) if return_state else deliver(outcome, run)

    def inline(self, run: Run, return_state: bool = False) -> Any:
        """Live the run on the spot, on an event loop's thread."""
        run.runner = run.core.inline
        run.on_the_spot = True
        outcome = drive(execute(run), self.name)
        return outcome.state(run) if return_state else deliver(outcome, run)

    def from_thread(self, run: Run, return_state: bool = False) -> Any:
        """Live the run in a loop while this thread waits."""
        if not in_event_loop():
            if never_waits(run):
                outcome = drive(call_on_the_spot(run), self.name)
            else:
                outcome = call_from_thread(run, run.host or run.core.portal.host())
        elif not all(state_of(upstream).is_final() for upstream, _ in run.waits_on):
            raise WouldBlock(f"{self.name}(...) with an unfinished future", f"await {self.name}.submit(...)")
        else:
            with run.core.watching_hold(self):
                run.runner = self.runner(run)  # this thread has a loop, so a body that blocks needs another
                outcome = call_from_thread(run, run.core.portal.host())
        return outcome.state(run) if return_state else deliver(outcome, run)

    def in_sync_body(self) -> bool:
        """Whether the call is made in the body of a sync run, outside any event loop."""
        return CURRENT.get() is not None and not in_event_loop()

    # --- d.submit(x) -------------------------------------------------------------------------------------------

    # Any argument may be a future in place of the value, which a ParamSpec can't say: hence `Any` here.
    @overload
    def submit(
        self: Definition[Any, Coroutine[Any, Any, T]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State[T]]: ...
    @overload
    def submit(self: Definition[Any, T], *args: Any, return_state: Literal[True], **kwargs: Any) -> Any: ...
    @overload
    def submit(
        self: Definition[Any, Coroutine[Any, Any, T]], *args: Any, wait_for: Iterable[Any] | None = ..., **kwargs: Any
    ) -> Future[T]: ...
    @overload
    def submit(
        self: Definition[Any, T], *args: Any, wait_for: Iterable[Any] | None = ..., **kwargs: Any
    ) -> Future[T]: ...
    def submit(
        self, *args: Any, return_state: bool = False, wait_for: Iterable[Any] | None = None, **kwargs: Any
    ) -> Any:
        """Start it as a member of the flow (or engine) around the call, and return its future at once.

        Raises `SignatureMismatch` if the arguments don't fit, and `NoHost` outside any flow and engine. With
        `return_state=True` the final state: waited for in a thread, to be awaited in async code.
        """
        future = self.spawn(self.make_run(args, kwargs, wait_for))
        if not return_state:
            return future
        return future.wait_async() if in_event_loop() else future.wait()

    def spawn(self, run: Run) -> Future[Any]:
        """Start the run as a member of the host around the call. Raises `NoHost`."""
        host = run.host
        if host is None:
            if run.core.is_default or in_event_loop():
                raise NoHost(self.name)
            host = run.host = run.core.portal.host()
        if run.transaction is not None:
            run.transaction.entered(run)
        future: Future[Any] = Future(run, host)
        host.spawn(member, run, future)
        return future


_GENERATORS = frozenset({GeneratorType})


def _makes_coroutines(fn: Any) -> bool:
    """Whether a function, or an object with a `__call__` method, is `async`."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _text(option: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidOption(option, value, "a text that is not empty")
    return value


def _tags(value: Iterable[str]) -> frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(tag, str) for tag in value):
        raise InvalidOption("tags", value, "a collection of texts")
    return frozenset(value)


def _timeout(value: float | None) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise InvalidOption("timeout_seconds", value, "a number of seconds above 0")
    return value
