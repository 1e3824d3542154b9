"""Checkpoints made by transformers, converted, and held against transformers: token ids and log-probabilities."""

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weigh.engines.engine import Limits
from weigh.errors import BadFile, NotSupported
from weigh.model.gguf import read_gguf
from weigh.quality.scorer import ChildScorer, open_scorer
from weigh.shrink import ggml, quantize
from weigh.shrink.convert import CheckpointWeights
from weigh.shrink.quantize import Plan
from weigh.shrink.tokenizer import EXPRESSIONS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

VOCAB = 700
TEXT = (
    "def add(first, second):\n\t# Adds 12345 and 6.75\n    return first+second  # it's what I'll do\n\n\n"
    "  class Größe:   naïve café — «x» 日本語テキスト 🙂 don't WE'RE ÀB1c2\r\n   \n x = [1,2 , 300]  \n"
)
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def corpus() -> list[str]:
    return [TEXT, *(path.read_text() for path in sorted(Path(quantize.__file__).parent.glob("*.py")))]


def byte_level(cut: Any) -> Any:
    """A tokenizer trained on this project's text whose words are cut by `cut`."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = cut
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB - 3,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(corpus(), trainer)
    return made


def cut_by(expression: str) -> Any:
    steps = tokenizers.pre_tokenizers
    return steps.Sequence(
        [
            steps.Split(tokenizers.Regex(expression), "isolated"),
            steps.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


QWEN = next(expression for expression, name in EXPRESSIONS.items() if name == "qwen2")


def save(folder: Path, config: Any, tokenizer: Any) -> Any:
    """The model, in evaluation; its files are in the folder."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    for weight in model.parameters():  # norms that are all one would hide mistakes
        if weight.dim() == 1:
            weight.data += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return model


def converted(folder: Path) -> Path:
    weights = CheckpointWeights(folder)
    path = folder / "model.gguf"
    quantize.write(weights, Plan("as it is", {}), path)
    return path


def scorer(path: Path) -> ChildScorer:
    return open_scorer(read_gguf(path), context_tokens=256, limits=Limits(), threads=1)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SMALL),
    "llama, biases, tied": lambda: transformers.LlamaConfig(
        **SMALL | {"tie_word_embeddings": True, "attention_bias": True}
    ),
    "llama 3": lambda: transformers.LlamaConfig(
        **SMALL,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "linear": lambda: transformers.LlamaConfig(
        **SMALL, rope_parameters={"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
    ),
    "mistral": lambda: transformers.MistralConfig(**SMALL, head_dim=32),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=32),
    "gemma": lambda: transformers.GemmaConfig(**SMALL, head_dim=16),
    "gemma2": lambda: transformers.Gemma2Config(
        **SMALL, head_dim=16, query_pre_attn_scalar=16, sliding_window=16
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SMALL | {"num_hidden_layers": 7}, head_dim=16, query_pre_attn_scalar=16, sliding_window=16
    ),
    "phi3": lambda: transformers.Phi3Config(**SMALL),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_converted_model_gives_the_same_probabilities(family: str, tmp_path: Path) -> None:
    tokenizer = byte_level(cut_by(QWEN))
    model = save(tmp_path, FAMILIES[family](), tokenizer)
    ids = [0, *tokenizer.encode(TEXT, add_special_tokens=False).ids][:120]
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    theirs = torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
    with scorer(converted(tmp_path)) as engine:
        ours = engine.score(ids, 1).log_probs
    spread = float(np.std(theirs))
    assert spread > 0.5  # else all models would look alike
    assert np.max(np.abs(ours - theirs)) < 0.02 * max(1.0, spread)


@pytest.mark.parametrize("family", ["llama, biases, tied", "gemma2"])
def test_half_precision_is_kept_and_says_the_same(family: str, tmp_path: Path) -> None:
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        folder = tmp_path / str(dtype)
        folder.mkdir()
        model = save(folder, FAMILIES[family](), byte_level(cut_by(QWEN)))
        model.to(torch.bfloat16).to(dtype).save_pretrained(folder)
        weights = CheckpointWeights(folder)
        found[dtype] = {
            tensor.name: ggml.dequantize(weights.rows(tensor, 0, prod(tensor.shape[1:])), tensor.type)
            for tensor in weights.tensors
        }
        kept = {tensor.type.name for tensor in weights.tensors if len(tensor.shape) > 1}
        assert kept == {"BF16" if dtype is torch.bfloat16 else "F32"}
        assert all(t.type.name == "F32" for t in weights.tensors if len(t.shape) == 1)
    one, other = found.values()
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


CUTS: dict[str, Callable[[], Any]] = {
    **{name: (lambda expression=expression: cut_by(expression)) for expression, name in EXPRESSIONS.items()},
    "gpt-2": lambda: tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
}


@pytest.mark.parametrize("cut", CUTS)
def test_the_converted_tokenizer_gives_the_same_tokens(cut: str, tmp_path: Path) -> None:
    tokenizer = byte_level(CUTS[cut]())
    save(tmp_path, FAMILIES["llama"](), tokenizer)
    with scorer(converted(tmp_path)) as engine:
        for text in corpus():
            ours = engine.tokenize(text).tokens
            assert ours == tokenizer.encode(text, add_special_tokens=False).ids
        assert engine.special["bos"] == 0
        assert engine.special["eos"] == 1


def test_a_way_to_cut_words_that_llama_cpp_does_not_know_is_refused(tmp_path: Path) -> None:
    save(tmp_path, FAMILIES["llama"](), byte_level(cut_by(QWEN.replace(r"\p{N}|", r"\p{N}{1,2}|"))))
    with pytest.raises(NotSupported, match="no name for its expression"):
        CheckpointWeights(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt_neox"}, "`gpt_neox` are not converted"),
        ({"hidden_act": "relu"}, "its activation"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "rotary positions"),
    ],
)
def test_what_is_not_known_to_come_out_right_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    save(tmp_path, FAMILIES["llama"](), byte_level(cut_by(QWEN)))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(NotSupported, match=words):
        CheckpointWeights(tmp_path)


