from weigh.engines import engine_log
from weigh.units import MIB

CPU_TABLE = """\
0.00.548.058 I print: | memory breakdown [MiB] | total   free    self   model   context   compute |
0.00.548.070 I print: |   - Host               |                  515 =   317 +     128 +      70 |
0.00.548.070 I print: |   - CPU_REPACK         |                  445 =   445 +       0 +       0 |
0.00.594.240 I common_fit_params: successfully fit params to free device memory
""".splitlines()

GPU_TABLE = """\
| memory breakdown [MiB] | total   free     self   model   context   compute    unaccounted |
|   - CUDA0 (RTX 4090)   | 24080 = 3188 + (20479 = 16384 +    4000 +      95) +         413 |
|   - Host               |                   300 =   250 +       0 +      50                |
""".splitlines()


def test_the_table_of_a_cpu_build_is_read() -> None:
    layout = engine_log.layout(CPU_TABLE)
    assert layout is not None
    assert layout.weights_bytes == (317 + 445) * MIB
    assert layout.kv_cache_bytes == 128 * MIB
    assert layout.compute_bytes == 70 * MIB
    assert layout.total_bytes == (515 + 445) * MIB
    assert layout.by_buffer["CPU_REPACK"] == (445 * MIB, 0, 0)


def test_the_table_of_a_gpu_build_is_read() -> None:
    layout = engine_log.layout(GPU_TABLE)
    assert layout is not None
    assert layout.by_buffer == {
        "CUDA0 (RTX 4090)": (16384 * MIB, 4000 * MIB, 95 * MIB),
        "Host": (250 * MIB, 0, 50 * MIB),
    }


def test_a_log_without_a_table_has_no_layout() -> None:
    assert engine_log.layout(["0.00.001.000 I srv init: initializing ..."]) is None
    assert engine_log.layout(CPU_TABLE[:1]) is None


def test_the_cause_is_told_rather_than_what_followed_from_it() -> None:
    log = [
        "0.00.021.000 I srv load_model: loading model 'x.gguf'",
        "0.00.026.578 E llama_model_load: error loading model: tensor 'a' is out of bounds",
        "0.00.026.620 E llama_model_load_from_file_impl: failed to load model",
        "0.00.027.236 E srv  llama_server: exiting due to model loading error",
    ]
    assert engine_log.reason(log) == "tensor 'a' is out of bounds"
    assert engine_log.reason(log[2:]) == "llama_model_load_from_file_impl: failed to load model"
    assert engine_log.reason(log[:1]) is None


def test_a_refused_option_is_told() -> None:
    assert engine_log.reason(["error: invalid argument: --bogus"]) == "invalid argument: --bogus"


def test_only_errors_count_as_running_out_of_memory() -> None:
    refused = "0.00.1.1 E alloc_tensor_range: failed to allocate CPU buffer of size 4294967296"
    assert not engine_log.ran_out_of_memory(["0.00.001.001 I reserve: can allocate later"])
    assert engine_log.ran_out_of_memory([refused])


def test_what_vllm_only_warns_of_is_not_the_cause() -> None:
    """Lines of vLLM 0.32.0 whose worker was killed; its warm-up had failed for want of a tokenizer, harmlessly."""
    log = [
        "(APIServer pid=7) WARNING 11-25 19:27:56 [base.py:380] ValueError: Tokenizer not available",
        "(EngineCore pid=8) ERROR 11-25 19:32:55 [core.py:1512] RuntimeError: cancelled",
        "RuntimeError: cancelled",
    ]
    said = "Worker proc VllmWorker-0 died unexpectedly (exit code: -9)"
    died = (
        f"(EngineCore pid=8) ERROR 11-25 19:32:55 [multiproc_executor.py:316] {said}, shutting down executor."
    )
    assert engine_log.reason(log[:1]) is None
    assert engine_log.reason(log) == "RuntimeError: cancelled"
    assert engine_log.reason([*log, died]) == said
