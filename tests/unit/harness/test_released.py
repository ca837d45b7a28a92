"""The charm of a former commit: packed once, by that commit's own means."""

from __future__ import annotations

import pathlib
import subprocess

import pytest
from harness import released
from lab import cache

SCRIPT = """\
#!/bin/sh
place=$(dirname "$0")/..
echo again >>"$COUNT"
cp "$place/content" "$place/made.charm"
echo "$place/made.charm"
"""


@pytest.fixture
def checkout(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A repository of two commits, whose cache is empty."""
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    place = tmp_path / "checkout"
    (place / "scripts").mkdir(parents=True)
    (place / "scripts/pack").write_text(SCRIPT)
    (place / "scripts/pack").chmod(0o755)
    git(place, "init", "--quiet")
    for content in ("former", "present"):
        (place / "content").write_text(content)
        git(place, "add", "--all")
        git(place, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", content)
    return place


def git(place: pathlib.Path, *words: str) -> str:
    command = ["git", "-C", str(place), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_is_packed_once_from_that_commit(checkout: pathlib.Path, tmp_path: pathlib.Path):
    commit = git(checkout, "rev-parse", "HEAD~1")
    charms = {released.pack(checkout, commit) for _ in range(2)}
    assert {charm.read_text() for charm in charms} == {"former"}
    assert (tmp_path / "count").read_text() == "again\n"
    assert [each.name for each in charms.pop().parent.iterdir() if each.is_dir()] == []


def test_a_clone_without_the_commit_is_told_what_to_do(checkout: pathlib.Path):
    with pytest.raises(released.ReleaseError) as caught:
        released.pack(checkout, "52ee0af")
    assert str(caught.value).startswith(
        "this clone has no commit 52ee0af, whose charm the tests refresh (fatal: "
    )
    assert str(caught.value).endswith("); get it with git fetch --unshallow")


def test_one_that_cannot_be_packed_leaves_nothing(checkout: pathlib.Path):
    (checkout / "scripts/pack").write_text("#!/bin/sh\nexit 1\n")
    git(checkout, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qam", "broken")
    with pytest.raises(released.ReleaseError, match="scripts/pack of HEAD failed"):
        released.pack(checkout, "HEAD")
    assert list((cache.root() / "released").glob("*.charm")) == []
