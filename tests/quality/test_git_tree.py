from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.quality.repositories import Repository, program
from weigh.quality import git_tree
from weigh.quality.git_tree import GitFailed, GitTree


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def test_contents_are_those_of_the_last_commit(repository: Repository) -> None:
    repository.commit({"a.py": "first\n"})
    repository.commit({"a.py": "second\n", "b/c.py": "other\n"})
    (repository.folder / "a.py").write_text("not committed\n")
    tree = GitTree(repository.folder)
    files = tree.files()
    assert [file.path for file in files] == ["a.py", "b/c.py"]
    assert list(tree.contents(files)) == [b"second\n", b"other\n"]
    assert tree.commit == repository.git("rev-parse", "HEAD").decode().strip()


def test_a_folder_within_has_its_own_paths_and_files_alone(repository: Repository) -> None:
    repository.commit({"a.py": "a", "b/c.py": "c"})
    tree = GitTree(repository.folder / "b")
    assert [file.path for file in tree.files()] == ["c.py"]
    assert list(tree.changed_unix_s()) == ["c.py"]


def test_a_file_that_moved_keeps_the_time_it_was_written(repository: Repository) -> None:
    written = repository.commit({"old.py": program("moved"), "other.py": program("other")})
    (repository.folder / "old.py").rename(repository.folder / "new.py")
    repository.commit_all()
    changed = repository.commit({"other.py": program("changed")})
    times = GitTree(repository.folder).changed_unix_s()
    assert times["new.py"] == written
    assert times["other.py"] == changed


def test_a_commit_that_changes_very_many_files_makes_none_of_them_new(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_tree, "MOST_TOUCHED", 3)
    written = repository.commit({"a.py": "a", "b.py": "b"})
    repository.commit({"c.py": "c", "d.py": "d"})
    reformatted = repository.commit({name: f"{name} again" for name in ("a.py", "b.py", "c.py", "e.py")})
    times = GitTree(repository.folder).changed_unix_s()
    assert times["a.py"] == times["b.py"] == written
    assert times["e.py"] == reformatted  # added by it


def test_attributes_mark_what_is_generated_or_vendored(repository: Repository) -> None:
    attributes = "made/* linguist-generated\nlib/* linguist-vendored=true\nmade/own.py -linguist-generated\n"
    names = ["made/a.py", "made/own.py", "lib/b.py", "c.py"]
    repository.commit({".gitattributes": attributes} | dict.fromkeys(names, "x"))
    assert GitTree(repository.folder).marked(names) == {"made/a.py", "lib/b.py"}


def test_names_of_any_bytes_are_read(repository: Repository) -> None:
    names = [
        b"--help.py",
        b"a\nb.py",
        b'"quoted\\".py',
        b"\x01123.py",
        b"caf\xe9.py",
        b"$(touch x).py",
        b" .py",
    ]
    for number, name in enumerate(names):
        Path(os.fsdecode(bytes(repository.folder) + b"/" + name)).write_text(f"{number}")
    when = repository.commit_all()
    tree = GitTree(repository.folder)
    files = {os.fsencode(file.path): file for file in tree.files()}
    assert files.keys() == set(names)
    assert list(tree.contents(files[name] for name in names)) == [b"%d" % n for n in range(len(names))]
    assert tree.changed_unix_s() == {os.fsdecode(name): when for name in names}


def test_a_commit_whose_time_is_unreadable_is_old(repository: Repository) -> None:
    written = repository.commit({"a.py": "a"})
    (repository.folder / "b.py").write_text("b")
    repository.git("add", "b.py")
    tree, parent = repository.git("write-tree").decode().strip(), repository.git("rev-parse", "HEAD").decode()
    text = f"tree {tree}\nparent {parent.strip()}\nauthor x <x@x> soon\ncommitter x <x@x> 1 +0000\n\nx\n"
    hash_object = ("hash-object", "-t", "commit", "-w", "--stdin", "--literally")
    repository.git("update-ref", "HEAD", repository.git(*hash_object, given=text.encode()).decode().strip())
    assert GitTree(repository.folder).changed_unix_s() == {"a.py": written, "b.py": 0}


def test_links_and_submodules_have_no_content(repository: Repository) -> None:
    repository.commit({"a.py": "a"})
    (repository.folder / "link.py").symlink_to("/etc/passwd")
    head = repository.git("rev-parse", "HEAD").decode().strip()
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{head},module")
    repository.git("add", "link.py")
    repository.git("commit", "--quiet", "--message=x")
    found = {file.path: file for file in GitTree(repository.folder).files()}
    assert (found["link.py"].kind, found["module"].kind) == ("link", "submodule")
    assert found["link.py"].object_id == found["module"].object_id == ""


