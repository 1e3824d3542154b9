"""A smaller model of a teacher's kind: fewer layers, a narrower one, begun from the teacher's own weights or anew.

Depth: whole layers are kept, the first and the last always, the others evenly between; Sajjad et al. 2023
(arXiv:2004.03844) and Muralidharan et al. 2024 (arXiv:2407.14679) compare ways to choose. Width: the channels of
the hidden state and the neurons of the feed-forward parts whose activations are largest on sample text are kept,
as in the latter paper; heads are kept by groups that share keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from weigh.errors import BadInput
from weigh.shrink.recipe import Shape

KINDS = ("llama", "mistral", "qwen2", "qwen3")  # model_type: same parts under the same names
SAMPLE_WINDOWS = 8  # of text, from which channels are ranked


def student_config(teacher: Any, shape: Shape) -> Any:
    """The teacher's configuration (a transformers one) with the student's sizes.

    Raises:
        BadInput: a kind that is not known, or a size that is not between 1 and the teacher's.
    """
    kind = teacher.model_type
    if kind not in KINDS:
        raise BadInput(f"students of {kind} models are not built", hint=f"known are {', '.join(KINDS)}")
    asked = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_key_value_heads": shape.kv_heads,
    }
    fields = teacher.to_dict()
    for name, wanted in asked.items():
        if wanted is None:
            continue
        if not 1 <= wanted <= fields[name]:
            raise BadInput(
                f"the student's {name} would be {wanted}, the teacher's is {fields[name]}",
                hint=f"ask for 1 to {fields[name]}",
            )
        fields[name] = wanted
    if shape == Shape():
        fields["num_hidden_layers"] = max(1, teacher.num_hidden_layers // 2)
    fields["head_dim"] = head_dim(teacher)
    fields["attention_dropout"] = 0.0  # a state gone on with must see what it would have seen
    fields["num_attention_heads"] = _heads_per_group(teacher) * fields["num_key_value_heads"]
    if isinstance(fields.get("layer_types"), list):
        kept = kept_layers(teacher.num_hidden_layers, fields["num_hidden_layers"])
        fields["layer_types"] = [fields["layer_types"][number] for number in kept]
    for name in ("architectures", "dtype", "torch_dtype", "transformers_version", "model_type"):
        fields.pop(name, None)
    return type(teacher)(**fields)


def head_dim(config: Any) -> int:
    """Channels of one head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _heads_per_group(config: Any) -> int:
    return int(config.num_attention_heads // config.num_key_value_heads)


def kept_layers(teacher: int, student: int) -> list[int]:
    """Which of the teacher's layers stand in the student, the first and the last among them."""
    if student == 1:
        return [0]
    return [round(n * (teacher - 1) / (student - 1)) for n in range(student)]


def from_teacher(teacher: Any, student: Any, sample: torch.Tensor) -> list[int]:
    """Fill the student's weights with those of the teacher's that are kept.

    Args:
        teacher, student: transformers models of one kind; the student's configuration by `student_config`.
        sample: (windows, tokens) ids of text, from which the channels to keep are told.

    Returns:
        The channels of the teacher's hidden state that are the student's, in its order.
    """
    with torch.no_grad():
        return _fill(teacher, student, sample)


def _fill(teacher: Any, student: Any, sample: torch.Tensor) -> list[int]:
    channels, neurons, groups = _kept(teacher, student.config, sample)
    layers = kept_layers(teacher.config.num_hidden_layers, student.config.num_hidden_layers)
    head, per_group = head_dim(teacher.config), _heads_per_group(teacher.config)
    old, new = teacher.model, student.model
    new.embed_tokens.weight.copy_(old.embed_tokens.weight[:, channels])
    new.norm.weight.copy_(old.norm.weight[channels])
    if not student.config.tie_word_embeddings:
        student.lm_head.weight.copy_(teacher.lm_head.weight[:, channels])
    for place, number in enumerate(layers):
        source, target = old.layers[number], new.layers[place]
        keys = _rows(groups[number], head)
        queries = _rows([group * per_group + n for group in groups[number] for n in range(per_group)], head)
        _copy(source.self_attn.q_proj, target.self_attn.q_proj, queries, channels)
        _copy(source.self_attn.k_proj, target.self_attn.k_proj, keys, channels)
        _copy(source.self_attn.v_proj, target.self_attn.v_proj, keys, channels)
        _copy(source.self_attn.o_proj, target.self_attn.o_proj, channels, queries)
        for name in ("gate_proj", "up_proj"):
            _copy(getattr(source.mlp, name), getattr(target.mlp, name), neurons[number], channels)
        _copy(source.mlp.down_proj, target.mlp.down_proj, channels, neurons[number])
        for name in ("input_layernorm", "post_attention_layernorm"):
            getattr(target, name).weight.copy_(getattr(source, name).weight[channels])
        for name in ("q_norm", "k_norm"):
            if hasattr(source.self_attn, name):
                getattr(target.self_attn, name).weight.copy_(getattr(source.self_attn, name).weight)
    return channels


def _rows(heads: Sequence[int], size: int) -> list[int]:
    return [head * size + n for head in heads for n in range(size)]


def _copy(source: Any, target: Any, rows: Sequence[int], columns: Sequence[int]) -> None:
    target.weight.copy_(source.weight[list(rows)][:, list(columns)])
    if source.bias is not None:
        target.bias.copy_(source.bias[list(rows)])


def _kept(
    teacher: Any, config: Any, sample: torch.Tensor
) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """Channels of the hidden state; neurons and key-value groups of every layer of the teacher."""
    hidden = torch.zeros(teacher.config.hidden_size, device=sample.device)
    neurons: list[torch.Tensor] = []
    groups: list[torch.Tensor] = []
    handles = []

    def rank_neurons(number: int) -> Any:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            neurons[number] += inputs[0].float().abs().sum(dim=(0, 1))

        return hook

    def rank_groups(number: int) -> Any:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            by_channel = inputs[0].float().square().sum(dim=(0, 1))
            groups[number] += by_channel.view(teacher.config.num_key_value_heads, -1).sum(dim=1)

        return hook

    for number, layer in enumerate(teacher.model.layers):
        neurons.append(torch.zeros(teacher.config.intermediate_size, device=sample.device))
        groups.append(torch.zeros(teacher.config.num_key_value_heads, device=sample.device))
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(rank_neurons(number)))
        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(rank_groups(number)))
    try:
        for window in sample:  # one by one, and without logits, since all layers' states are held
            seen = teacher.model(input_ids=window[None], output_hidden_states=True, use_cache=False)
            for state in seen.hidden_states:
                size = state.float().square().mean(-1, keepdim=True).clamp_min(1e-12)
                hidden += (state.float() * size.rsqrt()).abs().sum(dim=(0, 1))
    finally:
        for handle in handles:
            handle.remove()
    return (
        _largest(hidden, config.hidden_size),
        [_largest(one, config.intermediate_size) for one in neurons],
        [_largest(one, config.num_key_value_heads) for one in groups],
    )


def _largest(ranked: torch.Tensor, count: int) -> list[int]:
    """Places of the largest, in their own order."""
    return sorted(torch.topk(ranked, count).indices.tolist())
