"""Which task or flow a recorded run is of: definitions by the name under which Python would import them."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from .errors import RunNotResumable
from .tracebacks import describe

if TYPE_CHECKING:
    from .definition import Definition

_definitions: WeakValueDictionary[str, Definition[..., Any]] = WeakValueDictionary()


def remember_definition(definition: Definition[..., Any]) -> None:
    """Let the definition be found by its key when a run of it is to go on."""
    _definitions[definition.key] = definition


def find_definition(run_id: str, key: str) -> Definition[..., Any]:
    """The definition that a recorded run is of; imports its module where need be. Raises `RunNotResumable`."""
    found = _definitions.get(key)
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
        found = _definitions.get(key)
    if found is None:
        raise RunNotResumable(run_id, f"its flow {key} is not loaded; {trouble}")
    return found
