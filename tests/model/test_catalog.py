"""The catalog: what it says of itself has to agree with what its shapes add up to."""

from datetime import date

import pytest

from weigh.errors import BadInput
from weigh.model.catalog import catalog

# Totals as published that count more than the language model a GGUF holds; each entry's notes say what.
COUNTED_MORE = {
    "vision": (
        "Qwen3.5",
        "Qwen3.6",
        "gemma-3",
        "gemma-3n",
        "gemma-4",
        "Mistral-Small-3",
        "Ministral-3",
        "Devstral-Small-2",
        "Llama-4",
    ),
    "multi-token prediction": ("Qwen3-Next", "GLM-4.", "GLM-5", "Super-120B", "MiMo"),
    "buffers or a second copy": ("falcon-7b", "pythia", "gpt2"),
}


def test_it_holds_every_model_once():
    assert len(catalog()) == len(catalog().by_id) == 240
    assert catalog() is catalog()


def test_parameters_recompute_to_the_stated_total_within_one_percent():
    off = {}
    for entry in catalog():
        if entry.unsupported is None and entry.stated_total:
            deviation = entry.spec().parameters / entry.stated_total - 1
            if abs(deviation) > 0.01:
                off[entry.id] = deviation
    explained = [part for parts in COUNTED_MORE.values() for part in parts]
    assert [i for i in off if not any(part in i for part in explained)] == []
    assert all(deviation < 0 for deviation in off.values())


def test_entries_that_count_more_say_so():
    for entry in catalog():
        if entry.unsupported is None and entry.stated_total:
            deviation = entry.spec().parameters / entry.stated_total - 1
            assert abs(deviation) < 0.01 or entry.notes, entry.id


def test_most_totals_recompute_exactly():
    exact = [
        entry
        for entry in catalog()
        if entry.unsupported is None
        and abs(entry.spec().parameters - (entry.stated_total or 0)) <= 4096  # rope factors, router biases
    ]
    assert len(exact) > 175


def test_what_cannot_be_worked_out_says_why():
    refused = [entry for entry in catalog() if entry.unsupported]
    assert 0 < len(refused) < 12
    for entry in refused:
        with pytest.raises(BadInput, match=entry.id):
            entry.spec()


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
