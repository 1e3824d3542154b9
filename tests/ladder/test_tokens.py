"""The ladder's tokenizer and its stream of windows: the same everywhere, and nothing lost on the way."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ladder.corpus import Corpus, SourceFile, read_corpus

tokenizers = pytest.importorskip("tokenizers")

from ladder.stream import held_out_windows, in_the_middle, named, noisy, training_windows  # noqa: E402
from ladder.tokenizer import CONTEXT_TOKENS, SPECIAL_TOKENS, VOCABULARY, train_tokenizer  # noqa: E402

SEED = 5


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus()


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> tokenizers.Tokenizer:
    return train_tokenizer(corpus.training)


def test_the_same_files_give_the_same_tokenizer(corpus: Corpus, tokenizer: tokenizers.Tokenizer) -> None:
    assert train_tokenizer(corpus.training).to_str() == tokenizer.to_str()
    assert tokenizer.get_vocab_size() == VOCABULARY


def test_any_text_comes_back_byte_by_byte(tokenizer: tokenizers.Tokenizer) -> None:
    text = "def f(x):\n\tif x >= 1024:\r\n        return 'Zürich 東京 🎲'  # \x00 \n\n\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_each_special_token_is_one_id(tokenizer: tokenizers.Tokenizer) -> None:
    assert tokenizer.encode("".join(SPECIAL_TOKENS)).ids == list(range(len(SPECIAL_TOKENS)))


def test_digits_stand_alone_and_lines_end_words(tokenizer: tokenizers.Tokenizer) -> None:
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("x = 1024\n    return x").ids]
    assert pieces[:6] == ["x", " =", " ", "1", "0", "2"]
    assert "\n" in pieces


def test_the_stretches_of_a_file_put_together_again_are_the_file() -> None:
    text = "".join(f"line {number} of the text\n" for number in range(200))
    joined = ""
    for sample in in_the_middle(SourceFile("a.py", text), random.Random(SEED)):
        prefix, rest = sample.removeprefix("<|fim_prefix|>").split("<|fim_suffix|>")
        suffix, middle = rest.removesuffix("<|endoftext|>").split("<|fim_middle|>")
        joined += prefix + middle + suffix
    assert joined == text


def test_noise_strikes_the_stated_share_of_characters() -> None:
    text = ("~" * 79 + "\n") * 500
    struck = noisy(SourceFile("a.py", text), random.Random(SEED)).text
    assert len(struck) == len(text)
    assert struck.count("\n") == 500
    # 39,500 draws at 3 %, of which 1 in 94 draws the same sign again: 1,172 expected, a standard deviation of 34
    assert 1000 < sum(a != b for a, b in zip(struck, text, strict=True)) < 1350


def test_the_same_seed_gives_the_same_windows(corpus: Corpus, tokenizer: tokenizers.Tokenizer) -> None:
    files = corpus.training[:40]
    windows = [training_windows(files, tokenizer, windows=50, seed=seed) for seed in (SEED, SEED, SEED + 1)]
    assert windows[0].shape == (50, CONTEXT_TOKENS + 1)
    assert np.array_equal(windows[0], windows[1])
    assert not np.array_equal(windows[0], windows[2])


def test_held_out_windows_predict_each_token_once(corpus: Corpus, tokenizer: tokenizers.Tokenizer) -> None:
    files = corpus.held_out[:5]
    windows = held_out_windows(files, tokenizer)
    tokens = tokenizer.encode("".join(named(file) for file in files)).ids
    predicted = windows[:, 1:].ravel().tolist()
    assert predicted == tokens[1 : len(predicted) + 1]
    assert len(tokens) - len(predicted) <= CONTEXT_TOKENS
