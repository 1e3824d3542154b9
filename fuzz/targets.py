"""What is fuzzed: every reader of what a stranger may hand over, fed from memory.

A target takes bytes and may raise nothing but a `WeighError`. Readers of several files get them in one
piece, split at `SPLIT`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

SPLIT = b"\0\xff|\xff\0"
_PATH = Path("model")


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        seeds: sound and broken inputs to begin with.
        words: what a mutator may put in, beside bytes.
        most_bytes: of an input.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...]
    most_bytes: int = 8192


@dataclass(frozen=True)
class Memory:
    """A file's bytes; `size_bytes` may claim that more follow, as a sparse file does."""

    data: bytes
    path: Path = _PATH

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


@dataclass(frozen=True)
class MemoryFiles:
    """Every name is the same file, or one of the parts in their order."""

    parts: tuple[bytes, ...]

    def exists(self, path: Path) -> bool:
        return True

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator[Memory]:
        number = int(path.name[6:11]) - 1 if path.name[6:11].isdigit() else 0
        yield Memory(self.parts[number % len(self.parts)], path)


# --- the readers -----------------------------------------------------------------------------------------


def gguf(data: bytes) -> None:
    from weigh.model.gguf import read_gguf

    parts = tuple(data.split(SPLIT))
    read_gguf(Path(f"model-00001-of-{len(parts):05}.gguf"), MemoryFiles(parts))


def safetensors(data: bytes) -> None:
    from weigh.model.safetensors import read_header

    read_header(Memory(data))


def config(data: bytes) -> None:
    from weigh.model.config import spec_from_config
    from weigh.model.json_object import json_object

    _looked_at(spec_from_config("model", json_object(_PATH, data, what="it")))


def checkpoint(data: bytes) -> None:
    """A config, an index (or nothing), and headers, whose weights are zeros of the length they announce."""
    from weigh.model.checkpoint import shard_names, spec_from_checkpoint
    from weigh.model.json_object import json_object
    from weigh.model.safetensors import read_header

    said, index, *shards = [*data.split(SPLIT), b"", b""][:5]
    fields = json_object(_PATH, said, what="it")
    listed = json_object(_PATH, index, what="it") if index else None
    if listed is not None:
        shard_names(_PATH, listed)
    headers = [read_header(Memory(shard)) for shard in shards if shard]
    _looked_at(spec_from_checkpoint("model", fields, headers, index=listed))


def ollama(data: bytes) -> None:
    """A manifest and the settings it may name, in a store on disk."""
    from weigh.model.ollama import ollama_model, ollama_name

    store, name = _store(), ollama_name("tiny:1b")
    manifest, settings = (*data.split(SPLIT), b"")[:2]
    store.joinpath("manifests", *name.parts).write_bytes(manifest)
    (store / "blobs" / f"sha256-{'0' * 64}").write_bytes(settings)
    ollama_model(store, name)


def ollama_names(data: bytes) -> None:
    from weigh.model.ollama import ollama_name

    ollama_name(data.decode(errors="surrogateescape"))


def hub(data: bytes) -> None:
    """A hub's listing, and what it sends for JSON and for other files."""
    from weigh.model.hub import read_hub
    from weigh.model.hub_cache import HubReference
    from weigh.model.remote import Web

    listing, *files = data.split(SPLIT)
    small, large = (files or [b""])[0], (files or [b""])[-1]

    def whole(web: Web, url: str, most_bytes: int) -> bytes:
        return listing[:most_bytes]

    def stretch(web: Web, url: str, offset: int, length: int, size_bytes: int) -> bytes:
        file = small if url.endswith(".json") else large
        return file[offset : offset + length].ljust(min(length, 1 << 16), b" " if file is small else b"\0")

    with patch.object(Web, "whole", whole), patch.object(Web, "stretch", stretch):
        _looked_at(read_hub(HubReference("org/name")))


def names(data: bytes) -> None:
    """A model as a person may type it, offline and with nothing on the disk."""
    from weigh.model.hub_cache import hub_reference
    from weigh.model.resolve import resolve

    text = data.decode(errors="surrogateescape")
    with contextlib.suppress(Exception) if not text else contextlib.nullcontext():
        hub_reference(text)
    if not any(c in text for c in "/~.") and ":" not in text:
        resolve(text)


def devices(data: bytes) -> None:
    """What a device is called, and names close to it."""
    from weigh.machine.devices import target_named

    target_named(data.decode(errors="surrogateescape"))


def profiles(data: bytes) -> None:
    """Machines that a user has described, in TOML."""
    from weigh.machine import profiles

    path = _store() / "devices.toml"
    path.write_bytes(data)
    profiles.profiles(path)


