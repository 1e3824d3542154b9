"""Energy is power x time; each figure is worked by hand from the setup's own speed."""

from __future__ import annotations

import math

import pytest

from tests.calibrations import CALIBRATION
from weigh.engines.engine import Settings
from weigh.estimate.energy import energy
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.site import Site
from weigh.figure import Basis
from weigh.machine.devices import target_named
from weigh.model.resolve import resolve

MODEL = "llama-3.1-8b:Q4_K_M"


def on(device: str, parallel: int = 1, model: str = MODEL) -> SetupEstimate:
    return weigh(resolve(model), Site(target_named(device)), Settings(parallel=parallel))


def test_decode_of_one_sequence_draws_six_tenths_of_a_cards_limit() -> None:
    setup = on("RTX 3090")  # 350 W
    found = energy(setup)
    assert setup.speed is not None
    assert found.decode_watts is not None
    assert (found.decode_watts.value, found.decode_watts.low, found.decode_watts.high) == pytest.approx(
        (0.60 * 350, 0.43 * 350, 0.90 * 350)
    )
    assert found.decode_joules_per_token is not None
    assert found.decode_joules_per_token.value == pytest.approx(210 / setup.speed.decode_tokens_per_s.value)
    assert found.decode_joules_per_token.basis is Basis.RULE_OF_THUMB
    assert "350 W" in found.counted


def test_prefill_draws_most_of_it_and_takes_less_energy_a_token() -> None:
    setup = on("RTX 3090")
    found = energy(setup)
    assert setup.speed is not None
    assert found.prefill_joules_per_token is not None
    assert found.decode_joules_per_token is not None
    assert found.prefill_joules_per_token.value == pytest.approx(
        0.86 * 350 / setup.speed.prefill_tokens_per_s.value
    )
    assert found.prefill_joules_per_token.value < found.decode_joules_per_token.value / 5


def test_sequences_share_the_power_of_a_step() -> None:
    setup = weigh(resolve(MODEL), Site(target_named("RTX 3090")), Settings(256, parallel=128))
    found = energy(setup)
    assert setup.speed is not None
    assert found.decode_joules_per_token is not None
    each = setup.speed.decode_tokens_per_s.value
    assert found.decode_joules_per_token.value == pytest.approx(0.86 * 350 / (128 * each))


def test_spans_of_power_and_speed_add_up_in_squares() -> None:
    setup = on("RTX 3090")
    found = energy(setup).decode_joules_per_token
    assert setup.speed is not None
    assert found is not None
    speed = setup.speed.decode_tokens_per_s
    wide = math.hypot(math.log(0.90 / 0.60), math.log(speed.value / speed.low))
    assert math.log(found.high / found.value) == pytest.approx(wide)


def test_layers_left_to_the_host_draw_its_power_too() -> None:
    setup = on("RTX 4090, Ryzen 9 7950X, 96GB", model="gpt-oss-120b")  # 450 W and 170 W
    assert setup.placement.experts_in_ram > 0
    watts = energy(setup).decode_watts
    assert watts is not None
    card, processor = 0.60 * 450, 0.90 * 170
    assert watts.value == pytest.approx((card + card + processor) / 2)  # between the larger and both
    assert watts.high == pytest.approx(0.90 * 450 + 1.20 * 170)


def test_measured_power_is_taken_as_said() -> None:
    setup = on("RTX 3090")
    found = energy(setup, watts=400)
    assert setup.speed is not None
    assert found.decode_joules_per_token is not None
    assert found.decode_joules_per_token.value == pytest.approx(400 / setup.speed.decode_tokens_per_s.value)
    assert found.decode_joules_per_token.basis is setup.speed.decode_tokens_per_s.basis


def test_what_no_data_sheet_tells_is_unknown() -> None:
    found = energy(on("M4 Max 64GB"))  # no TDP is published for it
    assert found.decode_joules_per_token is None
    assert "M4 Max" in found.missing


def test_power_without_a_speed_gives_no_energy() -> None:
    target = target_named("Ryzen 9 7950X, 64GB")
    known = weigh(resolve(MODEL), Site(target, CALIBRATION))
    assert energy(known).decode_joules_per_token is not None
    embedding = weigh(resolve("BAAI/bge-m3"), Site(target))
    assert energy(embedding).decode_joules_per_token is None
