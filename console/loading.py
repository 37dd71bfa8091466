"""From words on the command line to a flow and its arguments: `module:flow`, `path/to/file.py:flow`, `--param k=v`.

Whatever is wrong is said in one line that names the thing, the value and what is possible.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import traceback
import types
import typing
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ..engine.errors import SignatureMismatch, UndertowError
from ..engine.flow import Flow
from ..engine.parameters import validate
from ..engine.plans import Plan
from ..engine.task import Task
from .wording import cut

_MISSING = object()


class FlowNotFound(UndertowError, LookupError):
    """What the command line names is no flow, or can't be loaded."""

    def __init__(self, target: str, problem: str, remedy: str) -> None:
        super().__init__(f"{target!r}: {problem}. {remedy}")


class ParameterUnreadable(UndertowError, ValueError):
    """A `--param` is not of the form name=value."""

    def __init__(self, given: str, problem: str) -> None:
        super().__init__(f"--param {given!r}: {problem}. Write --param name=value, where value is JSON or plain text.")


class ArgumentsMismatch(UndertowError, TypeError):
    """The parameters given don't fit the flow's signature."""

    def __init__(self, mismatch: SignatureMismatch) -> None:
        super().__init__(f"{mismatch} Arguments are given as --param name=value.")


# --- the flow --------------------------------------------------------------------------------------------------


def find_flow(target: str) -> Flow[..., Any]:
    """The flow that `module:flow` or `path/to/file.py:flow` names. Raises `FlowNotFound`."""
    module, place, path, found = _find(target)
    if not isinstance(found, Flow):
        raise FlowNotFound(target, _what_it_is(found, place, path), _suggest(module, place))
    return found


def find_served(target: str) -> Flow[..., Any] | list[Plan]:
    """What can be served of a module: the flow, or the plan, that is named, or all plans at the module's top level.

    Raises `FlowNotFound`.
    """
    module, place, path, found = _find(target)
    if isinstance(found, Flow):
        return found
    if isinstance(found, Plan):
        return [found]
    if not isinstance(found, ModuleType):
        raise FlowNotFound(target, _what_it_is(found, place, path), _suggest(module, place))
    plans = [value for value in vars(module).values() if isinstance(value, Plan)]
    if not plans:
        remedy = f"Name a flow, or define one there: plan = a_flow.on(cron='@daily'). {_suggest(module, place)}"
        raise FlowNotFound(target, "it defines no plan at its top level", remedy)
    return list({id(plan): plan for plan in plans}.values())


def _find(target: str) -> tuple[ModuleType, str, str, Any]:
    """The module that is named, its name, the rest of what was written, and what that names in it."""
    place, _, path = target.rpartition(":")
    if not place:
        place, path = target, ""
    module = _load(target, place)
    found: Any = module
    for name in path.split(".") if path else ():
        try:
            found = getattr(found, name, _MISSING)
        except Exception as error:  # a property, or a module's own __getattr__
            raise FlowNotFound(target, f"looking for {name!r} in it raised {_said(error)}", "Name a flow.") from None
        if found is _MISSING:
            raise FlowNotFound(target, f"{place} has no {path!r}", _suggest(module, place, path))
    return module, place, path, found


def _what_it_is(found: object, place: str, path: str) -> str:
    if isinstance(found, ModuleType):
        return "this names a module, and no flow in it"
    if isinstance(found, Task):
        return f"{path!r} is a task, not a flow"
    if callable(found) and not isinstance(found, type):
        return f"{path!r} is a plain function, not a flow (put @flow on it)"
    return f"{path!r} is of type {type(found).__name__}, not a flow"


def _suggest(module: ModuleType, place: str, path: str = "") -> str:
    flows = {name: value for name, value in vars(module).items() if isinstance(value, Flow)}
    if not flows:
        return f"{place} has no flows."
    known = {value.name: name for name, value in flows.items()} | {name: name for name in flows}
    close = get_close_matches(path, known, 1)
    if close:
        return f"Did you mean {place}:{known[close[0]]}?"
    return f"Its flows: {', '.join(f'{place}:{name}' for name in flows)}."


# --- the module ------------------------------------------------------------------------------------------------


