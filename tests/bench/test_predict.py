from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.engines.stand_in import Handler, StandIn, in_turn, say
from tests.engines.test_tf_serving import METADATA, PATH
from weigh.bench.predict import benchmark_predict
from weigh.engines.tf_serving import TfServing
from weigh.errors import EngineCrashed
from weigh.store import Store
from weigh.store.measurement import measurements

MS = 1e-3


def slow(handler: Handler) -> None:
    """A millisecond for each row."""
    rows = len(handler.asked["inputs"]["x"])
    time.sleep(rows * MS)
    say({"outputs": [[0.5]] * rows})(handler)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn({f"{PATH}/metadata": say(METADATA), f"{PATH}:predict": slow}) as found:
        yield found


def test_latency_and_throughput_are_told_for_each_batch_size(server: StandIn, store: Store) -> None:
    found = benchmark_predict(TfServing(f"{server.url}{PATH}"), (1, 20), precision=0.5, most_s=20.0)
    assert found.ended is None
    by = {(one.name, one.conditions.get("batch_rows")): one for one in found.measurement.measured}
    assert by["predict_s", 1].figure.value >= 1 * MS
    assert by["predict_s", 20].figure.value >= 20 * MS
    # rows/s by the whole of a burst cannot beat what a single request takes
    assert by["rows_per_s", 20].figure.value <= 1000
    assert {len(body["inputs"]["x"]) for body in server.bodies(f"{PATH}:predict")} == {1, 20}
    (kept,) = measurements(store)
    assert kept.id == found.measurement.id
    assert kept.engine == "tf-serving"
    assert sum(len(burst["latencies_s"]) for burst in kept.raw["bursts"]) == len(
        server.bodies(f"{PATH}:predict")
    )


def test_a_failure_keeps_what_was_measured_before(server: StandIn, store: Store) -> None:
    server.answers[f"{PATH}:predict"] = in_turn(*[slow] * 5, say({"error": "out of memory"}, 500))
    found = benchmark_predict(TfServing(f"{server.url}{PATH}"), (1,), most_s=20.0)
    assert isinstance(found.ended, EngineCrashed)
    assert "out of memory" in found.measurement.problems[-1]
    (one,) = [one for one in found.measurement.measured if one.name == "predict_s"]
    assert 3 <= len(one.samples) <= 5  # at most half is warm-up
    assert len(measurements(store)) == 1


def test_a_failure_at_once_is_an_error(server: StandIn, store: Store) -> None:
    server.answers[f"{PATH}:predict"] = say({"error": "out of memory"}, 500)
    with pytest.raises(EngineCrashed, match="out of memory"):
        benchmark_predict(TfServing(f"{server.url}{PATH}"), (1,))
    assert measurements(store) == []
