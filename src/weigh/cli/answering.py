"""What most commands do around one call of the library: find the machine, show progress, print the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weigh.bench.here import Here
    from weigh.estimate.site import Site


def print_answer(as_json: bool, document: Callable[[Any], Any], screen: Callable[[Any], None]) -> None:
    """Print one of the two forms of an answer; the module of the other is not even imported."""
    if as_json:
        from weigh.cli import documents
        from weigh.cli.render import print_json

        print_json(document(documents))
    else:
        from weigh.cli import screens

        screen(screens)


@contextmanager
def site_asked_for(asked: tuple[Site, ...], *, calibrate: bool) -> Iterator[Site]:
    """The first device asked for; this machine when none is."""
    if asked:
        yield asked[0]
    else:
        with this_machine(calibrate=calibrate) as here:
            yield here


def asked_here(site: Site) -> Here:
    """Raises BadInput for a device that is only named: no engine runs there."""
    from weigh.bench.here import Here
    from weigh.errors import BadInput

    if not isinstance(site, Here):
        raise BadInput("the engine can be asked on this machine only", hint="leave out --on or --ask-engine")
    return site


@contextmanager
def this_machine(*, calibrate: bool, again: bool = False) -> Iterator[Here]:
    """This machine, calibrated now if it has to be, with a progress line while that takes."""
    from weigh.bench.here import here

    with progress_line("Measuring this machine (once, about 40 s)") as progress:
        found = here(calibrate=calibrate, again=again, progress=progress)
    yield found


@contextmanager
def progress_line(title: str, expected_s: float | None = None) -> Iterator[Any]:
    from weigh import units
    from weigh.cli.render import ProgressLine

    line = ProgressLine(f"{title}, about {units.seconds(expected_s)}" if expected_s else title)
    try:
        yield line
    finally:
        line.close()
