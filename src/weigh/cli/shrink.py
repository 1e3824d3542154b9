"""`weigh shrink`: smaller models, with the loss measured."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weigh import units
from weigh.cli import distill, options
from weigh.errors import BadInput

if TYPE_CHECKING:
    from weigh.model.spec import ModelSpec
    from weigh.shrink.targets import Shrunk
    from weigh.store.measurement import Measurement


@click.group()
def shrink() -> None:
    """Make a smaller model of one, and measure what it loses."""


shrink.add_command(distill.distill)


@shrink.command()
@click.argument("source")
@click.argument("recipe", required=False, metavar="[TYPE]")
@click.option(
    "--size", type=options.Bytes(), help="Best mix of formats within a file of this size, e.g. 4GiB."
)
@click.option(
    "--loss",
    type=click.FloatRange(0, min_open=True),
    help="Smallest mix that diverges by at most so many nats, e.g. 0.02.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="File or folder of text that the loss is measured on.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The file or folder to write (default: beside SOURCE)."
)
@click.option(
    "--imatrix",
    type=click.Path(path_type=Path),
    help="Importance matrix, as `llama-imatrix` writes it.",
)
@click.option(
    "--make-imatrix", is_flag=True, help="Measure an importance matrix on --text first, and round by it."
)
@click.option("--requantize", is_flag=True, help="Allow a SOURCE that is quantized already.")
@click.option("--force", is_flag=True, help="Replace the file to write if there is one.")
@click.option("--bench", is_flag=True, help="Measure the speed before and after, half a minute each.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads that measure (default: all cores).")
@options.as_json
def quantize(
    source: str,
    recipe: str | None,
    size: int | None,
    loss: float | None,
    text: Path | None,
    out: Path | None,
    imatrix: Path | None,
    make_imatrix: bool,
    requantize: bool,
    force: bool,
    bench: bool,
    threads: int | None,
    as_json: bool,
) -> int:
    """Store SOURCE, a GGUF file or a folder of safetensors files, in fewer bits.

    TYPE is one of llama.cpp's, such as Q4_K_M or IQ4_XS: what comes out is a GGUF file, its tensors as
    `llama-quantize` makes them. With --size or --loss each tensor's format is chosen by what rounding it costs,
    measured on --text; that takes two copies of the model in F16 in memory, and some time.

    W4A16 (int4), W8A16, W8A8 and FP8-DYNAMIC make a folder of a folder, which vLLM and transformers load.
    """
    if sum(given is not None for given in (recipe, size, loss)) != 1:
        raise click.UsageError("name one of: a TYPE such as Q4_K_M, --size, --loss")
    if recipe is None and text is None:
        raise click.UsageError("--size and --loss choose by what is measured on a text; add --text")
    if requantize and recipe is None:
        raise click.UsageError("--requantize goes with a TYPE; mixes are made of unquantized weights")
    if make_imatrix and (text is None or imatrix is not None):
        raise click.UsageError("--make-imatrix measures on --text, and leaves no room for --imatrix")
    from weigh.cli.render import ProgressLine
    from weigh.model.resolve import resolve
    from weigh.quality.text import read_texts
    from weigh.shrink import targets
    from weigh.shrink.compressed import rounding_named
    from weigh.shrink.imatrix import read_imatrix
    from weigh.shrink.judging import Judge
    from weigh.shrink.source import open_weights

    rounding = rounding_named(recipe) if recipe is not None else None
    if rounding is not None and (imatrix is not None or make_imatrix or requantize or force or bench):
        raise click.UsageError(
            f"{rounding.name} is a type of folders: --imatrix, --make-imatrix, --requantize, --force and --bench "
            "go with GGUF files"
        )
    spec = resolve(source)
    with closing(ProgressLine(f"Shrinking {spec.name}")) as progress:
        judge = Judge(
            read_texts(text) if text is not None else None,
            threads=threads,
            say=lambda what, done, of: progress(what, done / of if of else 1.0),
        )
        if rounding is not None:
            made = targets.to_rounding(
                spec, rounding, judge, _target(spec, rounding.name, "", out, force=False)
            )
        else:
            named = (
                recipe.upper() if recipe else units.gib(size).replace(" ", "") if size else f"loss-{loss:g}"
            )
            job = targets.Job(
                open_weights(spec),
                spec.file if spec.format == "gguf" else None,
                judge,
                _target(spec, named, ".gguf", out, force=force),
                read_imatrix(imatrix) if imatrix is not None else None,
            )
            if make_imatrix:
                assert text is not None
                job = targets.with_importance(job, text.name)
            if recipe is not None:
                made = targets.to_recipe(job, recipe.upper(), requantize=requantize)
            elif size is not None:
                made = targets.by_size(job, size)
            else:
                assert loss is not None
                made = targets.by_loss(job, loss)
    speeds = _speeds(source, made, threads) if bench else {}
    if as_json:
        from weigh.cli.render import print_json
        from weigh.cli.shrink_document import shrink_document

        print_json(shrink_document(spec, made, speeds))
    else:
        from weigh.cli.screens.shrink import show_shrunk

        show_shrunk(spec, made, speeds)
    return 0


def _target(spec: ModelSpec, named: str, ending: str, out: Path | None, *, force: bool) -> Path:
    """The file or folder to write, which is not there yet unless it may be replaced."""
    if spec.file is None:
        raise BadInput(
            f"{spec.name} is not on this machine as a file, so it cannot be shrunk",
            hint="name a GGUF file or a folder of safetensors files; `weigh models` lists what is here",
        )
    if out is None:
        file = spec.file.absolute()
        out = file.with_name(f"{file.name if file.is_dir() else file.stem}-{named}{ending}")
    if out.exists() and spec.file.exists() and out.samefile(spec.file):
        raise BadInput(f"{out} is the model itself", hint="name another with --out")
    if out.is_dir() and ending:
        raise BadInput(f"{out} is a folder", hint="name a file with --out")
    if out.exists() and not force:
        replace = "add --force to replace it, or " if ending else ""
        raise BadInput(f"{out} is there already", hint=f"{replace}name another with --out")
    return out


def _speeds(source: str, made: Shrunk, threads: int | None) -> dict[str, Measurement]:
    """What a short benchmark says, by `before` and `after`; a checkpoint is run by another engine, so left out."""
    from weigh.bench.measure import Asked
    from weigh.cli.bench import run_bench
    from weigh.model.ggml_types import GgmlType
    from weigh.model.resolve import resolve

    settings, _ = options.settings_and_workload(
        context=None,
        prompt=512,
        output=64,
        depth=0,
        parallel=1,
        kv_type=GgmlType.F16,
        threads=threads,
    )
    asked = Asked(output_tokens=64, precision=0.05, most_s=30.0, starts=0)
    found = {}
    for when, model in (("before", source), ("after", str(made.path))):
        if resolve(model).format == "gguf":
            done = run_bench(model, None, asked, settings, timeout_s=None, calibrate=False)
            if done.ended is not None:
                raise done.ended
            found[when] = done.measurement
    return found
