"""Scratch memory of one llama.cpp step: the graph allocator replayed on the tensors that a prefill makes.

llama.cpp sizes its compute buffer once, for a prefill of a full micro-batch, by walking the graph in
order: a tensor gets a place when it is produced and gives it back after its last reader (ggml-alloc.c,
`ggml_gallocr_alloc_graph_impl`). The peak depends on that order and on how well the holes are reused, so
no closed sum is right for all shapes. `Arena` follows the allocator's rule for holes, and the functions
below it make and drop the tensors in the engine's order (llama-graph.cpp `build_attn`, `build_ffn`,
`build_moe_ffn`; src/models/*.cpp). An element-wise operation that overwrites its input makes no tensor.

Flash attention is taken as on: llama.cpp turns it on by itself where the backend has it, and the CPU
backend does. Its scores never exist as a tensor, so the context enters through the mask alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.estimate.graph import Attention, FeedForward, Form, Graph, LatentAttention, Layer, Recurrence
from weigh.estimate.kv_cache import Cells, ubatch_tokens

ALIGNMENT = 32  # ggml-impl.h TENSOR_ALIGNMENT
F32 = 4
F16 = 2
KV, ROPE = "kv", "rope"  # what attention and rotary positions read


class Block(NamedTuple):
    offset: int
    size: int


_NOTHING = Block(0, 0)


class Arena:
    """ggml's dynamic allocator: the tightest hole that fits, else the end; neighbours merge when freed.

    Source: ggml-alloc.c `ggml_dyn_tallocr_alloc`, `ggml_dyn_tallocr_free_bytes`. Ignored: a buffer
    split in chunks, which the CPU backend never does.
    """

    def __init__(self) -> None:
        self.holes: dict[int, int] = {}  # offset -> size
        self.end = 0
        self.peak = 0

    def take(self, size: int, read: str = "") -> Block:
        """A place for a result; `read` names the weights (or `KV`, `ROPE`) it is made of, for arenas of a
        device that has to fetch them first."""
        if not size:
            return _NOTHING
        size = aligned(size)
        offset, room = -1, 0
        for hole, free in self.holes.items():
            if free >= size and (offset < 0 or free < room or (free == room and hole > offset)):
                offset, room = hole, free
        if offset < 0:
            offset, self.end = self.end, self.end + size
            self.peak = max(self.peak, self.end)
        else:
            del self.holes[offset]
            if room > size:
                self.holes[offset + size] = room - size
        return Block(offset, size)

    def give(self, *blocks: Block) -> None:
        for block in blocks:
            if block.size:
                self._give(*block)

    def _give(self, offset: int, size: int) -> None:
        for hole, free in tuple(self.holes.items()):
            if hole + free == offset:
                del self.holes[hole]
                offset, size = hole, size + free
            elif offset + size == hole:
                del self.holes[hole]
                size += free
        if offset + size == self.end:
            self.end = offset
        else:
            self.holes[offset] = size


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class Batch(NamedTuple):
    """Sizes that the settings decide.

    Attributes:
        tokens: the micro-batch, a multiple of `sequences`.
        rows: tokens whose logits are wanted: one per sequence in a server.
        key_rotation, value_rotation: as in `Graph`, 0 for an F16 cache.
        scored: cells that an indexer scores for every token; 0 where attention picks none.
    """

    tokens: int
    rows: int
    sequences: int
    key_rotation: int
    value_rotation: int
    scored: int = 0


def compute_bytes(graph: Graph, settings: Settings, cells: Cells) -> int:
    """Size of the compute buffer: the peak of a prefill of a full micro-batch with one output per sequence.

    The F16 attention mask covers micro-batch x cells. It is an input, so it is placed before anything else
    and lives until the last layer that reads it. When that is the very last layer it only moves the rest,
    and the peak is its size plus a constant.

    Source: llama-context.cpp `sched_reserve` and `graph_reserve`; llama-graph.cpp `build_attn_inp_kq_mask`.
    """
    return _buffer_bytes(graph, largest_batch(graph, settings), cells)


@lru_cache(maxsize=8192)
def _buffer_bytes(graph: Graph, batch: Batch, cells: Cells) -> int:
    if not graph.cached:
        cells = Cells(batch.tokens, batch.tokens)
    sizes = mask_bytes(batch, cells)
    if graph.picking[0]:
        batch = batch._replace(scored=cells.full)
    last = _last_readers(graph.layers)
    lasting = sum(sizes[sliding] for sliding, index in last.items() if index == len(graph.layers) - 1)
    passing = tuple(
        (index, sizes[sliding]) for sliding, index in last.items() if index < len(graph.layers) - 1
    )
    # an indexer has a mask of its own, as large and as lasting
    return lasting * (2 if batch.scored else 1) + _peak(graph, batch, passing, len(last))


def largest_batch(graph: Graph, settings: Settings) -> Batch:
    """What the engine lays out buffers for: a full micro-batch, of equal parts of all sequences."""
    sequences = settings.parallel
    tokens = -(-ubatch_tokens(settings) // sequences) * sequences
    return Batch(
        tokens=tokens,
        rows=min(tokens, sequences),
        sequences=sequences,
        key_rotation=graph.key_rotation if settings.kv_type_k.quantized else 0,
        value_rotation=graph.value_rotation if settings.kv_type_v.quantized else 0,
    )


def mask_bytes(batch: Batch, cells: Cells) -> dict[bool, int]:
    """Bytes of the attention mask of full layers, and of sliding ones (True)."""
    return {
        sliding: aligned(F16 * n * batch.tokens)
        for sliding, n in ((False, cells.full), (True, cells.sliding))
    }


def _last_readers(layers: tuple[Layer, ...]) -> dict[bool, int]:
    """The last layer that reads the mask of full layers, and of sliding ones, where there are any."""
    return {layer.sliding: i for i, layer in enumerate(layers) if layer.sliding is not None}


@lru_cache(maxsize=8192)
def _peak(graph: Graph, batch: Batch, passing: tuple[tuple[int, int], ...], caches: int) -> int:
    """Peak of the arena, leaving out the masks that live to the end.

    Args:
        passing: for each mask that ends earlier, the layer it ends in and its size.
    """
    arena = Arena()
    wide = F32 * graph.hidden * batch.tokens
    embedded = _inputs(arena, graph, batch, caches)
    masks = [(index, arena.take(size)) for index, size in passing]
    # zeros for the tokens each layer picks: they depend on nothing, so all are placed before the first layer
    zeros = [
        arena.take(F32 * min(graph.picking[1], batch.scored) * batch.tokens) for _ in range(graph.picking[0])
    ]
    # looked up before the first layer, arranged by layer after it, and added to in each
    by_token = arena.take(F32 * graph.per_layer_embedding * batch.tokens)
    stream = arena.take(wide)
    arena.take(graph.extra_streams * wide)
    # the branches for embeddings given instead of tokens are laid out too; one tensor of theirs stays
    looked_up = arena.take(wide)
    arena.take(wide)
    arena.give(embedded, looked_up)
    for index, layer in enumerate(graph.layers):
        rows = batch.rows if index == len(graph.layers) - 1 else batch.tokens
        ending = [mask for last, mask in masks if last == index]
        stream = layer_output(arena, layer, stream, graph.hidden, batch, rows, ending)
        arena.give(*zeros[:1])
        zeros = zeros[1:]
        if index == 0:
            projected = arena.take(by_token.size)
            arena.give(by_token)
            _copied(arena, projected)
    norm = arena.take(F32 * graph.hidden * batch.rows)
    arena.give(stream)
    arena.take(F32 * graph.vocab * batch.rows)
    arena.give(norm)
    return arena.peak


def _inputs(arena: Arena, graph: Graph, batch: Batch, caches: int) -> Block:
    """Place what is handed to the graph; returns the one big input that is dropped early."""
    wide, tokens = F32 * graph.hidden * batch.tokens, batch.tokens
    arena.take(4 * tokens)  # token ids
    arena.take(wide)  # embeddings given instead; unused, so never dropped
    arena.take(4 * tokens)  # token ids of a mixed batch
    embedded = arena.take(wide)
    arena.take(8 * tokens)  # slots of a mixed batch
    arena.take(4 * graph.positions * tokens)
    for _ in range(caches):
        arena.take(8 * tokens)  # cells that keys go to
        arena.take(8 * tokens)  # cells that values go to
        arena.take(F32 * batch.key_rotation**2)
        arena.take(F32 * batch.value_rotation**2)
    arena.take(4 * batch.rows)
    return embedded


def layer_output(
    arena: Arena,
    layer: Layer,
    stream: Block,
    hidden: int,
    batch: Batch,
    rows: int,
    ending: list[Block],
) -> Block:
    """One layer: returns where its output lies. After its mixer only `rows` tokens go further."""
    if layer.parallel and len(layer.mixers) == 1 and isinstance(layer.mixers[0], Attention):
        return _parallel_layer(arena, layer, layer.mixers[0], stream, hidden, batch, ending)
    mixed = _NOTHING
    for mixer in layer.mixers:
        norm = arena.take(F32 * hidden * batch.tokens)
        made = _mixed(arena, mixer, norm, hidden, batch)
        arena.give(mixed)  # the sum of both overwrites `made`
        mixed = made
    arena.give(*ending)
    if layer.mixers:
        if rows < batch.tokens:
            mixed, stream = _kept(arena, mixed, hidden, rows), _kept(arena, stream, hidden, rows)
        arena.give(stream)  # the sum of both overwrites `mixed`
        stream = mixed
    if not layer.feed_forward.width and not layer.feed_forward.experts:
        return stream
    norm = arena.take(F32 * hidden * rows)
    out = _feed_forward(arena, layer.feed_forward, norm, hidden, rows)
    if layer.stream_first:
        stream, out = out, stream
    arena.give(stream)
    return out


def _parallel_layer(
    arena: Arena,
    layer: Layer,
    mixer: Attention,
    stream: Block,
    hidden: int,
    batch: Batch,
    ending: list[Block],
) -> Block:
    """Attention and feed-forward read the same input; attention's last matrix comes after the feed-forward.

    Source: src/models/falcon.cpp, command-r.cpp.
    """
    norm = arena.take(F32 * hidden * batch.tokens)
    attended = _attended(arena, mixer, _NOTHING, batch)
    arena.give(*ending)
    out = _feed_forward(arena, layer.feed_forward, norm, hidden, batch.tokens)
    if not mixer.fused:
        arena.give(stream)
    made = _resized(arena, attended, F32 * hidden * batch.tokens, "attn_output")
    arena.give(made)
    if mixer.fused:
        arena.give(stream)
    return out


def _mixed(
    arena: Arena,
    mixer: Attention | LatentAttention | Recurrence,
    norm: Block,
    hidden: int,
    batch: Batch,
) -> Block:
    """What a mixer makes of `norm`, which is given back after its last reader."""
    wide = F32 * hidden * batch.tokens
    match mixer:
        case Attention():
            return _resized(arena, _attended(arena, mixer, norm, batch), wide, "attn_output")
        case LatentAttention():
            return _resized(arena, _latent_attended(arena, mixer, norm, batch), wide, "attn_output")
        case Recurrence(form=Form.CONVOLUTION):
            return _resized(arena, _short_convolution(arena, mixer, norm, batch), wide, "shortconv.out_proj")
        case Recurrence(form=Form.DELTA):
            return _resized(arena, _gated_delta_net(arena, mixer, norm, batch), wide, "ssm_out")
        case Recurrence():
            return _resized(arena, _state_space(arena, mixer, norm, batch), wide, "ssm_out")


def _kept(arena: Arena, block: Block, hidden: int, rows: int) -> Block:
    """The rows of `block` whose logits are wanted."""
    return _resized(arena, block, F32 * hidden * rows)


def _resized(arena: Arena, block: Block, size: int, read: str = "") -> Block:
    """A result made of `block` alone, after which `block` is not needed."""
    result = arena.take(size, read)
    arena.give(block)
    return result


def _attended(arena: Arena, shape: Attention, norm: Block, batch: Batch) -> Block:
    """Query, key and value are made, positions applied, the cache filled; then the attention proper."""
    unit = F32 * batch.tokens
    both = _NOTHING
    turns_key, turns_value = batch.key_rotation > 0, batch.value_rotation > 0
    if shape.fused:
        fused = arena.take(unit * (shape.query + shape.key + shape.value), "attn_qkv")
        arena.give(norm)
        query = _copied(arena, arena.take(unit * shape.query, ROPE), turns_key)
        value = arena.take(unit * shape.value * turns_value)
        key = arena.take(unit * shape.key)
        if turns_key or turns_value:
            arena.give(fused)
            key = _copied(arena, key, turns_key)
            fused = value
        arena.give(key, fused)
    else:
        both = arena.take(2 * unit * shape.query * shape.gated, "attn_q")
        query = arena.take(unit * shape.query, "" if shape.gated else "attn_q")
        query = _copied(arena, _resized(arena, query, query.size, ROPE), turns_key)
        if shape.value_last:
            key = _copied(arena, _copied(arena, arena.take(unit * shape.key, "attn_k")), turns_key)
            value = arena.take(unit * shape.value, "attn_v")
            arena.give(norm)
            value = _copied(arena, value, turns_value)
            arena.give(key, value)
        else:
            value = _copied(arena, arena.take(unit * shape.value, "attn_v"), turns_value)
            key = arena.take(unit * shape.key, "attn_k")
            arena.give(norm)
            key = _copied(arena, _copied(arena, key), turns_key)
            arena.give(key, value)
    attended = arena.take(unit * shape.output, KV)
    arena.give(query)
    attended = _copied(arena, attended, turns_value)
    if shape.gated:
        arena.give(_resized(arena, both, unit * shape.query))
    return attended


def _copied(arena: Arena, block: Block, copied: bool = True) -> Block:
    """What rotary positions do, and the rotation a quantized cache brings: a result as large as the input."""
    if not copied:
        return block
    return _resized(arena, block, block.size)


def _latent_attended(arena: Arena, shape: LatentAttention, norm: Block, batch: Batch) -> Block:
    """MLA with the key's expansion moved to the query, so that the cached latent is attended directly.

    Where an indexer picks the tokens, the query's latent and the layer's input are kept for it.

    Source: src/models/deepseek2.cpp, deepseek32.cpp; llama-graph.cpp `build_attn_mha` (v_mla).
    """
    unit = F32 * batch.tokens
    heads, cached = shape.heads, shape.latent + shape.rope
    picks = bool(shape.picked and batch.scored)
    compressed = arena.take(unit * shape.query_latent, "attn_q_a")
    if picks:
        arena.give(_copied(arena, _copied(arena, arena.take(unit * shape.index_dim))))
    direct = arena.take(unit * shape.query, "attn_q_b" if shape.query_latent else "attn_q")
    if not picks:
        arena.give(compressed)
    absorbed = arena.take(unit * heads * shape.latent, "attn_k_b")
    turned = arena.take(unit * heads * shape.rope, ROPE)
    arena.give(direct)
    query = arena.take(unit * heads * cached)
    arena.give(absorbed, turned)
    latent_and_rope = arena.take(unit * cached, "attn_kv_a_mqa")
    if not picks:
        arena.give(norm)
    latent, rope = arena.take(unit * shape.latent), arena.take(unit * shape.rope)
    arena.give(latent_and_rope)
    key = arena.take(unit * cached)
    arena.give(latent, rope)
    arena.give(_copied(arena, key, batch.key_rotation > 0))
    query = _copied(arena, query, batch.key_rotation > 0)
    mask = _picking_mask(arena, shape, compressed, norm, batch) if picks else _NOTHING
    attended = arena.take(unit * heads * shape.latent, KV)
    arena.give(query, mask)
    return _copied(arena, _resized(arena, attended, unit * shape.output, "attn_v_b"))


def _picking_mask(
    arena: Arena, shape: LatentAttention, compressed: Block, norm: Block, batch: Batch
) -> Block:
    """A mask of its own for the layer: every cached token is scored, and only the best are let through.

    Source: src/models/deepseek32.cpp, with the fused scoring that the CPU backend has; llama-graph.cpp
    `build_attn` for `llm_graph_input_attn_k_dsa`.
    """
    unit = F32 * batch.tokens
    closed = arena.take(F16 * batch.scored * batch.tokens)
    query = arena.take(unit * shape.index_heads * shape.index_dim)
    arena.give(compressed)
    query = _copied(arena, _copied(arena, query))
    weights = arena.take(unit * shape.index_heads)
    arena.give(norm)
    scores = arena.take(unit * batch.scored)
    arena.give(query, weights)
    best = _copied(arena, _resized(arena, scores, unit * min(shape.picked, batch.scored)))
    arena.give(best)
    return _resized(arena, closed, closed.size)


def _convolved(arena: Arena, shape: Recurrence, batch: Batch, source: Block) -> Block:
    """The inputs behind the state's own, then their convolution; `source` is dropped in between."""
    before = arena.take(F32 * shape.convolved * shape.taps * batch.sequences)
    joined = arena.take(F32 * shape.convolved * (batch.tokens + shape.taps * batch.sequences))
    arena.give(before, source)
    return _resized(arena, joined, F32 * shape.convolved * batch.tokens)


