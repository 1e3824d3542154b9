"""Scratch memory of one llama.cpp step on each device, when a model is spread over several.

The scheduler cuts the graph where the device changes, and copies what the next part reads to its device. Two
of its habits decide the sizes:

- A prefill of a layer that lies in RAM runs on the first GPU all the same (from 32 tokens on): each matrix is
  copied there for its product and dropped, and so are the keys and values that attention reads. So the first
  GPU needs room for the largest of these copies, whatever it holds itself.
- When every layer is on a GPU and there are several, they work on different micro-batches at once, and every
  input of every part is held four times.

Source: ggml-backend.cpp `ggml_backend_sched_split_graph`, `ggml_backend_sched_backend_id_from_cur`;
llama-context.cpp, constructor (pipeline_parallel), `graph_get_cb`; ggml-cuda.cu and ggml-vulkan.cpp,
`offload_op`. The allocator itself and the order of tensors are `weigh.estimate.compute_buffers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from weigh.estimate.compute_buffers import F32, KV, ROPE, Arena, Batch, Block, aligned, layer_output
from weigh.estimate.graph import Graph, Layer

NORMED = "normed"
OFFLOAD_TOKENS = 32  # GGML_OP_OFFLOAD_MIN_BATCH
PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES
_LAST_MATRICES = frozenset({"ffn_down", "ffn_down_exps"})
INDEX = 8  # an I64 that says which cell a token goes to


class Step(NamedTuple):
    """A layer as one device runs it.

    Attributes:
        fetched: bytes of what lies in RAM and is copied for the products that read it, by `Arena.take`'s
            `read`; keys and values apart, as two entries in a row.
        early: the matrix that is fetched before positions are applied instead of after. Rotary factors of
            the model's own are weights too, and a part of the graph that begins with them fetches all that
            it reads at its beginning.
        positions_with: what the positions are fetched with: the query's matrix, unless another weight stands
            between it and them: `ROPE` for a bias or rotary factors, `NORMED` for a norm, which leaves the
            query's first place free.
        in_ram: all of the layer lies in RAM, its cache as well, and not only its experts.
    """

    layer: Layer
    fetched: tuple[tuple[str, int], ...] = ()
    early: str = ""
    positions_with: str = ROPE
    in_ram: bool = False


class Part(NamedTuple):
    """What one GPU runs. All but the first part are handed the residual stream and its first norm, if there is one.

    Attributes:
        steps: in order; a few of each kind stand for all.
        first: it is handed the embeddings.
        last: it makes the logits.
        copies: of each of its inputs; more than one when the GPUs work at the same time.
        layers_share: of all layers, how many it runs.
        borrowed_bytes: keys and values on other devices that its layers read.
        normed: its layers begin with a norm.
    """

    steps: tuple[Step, ...]
    first: bool
    last: bool
    copies: int = 1
    layers_share: float = 1.0
    borrowed_bytes: int = 0
    normed: bool = True


class _Fetching(Arena):
    """The allocator of a GPU that computes with matrices, keys and values of the RAM.

    Attributes:
        step: the layer being run.
        positions_bytes: of the positions, when they come with the first layer that reads them; else 0.
        pending: masks not placed yet; they come with the first attention that reads them,
        due: or with the last matrix that is fetched before it, when it is in a later layer.
        masks: where the others lie.
    """

    def __init__(self, masks: Mapping[bool, int]) -> None:
        super().__init__()
        self.step: Step | None = None
        self.positions_bytes = 0
        self.pending = dict(masks)
        self.due: tuple[bool, ...] = ()
        self.masks: dict[bool, Block] = {}
        self._early: list[Block] = []
        self._query_made = False

    def take(self, size: int, read: str = "") -> Block:
        if not size or not read or self.step is None:
            return super().take(size)
        copies = self._inputs(read, self.step)
        block = super().take(size)
        self.give(*copies)
        return block

    def _inputs(self, read: str, step: Step) -> list[Block]:
        """Fetch what a result is made of; returns what is dropped once it is there."""
        if read == ROPE and step.positions_with != NORMED:
            self._before_positions(step)
        elif read != ROPE and self._query_made and step.positions_with == NORMED:
            self._place_positions()
        self._query_made = read == ROPE
        if self._early and read == step.early:
            copies, self._early = self._early, []
            return copies
        copies = self._fetched(step, read)
        if read == step.positions_with:
            self._place_positions()
        if read == KV and step.layer.sliding is not None:
            self._place_masks((step.layer.sliding,))
        elif copies and read in _LAST_MATRICES:
            self._place_masks(self.due)
        return copies

    def _place_masks(self, kinds: tuple[bool, ...]) -> None:
        for sliding in kinds:
            if sliding in self.pending:
                self.masks[sliding] = super().take(self.pending.pop(sliding))

    def _before_positions(self, step: Step) -> None:
        """The query's bias comes with the positions, is added just before, and dropped."""
        bias = self._fetched(step, "attn_q.bias")
        if not self.positions_bytes:
            self._early = self._fetched(step, step.early)
        self._place_positions()
        self.give(*bias)

    def _place_positions(self) -> None:
        super().take(self.positions_bytes)
        self.positions_bytes = 0

    def _fetched(self, step: Step, read: str) -> list[Block]:
        return [super(_Fetching, self).take(size) for role, size in step.fetched if role == read]


