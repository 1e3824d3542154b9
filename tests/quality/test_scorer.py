"""Log-probabilities and divergences from real models in a child process, and what can go wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.model.checkpoint_files import LLAMA_CONFIG
from tests.quality.scoring import ENGLISH, opened, synthetic
from weigh.engines.engine import Limits
from weigh.errors import BadFile, BadInput, EngineCrashed, EngineTimeout, OutOfMemory
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf_encoding import pair as pair_of
from weigh.model.resolve import resolve
from weigh.quality import scorer as scorer_module
from weigh.quality.scorer import ChildScorer, open_scorer
from weigh.synth import gguf
from weigh.synth.safetensors import write_checkpoint

VOCAB = 300


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic(tmp_path_factory.mktemp("models") / "one.gguf", vocab=VOCAB)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic(tmp_path_factory.mktemp("models") / "other.gguf", GgmlType.Q8_0, vocab=VOCAB)


@pytest.fixture(scope="module")
def scorer(model: Path) -> Iterator[ChildScorer]:
    with opened(model) as running:
        yield running


@pytest.fixture(scope="module")
def pair(model: Path, other: Path) -> Iterator[ChildScorer]:
    with opened(other, model) as running:
        yield running


# --- what it answers ---------------------------------------------------------------------------------


def test_tokens_and_where_they_end(scorer: ChildScorer) -> None:
    text = "def f():\n    return 'naïve 🙂'\n"
    made = scorer.tokenize(text)
    assert made.ends_bytes is not None
    assert made.ends_bytes[-1] == len(text.encode())
    assert len(made.tokens) == len(made.ends_bytes)
    assert made.ends_bytes == sorted(made.ends_bytes)
    assert made.whole
    assert (scorer.vocab, scorer.start, scorer.adds_bos) == (VOCAB, VOCAB - 2, True)


def test_special_tokens_in_a_text_are_plain_text(scorer: ChildScorer) -> None:
    assert scorer.special["eos"] not in scorer.tokenize("<|1|><end></s><|endoftext|>").tokens


def test_divergence_is_that_of_the_whole_distributions(pair: ChildScorer) -> None:
    before = pair.tokenize(ENGLISH[:8]).tokens
    found = [pair.compare([*before, token], len(before)) for token in range(VOCAB)]
    log_p = np.array([one.reference_log_probs[0] for one in found])
    log_q = np.array([one.log_probs[0] for one in found])
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-5)
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-5)
    by_hand = float(np.sum(np.exp(log_p) * (log_p - log_q)))
    assert by_hand > 1e-4
    assert found[0].kl_nats[0] == pytest.approx(by_hand, rel=1e-4)
    assert bool(found[0].same_top[0]) == (log_p.argmax() == log_q.argmax())
    # of two models the reference answers alone
    best = pair.score([*before, int(log_p.argmax())], len(before))
    assert best.top[0]
    assert best.log_probs[0] == log_p.max()
    assert not pair.score([*before, int(log_p.argmin())], len(before)).top[0]


def test_a_model_does_not_diverge_from_itself(model: Path) -> None:
    with opened(model, model) as same:
        found = same.compare(same.tokenize(ENGLISH[:300]).tokens, 1)
    assert found.kl_nats.max() == 0
    assert found.same_top.all()
    assert (found.log_probs == found.reference_log_probs).all()
    assert len(found.log_probs) == 299


def test_each_token_is_judged_by_those_before_it_alone(scorer: ChildScorer) -> None:
    tokens = scorer.tokenize(ENGLISH[:400]).tokens
    whole = scorer.score(tokens, 1).log_probs
    assert scorer.score(tokens, 300).log_probs == pytest.approx(whole[299:], abs=0.02)
    assert scorer.score(tokens[:300], 1).log_probs == pytest.approx(whole[:299], abs=0.02)
    changed = [*tokens[:399], (tokens[399] + 1) % VOCAB]
    assert scorer.score(changed, 1).log_probs[:-1] == pytest.approx(whole[:-1], abs=1e-6)


def test_windows_it_cannot_take_are_refused_in_one_line(scorer: ChildScorer) -> None:
    for tokens, first, said in (
        ([5] * 600, 1, "exceed the window of 513"),
        ([5, VOCAB], 1, f"outside the vocabulary of {VOCAB}"),
        ([5, -1], 1, "outside the vocabulary"),
        ([5], 1, "none is judged"),
        ([5, 6], 0, "none is judged"),
    ):
        with pytest.raises(BadInput, match=said) as error:
            scorer.score(tokens, first)
        assert "\n" not in error.value.message
    assert len(scorer.score([5] * 513, 1).log_probs) == 512  # and the process lives on


def test_a_beginning_that_the_file_does_not_name_is_not_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp would take token 11, which GPT-2's vocabulary had there."""
    entries = gguf._tokenizer(VOCAB)
    names = (b"tokenizer.ggml.bos_token_id", b"tokenizer.ggml.eos_token_id")
    without_bos = (
        *(one for one in entries if names[0] not in one),
        pair_of("tokenizer.ggml.add_bos_token", False),
    )
    without_both = tuple(one for one in without_bos if names[1] not in one)
    for kept, start in ((without_bos, VOCAB - 1), (without_both, None)):
        monkeypatch.setattr(gguf, "_tokenizer", lambda vocab, kept=kept: kept)
        with opened(synthetic(tmp_path / "m.gguf", vocab=VOCAB)) as scorer:
            assert (scorer.start, scorer.adds_bos) == (start, False)