def runs(data: bytes) -> None:
    """Runs, measurements and quality, of weigh and of others; each is shown, counted and written again."""
    from weigh.advise.compare import compare
    from weigh.advise.measured import evidence_of
    from weigh.advise.needs import TASKS
    from weigh.cli.page import page
    from weigh.cli.runs_document import accuracy_document, compared_document, history_document
    from weigh.cli.screens.quality_kept import quality_table
    from weigh.store.accuracy import GROUPINGS, accuracy
    from weigh.store.exchange import as_csv, as_markdown, read
    from weigh.store.measurement import Measurement
    from weigh.store.quality_result import QualityResult
    from weigh.store.run import Origin, Run

    origin = Origin("someone", "runs.json", 1.0)
    _, found, measured, judged = read(_PATH, data, origin)
    json.dumps(history_document(found, measured, judged), allow_nan=False)
    for by in GROUPINGS:
        json.dumps(accuracy_document(accuracy(found, by), by), allow_nan=False)
    for run in found:
        assert Run.from_json(json.loads(json.dumps(run.to_json())), origin) == run
    for one in measured:
        assert Measurement.from_json(json.loads(json.dumps(one.to_json())), origin).id == one.id
    own = evidence_of(replace(result, origin=None) for result in judged)
    for task in TASKS.values():
        for model in own.of(task).passes.keys() | own.losses.keys() | own.code.keys():
            own.of(task).said(model, "Q4_K_M")
            own.of(task).quality(model, 7_000_000_000, "Q4_K_M")
    for result in judged:
        assert QualityResult.from_json(json.loads(json.dumps(result.to_json())), origin) == result
    quality_table(judged, origins=True)
    as_csv(measured, judged)
    as_markdown(measured, judged)
    beside = compare(measured, judged)
    json.dumps(compared_document(beside), allow_nan=False)
    page(beside, 1.0, judged)


def _looked_at(spec: object) -> None:
    """What every face computes of a model, so that no figure of an accepted one fails later."""
    from weigh.cli.inventory_document import model_document

    json.dumps(model_document(spec))  # type: ignore[arg-type]


@cache
def _store() -> Path:
    """A store with nothing in it, for as long as the process runs."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "blobs").mkdir()
    (folder / "manifests" / "registry.ollama.ai" / "library" / "tiny").mkdir(parents=True)
    return folder


# --- what they begin with --------------------------------------------------------------------------------


def _files_of(beginning: str, name: str) -> list[bytes]:
    """The files of that name which the hostile corpus holds, those of a reader's size."""
    from tests.hostile.corpus import corpus

    found = []
    for case in corpus(beginning):
        if "giant" not in case.name and "place" not in case.name:
            with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):
                case.make(Path(folder))
                path = Path(folder) / name
                if path.is_file() and path.stat().st_size <= 1 << 20:
                    found.append(path.read_bytes())
    return found


@cache
def _gguf_seeds() -> list[bytes]:
    """Headers, with few tokens, and a hole of their data kept short."""
    from tests.model.gguf_files import GgufFile, TensorInfo, llama_values, strings

    values = llama_values() | {
        "tokenizer.ggml.tokens": strings("a", "b", "c"),
        "llama.embedding_length": 4,
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
    }
    tensors = [TensorInfo("token_embd.weight", (4, 3)), TensorInfo("blk.0.attn_q.weight", (4, 4))]
    sound = GgufFile(values, tensors)
    seeds = [_whole(sound), _whole(GgufFile(values, tensors, order=">"))]
    split = {"split.no": 0, "split.count": 2, "split.tensors.count": 2}
    halves = [GgufFile(values | split | {"split.no": n}, tensors[n : n + 1]) for n in (0, 1)]
    return [
        *seeds,
        SPLIT.join(map(_whole, halves)),
        *(d for d in _files_of("gguf", "model.gguf") if len(d) < 8192),
    ]


def _whole(file: object) -> bytes:
    from tests.model.hub_server import gguf_bytes

    return gguf_bytes(file)  # type: ignore[arg-type]


@cache
def _safetensors_seeds() -> list[bytes]:
    seeds = _files_of("safetensors", "model.safetensors")
    return [seed for seed in seeds if len(seed) < 8192] + [_tiny_shard()]


