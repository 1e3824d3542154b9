"""Curves are the figures of `weigh`, one length after another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.calibrations import CALIBRATION
from weigh.bench import probes
from weigh.engines.engine import Settings
from weigh.errors import BadInput
from weigh.estimate.curves import context_for, curve, lengths
from weigh.estimate.setup import weigh
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.machine.devices import target_named
from weigh.model.ggml_types import GgmlType
from weigh.model.resolve import resolve

SMALL = probes.dense(
    "s", GgmlType.F16, layers=4, hidden=512, feed_forward=1024, heads=8, kv_heads=2, head_dim=64, vocab=2048
)
HERE = Site(target_named("CPU only, 64GB"), CALIBRATION)
CARD = Site(target_named("RTX 3090"))


@pytest.mark.parametrize("site", [HERE, CARD], ids=["calibrated", "card"])
def test_each_point_is_what_weigh_says_of_that_length(site: Site) -> None:
    settings = Settings(8192)
    found = curve(SMALL, site, settings)
    assert found.ttft[-1].tokens == found.decode[-1].tokens == 8192 - 128
    for point in found.ttft:
        said = weigh(SMALL, site, settings, Workload(prompt_tokens=point.tokens)).speed
        assert said is not None
        assert point.figure == said.ttft_s
    for point in found.decode:
        said = weigh(SMALL, site, settings, Workload(depth_tokens=point.tokens)).speed
        assert said is not None
        assert point.figure == said.decode_tokens_per_s


def test_longer_takes_longer_and_deeper_is_slower() -> None:
    found = curve(SMALL, HERE, Settings(8192))
    waits = [p.figure.value for p in found.ttft]
    assert waits == sorted(waits)
    speeds = [p.figure.value for p in found.decode]
    assert speeds == sorted(speeds, reverse=True)
    assert found.decode[0].tokens == 0


def test_lengths_double_up_to_the_last() -> None:
    assert lengths(1000) == (64, 128, 256, 512, 1000)
    assert lengths(128) == (64, 128)
    assert lengths(10) == (10,)


def test_lengths_asked_for() -> None:
    found = curve(SMALL, HERE, Settings(8192), prompt_up_to=1000, depth_up_to=256)
    assert [p.tokens for p in found.ttft] == [64, 128, 256, 512, 1000]
    assert [p.tokens for p in found.decode] == [0, 64, 128, 256]
    with pytest.raises(BadInput, match="do not fit into a context of 8,192"):
        curve(SMALL, HERE, Settings(8192), depth_up_to=8192)


def test_a_context_that_does_not_fit_becomes_the_largest_that_does() -> None:
    spec = resolve("llama-3.1-8b:Q8_0")
    site = Site(target_named("CPU only, 16GB"), CALIBRATION)
    found = curve(spec, site, Settings(131_072))
    most = found.setup.settings.context_tokens
    assert most == weigh(spec, site).max_context_tokens
    assert found.decode[-1].tokens == most - 128
    assert f"{most:,} do" in found.note


def test_what_fits_nowhere_has_no_points() -> None:
    found = curve(resolve("llama-3.3-70b:Q8_0"), Site(target_named("CPU only, 16GB")), Settings(8192))
    assert (found.ttft, found.decode) == ((), ())
    assert not found.setup.fits


def test_without_a_known_speed_there_are_no_points() -> None:
    probed = Site(replace(HERE.target, probed=True))
    assert curve(SMALL, probed, Settings(4096)).ttft == ()


def test_sequences_at_once_are_kept_at_every_point() -> None:
    shared = curve(SMALL, HERE, Settings(2048, parallel=4))
    alone = curve(SMALL, HERE, Settings(2048))
    for one, other in zip(shared.decode, alone.decode, strict=True):
        assert one.figure.value < other.figure.value


def test_the_context_is_what_all_models_were_trained_for() -> None:
    long = resolve("llama-3.1-8b")
    assert context_for([long]) == 32_768
    assert context_for([long, replace(long, context_train=4096)]) == 4096