def test_a_text_that_the_tokens_do_not_spell_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vocabulary without a letter: llama.cpp leaves it out, and nobody has to foretell it."""
    entries = tuple(
        one.replace(b"\1\0\0\0\0\0\0\0z", b"\1\0\0\0\0\0\0\0\x7f") for one in gguf._tokenizer(VOCAB)
    )
    monkeypatch.setattr(gguf, "_tokenizer", lambda vocab: entries)
    with opened(synthetic(tmp_path / "m.gguf", vocab=VOCAB)) as scorer:
        assert scorer.tokenize("a lay dog").whole
        assert not scorer.tokenize("a lazy dog").whole


# --- what goes wrong ---------------------------------------------------------------------------------


def test_models_of_different_vocabularies_are_not_compared(model: Path, tmp_path: Path) -> None:
    larger = synthetic(tmp_path / "larger.gguf", vocab=VOCAB + 20)
    before = children()
    with pytest.raises(EngineCrashed, match=r"vocabularies of 300 and 320 tokens") as error:
        opened(larger, model)
    assert "\n" not in error.value.message
    assert children() == before


def test_a_model_that_is_no_file_is_refused() -> None:
    spec = catalog().by_id["Qwen/Qwen3-0.6B"].spec()
    with pytest.raises(BadInput, match="no GGUF file"):
        open_scorer(spec, context_tokens=512, limits=Limits())


def test_a_file_that_has_vanished_and_a_damaged_one_are_one_line(tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", vocab=VOCAB)
    spec = resolve(str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    before = children()
    with pytest.raises(EngineCrashed) as error:
        open_scorer(spec, context_tokens=512, limits=Limits(), threads=1)
    assert "\n" not in error.value.message
    with pytest.raises(BadFile):
        resolve(str(path))
    assert children() == before


def test_a_hang_and_a_death_are_one_clear_line(model: Path) -> None:
    before = children()
    with opened(model, limits=Limits(silence_s=0.5)) as hanging:
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(EngineTimeout, match="silent for 500 ms"):
            hanging.score([5] * 100, 1)
        assert children() == before
    with opened(model) as dying:
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineCrashed, match="SIGKILL"):
            dying.score([5] * 100, 1)
    assert children() == before


def test_memory_beyond_the_limit_ends_the_child(model: Path) -> None:
    before = children()
    with pytest.raises(OutOfMemory, match=r"limit of 10\.0 MiB"):
        opened(model, limits=Limits(memory_bytes=10 << 20))
    assert children() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("api._CONTEXT_PARAMS = (('n_ctx', api.c_uint32, 4096), *api._CONTEXT_PARAMS[1:])", "n_ctx is 512"),
        (
            "api._MODEL_PARAMS = (*api._MODEL_PARAMS[:2], ('n_gpu_layers', api.c_int32, 99))",
            "n_gpu_layers is -1",
        ),
        ("api._SIGNATURES['llama_no_such'] = (None, ())", "exports no llama_no_such"),
    ],
)
def test_a_library_of_another_layout_is_refused_by_name(change: str, said: str) -> None:
    """In a process of its own: the library is not to be loaded beside other tests."""
    call = "try: api.library()\nexcept Exception as e: print(e, e.hint)"
    code = f"import weigh.quality.llama_api as api\n{change}\n{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said in done.stdout
    assert "xllamacpp 20" in done.stdout
    assert "pip install xllamacpp==" in done.stdout
    assert done.stdout.count("\n") == 1


# --- checkpoints -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights and a byte-level tokenizer of 256 letters and two marks."""
    if not (find_spec("torch") and find_spec("transformers")):
        pytest.skip("torch and transformers are not installed")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_checkpoint(folder, LLAMA_CONFIG | {"dtype": "float32"}, scheme="F32")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate([*letters, "<s>", "</s>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )
    return folder


def test_a_checkpoint_answers_as_a_gguf_file_does(checkpoint: Path) -> None:
    spec = resolve(str(checkpoint))
    with open_scorer(spec, context_tokens=256, limits=Limits(), threads=1, reference=spec) as scorer:
        text = "naïve 🙂 <s>\n"
        made = scorer.tokenize(text)
        assert len(made.tokens) == len(text.encode())
        assert made.ends_bytes is not None
        assert made.ends_bytes[-1] == len(text.encode())
        assert (scorer.vocab, scorer.start) == (300, 256)
        tokens = scorer.tokenize(ENGLISH[:200]).tokens
        whole = scorer.score(tokens, 1).log_probs
        assert scorer.score(tokens, 150).log_probs == pytest.approx(whole[149:], abs=1e-4)
        assert -whole.mean() == pytest.approx(np.log(300), abs=0.1)  # random weights foretell nothing
        same = scorer.compare(tokens, 100)
        assert same.kl_nats.max() == 0
        assert same.log_probs == pytest.approx(whole[99:], abs=1e-4)


def test_a_checkpoint_whose_tokenizer_names_no_beginning_has_the_one_of_its_config(
    checkpoint: Path, tmp_path: Path
) -> None:
    """As the GGUF file made of it (Qwen's checkpoints are of this kind); transformers' own ids mean nothing."""
    cases = [
        ({"bos_token_id": 7}, {"bos": 7, "eos": None}),
        ({"bos_token_id": None, "eos_token_id": [9, 7]}, {"bos": None, "eos": 9}),
        ({}, {"bos": None, "eos": None}),
    ]
    folders = [str(shutil.copytree(checkpoint, tmp_path / str(number))) for number, _ in enumerate(cases)]
    for folder, (own, _) in zip(map(Path, folders), cases, strict=True):
        for name, without in (("tokenizer_config.json", "_token"), ("config.json", "os_token_id")):
            said = json.loads((folder / name).read_text())
            kept = {key: value for key, value in said.items() if not key.endswith(without)}
            (folder / name).write_text(json.dumps(kept | own if name == "config.json" else kept))
    code = """
import json, sys
from scoring_child import TransformersModel
models = [TransformersModel(folder, {"threads": 1, "exact": True}) for folder in sys.argv[1:]]
print(json.dumps([[model.special, model.adds_bos] for model in models]))
print(json.dumps([models[number].tokens("Naïve\\n")[2] for number in (0, 2)]))
"""
    lower = json.loads((Path(folders[2]) / "tokenizer.json").read_text()) | {
        "normalizer": {"type": "Lowercase"}
    }
    (Path(folders[2]) / "tokenizer.json").write_text(json.dumps(lower))
    child = Path(scorer_module.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, *folders], cwd=child, capture_output=True, text=True, check=True
    )
    special, whole = map(json.loads, done.stdout.splitlines())
    assert special == [[special, False] for _, special in cases]
    assert whole == [True, False]


def test_two_kinds_of_files_are_not_compared(checkpoint: Path, model: Path) -> None:
    with pytest.raises(BadInput, match="two engines"):
        open_scorer(
            resolve(str(model)), context_tokens=256, limits=Limits(), reference=resolve(str(checkpoint))
        )
