"""The program `weigh`: its group of commands, and how errors become one line and an exit code.

Exit codes: 0 done, 1 the answer is no, 2 bad input, 3 the engine failed, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys

import click

from weigh.cli import (
    bench,
    check,
    commands,
    compare,
    engines,
    options,
    quality,
    report,
    returns,
    shrink,
    watch,
)
from weigh.errors import BadInput, EngineError, NotKept, WeighError

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _ReaderGone(Exception):
    """Whoever read the output has closed it."""


class _Group(click.Group):
    """Says which command was probably meant."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would end with 1, which means no here
            raise _ReaderGone from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from difflib import get_close_matches

            from weigh.errors import UnknownName

            close = get_close_matches(name, list(self.commands), n=2)
            raise UnknownName("command", name, close=close, hint="see `weigh --help`")
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, invoke_without_command=True, context_settings=_SETTINGS)
@click.version_option(package_name="weigh", message="%(prog)s %(version)s")
@options.as_json
@options.no_calibrate
@click.pass_context
def app(ctx: click.Context, as_json: bool, no_calibrate: bool) -> int | None:
    """Weigh a language model before you run it.

    Without a command: this machine in a few lines, and the best models for a coding assistant on it.
    The first call measures the machine, about 40 seconds; later calls answer at once.
    """
    if ctx.invoked_subcommand is not None:
        return None
    found: int = ctx.invoke(commands.recommend, as_json=as_json, no_calibrate=no_calibrate)
    return found


for command in (
    *commands.ALL,
    bench.bench,
    check.check,
    compare.compare,
    engines.engines,
    report.report,
    quality.quality,
    returns.returns,
    shrink.shrink,
    *watch.ALL,
):
    app.add_command(command)


@app.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script for SHELL; e.g. eval "$(weigh completion bash)"."""
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None  # the choice above lists only shells click knows
    click.echo(script(app, {}, "weigh", "_WEIGH_COMPLETE").source())
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; every error on purpose becomes one line and an exit code."""
    _spell_out_what_the_locale_lacks()
    try:
        code = app.main(args=arguments, prog_name="weigh", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "weigh"
        print(f"{command}: {_sentence(error.format_message())}; see `{command} --help`", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except (BrokenPipeError, _ReaderGone):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest when it ends
        return 141  # 128 and SIGPIPE, as a shell says it
    except WeighError as error:
        _tell(error)
        if isinstance(error, NotKept) and error.path is None:
            print(json.dumps(error.document))  # the last copy there is
        return 2 if isinstance(error, BadInput) else 3 if isinstance(error, EngineError) else 2


_PLAIN = {"–": "-", "·": "|", "▶": ">", "…": "...", "×": "x", "━": "=", "─": "-", "≥": ">=", "≤": "<="}


def _spell_out_what_the_locale_lacks() -> None:
    """In a locale without Unicode, such as ``LC_ALL=C``, print near characters instead of failing."""
    import codecs
    import io

    def plain(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.encoding or "").lower() not in ("utf-8", "utf8"):
            codecs.register_error("weigh.plain", plain)
            stream.reconfigure(errors="weigh.plain")


def _sentence(text: str) -> str:
    """Click's messages end in a full stop and begin in upper case; weigh's do not."""
    text = text.replace(". Did you mean ", "; did you mean ").replace("?; ", "; ")
    return " ".join((text[:1].lower() + text[1:]).rstrip(".?").split())


def _tell(error: WeighError) -> None:
    hint = f"; {error.hint}" if error.hint else ""
    print(f"weigh: {error.message}{hint}", file=sys.stderr)
