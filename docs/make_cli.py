"""Write docs/cli.md from the commands' own help: `python docs/make_cli.py`."""

from pathlib import Path

import click

from weigh.cli.app import app

INTRO = """# Commands

<!-- made by docs/make_cli.py from the commands' own help; edit there -->

Exit codes: 0 done, 1 the answer is no (it does not fit, nothing meets the need), 2 bad input, 3 the engine failed,
130 interrupted.

Environment: `WEIGH_STORE` (file of calibrations and measurements), `WEIGH_ENGINE` (`embedded`, `llama-server` or a
path), `WEIGH_ENGINES` (folder of installed engines), `WEIGH_VLLM` (a `vllm` program), `NO_COLOR`.
"""


def page() -> str:
    group = click.Context(app, info_name="weigh", max_content_width=100)
    parts = [INTRO.rstrip(), f"## weigh\n\n```\n{app.get_help(group)}\n```"]
    parts += sections(app, "weigh")
    return "\n\n".join(parts) + "\n"


def sections(group: click.Group, above: str) -> list[str]:
    """One for each command, those of groups right after their group."""
    found: list[str] = []
    for name in sorted(group.commands):
        command, words = group.commands[name], f"{above} {name}"
        context = click.Context(command, info_name=words, max_content_width=100)
        found.append(f"## {words}\n\n```\n{command.get_help(context)}\n```")
        if isinstance(command, click.Group):
            found += sections(command, words)
    return found


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(page(), encoding="utf-8")
