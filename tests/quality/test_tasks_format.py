"""Task files are checked key by key, and answers are found in what models really write."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from weigh.errors import BadFile, BadInput, UnknownName
from weigh.quality.tasks import extract
from weigh.quality.tasks.judge import compare, judge
from weigh.quality.tasks.prompts import chat_prompt, completed_part, gap_is_filled
from weigh.quality.tasks.task import Expected, Kind, Task, load_task, load_tasks

STRUCTURED = """
id = "review/one"
need = "review"
difficulty = 2
language = ""
kind = "structured"
prompt = "Which? Last line: ANSWER: <letter>"
answer = "B"
[[right_answers]]
text = "ANSWER: B"
[[wrong_answers]]
text = "ANSWER: A"
why = "the first"
"""
CODE = """
id = "debugging/one"
need = "debugging"
difficulty = 1
language = "python"
kind = "code"
prompt = "Mend it."
file = "answer.py"
tests = '''
def test_a():
    pass
'''
[[right_answers]]
text = "x"
[[wrong_answers]]
text = "y"
why = "z"
"""


def written(folder: Path, text: str, place: str = "review/one") -> Path:
    path = folder / f"{place}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_task_is_read(tmp_path: Path):
    task = load_task(written(tmp_path, STRUCTURED))
    assert (task.id, task.kind, task.difficulty) == ("review/one", Kind.STRUCTURED, 2)
    assert task.expected == Expected(texts=("B",))
    assert task.wrong_answers[0].why == "the first"
    assert load_task(written(tmp_path, CODE, "debugging/one")).tests.startswith("def test_a")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('id = "review/one"', 'id = "review/two"', "`id` is not `review/one`"),
        ('need = "review"', 'need = "reading"', "`need` is not its folder's name"),
        ("difficulty = 2", "difficulty = 6", "`difficulty` is not a whole number from 1 to 5"),
        ("difficulty = 2", "difficulty = true", "`difficulty` is not a whole number"),
        ('kind = "structured"', 'kind = "free"', "`kind` is `free`"),
        ('answer = "B"', "", "needs exactly one of `answer`"),
        ('answer = "B"', 'answer = "B"\nnumber = 1', "needs exactly one of `answer`"),
        ('answer = "B"', "number = nan", "`number` is not a finite number"),
        ('answer = "B"', 'answers = ["B", 1]', "`answers` is not a list of texts"),
        ('answer = "B"', "keys = {a = [1]}", "`keys.a` is not a text"),
        ('answer = "B"', 'answer = "B"\nanswr = 1', "unknown key `answr`"),
        ('answer = "B"', 'answer = "B"\ntests = "x"', "unknown key `tests`"),
        ("[[right_answers]]\n", "[[wright_answers]]\n", "needs at least one [[right_answers]]"),
        ('why = "the first"', "", "a wrong answer does not say `why`"),
        ('text = "ANSWER: B"', "text = 5", "a right answer has no `text`"),
        ('prompt = "Which?', 'prompt = "  "\n# "', "`prompt` is empty"),
        ('answer = "B"', "answer = ", "is not TOML"),
    ],
)
def test_what_a_file_gets_wrong_is_named(tmp_path: Path, old: str, new: str, problem: str):
    assert old in STRUCTURED
    path = written(tmp_path, STRUCTURED.replace(old, new))
    with pytest.raises(BadFile) as caught:
        load_task(path)
    assert problem in caught.value.message
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"answer.py"', '"../answer.py"', "is not a plain file name"),
        ('"answer.py"', '"/etc/passwd"', "is not a plain file name"),
        ("def test_a():", "def a():", "`tests` holds no function `test_…`"),
        ("def test_a():", "def test_a(:", "`tests` is not Python"),
        (
            'kind = "code"',
            'kind = "code"\nsupport = {"a/b" = "x"}',
            "`support`: `a/b` is not a plain file name",
        ),
        ('kind = "code"', 'kind = "code"\nanswer = "B"', "unknown key `answer`"),
    ],
)
def test_what_a_code_task_gets_wrong_is_named(tmp_path: Path, old: str, new: str, problem: str):
    assert old in CODE
    with pytest.raises(BadFile) as caught:
        load_task(written(tmp_path, CODE.replace(old, new), "debugging/one"))
    assert problem in caught.value.message


def test_files_that_are_no_tasks(tmp_path: Path):
    path = written(tmp_path, STRUCTURED)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadFile, match="is not UTF-8 text"):
        load_task(path)
    path.write_text("#" * (300 << 10))
    with pytest.raises(BadFile, match="is larger than a task may be"):
        load_task(path)
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(BadFile, match=r"nested too deeply|is not TOML"):
        load_task(path)
    with pytest.raises(BadFile, match="cannot be read"):
        load_task(tmp_path / "review" / "none.toml")
    with pytest.raises(BadInput, match="holds no tasks"):
        load_tasks(tmp_path / "nothing")


def test_tasks_are_chosen_by_need_or_name(tmp_path: Path):
    written(tmp_path, STRUCTURED)
    written(tmp_path, CODE, "debugging/one")
    assert [task.id for task in load_tasks(tmp_path)] == ["debugging/one", "review/one"]
    assert [task.id for task in load_tasks(tmp_path, ["review"])] == ["review/one"]
    assert [task.id for task in load_tasks(tmp_path, ["debugging/one"])] == ["debugging/one"]
    with pytest.raises(UnknownName, match="did you mean `review`"):
        load_tasks(tmp_path, ["reviw"])
    with pytest.raises(BadInput, match="holds no task of translation"):
        load_tasks(tmp_path, ["translation"])


# --- what models write ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```py\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("1. So\n   ```python\n   x = 1\n   ```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),  # cut
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("```python\nx = 1\ny = 2\n```\nUse:\n```python\nx\n```", "x = 1\ny = 2\n"),
        ("```bash\npip install everything at once\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("<think>```python\nwrong = 1\nwrong = 2\n```</think>```python\nx = 1\n```", "x = 1\n"),
        ("thinking ```python\nwrong = 123\n```\n</think>\n```python\nx = 1\n```", "x = 1\n"),
        ("x = 1\n", "x = 1\n"),
        ("I cannot do that.", None),
        ("<think>for ever", None),
        ("", None),
        ('````python\ns = """\n```\n"""\n````', 's = """\n```\n"""\n'),
    ],
)
def test_code(reply: str, code: str | None):
    assert extract.code(reply, "python") == code


@pytest.mark.parametrize(
    ("reply", "passes"),
    [
        ("ANSWER: B", True),
        ("So it is.\n**Answer:** b.", True),
        ("**ANSWER: `B`**", True),
        ("Final answer: B", True),
        ("ANSWER: A\nNo, wait.\nANSWER: B", True),
        ("ANSWER: B\nANSWER: C", False),
        ("B", False),
        ("ANSWER: B or C", False),
        ("ANSWER:", False),
        ("<think>ANSWER: B</think>", False),
    ],
)
def test_answer_line(reply: str, passes: bool):
    assert compare(Expected(texts=("B",)), reply).passed is passes


@pytest.mark.parametrize(
    ("reply", "passes"),
    [
        ("ANSWER: 1,250", True),
        ("ANSWER: 1250.004 KiB", True),
        ("ANSWER: **1 250**", True),
        ("ANSWER: 1.25e3", True),
        ("ANSWER: 1250.02", False),
        ("ANSWER: about that", False),
        ("ANSWER: -1250", False),
    ],
)
def test_number(reply: str, passes: bool):
    assert compare(Expected(number=1250.0, tolerance=0.01), reply).passed is passes


def test_keys():
    expected = Expected(keys={"line": "14", "kind": "off-by-one"})
    assert compare(expected, '```json\n{"line": 14, "kind": "Off-by-one", "more": []}\n```').passed
    assert compare(expected, 'First {"line": 1}, then {"line": "14", "kind": "off-by-one"}').passed
    assert "`line` is `13`" in compare(expected, '{"line": 13, "kind": "off-by-one"}').why
    assert "has no `kind`" in compare(expected, '{"line": 14}').why
    assert "no JSON object" in compare(expected, "line 14").why
    assert not compare(expected, "{" * 100_000).passed


def test_lines():
    expected = Expected(lines=("a", "b"))
    for reply in ('["a", "b"]', "ANSWER: a, b", "ANSWER:\n- a\n- b", "ANSWER:\n1. `a`\n2. `b`\n"):
        assert compare(expected, reply).passed, reply
    assert not compare(expected, "ANSWER: b, a").passed
    assert compare(Expected(lines=("a", "b"), ordered=False), "ANSWER: b, a").passed
    assert "no list" in compare(expected, "a and b").why


@pytest.mark.parametrize("written", ["\n" * 200_000, "-\n" * 100_000, "```" + "a" * 199_997, "`" * 200_000])
def test_what_repeats_for_ever_is_looked_through_once(written: str):
    """Were the time to grow with the length's square, this would take the better part of an hour."""
    assert extract.answer_line(written) is None
    assert extract.entries(written) is None
    assert extract.code_blocks(written) == []


