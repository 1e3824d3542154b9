"""Models on the hub: read by ranged requests from a server on this machine, which means no good at times."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.model.gguf_files import GgufFile, llama_file, llama_tensors, llama_values, strings
from tests.model.hub_server import (
    CHECKPOINT_WEIGHTS,
    COMMIT,
    Handler,
    Hub,
    checkpoint_files,
    gguf_bytes,
    serving,
)
from weigh.errors import BadFile, BadInput, NotSupported, UnknownName, Unreachable
from weigh.model import hub as hub_reader
from weigh.model.gguf import read_gguf
from weigh.model.hub import gguf_files, read_hub, repository
from weigh.model.hub_cache import hub_reference
from weigh.model.remote import Web
from weigh.model.spec import ModelSpec
from weigh.model.variants import SeveralModels

TOKEN = "hf_0123456789abcdefghij"
# Longer than the first read, so that the header comes in several stretches.
TOKENS = strings(*(f"token number {i}" for i in range(60_000)))
LONG = GgufFile(llama_values(30, tokenizer__ggml__tokens=TOKENS), llama_tensors(30))
FILES = {
    "tiny-Q4_K_M.gguf": gguf_bytes(LONG),
    "tiny-Q8_0.gguf": gguf_bytes(llama_file()),
    "mmproj-tiny-f16.gguf": gguf_bytes(llama_file()),
    "README.md": b"# Tiny",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with a repository of GGUF files and one of a checkpoint, and nobody logged in."""
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_TOKEN_PATH",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with serving({"org/tiny-GGUF": FILES, "org/tiny": checkpoint_files(shards=3)}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def read(typed: str) -> ModelSpec:
    return read_hub(hub_reference(typed))


def problem(typed: str) -> str:
    """Why a model cannot be had, in one line."""
    with pytest.raises(BadInput) as caught:
        read(typed)
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- what is read ---------------------------------------------------------------------------------------


def test_a_gguf_file_is_the_model_its_header_says(hub: Hub, tmp_path: Path) -> None:
    local = read_gguf(LONG.write(tmp_path / "m.gguf"))
    spec = read("org/tiny-GGUF:Q4_K_M")
    assert spec == replace(local, name="org/tiny-GGUF", file=None)


def test_of_a_gguf_file_the_header_alone_is_read_and_no_byte_twice(hub: Hub) -> None:
    read("org/tiny-GGUF:Q4_K_M")
    ranges = [r.range.removeprefix("bytes=").split("-") for r in hub.asked if r.range and "/files/" in r.path]
    assert [int(first) for first, _ in ranges] == [0, *(int(last) + 1 for _, last in ranges[:-1])]
    assert 1 << 20 < len(LONG.header()) < 2 << 20
    assert 1 << 20 < int(ranges[-1][1]) < 3 << 20 < len(FILES["tiny-Q4_K_M.gguf"])


def test_parts_of_a_split_file_are_one_model(hub: Hub, tmp_path: Path) -> None:
    files = {}
    tensors = llama_tensors()
    for number, held in enumerate((tensors[:10], tensors[10:])):
        values = llama_values() if number == 0 else {}
        values |= {"split.no": number, "split.count": 2, "split.tensors.count": len(tensors)}
        files[f"Q4_K_M/tiny-Q4_K_M-{number + 1:05}-of-00002.gguf"] = gguf_bytes(GgufFile(values, held))
    hub.repositories["org/split"] = files
    (variant,) = gguf_files("org/split")
    assert (variant.parts, variant.quantization, variant.size_bytes) == (
        2,
        "Q4_K_M",
        sum(map(len, files.values())),
    )
    assert read("org/split").tensor_bytes == read_gguf(llama_file().write(tmp_path / "m.gguf")).tensor_bytes


def test_a_checkpoint_is_read_from_the_headers_of_all_its_shards(hub: Hub) -> None:
    seen: list[tuple[int, int]] = []
    spec = read_hub(hub_reference("org/tiny"), lambda done, of: seen.append((done, of)))
    assert (spec.name, spec.format, spec.file) == ("org/tiny", "safetensors", None)
    assert spec.parameters == CHECKPOINT_WEIGHTS
    assert spec.tensor_bytes == 2 * CHECKPOINT_WEIGHTS
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_all_files_are_read_at_the_commit_that_was_listed(hub: Hub) -> None:
    read("org/tiny")
    assert hub.paths("/resolve/")
    assert all(f"/resolve/{COMMIT}/" in path for path in hub.paths("/resolve/"))


