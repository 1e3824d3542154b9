"""Builds a store as Ollama lays it out, sound or broken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LIBRARY = "registry.ollama.ai/library"
_LAYER = "application/vnd.ollama.image."


@dataclass(frozen=True)
class OllamaStore:
    folder: Path

    def add(self, name: str, *layers: tuple[str, bytes], config: Mapping[str, object] | None = None) -> Path:
        """A manifest at `HOST/NAMESPACE/MODEL/TAG` and the blobs of its layers, given as kind and content."""
        entries = [self.layer(_LAYER + kind, data) for kind, data in layers]
        docker = "application/vnd.docker.container.image.v1+json"
        return self.write(name, entries, self.layer(docker, json.dumps(config or {}).encode()))

    def write(self, name: str, layers: object, config: object = None) -> Path:
        """A manifest alone, whatever its layers are."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": config,
            "layers": layers,
        }
        path = self.folder / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))
        return path

    def layer(self, media_type: str, data: bytes) -> dict[str, object]:
        """An entry of a manifest, its blob written."""
        digest = hashlib.sha256(data).hexdigest()
        blob = self.blob(digest)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / f"sha256-{digest}"

    def blobs(self, size: int) -> Sequence[Path]:
        """The blobs of a size."""
        return [path for path in (self.folder / "blobs").iterdir() if path.stat().st_size == size]