def test_a_careless_escape_is_python_all_the_same():
    assert extract.is_python('x = "\\d"')
    assert not extract.is_python("x =")


# --- gaps ----------------------------------------------------------------------------------------------

GAP = Task(
    id="completion/x",
    need="completion",
    difficulty=1,
    language="python",
    kind=Kind.CODE,
    prompt="",
    right_answers=(),
    wrong_answers=(),
    file="answer.py",
    prefix="def f(x):\n    if x:\n",
    suffix="    return None\n",
)


def test_a_gap_has_a_prompt_of_its_own():
    prompt = chat_prompt(GAP)
    assert "    if x:\n<CURSOR>    return None" in prompt
    assert "one python code block" in prompt


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("        return 1\n    return None\n\ndef g", "        return 1\n"),
        ("        return 1\nprint(2)\n", "        return 1\n"),
        ("        y = [\n        ]\n        return y\n", "        y = [\n        ]\n        return y\n"),
        ("        return 1", "        return 1"),
    ],
)
def test_a_base_models_text_ends_with_the_gap(text: str, part: str):
    assert completed_part(GAP, text) == part
    assert gap_is_filled(GAP, text + "\n") is (part != text)


def test_a_gap_within_a_line():
    from dataclasses import replace

    task = replace(GAP, prefix="def f(x):\n    return (", suffix=" + 1)\n")
    assert completed_part(task, "x * 2 + 1)\n\nmore") == "x * 2"
    assert completed_part(task, "x * 2") == "x * 2"