def test_weights_that_are_not_opened_leave_the_shapes_of_the_config(hub: Hub) -> None:
    config = checkpoint_files()["config.json"]
    hub.repositories["org/pickled"] = {"config.json": config, "pytorch_model.bin": b"\x80\x02"}
    spec = read("org/pickled")
    assert (spec.parameters, spec.basis) == (CHECKPOINT_WEIGHTS, "config")
    assert "shapes from its config.json" in spec.notes[-1]


def test_a_repository_of_neither_says_so(hub: Hub) -> None:
    hub.repositories["org/data"] = {"a.csv": b"1"}
    assert problem("org/data") == "org/data holds neither GGUF nor safetensors files, nor a `config.json`"


# --- which file -----------------------------------------------------------------------------------------


def test_gguf_files_are_listed_with_their_sizes_and_without_projectors(hub: Hub) -> None:
    found = gguf_files("hf:org/tiny-GGUF")
    assert [(v.quantization, v.size_bytes) for v in found] == [
        ("Q8_0", len(FILES["tiny-Q8_0.gguf"])),
        ("Q4_K_M", len(FILES["tiny-Q4_K_M.gguf"])),
    ]


def test_several_files_ask_for_a_choice(hub: Hub) -> None:
    with pytest.raises(SeveralModels) as caught:
        read("org/tiny-GGUF")
    assert str(caught.value) == "org/tiny-GGUF holds 2 GGUF models: `Q8_0` 727.9 KiB, `Q4_K_M` 11.1 MiB"
    assert caught.value.hint == "choose one: `hf:org/tiny-GGUF:Q8_0`"
    assert len(caught.value.variants) == 2


def test_a_file_may_be_chosen_by_name(hub: Hub) -> None:
    assert read("org/tiny-GGUF:tiny-q8_0.gguf").file_bytes == len(FILES["tiny-Q8_0.gguf"])


def test_a_choice_that_is_not_there_is_told_with_those_that_are(hub: Hub) -> None:
    with pytest.raises(UnknownName, match="`Q4_K_S`; did you mean `Q4_K_M`") as caught:
        read("org/tiny-GGUF:Q4_K_S")
    assert "Q4_K_M" in caught.value.close


@pytest.mark.parametrize(
    "typed",
    ["", "a/b/c", "../../etc", "a/..", "-x/y", "a/b@../c", "a/b@x:\n", "a b/c", "a/b\x1b[31m", "a--b/c"],
)
def test_what_no_repository_is_called_is_refused_before_it_is_asked_for(hub: Hub, typed: str) -> None:
    assert "names no repository of the hub" in problem(typed)
    assert not hub.asked


# --- who asks -------------------------------------------------------------------------------------------


