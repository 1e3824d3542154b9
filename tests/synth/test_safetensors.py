"""Checkpoints that weigh writes: read back they are the model they were made of."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from tests.model.checkpoint_files import LLAMA_CONFIG
from weigh.errors import NotSupported
from weigh.model.checkpoint import read_checkpoint
from weigh.model.config import spec_from_config
from weigh.model.safetensors import read_header
from weigh.model.source import LocalFile
from weigh.model.stored_quantization import stored
from weigh.synth.safetensors import FAMILIES, write_checkpoint

MOE = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
MLA = {"kv_lora_rank": 32, "q_lora_rank": 48, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}
EVERYTHING = LLAMA_CONFIG | MOE | MLA | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_read_back_as_it_was_described(tmp_path: Path, family: str) -> None:
    config = EVERYTHING | {"model_type": family, "architectures": ["AnyForCausalLM"]}
    written_bytes = write_checkpoint(tmp_path / "m", config, weights=False)
    spec = read_checkpoint(tmp_path / "m")
    described = stored(spec_from_config("m", config), "BF16")
    assert {(g.name, g.shape, g.layers) for g in spec.tensors} == {
        (g.name, g.shape, g.layers) for g in described.tensors
    }
    assert spec.tensor_bytes == described.tensor_bytes == written_bytes
    assert (spec.quantization, spec.contradictions) == ("BF16", ())


def test_shards_and_their_index_belong_together(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", LLAMA_CONFIG, shard_bytes=60_000)
    names = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert len(names) > 2
    spec = read_checkpoint(tmp_path / "m")
    assert spec.contradictions == ()
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == LLAMA_CONFIG


def test_weights_are_small_and_norms_are_ones(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", LLAMA_CONFIG, scheme="F32")
    path = tmp_path / "m" / "model.safetensors"
    with LocalFile(path) as file:
        header = read_header(file)
    data = path.read_bytes()[header.header_bytes :]
    values = {t.name: struct.unpack(f"<{t.elements}f", data[t.start : t.end]) for t in header.tensors}
    assert set(values["model.norm.weight"]) == {1.0}
    query = values["model.layers.0.self_attn.q_proj.weight"]
    assert max(map(abs, query)) <= 0.04
    assert len(set(query)) > 1000


def test_without_weights_a_file_is_a_header_and_a_hole(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", LLAMA_CONFIG | {"vocab_size": 1_000_000}, weights=False)
    status = (tmp_path / "m" / "model.safetensors").stat()
    assert status.st_size > 2 * 2 * 64 * 1_000_000
    assert status.st_blocks * 512 < 1 << 20


def test_a_family_whose_names_are_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="checkpoints of `starcoder2` cannot be written yet"):
        write_checkpoint(tmp_path / "m", LLAMA_CONFIG | {"model_type": "starcoder2"})


def test_a_quantized_checkpoint_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="tensors of FP8_E4M3 cannot be written yet"):
        write_checkpoint(tmp_path / "m", LLAMA_CONFIG, scheme="FP8")
