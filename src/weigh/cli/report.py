"""`weigh report`: measurements as one page to keep or to send."""

from __future__ import annotations

import time
from pathlib import Path

import click

from weigh.cli import options

MOST_REPORTED = 200


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.argument("asked", nargs=-1, metavar="[A B...]")
@click.option("--all-origins", is_flag=True, help="Imported ones too.")
@options.as_json
def report(file: str, asked: tuple[str, ...], all_origins: bool, as_json: bool) -> int:
    """Write FILE.html: one page of tables and plots that needs no network and no script.

    Of A, B and more, as for `weigh compare`; of all that was measured on or from this machine when none is named.
    What `weigh quality` measured of these models stands with it.
    Exit code 1 when there is nothing to report.
    """
    from weigh.advise.compare import compare, picked
    from weigh.cli.page import page
    from weigh.cli.render import Bold, print_json, show
    from weigh.cli.screens.ledger import held
    from weigh.cli.whole_file import write_whole
    from weigh.errors import BadInput
    from weigh.machine import probe
    from weigh.store import Store
    from weigh.store.measurement import measurements
    from weigh.store.quality_result import quality_results

    path = Path(file)
    if path.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"{path}: reports are pages", hint="end the name in .html")
    store = Store()
    results = quality_results(store, imported=all_origins)
    if asked:
        found = list({one.id: one for one in (picked(store, name) for name in asked)}.values())
        named = {(one.model, one.quantization) for one in found}
        results = [one for one in results if (one.model.name, one.model.quantization) in named]
    else:
        here = probe().fingerprint
        every = measurements(store, imported=all_origins)
        found = [one for one in every if one.origin or one.fingerprint in ("", here)][:MOST_REPORTED]
    results = results[:MOST_REPORTED]
    known = bool(found or results)
    if known:
        own = [one for one in results if one.origin is None]
        write_whole(path, page(compare(found, own), time.time(), results))
    if as_json:
        print_json(
            {
                "file": str(path) if known else None,
                "measurements": [one.id for one in found],
                "quality": [one.id for one in results],
            }
        )
    elif not known:
        show("nothing was measured yet; `weigh bench MODEL` and `weigh quality MODEL` do it")
    else:
        show(Bold(held(0, len(found), len(results))), f" written to {path}")
    return 0 if known else 1
