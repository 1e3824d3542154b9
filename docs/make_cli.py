"""Write docs/cli.md from the commands' own help: `python docs/make_cli.py`."""

from pathlib import Path

import click

from weigh.cli.app import app

INTRO = """# Commands

<!-- made by docs/make_cli.py from the commands' own help; edit there -->

Exit codes: 0 done, 1 the answer is no (it does not fit, nothing meets the need), 2 bad input, 3 the engine failed,
130 interrupted.

Environment: `WEIGH_STORE` (file of calibrations and measurements), `WEIGH_ENGINE` (`embedded`, `llama-server` or a
path), `NO_COLOR`.
"""


def page() -> str:
    group = click.Context(app, info_name="weigh", max_content_width=100)
    parts = [INTRO.rstrip(), f"## weigh\n\n```\n{app.get_help(group)}\n```"]
    for name in app.list_commands(group):
        command = app.commands[name]
        context = click.Context(command, info_name=f"weigh {name}", max_content_width=100)
        parts.append(f"## weigh {name}\n\n```\n{command.get_help(context)}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(page(), encoding="utf-8")