def host_compute_bytes(graph: Graph, batch: Batch, masks: tuple[tuple[bool, int], ...], copies: int) -> int:
    """The buffer in RAM: all inputs, in every copy, and the embeddings looked up."""
    wide, tokens = F32 * graph.hidden * batch.tokens, batch.tokens
    inputs = aligned(4 * tokens) + wide + aligned(4 * tokens) + wide + aligned(INDEX * tokens)
    inputs += aligned(4 * graph.positions * tokens) + aligned(4 * batch.rows)
    inputs += sum(_cache_inputs(batch) + size for _, size in masks)
    return copies * inputs + 2 * wide + F32 * graph.per_layer_embedding * tokens


def _cache_inputs(batch: Batch) -> int:
    """Cells that keys and values go to, and the rotations of a quantized cache."""
    rotations = aligned(F32 * batch.key_rotation**2) + aligned(F32 * batch.value_rotation**2)
    return 2 * aligned(INDEX * batch.tokens) + rotations


@lru_cache(maxsize=8192)
def gpu_compute_bytes(graph: Graph, batch: Batch, masks: tuple[tuple[bool, int], ...], part: Part) -> int:
    """The buffer of one GPU: the peak of the arena over the steps of its part.

    Args:
        masks: bytes of the attention mask of full layers (False) and of sliding ones (True), where there are.
    """
    arena = _Fetching(dict(masks))
    by_token = F32 * graph.per_layer_embedding * batch.tokens
    stream = _handed(arena, graph, batch, part)
    looked_up = arena.take(int(part.copies * by_token * (1.0 if part.first else part.layers_share)))
    arena.take(graph.extra_streams * F32 * graph.hidden * batch.tokens)
    arena.take(part.copies * part.borrowed_bytes)
    readers = [step.layer.sliding for step in part.steps]
    last_reader = {sliding: i for i, sliding in enumerate(readers)}
    for index, step in enumerate(part.steps):
        arena.step = step
        arena.due = _first_read_by(part.steps, index + 1)
        rows = batch.rows if part.last and index == len(part.steps) - 1 else batch.tokens
        ending = [arena.masks[s] for s, i in last_reader.items() if i == index and s in arena.masks]
        stream = layer_output(arena, step.layer, stream, graph.hidden, batch, rows, ending)
        if index == 0 and part.first:
            _arranged_by_layer(arena, by_token, looked_up if part.copies == 1 else Block(0, 0))
    if part.last:
        norm = arena.take(F32 * graph.hidden * batch.rows)
        arena.give(stream)
        arena.take(F32 * graph.vocab * batch.rows)
        arena.give(norm)
    return arena.peak


def _arranged_by_layer(arena: Arena, size: int, looked_up: Block) -> None:
    """Embeddings that every layer adds: projected, summed with what was looked up, and put in order."""
    projected = arena.take(size)
    arena.give(looked_up)
    arena.take(size)
    arena.give(projected)


def _handed_masks(steps: tuple[Step, ...], masks: Mapping[bool, int]) -> list[bool]:
    """Masks that are inputs of the part's beginning: it ends where the first matrix is fetched from RAM."""
    fetching = next((i for i, step in enumerate(steps) if step.fetched), len(steps))
    return [s for s in masks if any(step.layer.sliding is s for step in steps[: fetching + 1])]


def _first_read_by(steps: tuple[Step, ...], index: int) -> tuple[bool, ...]:
    """The kind of mask that layer `index` reads, when it is on a GPU and none before it reads that kind."""
    if index >= len(steps) or steps[index].in_ram:
        return ()
    sliding = steps[index].layer.sliding
    known = sliding is None or any(step.layer.sliding is sliding for step in steps[:index])
    return () if known else (sliding,)  # type: ignore[return-value]


def _handed(arena: _Fetching, graph: Graph, batch: Batch, part: Part) -> Block:
    """Place the inputs of a part in the order in which they are first read; returns the residual stream.

    Inputs that are held several times are never dropped, so none of them is returned.
    """
    wide, copies = F32 * graph.hidden * batch.tokens, part.copies
    fetching = part.steps[0].in_ram
    # the branch of a batch that mixes tokens and embeddings is laid out too; one tensor of it stays
    early = [arena.take(copies * wide)] if part.first or part.normed else []
    stream = Block(0, 0)
    if part.first:
        early.append(arena.take(copies * wide))
        early.append(arena.take(copies * INDEX * batch.tokens))
        stream = arena.take(copies * wide)
    if fetching:
        arena.positions_bytes = 4 * graph.positions * batch.tokens
    else:
        arena.take(copies * 4 * graph.positions * batch.tokens)
        for sliding in _handed_masks(part.steps, arena.pending):
            arena.take(copies * _cache_inputs(batch))
            arena.masks[sliding] = arena.take(copies * arena.pending.pop(sliding))
    if not part.first:
        stream = arena.take(copies * wide)
    if part.last:
        arena.take(copies * 4 * batch.rows)
    if part.first:
        arena.take(wide)
    if copies > 1:
        arena.masks.clear()
        return Block(0, 0)
    arena.give(*early)
    return stream
