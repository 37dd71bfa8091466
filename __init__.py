"""undertow: workflow semantics for plain functions, inside the process and the event loop they already run in.

This is the face: names only. Each is imported when it is first used, so `import undertow` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .console.metrics import Metrics as Metrics
    from .console.progress import progress as progress
    from .console.tracing import Tracing as Tracing
    from .engine import logging as logging
    from .engine import loguru as loguru
    from .engine import runtime as runtime
    from .engine import structlog as structlog
    from .engine.arguments import allow_failure as allow_failure
    from .engine.arguments import quote as quote
    from .engine.arguments import unmapped as unmapped
    from .engine.caching import FLOW_PARAMETERS as FLOW_PARAMETERS
    from .engine.caching import INPUTS as INPUTS
    from .engine.caching import NO_CACHE as NO_CACHE
    from .engine.caching import RUN_ID as RUN_ID
    from .engine.caching import TASK_SOURCE as TASK_SOURCE
    from .engine.caching import CachePolicy as CachePolicy
    from .engine.codec import register_type as register_type
    from .engine.context import copy_context as copy_context
    from .engine.context import tags as tags
    from .engine.cron import Cron as Cron
    from .engine.durable import sleep as sleep
    from .engine.durable import sleep_until as sleep_until
    from .engine.errors import ArgumentsTooDeep as ArgumentsTooDeep
    from .engine.errors import CannotTravel as CannotTravel
    from .engine.errors import EngineClosed as EngineClosed
    from .engine.errors import EngineOpen as EngineOpen
    from .engine.errors import Fail as Fail
    from .engine.errors import IllegalTransition as IllegalTransition
    from .engine.errors import InvalidOption as InvalidOption
    from .engine.errors import JournalClosed as JournalClosed
    from .engine.errors import JournalCorrupt as JournalCorrupt
    from .engine.errors import JournalError as JournalError
    from .engine.errors import JournalFull as JournalFull
    from .engine.errors import JournalLocked as JournalLocked
    from .engine.errors import JournalMissing as JournalMissing
    from .engine.errors import JournalReadOnly as JournalReadOnly
    from .engine.errors import JournalTooNew as JournalTooNew
    from .engine.errors import LimitImpossible as LimitImpossible
    from .engine.errors import LimitUnknown as LimitUnknown
    from .engine.errors import MappingLengthMismatch as MappingLengthMismatch
    from .engine.errors import MappingMissingIterable as MappingMissingIterable
    from .engine.errors import NeverResumed as NeverResumed
    from .engine.errors import NoEngineInWorker as NoEngineInWorker
    from .engine.errors import NoHost as NoHost
    from .engine.errors import NotCallable as NotCallable
    from .engine.errors import NotInFlow as NotInFlow
    from .engine.errors import ParameterInvalid as ParameterInvalid
    from .engine.errors import ResultNotSerializable as ResultNotSerializable
    from .engine.errors import ResultUnreadable as ResultUnreadable
    from .engine.errors import RetryAfter as RetryAfter
    from .engine.errors import RolledBack as RolledBack
    from .engine.errors import RunCancelled as RunCancelled
    from .engine.errors import RunCrashed as RunCrashed
    from .engine.errors import RunEnded as RunEnded
    from .engine.errors import RunError as RunError
    from .engine.errors import RunFailed as RunFailed
    from .engine.errors import RunIdConflict as RunIdConflict
    from .engine.errors import RunNotPaused as RunNotPaused
    from .engine.errors import RunNotResumable as RunNotResumable
    from .engine.errors import RunPaused as RunPaused
    from .engine.errors import RunSkipped as RunSkipped
    from .engine.errors import RunTimedOut as RunTimedOut
    from .engine.errors import RunUnfinished as RunUnfinished
    from .engine.errors import RunUnknown as RunUnknown
    from .engine.errors import ScheduleUnknown as ScheduleUnknown
    from .engine.errors import SelfDependency as SelfDependency
    from .engine.errors import SignalTimeout as SignalTimeout
    from .engine.errors import SignatureMismatch as SignatureMismatch
    from .engine.errors import Skip as Skip
    from .engine.errors import SlotTimeout as SlotTimeout
    from .engine.errors import StepMismatch as StepMismatch
    from .engine.errors import UncacheableArgument as UncacheableArgument
    from .engine.errors import UndertowError as UndertowError
    from .engine.errors import UnknownOption as UnknownOption
    from .engine.errors import UpstreamFailed as UpstreamFailed
    from .engine.errors import WorkerDied as WorkerDied
    from .engine.errors import WorkersKeepDying as WorkersKeepDying
    from .engine.errors import WouldBlock as WouldBlock
    from .engine.events import Event as Event
    from .engine.events import Events as Events
    from .engine.events import RunNotHere as RunNotHere
    from .engine.flow import Flow as Flow
    from .engine.flow import flow as flow
    from .engine.futures import Future as Future
    from .engine.gathering import FutureList as FutureList
    from .engine.gathering import as_completed as as_completed
    from .engine.gathering import wait as wait
    from .engine.gathering import wait_async as wait_async
    from .engine.health import Health as Health
    from .engine.limits import ConcurrencyLimit as ConcurrencyLimit
    from .engine.limits import Limit as Limit
    from .engine.limits import RateLimit as RateLimit
    from .engine.pausing import pause_flow_run as pause_flow_run
    from .engine.pausing import resume_flow_run as resume_flow_run
    from .engine.pausing import suspend_flow_run as suspend_flow_run
    from .engine.plans import Plan as Plan
    from .engine.project import SettingsUnreadable as SettingsUnreadable
    from .engine.recurrence import RRule as RRule
    from .engine.retry import exponential_backoff as exponential_backoff
    from .engine.run import RunView as RunView
    from .engine.runtime import get_run_logger as get_run_logger
    from .engine.schedules import AnyOf as AnyOf
    from .engine.schedules import At as At
    from .engine.schedules import Schedule as Schedule
    from .engine.schedules import ScheduleInvalid as ScheduleInvalid
    from .engine.secrets import Secret as Secret
    from .engine.secrets import SecretNotRecordable as SecretNotRecordable
    from .engine.serving import serve as serve
    from .engine.settings import SettingInvalid as SettingInvalid
    from .engine.settings import SettingUnknown as SettingUnknown
    from .engine.settings import temporary_settings as temporary_settings
    from .engine.signals import send_signal as send_signal
    from .engine.signals import wait_for_signal as wait_for_signal
    from .engine.slots import concurrency as concurrency
    from .engine.slots import rate_limit as rate_limit
    from .engine.states import Cancelled as Cancelled
    from .engine.states import Completed as Completed
    from .engine.states import Crashed as Crashed
    from .engine.states import Failed as Failed
    from .engine.states import Pending as Pending
    from .engine.states import Running as Running
    from .engine.states import Scheduled as Scheduled
    from .engine.states import Skipped as Skipped
    from .engine.states import State as State
    from .engine.states import StateType as StateType
    from .engine.task import Task as Task
    from .engine.task import task as task
    from .engine.transactions import Part as Part
    from .engine.transactions import Transaction as Transaction
    from .engine.transactions import get_transaction as get_transaction
    from .engine.transactions import transaction as transaction
    from .engine.zoned import Interval as Interval
    from .runners import ThreadRunner as ThreadRunner
    from .runners.processes import ProcessRunner as ProcessRunner
    from .wiring import Engine as Engine

# What the block above says to people and type checkers, said to the interpreter; a test holds the two together.
_HOMES = {
    "console.metrics": "Metrics",
    "console.progress": "progress",
    "console.tracing": "Tracing",
    "engine": "logging loguru runtime structlog",
    "engine.arguments": "allow_failure quote unmapped",
    "engine.caching": "FLOW_PARAMETERS INPUTS NO_CACHE RUN_ID TASK_SOURCE CachePolicy",
    "engine.codec": "register_type",
    "engine.context": "copy_context tags",
    "engine.cron": "Cron",
    "engine.recurrence": "RRule",
    "engine.schedules": "AnyOf At Schedule ScheduleInvalid",
    "engine.zoned": "Interval",
    "engine.durable": "sleep sleep_until",
    "engine.errors": (
        "ArgumentsTooDeep CannotTravel EngineClosed EngineOpen Fail IllegalTransition InvalidOption JournalClosed "
        "JournalCorrupt JournalError JournalFull JournalLocked JournalMissing JournalReadOnly JournalTooNew "
        "LimitImpossible LimitUnknown MappingLengthMismatch MappingMissingIterable NeverResumed NoEngineInWorker "
        "NoHost NotCallable NotInFlow ParameterInvalid ResultNotSerializable ResultUnreadable RetryAfter "
        "RolledBack RunCancelled RunCrashed RunEnded RunError RunFailed RunIdConflict RunNotPaused "
        "RunNotResumable RunPaused RunSkipped RunTimedOut RunUnfinished RunUnknown ScheduleUnknown SelfDependency "
        "SignalTimeout SignatureMismatch Skip SlotTimeout StepMismatch UncacheableArgument UndertowError "
        "UnknownOption UpstreamFailed WorkerDied WorkersKeepDying WouldBlock"
    ),
    "engine.events": "Event Events RunNotHere",
    "engine.flow": "Flow flow",
    "engine.futures": "Future",
    "engine.gathering": "FutureList as_completed wait wait_async",
    "engine.health": "Health",
    "engine.limits": "ConcurrencyLimit Limit RateLimit",
    "engine.pausing": "pause_flow_run resume_flow_run suspend_flow_run",
    "engine.plans": "Plan",
    "engine.retry": "exponential_backoff",
    "engine.run": "RunView",
    "engine.runtime": "get_run_logger",
    "engine.project": "SettingsUnreadable",
    "engine.secrets": "Secret SecretNotRecordable",
    "engine.settings": "SettingInvalid SettingUnknown temporary_settings",
    "engine.serving": "serve",
    "engine.signals": "send_signal wait_for_signal",
    "engine.slots": "concurrency rate_limit",
    "engine.states": "Cancelled Completed Crashed Failed Pending Running Scheduled Skipped State StateType",
    "engine.task": "Task task",
    "engine.transactions": "Part Transaction get_transaction transaction",
    "runners": "ThreadRunner",
    "runners.processes": "ProcessRunner",
    "wiring": "Engine",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("undertow")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'undertow' has no attribute {name!r}")
    import_module(".wiring", __name__)  # whatever is used first, the default engine is known from then on
    value = (
        getattr(import_module(f".{home}", __name__), name)
        if home != "engine"
        else import_module(f".engine.{name}", __name__)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