def _short_convolution(arena: Arena, shape: Recurrence, norm: Block, batch: Batch) -> Block:
    """Source: src/models/lfm2.cpp."""
    projected = arena.take(F32 * shape.projected * batch.tokens, "shortconv.in_proj")
    arena.give(norm)
    convolved = _convolved(arena, shape, batch, arena.take(F32 * shape.convolved * batch.tokens))
    arena.give(projected)
    return convolved


def _state_space(arena: Arena, shape: Recurrence, norm: Block, batch: Batch) -> Block:
    """Source: src/models/mamba-base.cpp. Ignored: the step widths and norms per head, under 2 %."""
    unit = F32 * batch.tokens
    projected = arena.take(unit * shape.projected, "ssm_in")
    arena.give(norm)
    convolved = _convolved(arena, shape, batch, _NOTHING)
    steps = arena.take(unit * shape.inner) if shape.form is Form.MAMBA else _NOTHING
    scanned = arena.take(unit * shape.inner + F32 * shape.state * batch.sequences)
    arena.give(steps)
    gate = _resized(arena, projected, unit * shape.inner)
    # the skip connection overwrites its input when nothing else is folded into that tensor
    skipped = convolved if shape.form is Form.MAMBA else _resized(arena, convolved, unit * shape.inner)
    arena.give(scanned)
    gated = arena.take(unit * shape.inner)
    arena.give(gate, skipped)
    return gated


