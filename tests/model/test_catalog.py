"""The catalog: what it says of itself has to agree with what its shapes add up to."""

from dataclasses import replace
from datetime import date

import pytest

from weigh.model.catalog import catalog, entry_called, entry_of


def test_it_holds_every_model_once():
    assert len(catalog()) == 240
    assert len(catalog().by_id) == 240 + len(catalog().embedding)
    assert catalog() is catalog()


def test_every_total_recomputes_within_one_percent():
    off = {}
    for entry in catalog():
        if entry.stated_total:
            deviation = (entry.recomputed or 0) / entry.stated_total - 1
            if abs(deviation) > 0.01:
                off[entry.id] = deviation
    assert off == {}


def test_nearly_all_totals_recompute_exactly():
    def is_exact(entry):
        # rope factors, router biases: the converter adds what the published count leaves out
        return abs((entry.recomputed or 0) - entry.stated_total) <= 32768

    stated = [entry for entry in catalog() if entry.stated_total]
    assert len([entry for entry in stated if not is_exact(entry)]) < 8


def test_the_explanation_names_the_parts_the_stated_total_counts():
    entry = catalog().by_id["Qwen/Qwen3.5-9B"]
    assert entry.explanation == ("language model 8.95B + encoder 456M + prediction layers 243M: as stated")
    assert entry.recomputed == entry.stated_total == 9653104368


def test_the_explanation_names_what_the_stated_total_leaves_out():
    entry = catalog().by_id["deepseek-ai/DeepSeek-V3"]
    assert "without prediction layers (13.5B)" in entry.explanation
    assert entry.recomputed == entry.spec().parameters


def test_parts_beside_the_language_model_count_in_none_of_its_sums():
    spec = catalog().by_id["google/gemma-3-4b-it"].spec()
    assert sum(t.total_elements for t in spec.beside) == 419816304
    assert spec.parameters == 3880099328
    assert {t.name.split(".")[0] for t in spec.beside} == {"v", "mm"}


def test_every_entry_is_worked_out():
    assert [entry.id for entry in catalog() if entry.unsupported] == []


@pytest.mark.parametrize(
    ("model", "context"),
    [
        ("mistralai/Mistral-7B-v0.1", 32768),
        ("google/gemma-3-4b-it", 131072),
        ("microsoft/Phi-3.5-mini-instruct", 131072),
        ("internlm/internlm3-8b-instruct", 32768),
    ],
)
def test_known_slips_are_corrected_and_noted(model, context):
    entry = catalog().by_id[model]
    assert entry.spec().context_train == context
    assert "corrected" in entry.notes


def test_dates_are_days_or_unknown():
    dates = [entry.release_date for entry in catalog()]
    assert all(d is None or date(2018, 1, 1) < d < date(2027, 1, 1) for d in dates)
    assert dates.count(None) < 60


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("qwen3 8b", "Qwen/Qwen3-8B"),
        ("Qwen3-8B-GGUF", "Qwen/Qwen3-8B"),
        ("unsloth/Qwen3-8B", None),
        ("Qwen3-8B-mine", None),
        ("Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),  # the base model, not the one tuned from it
        ("GGUF", None),
        ("", None),
    ],
)
def test_a_name_means_the_model_of_exactly_that_name(name: str, found: str | None) -> None:
    entry = entry_called(name)
    assert (entry and entry.id) == found


def test_a_file_is_the_catalogs_model_when_name_and_shapes_agree() -> None:
    spec = catalog().by_id["Qwen/Qwen3-8B"].spec()
    assert entry_of(replace(spec, name="Qwen3 8B")) is catalog().by_id["Qwen/Qwen3-8B"]
    assert entry_of(replace(spec, name="Qwen3-4B")) is None
    assert entry_of(replace(spec, layers=spec.layers - 1)) is None
    assert entry_of(replace(spec, tensors=spec.tensors[1:])) is None
    assert entry_of(replace(spec, name="tiny")) is None
