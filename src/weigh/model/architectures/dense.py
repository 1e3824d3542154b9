"""Architectures whose every layer is attention and a dense feed-forward."""

from __future__ import annotations

from weigh.errors import BadInput
from weigh.model.architectures.draft import Draft
from weigh.model.architectures.fields import Fields
from weigh.model.ggml_types import GgmlType


def llama(c: Fields) -> Draft:
    """Llama 1 to 3, Mistral, Yi, Falcon 3, SmolLM 1 and 2, and many others under that name."""
    return _llama_like("llama", c)


def mistral3(c: Fields) -> Draft:
    """Ministral 3, whose context is stretched by YaRN."""
    return _llama_like("mistral3", c)


def smollm3(c: Fields) -> Draft:
    """SmolLM 3: every fourth layer without rotary positions, which changes no shape."""
    return _llama_like("smollm3", c, tied=True)


def internlm2(c: Fields) -> Draft:
    return _llama_like("internlm2", c)


def ernie4_5(c: Fields) -> Draft:
    return _llama_like("ernie4_5", c, tied=True)


def _llama_like(architecture: str, c: Fields, *, tied: bool = False) -> Draft:
    d = Draft(architecture, c)
    d.embeddings(tied=tied)
    llama_rope_factors(d)
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    if c.flag("attention_bias") or c.flag("use_bias"):
        d.attention_biases(output=True)
    d.gated_ffn()
    return d


