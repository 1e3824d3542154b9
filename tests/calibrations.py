"""A calibration in round numbers, for arithmetic worked by hand."""

from weigh.estimate.calibration import Calibration, FormatRate

CALIBRATION = Calibration(
    engine="llama.cpp",
    engine_version="1",
    fingerprint="f00d",
    threads=2,
    created="2026-01-01T00:00:00+00:00",
    formats={
        "F16": FormatRate(decode_bytes_per_s=10e9, prefill_flops_per_s=100e9, spread=0.0),
        "Q4_K": FormatRate(decode_bytes_per_s=5e9, prefill_flops_per_s=80e9, spread=0.0),
    },
    expert_s=0.0,
    expert_prefill=0.25,
    expert_stream=0.5,
    layer_s=100e-6,
    value_s=1e-9,
    token_s=1e-3,
    vocab_s=10e-9,
    decode_attention_flops_per_s=4e9,
    prefill_attention_flops_per_s=20e9,
    load_bytes_per_s=2e9,
    repack_bytes_per_s=1e9,
    load_fixed_s=0.25,
    load_vocab_s=5e-6,
    read_bytes_per_s=0.5e9,
    check_decode=1.0,
    check_prefill=1.0,
    noise=0.0,
    took_s=20.0,
    memory_read=((1, 8e9, 7e9, 9e9), (2, 14e9, 13e9, 15e9)),
)
