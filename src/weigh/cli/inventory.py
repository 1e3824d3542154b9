"""`weigh machine`, `devices`, `model` and `models`: what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weigh.cli import options
from weigh.cli.answering import print_answer, site_asked_for, this_machine

if TYPE_CHECKING:
    from weigh.estimate.site import Site

_NO = 1


@click.command()
@click.option("--calibrate", is_flag=True, help="Measure again: about 40 seconds.")
@click.option("--doctor", is_flag=True, help="What each probe saw, for a bug report; nothing is measured.")
@options.on
@options.as_json
def machine(calibrate: bool, doctor: bool, named: str | None, as_json: bool) -> int:
    """What was found here: processors, memory, GPUs, disk, and what was measured.

    With --on: what is known of a device that is only named.
    """
    if (named is not None) + calibrate + doctor > 1:
        raise click.UsageError("--on, --calibrate and --doctor ask for different things; give one of them")
    if named is not None:
        (site,) = options.sites([named], None, None, None)
        print_answer(as_json, lambda d: d.target_document(site.target), lambda s: s.show_target(site.target))
        return 0
    if doctor:
        from weigh.machine.doctor import examine

        found = examine()
        print_answer(as_json, lambda d: d.doctor_document(found), lambda s: s.show_doctor(found))
        return 0
    with this_machine(calibrate=calibrate, again=calibrate) as here:
        print_answer(as_json, lambda d: d.here_document(here), lambda s: s.show_machine(here))
    return 0


@click.command()
@click.argument("name", required=False)
@options.as_json
def devices(name: str | None, as_json: bool) -> int:
    """The devices weigh knows by name, or those whose name holds NAME."""
    from weigh.machine.device_sheets import known_devices

    found = known_devices(name or "")
    print_answer(as_json, lambda d: d.devices_document(found), lambda s: s.show_devices(found, name or ""))
    return 0 if found else _NO


@click.command()
@click.argument("model")
@options.as_json
def model(model: str, as_json: bool) -> int:
    """What MODEL is made of: parameters, number formats, bits per weight, KV cache per token.

    MODEL is a GGUF file, a safetensors folder, a config.json, ollama:NAME, hf:ORG/NAME, or a catalog name
    such as qwen2.5-coder-7b, with an optional quantization: llama-3.1-8b:Q4_K_M.
    """
    from weigh.model.resolve import resolve

    spec = resolve(model)
    print_answer(as_json, lambda d: d.model_document(spec), lambda s: s.show_model(spec))
    return 0


@click.command()
@click.argument("folders", nargs=-1, type=click.Path())
@options.device
@options.as_json
def models(
    folders: tuple[str, ...],
    asked: tuple[Site, ...],
    as_json: bool,
) -> int:
    """The models already on this machine, where they lie, and whether they fit.

    Looked through: Ollama's store, the Hugging Face cache, LM Studio's and llama.cpp's folders, FOLDERS with
    what lies in them, and the current folder.
    """
    from pathlib import Path

    from weigh.advise.shelf import shelf

    with site_asked_for(asked, calibrate=False) as site:
        found = shelf([Path(folder) for folder in folders], site)
        print_answer(as_json, lambda d: d.shelf_document(found), lambda s: s.show_shelf(found, site))
    return 0
