from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.openai_stand_in import CHAT, MODELS, chat_piece, listing, used
from tests.engines.stand_in import StandIn, event
from tests.engines.stand_in import stream as streamed
from weigh.bench.bill import bill
from weigh.engines.openai_api import OpenAiModel, Spent


def test_a_run_is_billed_for_all_that_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prices.toml"
    monkeypatch.setenv("WEIGH_PRICES", str(path))
    counts = used(
        1000,
        500,
        prompt_tokens_details={"cached_tokens": 200},
        completion_tokens_details={"reasoning_tokens": 400},
    )
    answer = streamed(chat_piece(content="four"), chat_piece("stop"), event({"choices": [], "usage": counts}))
    with StandIn({MODELS: listing("some-model"), CHAT: answer}) as server:
        served = OpenAiModel(server.url, chat=True)
        assert bill(served) is None  # nobody has said what it costs
        served.generate("two and two", 500)
        served.generate("three and three", 500)
        assert served.spent == Spent(prompt_tokens=1600, cached_tokens=400, output_tokens=1000)
        path.write_text('["some-model"]\ninput = 2\noutput = 8\ncurrency = "USD"\nsource = "its list"\n')
        found = bill(served)
    assert found is not None
    assert found.money == pytest.approx((2000 * 2 + 1000 * 8) / 1e6)
    assert "read 2,000 and wrote 1,000: 0.012 USD (its list)" in found.words
