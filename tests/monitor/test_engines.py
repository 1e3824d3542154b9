"""Engines found and asked: llama.cpp's real server, and servers that answer as published."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.running import EATER, Start, until
from tests.tiny_models import tiny_llama
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.errors import BadInput
from weigh.monitor.engines import EngineLoad, EngineReader, Named, named_roots
from weigh.monitor.token_rates import (
    Counts,
    checked_url,
    counts_of_metrics,
    counts_of_ollama,
    counts_of_slots,
    metrics,
    rate_between,
)
from weigh.synth.gguf import write_gguf

VLLM = """# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 1200.0
vllm:generation_tokens_total{engine="1",model_name="m"} 300.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 5000.0
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
"""
LLAMA = (
    "llamacpp:prompt_tokens_total 640\nllamacpp:tokens_predicted_total 60\nllamacpp:requests_processing 1\n"
)
OLLAMA = {"models": [{"name": "llama3.2:latest", "size": 5_137_025_024, "size_vram": 0}]}


def slots(*now: tuple[int, int]) -> str:
    """(request, tokens so far) of each."""
    return json.dumps(
        [
            {"id": at, "id_task": task, "is_processing": True, "next_token": [{"n_decoded": tokens}]}
            for at, (task, tokens) in enumerate(now)
        ]
    )


# --- what servers tell -----------------------------------------------------------------------------------


def test_metrics_are_summed_over_their_labels() -> None:
    assert metrics(VLLM)["vllm:generation_tokens_total"] == 1500
    assert metrics('a 1\nb{x="y z"} 2e3\nbroken\nc NaNo\n') == {"a": 1, "b": 2000}


def test_vllm_counts_tokens_as_they_come() -> None:
    now = counts_of_metrics(VLLM)
    later = counts_of_metrics(VLLM.replace("1200.0", "1260.0").replace("5000.0", "5500.0"))
    rate = rate_between(now, later, 2.0)
    assert (rate.decode_tokens_per_s, rate.prefill_tokens_per_s) == (30.0, 250.0)
    assert (rate.running, rate.waiting, rate.counts) == (3, 2, "as it comes")


def test_llama_servers_metrics_count_when_requests_end() -> None:
    rate = rate_between(counts_of_metrics(LLAMA), counts_of_metrics(LLAMA.replace(" 60", " 100")), 4.0)
    assert rate.decode_tokens_per_s == 10.0
    assert rate.counts == "when its request ends"


def test_slots_start_again_with_each_request() -> None:
    before, now = counts_of_slots(slots((1, 50), (2, 10))), counts_of_slots(slots((1, 60), (3, 4)))
    assert rate_between(before, now, 2.0).decode_tokens_per_s == 7.0  # 10 and 4 in 2 s
    older = '[{"id": 0, "id_task": 1, "is_processing": false, "next_token": {"n_decoded": 5}}]'
    assert counts_of_slots(older).slots == {0: (1, 5)}


def test_a_counter_that_started_again_tells_no_rate() -> None:
    rate = rate_between(Counts(decoded=100.0), Counts(decoded=10.0), 1.0)
    assert rate.decode_tokens_per_s is None


def test_ollama_tells_what_is_loaded_and_no_rate() -> None:
    rate = rate_between(Counts(), counts_of_ollama(json.dumps(OLLAMA)), 1.0)
    assert rate.models == ("llama3.2:latest",)
    assert rate.decode_tokens_per_s is None
    assert rate.problem == "Ollama does not tell it"


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://x:99999", "http://[::1", "http://user:secret@x"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BadInput):
        checked_url(url)


def test_an_address_needs_no_scheme_and_loses_its_path() -> None:
    assert checked_url("localhost:8080/v1") == "http://localhost:8080"


# --- servers ---------------------------------------------------------------------------------------------


@contextmanager
def serving(answers: dict[str, str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write((found or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def read_until(reader: EngineReader, true: object) -> EngineLoad:
    found: list[EngineLoad] = []

    def look() -> bool:
        found[:] = reader.read()
        return bool(found) and true(found[0])  # type: ignore[operator]

    until(look)
    return found[0]


def test_a_server_by_its_address_is_asked_in_every_way() -> None:
    answers = {"/metrics": VLLM}
    with serving(answers) as url:
        reader = EngineReader(Named(urls=(url,)))
        first = read_until(reader, lambda one: one.tokens.running == 3)
        assert (first.pid, first.private_bytes) == (None, None)  # nothing is known of its process
        assert first.tokens is not None
        assert first.tokens.decode_tokens_per_s is None
        answers["/metrics"] = VLLM.replace("1200.0", "9999.0")
        later = read_until(reader, lambda one: one.tokens.decode_tokens_per_s)
        assert later.tokens is not None
        reader.close()


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"/metrics": VLLM.replace("3.0", "1e999")},
        {"/slots": "[" * 100_000},
        {"/slots": '[{"id": 1e999}]'},
    ],
    ids=["nothing", "more than can be", "too deep", "no number"],
)
def test_a_server_that_tells_nothing_says_so(answers: dict[str, str]) -> None:
    with serving(answers) as url:
        reader = EngineReader(Named(urls=(url,)))
        read_until(reader, lambda one: one.tokens.problem == "it does not tell it")
        reader.close()


def test_nobody_at_an_address_says_so() -> None:
    reader = EngineReader(Named(urls=("http://127.0.0.1:9",)))
    read_until(reader, lambda one: one.tokens.problem == "it does not tell it")
    reader.close()


# --- processes -------------------------------------------------------------------------------------------


def test_a_process_by_its_number_needs_no_server(start: Start) -> None:
    root = start(EATER, 40, 10, lines=1)
    reader = EngineReader(Named(pids=(root.pid,)))
    (found,) = reader.read()
    assert found.private_bytes is not None
    assert found.private_bytes > 40 << 20
    assert (found.processes, found.url, found.tokens, found.gpu_bytes) == (1, None, None, None)
    reader.close()


def test_one_that_has_ended_is_gone(start: Start) -> None:
    import os
    import signal

    root = start(EATER, 0, 1, lines=1)
    reader = EngineReader(Named(pids=(root.pid,)))
    assert len(reader.read()) == 1
    os.kill(root.pid, signal.SIGKILL)
    until(lambda: reader.read() == ())
    reader.close()


def test_names_find_those_that_start_later(tmp_path: Path) -> None:
    script = tmp_path / "later-engine"
    script.write_text("import time\ntime.sleep(60)\n")
    find = named_roots(Named(names=("later-engine",)))
    assert find() == []
    with subprocess.Popen([sys.executable, "-P", script]) as child:
        until(find)
        assert [process.pid for process in find()] == [child.pid]
        child.kill()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 40 ms a token on one core, so that there is time to look."""
    path = tmp_path_factory.mktemp("models") / "slow.gguf"
    write_gguf(tiny_llama(layers=4, hidden=2048, feed_forward=8192, heads=32, kv_heads=8), path)
    return path


def test_a_real_llama_server_is_found_by_name_with_its_memory_and_rate(model: Path) -> None:
    settings = Settings(context_tokens=2048, threads=1)
    with EmbeddedLlamaCpp().start(model, settings, Limits()) as session:
        reader = EngineReader()

        def ours() -> EngineLoad | None:
            found = [one for one in reader.read() if one.name == "xllamacpp_child.py"]
            return next((one for one in found if one.pid == session._child.pid), None)  # type: ignore[attr-defined]

        until(ours)
        done = threading.Thread(target=lambda: session.generate([1] * 16, 300))
        done.start()
        rates: list[float] = []

        def rated() -> bool:
            one = ours()
            rate = one.tokens.decode_tokens_per_s if one and one.tokens else None
            rates.extend([rate] if rate else [])
            return len(rates) >= 2 or not done.is_alive()

        until(rated, at_most_s=120)
        done.join()
        found = ours()
        reader.close()
        assert found is not None
        assert found.kind == "llama.cpp"
        assert found.private_bytes is not None
        assert found.file_bytes is not None
        assert found.private_bytes + found.file_bytes > model.stat().st_size * 0.9
        assert rates
