"""The table of commands, and the one place where errors become messages and exit codes.

Exit codes: 0 done, 1 an expected failure, 2 wrong usage, 3 a bug in flashrl-registry, 130 interrupted.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import typer

from flashrl_cli import output
from flashrl_cli.commands import (
    announce,
    channel,
    cleanup,
    diff,
    doctor,
    evidence,
    explain,
    export,
    gc,
    import_,
    lint,
    lock,
    migrate,
    profile,
    profile_verify,
    pull,
    push,
    quality,
    report,
    schema,
    search,
    sensitivity,
    setup,
    show,
    sign,
    validate,
    verify,
    versions,
)
from flashrl_cli.commands import compile as compile_command
from flashrl_cli.commands import list as list_command
from flashrl_registry import __version__
from flashrl_registry.errors import FlashRLError

FLASHRL_COMMANDS: dict[str, Callable[..., None]] = {
    "profile": profile.profile,
    "setup": setup.setup,
    "cleanup": cleanup.cleanup,
    "doctor": doctor.doctor,
}
REGISTRY_COMMANDS: dict[str, Callable[..., None]] = {
    "compile": compile_command.compile_command,
    "profile-verify": profile_verify.profile_verify,
    "sensitivity": sensitivity.sensitivity,
    "quality": quality.quality,
    "report": report.report,
    "validate": validate.validate,
    "push": push.push,
    "sign": sign.sign,
    "pull": pull.pull,
    "list": list_command.list_command,
    "search": search.search,
    "versions": versions.versions,
    "channel": channel.channel,
    "deprecate": announce.deprecate,
    "yank": announce.yank,
    "restore": announce.restore,
    "evidence": evidence.evidence,
    "lock": lock.lock,
    "verify": verify.verify,
    "gc": gc.gc,
    "show": show.show,
    "explain": explain.explain,
    "diff": diff.diff,
    "lint": lint.lint,
    "migrate": migrate.migrate,
    "schema": schema.schema,
    "import": import_.import_command,
    "export": export.export,
    "doctor": doctor.doctor,
}
FLASHRL_HELP = "Measure checkpoint pairs for 8-bit rollouts inside vLLM. See also: flashrl-registry --help."
REGISTRY_HELP = (
    "Compile, check, publish and fetch plans for 8-bit rollouts inside vLLM. "
    "REF is a path, namespace/name[@version or channel], hf://owner/repo[@revision], or one of them with "
    "#sha256=<digest>."
)
_DEBUG = "--debug"
_EMPTY_OPTION = re.compile("--[a-z-]+=")
# The base of typer's usage errors has no public name, and has another home in every release.
_UsageError = cast("type[Exception]", typer.BadParameter.__base__)


def flashrl_main() -> None:
    """Console script ``flashrl``."""
    sys.exit(run("flashrl", sys.argv[1:]))


def registry_main() -> None:
    """Console script ``flashrl-registry``."""
    sys.exit(run("flashrl-registry", sys.argv[1:]))


def build(program: str) -> typer.Typer:
    """The typer application of a console script."""
    text, commands = (FLASHRL_HELP, FLASHRL_COMMANDS) if program == "flashrl" else (REGISTRY_HELP, REGISTRY_COMMANDS)
    # Without markup typer never imports rich, which alone would take --help over its 0.2 s.
    app = typer.Typer(
        name=program, help=text, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False,
        no_args_is_help=True,
    )  # fmt: skip
    app.callback()(_options)
    for name, function in commands.items():
        app.command(name)(function)
    return app


def run(program: str, arguments: Sequence[str]) -> int:
    """Run one command line.

    Args:
        program: ``flashrl`` or ``flashrl-registry``.
        arguments: Without the program's name.

    Returns:
        The exit code.
    """
    before_dashes = list(arguments)[: arguments.index("--")] if "--" in arguments else list(arguments)
    as_json = "--json" in before_dashes
    debug = _DEBUG in before_dashes or os.environ.get("FLASHRL_LOGGING_LEVEL", "").strip().upper() == "DEBUG"
    # --debug belongs to the program, but people add it at the end of the line that failed.
    arguments = [*(a for a in before_dashes if a != _DEBUG), *arguments[len(before_dashes) :]]
    try:
        code = _run(program, arguments, as_json=as_json, debug=debug)
        output.flush()
    except BrokenPipeError:
        output.discard()
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _run(program: str, arguments: Sequence[str], *, as_json: bool, debug: bool) -> int:
    try:
        _refuse_empty(arguments)
        code: Any = build(program)(args=arguments, prog_name=program, standalone_mode=False)
    except _UsageError as exc:
        if not as_json:
            exc.show()  # type: ignore[attr-defined]
        else:
            message = exc.format_message()  # type: ignore[attr-defined]
            output.failure(_error("usage", message, f"see {program} --help"), as_json=True)
        return 2
    except FlashRLError as exc:
        if debug:
            output.note(traceback.format_exc())
        output.failure(output.error_data(exc), as_json=as_json)
        return 1
    except BrokenPipeError:
        raise
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        output.failure(
            _error("os", f"{where}{exc.strerror or exc}", "check the path and its permissions"), as_json=as_json
        )
        return 1
    except Exception as exc:  # noqa: BLE001 - the boundary: whatever else arrives here is our bug
        if debug:
            output.note(traceback.format_exc())
        hint = "please report it with the command line" + ("" if debug else f"; {_DEBUG} prints the traceback")
        message = f"this is a bug in flashrl-registry {__version__}: {type(exc).__name__}: {exc}"
        output.failure(_error("bug", message, hint), as_json=as_json)
        return 3
    return code if isinstance(code, int) else 0


def _refuse_empty(arguments: Sequence[str]) -> None:
    """A shell makes one of a variable that is not set; as a path it would mean the current folder."""
    empty = [argument for argument in arguments if argument == "" or _EMPTY_OPTION.fullmatch(argument)]
    if empty:
        raise typer.BadParameter(f"{empty[0] or 'an argument'} is empty")


def _error(code: str, message: str, hint: str) -> dict[str, Any]:
    return {"code": code, "message": message, "hint": hint, "context": {}}


def _version(wanted: bool) -> None:
    if wanted:
        output.result({"version": __version__}, __version__, as_json=False)
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Print tracebacks.")] = False,
) -> None:
    """Options of the program; ``run`` has read them already."""
