"""The process that runs a checkpoint on transformers: `python transformers_child.py GIVEN`, with GIVEN as JSON.

GIVEN holds `folder`, `weights` (False: make them up), `threads` (or null) and `context_tokens`. When the model
answers, stderr says on which port of loopback. A connection carries one request, a line of JSON; what comes
back is a line per token and a last one with the times. What goes wrong ends the process with a traceback, but
for requests that are refused. It imports nothing of weigh.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}
os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}

HOST = "127.0.0.1"
WARM_UP = {"prompt": [0] * 8, "output_tokens": 2}
POOL = 65521  # made-up weights that are repeated; a prime, so that the rows of a matrix differ
LARGEST_WEIGHT = 0.04


class Model:
    """A loaded model and the cache of its last request."""

    def __init__(self, given: dict[str, Any]) -> None:
        import torch
        from transformers import GenerationConfig

        if given["threads"]:
            torch.set_num_threads(given["threads"])
        config = import_code(given["folder"])
        say("loading")
        self._model = loaded(given["folder"]) if given["weights"] else made_up(config)
        self._model.generation_config = GenerationConfig()  # its own may sample, and stop at end tokens
        self._context_tokens = given["context_tokens"]
        self._cache: Any = None
        self._cache_name = ""
        self._cached_ids: list[int] = []
        self.answer(WARM_UP, lambda line: None)

    def refusal(self, request: dict[str, Any]) -> str | None:
        prompt, wanted = request["prompt"], request["output_tokens"]
        vocab = self._model.get_input_embeddings().num_embeddings
        if not prompt:
            return "the prompt is empty"
        if not 0 <= min(prompt) <= max(prompt) < vocab:
            return f"a token id is outside the vocabulary of {vocab}"
        if len(prompt) + wanted > self._context_tokens:
            return f"{len(prompt)} + {wanted} tokens exceed the context of {self._context_tokens}"
        return None

    def answer(self, request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        """Prefill and decode, as `generate` does it for everybody."""
        import torch

        prompt, wanted = request["prompt"], request["output_tokens"]
        cached = self._kept_of(prompt) if request.get("reuse_cache") else 0
        kept = {self._cache_name: self._cache} if cached else {}
        self._cache = None
        ids = torch.tensor([prompt])
        clock = Clock(send)
        made = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            **kept,
            streamer=clock,
            max_new_tokens=wanted,
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
        )
        # called `cache` since 5.24; a model that keeps it elsewhere has none to reuse
        self._cache_name = "cache" if "cache" in made else "past_key_values"
        self._cache = made.get(self._cache_name)
        self._cached_ids = made.sequences[0, :-1].tolist()  # the last token was never run
        send({"prompt_tokens": len(prompt) - cached, "cached_tokens": cached, "ends_s": clock.ends_s})

    def _kept_of(self, prompt: list[int]) -> int:
        """Cut the cache back to what it shares with `prompt`, whose last token must run; how much that is."""
        if self._cache is None:
            return 0
        pairs = zip(self._cached_ids, prompt[:-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        too_many = len(self._cached_ids) - shared
        try:
            if too_many:
                self._cache.crop(-too_many)
        except (AttributeError, RuntimeError, ValueError):
            # A cache without `crop`; windows that have moved on, and states, cannot be taken back, which some
            # releases call a RuntimeError and some a ValueError. Want of memory is a RuntimeError too, but cutting
            # takes views of what there is and allocates nothing.
            return 0
        return shared


class Clock:
    """What `generate` hands its tokens to; the first call brings the prompt."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._started_s = time.perf_counter()
        self._prompt_seen = False
        self.ends_s: list[float] = []

    def put(self, ids: Any) -> None:
        if self._prompt_seen:
            self.ends_s.append(time.perf_counter() - self._started_s)
            self._send({"token": int(ids)})
        self._prompt_seen = True

    def end(self) -> None:
        pass


def import_code(folder: str) -> Any:
    """Import the model's own code, which is no part of loading it, by building it without memory; its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return config


def loaded(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True
    )


def made_up(config: Any) -> Any:
    """A model of the config's shapes: speed and memory do not depend on what its weights say."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():  # drawing a billion of them takes minutes
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.tie_weights()
    drawn = torch.empty(POOL).uniform_(-LARGEST_WEIGHT, LARGEST_WEIGHT)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim < 2:
                weights.fill_(1)  # norms
                continue
            flat, pool = weights.view(-1), drawn.to(weights.dtype)
            whole = flat.numel() // POOL * POOL
            flat[:whole].view(-1, POOL).copy_(pool)
            flat[whole:].copy_(pool[: flat.numel() - whole])
    return model.eval()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(given: dict[str, Any]) -> None:
    model = Model(given)
    with socket.create_server((HOST, 0)) as server:
        say(f"listening on {HOST}:{server.getsockname()[1]}")
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rw", encoding="utf-8") as lines:
                serve(model, lines)


def serve(model: Model, lines: Any) -> None:
    def send(line: dict[str, Any]) -> None:
        lines.write(json.dumps(line) + "\n")
        lines.flush()

    request = json.loads(lines.readline())
    refused = model.refusal(request)
    if refused:
        send({"refused": refused})
    else:
        model.answer(request, send)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