def _load(target: str, place: str) -> ModuleType:
    if place.endswith(".py") or os.sep in place:
        return _load_file(target, Path(place))
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise FlowNotFound(target, f"there is no module {error.name!r}", _suggest_module(place)) from None
        _fail(target, place, error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything, such as SystemExit
        _fail(target, place, error)


def _load_file(target: str, file: Path) -> ModuleType:
    if not _is_file(file):
        close = get_close_matches(file.name, _modules(file.parent), 1)
        remedy = f"Did you mean {file.parent / close[0]}?" if close else f"The folder is {file.parent.absolute()}."
        raise FlowNotFound(target, "there is no such file", remedy)
    file = file.resolve()
    folder, name = file.parent, file.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    sys.path.insert(0, str(folder))
    loaded = sys.modules.get(name)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() == file:
        return loaded
    try:
        if loaded is None and importlib.util.find_spec(name) is not None:
            return importlib.import_module(name)
        # A file with the name of a module that is in use already, such as random.py: it gets a name of its own.
        return _load_apart(f"_{name}_", file)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _fail(target, str(file), error)


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long
        return False


def _modules(folder: Path) -> list[str]:
    try:
        return [file.name for file in folder.glob("*.py")]
    except OSError:
        return []


def _load_apart(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _suggest_module(place: str) -> str:
    here = [path.stem for path in Path().glob("*.py")] + [path.parent.name for path in Path().glob("*/__init__.py")]
    close = get_close_matches(place, here, 1)
    return f"Did you mean {close[0]!r}?" if close else f"It was looked for in {os.getcwd()} and on the Python path."


def _fail(target: str, place: str, error: BaseException) -> NoReturn:
    """One line about a module that could not be executed, with the place in it."""
    said = _said(error)
    where = ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        said = f"{type(error).__name__}: {error.msg}"
        where = f" ({error.filename}, line {error.lineno})"
    elif frames:
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    command = f"python {place}" if place.endswith(".py") else f"python -c 'import {place}'"
    raise FlowNotFound(target, f"importing it raised {said}{where}", f"For the traceback: {command}") from None


def _said(error: BaseException) -> str:
    return cut("".join(traceback.format_exception_only(error)), 300)


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename in (__file__, importlib.__file__)


# --- the arguments ---------------------------------------------------------------------------------------------


def read_parameters(given: Iterable[str]) -> dict[str, tuple[Any, str]]:
    """`k=v` texts as names, values and what was written. Raises `ParameterUnreadable`."""
    read: dict[str, tuple[Any, str]] = {}
    for text in given:
        name, equals, written = text.partition("=")
        name = name.strip()
        if not equals:
            raise ParameterUnreadable(text, "it has no '='")
        if not name.isidentifier():
            raise ParameterUnreadable(text, f"{name!r} is no name of a parameter")
        if name in read:
            raise ParameterUnreadable(text, f"{name!r} is given twice")
        read[name] = read_value(written), written
    return read


def read_value(written: str) -> Any:
    """JSON if it is JSON, else the text itself."""
    try:
        return json.loads(written, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return written


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are texts: JSON has no such numbers


def arguments(flow: Flow[..., Any], parameters: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    """The keyword arguments of the call, checked as the call will. Raises `ArgumentsMismatch`, `ParameterInvalid`.

    Where the flow wants a `str`, `--param code=007` gives it the text, not a number.
    """
    hints = _hints(flow)
    call = {
        name: written if _wants_text(hints.get(name), value) else value for name, (value, written) in parameters.items()
    }
    try:
        bound = flow.signature.bind(flow.bound, call)
    except SignatureMismatch as error:
        raise ArgumentsMismatch(error) from None
    if flow.validates:
        validate(flow.name, flow.fn, bound)
    return call


def _hints(flow: Flow[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(flow.fn)
    except (NameError, TypeError, AttributeError):
        return {}


def _wants_text(hint: Any, value: object) -> bool:
    """Whether the annotation allows a text, and does not allow the value."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if is_union else (hint,)
    kinds = [typing.get_origin(option) or option for option in options]
    fits = any(isinstance(kind, type) and isinstance(value, kind) for kind in kinds)
    return str in kinds and not fits and not (float in kinds and isinstance(value, int))