def _gated_delta_net(arena: Arena, shape: Recurrence, norm: Block, batch: Batch) -> Block:
    """Source: src/models/delta-net-base.cpp, qwen35.cpp. Ignored: decay and step per head, under 1 %."""
    unit = F32 * batch.tokens
    convolved = _convolved(arena, shape, batch, arena.take(unit * shape.projected, "attn_qkv"))
    state = arena.take(F32 * shape.state * batch.sequences)
    key_width = (shape.convolved - shape.inner) // 2
    query, key = arena.take(unit * key_width), arena.take(unit * key_width)
    made = arena.take(unit * shape.inner + F32 * shape.state * batch.sequences)
    arena.give(query, key, convolved, state)
    normed = _resized(arena, made, unit * shape.inner)
    gate = arena.take(unit * shape.inner, "attn_gate")
    arena.give(norm, gate)
    return normed


def _feed_forward(arena: Arena, shape: FeedForward, norm: Block, hidden: int, rows: int) -> Block:
    routed = None
    if shape.experts:
        routed = _experts(arena, shape, norm, hidden, rows)
        if not shape.width:
            return routed
    unit = F32 * rows * shape.width
    names = ("ffn_gate", "ffn_up")[2 - shape.matrices :]
    made = [arena.take(unit, name) for name in names] or [arena.take(2 * unit, "ffn_up")]
    arena.give(norm)
    if shape.matrices != 1:
        active = arena.take(unit)
        arena.give(*made)
        made = [active]
    down = arena.take(F32 * hidden * rows, "ffn_down")
    arena.give(*made)
    if routed is None:
        return down
    arena.give(down)
    return routed


