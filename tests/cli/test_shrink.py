import json
from pathlib import Path

import pytest

from tests.shrink.models import gaussian_model
from weigh.cli import main
from weigh.model.gguf import read_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return gaussian_model(
        tmp_path / "model.gguf",
        num_hidden_layers=1,
        intermediate_size=256,
        num_attention_heads=4,
        vocab_size=320,
    )


def test_a_type_with_a_text_says_before_and_after(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = model.with_name("text.txt")
    text.write_text("a text that is measured on, again and again.\n" * 60)
    code = main(["shrink", "quantize", str(model), "q4_k_m", "--text", str(text), "--threads", "1"])
    said = capsys.readouterr().out
    assert code == 0
    made = model.with_name("model-Q4_K_M.gguf")
    assert read_gguf(made).quantization == "Q4_K_M"
    for word in ("bits per weight", "perplexity", "Divergence", "nats", str(made), "Q4_K"):
        assert word in said


def test_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = model.with_name("small.gguf")
    assert main(["shrink", "quantize", str(model), "Q2_K", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["made"]["size_bytes"] == out.stat().st_size < said["source"]["size_bytes"]
    assert said["made"]["formats"]["blk.0.ffn_up.weight"] == "Q2_K"
    assert said["divergence"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name one of"),
        (["Q4_K_M", "--size", "1M"], "name one of"),
        (["--size", "1M"], "add --text"),
        (["--size", "1M", "--text", "{model}", "--requantize"], "goes with a TYPE"),
        (["Q4_K_M", "--make-imatrix"], "measures on --text"),
        (["Q4_K_N"], "did you mean"),
        (["IQ2_XS"], "importance matrix only"),
        (["Q4_K_M", "--out", "{folder}"], "is a folder"),
        (["Q4_K_M", "--out", "{model}"], "is the model itself"),
        (["Q4_K_M", "--out", "{folder}/none/a.gguf"], "no such folder"),
        (["Q4_K_M", "--imatrix", "{folder}/none.gguf"], "cannot be read"),
        (["Q4_K_M", "--text", "{folder}/none.txt"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(folder=model.parent, model=model) for word in words]
    assert main(["shrink", "quantize", str(model), *given]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]


def test_a_file_that_is_there_is_replaced_only_when_told(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = model.with_name("made.gguf")
    out.write_text("mine")
    words = ["shrink", "quantize", str(model), "Q8_0", "--out", str(out)]
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main([*words, "--force"]) == 0
    assert read_gguf(out).quantization == "Q8_0"


def test_a_model_that_is_not_here_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shrink", "quantize", "qwen3-8b", "Q4_K_M"]) == 2
    assert "not on this machine as a file" in capsys.readouterr().err
