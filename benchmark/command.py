"""The frame of the command line: one-line errors, exit codes, help texts that keep their examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from touchneedle.conf.errors import InputError

BENCH_PACKAGES = frozenset(
    {"hydra", "omegaconf", "hydra_plugins", "joblib", "lightning", "zuko", "nflows", "normflows"}
    | {"pandas", "sklearn", "ot", "jinja2", "matplotlib", "seaborn"}
)
INSTALL_BENCH = "pip install 'touchneedle[bench]'"
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Python file that registers toys or estimators; may be repeated."),
]

Results = Annotated[Path, typer.Argument(help="Folder of records.", metavar="RESULTS")]


class OneLineErrors(TyperGroup):
    """Shows what a user can cause as one line on stderr; ``--debug``, anywhere, shows the traceback instead."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take ``--debug`` out, wherever it stands."""
        ctx.obj = {"debug": "--debug" in args}
        return super().parse_args(ctx, [word for word in args if word != "--debug"])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn expected errors into one line and an exit code."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (InputError, OSError, ImportError, KeyboardInterrupt) as error:
            if ctx.obj["debug"]:
                raise
            message, code = _describe(error)
            typer.echo(message if code == INTERRUPTED else f"touchneedle: error: {message}", err=True)
            raise typer.Exit(code) from error


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; repeat the command to go on", INTERRUPTED
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    if isinstance(missing, ModuleNotFoundError) and (missing.name or "").partition(".")[0] in BENCH_PACKAGES:
        return f"this needs the package {missing.name}, which is not installed; {INSTALL_BENCH}", BAD_INPUT
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}", BAD_INPUT
    return " ".join(str(error).split("\n")), BAD_INPUT


app = typer.Typer(
    cls=OneLineErrors,
    name="touchneedle",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(name: str | None = None, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command; indented blocks of its docstring (examples) are shown as they are written."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        return app.command(name, help=keep_blocks(function.__doc__ or ""), **settings)(function)

    return register


def keep_blocks(text: str) -> str:
    """Mark indented paragraphs, so that they are not wrapped."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(f"\b\n{part}" if part.startswith("  ") else part for part in paragraphs)