def _tiny_shard() -> bytes:
    entry = {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "model.embed_tokens.weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


@cache
def _config_seeds() -> list[bytes]:
    """One for each architecture, and what the corpus holds."""
    from weigh.model.architectures import FAMILIES

    fields = _FIELDS
    return [json.dumps(fields | {"model_type": kind}).encode() for kind in sorted(FAMILIES)] + [
        seed for seed in _files_of("config", "config.json") if len(seed) < 4096
    ]


_FIELDS: dict[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 4,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "sliding_window": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "layer_types": ["linear_attention", "linear_attention", "sliding_attention", "full_attention"],
    "index_n_heads": 4,
    "index_head_dim": 16,
    "num_dense_layers": 1,
    "swa_num_key_value_heads": 2,
    "shared_expert_intermediate_size": 32,
    "num_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 1,
    "conv_kernel": 4,
}


@cache
def _checkpoint_seeds() -> list[bytes]:
    from tests.model.hub_server import checkpoint_files

    quantized = {
        "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32},
        "model_type": "llama",
        **_FIELDS,
    }
    shards = [_scaled_down(checkpoint_files(shards=n)) for n in (1, 2)]
    packed = {"model.layers.0.self_attn.q_proj": 8}
    header = {
        f"{name}.{part}": {"dtype": dtype, "shape": [8, 8], "data_offsets": [at, at + 256]}
        for name in packed
        for part, dtype, at in (("qweight", "I32", 0), ("scales", "F32", 256))
    }
    raw = json.dumps(header).encode()
    gptq = SPLIT.join(
        [json.dumps(quantized).encode(), b"", len(raw).to_bytes(8, "little") + raw + bytes(512)]
    )
    return [*shards, gptq, *(SPLIT.join([seed, b"", _tiny_shard()]) for seed in _config_seeds()[:90])]


def _scaled_down(files: dict[str, bytes]) -> bytes:
    """The checkpoint with an eighth of every width, to be short."""
    fields = json.loads(files["config.json"]) | {"hidden_size": 8, "intermediate_size": 12, "vocab_size": 12}
    parts = [json.dumps(fields).encode(), files.get("model.safetensors.index.json", b"")]
    for name in sorted(n for n in files if n.endswith(".safetensors")):
        length = int.from_bytes(files[name][:8], "little")
        entries = json.loads(files[name][8 : 8 + length])
        end = 0
        for tensor in (entry for key, entry in entries.items() if key != "__metadata__"):
            tensor["shape"] = [max(1, n // 8) for n in tensor["shape"]]
            start, end = end, end + 2 * tensor["shape"][0] * (tensor["shape"][1:] or [1])[0]
            tensor["data_offsets"] = [start, end]
        raw = json.dumps(entries).encode()
        parts.append(len(raw).to_bytes(8, "little") + raw + bytes(end))
    return SPLIT.join(parts)


@cache
def _ollama_seeds() -> list[bytes]:
    kinds = ("model", "params", "projector", "adapter", "template", "tensor", "draft")
    digest = f"sha256:{'0' * 64}"
    layers = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": 0} for kind in kinds
    ]
    seeds = [json.dumps({"layers": [layer]}).encode() for layer in layers]
    whole = json.dumps({"schemaVersion": 2, "config": layers[0], "layers": layers[:2]}).encode()
    settings = b'{"num_ctx": 4096, "stop": ["x"], "temperature": 0.7}'
    sized = json.dumps({"layers": [layers[0] | {"size": len(settings)}, layers[1] | {"size": len(settings)}]})
    return [*seeds, whole, SPLIT.join([sized.encode(), settings])]


@cache
def _hub_seeds() -> list[bytes]:
    from tests.model.hub_server import COMMIT

    def listing(**files: int) -> bytes:
        siblings = [{"rfilename": name.replace("__", "."), "size": size} for name, size in files.items()]
        return json.dumps({"sha": COMMIT, "siblings": siblings}).encode()

    seed, shard = _gguf_seeds()[0], _tiny_shard()
    fields = json.dumps(_FIELDS | {"model_type": "llama"}).encode()
    return [
        SPLIT.join([listing(m__gguf=len(seed)), seed]),
        SPLIT.join([listing(model__safetensors=len(shard), config__json=len(fields)), fields, shard]),
        SPLIT.join([listing(config__json=len(fields)), fields]),
        listing(**{"m-Q4_K_M__gguf": 9, "m-Q8_0__gguf": 9}),
    ]


@cache
def _typed_seeds() -> list[bytes]:
    typed = ("llama-3.1-8b:Q4_K_M", "org/name@main:Q4_K_M", "hf:a/b", "ollama:x/y:z", "gpt-oss:20b", "a b c")
    return [name.encode() for name in typed]


@cache
def _device_seeds() -> list[bytes]:
    said = (
        "RTX 4090",
        "2x RTX 3090",
        "M4 Max 64GB",
        "Raspberry Pi 5 8GB",
        "EPYC 9554, 12x DDR5-4800",
        "A100 80GB PCIe",
    )
    return [name.encode() for name in said]


@cache
def _profile_seeds() -> list[bytes]:
    return [
        b'[a]\ndevice = "RTX 4090"\n[b]\nvram = "48G"\nbandwidth = 768\nram = "128G"\nram_bandwidth = 51.2\ngpus = 2\n',
        b'[c]\nvram = 48\nvendor = "amd"\nfp16 = 100.5\n',
        b'd = {device = "M4 Max 64GB"}\n',
        b'[[e]]\n[e.f]\n"g h" = [1, 2]\ni = 1979-05-27T07:32:00Z\n',
    ]


@cache
def _run_seeds() -> list[bytes]:
    from tests.store.quality import DIVERGED, ON_CODE, ON_TASKS, later
    from tests.store.runs import RUN
    from tests.store.samples import BENCH, faster
    from weigh.store import quality_result
    from weigh.store.measurement import document

    listed = ([], [RUN.to_json()], [RUN.to_json(), RUN.to_json()])
    own = [json.dumps({"weigh_runs": 1, "runs": runs}).encode() for runs in listed]
    foreign = Path(__file__).parents[1] / "tests" / "store" / "foreign"
    benched = [BENCH, faster(2.0, 1, model="other")]
    judged = [
        later(result, number, model=replace(result.model, name=one.model))
        for result in (ON_CODE, ON_TASKS, DIVERGED)
        for number, one in enumerate(benched)
    ]
    return [
        *own,
        json.dumps(document([BENCH, faster(2.0, 1)])).encode(),
        json.dumps(quality_result.document([ON_CODE, ON_TASKS, DIVERGED])).encode(),
        json.dumps(document(benched) | quality_result.document(judged)).encode(),
        *(path.read_bytes() for path in sorted(foreign.iterdir()) if path.stat().st_size <= 8192),
        _shortened((foreign / "guidellm.json").read_bytes()),
    ]


def _shortened(report: bytes) -> bytes:
    """GuideLLM's report with one request and no metrics."""
    document = json.loads(report)
    (benchmark,) = document["benchmarks"]
    benchmark["metrics"] = {}
    benchmark["requests"]["successful"] = benchmark["requests"]["successful"][:1]
    return json.dumps(document).encode()


_JSON = (
    b"null",
    b"true",
    b"NaN",
    b"1e999",
    b"-1",
    b"0",
    b"[]",
    b"{}",
    b'""',
    b"\\ud800",
    b"99999999999999999999",
)
_CONFIG_WORDS = tuple(
    f'"{name}"'.encode() for name in (*_FIELDS, "model_type", "text_config", "rope_scaling")
)
_LAYER_WORDS = (
    b'"layers"',
    b'"digest"',
    b'"size"',
    b'"mediaType"',
    b"sha256:",
    b"../",
    b"application/vnd.ollama.image.",
)
_HEADER_WORDS = (
    b'"dtype"',
    b'"shape"',
    b'"data_offsets"',
    b"__metadata__",
    b'"BF16"',
    b'"F8_E4M3"',
    b'"I32"',
)
_NUMBERS = (b"\xff" * 8, b"\0" * 8, b"\x01" + bytes(7), bytes(7) + b"\x80", bytes(4) + b"\x01" + bytes(3))

TARGETS = {
    "gguf": Target(
        gguf, _gguf_seeds, (*_NUMBERS, b"GGUF", b"llama.", b"split.count", b"blk.0.", b".weight", SPLIT)
    ),
    "safetensors": Target(safetensors, _safetensors_seeds, (*_NUMBERS, *_JSON, *_HEADER_WORDS)),
    "checkpoint": Target(
        checkpoint, _checkpoint_seeds, (*_JSON, *_HEADER_WORDS, *_CONFIG_WORDS, SPLIT), 16384
    ),
    "config": Target(config, _config_seeds, (*_JSON, *_CONFIG_WORDS), 4096),
    "ollama": Target(ollama, _ollama_seeds, (*_JSON, *_LAYER_WORDS, SPLIT), 4096),
    "ollama-names": Target(ollama_names, _typed_seeds, (b"/", b":", b"..", b"\0", b"\x1b"), 512),
    "hub": Target(
        hub, _hub_seeds, (*_JSON, b'"sha"', b'"siblings"', b'"rfilename"', b'"size"', b".gguf", SPLIT)
    ),
    "runs": Target(
        runs,
        _run_seeds,
        (
            *_JSON,
            b'"measured"',
            b'"low"',
            b"1e14",
            b"5e-324",
            b'"samples_ts"',
            b'"statistic"',
            b"1e308",
            b'"pieces"',
        ),
        16384,
    ),
    "names": Target(names, _typed_seeds, (b"/", b":", b"@", b"Q4_K_M", b"UD-", b"\0"), 512),
    "profiles": Target(
        profiles, _profile_seeds, (b"[", b"]", b'"', b"inf", b"nan", b"-1", b"9" * 400, b"ram", b"G")
    ),
    "devices": Target(
        devices,
        _device_seeds,
        (b"x ", b" GB", b"DDR5-", b"+", b", ", b"RTX", b"Ultra", b"9" * 40),
        512,
    ),
}
