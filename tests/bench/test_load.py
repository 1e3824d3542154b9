"""Load on a server that streams without a model, and figures of requests that happened as written here.

No test asks that anything is fast: times are compared with each other and with what the server wrote down.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections import Counter

import pytest

from tests.null_servers import null_server, sent_by
from weigh.bench.arrivals import Arrival, Lengths, Process
from weigh.bench.load import Asked, Level, Load, Targets, level, values_of
from weigh.bench.load_record import measurement_of
from weigh.bench.load_run import run_load
from weigh.bench.streams import Failure, Request
from weigh.engines.endpoint import Endpoint
from weigh.engines.openai_api import OpenAiModel
from weigh.engines.openai_events import StreamEvent, Usage
from weigh.engines.token_arrivals import Counted
from weigh.errors import EngineCrashed, WeighError
from weigh.store import Store
from weigh.store.measurement import Measurement, measurements, save

SHORT = {"prompt": Lengths(8, 16), "output": Lengths(6, 6), "drain_s": 30.0}


def _load(url: str, **asked: object) -> Load:
    given = {"rates_per_s": (20.0,), "seconds": 1.0, "process": Process.CONSTANT, **SHORT, **asked}
    return run_load(OpenAiModel(url), Asked(**given))  # type: ignore[arg-type]


# --- against a server -----------------------------------------------------------------------------------


def test_every_piece_is_stamped_after_it_was_sent_and_before_the_next_is_read() -> None:
    with null_server() as url:
        load = _load(url)
        log = sent_by(url)
    (found,) = load.levels
    assert len(found.requests) == 20
    assert not found.failures
    began_s = []
    for one in found.requests:
        sent = log[str(one.number)]
        times_s = one.pieces.piece_times_s
        assert one.sent_s is not None
        assert len(times_s) == len(sent["sent_s"]) == 6
        assert times_s == sorted(times_s)
        # one clock for both processes, up to when the run began: the same for all
        began_s.append(
            (max(sent["sent_s"][n] - times_s[n] for n in range(6)), sent["received_s"] - one.sent_s)
        )
    # nothing was read before it was written, and nothing received before it was sent
    assert max(first for first, _ in began_s) <= min(second for _, second in began_s)


@pytest.mark.parametrize(
    ("usage", "counted"), [("continuous", Counted.EACH), ("final", Counted.SHARED), ("none", Counted.PIECES)]
)
def test_pieces_of_several_tokens_are_counted_right(usage: str, counted: Counted) -> None:
    with null_server("--chunk", "3", "--usage", usage) as url:
        load = _load(url, output=Lengths(8, 8), seconds=0.3)
    assert {one.pieces.counted for one in load.levels[0].requests} == {counted}
    for one in load.levels[0].requests:
        assert one.pieces.piece_tokens == ((1, 1, 1) if usage == "none" else (3, 3, 2))
    said = any("how many tokens" in problem for problem in load.problems)
    assert said == (usage == "none")


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("close", Failure.BROKEN),
        ("break", Failure.BROKEN),
        ("hang", Failure.TIMED_OUT),
        ("stall", Failure.TIMED_OUT),
        ("status", "HTTP 503"),
        ("error", Failure.ERROR),
        ("garbage", Failure.UNREADABLE),
    ],
)
def test_failures_are_counted_by_kind_and_spoil_percentiles(fault: str, failure: str) -> None:
    """Every fourth completion fails; the two that ask how the server takes requests come first."""
    with null_server("--fault", fault, "--every", "4") as url:
        load = _load(url, silence_s=1.0)
    (found,) = load.levels
    assert Counter(one.failure for one in found.requests if one.failure) == {failure: 5}
    assert sum(found.failures.values()) == sum(bool(one.failure) for one in found.requests[found.warm_up :])
    assert found.latencies["e2e_s"][0].value < 1e9
    assert found.latencies["e2e_s"][-1].value == float("inf")
    good = sum(not one.failure for one in found.requests[found.warm_up :])
    assert found.goodput_per_s.value == pytest.approx(good / (found.window_s[1] - found.window_s[0]))
    if fault in ("break", "stall"):  # what came of them before is known, and counts
        assert found.latencies["ttft_s"][-1].value < 1e9
    if fault == "status":
        assert {one.said for one in found.requests if one.failure} == {"out of seats"}


def test_a_server_that_is_gone_refuses() -> None:
    with null_server() as url:
        served = OpenAiModel(url)
        served.generate("a few words", 2)
    asked = Asked(rates_per_s=(20.0,), seconds=0.2, **SHORT)  # type: ignore[arg-type]
    with pytest.raises(WeighError):
        run_load(served, asked)


def test_a_server_that_goes_leaves_what_was_measured() -> None:
    with null_server() as url:
        served = OpenAiModel(url)
        stop = threading.Timer(0.5, lambda: os.kill(_listening(url), signal.SIGKILL))
        stop.start()
        load = run_load(
            served,
            Asked(rates_per_s=(50.0,), seconds=1.0, process=Process.CONSTANT, **SHORT),  # type: ignore[arg-type]
        )
        stop.join()
    (found,) = load.levels
    assert len(found.requests) == 50
    assert Failure.REFUSED in found.failures
    assert load.answered > 0


def _listening(url: str) -> int:
    from weigh.engines.served import listening_pid

    pid = listening_pid(Endpoint(url).port)
    assert pid is not None
    return pid


def test_an_engine_that_ended_ends_the_run() -> None:
    stages: list[str] = []

    def check() -> None:
        if any(re.search(r": [1-9]\d* answered", stage) for stage in stages):
            raise EngineCrashed("it is gone")

    with null_server() as url:
        asked = Asked(rates_per_s=(5.0,), seconds=600, **SHORT)  # type: ignore[arg-type]
        load = run_load(OpenAiModel(url), asked, lambda stage, done: stages.append(stage), check=check)
    assert isinstance(load.ended, EngineCrashed)
    assert "ended early: it is gone" in load.problems
    assert load.answered > 0


def test_ctrl_c_keeps_what_was_measured() -> None:
    with null_server("--first", "0.3") as url:
        served = OpenAiModel(url)
        timer = threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        load = run_load(
            served,
            Asked(rates_per_s=(20.0,), seconds=600, process=Process.CONSTANT, **SHORT),  # type: ignore[arg-type]
        )
    (found,) = load.levels
    assert isinstance(load.ended, KeyboardInterrupt)
    assert load.answered > 0
    assert found.cut_off > 0  # those under way
    assert not found.failures
    assert all(one.ended_s is not None for one in found.requests)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_unfinished_when_the_wait_is_over_failed() -> None:
    with null_server("--fault", "hang", "--every", "4") as url:
        load = _load(url, drain_s=0.5)
    failures = Counter(one.failure for one in load.levels[0].requests if one.failure)
    assert failures == {Failure.UNFINISHED: 5}


def test_clients_of_a_closed_loop_wait_for_their_answers() -> None:
    with null_server() as url:
        load = _load(url, rates_per_s=(), clients=3)
    (found,) = load.levels
    assert found.clients == 3
    assert load.saturation is None
    assert found.sustained is None
    marks = [(one.sent_s, 1) for one in found.requests] + [(one.ended_s, -1) for one in found.requests]
    under_way = most = 0
    for _, change in sorted(marks):  # type: ignore[type-var] # all have both times
        under_way += change
        most = max(most, under_way)
    assert most == 3
    assert len(found.requests) > 3


def test_a_trace_is_sent_as_it_is() -> None:
    trace = tuple(Arrival(at_s, 5 + n, 3 + n) for n, at_s in enumerate((0.0, 0.1, 0.1, 0.4)))
    with null_server() as url:
        load = _load(url, rates_per_s=(), trace=trace, trace_name="mine")
    (found,) = load.levels
    assert [one.arrival for one in found.requests] == list(trace)
    assert [one.intended_s for one in found.requests] == [0.0, 0.1, 0.1, 0.4]
    assert [len(one.pieces.token_times_s) for one in found.requests] == [3, 4, 5, 6]
    assert found.name == "mine"


def test_a_server_with_few_slots_saturates_where_it_must() -> None:
    """Two slots, 40 pieces 10 ms apart after 10 ms: a request takes 0.4 s, so that 5 a second fill it. A busy
    machine makes the server slower, never faster."""
    with null_server("--slots", "2", "--first", "0.01", "--gap", "0.01") as url:
        load = _load(url, rates_per_s=(0.5, 20.0), output=Lengths(40, 40), seconds=3.0, drain_s=1.0)
    slow, fast = load.levels
    assert slow.sustained is not False
    assert fast.sustained is False
    assert fast.completed_per_s < 5.5
    assert load.saturation is not None
    assert load.saturation.high_per_s == 20.0
    # the queue is the server's: latency counts from arrival, though every request was sent on time
    assert fast.latencies["ttft_from_arrival_s"][-1].value > 1.0


def test_a_sweep_brackets_saturation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slots of 0.06 s: 33 a second fill it, or fewer on a busy machine."""
    monkeypatch.setattr("weigh.bench.load_run.NARROW", 2.1)
    with null_server("--slots", "2", "--first", "0.01", "--gap", "0.01") as url:
        load = _load(
            url,
            rates_per_s=(),
            sweep=True,
            output=Lengths(6, 6),
            seconds=1.5,
            targets=Targets(ttft_s=0.5),
            drain_s=1.0,
        )
    found = load.saturation
    assert found is not None
    assert found.high_per_s < 100
    assert found.low_per_s < found.high_per_s
    assert load.levels[-1].rate_per_s is not None
    assert len({one.rate_per_s for one in load.levels}) == len(load.levels) > 1


