"""What OpenAI-compatible servers say, in the words of their protocol."""

from __future__ import annotations

from typing import Any

from tests.engines.stand_in import event, say

COMPLETIONS, CHAT, MODELS = "/v1/completions", "/v1/chat/completions", "/v1/models"


def listing(*names: str, owner: str = "system", **more: Any) -> Any:
    entries = [{"id": name, "object": "model", "owned_by": owner, **more} for name in names]
    return say({"object": "list", "data": entries})


def text_piece(text: str, usage: Any = None, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish}], "usage": usage})


def chat_piece(finish: str | None = None, **delta: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def used(prompt: int, output: int, **details: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output, **details}
