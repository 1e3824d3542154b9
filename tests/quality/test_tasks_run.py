"""Tasks put to models: a real engine with a tiny model, and a server that knows the answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.quality.vocabularies import write_model
from tests.sandboxes import needs_sandbox
from weigh.errors import BadInput, EngineCrashed, NotSupported, UnknownName
from weigh.model.gguf import read_gguf
from weigh.quality.sandbox.judged import require_sandbox
from weigh.quality.tasks.prompts import chat_prompt
from weigh.quality.tasks.run import Answer, Asked, Ended, Kept, order, put
from weigh.quality.tasks.task import Task, load_tasks
from weigh.quality.tasks.writers import Sampling, Style, from_file, from_url, has_chat_template

REVIEW = load_tasks(wanted=["review"])[:4]
CODE = load_tasks(wanted=["refactoring"])[:1]

Answering = Callable[[dict[str, Any]], str | dict[str, Any]]


@contextmanager
def server(answering: Answering, *, reasoning: str = "") -> Iterator[str]:
    """An OpenAI-compatible address; `answering` gets each request and gives the text, or an error's body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, json.dumps({"data": [{"id": "stand-in"}]}).encode(), "application/json")

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = answering(request)
            if isinstance(said, dict):
                self._send(said["status"], json.dumps({"error": said}).encode(), "application/json")
                return
            deltas = [{"reasoning_content": reasoning}] if reasoning else []
            deltas += [{"content": said[n : n + 7]} for n in range(0, len(said), 7)]
            chunks: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
            finish = "length" if request.get("max_tokens") == 16 else "stop"
            chunks.append({"choices": [{"delta": {}, "finish_reason": finish}]})
            chunks.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(deltas)}})
            body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
            self._send(200, body + b"data: [DONE]\n\n", "text/event-stream")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}/v1"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def knows(tasks: tuple[Task, ...], request: dict[str, Any]) -> str:
    """A right answer to whichever task is asked."""
    asked = request["messages"][0]["content"]
    (task,) = (task for task in tasks if chat_prompt(task) == asked)
    return task.right_answers[0]


def test_a_model_that_knows_passes():
    with (
        server(lambda request: knows(REVIEW, request), reasoning="ANSWER: Z") as url,
        from_url(url) as writer,
    ):
        run = put(writer, REVIEW, Asked(samples=2, parallel=2))
    assert (run.model, run.style, run.ended, run.left_out) == ("stand-in", Style.CHAT, Ended.ALL_ASKED, 0)
    assert [(one.samples, one.passed) for one in run.outcomes()] == [(2, 2)] * 4
    assert all(answer.output_tokens for answer in run.answers)


@needs_sandbox
def test_code_is_judged_in_the_sandbox():
    wrong = CODE[0].wrong_answers[0].text
    with server(lambda request: wrong) as url, from_url(url) as writer:
        run = put(writer, CODE, Asked())
    assert not run.answers[0].verdict.passed
    with server(lambda request: knows(CODE, request)) as url, from_url(url) as writer:
        assert put(writer, CODE, Asked()).answers[0].verdict.passed


def test_without_a_sandbox_no_code_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []
    monkeypatch.setenv("PATH", str(tmp_path))
    require_sandbox.cache_clear()
    try:
        with (
            server(lambda request: asked.append(request) or "") as url,
            from_url(url) as writer,
            pytest.raises(NotSupported, match="bubblewrap is not installed"),
        ):
            put(writer, (*CODE, *REVIEW), Asked())
    finally:
        require_sandbox.cache_clear()
    assert asked == []


def test_what_a_server_does_not_take_is_left_out():
    seen: list[set[str]] = []

    def picky(request: dict[str, Any]) -> str | dict[str, Any]:
        seen.append(set(request))
        for name in ("max_tokens", "temperature"):
            if name in request:
                return {"status": 400, "message": f"Unsupported parameter: '{name}'"}
        return knows(REVIEW, request)

    with server(picky) as url, from_url(url) as writer:
        run = put(writer, REVIEW[:2], Asked())
    assert [one.passed for one in run.outcomes()] == [1, 1]
    assert len(seen) == 4  # two refusals, and then it is known
    assert "max_completion_tokens" in seen[-1]
    assert "seed" in seen[-1]


def test_samples_have_their_own_seeds():
    seeds: list[int] = []
    with server(lambda r: str(seeds.append(r["seed"]))) as url, from_url(url) as writer:
        put(writer, REVIEW[:1], Asked(samples=3, sampling=Sampling(0.8, 64, seed=5)))
    assert sorted(seeds) == [5, 6, 7]


def test_a_cut_answer_says_so():
    with server(lambda request: "I think") as url, from_url(url) as writer:
        run = put(writer, REVIEW[:1], Asked(sampling=Sampling(most_tokens=16)))
    assert run.answers[0].cut
    assert run.answers[0].verdict.why.startswith("cut after 16 tokens; ")


def test_a_prompt_too_long_is_an_answer_that_fails():
    said = {"status": 400, "message": "the request exceeds the available context size"}
    with server(lambda request: said) as url, from_url(url) as writer:
        run = put(writer, REVIEW[:2], Asked())
    assert [one.passed for one in run.outcomes()] == [0, 0]
    assert "context" in run.answers[0].verdict.why


