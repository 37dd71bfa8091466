"""Flows: the `@flow` decorator, and what is special about a flow's body: a host around it, and a verdict after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    get_args,
    overload,
)

import anyio
import attrs
from anyio.lowlevel import checkpoint_if_cancelled

from .caching import SERIALIZERS, Serializer
from .definition import Definition, Options
from .durable import begin_durable
from .errors import InvalidOption, ParameterInvalid, RunCancelled, RunPaused, Suspension
from .hooks import Hook
from .host import open_host
from .naming import NameMaker
from .options import check_flag, check_one_of
from .parameters import as_json, sealed, validate
from .pipeline import Interrupt, failure
from .plans import CatchUp, Overlap, Plan, plan
from .ports import OnMismatch, Runner
from .retry import Condition, Delays
from .run import Kind, Outcome, Run, Tally
from .schedules import Schedule
from .secrets import refuse_secrets
from .states import PAUSED
from .verdict import FinalState, verdict

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
S = TypeVar("S")
Q = ParamSpec("Q")

_FINAL_STATES = ("children", "return", "unhandled")
_CHILD_FAILURE = ("continue", "cancel")


@attrs.frozen(kw_only=True)
class FlowOptions(Options):
    """The options of a flow; see `flow`."""

    task_runner: Runner | None = None
    validate_parameters: bool = True
    durable: bool = False
    on_mismatch: OnMismatch = "raise"
    persist_result: bool = False
    result_serializer: Serializer = "msgpack"
    final_state: FinalState = "children"
    on_child_failure: Literal["continue", "cancel"] = "continue"


class Flow(Definition[P, R_co], Generic[P, R_co]):
    """A function whose calls are flow runs. Made by `@flow`; `.fn` is the plain function."""

    kind: ClassVar[Kind] = "flow"
    options_type: ClassVar[type[Options]] = FlowOptions
    renamed_options: ClassVar[Mapping[str, str]] = {"flow_run_name": "run_name"}
    options: FlowOptions

    def _read(self, options: Options) -> None:
        super()._read(options)
        assert isinstance(options, FlowOptions)
        for option, value, known in (
            ("final_state", options.final_state, _FINAL_STATES),
            ("on_child_failure", options.on_child_failure, _CHILD_FAILURE),
            ("on_mismatch", options.on_mismatch, get_args(OnMismatch)),
        ):
            check_one_of(option, value, known)
        if options.task_runner is not None and not callable(getattr(options.task_runner, "run", None)):
            raise InvalidOption("task_runner", options.task_runner, "a runner, such as ThreadRunner()")
        self.cancels_siblings = options.on_child_failure == "cancel"
        check_flag("validate_parameters", options.validate_parameters)
        check_flag("durable", options.durable)
        check_flag("persist_result", options.persist_result)
        self.on_mismatch = options.on_mismatch
        self.persists = options.persist_result
        self.validates = options.validate_parameters and bool(self.signature.signature.parameters)
        check_one_of("result_serializer", options.result_serializer, SERIALIZERS)
        self.serializer = options.result_serializer

    def child_runner(self, run: Run) -> Runner:
        """Where the sync bodies of submitted children run."""
        return self.options.task_runner or run.core.threads

    def make_run(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], wait_for: Iterable[Any] | None = None, **more: Any
    ) -> Run:
        args, kwargs = sealed(self.fn, self.signature.signature, args, kwargs)
        run = super().make_run(args, kwargs, wait_for, **more)
        named = self.signature.bind(run.args, run.kwargs)
        run.parameters = as_json(named)
        if self.options.durable and run.step is None:
            refuse_secrets(self.name, named)
            begin_durable(run)
        return run

    def refuse(self, run: Run) -> Outcome | None:
        """Validate the parameters; an outcome means that they are not valid and the body must not run."""
        names = self.signature.bind(run.args, run.kwargs)
        try:
            checked = validate(self.name, self.fn, names)
        except ParameterInvalid as error:
            return failure(run, error)
        bound = self.signature.signature.bind(*run.args, **run.kwargs)
        bound.arguments.update((name, checked[name]) for name in list(bound.arguments))
        run.args, run.kwargs = bound.args, bound.kwargs
        return None

    async def perform(self, run: Run) -> Outcome:
        """Run the body inside a host of its own, wait for all it has submitted, and reach the verdict."""
        run.tally = Tally()
        value: Any = None
        failed: Outcome | None = None
        suspension: Suspension | None = None
        try:
            async with open_host(self.cancels_siblings) as host:
                run.host = host
                run.core.flows[run.id] = run
                try:
                    value = await self.call_body(run)
                except Suspension as raised:
                    suspension = raised
                except Exception as error:
                    failed = self._failure(run, error)
                    if anyio.current_time() < anyio.current_effective_deadline():
                        run.tally.decided = failed
                    host.cancel_members("its flow failed")
        except BaseExceptionGroup as group:
            raise _interrupt_in(group) from None
        finally:
            run.core.flows.pop(run.id, None)
            run.host = None
        if host.cancelled_for:
            raise RunCancelled(run.name, host.cancelled_for)
        if run.tally.cancelled or (failed is not None and isinstance(failed.data, RunCancelled)):
            # Where the caller is cancelled, too, that is the cause, and what goes on up. (While it waits for its
            # members, trio tells a task group nothing of it.)
            await checkpoint_if_cancelled()
        if failed is not None:
            return failed
        if suspension is not None:
            return Outcome(PAUSED, "Suspended", str(suspension), RunPaused(run.name, run.id))
        return verdict(run, value, self.options.final_state)

    def _failure(self, run: Run, error: Exception) -> Outcome:
        first = run.tally.first_failure if run.tally is not None else None
        if self.cancels_siblings and isinstance(error, RunCancelled) and isinstance(first, Exception):
            error = first  # the body only met the cancellation of a sibling; this is what caused it
        if self.options.final_state == "return" and isinstance(error, TimeoutError):
            return failure(run, error, "TimedOut")
        return failure(run, error)

    # --- f(x) --------------------------------------------------------------------------------------------------

    def live(self, run: Run, return_state: bool) -> Any:
        if self.is_async and not self.in_sync_body():
            return self.awaited(run, return_state)
        return self.from_thread(run, return_state)

    # --- by itself ---------------------------------------------------------------------------------------------

    def on(
        self,
        *,
        cron: str | None = None,
        interval: float | timedelta | None = None,
        rrule: str | None = None,
        schedule: Schedule | None = None,
        timezone: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
        overlap: Overlap = "skip",
        catch_up: CatchUp = "latest",
        grace: timedelta | None = None,
    ) -> Plan:
        """A plan for `serve` or `Engine.serve`: the flow, with these parameters, at the times of one schedule.

        `interval` is a timedelta or a number of seconds; `timezone` goes with `cron`, `interval` and `rrule`, and
        `schedule` takes what is made by hand: `Cron(...) | At(...)`. `name` (default: the flow's) identifies the
        schedule in the journal.

        While a run of it is still going, a fire is skipped (`overlap="skip"`), waits for it, unless another does
        already (`"buffer_one"`) or in any case (`"buffer_all"`), has it cancelled (`"cancel_running"`), or runs beside
        it (`"allow"`). Of the times that nobody served, the last one is made up for (`catch_up="latest"`), or `"all"`,
        or none (`"skip"`), and none that is more than `grace` late.

        Raises `ScheduleInvalid`, `SignatureMismatch` and `InvalidOption`.
        """
        return plan(
            self,
            cron=cron,
            interval=interval,
            rrule=rrule,
            schedule=schedule,
            timezone=timezone,
            parameters=parameters,
            name=name,
            overlap=overlap,
            catch_up=catch_up,
            grace=grace,
        )

    # --- as a method -------------------------------------------------------------------------------------------

    @overload
    def __get__(self, instance: None, owner: type) -> Flow[P, R_co]: ...
    @overload
    def __get__(self: Flow[Concatenate[S, Q], T], instance: S, owner: type | None = None) -> Flow[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Flow[..., R_co]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self.bind_to(instance, owner)


def _interrupt_in(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one interrupt in a task group's exceptions: members raise nothing else."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _interrupt_in(error)
        if isinstance(error, Interrupt):
            return error.error
        if not isinstance(error, Exception):
            return error
    return group.exceptions[0]


class FlowMaker(Protocol):
    """`@flow(...)` with options: makes a flow of a function."""

    def __call__(self, fn: Callable[P, R], /) -> Flow[P, R]: ...


@overload
def flow(fn: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(
    *,
    name: str | None = ...,
    description: str | None = ...,
    tags: Iterable[str] = ...,
    version: str | None = ...,
    flow_run_name: NameMaker | None = ...,
    retries: int | None = ...,
    retry_delay_seconds: Delays | None = ...,
    retry_jitter_factor: float | None = ...,
    retry_condition_fn: Condition | None = ...,
    retry_on: object = ...,
    give_up_on: object = ...,
    max_retry_delay_seconds: float | None = ...,
    max_elapsed_seconds: float | None = ...,
    timeout_seconds: float | None = ...,
    task_runner: Runner | None = ...,
    validate_parameters: bool = ...,
    durable: bool = ...,
    on_mismatch: OnMismatch = ...,
    key: NameMaker | None = ...,
    persist_result: bool = ...,
    result_serializer: Serializer = ...,
    final_state: FinalState = ...,
    on_child_failure: Literal["continue", "cancel"] = ...,
    concurrency_limit: Any = ...,
    log_prints: bool | None = ...,
    on_running: Iterable[Hook] | Hook | None = ...,
    on_completion: Iterable[Hook] | Hook | None = ...,
    on_failure: Iterable[Hook] | Hook | None = ...,
    on_cancellation: Iterable[Hook] | Hook | None = ...,
    on_crashed: Iterable[Hook] | Hook | None = ...,
) -> FlowMaker: ...
def flow(fn: Any = None, /, **options: Any) -> Any:
    """Make a flow of a function, sync or async. Bare (`@flow`) or with options.

    A flow waits for everything it has submitted. Its final state is judged by `final_state`: `"children"` (default:
    what is returned, or how the children ended if that is nothing), `"return"` (what is returned alone), or
    `"unhandled"` (failures that nobody was given). With `on_child_failure="cancel"` the first failure among the
    submitted children cancels the others.

    With `durable=True` the outcome of every run inside the flow is on disk before it is delivered, so that the flow can
    be resumed: a retry, or `engine.resume(run_id)` after a crash, gets recorded results back and runs what is left.
    Where a resumed flow does not do what is recorded of it, because the code of a step or the way through the body
    has changed, `on_mismatch` says what to do: `"raise"` `StepMismatch` (default), `"rerun"` what changed, or
    `"accept"` the recorded results as they are. `key`, a template over the arguments or a function of them, identifies
    the steps of a task or flow in place of a digest of their arguments. `persist_result=True` keeps the flow's own
    result.

    `task_runner` runs the sync bodies of submitted tasks (default: a pool of threads of the engine).
    `validate_parameters=False` skips the check of arguments against annotations. Names, retries, `timeout_seconds`,
    `concurrency_limit` and hooks are as for `task`; a retry runs the whole body again.

    Raises `NotCallable`, `UnknownOption` and `InvalidOption`, each at decoration.
    """
    made = FlowOptions(**Flow.read_options(options))
    return (lambda function: Flow(function, made)) if fn is None else Flow(fn, made)
