"""A hub that lies. What goes wrong below HTTP itself is in `tests/model/test_hub.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.hostile.case import Case
from tests.hostile.checkpoint_cases import TINY
from tests.model.hub_server import COMMIT, Handler, Hub, checkpoint_files, serving

_ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\nsecond line\u202e"


def cases() -> Iterator[Case]:
    """The hub answers for as long as the cases are drawn."""
    with serving({"org/sound": checkpoint_files()}) as hub:
        around = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": "{}/none", "HOME": "{}", "HF_HUB_OFFLINE": "0"}
        yield Case("hub: as usual", lambda folder: "hf:org/sound", shows=TINY, around=around)
        for number, (name, answer, says) in enumerate(_lies()):
            typed = _lying(hub, f"org/lie{number}", answer)
            yield Case(f"hub: {name}", lambda folder, typed=typed: typed, says, around=around)  # type: ignore[misc]


def _lying(hub: Hub, repo: str, answer: Callable[[Handler], None]) -> str:
    hub.odd[f"/api/models/{repo}/"] = answer
    return f"hf:{repo}"


def _lies() -> Iterator[tuple[str, Callable[[Handler], None], str]]:
    def said(value: object) -> Callable[[Handler], None]:
        return lambda handler: handler.send_json(value)

    def listing(*files: object, sha: object = COMMIT) -> Callable[[Handler], None]:
        return said({"sha": sha, "siblings": list(files)})

    nothing = "neither GGUF nor safetensors|holds|lists no files|names no commit"
    yield "no object", said([1]), "object"
    yield "an empty object", said({}), nothing
    yield "siblings is a text", said({"sha": COMMIT, "siblings": "x"}), nothing
    for sha in (5, None, "", "../../x", _ESCAPES, "g" * 40):
        yield f"commit {str(sha)[:8].encode('unicode_escape').decode()}", listing(sha=sha), "no commit"
    for name in (
        "../../x.gguf",
        "/etc/x.gguf",
        "a\\b.gguf",
        _ESCAPES + ".gguf",
        "a//b.gguf",
        "x" * 5000 + ".gguf",
    ):
        shown = name[:12].encode("unicode_escape").decode()
        yield f"a file called {shown}", listing({"rfilename": name, "size": 100}), nothing
    for size in (-1, "100", None, 1.5, 1 << 80, True):
        yield f"a file of {size} bytes", listing({"rfilename": "m.gguf", "size": size}), nothing
    yield "files that are no objects", listing(1, "x", None, [[]]), nothing
    yield "a file that it does not have", listing({"rfilename": "m.gguf", "size": 100}), "not|status"
    yield "a petabyte", listing({"rfilename": "m.gguf", "size": 10**15}), "not|status"
    yield (
        "not JSON",
        lambda handler: handler.endless(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", b"<"),
        "JSON",
    )
    yield "an endless listing", lambda handler: handler.endless(piece=b"[" * 65536), "more than"
    yield "status 418", lambda handler: handler.refuse(418), "418"
    yield "an escape as error code", lambda handler: handler.refuse(404, "\x1b[31m"), "not on the hub"
    yield "a redirect to a file", lambda handler: handler.redirect("file:///etc/passwd"), "nowhere"
    yield "a redirect to itself", lambda handler: handler.redirect(handler.path), "circles"