def llama_rope_factors(d: Draft) -> None:
    """The frequency factors of Llama 3.1 and later, when the config asks for them."""
    if d.rope().text("rope_type", d.rope().text("type")).lower() == "llama3":
        d.add("rope_freqs.weight", (d.head_dim // 2,), GgmlType.F32)


def granite(c: Fields) -> Draft:
    """Granite 3 and the dense Granite 4: Llama's tensors, four multipliers in the header."""
    d = _llama_like("granite", c, tied=True)
    granite_multipliers(d)
    return d


def granite_multipliers(d: Draft) -> None:
    for field, key in (
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ):
        d.hyper[key] = d.c.number(field, default=1.0)


def arcee(c: Fields) -> Draft:
    """Arcee AFM: squared ReLU, so no gate."""
    d = Draft("arcee", c)
    d.embeddings()
    llama_rope_factors(d)
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.plain_ffn()
    return d


def apertus(c: Fields) -> Draft:
    """Apertus: xIELU, whose four learned numbers per layer are in the header, and no gate."""
    d = Draft("apertus", c)
    for key, start in (("alpha_n", 0.8), ("alpha_p", 0.8), ("beta", 0.5), ("eps", -1e-6)):
        d.hyper[f"xielu.{key}"] = (start,) * d.count
    d.embeddings()
    llama_rope_factors(d)
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.head_norms()
    d.plain_ffn()
    return d


def qwen2(c: Fields) -> Draft:
    """Qwen 1.5, 2 and 2.5: biases on query, key and value."""
    return _qwen2("qwen2", c)


def mimo(c: Fields) -> Draft:
    """MiMo 7B: Qwen 2's tensors, and a layer that predicts a further token."""
    d = _qwen2("qwen2", c)
    d.predict(c.count("num_nextn_predict_layers", default=0, least=0, most=64), _qwen2_layer)
    return d


def qwen2vl(c: Fields) -> Draft:
    """Qwen 2-VL and 2.5-VL: Qwen 2's tensors, with positions in three dimensions."""
    d = _qwen2("qwen2vl", c)
    d.hyper["rope.dimension_sections"] = _rope_sections(d, (16, 24, 24))
    return d


def _qwen2(architecture: str, c: Fields) -> Draft:
    d = Draft(architecture, c)
    d.embeddings()
    _qwen2_layer(d)
    return d


def _qwen2_layer(d: Draft) -> None:
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.attention_biases()
    d.gated_ffn()


def _rope_sections(d: Draft, default: tuple[int, ...]) -> tuple[int, ...]:
    """Rotated dimensions for time, height and width; the engine wants four numbers."""
    sections = d.rope().counts("mrope_section", most=1024) or default
    return (*sections, 0, 0, 0, 0)[:4]


def qwen3(c: Fields) -> Draft:
    """Qwen 3: query and key are normalised head by head."""
    d = Draft("qwen3", c)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.head_norms()
    d.gated_ffn()
    return d


def qwen3vl(c: Fields) -> Draft:
    """Qwen 3-VL: Qwen 3's tensors, with positions in three dimensions."""
    d = qwen3(c)
    d.architecture = "qwen3vl"
    add_positions_of_images(d)
    return d


def add_positions_of_images(d: Draft) -> None:
    """What Qwen 3-VL's header holds beyond Qwen 3's."""
    d.hyper["rope.dimension_sections"] = _rope_sections(d, (24, 20, 20))
    seen = d.c.section("vision_config").counts("deepstack_visual_indexes", most=511)
    d.hyper["n_deepstack_layers"] = len(seen)


def seed_oss(c: Fields) -> Draft:
    d = Draft("seed_oss", c)
    d.embeddings()
    d.norms("attn_norm", "post_attention_norm")
    d.attention()
    if c.flag("attention_bias", True):
        d.attention_biases()
    d.gated_ffn()
    return d


def exaone4(c: Fields) -> Draft:
    """EXAONE 4: norms after, not before; the 32B slides over three layers of four."""
    d = Draft("exaone4", c)
    if c.has("sliding_window") or d.count == 64:
        d.sliding(c.count("sliding_window", default=4096), 4)
    d.embeddings()
    llama_rope_factors(d)
    d.norms("post_attention_norm", "post_ffw_norm")
    d.attention()
    d.head_norms()
    d.gated_ffn()
    return d


def olmo2(c: Fields) -> Draft:
    """OLMo 2 and 3: norms after, query and key normalised over all heads; OLMo 3 slides."""
    d = Draft("olmo2", c)
    if c.has("sliding_window"):
        d.sliding(c.count("sliding_window"), 4)
    d.embeddings()
    d.norms("post_attention_norm", "post_ffw_norm")
    d.attention()
    d.exact("attn_q_norm", d.heads * d.head_dim)
    d.exact("attn_k_norm", d.kv_heads * d.head_dim)
    d.gated_ffn()
    return d


def phi2(c: Fields) -> Draft:
    """Phi 1, 1.5 and 2: attention and feed-forward side by side, biases everywhere."""
    d = Draft("phi2", c, norm="layer")
    d.hyper["rope.dimension_count"] = int(d.head_dim * partial_rotary(d, 0.5))
    d.embeddings(bias=True)
    d.add("output.bias", (d.vocab,), GgmlType.F32)
    d.norms("attn_norm", bias=True)
    d.attention()
    d.attention_biases(output=True)
    d.plain_ffn(bias=True)
    return d


def phi3(c: Fields) -> Draft:
    """Phi 3, 3.5 and 4: query, key and value fused, and gate and up fused."""
    d = Draft("phi3", c)
    d.hyper["rope.dimension_count"] = rotated = int(d.head_dim * partial_rotary(d))
    d.hyper["attention.sliding_window"] = c.count("sliding_window", default=0, least=0)
    d.embeddings()
    d.norms("attn_norm", "ffn_norm")
    d.fused_attention()
    d.matrix("ffn_up", d.hidden, 2 * d.width)
    d.matrix("ffn_down", d.width, d.hidden)
    long_rope_factors(d, rotated)
    return d


def long_rope_factors(d: Draft, rotated: int) -> None:
    """Frequency factors for short and for long contexts (Phi's LongRoPE)."""
    if d.hyper.get("rope.scaling.type") == "longrope":
        d.add("rope_factors_long.weight", (rotated // 2,), GgmlType.F32)
        d.add("rope_factors_short.weight", (rotated // 2,), GgmlType.F32)


def partial_rotary(d: Draft, default: float = 1.0) -> float:
    """The part of each head that is rotated."""
    part = d.rope().number(
        "partial_rotary_factor", default=d.c.number("partial_rotary_factor", "rotary_pct", default=default)
    )
    if not 0 < part <= 1:
        raise BadInput(f"{d.c.origin}: `partial_rotary_factor` is {part:g}, expected at most 1")
    return part


def glm4(c: Fields) -> Draft:
    """GLM 4 (0414): gate and up fused, norms before and after; biases in the 9B."""
    d = Draft("glm4", c)
    d.hyper["rope.dimension_count"] = int(d.head_dim * partial_rotary(d, 0.5))
    d.embeddings()
    d.norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    d.attention()
    if c.flag("attention_bias"):
        d.attention_biases()
    d.matrix("ffn_up", d.hidden, 2 * d.width)
    d.matrix("ffn_down", d.width, d.hidden)
    return d


def command_r(c: Fields) -> Draft:
    """Command R and Aya: one norm for attention and feed-forward, embeddings tied."""
    d = Draft("command-r", c, norm="layer")
    d.hyper["logit_scale"] = c.number("logit_scale", default=0.0625)
    d.hyper["rope.scaling.type"] = "none"
    d.embeddings(tied=True)
    d.norms("attn_norm")
    if c.flag("use_qk_norm"):
        d.exact("attn_q_norm", d.head_dim, d.heads)
        d.exact("attn_k_norm", d.head_dim, d.kv_heads)
    d.attention()
    d.gated_ffn()
    return d


def cohere2(c: Fields) -> Draft:
    """Command R7B and A: three sliding layers, then a full one."""
    d = Draft("cohere2", c, norm="layer")
    d.hyper["logit_scale"] = c.number("logit_scale", default=0.25)
    d.hyper["rope.scaling.type"] = "none"
    d.sliding(c.count("sliding_window", default=4096), 4)
    d.hyper.pop("attention.sliding_window_pattern")  # the engine knows it
    d.embeddings(tied=True)
    d.norms("attn_norm")
    d.attention()
    d.gated_ffn()
    return d


def starcoder2(c: Fields) -> Draft:
    d = Draft("starcoder2", c, norm="layer")
    d.embeddings(tied=True, bias=True)
    d.norms("attn_norm", "ffn_norm", bias=True)
    d.attention()
    d.attention_biases(output=True)
    d.plain_ffn(bias=True)
    return d


def stablelm(c: Fields) -> Draft:
    """StableLM 2 and 3B: partial rotation; the 1.6B has biases on query, key and value."""
    d = Draft("stablelm", c, norm="layer")
    d.hyper["rope.dimension_count"] = int(d.head_dim * partial_rotary(d, 0.25))
    d.hyper["use_parallel_residual"] = c.flag("use_parallel_residual")
    d.embeddings(bias=True)
    d.norms("attn_norm", "ffn_norm", bias=True)
    d.attention()
    if c.flag("use_qkv_bias"):
        d.attention_biases()
    d.gated_ffn()
    return d


def falcon(c: Fields) -> Draft:
    """Falcon 7B, 40B and 180B: fused attention; the two larger have a second norm."""
    d = Draft("falcon", c, norm="layer")
    d.width = d.hyper["feed_forward_length"] = 4 * d.hidden
    d.embeddings(tied=True, bias=True)
    d.norms("attn_norm", bias=True)
    if c.flag("new_decoder_architecture", d.kv_heads > 1):
        d.norms("attn_norm_2", bias=True)
    d.fused_attention()
    d.plain_ffn()
    return d


def gptneox(c: Fields) -> Draft:
    """GPT-NeoX and Pythia."""
    d = Draft("gptneox", c, norm="layer")
    d.hyper["rope.dimension_count"] = int(d.head_dim * partial_rotary(d, 0.25))
    d.hyper["use_parallel_residual"] = c.flag("use_parallel_residual", True)
    _fused_with_biases(d)
    return d


def gpt2(c: Fields) -> Draft:
    """GPT-2: learned positions, embeddings tied."""
    d = Draft("gpt2", c, norm="layer")
    d.width = d.hyper["feed_forward_length"] = d.width or 4 * d.hidden
    d.add("position_embd.weight", (d.hidden, d.context), GgmlType.F32)
    _fused_with_biases(d, tied=True)
    return d


def _fused_with_biases(d: Draft, *, tied: bool = False) -> None:
    d.embeddings(tied=tied, bias=True)
    d.norms("attn_norm", "ffn_norm", bias=True)
    d.fused_attention()
    d.bias("attn_qkv", (d.heads + 2 * d.kv_heads) * d.head_dim)
    d.bias("attn_output", d.hidden)
    d.plain_ffn(bias=True)


def opt(c: Fields) -> Draft:
    """OPT: learned positions after two unused ones, biases everywhere, embeddings tied. llama.cpp has it not."""
    d = Draft("opt", c, norm="layer")
    d.width = d.hyper["feed_forward_length"] = c.count("ffn_dim", default=4 * d.hidden)
    if c.count("word_embed_proj_dim", default=d.hidden) != d.hidden:
        raise BadInput(f"{c.origin}: OPT with a narrower embedding is not known to weigh")
    d.add("position_embd.weight", (d.hidden, d.context + 2), GgmlType.F32)
    d.embeddings(tied=True, bias=True)
    d.norms("attn_norm", "ffn_norm", bias=True)
    d.attention()
    d.attention_biases(output=True)
    d.plain_ffn(bias=True)
    return d


def phi3small(c: Fields) -> Draft:
    """Phi-3-small: fused attention and a gated feed-forward, both with biases; LayerNorm. llama.cpp has it not.

    Every second layer attends to blocks only, and still keeps all keys and values.
    """
    d = Draft("phi3small", c, norm="layer")
    d.width = d.hyper["feed_forward_length"] = c.count("ff_intermediate_size", "intermediate_size")
    d.embeddings(tied=True, bias=True)
    d.norms("attn_norm", "ffn_norm", bias=True)
    d.fused_attention()
    d.bias("attn_qkv", (d.heads + 2 * d.kv_heads) * d.head_dim)
    d.bias("attn_output", d.hidden)
    d.matrix("ffn_up", d.hidden, 2 * d.width)
    d.matrix("ffn_down", d.width, d.hidden)
    d.bias("ffn_up", 2 * d.width)
    d.bias("ffn_down", d.hidden)
    return d


def gemma(c: Fields) -> Draft:
    d = Draft("gemma", c)
    d.embeddings(tied=True)
    d.norms("attn_norm", "ffn_norm")
    d.attention()
    d.gated_ffn()
    return d


def gemma2(c: Fields) -> Draft:
    """Gemma 2: norms before and after, logits capped, every second layer slides."""
    d = Draft("gemma2", c)
    d.hyper["attention.sliding_window"] = c.count("sliding_window", default=4096)
    d.hyper["attn_logit_softcapping"] = c.number("attn_logit_softcapping", default=50.0)
    d.hyper["final_logit_softcapping"] = c.number("final_logit_softcapping", default=30.0)
    d.embeddings(tied=True)
    d.norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    d.attention()
    d.gated_ffn()
    return d


def gemma3(c: Fields) -> Draft:
    """Gemma 3: heads normalised, five sliding layers, then a full one."""
    # Gemma3TextConfig's defaults, which the published configs rely on. The vocabulary is padded there
    # with rows that have no token, and those the converter cuts off.
    c = c.with_defaults(
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        max_position_embeddings=131072,
        rope_theta=1_000_000.0,
        sliding_window=512,
    )
    c = Fields(c.origin, {**c.values, "vocab_size": min(262144, c.count("vocab_size", default=262144))})
    d = Draft("gemma3", c)
    d.hyper["attention.sliding_window"] = c.count("sliding_window")
    d.embeddings(tied=True)
    d.norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    d.attention()
    d.head_norms()
    d.gated_ffn()
    return d


def deci(c: Fields) -> Draft:
    """Llama-Nemotron (NAS): each layer has its own feed-forward width, and some have no attention."""
    d = Draft("deci", c)
    blocks = [Fields(c.origin, block) for block in c.items("block_configs") if isinstance(block, dict)]
    if len(blocks) != d.count:
        raise BadInput(f"{c.origin}: `block_configs` describes {len(blocks)} of {d.count} layers")
    shared = [_heads_in_group(block.section("attention")) for block in blocks]
    widths = tuple(_nas_width(d.hidden, block.section("ffn")) for block in blocks)
    d.hyper["attention.head_count"] = tuple(d.heads if n else 0 for n in shared)
    d.hyper["attention.head_count_kv"] = tuple(d.heads // n if n else 0 for n in shared)
    d.hyper["feed_forward_length"] = widths
    d.width = max(widths)
    d.embeddings()
    llama_rope_factors(d)
    for n in sorted(set(shared) - {0}):
        layers = tuple(i for i in d.layers if shared[i] == n)
        d.norms("attn_norm", layers=layers)
        d.attention(layers, kv_heads=d.heads // n)
    for width in sorted(set(widths) - {0}):
        layers = tuple(i for i in d.layers if widths[i] == width)
        d.norms("ffn_norm", layers=layers)
        d.gated_ffn(layers, width=width)
    return d


def _heads_in_group(attention: Fields) -> int:
    """Query heads per key-value head; 0 for a layer whose attention was removed."""
    if attention.flag("replace_with_linear"):
        raise BadInput(f"{attention.origin}: attention replaced by a linear layer is not known to weigh")
    return 0 if attention.flag("no_op") else attention.count("n_heads_in_group", most=512)


def _nas_width(hidden: int, ffn: Fields) -> int:
    """The multiplier counts from two thirds of four widths, rounded up to 256 (DeciLM's `_ffn_mult_to_...`)."""
    if ffn.flag("no_op"):
        return 0
    width = int(2 * ffn.number("ffn_mult", default=2.625) * hidden / 3)
    return -(-width // 256) * 256
