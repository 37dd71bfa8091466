"""Which task or flow a recorded run is of: definitions by the name under which Python would import them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from .errors import RunNotResumable
from .tracebacks import describe

if TYPE_CHECKING:
    from .definition import Definition

_definitions: WeakValueDictionary[str, Definition[..., Any]] = WeakValueDictionary()


def module_of(fn: Any) -> str:
    """The module of a function, as another process would import it: a script's is called after its file."""
    module: str = getattr(fn, "__module__", None) or ""
    main = sys.modules.get("__main__")
    if module != "__main__" or main is None:
        return module
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else module


def remember_definition(definition: Definition[..., Any], instead: bool = True) -> None:
    """Let the definition be found by its key when a run of it is to go on, instead of another or if there is none."""
    if instead or definition.key not in _definitions:
        _definitions[definition.key] = definition


def _at_home(key: str) -> Definition[..., Any] | None:
    """What stands under that name in a module that is loaded; else the last one that was made with it."""
    module, _, name = key.rpartition(".")
    found: Any = getattr(sys.modules.get(module), name, None)
    return found if getattr(found, "key", None) == key else _definitions.get(key)


def find_definition(run_id: str, key: str) -> Definition[..., Any]:
    """The definition that a recorded run is of; imports its module where need be. Raises `RunNotResumable`."""
    found = _at_home(key)
    module = key
    trouble = "import the module that defines it first"
    while found is None and "." in module:
        module = module.rpartition(".")[0]
        if module not in sys.modules:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                continue
            except Exception as error:
                trouble = f"importing {module} raises {describe(error)}"
                continue
        found = _at_home(key)
    if found is None:
        raise RunNotResumable(run_id, f"its flow {key} is not loaded; {trouble}")
    return found
