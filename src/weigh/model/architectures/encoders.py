"""Encoders of images and sound and their projectors, from `vision_config` and `audio_config`.

Which encoder a model has is told by its `model_type`. Widths that a published config leaves out are those of
its transformers class, and are noted.

Source of shapes: transformers 5.23.0 `models/*/modeling_*.py` (Apache-2.0); of names and types: llama.cpp
`conversion/*.py` and `gguf-py/gguf/constants.py` (MIT). MobileNet V5: timm 1.0.31 (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from weigh.model.architectures.beside import Beside
from weigh.model.architectures.fields import Fields
from weigh.model.architectures.mobilenet import mobilenet_v5

Encoder: TypeAlias = Callable[[Beside], None]
_NO_BIASES = {"attention_bias": False, "norm_bias": False, "ffn_bias": False}


def _vision(b: Beside, **defaults: object) -> Fields:
    return b.c.section("vision_config").with_defaults(**defaults)


def _patches(v: Fields) -> int:
    """Patches of one image of the size the encoder was made for."""
    return (v.count("image_size") // v.count("patch_size")) ** 2


def _patch_embedding(b: Beside, v: Fields, hidden: int, *, bias: bool, frames: int = 1) -> None:
    """The convolution that makes patches; one over two frames is stored as two."""
    patch = v.count("patch_size")
    b.matrix("v.patch_embd", patch, patch, 3, hidden, bias=bias)
    for frame in range(1, frames):
        group = b.groups[-1 - bias]
        b.groups.append(type(group)(f"v.patch_embd.weight.{frame}", group.shape, group.type))


def _siglip(b: Beside, v: Fields) -> int:
    """SigLIP: learned positions, biases everywhere, a norm after the last layer; returns its width."""
    hidden, width, patch = v.count("hidden_size"), v.count("intermediate_size"), v.count("patch_size")
    b.exact("v.patch_embd.weight", patch, patch, 3, hidden)  # the converter keeps all embeddings exact here
    b.exact("v.patch_embd.bias", hidden)
    b.exact("v.position_embd.weight", hidden, _patches(v))
    b.tower("v", v, hidden, width)
    b.norm("v.post_ln", hidden)
    return hidden


def gemma3(b: Beside) -> None:
    """SigLIP, and one matrix after a norm."""
    v = _vision(
        b,
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        image_size=896,
        patch_size=14,
    )
    hidden = _siglip(b, v)
    b.matrix("mm.input_projection", b.hidden, hidden)
    b.norm("mm.soft_emb_norm", hidden, bias=False)


def smolvlm(b: Beside) -> None:
    """SmolVLM and Idefics 3: SigLIP, and one matrix over a square of neighbouring patches."""
    v = _vision(
        b, hidden_size=1152, intermediate_size=3072, num_hidden_layers=12, image_size=224, patch_size=32
    )
    hidden = _siglip(b, v)
    square = b.c.count("scale_factor", default=2, most=64) ** 2
    b.matrix("mm.model.fc", square * hidden, b.hidden)


def llava(b: Beside) -> None:
    """LLaVA: CLIP, SigLIP or Pixtral, and two matrices."""
    v = _vision(b)
    if v.text("model_type") == "pixtral":
        hidden = _pixtral_tower(b, v)
    elif v.text("model_type") == "siglip_vision_model":
        hidden = _siglip(b, v)
    else:
        hidden = _clip(b, v)
    bias = b.c.flag("multimodal_projector_bias", True)
    b.matrix("mm.1" if v.text("model_type") == "pixtral" else "mm.0", hidden, b.hidden, bias=bias)
    b.matrix("mm.2", b.hidden, b.hidden, bias=bias)


def _clip(b: Beside, v: Fields) -> int:
    v = v.with_defaults(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        image_size=336,
        patch_size=14,
    )
    hidden = v.count("hidden_size")
    b.exact("v.class_embd", hidden)
    _patch_embedding(b, v, hidden, bias=False)
    b.exact("v.position_embd.weight", hidden, _patches(v) + 1)
    b.norm("v.pre_ln", hidden)
    b.tower("v", v, hidden, v.count("intermediate_size"))
    b.norm("v.post_ln", hidden)
    return hidden


def internvl(b: Beside) -> None:
    """InternVL: scaled residuals, and two matrices over a square of four patches."""
    v = _vision(b, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
    v = v.with_defaults(image_size=448, patch_size=14)
    hidden = v.count("hidden_size")
    image, patch = (_side(v, name) for name in ("image_size", "patch_size"))
    b.exact("v.class_embd", hidden)
    b.exact("v.position_embd.weight", hidden, (image // patch) ** 2 + 1)
    b.matrix("v.patch_embd", patch, patch, 3, hidden, bias=True)
    qkv_bias = v.flag("qkv_bias", v.flag("attention_bias"))
    width = v.count("intermediate_size")
    layers = b.tower("v", v, hidden, width, attention_bias=qkv_bias, output_bias=True)
    if v.flag("use_qk_norm", v.flag("qk_normalization")):
        b.norm("v.blk.{}.attn_q_norm", hidden, bias=False, layers=layers)
        b.norm("v.blk.{}.attn_k_norm", hidden, bias=False, layers=layers)
    for scale in ("ls1", "ls2"):
        b.exact(f"v.blk.{{}}.{scale}.weight", hidden, layers=layers)
    b.norm("mm.model.mlp.0", 4 * hidden)
    b.matrix("mm.model.mlp.1", 4 * hidden, b.hidden, bias=True)
    b.matrix("mm.model.mlp.3", b.hidden, b.hidden, bias=True)


def _side(v: Fields, name: str) -> int:
    """A side that newer configs give as height and width."""
    both = v.values.get(name)
    return v.counts(name)[0] if isinstance(both, list) and both else v.count(name)


def pixtral(b: Beside) -> None:
    """Mistral Small 3.1 and later, Ministral 3, Devstral 2: Pixtral, a merger of four patches, two matrices."""
    v = _vision(b, model_type="pixtral")
    hidden = _pixtral_tower(b, v)
    merge = b.c.count("spatial_merge_size", default=2, most=64) ** 2
    bias = b.c.flag("multimodal_projector_bias")
    b.norm("mm.input_norm", hidden, bias=False)
    b.matrix("mm.patch_merger", merge * hidden, hidden)
    b.matrix("mm.1", hidden, b.hidden, bias=bias)
    b.matrix("mm.2", b.hidden, b.hidden, bias=bias)


def _pixtral_tower(b: Beside, v: Fields) -> int:
    """Rotary positions, gated feed-forward, no biases."""
    v = v.with_defaults(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, patch_size=14)
    hidden = v.count("hidden_size")
    _patch_embedding(b, v, hidden, bias=False)
    b.norm("v.pre_ln", hidden, bias=False)
    b.tower("v", v, hidden, v.count("intermediate_size"), gated=True, **_NO_BIASES)
    return hidden


def llama4(b: Beside) -> None:
    """Llama 4: a class token, an adapter over four patches, one matrix."""
    v = _vision(b, hidden_size=1408, intermediate_size=5632, num_hidden_layers=34, image_size=336)
    v = v.with_defaults(patch_size=14, projector_input_dim=4096, projector_output_dim=4096)
    hidden, width, patch = v.count("hidden_size"), v.count("intermediate_size"), v.count("patch_size")
    inner, out = v.count("projector_input_dim"), v.count("projector_output_dim")
    b.exact("v.class_embd", hidden)
    b.exact("v.position_embd.weight", hidden, _patches(v) + 1)
    b.matrix("v.patch_embd", 3 * patch * patch, hidden)
    b.norm("v.pre_ln", hidden)
    b.norm("v.post_ln", hidden)
    b.tower("v", v, hidden, width)
    b.matrix("mm.model.mlp.1", width, inner)
    b.matrix("mm.model.mlp.2", inner, out)
    b.matrix("mm.model.fc", out, b.hidden)


def qwen2_vl(b: Beside) -> None:
    """Qwen 2-VL: rotary positions, two frames a patch, a merger of four patches."""
    v = _vision(b, depth=32, embed_dim=1280, mlp_ratio=4, patch_size=14)
    hidden = v.count("embed_dim")
    _patch_embedding(b, v, hidden, bias=False, frames=2)
    b.tower("v", v, hidden, int(hidden * v.number("mlp_ratio")))
    b.norm("v.post_ln", hidden)
    _merger(b, v, hidden, b.hidden)


def qwen25_vl(b: Beside) -> None:
    """Qwen 2.5-VL: gated feed-forward, norms without bias, most layers look at a window."""
    v = _vision(b, depth=32, hidden_size=1280, intermediate_size=3420, patch_size=14)
    hidden = v.count("hidden_size")
    _patch_embedding(b, v, hidden, bias=False, frames=2)
    b.tower("v", v, hidden, v.count("intermediate_size"), gated=True, norm_bias=False)
    b.norm("v.post_ln", hidden, bias=False)
    _merger(b, v, hidden, v.count("out_hidden_size", default=b.hidden))


def _merger(b: Beside, v: Fields, hidden: int, out: int) -> None:
    """Two matrices over a square of neighbouring patches."""
    merged = hidden * v.count("spatial_merge_size", default=2, most=64) ** 2
    b.matrix("mm.0", merged, merged, bias=True)
    b.matrix("mm.2", merged, out, bias=True)


def qwen3_vl(b: Beside) -> None:
    """Qwen 3-VL, 3.5 and 3.6: learned positions; 3-VL also hands on what a few inner layers see."""
    v = _vision(b, depth=27, hidden_size=1152, intermediate_size=4304, num_position_embeddings=2304)
    v = v.with_defaults(patch_size=16)
    hidden, out = v.count("hidden_size"), v.count("out_hidden_size", default=b.hidden)
    _patch_embedding(b, v, hidden, bias=True, frames=2)
    b.exact("v.position_embd.weight", hidden, v.count("num_position_embeddings"))
    b.tower("v", v, hidden, v.count("intermediate_size"), fused=True)
    b.norm("v.post_ln", hidden)
    _merger(b, v, hidden, out)
    merged = hidden * v.count("spatial_merge_size", default=2, most=64) ** 2
    for layer in v.counts("deepstack_visual_indexes", most=511):
        b.norm(f"v.deepstack.{layer}.norm", merged)
        b.matrix(f"v.deepstack.{layer}.fc1", merged, merged, bias=True)
        b.matrix(f"v.deepstack.{layer}.fc2", merged, out, bias=True)


def kimi_k25(b: Beside) -> None:
    """Kimi K2.5: MoonViT, and two matrices over four patches."""
    v = _vision(b, num_hidden_layers=27, hidden_size=1152, intermediate_size=4304, patch_size=14)
    hidden = v.count("vt_hidden_size", "hidden_size")
    side = [v.count(f"init_pos_emb_{s}", f"pos_emb_{s}", default=64, most=4096) for s in ("height", "width")]
    _patch_embedding(b, v, hidden, bias=True)
    b.exact("v.position_embd.weight", hidden, side[0], side[1])
    b.tower("v", v, hidden, v.count("vt_intermediate_size", "intermediate_size"), fused=True)
    b.norm("v.post_ln", hidden)
    b.norm("mm.input_norm", hidden)
    b.matrix("mm.1", 4 * hidden, 4 * hidden, bias=True)
    b.matrix("mm.2", 4 * hidden, b.hidden, bias=True)


def gemma4(b: Beside) -> None:
    """Gemma 4: images, and in the small ones sound."""
    v = _vision(b, hidden_size=768, intermediate_size=3072, num_hidden_layers=16, num_attention_heads=12)
    v = v.with_defaults(patch_size=16, head_dim=64, position_embedding_size=10240)
    hidden, width, dim = v.count("hidden_size"), v.count("intermediate_size"), v.count("head_dim")
    patch = v.count("patch_size")
    b.matrix("v.patch_embd", patch, patch, 3, hidden)
    b.exact("v.position_embd.weight", hidden, v.count("position_embedding_size"), 2)
    layers = b.tower("v", v, hidden, width, gated=True, **_NO_BIASES)
    for norm, length in (("attn_q_norm", dim), ("attn_k_norm", dim)):
        b.norm(f"v.blk.{{}}.{norm}", length, bias=False, layers=layers)
    for norm in ("attn_post_norm", "ffn_post_norm"):
        b.norm(f"v.blk.{{}}.{norm}", hidden, bias=False, layers=layers)
    if v.flag("standardize"):
        b.exact("v.std_bias", hidden)
        b.exact("v.std_scale", hidden)
    b.matrix("mm.input_projection", hidden, b.hidden)
    if b.c.has("audio_config"):
        _gemma4_audio(b, b.c.section("audio_config"))


def _gemma4_audio(b: Beside, a: Fields) -> None:
    a = a.with_defaults(hidden_size=1024, num_hidden_layers=12, num_attention_heads=8, conv_kernel_size=5)
    hidden, out = a.count("hidden_size"), a.count("output_proj_dims", default=1536)
    _subsampling(b, a.counts("subsampling_conv_channels") or (128, 32), 128, hidden, exact=True)
    layers = _conformer(b, a, hidden, a.count("conv_kernel_size"))
    b.norm("a.blk.{}.ln2", hidden, bias=False, layers=layers)
    b.matrix("a.pre_encode.out", hidden, out, bias=True)
    b.matrix("mm.a.input_projection", out, b.hidden)


def _subsampling(
    b: Beside, channels: tuple[int, ...], features: int, hidden: int, *, exact: bool = False
) -> None:
    """Two convolutions that each halve time and features, and a matrix, which Gemma 4's files keep exact."""
    first, second = channels[:2] if len(channels) > 1 else (128, 32)
    b.exact("a.conv1d.0.weight", 3, 3, 1, first)
    b.norm("a.conv1d.0.norm", first, bias=False)
    b.exact("a.conv1d.1.weight", 3, 3, first, second)
    b.norm("a.conv1d.1.norm", second, bias=False)
    if exact:
        b.exact("a.input_projection.weight", second * features // 4, hidden)
    else:
        b.matrix("a.input_projection", second * features // 4, hidden)


def _conformer(b: Beside, a: Fields, hidden: int, kernel: int) -> int:
    """Feed-forward, attention, convolution, feed-forward; Gemma's. Its last norm is the caller's."""
    layers = a.count("num_hidden_layers", "conf_num_hidden_layers", most=512)
    dim = hidden // a.count("num_attention_heads", "conf_num_attention_heads", default=8)
    name = "a.blk.{}"
    for part in ("", "_1"):
        b.matrix(f"{name}.ffn_up{part}", hidden, 4 * hidden, layers=layers)
        b.matrix(f"{name}.ffn_down{part}", 4 * hidden, hidden, layers=layers)
    for role in ("attn_q", "attn_k", "attn_v", "attn_out", "attn_k_rel", "conv_pw2"):
        b.matrix(f"{name}.{role}", hidden, hidden, layers=layers)
    b.matrix(f"{name}.conv_pw1", hidden, 2 * hidden, layers=layers)
    b.exact(f"{name}.conv_dw.weight", kernel, hidden, layers=layers)
    b.exact(f"{name}.per_dim_scale.weight", dim, layers=layers)
    norms = ("ffn_norm", "ffn_post_norm", "ffn_norm_1", "ffn_post_norm_1", "attn_pre_norm", "attn_post_norm")
    for norm in (*norms, "norm_conv", "conv_norm"):
        b.norm(f"{name}.{norm}", hidden, bias=False, layers=layers)
    return layers


def gemma3n(b: Beside) -> None:
    """Gemma 3n: MobileNet V5 and a conformer, each with a small vocabulary of its own tokens."""
    mobilenet_v5(b)
    if b.c.has("vision_config"):
        v = _vision(b, hidden_size=2048, vocab_size=128)
        _soft_tokens(b, "mm", v.count("hidden_size"), v.count("vocab_size"))
    if not b.c.has("audio_config"):
        return
    a = b.c.section("audio_config").with_defaults(
        hidden_size=1536,
        vocab_size=128,
        conf_num_hidden_layers=12,
        conf_num_attention_heads=8,
        conf_conv_kernel_size=5,
        input_feat_size=128,
    )
    hidden = a.count("hidden_size")
    _subsampling(b, a.counts("sscp_conv_channel_size") or (128, 32), a.count("input_feat_size"), hidden)
    layers = _conformer(b, a, hidden, a.count("conf_conv_kernel_size"))
    b.norm("a.blk.{}.ln2", hidden, bias=False, layers=layers)
    _soft_tokens(b, "mm.a", hidden, a.count("vocab_size"))


def _soft_tokens(b: Beside, prefix: str, hidden: int, vocab: int) -> None:
    b.matrix(f"{prefix}.embedding", hidden, vocab)
    b.norm(f"{prefix}.hard_emb_norm", hidden, bias=False)
    b.norm(f"{prefix}.soft_emb_norm", hidden, bias=False)
    b.matrix(f"{prefix}.input_projection", hidden, b.hidden)


def phi4_multimodal(b: Beside) -> None:
    """Phi-4-multimodal: SigLIP with its pooling head, and a conformer. llama.cpp has no such projector file."""
    v = _vision(b, hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, patch_size=14)
    hidden = _siglip(b, v.with_defaults(image_size=448, crop_size=448))
    width = v.count("intermediate_size")
    b.exact("v.head.probe", hidden)
    b.matrix("v.head.attn_qkv", hidden, 3 * hidden, bias=True)
    b.matrix("v.head.attn_out", hidden, hidden, bias=True)
    b.norm("v.head.norm", hidden)
    b.matrix("v.head.ffn_up", hidden, width, bias=True)
    b.matrix("v.head.ffn_down", width, hidden, bias=True)
    b.exact("mm.glb_gn", hidden)
    b.exact("mm.sub_gn", hidden)
    b.matrix("mm.0", hidden, b.hidden, bias=True)
    b.matrix("mm.2", b.hidden, b.hidden, bias=True)
    if b.c.has("audio_config"):
        _phi4_audio(b, b.c.section("audio_config"))


def _phi4_audio(b: Beside, a: Fields) -> None:
    a = a.with_defaults(hidden_size=1024, intermediate_size=1536, num_blocks=24, nemo_conv_channels=1024)
    hidden, width, layers = a.count("hidden_size"), a.count("intermediate_size"), a.count("num_blocks")
    channels, features = a.count("nemo_conv_channels"), a.count("input_size", default=80)
    for step in range(3):
        b.exact(f"a.conv2d.{step}.dw.weight", 3, 3, 1, channels)
        b.exact(f"a.conv2d.{step}.dw.bias", channels)
    for step in (1, 2):
        b.matrix(f"a.conv2d.{step}.pw", 1, 1, channels, channels, bias=True)
    b.matrix("a.pre_encode.out", channels * (features // 8), hidden, bias=True)
    b.exact("a.attn_rel_b.weight", a.count("num_attention_heads", default=16), 2000)
    name = "a.blk.{}"
    for part in ("", "_1"):
        b.norm(f"{name}.ffn_norm{part}", hidden, layers=layers)
        b.matrix(f"{name}.ffn_gate_up{part}", hidden, 2 * width, bias=True, layers=layers)
        b.matrix(f"{name}.ffn_down{part}", width, hidden, bias=True, layers=layers)
    for role in ("attn_q", "attn_k", "attn_v", "attn_out", "conv_pw2", "conv_pw3"):
        b.matrix(f"{name}.{role}", hidden, hidden, bias=True, layers=layers)
    b.matrix(f"{name}.conv_pw1", hidden, 2 * hidden, bias=True, layers=layers)
    b.exact(f"{name}.conv_gate.bias", 2 * hidden, layers=layers)
    b.exact(f"{name}.conv_dw.weight", 3, hidden, layers=layers)
    b.exact(f"{name}.conv_dw.bias", hidden, layers=layers)
    for norm in ("norm_conv", "attn_pre_norm", "ln2"):
        b.norm(f"{name}.{norm}", hidden, layers=layers)
    for kind in ("speech", "vision_speech"):
        b.matrix(f"mm.a.{kind}.0", hidden, b.hidden, bias=True)
        b.matrix(f"mm.a.{kind}.2", b.hidden, b.hidden, bias=True)


ENCODERS: Mapping[str, Encoder] = {
    "gemma3": gemma3,
    "gemma3n": gemma3n,
    "gemma4": gemma4,
    "idefics3": smolvlm,
    "internvl": internvl,
    "internvl_chat": internvl,
    "kimi_k25": kimi_k25,
    "llama4": llama4,
    "llava": llava,
    "ministral3": pixtral,
    "mistral3": pixtral,
    "phi4_multimodal": phi4_multimodal,
    "qwen2_5_vl": qwen25_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_5": qwen3_vl,
    "qwen3_5_moe": qwen3_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl,
    "smolvlm": smolvlm,
}
