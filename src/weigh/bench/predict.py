"""A benchmark of an exported model in TensorFlow Serving: latency and throughput by the size of the batch.

One request after another on made-up inputs, in short bursts, one batch size after the other and the order turned
round from one round to the next. There is no clock but the client's: the network and the server's queue are in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from weigh.bench.alone import alone
from weigh.bench.benchmark import INTERRUPTED, Benchmark, Beside
from weigh.bench.benchmark_url import of_server
from weigh.bench.here import scratch_folder
from weigh.bench.stopping import half_width, warm_up
from weigh.bench.turns import Progress
from weigh.engines.engine import ProcessMemory
from weigh.engines.tf_serving import LENGTH, Signature, TfServing
from weigh.errors import BadInput, WeighError
from weigh.machine.disturbance import Watch
from weigh.store import Store
from weigh.store.fields import Scalar
from weigh.store.measurement import Measured, try_to_save

BURST_S = 0.25
LEAST_BURSTS = 4
MOST_BURSTS = 500
_LEAST_OF_BURST, _MOST_OF_BURST = 3, 200


@dataclass
class Burst:
    """Requests of one batch size right after each other; `took_s` from the first to the last."""

    began_s: float
    latencies_s: list[float] = field(default_factory=list)
    took_s: float = 0.0


def benchmark_predict(
    served: TfServing,
    batches: Sequence[int],
    *,
    length: int = LENGTH,
    precision: float = 0.02,
    most_s: float = 120.0,
    progress: Progress = lambda stage, done: None,
) -> Benchmark:
    """Measure it until each latency is known to `precision`, or `most_s` are over, and keep all samples.

    Raises:
        BadInput: the model does not take these batches.
        WeighError: it failed before anything was measured; later failures are told in the benchmark.
        KeyboardInterrupt: likewise.
    """
    signature = served.signature()
    with alone(scratch_folder()):
        watch, when_s = Watch(), time.time()
        run = _Run(served, signature, batches, length, precision, most_s, progress)
        ended = run.run()
        # the server is no child of ours: its work is not told from that of other programs
        problems = list(replace(watch.so_far(), others=None).problems)
    found = run.quantities()
    if isinstance(ended, WeighError):
        problems.append(f"ended early: {ended.message}")
    elif ended is not None:
        problems.append(INTERRUPTED)
    measurement = of_server(
        served,
        when_s,
        local=served.memory() is not None,
        settings={"signature": signature.name, "length": length, "precision": precision, "most_s": most_s},
        measured=found,
        noise=None,
        problems=tuple(problems),
        raw=run.raw(),
    )
    not_kept = try_to_save(Store(), measurement)
    notes = ("inputs are made up from the signature: zeros and ones, numbers between 0 and 1, empty strings",)
    return Benchmark(measurement, tuple(Beside(one, None) for one in found), notes, ended, not_kept)


class _Run:
    def __init__(
        self,
        served: TfServing,
        signature: Signature,
        batches: Sequence[int],
        length: int,
        precision: float,
        most_s: float,
        progress: Progress,
    ) -> None:
        self._served, self._precision, self._most_s = served, precision, most_s
        self._progress = progress
        self._requests = {batch: served.request(signature, batch, length=length) for batch in batches}
        self._bursts: dict[int, list[Burst]] = {batch: [] for batch in self._requests}
        self._peak: ProcessMemory | None = None
        self._began_s = time.monotonic()

    def run(self) -> BaseException | None:
        """What ended it early."""
        left = list(self._requests)
        try:
            for number in range(MOST_BURSTS):
                for batch in left if number % 2 == 0 else left[::-1]:
                    if number and time.monotonic() - self._began_s > self._most_s:
                        return None
                    self._burst(batch)
                left = [batch for batch in left if not self._settled(batch)]
                if not left:
                    return None
        except (WeighError, KeyboardInterrupt) as error:
            if isinstance(error, BadInput) or not any(one.latencies_s for one in self._every()):
                raise
            return error
        return None

    def _every(self) -> list[Burst]:
        return [burst for bursts in self._bursts.values() for burst in bursts]

    def _burst(self, batch: int) -> None:
        passed_s = time.monotonic() - self._began_s
        self._progress(f"batches of {batch:,}", min(1.0, passed_s / self._most_s))
        burst = Burst(passed_s)
        self._bursts[batch].append(burst)
        began_s = time.perf_counter()
        while len(burst.latencies_s) < _MOST_OF_BURST:
            if len(burst.latencies_s) >= _LEAST_OF_BURST and time.perf_counter() - began_s > BURST_S:
                break
            burst.latencies_s.append(self._served.predict(self._requests[batch], batch).latency_s)
            burst.took_s = time.perf_counter() - began_s
        self._peak = self._served.memory() or self._peak

    def _settled(self, batch: int) -> bool:
        bursts = self._bursts[batch]
        return len(bursts) >= LEAST_BURSTS and half_width(self._latencies_s(batch)) <= self._precision

    def _latencies_s(self, batch: int) -> list[float]:
        """Without the warm-up."""
        every = [latency for burst in self._bursts[batch] for latency in burst.latencies_s]
        return every[warm_up(every) :]

    def quantities(self) -> tuple[Measured, ...]:
        found = []
        for batch, bursts in self._bursts.items():
            conditions: dict[str, Scalar] = {"batch_rows": batch, "clock": "client"}
            # the first burst has the warm-up in it, and is left out where there are others
            rates = [batch * len(one.latencies_s) / one.took_s for one in bursts if one.took_s]
            if latencies_s := self._latencies_s(batch):
                found.append(Measured("predict_s", "s", tuple(latencies_s), conditions))
            if rates:
                found.append(Measured("rows_per_s", "rows/s", tuple(rates[1:] or rates), conditions))
        if self._peak is not None:
            private_bytes = float(self._peak.peak_private_bytes)
            found.append(Measured("peak_memory_bytes", "bytes", (float(self._peak.peak_bytes),)))
            found.append(Measured("peak_private_bytes", "bytes", (private_bytes,)))
        return tuple(found)

    def raw(self) -> dict[str, Any]:
        return {
            "bursts": [
                {
                    "batch_rows": batch,
                    "began_s": one.began_s,
                    "latencies_s": one.latencies_s,
                    "took_s": one.took_s,
                }
                for batch, bursts in self._bursts.items()
                for one in bursts
            ]
        }
