"""One byte-level BPE tokenizer for every size, cut into words as Qwen2 does, which llama.cpp knows by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ladder.corpus import SourceFile

VOCABULARY = 2048  # entries, special tokens among them
CONTEXT_TOKENS = 512
GGUF_PRE_TOKENIZER = "qwen2"  # llama.cpp's name for WORDS below

END_OF_TEXT = "<|endoftext|>"
FILE_SEPARATOR = "<|file_sep|>"
FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
SPECIAL_TOKENS = (END_OF_TEXT, FILE_SEPARATOR, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)

# As in Qwen2's tokenizer.json (Apache-2.0). A line's end and its indentation are words of their own, and digits
# stand alone.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(files: Iterable[SourceFile]) -> Tokenizer:
    """A tokenizer of `VOCABULARY` entries; the same files in the same order give the same one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((file.text for file in files), trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json, as transformers reads them."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[FILE_SEPARATOR, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE],
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_TOKENS,
    )
    fast.save_pretrained(str(folder))
