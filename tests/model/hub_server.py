"""A hub on this machine, with a host for its files beside it, and all the ways in which servers go wrong."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

from tests.model.gguf_files import GgufFile

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Asked:
    """A request as it came in. `host` is what the client called the server."""

    method: str
    host: str
    path: str
    token: str | None
    range: str | None


@dataclass
class Hub:
    """Repositories by id, their files by name.

    Attributes:
        asked: every request, in order.
        odd: answers in place of the true one, by the beginning of the path.
        gate: the token that has to come with a request; "" when anyone may read.
    """

    repositories: dict[str, dict[str, bytes]]
    asked: list[Asked] = field(default_factory=list)
    odd: dict[str, Callable[[Handler], None]] = field(default_factory=dict)
    gate: str = ""
    port: int = 0
    scheme: str = "http"

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def files_host(self) -> str:
        """Where files lie: the same server, under a name that is another host to a client."""
        return f"{self.scheme}://localhost:{self.port}"

    def paths(self, part: str = "") -> list[str]:
        return [request.path for request in self.asked if part in request.path]


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does: listings, and redirects from `/resolve/` to the files' host."""

    hub: Hub

    def do_GET(self) -> None:
        path = unquote(self.path)
        token = self.headers.get("Authorization")
        host, part = self.headers["Host"], self.headers.get("Range")
        self.hub.asked.append(Asked(self.command, host, path, token, part))
        odd = next((answer for begin, answer in self.hub.odd.items() if path.startswith(begin)), None)
        if odd is not None:
            with suppress(OSError):  # a client that has had enough
                odd(self)
        elif path.startswith("/files/"):
            self.send_part(self.hub.repositories[path.split("@")[1]][path.split("@")[2]])
        elif self.hub.gate and token != f"Bearer {self.hub.gate}":
            self.refuse(401, "GatedRepo")
        elif match := re.fullmatch(r"/api/models/(.+)/revision/([^/?]+)(\?.*)?", path):
            self._list(match[1], match[2])
        elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[3])
        else:
            self.refuse(404)

    do_HEAD = do_GET  # noqa: N815 (its name in http.server)

    def _list(self, repo: str, revision: str) -> None:
        files = self.hub.repositories.get(repo)
        if files is None:
            self.refuse(401)  # as the hub answers those who are not logged in
        elif revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        else:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            self.send_json({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings})

    def _resolve(self, repo: str, name: str) -> None:
        data = self.hub.repositories.get(repo, {}).get(name)
        if data is None:
            self.refuse(404, "EntryNotFound")
            return
        self.send_response(302)
        self.send_header("Location", f"{self.hub.files_host}/files/@{repo}@{name}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Linked-ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_part(self, data: bytes, said_total: int | None = None) -> None:
        """What was asked for of a file, with the size it is said to have."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            self.send_response(200)
            body = data
        else:
            start = int(match[1])
            body = data[start : int(match[2]) + 1 if match[2] else None]
            self.send_response(206)
            total = len(data) if said_total is None else said_total
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(body)

    def send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, code: str = "", **headers: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def redirect(self, location: str) -> None:
        self.refuse(302, Location=location)

    def endless(self, start: bytes = b"", piece: bytes = b"x" * 65536, pause_s: float = 0) -> None:
        """Bytes until the client goes away."""
        self.wfile.write(start or b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            self.wfile.write(piece)
            time.sleep(pause_s)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(
    repositories: Mapping[str, Mapping[str, bytes]], certificate: Path | None = None
) -> Iterator[Hub]:
    """A hub that answers while the block runs; over TLS with a certificate (and its key in the same file)."""
    hub = Hub({repo: dict(files) for repo, files in repositories.items()})
    handler = type("OneHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if certificate is not None:
        hub.scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    hub.port = server.server_port
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def gguf_bytes(file: GgufFile) -> bytes:
    """A whole GGUF file, its weights zeros."""
    return file.header().ljust(file.data_start() + file.data_bytes(), b"\0")


LAYERS = 2
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "torch_dtype": "bfloat16",
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_LAYER = {
    "input_layernorm": (64,),
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64),
    "post_attention_layernorm": (64,),
    "mlp.gate_proj": (96, 64),
    "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}
# 2 x 100 x 64 at the ends, 64 for the last norm; a layer 2 x 64 + 2 x 64 x 64 + 2 x 32 x 64 + 3 x 96 x 64.
CHECKPOINT_WEIGHTS = 2 * 6400 + 64 + LAYERS * (128 + 8192 + 4096 + 18432)


def checkpoint_files(*, shards: int = 1) -> dict[str, bytes]:
    """A llama in BF16 as transformers saves it; one shard for the ends, the others for the layers."""
    tensors = {"model.embed_tokens": (100, 64), "model.norm": (64,), "lm_head": (100, 64)}
    parts: list[dict[str, tuple[int, ...]]] = [tensors, *({} for _ in range(1, shards))]
    for layer in range(LAYERS):
        part = parts[(1 + layer) % shards]
        part |= {f"model.layers.{layer}.{name}": shape for name, shape in _LAYER.items()}
    if shards == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{n:05}-of-{shards:05}.safetensors" for n in range(1, shards + 1)]
    files = {name: _safetensors(part) for name, part in zip(names, parts, strict=True)}
    weight_map = {f"{t}.weight": name for name, part in zip(names, parts, strict=True) for t in part}
    index = {"metadata": {"total_size": 2 * CHECKPOINT_WEIGHTS}, "weight_map": weight_map}
    if shards > 1:
        files["model.safetensors.index.json"] = json.dumps(index).encode()
    return {"config.json": json.dumps(CONFIG).encode(), **files}


def _safetensors(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)
