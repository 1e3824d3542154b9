"""The adapter against stand-ins for what servers of other makers say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.openai_stand_in import CHAT, COMPLETIONS, MODELS, chat_piece, listing, text_piece, used
from tests.engines.stand_in import Handler, StandIn, event, say, stream
from weigh.engines.openai_api import OpenAiModel
from weigh.engines.token_arrivals import Counted, shared_out
from weigh.errors import BadInput, EngineCrashed


@pytest.fixture
def other() -> Iterator[StandIn]:
    with StandIn({MODELS: listing("gpt-4o")}) as server:
        yield server


def test_vllms_running_counts_are_taken_for_each_piece(other: StandIn) -> None:
    """As vLLM 0.32 sends them with `continuous_usage_stats`."""
    other.answers |= {
        MODELS: listing("model", owner="vllm", max_model_len=1024),
        "/version": say({"version": "0.32.0+cpu"}),
        COMPLETIONS: stream(
            text_piece("a", used(9, 1)),
            text_piece("bcd", used(9, 4)),
            text_piece("e", used(9, 5), "length"),
            event({"choices": [], "usage": used(9, 5, prompt_tokens_details={"cached_tokens": 4})}),
            b"data: [DONE]\n\n",
        ),
    }
    served = OpenAiModel(other.url)
    assert (served.version, served.context_tokens) == ("vllm 0.32.0+cpu", 1024)
    made = served.generate([1] * 9, 5)
    assert made.piece_tokens == (1, 3, 1)
    assert (made.prompt_tokens, made.cached_tokens, made.output_tokens) == (5, 4, 5)
    assert (made.counted, made.own_clock) == (Counted.EACH, False)
    assert made.prefill_s == made.token_times_s[0]
    served.generate([1] * 9, 5)
    salts = [body["cache_salt"] for body in other.bodies(COMPLETIONS)]
    assert len(set(salts)) == 2  # each request has a cache of its own
    served.generate([1] * 9, 5, reuse_cache=True)
    assert "cache_salt" not in other.bodies(COMPLETIONS)[-1]


def refuse_extras(handler: Handler) -> None:
    """As api.openai.com answers to what it does not know."""
    if "ignore_eos" in handler.asked:
        message = "Unrecognized request argument supplied: ignore_eos"
        return say({"error": {"message": message, "type": "invalid_request_error"}}, 400)(handler)
    return stream(
        chat_piece(role="assistant", content=""),
        chat_piece(content="Hello"),
        chat_piece(content=" my dear"),
        chat_piece("stop"),
        event({"choices": [], "usage": used(8, 4)}),
        b"data: [DONE]\n\n",
    )(handler)


def test_what_a_server_does_not_take_is_tried_once_and_remembered(other: StandIn) -> None:
    message = "This is a chat model and not supported in the v1/completions endpoint."
    other.answers |= {COMPLETIONS: say({"error": {"message": message}}, 404), CHAT: refuse_extras}
    served = OpenAiModel(other.url)
    made = served.generate("one two three", 10)
    assert (made.text, made.finish, made.output_tokens) == ("Hello my dear", "stop", 4)
    assert (made.counted, made.piece_tokens) == (Counted.SHARED, (2, 2))
    assert served.command == ("POST", other.url + CHAT)
    before = len(other.received)
    served.generate("four five six", 10)
    assert len(other.received) == before + 1


def test_a_model_that_reasons_takes_its_limit_by_the_newer_name(other: StandIn) -> None:
    def answer(handler: Handler) -> None:
        if "max_tokens" in handler.asked or "temperature" in handler.asked:
            return say({"error": {"message": "Unsupported parameter: 'max_tokens'"}}, 400)(handler)
        hidden = used(8, 70, completion_tokens_details={"reasoning_tokens": 64})
        return stream(
            chat_piece(content="four"),
            chat_piece("stop", content=" it is"),
            event({"choices": [], "usage": hidden}),
        )(handler)

    other.answers[CHAT] = answer
    made = OpenAiModel(other.url).generate("two and two", 100)
    assert other.bodies(CHAT)[-1]["max_completion_tokens"] == 100
    assert (made.output_tokens, made.hidden_tokens) == (6, 64)


def test_nothing_but_hidden_reasoning_has_no_times(other: StandIn) -> None:
    hidden = used(8, 64, completion_tokens_details={"reasoning_tokens": 64})
    other.answers[CHAT] = stream(chat_piece("length"), event({"choices": [], "usage": hidden}))
    with pytest.raises(EngineCrashed, match="reasoning that it does not show"):
        OpenAiModel(other.url, chat=True).generate("two and two", 64)


def test_a_token_without_text_is_a_token(other: StandIn) -> None:
    """As vLLM sends a part of a letter, or an end token that is ignored."""
    other.answers[COMPLETIONS] = stream(text_piece("", used(3, 1), "length"), b"data: [DONE]\n\n")
    assert OpenAiModel(other.url).generate([1] * 3, 1).output_tokens == 1


def test_reasoning_that_is_shown_is_output(other: StandIn) -> None:
    counted = used(8, 5, completion_tokens_details={"reasoning_tokens": 3})
    other.answers[CHAT] = stream(
        chat_piece(reasoning_content="hm"),
        chat_piece("stop", content="4"),
        event({"choices": [], "usage": counted}),
    )
    made = OpenAiModel(other.url, chat=True).generate("two and two", 100)
    assert (made.output_tokens, made.hidden_tokens) == (5, 0)


def test_without_any_count_a_piece_is_a_token_and_said_to_be_a_guess(other: StandIn) -> None:
    other.answers[COMPLETIONS] = stream(text_piece("a"), text_piece("b", finish="stop"), b"data: [DONE]\n\n")
    made = OpenAiModel(other.url).generate("x", 5)
    assert (made.output_tokens, made.counted, made.prompt_tokens) == (2, Counted.PIECES, 0)


def test_pieces_may_be_cut_anywhere_on_their_way(other: StandIn) -> None:
    whole = text_piece("é", used(3, 1)) + text_piece("b", used(3, 2), "length") + b"data: [DONE]\n\n"
    other.answers[COMPLETIONS] = stream(*(whole[i : i + 1] for i in range(len(whole))))
    assert OpenAiModel(other.url).generate([1] * 3, 2).text == "éb"


def test_one_of_several_models_has_to_be_named(other: StandIn) -> None:
    other.answers[MODELS] = listing("gpt-4o", "gpt-4.1")
    with pytest.raises(BadInput, match="has 2 models") as error:
        OpenAiModel(other.url)
    assert "gpt-4.1" in (error.value.hint or "")
    assert OpenAiModel(other.url, model="gpt-4.1").model == "gpt-4.1"


def test_tokens_are_shared_out_without_losing_any() -> None:
    assert shared_out(10, [1, 1, 1]) == (3, 4, 3)
    assert shared_out(2, [5, 5, 5]) == (1, 0, 1)
    assert shared_out(0, [1]) == (0,)
    assert sum(shared_out(12345, list(range(1, 400)))) == 12345
    assert min(shared_out(400, [1000] + [1] * 299)) == 1