WITHIN_A_LINE = [task for task in load_tasks(wanted=["completion"]) if not task.prefix.endswith("\n")]


@pytest.mark.parametrize("task", WITHIN_A_LINE, ids=lambda task: task.id)
def test_a_chat_may_write_the_whole_line(task: Task):
    begun = task.prefix.rpartition("\n")[2]
    for answer in task.right_answers:
        part = extract.code(answer, task.language)
        assert part is not None
        for reply in (part, begun + part, textwrap.dedent(begun + part), "\n" + begun + part):
            assert extract.without_line_begun(task.prefix, reply, task.suffix) == part.lstrip("\n")


def test_a_chat_may_write_the_whole_line_to_its_end():
    prefix, suffix = "def f(x):\n    return (", " + 1)\n"
    for reply in ("return (x * 2 + 1)\n", "    return (x * 2 + 1)", "x * 2"):
        assert extract.without_line_begun(prefix, reply, suffix) == "x * 2"
    assert extract.without_line_begun("def f(x):\n", "    return x\n", "") == "    return x\n"


@pytest.mark.parametrize("middle", ["        return 1\n", "return 1\n", "return 1", "    return 1\n"])
def test_a_chats_indentation_is_mended(middle: str):
    whole = extract.filled(GAP.prefix, middle, GAP.suffix, python=True)
    assert whole == "def f(x):\n    if x:\n        return 1\n    return None\n"


def test_a_reply_without_code_is_judged_without_running_any():
    task = load_tasks(wanted=["debugging"])[0]
    assert judge(task, "Sorry.").why == "there is no block of code in it"
    assert judge(task, f"```{task.language}\n" + "\0" * 3 + "\n```").passed is False
