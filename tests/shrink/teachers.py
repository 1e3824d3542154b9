"""A tiny teacher that was really trained for a moment, and the text it knows."""

from __future__ import annotations

import json
from pathlib import Path

from weigh.quality.text import Text

TEXTS = [
    Text(f"part{m}.py", m, "".join(f"def f{n}(a, b):\n    return a * {n * m} + b\n\n" for n in range(120)))
    for m in range(8)
]


def make_teacher(folder: Path) -> Path:
    """A Llama of 4 layers and a byte-level tokenizer, taught the texts for some steps."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    from weigh.shrink.training_text import training_windows

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.text for text in TEXTS], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    tokens = training_windows(folder, TEXTS, window_tokens=32, least=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        batch = tokens[torch.arange(step * 8, step * 8 + 8) % len(tokens)]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder
