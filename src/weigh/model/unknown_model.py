"""A model of an architecture that weigh does not know, as far as its weights show it.

Parameters and bytes are exact, whatever the model computes with them. The KV cache is taken for that of full
attention, whose keys and values are as wide as the matrices that make them; a model that has no such
matrices in some layer keeps something else there, and is not guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from weigh import units
from weigh.errors import BadInput, NotSupported
from weigh.model.architectures.fields import MOST_LAYERS, Fields
from weigh.model.checkpoint_names import alternatives, beside
from weigh.model.gguf import printable
from weigh.model.spec import Mixer, MixerKind, ModelSpec
from weigh.model.stored_weights import Weight

# Fields of configs whose layers keep something else than keys and values, or keep them apart from others.
_OTHER_CACHES = (
    *("kv_lora_rank", "linear_attn_config", "linear_num_key_heads", "ssm_state_size", "mamba_d_state"),
    *("hybrid_override_pattern", "compress_ratios", "conv_L_cache", "is_encoder_decoder"),
)


def spec_from_weights(
    name: str, config: Mapping[str, object], stored: Sequence[Weight], *, why: str
) -> ModelSpec:
    """The model without its tensors: layers, widths and KV cache.

    Args:
        config: its fields, of which some may help; may be empty.
        why: it is not known, which the refusal and the model's notes begin with.

    Raises:
        NotSupported: what its layers keep per token cannot be told.
    """
    text = [weight for weight in stored if not beside(weight.place or weight.name)]
    fields = Fields(name, config)
    rows = _rows(text)
    layers = _layers(fields, text)
    if not _attends(fields, rows, layers):
        parameters = units.count(sum(weight.elements for weight in text))
        raise NotSupported(f"{why} ({parameters} parameters in its files)")
    hidden, vocab = _embedding(text)
    experts = max((w.shape[-1] for w in text if "experts." in w.name and len(w.shape) > 2), default=0)
    return ModelSpec(
        name=name,
        architecture=printable(fields.text("model_type")) or "unknown",
        layers=layers,
        hidden=hidden or fields.count("hidden_size", "n_embd", "d_model"),
        vocab=vocab or fields.count("vocab_size"),
        feed_forward=max((n for (role, _), n in rows.items() if role.startswith("blk.{}.ffn_up")), default=0),
        context_train=fields.count("max_position_embeddings", "n_positions", default=0, least=0),
        mixers=_mixers(fields, rows, layers),
        tensors=(),
        quantization="",
        experts=experts,
        experts_used=_experts_used(fields, experts),
        notes=(f"{why}: KV cache taken for that of full attention in every layer",),
    )


def _rows(text: Iterable[Weight]) -> dict[tuple[str, int], int]:
    """Outputs of the matrices in each layer, by GGUF name."""
    rows: dict[tuple[str, int], int] = {}
    for weight in text:
        if weight.layer is not None and len(weight.shape) > 1:
            for names in alternatives(weight.name, inside=True)[-1:]:
                rows[names[0], weight.layer] = weight.shape[1]
    return rows


def _layers(fields: Fields, text: Iterable[Weight]) -> int:
    found = max((weight.layer for weight in text if weight.layer is not None), default=-1) + 1
    layers = fields.count("num_hidden_layers", "n_layer", "n_layers", default=found, least=0)
    if found > MOST_LAYERS:
        raise BadInput(f"{fields.origin}: {found} layers are more than any model has")
    return layers


def _attends(fields: Fields, rows: Mapping[tuple[str, int], int], layers: int) -> bool:
    """Whether every layer makes keys and values of its own."""
    if any(fields.has(name) for name in _OTHER_CACHES) or not layers:
        return False
    fused = fields.has("num_attention_heads")
    return all(
        all((f"blk.{{}}.attn_{role}.weight", layer) in rows for role in "kv")
        or (fused and ("blk.{}.attn_qkv.weight", layer) in rows)
        for layer in range(layers)
    )


def _embedding(text: Iterable[Weight]) -> tuple[int, int]:
    """Width and vocabulary; zeros when nothing looks like a token embedding."""
    for weight in text:
        if weight.layer is None and len(weight.shape) == 2:
            names = alternatives(weight.name, inside=False)
            if names and names[0] == ("token_embd.weight",):
                return weight.shape[0], weight.shape[1]
    return 0, 0


def _experts_used(fields: Fields, experts: int) -> int:
    """As the config says, else all of them: what is not known must not look fast."""
    names = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts", "moe_k")
    return min(experts, fields.count(*names, default=experts, least=0))


def _mixers(fields: Fields, rows: Mapping[tuple[str, int], int], layers: int) -> tuple[Mixer, ...]:
    heads = fields.count("num_attention_heads", "n_head", default=0, least=0)
    kv_heads = fields.count(
        "num_key_value_heads", "num_kv_heads", "multi_query_group_num", default=heads or 1
    )
    alike: dict[Mixer, list[int]] = {}
    for layer in range(layers):
        alike.setdefault(_mixer(rows, layer, heads, kv_heads), []).append(layer)
    return tuple(
        Mixer(
            MixerKind.FULL,
            tuple(members),
            mixer.query_heads,
            mixer.kv_heads,
            mixer.key_dim,
            mixer.value_dim,
        )
        for mixer, members in alike.items()
    )


def _mixer(rows: Mapping[tuple[str, int], int], layer: int, heads: int, kv_heads: int) -> Mixer:
    """Without a config keys and values count as one wide head: the cache is the same."""
    key, value, query, fused = (
        rows.get((f"blk.{{}}.attn_{role}.weight", layer), 0) for role in ("k", "v", "q", "qkv")
    )
    if not key:
        key = value = fused // (heads + 2 * kv_heads) * kv_heads
        query = fused - key - value
    shared = kv_heads if key % kv_heads == 0 and value % kv_heads == 0 else 1
    return Mixer(
        MixerKind.FULL, (), heads or max(1, query // max(1, key)), shared, key // shared, value // shared
    )