def test_no_repository_and_none_with_a_commit(tmp_path: Path, repository: Repository) -> None:
    with pytest.raises(GitFailed, match="not a git repository"):
        GitTree(tmp_path)
    with pytest.raises(GitFailed, match="no git repository with a commit"):
        GitTree(repository.folder)


def test_without_git(repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    repository.commit({"a.py": "a"})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitFailed, match="cannot be run"):
        GitTree(repository.folder)


def test_a_missing_object_is_told(repository: Repository) -> None:
    repository.commit({"a.py": "a"})
    tree = GitTree(repository.folder)
    (blob,) = tree.files()
    (repository.folder / ".git/objects" / blob.object_id[:2] / blob.object_id[2:]).unlink()
    with pytest.raises(GitFailed, match=r"no content of 'a\.py'"):
        list(tree.contents([blob]))
    with pytest.raises(GitFailed, match=r"no content of 'a\.py'"):
        tree.files()


def _armed(repository: Repository, canary: Path) -> None:
    """Everything in a repository's own hands that names a program names one that leaves a mark."""
    trap = repository.folder / ".git/trap"
    trap.write_text(f'#!/bin/sh\necho "$0 $@" >> "{canary}"\n')
    trap.chmod(0o755)
    for hook in ("post-index-change", "post-checkout", "pre-auto-gc", "reference-transaction"):
        (repository.folder / ".git/hooks" / hook).write_text(trap.read_text())
        (repository.folder / ".git/hooks" / hook).chmod(0o755)
    settings = {
        "core.fsmonitor": trap,
        "core.pager": trap,
        "core.editor": trap,
        "core.sshCommand": trap,
        "core.askPass": trap,
        "core.gitProxy": trap,
        "pager.log": trap,
        "diff.external": trap,
        "diff.trap.textconv": trap,
        "diff.trap.command": trap,
        "filter.trap.clean": trap,
        "filter.trap.smudge": trap,
        "filter.trap.process": trap,
        "log.showSignature": "true",
        "gpg.program": trap,
        "interactive.diffFilter": trap,
        "alias.ls-tree": f"!{trap}",
        "credential.helper": f"!{trap}",
        "remote.far.url": f"ext::{trap}",
        "remote.far.promisor": "true",
        "remote.far.partialCloneFilter": "blob:none",
        "extensions.partialClone": "far",
        "protocol.ext.allow": "always",
        "core.repositoryFormatVersion": "1",
    }
    for name, value in settings.items():
        repository.git("config", name, str(value))


def _signed_commit(repository: Repository) -> None:
    """A commit that claims a signature, for the checker to be called on."""
    tree = repository.git("write-tree").decode().strip()
    parent = repository.git("rev-parse", "HEAD").decode().strip()
    who = "x <x@x> 1700000000 +0000"
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n aaaa\n -----END PGP SIGNATURE-----"
    text = f"tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n{signature}\n\nx\n"
    commit = (
        repository.git("hash-object", "-t", "commit", "-w", "--stdin", given=text.encode()).decode().strip()
    )
    repository.git("update-ref", "refs/heads/main", commit)


def test_nothing_the_repository_names_is_run(repository: Repository, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    repository.commit({"a.py": "a", ".gitattributes": "*.py filter=trap diff=trap linguist-generated\n"})
    _signed_commit(repository)
    _armed(repository, canary)

    tree = GitTree(repository.folder)
    files = tree.files()
    tree.changed_unix_s()
    assert tree.marked(["a.py"]) == {"a.py"}
    python = next(file for file in files if file.path == "a.py")
    assert list(tree.contents([python])) == [b"a"]
    (repository.folder / ".git/objects" / python.object_id[:2] / python.object_id[2:]).unlink()
    with pytest.raises(GitFailed):  # and what is missing is not fetched
        list(tree.contents([python]))
    assert not canary.exists()


@pytest.mark.parametrize(
    "arguments",
    [("log", "-1"), ("status",), ("cat-file", "-p", "HEAD:a.py")],
    ids=["signature", "monitor", "fetch"],
)
def test_git_by_itself_would_run_them(
    repository: Repository, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    canary = tmp_path / "canary"
    repository.commit({"a.py": "a"})
    blob = repository.git("rev-parse", "HEAD:a.py").decode().strip()
    _signed_commit(repository)
    _armed(repository, canary)
    (repository.folder / ".git/objects" / blob[:2] / blob[2:]).unlink()
    subprocess.run(["git", "-C", repository.folder, *arguments], capture_output=True, check=False)
    assert canary.exists()