def test_the_token_opens_a_gate_and_goes_to_no_other_host(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gate = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read("org/tiny").parameters == CHECKPOINT_WEIGHTS
    sent = {request.host.split(":")[0]: request.token for request in hub.asked}
    assert sent == {"127.0.0.1": f"Bearer {TOKEN}", "localhost": None}


def test_the_token_may_lie_in_the_file_that_logging_in_writes(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(f"{TOKEN}\n")
    read("org/tiny")
    assert hub.asked[0].token == f"Bearer {TOKEN}"


def test_the_token_does_not_travel_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({"org/tiny": checkpoint_files()}) as server:
        monkeypatch.setattr("weigh.model.remote._LOOPBACK", ())  # as if 127.0.0.1 were far away
        web = Web(server.endpoint, TOKEN)
        web.whole(f"{server.endpoint}/api/models/org/tiny/revision/main", 10_000)
        assert [request.token for request in server.asked] == [None]


@pytest.mark.parametrize("secret", ["two words", "a\nb", "é" * 30])
def test_what_is_no_token_is_neither_sent_nor_said(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", secret)
    said = problem("org/tiny")
    assert said == "the hub's token is not one word of plain letters"
    assert not hub.asked


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "", "does not exist, or is private"),
        (401, "GatedRepo", "is gated"),
        (403, "GatedRepo", "is gated"),
        (403, "", "is not for you to read"),
        (404, "", "is not on the hub"),
        (404, "RevisionNotFound", "has not that revision"),
        (429, "", "cannot be read now: the hub asks to wait 7 s"),
        (500, "", "cannot be read: the hub answers with status 500"),
        (418, "", "cannot be read: the hub answers with status 418"),
    ],
)
def test_a_refusal_is_said_in_plain_words(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, status: int, code: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.odd["/api"] = lambda handler: handler.refuse(status, code, Retry_After="7")
    assert problem("org/tiny") == f"org/tiny {said}"


def test_a_repository_that_is_nearly_one_of_the_catalog_is_asked_about(hub: Hub) -> None:
    said = problem("Qwen/Qwen3-4BB")
    assert said.startswith("Qwen/Qwen3-4BB does not exist, or is private; did you mean `hf:Qwen/Qwen3-4B`")


def test_a_gate_before_the_files_is_said_so(hub: Hub) -> None:
    hub.odd["/org/tiny/resolve"] = lambda handler: handler.refuse(403, "GatedRepo")
    with pytest.raises(Unreachable, match="org/tiny is gated") as caught:
        read("org/tiny")
    assert caught.value.hint is not None
    assert f"{hub.endpoint}/org/tiny" in caught.value.hint


# --- over TLS -------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """One for this machine that nobody vouches for."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    path, names = tmp_path / "both.pem", "subjectAltName=IP:127.0.0.1,DNS:localhost"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(path), "-out", str(tmp_path / "cert.pem"), "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", names], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    return path


def test_a_hub_with_a_trusted_certificate_is_read_and_gets_the_token(
    certificate: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving({"org/tiny": checkpoint_files(shards=2)}, certificate) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        assert read("org/tiny").parameters == CHECKPOINT_WEIGHTS
        assert {r.host.split(":")[0]: bool(r.token) for r in server.asked} == {
            "127.0.0.1": True,
            "localhost": False,
        }


def test_a_hub_that_nobody_vouches_for_is_not_read(
    certificate: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving({"org/tiny": checkpoint_files()}, certificate) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        assert "certificate verify failed" in problem("org/tiny")
        assert not server.asked


def test_no_redirect_leads_from_tls_to_the_clear(
    certificate: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving({"org/tiny": checkpoint_files()}, certificate) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        server.odd["/org/tiny/resolve"] = lambda handler: handler.redirect(
            f"{hub.files_host}/files/@org/tiny@x"
        )
        assert "redirects to nowhere that can be followed" in problem("org/tiny")
        assert not hub.asked


# --- no network -----------------------------------------------------------------------------------------


def test_offline_by_wish_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = problem("org/tiny")
    assert said == "org/tiny is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids to ask the hub"
    assert not hub.asked


def test_without_a_network_one_line_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed}")
    with pytest.raises(
        Unreachable, match=r"org/tiny: 127.0.0.1 cannot be reached \(Connection refused\)"
    ) as caught:
        read("org/tiny")
    assert caught.value.hint == "without a network name a file, a folder, or a model of the catalog"


@pytest.mark.parametrize("said", ["ftp://x", "file:///etc", "huggingface.co", "http://"])
def test_an_endpoint_that_is_no_address_is_refused(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", said)
    assert "HF_ENDPOINT" in problem("org/tiny")


# --- servers that mean no good --------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of time that a test can wait for."""
    monkeypatch.setattr(hub_reader, "Web", lambda origin, token: Web(origin, token, wait_s=0.3, most_s=0.6))


@pytest.mark.parametrize(
    "listing",
    [
        [],
        {"sha": COMMIT},
        {"siblings": []},
        {"sha": "../../x", "siblings": []},
        {"sha": COMMIT, "siblings": {"a": 1}},
        {"sha": 7, "siblings": [1, None, [], {"rfilename": 3, "size": 4}]},
    ],
)
def test_a_listing_of_another_form_is_refused(hub: Hub, listing: object) -> None:
    hub.odd["/api"] = lambda handler: handler.send_json(listing)
    assert "the hub's answer" in problem("org/tiny")


def test_files_with_names_or_sizes_no_file_has_are_not_listed(hub: Hub) -> None:
    names = [
        "../a.gguf",
        "/a.gguf",
        "a//b.gguf",
        "a\\b.gguf",
        "x\x1b.gguf",
        "a/./b.gguf",
        "y" * 2000 + ".gguf",
    ]
    sizes = [-1, 1 << 60, 1.5, "7", None, True]
    siblings = [{"rfilename": n, "size": 1} for n in names]
    siblings += [{"rfilename": f"{i}.gguf", "size": size} for i, size in enumerate(sizes)]
    hub.odd["/api"] = lambda handler: handler.send_json({"sha": COMMIT, "siblings": siblings})
    assert repository(hub_reference("org/tiny")).sizes_bytes == {}


def test_a_listing_without_end_is_not_read_to_its_end(hub: Hub) -> None:
    hub.odd["/api"] = Handler.endless
    said = problem("org/tiny")
    assert said == "org/tiny: 127.0.0.1 sends more than the 16,777,216 bytes there can be"


def test_a_server_that_ignores_ranges_is_read_no_further_than_asked(hub: Hub) -> None:
    def ignore(handler: Handler) -> None:
        del handler.headers["Range"]
        handler.send_part(FILES["tiny-Q4_K_M.gguf"])

    hub.odd["/files/"] = ignore
    said = problem("org/tiny-GGUF:Q4_K_M")  # its header ends after the first stretch
    assert said.endswith("tiny-Q4_K_M.gguf: localhost sends whole files where a part was asked for")
    assert len(hub.paths("/files/")) == 2


def test_a_small_whole_file_may_stand_for_its_part(hub: Hub) -> None:
    def ignore(handler: Handler) -> None:
        data = hub.repositories["org/tiny"][handler.path.rpartition("@")[2]]
        del handler.headers["Range"]
        handler.send_part(data)

    hub.odd["/files/"] = ignore
    assert read("org/tiny").parameters == CHECKPOINT_WEIGHTS


def test_a_file_of_another_size_than_listed_is_refused(hub: Hub) -> None:
    hub.odd["/files/"] = lambda handler: handler.send_part(FILES["tiny-Q8_0.gguf"], said_total=1 << 40)
    assert "where bytes from 0 of" in problem("org/tiny-GGUF:Q8_0")


def test_a_longer_answer_than_asked_for_is_cut(hub: Hub) -> None:
    size = len(FILES["tiny-Q8_0.gguf"])
    head = f"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-99/{size}\r\n\r\nGGUF".encode()
    hub.odd["/files/"] = lambda handler: handler.endless(head, b"\xff" * 65536)
    assert "is GGUF version" in problem("org/tiny-GGUF:Q8_0")


def test_a_packed_answer_is_not_unpacked(hub: Hub) -> None:
    hub.odd["/api"] = lambda handler: handler.endless(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
    assert "was asked to leave unpacked packed" in problem("org/tiny")


def test_an_answer_that_breaks_off_is_said_so(hub: Hub) -> None:
    def stop(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")

    hub.odd["/api"] = stop
    assert "org/tiny: the hub's answer" in problem("org/tiny") or "broke off" in problem("org/tiny")


def test_what_is_no_http_is_said_so(hub: Hub) -> None:
    hub.odd["/api"] = lambda handler: handler.wfile.write(b"\x16\x03\x01\x1b[31m\r\n\r\n") and None
    assert "127.0.0.1 cannot be reached" in problem("org/tiny")


def test_redirects_in_a_circle_are_left_after_a_few(hub: Hub) -> None:
    hub.odd["/api"] = lambda handler: handler.redirect(f"{hub.files_host}/api/again")
    assert problem("org/tiny") == "org/tiny: 127.0.0.1 redirects in circles"
    assert len(hub.asked) == 6


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://localhost/x", "data:,x", "", "http://[", "gopher://x"]
)
def test_a_redirect_leads_to_the_web_alone(hub: Hub, location: str) -> None:
    hub.odd["/api"] = lambda handler: handler.redirect(location)
    assert problem("org/tiny") == "org/tiny: 127.0.0.1 redirects to nowhere that can be followed"


def test_a_redirect_with_an_endless_answer_is_followed_at_once(hub: Hub) -> None:
    there = f"{hub.files_host}/files/@org/tiny@model-00001-of-00003.safetensors"
    start = f"HTTP/1.1 302 Found\r\nLocation: {there}\r\n\r\n".encode()
    hub.odd["/org/tiny/resolve/" + COMMIT + "/model-00001"] = lambda handler: handler.endless(start)
    assert read("org/tiny").parameters == CHECKPOINT_WEIGHTS


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n{"],
    ids=["silence", "slow headers", "slow body"],
)
def test_an_answer_that_drips_is_given_up_in_time(hub: Hub, start: bytes) -> None:
    def drip(handler: Handler) -> None:
        if not start:
            time.sleep(1)
            return
        handler.endless(start, b"x", pause_s=0.05)

    hub.odd["/api"] = drip
    assert "timed out" in (said := problem("org/tiny")) or "not done in" in said


@pytest.mark.usefixtures("hurried")
def test_one_shard_that_fails_ends_the_reading_of_the_others(hub: Hub) -> None:
    hub.repositories["org/tiny"] = files = checkpoint_files(shards=3)
    hub.odd["/files/@org/tiny@model-00002"] = lambda handler: handler.refuse(500)
    hub.odd["/files/@org/tiny@model-00003"] = lambda handler: time.sleep(1)
    assert "status 500" in problem("org/tiny")
    assert len(files) == 5


def test_an_index_that_names_a_file_elsewhere_is_refused(hub: Hub) -> None:
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    hub.repositories["org/tiny"]["model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(BadFile, match="which is no safetensors file beside it"):
        read("org/tiny")


def test_an_adapter_is_no_model(hub: Hub) -> None:
    hub.repositories["org/lora"] = {
        "adapter_config.json": b'{"peft_type": "LORA"}',
        "adapter_model.safetensors": b"",
    }
    with pytest.raises(NotSupported, match="is a LORA adapter"):
        read("org/lora")
