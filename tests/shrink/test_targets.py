"""Mixes chosen by what is measured, with the real engine on a very small model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.shrink.models import gaussian_model
from weigh.errors import BadInput, EngineError
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf_encoding import NewTensor
from weigh.quality.text import Text, Texts
from weigh.shrink import ggml, judging, quantize, targets
from weigh.shrink.gguf_file import GgufWeights, value_of
from weigh.shrink.judging import Judge
from weigh.shrink.quantize import Plan
from weigh.shrink.sensitivity import Sensitivity, WorkingCopy, grouped, measure, relative_error
from weigh.shrink.targets import Job

LINE = "the model is weighed before it is run, and 7 of its layers are looked at.\n"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(judging, "WINDOW_TOKENS", 128)
    path = gaussian_model(
        tmp_path / "model.gguf",
        num_hidden_layers=1,
        intermediate_size=256,
        num_attention_heads=4,
        vocab_size=320,
    )
    text = Text("text", 0, LINE * 10)  # a token for each letter: five windows
    return Job(GgufWeights(path), path, Judge(Texts((text,), 0), threads=1), tmp_path / "made.gguf")


def left_over(job: Job) -> list[str]:
    return sorted(path.name for path in job.out.parent.iterdir())


def test_a_recipe_is_judged_by_the_engine(job: Job) -> None:
    nats = []
    for recipe in ("Q8_0", "Q4_K_M", "Q2_K"):
        made = targets.to_recipe(job, recipe)
        assert made.divergence is not None
        nats.append(made.divergence.kl.value)
        assert made.bytes == job.out.stat().st_size
    assert 0 < nats[0] < 0.1 * nats[1] < 0.1 * nats[2]
    assert left_over(job) == ["made.gguf", "model.gguf"]


def test_a_type_that_needs_a_matrix_is_made_with_one_measured_on_the_text(job: Job) -> None:
    guided = targets.with_importance(job, "some text")
    made = targets.to_recipe(guided, "Q2_K_S")
    assert made.divergence is not None
    assert made.divergence.kl.value > 0
    entries = GgufWeights(job.out).entries
    assert value_of(entries, "quantize.imatrix.dataset") == "some text"
    assert value_of(entries, "quantize.imatrix.entries_count") == 8  # seven of the layer, and the output
    assert left_over(job) == ["made.gguf", "model.gguf"]


def test_the_mix_for_a_size_beats_the_recipe_of_that_size(job: Job) -> None:
    recipe = targets.to_recipe(job, "Q4_K_M")
    mix = targets.by_size(job, recipe.bytes)
    assert mix.bytes <= recipe.bytes
    assert mix.divergence is not None
    assert recipe.divergence is not None
    assert mix.expected_nats is not None
    assert mix.divergence.kl.value < recipe.divergence.kl.value
    assert 0.5 < mix.divergence.kl.value / mix.expected_nats < 2
    assert left_over(job) == ["made.gguf", "model.gguf"]


def test_the_mix_for_a_loss_keeps_it_and_no_more_bytes_than_it_takes(job: Job) -> None:
    loose, strict = (targets.by_loss(job, nats) for nats in (0.2, 0.02))
    for made, most in ((loose, 0.2), (strict, 0.02)):
        assert made.divergence is not None
        assert 0.3 * most < made.divergence.kl.value <= most
    assert loose.bytes < strict.bytes == job.out.stat().st_size
    assert left_over(job) == ["made.gguf", "model.gguf"]


def test_a_size_below_all_mixes_and_a_text_too_short_are_told(job: Job) -> None:
    with pytest.raises(BadInput, match="no mix of this model is smaller"):
        targets.by_size(job, 1000)
    with pytest.raises(BadInput, match="4 are needed at least"):
        targets.by_size(replace(job, judge=Judge(Texts((Text("short", 0, LINE * 5),), 0))), 1 << 30)
    assert left_over(job) == ["model.gguf"]


# --- sensitivities, with a divergence that is known ----------------------------------------------------


def copy_of(job: Job, path: Path) -> tuple[WorkingCopy, list[NewTensor]]:
    tensors = targets.mixable(job.weights)
    quantize.write(job.weights, Plan("F16", {t.name: GgmlType.F16 for t in tensors}), path)
    return WorkingCopy(path), tensors


def squared_change(job: Job, path: Path, tensors: Sequence[NewTensor], by: dict[str, float]) -> float:
    """The relative squared error of each tensor in the copy, times what it is said to count."""
    now = GgufWeights(path)
    total = 0.0
    for tensor in tensors:
        rows = tensor.elements // tensor.shape[0]
        before = ggml.dequantize(job.weights.rows(tensor, 0, rows), tensor.type)
        after = ggml.dequantize(now.rows(tensor, 0, rows), GgmlType.F16)
        total += by[tensor.name] * float(np.square(after - before).sum() / np.square(before).sum())
    return total


def test_sensitivities_are_those_that_the_divergence_has(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "copy.gguf"
    copy, tensors = copy_of(job, path)
    before = path.read_bytes()
    counts = {tensor.name: float(n + 1) for n, tensor in enumerate(tensors)}
    found = measure(job.weights, copy, lambda: squared_change(job, path, tensors, counts), grouped(tensors))
    assert path.read_bytes() == before  # all is put back
    for tensor in tensors:
        for type in (GgmlType.Q3_K, GgmlType.Q6_K):
            error = relative_error(job.weights, tensor, type, None)
            assert found[tensor.name].loss(error) == pytest.approx(counts[tensor.name] * error, rel=0.1)


def test_an_engine_that_does_not_see_the_copy_is_found_out(job: Job, tmp_path: Path) -> None:
    copy, tensors = copy_of(job, tmp_path / "copy.gguf")
    with pytest.raises(EngineError, match="does not read the working copy"):
        measure(job.weights, copy, lambda: 0.25, grouped(tensors[:2]))


def test_between_two_probes_losses_lie_on_the_line_of_logarithms() -> None:
    found = Sensitivity(((0.01, 0.2), (0.1, 2.0)))
    assert found.loss(0.01) == pytest.approx(0.2)
    assert found.loss(0.1) == pytest.approx(2.0)
    assert found.loss(0.03) == pytest.approx(0.6)
    assert found.loss(0.0) == 0


def test_many_tensors_are_rounded_in_groups_of_one_role() -> None:
    tensors = [
        NewTensor(f"blk.{layer}.{role}.weight", (256, 256), GgmlType.F16)
        for layer in range(30)
        for role in ("attn_q", "ffn_up")
    ]
    groups = grouped([*tensors, NewTensor("output.weight", (256, 256), GgmlType.F16)], most=12)
    assert len(groups) <= 12
    assert sum(map(len, groups)) == 61
    assert all(len({t.name.split(".")[-2] for t in group}) == 1 for group in groups)
    assert len(grouped(tensors)) == 60