def test_requests_differ_unless_a_prefix_is_shared() -> None:
    from weigh.bench.prompts import Prompts

    with null_server() as url:
        own = Prompts(OpenAiModel(url), seed=1)
        shared = Prompts(OpenAiModel(url), seed=1, shared_prefix=30)
    assert own.prompt(1, 40) != own.prompt(2, 40)
    assert own.prompt(1, 40) == own.prompt(1, 40)
    first, second = str(shared.prompt(1, 40)).split(), str(shared.prompt(2, 40)).split()
    assert first[:20] == second[:20]
    assert first != second


def test_a_strict_server_is_asked_without_extras() -> None:
    with null_server("--strict", "--most-tokens", "4") as url:
        load = _load(url, seconds=0.3)
    assert not load.levels[0].failures
    assert {len(one.pieces.token_times_s) for one in load.levels[0].requests} == {4}


def test_a_server_of_chats_is_asked_for_chats() -> None:
    with null_server("--chat-only", "--chunk", "2") as url:
        load = _load(url, seconds=0.3)
    assert not load.levels[0].failures
    assert {one.pieces.piece_tokens for one in load.levels[0].requests} == {(2, 2, 2)}
    assert load.command[-1].endswith("/v1/chat/completions")
    assert not load.exact_prompts


def test_a_name_with_an_address_that_nobody_listens_on_is_no_failure() -> None:
    """`localhost` is often ::1 too, where the server does not listen."""
    with null_server() as url:
        load = _load(url.replace("127.0.0.1", "localhost"), seconds=0.3)
    assert not load.levels[0].failures


