"""Names to folders: aliases, local folders, the hub's cache. Nothing here uses the network."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from tokenreduce.errors import ModelError, SettingError, TokenReduceError
from tokenreduce.events import Event, Warned
from tokenreduce.models.aliases import ALIASES, DEFAULT, DEMO
from tokenreduce.models.fetching import weights_folder
from tokenreduce.models.load import load, read_spec
from tokenreduce.models.locate import cached_bytes, resolve

REPO = "lmms-lab/LLaVA-Video-7B-Qwen2"
Usage = namedtuple("Usage", "total used free")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, offline."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def fill(cache: Path, checkpoint: Path) -> Callable[..., Path]:
    """Puts the tiny checkpoint, or some of its files, where a download would have put it."""

    def put(repo: str, *only: str, ref: str = "main") -> Path:
        base = cache / f"models--{repo.replace('/', '--')}"
        snapshot = base / "snapshots" / COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        (base / "refs").mkdir(exist_ok=True)
        (base / "refs" / ref).write_text(COMMIT)
        for path in checkpoint.iterdir():
            if not only or path.name in only:
                shutil.copyfile(path, snapshot / path.name)
        return snapshot

    return put


def said(call: Callable[[], object], kind: type[TokenReduceError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_aliases_stand_for_hub_ids() -> None:
    assert resolve("llava-video-7b").hub_id == REPO
    assert resolve("LLaVA-Video-7B").hub_id == REPO
    assert resolve("llava-video-7b@v1").revision == "v1"
    assert resolve("llava-video-7b@v1").name == f"{REPO}@v1"
    assert DEFAULT in ALIASES
    assert all(name == alias.name == name.lower() for name, alias in ALIASES.items())


def test_the_demo_is_in_the_package() -> None:
    folder = resolve(DEMO).folder
    assert folder is not None
    assert folder.parts[-2:] == ("demo", "checkpoint")


def test_hub_ids_with_revisions() -> None:
    source = resolve("someone/a-model", revision="abc")
    assert (source.hub_id, source.revision, source.folder) == ("someone/a-model", "abc", None)
    assert resolve("someone/a-model@abc") == source
    assert resolve("someone/a-model@abc", revision="abc") == source


def test_a_local_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("someone/a-model").folder is None
    (tmp_path / "someone" / "a-model").mkdir(parents=True)
    assert resolve("someone/a-model").folder == Path("someone/a-model")


@pytest.mark.parametrize("name", ["./x", "/x/y", "~/x", "a/b/c", "..", "x/"])
def test_what_looks_like_a_path_is_one(name: str) -> None:
    assert resolve(name).folder is not None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("llava-video-7", "did you mean llava-video-7b"),
        ("llava_video_72b", "llava-video-72b"),
        ("dem", "did you mean demo?"),
        ("demo@main", "did you mean demo?"),
        ("zzzz", "aliases: demo, llava-video-7b"),
        ("", "aliases: demo"),
        ("  ", "aliases: demo"),
        ("a\0b", "aliases: demo"),
        ("a/b--c..d", "a hub id (owner/name) works too"),
        ("x" * 5000, "aliases: demo"),
    ],
)
def test_unknown_names(name: str, hint: str) -> None:
    line = said(lambda: read_spec(name), SettingError)
    assert hint in line
    assert "no model is called" in line


def test_two_revisions_and_revisions_of_folders(checkpoint: Path) -> None:
    assert "two revisions" in said(lambda: resolve("a/b@x", revision="y"), SettingError)
    for name in (str(checkpoint), DEMO):
        assert "no revisions" in said(lambda n=name: resolve(n, revision="y"), SettingError)  # type: ignore[misc]  # a lambda's default has no type


@pytest.mark.parametrize("call", [read_spec, load])
def test_offline_and_not_cached(call: Callable[[str], object], cache: Path) -> None:
    line = said(lambda: call("llava-video-7b"), ModelError)
    assert str(cache) in line
    assert "offline mode is set" in line


def test_the_configuration_alone_gives_the_spec(fill: Callable[..., Path]) -> None:
    fill(REPO, "config.json")
    spec = read_spec("llava-video-7b")
    assert spec.name == REPO
    assert spec.vision.image_size == 98
    line = said(lambda: load("llava-video-7b", device="cpu"), ModelError)
    assert "not wholly, in" in line


def test_what_the_cache_holds_is_loaded_without_the_network(
    fill: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill("someone/tiny", ref="v2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", forbidden)
    model = load("someone/tiny", revision="v2", device="cpu")
    assert model.spec.name == "someone/tiny@v2"
    assert model.quantize == "none"


def forbidden(*args: Any, **kwargs: Any) -> str:
    raise AssertionError("the network was asked")


def test_a_download_takes_neither_pickles_nor_code(
    fill: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(REPO, "config.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked: list[dict[str, Any]] = []
    # The hub does not say its size: the alias does.
    there = SimpleNamespace(
        filename="model.safetensors", file_size=None, commit_hash=COMMIT, will_download=True
    )

    def download(repo: str, **options: Any) -> Any:
        asked.append({"repo": repo, **options})
        return [there] if options.get("dry_run") else str(fill(REPO))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: "")
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 17 * 10**9))
    events: list[Event] = []
    load("llava-video-7b", device="cpu", on_event=events.append)
    assert {one["repo"] for one in asked} == {REPO}
    for one in asked:
        assert set(one["allow_patterns"]) == {"*.json", "*.safetensors", "merges.txt"}
        assert one["ignore_patterns"] == ["*/*"]
    assert events[0] == Warned(f"{REPO} is not in the cache: downloading it, 16.0 GB")


def test_settings_are_checked_before_a_download(
    fill: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(REPO, "config.json")
    monkeypatch.setattr("huggingface_hub.snapshot_download", forbidden)
    assert "'int9'" in said(lambda: load("llava-video-7b", quantize="int9"), SettingError)
    assert "'tpu'" in said(lambda: load("llava-video-7b", device="tpu"), SettingError)
    assert "'int8'" in said(
        lambda: load("llava-video-7b", device="cpu", dtype="int8"), SettingError
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (RuntimeError("transfer broke\nat line 2"), "transfer broke"),
        (LocalEntryNotFoundError("nothing here"), "the hub cannot be reached"),
    ],
)
def test_downloads_that_fail(
    monkeypatch: pytest.MonkeyPatch, cache: Path, error: Exception, reason: str
) -> None:
    def download(repo: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    line = said(lambda: read_spec("someone/tiny"), ModelError)
    assert reason in line
    assert str(cache) in line


def test_a_shard_that_never_came(
    fill: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = fill("someone/tiny")
    (snapshot / "model.safetensors").unlink()
    index = {"weight_map": {"a": "a-1.safetensors", "b": "a-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    there: Any = SimpleNamespace(filename="a-1.safetensors", file_size=1, will_download=False)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda _, dry_run=False, **__: [there] if dry_run else str(snapshot),
    )
    line = said(lambda: weights_folder(resolve("someone/tiny")), ModelError)
    assert "a-1.safetensors, a-2.safetensors missing" in line


def test_what_is_here_is_listed(fill: Callable[..., Path]) -> None:
    fill("llava-hf/llava-onevision-qwen2-7b-ov-hf", "config.json")
    snapshot = fill(REPO)
    listed = {name: cached_bytes(resolve(name)) for name in ALIASES}
    assert listed["llava-video-7b"] == (snapshot / "model.safetensors").stat().st_size
    assert listed["llava-video-72b"] is None
    assert listed["llava-onevision-7b"] is None  # the weights are missing


def test_names_and_specs_need_no_torch(checkpoint: Path) -> None:
    code = (
        "import sys; from tokenreduce.models.locate import read_spec; "
        "from tokenreduce.models.locate import cached_bytes, resolve; "
        f"read_spec({str(checkpoint)!r}); cached_bytes(resolve('llava-video-7b')); "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
