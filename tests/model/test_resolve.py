"""What people type, and the model they get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.model.gguf_files import GgufFile, llama_file, llama_tensors, llama_values
from tests.model.hub_cache_files import cache_repository
from tests.model.hub_server import CHECKPOINT_WEIGHTS, checkpoint_files, gguf_bytes
from tests.model.ollama_store import LIBRARY, OllamaStore
from tests.model.test_gguf import split
from weigh.errors import BadFile, BadInput, NotSupported, UnknownName, Unreachable
from weigh.model.ggml_types import GgmlType
from weigh.model.resolve import resolve

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("LLAMA_3.1_8B", "meta-llama/Llama-3.1-8B-Instruct"),
        ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama3.2:1b", "meta-llama/Llama-3.2-1B-Instruct"),
        ("qwen2.5-coder-7b", "Qwen/Qwen2.5-Coder-7B-Instruct"),
        ("qwen3-coder:30b", "Qwen/Qwen3-Coder-30B-A3B-Instruct"),
        ("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B"),
        ("gemma3:4b", "google/gemma-3-4b-it"),
        ("gpt-oss:20b", "openai/gpt-oss-20b"),
        ("phi-4:latest", "microsoft/phi-4"),
        ("phi-1.5", "microsoft/phi-1_5"),
        ("mistral-nemo", "mistralai/Mistral-Nemo-Instruct-2407"),
        ("qwq", "Qwen/QwQ-32B"),
        ("llama-4-scout", "meta-llama/Llama-4-Scout-17B-16E-Instruct"),
    ],
)
def test_a_name_that_is_nearly_one_is_understood(typed: str, meant: str) -> None:
    assert resolve(typed).name == meant


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),  # exact beats tuned
        ("llama-3-8b", "meta-llama/Meta-Llama-3-8B-Instruct"),  # tuned beats base
        ("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3"),  # newest of the tuned
        ("mistral-7b-v0.2", "mistralai/Mistral-7B-Instruct-v0.2"),
        ("devstral-small", "mistralai/Devstral-Small-2507"),
        ("qwen3-4b", "Qwen/Qwen3-4B"),
        ("qwen3-4b-2507", "Qwen/Qwen3-4B-Instruct-2507"),
    ],
)
def test_of_several_the_exact_then_the_tuned_then_the_newest_is_meant(typed: str, meant: str) -> None:
    assert resolve(typed).name == meant


@pytest.mark.parametrize(
    ("typed", "recipe"),
    [
        ("qwen3-8b", "Q4_K_M"),
        ("qwen3-8b:q5_k_m", "Q5_K_M"),
        ("qwen3:8b-q8_0", "Q8_0"),
        ("gpt-oss-20b", "MXFP4_MOE"),  # as it is published
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "Q4_K_M"),  # the name of the model itself
        ("nemotron-3-nano-30b-a3b", "Q4_K_M"),
        ("nemotron-3-nano-30b-a3b-bf16", "BF16"),
    ],
)
def test_a_recipe_may_follow_and_has_a_default(typed: str, recipe: str) -> None:
    assert resolve(typed).quantization == recipe


def test_an_unknown_recipe_is_told_with_close_ones() -> None:
    with pytest.raises(UnknownName, match="unknown quantization `Q4_K_X`; did you mean") as caught:
        resolve("qwen3-8b:Q4_K_X")
    assert "Q4_K_M" in caught.value.close


@pytest.mark.parametrize("typed", ["llama-3.1-9b", "qwen2.5", "mistral-7b-v9", "mixtral"])
def test_an_unknown_or_ambiguous_name_is_told_with_close_ones(typed: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown model `{typed}`; did you mean") as caught:
        resolve(typed)
    assert 1 <= len(caught.value.close) <= 3


@pytest.mark.parametrize("typed", ["", " ", ":", "zzzz", "/", "instruct", "a\x1b[31m\nb", "x" * 5000, "a\0b"])
def test_what_is_no_name_at_all_is_one_line(typed: str) -> None:
    with pytest.raises(BadInput) as caught:
        resolve(typed)
    assert str(caught.value).isprintable()


def test_a_gguf_file_is_read(tmp_path: Path) -> None:
    spec = resolve(str(llama_file().write(tmp_path / "m.gguf")))
    assert (spec.name, spec.basis) == ("Tiny Llama", "file")


def test_a_config_is_read_as_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for path in (tmp_path, tmp_path / "config.json"):
        spec = resolve(str(path))
        assert (spec.name, spec.basis, spec.quantization) == (tmp_path.name, "config", "F16")
    assert resolve(f"{tmp_path}:Q8_0").quantization == "Q8_0"


def test_a_folder_with_one_model_stands_for_it(tmp_path: Path) -> None:
    split(tmp_path)
    llama_file(general__name="Projector").write(tmp_path / "mmproj-f16.gguf")
    assert resolve(str(tmp_path)).name == "Tiny Llama"


def test_a_folder_with_several_models_asks_which(tmp_path: Path) -> None:
    for name in ("a", "b"):
        llama_file().write(tmp_path / f"{name}.gguf")
    with pytest.raises(BadInput, match=r"holds 2 GGUF models: `a.gguf` 727\.9 KiB, `b.gguf`"):
        resolve(str(tmp_path))


def test_a_folder_without_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds neither a GGUF file nor a `config.json`"):
        resolve(str(tmp_path))


def test_a_folder_without_model_hides_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "phi-4").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("phi-4").name == "microsoft/phi-4"


@pytest.mark.parametrize(
    "typed", ["./none", "../none/at/all", "~/none.gguf", "none.gguf", "a/b/c", "none.gguf:Q8_0"]
)
def test_a_path_that_does_not_exist_is_named(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=f"`{typed.partition(':')[0]}` does not exist"):
        resolve(typed)


# --- places -------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose places hold a tiny model each, and no network."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("OLLAMA_MODELS", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    OllamaStore(tmp_path / ".ollama" / "models").add(
        f"{LIBRARY}/tiny/1b", ("model", gguf_bytes(llama_file()))
    )
    cache = tmp_path / ".cache" / "huggingface" / "hub"
    cache_repository(cache, "org/mine", checkpoint_files(shards=2))
    cache_repository(cache, "org/mine-GGUF", {"mine-Q4_K_M.gguf": gguf_bytes(llama_file())})
    cache_repository(cache, "Qwen/Qwen3-4B", checkpoint_files())
    for name in ("a-Q4_K_M.gguf", "b-Q8_0.gguf"):
        path = tmp_path / ".lmstudio" / "models" / "pub" / "Tiny-GGUF" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        llama_file().write(path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "name", "quantization"),
    [
        ("ollama:tiny:1b", "tiny:1b", "Q4_K"),
        ("lmstudio:tiny:q8_0", "pub/Tiny-GGUF", "Q4_K"),
        ("lmstudio:pub/Tiny-GGUF:a-Q4_K_M.gguf", "pub/Tiny-GGUF", "Q4_K"),
        ("hf:org/mine", "org/mine", "BF16"),
        ("HF:org/mine", "org/mine", "BF16"),
        ("hf:org/mine:Q8_0", "org/mine", "Q8_0"),
        ("hf:org/mine-GGUF:Q4_K_M", "org/mine-GGUF", "Q4_K"),
        ("org/mine", "org/mine", "BF16"),
        ("org/mine:Q8_0", "org/mine", "Q8_0"),
        ("org/mine-GGUF:Q4_K_M", "org/mine-GGUF", "Q4_K"),
    ],
)
def test_a_place_and_a_name_in_it_is_a_model(places: Path, typed: str, name: str, quantization: str) -> None:
    spec = resolve(typed)
    assert (spec.name, spec.quantization, spec.basis) == (name, quantization, "file")


def test_the_catalog_goes_before_the_cache_unless_the_place_is_said(places: Path) -> None:
    assert resolve("Qwen/Qwen3-4B").parameters > 4e9
    assert resolve("hf:Qwen/Qwen3-4B").parameters == CHECKPOINT_WEIGHTS


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("ollama:tiny", "did you mean `ollama:tiny:1b`"),
        ("lmstudio:tyni", "did you mean `lmstudio:pub/Tiny-GGUF`"),
        ("lmstudio:tiny", "pub/Tiny-GGUF holds 2 GGUF models: `Q4_K_M` 727.9 KiB, `Q8_0` 727.9 KiB"),
        ("lmstudio:tiny:Q5_K_M", "did you mean `Q4_K_M`"),
        ("hf:org/mine:Q4_K_X", "unknown quantization `Q4_K_X`; did you mean"),
        ("hf:org/mime", "forbids to ask the hub; did you mean `hf:org/mine`"),
        ("hf:org/none", "org/none is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids"),
        ("hf:org/mine-GGUF:Q8_0", "org/mine-GGUF is not in the Hugging Face cache"),
        ("org/mime", "did you mean `hf:org/mine"),
        ("ollama:", "is no name that Ollama gives"),
        ("hf:", "names no repository"),
        ("lmstudio:", "unknown model of LM Studio"),
    ],
)
def test_what_a_place_does_not_hold_is_one_line_with_what_it_does(
    places: Path, typed: str, said: str
) -> None:
    with pytest.raises(BadInput) as caught:
        resolve(typed)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_download_that_stopped_is_said_where_the_hub_cannot_be_asked(places: Path) -> None:
    files = checkpoint_files(shards=3)
    del files["model-00002-of-00003.safetensors"]
    cache_repository(places / ".cache" / "huggingface" / "hub", "org/half", files)
    with pytest.raises(Unreachable, match="download to the cache did not end: 1 of its 3 files are missing"):
        resolve("hf:org/half")


def test_a_recipe_picks_among_the_models_of_a_folder(places: Path) -> None:
    folder = places / "models"
    folder.mkdir()
    for recipe, number in (("Q4_K_M", 15), ("Q8_0", 7)):
        llama_file(general__file_type=number).write(folder / f"a-{recipe}.gguf")
    assert resolve(f"{folder}:q8_0").file == folder / "a-Q8_0.gguf"


def test_an_unquantized_file_may_be_taken_at_another_recipe(tmp_path: Path) -> None:
    tensors = [t for t in llama_tensors(kind=GgmlType.F16) if t.type_id in (GgmlType.F16.id, GgmlType.F32.id)]
    path = GgufFile(llama_values(), tensors).write(tmp_path / "m.gguf")
    assert resolve(f"{path}:Q8_0").quantization == "Q8_0"


def test_a_quantized_file_may_not(tmp_path: Path) -> None:
    path = llama_file().write(tmp_path / "m.gguf")
    with pytest.raises(NotSupported, match="Tiny Llama is Q4_K already; it cannot be made Q8_0 again"):
        resolve(f"{path}:Q8_0")


def test_a_damaged_file_stays_a_bad_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(BadFile, match="zip archive"):
        resolve(str(tmp_path / "m.gguf"))
