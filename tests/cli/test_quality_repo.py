"""`weigh quality --repo` as a person meets it: real repositories, real (untrained) models."""

from __future__ import annotations

import json
import os
import signal
from string import ascii_lowercase

import pytest

from tests.quality.repositories import Repository, program
from tests.quality.vocabularies import write_model
from weigh.cli import main
from weigh.quality import completion
from weigh.quality.code_model import CodeModel
from weigh.quality.completion import FIM_NAMES


@pytest.fixture(autouse=True)
def short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that nobody trained never end a line."""
    monkeypatch.setattr(completion, "LINE_TOKENS", 8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two of one architecture, the second with tokens for fill-in-the-middle."""
    folder = tmp_path_factory.mktemp("models")
    names = FIM_NAMES[0]
    write_model(folder / "plain.gguf")
    write_model(folder / "fills.gguf", special=[names.prefix, names.suffix, names.middle])
    return [str(folder / "plain.gguf"), str(folder / "fills.gguf")]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = Repository(tmp_path_factory.mktemp("code") / "repository")
    made.commit({f"part_{letter}.py": program(f"part_{letter}", lines=18) for letter in ascii_lowercase[:12]})
    made.commit({"vendor/a.py": program("vendored"), "data.csv": "1,2\n"})
    return str(made.folder)


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["quality", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.usefixtures("store")
def test_json_has_what_was_chosen_each_figure_and_the_pairs(
    capsys: pytest.CaptureFixture[str], models: list[str], repository: str
) -> None:
    code, out, err = ask(
        capsys, *models, "--repo", repository, "--budget", "6KiB", "--threads", "1", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["ended"] == "budget"
    assert found["repository"]["left_out"] == {"no source code by name": 1, "vendored": 1}
    assert len(found["repository"]["files"]) == 12
    plain, fills = found["models"]
    for model in (plain, fills):
        assert 6 * 1024 <= model["text_bytes"] < 9 * 1024
        assert (
            model["bits_per_byte"]["low"] <= model["bits_per_byte"]["value"] <= model["bits_per_byte"]["high"]
        )
        assert 0 <= model["next_line_exact"]["value"] <= 1
        assert model["files"] == model["lines"] == len(model["answers"])
    assert plain["middle_exact"] is None
    assert fills["middle_exact"]["basis"] == "measured"
    assert {pair["quantity"] for pair in found["pairs"]} == {
        "bits_per_byte",
        "next_line_exact",
        "next_line_similarity",
    }


@pytest.mark.usefixtures("store")
def test_the_screen_says_which_is_better_and_on_what(
    capsys: pytest.CaptureFixture[str], models: list[str], repository: str
) -> None:
    code, out, err = ask(capsys, *models, "--repo", repository, "--threads", "1")
    assert code == 0, err
    first, *_ = out.splitlines()
    assert "on your code" in first
    assert "(plain.gguf)" in out
    assert "12 of 12 held-out files" in out
    assert "all there is was read" in out
    assert "left out: 1 no source code by name, 1 vendored" in out
    assert "unknown" in out  # fill-in-the-middle of the first


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--repo", "{repository}", "--budget", "soon"), "is not a time"),
        (("--repo", "{repository}/part_a.py"), "is no folder"),
        (("--budget", "2min"), "add --repo"),
        (("http://127.0.0.1:9", "--repo", "{repository}"), "is a server"),
        (("no-such-model", "--repo", "{repository}"), "unknown model"),
        (("--repo", "{repository}/nowhere"), "is no folder"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str],
    models: list[str],
    repository: str,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    code, _, err = ask(
        capsys,
        models[0],
        *(argument.format(repository=repository) for argument in arguments),
        "--threads",
        "1",
    )
    assert code == 2
    assert said in err.splitlines()[-1]


@pytest.mark.usefixtures("store")
def test_a_folder_named_by_itself_is_not_left_out_and_few_files_are_said(
    capsys: pytest.CaptureFixture[str], models: list[str], repository: str
) -> None:
    code, out, err = ask(capsys, models[0], "--repo", f"{repository}/vendor", "--threads", "1")
    assert code == 0, err
    assert "1 of 1 held-out files" in out
    assert "fewer than 8 files" in out


@pytest.mark.usefixtures("store")
def test_ctrl_c_keeps_and_shows_what_is_done(
    capsys: pytest.CaptureFixture[str], models: list[str], repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for_line = CodeModel.next_line
    asked: list[str] = []

    def interrupted(self: CodeModel, before: str) -> str:
        asked.append(before)
        if len(asked) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return ask_for_line(self, before)

    monkeypatch.setattr(CodeModel, "next_line", interrupted)
    code, out, err = ask(capsys, models[0], "--repo", repository, "--threads", "1")
    assert code == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "this is what was measured until then" in out
    assert "3 of 12 held-out files" in out
