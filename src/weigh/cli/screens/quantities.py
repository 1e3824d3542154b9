"""How measured quantities, their conditions and their figures are said, on every screen alike."""

from __future__ import annotations

from collections.abc import Mapping

from weigh.cli.render import interval
from weigh.figure import Figure

_NAMES = {
    "load_s": "load",
    "load_cold_s": "load, nothing cached",
    "load_cached_s": "load, file in memory",
    "prefill_tokens_per_s": "prefill tokens/s",
    "decode_tokens_per_s": "decode tokens/s",
    "output_tokens_per_s": "decode tokens/s, all together",
    "ttft_s": "time to first token",
    "itl_s": "gap between tokens (ITL)",
    "tpot_s": "time per output token (TPOT)",
    "e2e_s": "end to end",
    "ttft_from_arrival_s": "time to first token, from the planned arrival",
    "arrived_per_s": "requests that came",
    "completed_per_s": "requests answered",
    "goodput_per_s": "requests answered in time (goodput)",
    "prompt_tokens_per_s": "prompt tokens/s, all together",
    "failed_requests": "requests that failed",
    "tokens_per_s": "prompt and output tokens/s",
    "peak_memory_bytes": "peak memory",
    "steady_memory_bytes": "steady memory",
    "peak_private_bytes": "of it private, at most",
    "mapped_file_bytes": "of it mapped file pages",
    "page_cache_bytes": "file in the page cache",
    "energy_j_per_token": "joules per token",
    "cpu_cores_busy": "processors busy",
    "cpu_clock_hz": "the processors' clock, Hz",
    "predict_s": "time of a prediction",
    "rows_per_s": "rows/s, one batch after another",
}
_TOKENS = {"prompt_tokens": "prompt", "output_tokens": "output", "depth_tokens": "depth"}
_FORMS = {
    "parallel": "{} at once",
    "batch_rows": "batches of {}",
    "rate_per_s": "{} requests/s",
    "clients": "{} clients",
    "most_at_once": "{} at once at most",
    "statistic": "{}",
    "clock": "{}'s clock",
}


def said(name: str) -> str:
    """A quantity's name in words; its own where there are none."""
    return _NAMES.get(name, name)


def in_words(figure: Figure) -> str:
    """Times of tokens need more than whole milliseconds."""
    if figure.unit != "s" or figure.high >= 1:
        return interval(figure)
    low, high = f"{figure.low * 1e3:.3g}", f"{figure.high * 1e3:.3g}"
    value = f"{figure.value * 1e3:.3g} ms"
    return value if low == high else f"{value} ({low}–{high})"


def at(conditions: Mapping[str, object]) -> str:
    """What a figure holds for; sequences one at a time and an empty context go without saying."""
    left = dict(conditions)
    told = []
    for key, word in _TOKENS.items():
        if value := left.pop(key, None):
            told.append(f"{word} {_value(value)}")
    for key, form in _FORMS.items():
        value = left.pop(key, None)
        if value is not None and not (key == "parallel" and value == 1):
            told.append(form.format(_value(value)))
    return ", ".join([*told, *(f"{key} {_value(value)}" for key, value in left.items() if value is not None)])


def _value(value: object) -> str:
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )
