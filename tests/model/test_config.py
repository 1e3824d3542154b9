"""Configs: true ones end in the tensors a converted file has, damaged ones in one clear line."""

import json

import pytest

from tests.model.test_architectures import COUNTED
from weigh.errors import BadFile, BadInput, NotSupported
from weigh.model.architectures import FAMILIES
from weigh.model.catalog import catalog
from weigh.model.config import read_config, spec_from_config
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import MixerKind

LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192},
}


def tensor(spec, name):
    return next(t for t in spec.tensors if t.name == name)


def test_llama_3_2_1b_weight_by_weight():
    spec = spec_from_config("llama", LLAMA)
    attention = 2 * 2048 * 2048 + 2 * 2048 * 512
    feed_forward = 3 * 2048 * 8192
    norms = 2 * 2048
    rope_factors = 32
    expected = 128256 * 2048 + 16 * (attention + feed_forward + norms) + 2048 + rope_factors
    assert spec.parameters == spec.active_parameters == expected
    assert spec.tied_embeddings
    assert tensor(spec, "blk.{}.ffn_down.weight").shape == (8192, 2048)
    assert tensor(spec, "blk.{}.attn_k.weight").shape == (2048, 512)
    assert tensor(spec, "rope_freqs.weight").shape == (32,)


def test_matrices_are_f16_and_vectors_f32():
    spec = spec_from_config("llama", LLAMA)
    assert {t.type for t in spec.tensors if len(t.shape) > 1} == {GgmlType.F16}
    assert {t.type for t in spec.tensors if len(t.shape) == 1} == {GgmlType.F32}


def test_the_header_holds_what_the_converter_writes():
    hyper = spec_from_config("llama", LLAMA).hyper
    assert hyper["block_count"] == 16
    assert hyper["context_length"] == 131072
    assert hyper["attention.head_count_kv"] == 8
    assert hyper["attention.key_length"] == 64
    assert hyper["attention.layer_norm_rms_epsilon"] == 1e-5
    assert hyper["rope.freq_base"] == 500000.0


def test_a_model_that_also_sees_is_its_text_part():
    nested = {"model_type": "mistral3", "vision_config": {"hidden_size": 1}, "text_config": LLAMA}
    assert spec_from_config("m", nested).parameters == spec_from_config("m", LLAMA).parameters


def test_fields_that_a_published_config_leaves_to_its_class_are_filled_in():
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }
    gemma = spec_from_config("gemma", {"model_type": "gemma3", "text_config": text})
    assert gemma.tensors == catalog().by_id["google/gemma-3-4b-it"].spec().tensors
    assert gemma.context_train == 131072


def test_routed_experts_that_a_token_skips_are_not_active():
    config = LLAMA | {
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 512,
    }
    spec = spec_from_config("moe", config)
    experts = 16 * 8 * 3 * 2048 * 512
    assert spec.parameters - spec.active_parameters == experts * 6 // 8
    assert tensor(spec, "blk.{}.ffn_gate_inp.weight").type is GgmlType.F32


def test_layers_of_a_hybrid_have_either_attention_or_a_state():
    spec = catalog().by_id["Qwen/Qwen3.5-9B"].spec()
    full = tuple(range(3, 32, 4))
    assert tensor(spec, "blk.{}.attn_v.weight").layers == full
    assert set(tensor(spec, "blk.{}.ssm_out.weight").layers) == set(range(32)) - set(full)
    kinds = {m.kind: m.layers for m in spec.mixers}
    assert kinds[MixerKind.FULL] == full


def test_latent_attention_caches_one_head():
    spec = catalog().by_id["deepseek-ai/DeepSeek-V3"].spec()
    (mixer,) = spec.mixers
    assert (mixer.kind, mixer.kv_heads, mixer.value_dim) == (MixerKind.LATENT, 1, 512)


def test_a_folder_and_its_file_are_the_same_model(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert read_config(folder) == read_config(folder / "config.json")
    assert read_config(folder).name == "my-model"


def test_an_unknown_architecture_is_named():
    with pytest.raises(NotSupported, match="`hyena`"):
        spec_from_config("h", {"model_type": "hyena"})


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "vocab_size", "model_type"])
def test_a_missing_field_is_named(field):
    with pytest.raises(BadInput, match=f"`{field}` is missing"):
        spec_from_config("m", {k: v for k, v in LLAMA.items() if k != field})


ABSURD = [-1, 0, 1.5, True, "many", [], {}, 10**12, 10**5000, float("nan"), float("inf")]


@pytest.mark.parametrize(
    "value", ABSURD, ids=lambda v: type(v).__name__ + (str(v)[:6] if v != 10**5000 else "")
)
@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads"])
def test_an_absurd_value_is_one_line(field, value):
    with pytest.raises(BadInput) as caught:
        spec_from_config("m", LLAMA | {field: value})
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


def test_no_field_of_any_family_can_break_it_with_a_wrong_type():
    """Every field of every catalog entry, replaced by each wrong thing, gives a model or a clear refusal."""
    seen: dict[str, object] = {}
    for entry in catalog():
        if entry.unsupported is None:
            seen.setdefault(str(entry.config["model_type"]), entry.config)
    for config in seen.values():
        assert isinstance(config, dict)
        for field in config:
            for wrong in (None, -3, 1, "x", [1, "x"], {"a": 1}, 1 << 40):
                try:
                    spec = spec_from_config("m", config | {field: wrong})
                except BadInput:
                    continue
                assert all(n > 0 for t in spec.tensors for n in t.shape), (field, wrong)


def test_every_family_is_tried_by_the_catalog_or_is_a_second_name_of_one_that_is():
    tried = {FAMILIES[str(e.config["model_type"])] for e in catalog().by_id.values()}
    tried |= {
        FAMILIES[str(m["config"]["model_type"])] for m in COUNTED.values() if "text_config" not in m["config"]
    }
    assert {name for name, family in FAMILIES.items() if family not in tried} == {"jina_bert"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[1, 2]",
        b"null",
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b'{"hidden_size": ' + b"9" * 10_000,
    ],
    ids=["empty", "words", "list", "null", "binary", "deep", "endless"],
)
def test_a_file_that_is_no_config_is_a_bad_file(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"config\.json"):
        read_config(path)


def test_a_missing_file_and_a_huge_one_are_bad_files(tmp_path):
    with pytest.raises(BadFile, match="cannot be read"):
        read_config(tmp_path / "config.json")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadFile, match="not a config"):
        read_config(tmp_path)


def test_a_bad_value_in_a_file_names_the_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"hidden_size": -1}))
    with pytest.raises(BadFile, match=r"config\.json.*`hidden_size` is -1"):
        read_config(tmp_path)


def test_a_default_that_stands_for_a_missing_field_is_noted():
    assert spec_from_config("m", LLAMA).notes == ()
    bare = {k: v for k, v in LLAMA.items() if k not in ("head_dim", "tie_word_embeddings")}
    (note,) = spec_from_config("m", bare).notes
    assert (
        note
        == "missing from the config, and taken as its class has it: `head_dim` 64, `tie_word_embeddings` false"
    )