def _experts(arena: Arena, shape: FeedForward, norm: Block, hidden: int, rows: int) -> Block:
    """The routed experts: every token's copies lie side by side until they are summed."""
    logits = arena.take(F32 * shape.experts * rows, "ffn_gate_inp")
    order = arena.take(F32 * shape.experts * rows)
    weights = arena.take(F32 * shape.experts_used * rows)
    arena.give(logits)
    unit = F32 * rows * shape.experts_used
    latent = _NOTHING
    if shape.expert_hidden != hidden:
        latent = arena.take(F32 * shape.expert_hidden * rows)
    weighted = arena.take(unit * hidden * shape.weighted_first)
    names = ("ffn_gate_exps", "ffn_up_exps")[2 - shape.expert_matrices :]
    made = [arena.take(unit * shape.expert_width, name) for name in names]
    if not shape.width:
        arena.give(norm)
    arena.give(weighted, latent)
    active = made[0]
    if shape.expert_matrices > 1:
        active = arena.take(unit * shape.expert_width)
        arena.give(*made)
    down = arena.take(unit * shape.expert_hidden, "ffn_down_exps")
    arena.give(active, order, weights)
    summed = _resized(arena, down, F32 * shape.expert_hidden * rows)
    return summed if shape.expert_hidden == hidden else _resized(arena, summed, F32 * hidden * rows)