def test_a_failure_keeps_what_is_done():
    count = iter(range(100))

    def failing(request: dict[str, Any]) -> str | dict[str, Any]:
        return {"status": 500, "message": "out of order"} if next(count) == 2 else knows(REVIEW, request)

    with server(failing) as url, from_url(url) as writer:
        run = put(writer, REVIEW, Asked())
    assert (run.ended, len(run.answers)) == (Ended.FAILED, 2)
    assert isinstance(run.error, EngineCrashed)
    with (
        server(lambda request: {"status": 500, "message": "out of order"}) as url,
        from_url(url) as writer,
        pytest.raises(EngineCrashed, match="out of order"),
    ):
        put(writer, REVIEW, Asked())


def test_ctrl_c_keeps_what_is_done():
    def interrupted(stage: str, done: float) -> None:
        if done >= 0.5:
            raise KeyboardInterrupt

    with server(lambda request: knows(REVIEW, request)) as url, from_url(url) as writer:
        run = put(writer, REVIEW, Asked(), progress=interrupted)
    assert (run.ended, len(run.answers)) == (Ended.INTERRUPTED, 2)
    assert isinstance(run.error, KeyboardInterrupt)


@needs_sandbox
def test_ctrl_c_ends_code_that_is_running():
    """The program would else wait at its end until the code has used up its time."""
    begun = threading.Event()
    sleeps = "```python\nimport time\ntime.sleep(600)\n```"

    def answering(request: dict[str, Any]) -> str:
        if request["messages"][0]["content"] == chat_prompt(CODE[0]):
            begun.set()
            return sleeps
        begun.wait()
        return knows(REVIEW, request)

    def interrupted(stage: str, done: float) -> None:
        raise KeyboardInterrupt

    with server(answering) as url, from_url(url) as writer:
        before = set(threading.enumerate())
        run = put(writer, (*CODE, *REVIEW[:1]), Asked(parallel=2), progress=interrupted)
        workers = [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
        for thread in set(workers) - before:
            thread.join(15)  # half of what the code may take
            assert not thread.is_alive()
    assert (run.ended, len(run.answers)) == (Ended.INTERRUPTED, 1)


def test_no_answer_is_begun_when_the_time_is_up():
    with server(lambda request: knows(REVIEW, request)) as url, from_url(url) as writer:
        with pytest.raises(BadInput, match="the time was up"):
            put(writer, REVIEW, Asked(most_s=-1.0))
        wait = threading.Event()
        run = put(
            writer, REVIEW, Asked(most_s=0.3), progress=lambda stage, done: bool(wait.wait(0.5)) or None
        )
    assert (run.ended, len(run.answers)) == (Ended.TIME_UP, 1)


def test_the_order_is_fair():
    turns = list(order(REVIEW, Asked(samples=2)))
    assert sorted({task.id for task, _ in turns[:4]}) == [task.id for task in REVIEW]
    assert [sample for _, sample in turns] == [0] * 4 + [1] * 4
    assert turns == list(order(REVIEW, Asked(samples=2)))
    assert turns != list(order(REVIEW, Asked(samples=2, sampling=Sampling(seed=1))))


def test_a_server_with_other_models():
    with (
        server(lambda request: "") as url,
        pytest.raises(UnknownName, match="standin"),
        from_url(url, model="standin"),
    ):
        pass


def test_answers_are_kept_as_they_come(tmp_path: Path):
    kept = Kept(tmp_path / "deep" / "answers.jsonl")
    said = "ANSWER: half \ud83d a character"  # which the reason for its failing repeats
    with server(lambda request: said) as url, from_url(url) as writer:
        run = put(writer, REVIEW[:2], Asked(), keep=kept.add)
    kept.close()
    lines = [json.loads(line) for line in kept.path.read_text(encoding="utf-8").splitlines()]
    assert [line["task"] for line in lines] == [answer.task for answer in run.answers]
    assert [line["text"] for line in lines] == [said] * 2
    assert any("\ud83d" in line["why"] for line in lines)
    assert set(lines[0]) == {
        "model",
        "task",
        "sample",
        "passed",
        "why",
        "output_tokens",
        "cut",
        "took_s",
        "text",
    }
    with pytest.raises(BadInput, match="answers cannot be kept there"):
        Kept(tmp_path / "deep" / "answers.jsonl" / "x")


# --- a real engine -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_model(path)
    return path


@needs_sandbox
def test_a_base_model_fills_gaps(tiny: Path, store: object):
    assert not has_chat_template(tiny)
    tasks = (*load_tasks(wanted=["completion"])[:2], *REVIEW)
    sampling = Sampling(most_tokens=16)
    kept: list[Answer] = []
    with from_file(read_gguf(tiny), tasks, sampling, threads=1) as writer:
        run = put(
            writer, tasks, Asked(2, sampling, parallel=1), keep=lambda model, answer: kept.append(answer)
        )
        assert (run.style, run.left_out, len(run.answers)) == (Style.COMPLETION, 4, 4)
        with pytest.raises(BadInput, match="base model"):
            put(writer, REVIEW, Asked())
    assert kept == run.answers
    assert all(answer.output_tokens for answer in kept if answer.cut)
    assert {one.passed for one in run.outcomes()} == {0}  # random weights


def test_a_chat_with_a_real_engine(tiny: Path, store: object):
    sampling = Sampling(temperature=0.8, most_tokens=16)
    with from_file(read_gguf(tiny), REVIEW[:1], sampling, style=Style.CHAT, threads=1) as writer:
        run = put(writer, REVIEW[:1], Asked(sampling=sampling))
    (answer,) = run.answers
    assert not answer.verdict.passed
    assert answer.text or answer.output_tokens or "context" in answer.verdict.why