def test_heads_that_the_rows_are_not_of_are_told(tmp_path: Path) -> None:
    save(tmp_path, FAMILIES["llama"](), byte_level(cut_by(QWEN)))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 6, "head_dim": 16}))
    with pytest.raises(
        BadFile, match=r"`blk\.0\.attn_q\.weight` has 64 rows, and the config's 6 heads take 96"
    ):
        converted(tmp_path)
    assert not (tmp_path / "model.gguf").exists()


def test_text_that_is_no_unicode_is_told(tmp_path: Path) -> None:
    save(tmp_path, FAMILIES["llama"](), byte_level(cut_by(QWEN)))
    said = json.loads((tmp_path / "tokenizer.json").read_text())
    said["added_tokens"][1]["content"] = "\ud800"
    (tmp_path / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(BadFile, match="no Unicode"):
        CheckpointWeights(tmp_path)


def sentence_piece(*, prefix: bool, complete: bool = True) -> Any:
    """A tokenizer as transformers makes one of a SentencePiece model: every way to make a piece is a merge."""
    normalizers = tokenizers.normalizers
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("▁", "merged_with_next")
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=VOCAB - 262, show_progress=False)
    made.train_from_iterator(corpus(), trainer)
    trained = json.loads(made.to_str())["model"]
    pieces = sorted(trained["vocab"], key=trained["vocab"].get)
    special = ["<|begin|>", "<|end|>", "<unk>"]
    vocab = {text: n for n, text in enumerate([*special, *(f"<0x{b:02X}>" for b in range(256)), *pieces])}
    merges = [
        (text[:at], text[at:])
        for text in pieces
        for at in range(1, len(text))
        if text[:at] in vocab and text[at:] in vocab
    ]
    model = tokenizers.models.BPE(
        vocab, merges if complete else merges[::2], unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    found = tokenizers.Tokenizer(model)
    steps = [normalizers.Prepend("▁")] if prefix else []
    found.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    found.add_special_tokens(special)
    return found


@pytest.mark.parametrize("prefix", [False, True])
def test_a_sentence_piece_tokenizer_gives_the_same_tokens(prefix: bool, tmp_path: Path) -> None:
    tokenizer = sentence_piece(prefix=prefix)
    save(tmp_path, FAMILIES["llama"](), tokenizer)
    with scorer(converted(tmp_path)) as engine:
        for text in corpus():
            assert engine.tokenize(text).tokens == tokenizer.encode(text, add_special_tokens=False).ids


def test_merges_that_sentence_piece_would_not_have_are_refused(tmp_path: Path) -> None:
    save(tmp_path, FAMILIES["llama"](), sentence_piece(prefix=True, complete=False))
    with pytest.raises(NotSupported, match="not those of a SentencePiece model"):
        CheckpointWeights(tmp_path)
