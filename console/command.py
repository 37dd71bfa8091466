"""The command line: the group of all verbs, and how anything that goes wrong is told.

A mistake of the user's is one line on stderr and exit code 2; what went wrong inside a flow is its failure, and exit
code 1. The verbs themselves are in the modules `verbs_…`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Any

try:
    import click
    import rich as _rich  # noqa: F401
except ModuleNotFoundError as missing:
    if missing.name not in ("click", "rich"):
        raise
    print(f'undertow: the command line needs {missing.name}: pip install "undertow[cli]"', file=sys.stderr)
    raise SystemExit(2) from None

from ..engine.errors import UndertowError
from .options import EXIT_CODES, FAILURE, INTERRUPTED, SUCCESS, complain
from .verbs_act import cancel, resume
from .verbs_bench import bench_verb
from .verbs_care import completion, doctor, version
from .verbs_config import config
from .verbs_draw import graph, report
from .verbs_logs import logs
from .verbs_look import ls, show, why
from .verbs_run import run
from .verbs_schedules import list_schedules, schedule
from .verbs_serve import serve

VERBS = (
    *(run, ls, show, why, logs, graph, report, resume, cancel),
    *(serve, list_schedules, schedule, bench_verb, config, doctor, completion, version),
)


class CommandLine(click.Group):
    """A group whose every error is one line on stderr, and whose verbs are listed in the order of their use."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        plainly: Callable[..., Any] = super().main
        if not standalone_mode:
            return plainly(*args, standalone_mode=False, **extra)
        code: Any = FAILURE
        try:
            code = plainly(*args, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            code = complain(_with_usage(error))
        except UndertowError as error:
            code = complain(str(error))
        except (KeyboardInterrupt, click.Abort):
            code = complain("interrupted", INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output has seen enough; what is still in the buffer must not fail at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(code if isinstance(code, int) else SUCCESS)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _with_usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = " ".join(error.format_message().split())
    return message if context is None else f"{message} (See {context.command_path} --help.)"


@click.group(
    "undertow",
    cls=CommandLine,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
@click.version_option(version_of("undertow"), message="undertow %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run flows, and look at what ran."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _verb in VERBS:
    cli.add_command(_verb)


def main() -> None:
    """The `undertow` command."""
    cli(prog_name="undertow")