def test_the_key_is_sent_and_kept_nowhere(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret-key")
    with null_server() as url:
        load = _load(url, seconds=0.2)
    save(store, measurement_of(load, machine=None))
    assert b"very-secret-key" not in store.path.read_bytes()


def test_a_load_is_kept_and_read_again(store: Store) -> None:
    with null_server("--fault", "break", "--every", "5") as url:
        load = _load(url)
    kept = measurement_of(load, machine=None)
    save(store, kept)
    (found,) = measurements(store)
    assert found.id == kept.id
    by_name = {one.name: one for one in found.measured}
    counted = 20 - load.levels[0].warm_up
    assert by_name["requests"].samples == (counted,)
    assert by_name["ttft_s"].conditions == {"rate_per_s": 20.0, "prompt_tokens": "8-16", "output_tokens": 6}
    assert len(by_name["e2e_s"].samples) == counted - by_name["failed_requests"].samples[0]
    (raw,) = found.raw["levels"]
    assert [len(one["piece_times_s"]) for one in raw["requests"] if not one["failure"]] == [6] * 16
    assert Measurement.from_json(found.to_json()).id == kept.id


def test_raw_events_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weigh.bench.load_record.MOST_EVENTS", 40)
    with null_server() as url:
        load = _load(url)
    (raw,) = measurement_of(load, machine=None).raw["levels"]
    assert raw["kept"] == {"one_request_in": 1, "events_of_one_request_in": 3}
    assert sum("piece_times_s" in one for one in raw["requests"]) == 7
    assert len(raw["requests"]) == 20


def test_a_name_that_is_not_known_is_one_line() -> None:
    with pytest.raises(WeighError):
        OpenAiModel("http://no-such-host.invalid:1")


def test_a_port_that_nobody_listens_on_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(WeighError, match="cannot be reached"):
        OpenAiModel(f"http://127.0.0.1:{port}")


# --- figures of requests as written ---------------------------------------------------------------------


def _request(
    number: int,
    intended_s: float,
    times_s: list[float],
    *,
    tokens: int = 1,
    late_s: float = 0.0,
    failure: str = "",
) -> Request:
    made = Request(
        number, Arrival(intended_s, 10, tokens * len(times_s)), intended_s, sent_s=intended_s + late_s
    )
    for n, at_s in enumerate(times_s, start=1):
        made.pieces.take(at_s, StreamEvent("x", tokens_so_far=n * tokens, usage=Usage(10, n * tokens)))
    made.ended_s = times_s[-1] if times_s else intended_s
    made.failure = failure
    return made


def _level(requests: list[Request], end_s: float, targets: Targets = Targets()) -> Level:  # noqa: B008
    return level(requests, end_s=end_s, targets=targets, rate_per_s=1.0)


def test_latencies_are_as_defined() -> None:
    """Meant for 1.0, sent at 1.2, pieces of two tokens at 2.0, 2.4 and 3.0."""
    found = values_of(_request(0, 1.0, [2.0, 2.4, 3.0], tokens=2, late_s=0.2))
    assert found["ttft_from_arrival_s"] == pytest.approx((1.0,))
    assert found["ttft_s"] == pytest.approx((0.8,))
    assert found["itl_s"] == pytest.approx((0.2, 0.2, 0.3, 0.3))
    assert found["piece_gap_s"] == pytest.approx((0.4, 0.6))
    assert found["tpot_s"] == pytest.approx((1.0 / 5,))
    assert found["e2e_s"] == pytest.approx((2.0,))


def test_a_late_client_does_not_flatter_the_server() -> None:
    """Ten requests a second, the client stalled for a second: those meant meanwhile waited as users would have."""
    requests = [
        _request(n, n / 10, [max(n / 10, 1.0) + 0.01], late_s=max(0.0, 1.0 - n / 10)) for n in range(20)
    ]
    found = _level(requests, 2.0)
    assert found.latencies["ttft_from_arrival_s"][1].value > 10 * found.latencies["ttft_s"][1].value
    assert "late" in found.late
    assert found.client_delay_s[1] == pytest.approx(0.981, abs=0.01)


def test_a_client_in_time_is_not_called_late() -> None:
    found = _level([_request(n, n / 10, [n / 10 + 0.05, n / 10 + 0.1], late_s=1e-4) for n in range(20)], 2.0)
    assert found.late == ""


def test_goodput_counts_those_that_meet_all_targets() -> None:
    good = [_request(n, float(n), [n + 0.1, n + 0.2]) for n in range(10)]
    late = [_request(10 + n, 10.0 + n, [10 + n + 0.9, 10 + n + 1.0]) for n in range(5)]
    slow = [_request(15 + n, 15.0 + n, [15 + n + 0.1, 15 + n + 0.9]) for n in range(5)]
    found = _level([*good, *late, *slow], 20.0, Targets(ttft_s=0.5, itl_s=0.5))
    assert found.goodput_per_s.value == pytest.approx(0.5)
    assert found.goodput_per_s.low < 0.5 < found.goodput_per_s.high
    assert found.sustained is False


def test_rates_count_the_window_and_not_the_drain() -> None:
    """Ten requests in ten seconds, each answered four seconds after it came: six within the window."""
    found = _level([_request(n, float(n), [n + 4.0]) for n in range(10)], 9.5)
    assert found.arrived_per_s == pytest.approx(10 / 9.5)
    assert found.completed_per_s == pytest.approx(6 / 9.5)
    assert found.output_tokens_per_s == pytest.approx(6 / 9.5)
    assert found.prompt_tokens_per_s == pytest.approx(60 / 9.5)


def test_a_slow_start_is_left_out() -> None:
    warm = [_request(n, float(n), [n + 2.0 + 0.01 * (n % 3)]) for n in range(10)]
    steady = [_request(n, float(n), [n + 0.1 + 0.01 * (n % 3)]) for n in range(10, 100)]
    found = _level([*warm, *steady], 100.0)
    assert 10 <= found.warm_up <= 50
    assert found.counted == 100 - found.warm_up
    assert found.window_s == (float(found.warm_up), 100.0)
    assert found.latencies["ttft_s"][-1].value < 0.2


def test_a_queue_that_grows_is_not_sustained() -> None:
    """Twice as many requests come as are answered."""
    found = _level([_request(n, n / 10, [n / 5 + 0.1]) for n in range(200)], 20.0)
    assert found.sustained is False


def test_a_steady_queue_is_sustained() -> None:
    found = _level([_request(n, n / 10, [n / 10 + 1.0]) for n in range(200)], 20.0)
    assert found.sustained is True


def test_gaps_of_a_broken_stream_that_nobody_counted_are_left_out() -> None:
    made = Request(0, Arrival(0.0, 10, 8), 0.0, sent_s=0.0, failure=Failure.BROKEN)
    made.pieces.take(0.1, StreamEvent("abc"))
    made.pieces.take(0.2, StreamEvent("def"))
    assert values_of(made)["itl_s"] == ()
