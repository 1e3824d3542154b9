"""What each device does of a model that is spread over several: weights by format, layers, experts, attention."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from weigh.estimate.memory import EMBEDDINGS
from weigh.estimate.placement import Placement
from weigh.machine.target import Device, Target
from weigh.model.spec import Mixer, ModelSpec, TensorGroup
from weigh.model.stored_types import NumberFormat


@dataclass(frozen=True, slots=True)
class Part:
    """What one device does of a model. Weights are counts by number format.

    Attributes:
        experts: all stacked experts, of which a token visits `expert_share`.
        output: of the output matrix, computed for the last token of a prompt only.
        layers: that launch operations here, of which `expert_layers` route to experts.
        mixers: with how many layers each has here.
    """

    dense: tuple[tuple[NumberFormat, int], ...]
    experts: tuple[tuple[NumberFormat, int], ...]
    output: tuple[NumberFormat, int] | None
    expert_share: float
    layers: int
    expert_layers: int
    mixers: tuple[tuple[Mixer, int], ...]

    @property
    def is_empty(self) -> bool:
        return not (self.dense or self.experts or self.output)


class _Sums:
    """A model's weights by layer, summed from the first on, so that any run of layers is a subtraction."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.dense: dict[NumberFormat, list[int]] = {}
        self.experts: dict[NumberFormat, list[int]] = {}
        self.loose: dict[NumberFormat, int] = {}  # outside the layers; computed where the output is
        output: tuple[NumberFormat, int] | None = None
        with_experts = [0] * spec.layers
        for tensor in spec.tensors:
            if len(tensor.shape) < 2:
                continue
            if tensor.name == "output.weight" or (tensor.name == "token_embd.weight" and output is None):
                output = (tensor.type, tensor.elements)
            elif tensor.name not in EMBEDDINGS:
                self._add(tensor)
                for layer in tensor.layers if tensor.experts else ():
                    with_experts[layer] = 1
        self.output = output
        for table in (self.dense, self.experts):
            for kind, each in table.items():
                table[kind] = [0, *accumulate(each)]
        self.expert_layers = [0, *accumulate(with_experts)]
        self.mixers = [(mixer, self._counts(mixer)) for mixer in spec.mixers]
        self.share = spec.experts_used / spec.experts if spec.experts else 0.0

    def _add(self, tensor: TensorGroup) -> None:
        table = self.experts if tensor.experts else self.dense
        if not tensor.layers:
            self.loose[tensor.type] = self.loose.get(tensor.type, 0) + tensor.elements
        elif tensor.type not in table:
            table[tensor.type] = [0] * self.spec.layers
        for layer in tensor.layers:
            if layer < self.spec.layers:
                table[tensor.type][layer] += tensor.elements

    def _counts(self, mixer: Mixer) -> list[int]:
        here = frozenset(mixer.layers)
        return [0, *accumulate(layer in here for layer in range(self.spec.layers))]

    def part(self, first: int, end: int, *, experts_from: int, output: bool) -> Part:
        """Layers `first` to `end`, their experts from layer `experts_from` on, and the output matrix or not."""
        dense = _between(self.dense, first, end)
        return Part(
            dense=(*dense, *self.loose.items()) if output else dense,
            experts=_between(self.experts, min(max(first, experts_from), end), end),
            output=self.output if output else None,
            expert_share=self.share,
            layers=end - first,
            expert_layers=self.expert_layers[end] - self.expert_layers[first],
            mixers=tuple((mixer, counts[end] - counts[first]) for mixer, counts in self.mixers),
        )

    def experts_only(self, first: int, end: int) -> Part:
        """The routed experts of layers whose rest is elsewhere."""
        experts = _between(self.experts, first, end)
        routed = self.expert_layers[end] - self.expert_layers[first]
        return Part((), experts, None, self.share, 0, routed, ())


def _between(
    table: dict[NumberFormat, list[int]], first: int, end: int
) -> tuple[tuple[NumberFormat, int], ...]:
    counts = ((kind, each[end] - each[first]) for kind, each in table.items())
    return tuple((kind, count) for kind, count in counts if count)


_REMEMBERED = 4096
_sums_of: dict[int, _Sums] = {}


def _sums(spec: ModelSpec) -> _Sums:
    """By identity: a spec cannot be hashed; its entry keeps it alive."""
    found = _sums_of.get(id(spec))
    if found is None:
        if len(_sums_of) >= _REMEMBERED:
            _sums_of.clear()
        found = _sums_of[id(spec)] = _Sums(spec)
    return found


class Share(NamedTuple):
    device: Device
    part: Part


def whole(spec: ModelSpec) -> Part:
    """All of a model, on one device."""
    return _sums(spec).part(0, spec.layers, experts_from=0, output=True)


def shares(spec: ModelSpec, target: Target, placement: Placement) -> list[Share]:
    """Who does what, the host first; those with nothing to do are left out."""
    sums = _sums(spec)
    if not placement.on_gpu:
        return [Share(target.host, whole(spec))]
    if placement.tensor_parallel:
        return [Share(target.gpus[0], whole(spec))]
    in_ram = placement.experts_in_ram
    first = spec.layers - sum(placement.gpu_layers)
    found = [Share(target.host, sums.part(0, first, experts_from=0, output=not placement.output_on_gpu))]
    last = max(i for i, layers in enumerate(placement.gpu_layers) if layers)
    for index, (gpu, layers) in enumerate(zip(target.gpus, placement.gpu_layers, strict=True)):
        end = first + layers
        if in_ram > first and layers:
            found.append(Share(target.host, sums.experts_only(first, min(in_ram, end))))
        output = placement.output_on_gpu and index == last
        if layers:
            found.append(Share(gpu, sums.part(first, end, experts_from=in_ram, output=output)))
        first = end
    return [share for share in found if not share.part.is_empty]
