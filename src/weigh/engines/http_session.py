"""A model in a running server, llama.cpp's by its own protocol, spoken to over HTTP on loopback."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from weigh import units
from weigh.engines.child import Child
from weigh.engines.closing import ClosedAfterUse
from weigh.engines.engine import HOST, Generation, Limits, ProcessMemory
from weigh.engines.engine_log import LISTENING, LOADING
from weigh.errors import BadFile, BadInput, EngineCrashed, EngineTimeout

if TYPE_CHECKING:
    from http.client import HTTPResponse


class HttpSession(ClosedAfterUse):
    """See `weigh.engines.engine.Session`. Requests may be sent from several threads at once.

    Attributes:
        LOADING, LISTENING: what the server's log says when it turns to the model, and when it has a port.
    """

    LOADING: ClassVar[re.Pattern[str]] = LOADING
    LISTENING: ClassVar[re.Pattern[str]] = LISTENING
    PATH: ClassVar[str] = "/completion"

    def __init__(self, command: Sequence[str], limits: Limits, *, what: str) -> None:
        """Start the server `command` and wait until its model is loaded.

        Raises:
            EngineError: it did not come up; nothing of it is left.
        """
        self.command = tuple(command)
        self._silence_s = limits.silence_s
        started_s = time.monotonic()
        self._child = Child(command, limits, what=what)
        try:
            self._port = self._wait_until_healthy(started_s + limits.start_s)
        except BaseException:
            self._child.end()
            raise
        loading = self._child.said_at(self.LOADING)
        self.load_s = time.monotonic() - (loading[0] if loading else started_s)

    @property
    def url(self) -> str:
        """Where it answers, for clients of one's own."""
        return f"http://{HOST}:{self._port}"

    def _wait_until_healthy(self, deadline_s: float) -> int:
        _, found = self._child.wait_for(self.LISTENING, deadline_s)
        port = int(found[1])
        while not self._healthy(port):
            if not self._child.alive:
                self._child.fail()
            self._child.keep_to(deadline_s)
            time.sleep(0.01)
        return port

    def _healthy(self, port: int) -> bool:
        import http.client  # here, because it takes 30 ms that estimates have no use for

        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def generate(self, prompt: Sequence[int], output_tokens: int, *, reuse_cache: bool = False) -> Generation:
        """Prefill `prompt` (token ids), then decode exactly `output_tokens`, ignoring end tokens.

        Raises:
            BadInput: the engine refuses the request, for example because it exceeds the context.
            EngineTimeout: nothing came for `silence_s`; the engine is ended.
            EngineError: the engine died.
        """
        request = _request(prompt, output_tokens, reuse_cache) | {"stream": True, "timings_per_token": True}
        sent_s = time.perf_counter()
        times_s: list[float] = []
        steps_s: list[float] = []
        decoded_s = 0.0
        last: dict[str, Any] = {}
        for last in self._events(request):
            # several tokens may come in one event, and some (parts of a character) in a later one
            timings = last["timings"]
            new = timings["predicted_n"] - len(times_s)
            steps = new if times_s else new - 1  # the first token is the prefill's
            if steps > 0:
                steps_s += [(timings["predicted_ms"] / 1000 - decoded_s) / steps] * steps
            if new:
                decoded_s = timings["predicted_ms"] / 1000
            times_s += [time.perf_counter() - sent_s] * new
        if not last.get("stop"):  # the stream broke off
            self._child.fail()
        return _generation(last["timings"], times_s, steps_s)

    def answer(self, prompt: Sequence[int], output_tokens: int, *, reuse_cache: bool = False) -> Generation:
        """The same in one piece: no tokens are handed out meanwhile, so none have times, and nothing takes the
        processors from the engine. Raises as `generate` does."""
        with self._response(_request(prompt, output_tokens, reuse_cache)) as response:
            body = response.read()
        try:
            return _generation(json.loads(body)["timings"], [], [])
        except (ValueError, KeyError, TypeError):
            raise EngineCrashed(f"{self._child.what} gave an answer without timings") from None

    def _events(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the server streams back, one event at a time."""
        with self._response(request) as response:
            while line := response.readline():
                kind, _, data = line.partition(b":")
                if kind == b"error":
                    raise _refusal(self._child.what, data)
                if kind == b"data" and data.strip() != b"[DONE]":
                    yield json.loads(data)

    @contextmanager
    def _response(self, request: dict[str, Any]) -> Iterator[HTTPResponse]:
        import http.client

        connection = http.client.HTTPConnection(HOST, self._port, timeout=self._silence_s)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", self.PATH, json.dumps(request), headers)
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                raise _refusal(self._child.what, response.read(1 << 16))
            yield response
        except TimeoutError:
            self._child.end()
            raise EngineTimeout(
                f"{self._child.what} was silent for {units.seconds(self._silence_s)}"
            ) from None
        except (OSError, http.client.HTTPException):
            self._child.fail()
        finally:
            connection.close()

    def log(self) -> list[str]:
        """The last lines the engine wrote, oldest first."""
        return self._child.log()

    def memory(self) -> ProcessMemory:
        return self._child.memory

    def check(self) -> None:
        """Raises EngineError when the engine has ended."""
        if not self._child.alive:
            self._child.fail()

    def close(self) -> None:
        self._child.end()


def require_file(model: Path) -> None:
    """Engines say little about a file they cannot open.

    Raises:
        BadFile: there is no such file, or it may not be read.
    """
    try:
        with model.open("rb"):
            pass
    except OSError as error:
        raise BadFile(model, f"cannot be read: {error.strerror}") from None


def _request(prompt: Sequence[int], output_tokens: int, reuse_cache: bool) -> dict[str, Any]:
    return {
        "prompt": list(prompt),
        "n_predict": output_tokens,
        "ignore_eos": True,
        "cache_prompt": reuse_cache,
        # taking the likeliest token costs the engine nothing; its default samplers do
        "samplers": ["top_k"],
        "top_k": 1,
    }


def _generation(timings: dict[str, Any], times_s: list[float], steps_s: list[float]) -> Generation:
    return Generation(
        prompt_tokens=timings["prompt_n"],
        cached_tokens=timings["cache_n"],
        output_tokens=timings["predicted_n"],
        prefill_s=timings["prompt_ms"] / 1000,
        decode_s=timings["predicted_ms"] / 1000,
        token_times_s=tuple(times_s),
        step_times_s=tuple(steps_s),
    )


def _refusal(what: str, body: bytes) -> BadInput:
    try:
        answer = json.loads(body)
        message = answer.get("error", answer)["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        message = body.decode(errors="replace").strip()[:200]
    return BadInput(f"{what} refused the request: {message}")
