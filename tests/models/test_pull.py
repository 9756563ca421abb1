"""Pulling a model: what is refused before a byte comes, what stays, and what is found afterwards.

The hub is a local folder and three functions in the place of its client's. No network.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import DryRunError, GatedRepoError, RepositoryNotFoundError

from tokenreduce.errors import ModelError, SettingError, TokenReduceError
from tokenreduce.events import Advanced, Event, Finished, Started, Warned
from tokenreduce.models import disks, packing, saved
from tokenreduce.models.load import check, load, read_spec
from tokenreduce.models.locate import complete_here, resolve, saved_folder
from tokenreduce.models.pull import Pulled, pull

REPO = "someone/tiny"
Usage = namedtuple("Usage", "total used free")


@dataclass
class Listed:
    """As huggingface_hub.DryRunFileInfo."""

    filename: str
    file_size: int | None
    commit_hash: str
    will_download: bool


@dataclass
class Hub:
    """A repository, and the client's functions for it. fetched: files that went over the wire."""

    files: Path
    cache: Path
    commit: str = "a" * 40
    sized: bool = True
    fetched: list[str] = field(default_factory=list)
    fails_at: dict[str, BaseException] = field(default_factory=dict)
    gone: Exception | None = None

    @property
    def base(self) -> Path:
        return self.cache / f"models--{REPO.replace('/', '--')}"

    def names(self) -> list[str]:
        return sorted(path.name for path in self.files.iterdir() if path.is_file())

    def snapshot_download(
        self,
        repo: str,
        *,
        revision: str | None,
        allow_patterns: list[str],
        local_dir: Path | None = None,
        dry_run: bool = False,
        **_: Any,
    ) -> Any:
        if self.gone is not None:
            raise self.gone
        where = local_dir or self.base / "snapshots" / self.commit
        names = [n for n in self.names() if any(fnmatch(n, kind) for kind in allow_patterns)]
        if dry_run:
            return [
                Listed(
                    name,
                    (self.files / name).stat().st_size if self.sized else None,
                    self.commit,
                    not (where / name).exists(),
                )
                for name in names
            ]
        for name in names:
            self.hf_hub_download(repo, name, revision=self.commit, local_dir=local_dir)
        if local_dir is None:
            ref = self.base / "refs" / (revision or "main")
            ref.parent.mkdir(exist_ok=True)
            ref.write_text(self.commit)
        return str(where)

    def hf_hub_download(
        self, repo: str, name: str, *, revision: str, local_dir: Path | None = None
    ) -> str:
        assert (repo, revision) == (REPO, self.commit)
        where = local_dir or self.base / "snapshots" / self.commit
        if (where / name).exists():
            return str(where / name)
        if name in self.fails_at:
            raise self.fails_at[name]
        where.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.files / name, where / name)
        self.fetched.append(name)
        return str(where / name)


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """With an empty cache, and an empty place for quantised models."""
    cache = tmp_path / "hub"
    cache.mkdir()
    made = Hub(checkpoint, cache)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.snapshot_download)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", made.hf_hub_download)
    monkeypatch.setenv(saved.FOLDER_VARIABLE, str(tmp_path / "quantised"))
    return made


def said(call: Callable[[], object], kind: type[TokenReduceError] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_all_of_it_comes_and_is_then_found_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []
    got = pull(REPO, tell=lambda *what: told.append(what))
    weights = (hub.files / "model.safetensors").stat().st_size
    place = hub.base / "snapshots" / hub.commit
    assert got == Pulled(REPO, place, weights, None, new=True)
    total = sum(path.stat().st_size for path in hub.files.iterdir())
    assert told[-1] == ("download", total, total)
    assert sorted(hub.fetched) == hub.names()  # each once
    hub.gone = AssertionError("the network was asked")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load(REPO, device="cpu", offline=True).spec.name == REPO
    assert pull(REPO).new is False


def test_a_second_pull_fetches_nothing(hub: Hub) -> None:
    pull(REPO)
    hub.fetched.clear()
    assert pull(REPO).new is False
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (ConnectionError("reset by peer"), ModelError)],
)
def test_what_came_before_an_end_stays(
    hub: Hub, error: BaseException, kind: type[BaseException]
) -> None:
    """The weights, being the largest, come last."""
    hub.fails_at["model.safetensors"] = error
    with pytest.raises(kind):
        pull(REPO)
    rest = [name for name in hub.names() if name != "model.safetensors"]
    assert sorted(hub.fetched) == rest
    hub.fails_at.clear()
    hub.fetched.clear()
    assert pull(REPO).new is True
    assert hub.fetched == ["model.safetensors"]


def test_a_folder_of_ones_own(hub: Hub, tmp_path: Path) -> None:
    to = tmp_path / "own"
    assert pull(REPO, to=to).folder == to
    assert load(str(to), device="cpu").quantize == "none"


def test_the_quantised_model_is_found_by_its_id(hub: Hub) -> None:
    told: list[tuple[str, int, int]] = []
    got = pull(REPO, nf4=True, tell=lambda *what: told.append(what))
    assert (got.quantize, got.new) == ("nf4", True)
    assert got.folder == saved.place_of(REPO, hub.commit)
    assert told[-1][0] == "quantise"
    assert saved_folder(resolve(REPO)) == got.folder
    model = load(REPO, device="cpu", quantize="nf4")
    assert (model.quantize, model.spec.name) == ("nf4", REPO)
    assert load(REPO, device="cpu").quantize == "none"
    assert pull(REPO, nf4=True).new is False


def test_it_is_enough_without_the_original(hub: Hub) -> None:
    pull(REPO, nf4=True)
    shutil.rmtree(hub.base)
    hub.gone = AssertionError("the network was asked")
    assert read_spec(REPO, offline=True).name == REPO
    check(REPO)
    assert load(REPO, device="cpu", quantize="nf4", offline=True).quantize == "nf4"
    # But of the original nothing is here, and offline it cannot be had.
    line = said(lambda: load(REPO, device="cpu", quantize="none", offline=True))
    assert f"run `tokenreduce models pull {REPO}` while online" in line


def test_another_revision_is_not_taken_for_it(hub: Hub) -> None:
    old = pull(REPO, nf4=True).folder
    hub.commit = "b" * 40
    pull(REPO)
    assert saved_folder(resolve(REPO)) is None
    assert complete_here(resolve(REPO), quantised=True) == hub.base / "snapshots" / hub.commit
    assert saved_folder(resolve(REPO, "a" * 40)) == old
    new = pull(REPO, nf4=True).folder
    assert saved_folder(resolve(REPO)) == new != old


def test_a_folder_is_quantised_only_into_one_that_is_named(
    checkpoint: Path, tmp_path: Path, hub: Hub
) -> None:
    for name in (str(checkpoint), "demo"):
        assert "there is nothing to pull" in said(lambda n=name: pull(n), SettingError)  # type: ignore[misc]  # a lambda's default has no type
        assert "--to DIR" in said(lambda n=name: pull(n, nf4=True), SettingError)  # type: ignore[misc]
    to = tmp_path / "deep" / "own"
    assert pull(str(checkpoint), nf4=True, to=to).folder == to
    assert load(str(to), device="cpu").quantize == "nf4"
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").touch()
    assert "is not empty" in said(lambda: pull(str(checkpoint), nf4=True, to=full), SettingError)
    assert "is quantised already" in said(
        lambda: pull(str(to), nf4=True, to=tmp_path / "again"), SettingError
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert pull(str(checkpoint), nf4=True, to=empty).folder == empty


def test_a_folder_that_is_finished_is_here_already(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "own"
    first = pull(REPO, nf4=True, to=to)
    hub.fetched.clear()
    again = pull(REPO, nf4=True, to=to)
    assert (again.new, again.folder, again.size_bytes) == (False, to, first.size_bytes)
    # The original is not fetched again for it, nor is the hub needed.
    shutil.rmtree(hub.base)
    assert pull(REPO, nf4=True, to=to).new is False
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert pull(REPO, nf4=True, to=to).new is False
        other = said(lambda: pull(f"{REPO}@v2", nf4=True, to=to), SettingError)
    assert f"holds {REPO}, and not, or not wholly, what {REPO}@v2 is now" in other
    assert hub.fetched == []
    hub.commit = "b" * 40  # a newer one than was saved
    newer = said(lambda: pull(REPO, nf4=True, to=to), SettingError)
    assert "give a folder that does not exist yet" in newer
    assert hub.fetched == []


def test_a_folder_that_only_looks_finished_is_not_here_already(
    hub: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    mine, to = tmp_path / "mine", tmp_path / "own"
    shutil.copytree(checkpoint, mine)
    assert pull(str(mine), nf4=True, to=to).new is True
    for spelt in (mine, f"{mine}/", tmp_path / "own" / ".." / "mine"):
        assert pull(str(spelt), nf4=True, to=to).new is False
    for name in (REPO, "demo"):
        assert f"holds {mine}, and not" in said(
            lambda n=name: pull(n, nf4=True, to=to),  # type: ignore[misc]  # a lambda's default has no type
            SettingError,
        )
    os.utime(mine / "model.safetensors", (2e9, 2e9))  # written anew after it was saved
    assert f"what {mine} is now" in said(lambda: pull(str(mine), nf4=True, to=to), SettingError)
    os.utime(mine / "model.safetensors", (1e9, 1e9))
    assert pull(str(mine), nf4=True, to=to).new is False
    config = mine / "config.json"
    changed = json.loads(config.read_text()) | {"rms_norm_eps": 0.5}
    config.write_text(json.dumps(changed))
    os.utime(config, (1e9, 1e9))  # another one of that name
    assert f"what {mine} is now" in said(lambda: pull(str(mine), nf4=True, to=to), SettingError)
    shutil.copyfile(checkpoint / "config.json", config)
    os.utime(config, (1e9, 1e9))
    (to / "model.safetensors").unlink()
    assert "not wholly" in said(lambda: pull(str(mine), nf4=True, to=to), SettingError)


def test_names_that_stand_for_nothing(hub: Hub, tmp_path: Path) -> None:
    assert "did you mean llava-video-7b" in said(lambda: pull("llava-video-7"), SettingError)
    assert "no such folder" in said(lambda: pull("/no/where", nf4=True, to=tmp_path / "x"))
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in said(lambda: pull(REPO, to=file), SettingError)
    assert hub.fetched == []


def test_without_bitsandbytes_nothing_is_downloaded(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "find_spec", lambda _: None)
    assert "bitsandbytes is not installed" in said(lambda: pull(REPO, nf4=True), SettingError)
    assert hub.fetched == []


def test_a_model_that_is_not_supported_is_refused_by_its_configuration(
    hub: Hub, tmp_path: Path
) -> None:
    hub.files = Path(shutil.copytree(hub.files, tmp_path / "other"))
    (hub.files / "config.json").write_text('{"model_type": "bert"}')
    assert "supported:" in said(lambda: pull(REPO))
    assert "model.safetensors" not in hub.fetched


def test_a_repository_without_safetensors(hub: Hub, tmp_path: Path) -> None:
    hub.files = Path(shutil.copytree(hub.files, tmp_path / "other"))
    (hub.files / "model.safetensors").unlink()
    assert "holds no safetensors" in said(lambda: pull(REPO))


@pytest.mark.parametrize("nf4", [False, True])
def test_a_disk_without_room(hub: Hub, monkeypatch: pytest.MonkeyPatch, nf4: bool) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 10**9, 3 * 10**8))
    monkeypatch.setattr(disks, "_SPARE_BYTES", 4 * 10**8)
    line = said(lambda: pull(REPO, nf4=nf4))
    assert "GB are free; make room, or choose another disk: HF_HUB_CACHE" in line
    assert "where 0.3 GB" in line
    assert "model.safetensors" not in hub.fetched


def test_room_is_counted_together_for_one_disk(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    part = free * 2 // 3
    disks.check_disks("x", [(tmp_path / "not" / "yet", part)])
    line = said(lambda: disks.check_disks("x", [(tmp_path / "a", part), (tmp_path / "b", part)]))
    assert f"x: needs {2 * part / 1e9:.1f} GB in {tmp_path}" in line


def test_a_place_that_may_not_be_written(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != hub.base)
    assert f"{hub.base} may not be written" in said(lambda: pull(REPO))
    assert "model.safetensors" not in hub.fetched


def test_what_the_hub_does_not_say_the_alias_does(hub: Hub, tmp_path: Path) -> None:
    from tokenreduce.models.fetching import size_of

    listing: Any = [Listed("a.safetensors", None, hub.commit, True)]
    assert size_of(resolve("llava-video-7b"), listing, listing) == 16_000_000_000
    assert size_of(resolve(REPO), listing, listing) == 0
    hub.sized = False
    assert pull(REPO).new


def answered(error: Exception | None) -> DryRunError:
    """As the client raises it when it cannot list a repository."""
    made = DryRunError("Dry run cannot be performed")
    made.__cause__ = error
    return made


def refused(kind: Any) -> Exception:
    import httpx2

    request = httpx2.Request("GET", "https://localhost/x")
    made: Exception = kind("no", response=httpx2.Response(403, request=request))
    return made


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (lambda: ConnectionError("no route"), "the hub cannot be reached"),
        (lambda: refused(GatedRepoError), "gated; accept its terms on the hub and log in"),
        (lambda: refused(RepositoryNotFoundError), "no such repository on the hub"),
    ],
)
def test_a_hub_that_gives_no_list(hub: Hub, cause: Callable[[], Exception], says: str) -> None:
    hub.gone = answered(cause())
    assert says in said(lambda: pull(REPO))
    # What is here whole is enough, though.
    hub.gone = None
    pull(REPO)
    hub.gone = answered(cause())
    assert pull(REPO).new is False


def test_offline_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in said(lambda: pull(REPO))


def test_offline_as_an_option(hub: Hub) -> None:
    hub.gone = AssertionError("the network was asked")
    for call in (read_spec, load):
        line = said(lambda c=call: c(REPO, offline=True))  # type: ignore[misc]  # a lambda's default has no type
        assert f"offline mode is set; run `tokenreduce models pull {REPO}`" in line
    hub.gone = None
    assert load(REPO, device="cpu").spec.name == REPO


def test_asking_downloads_as_pulling_does(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """File by file, told of, and not onto a disk without room."""
    events: list[Event] = []
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: Usage(10**9, 10**9, 0))
        assert "make room" in said(lambda: load(REPO, device="cpu", on_event=events.append))
    assert "model.safetensors" not in hub.fetched
    assert events == []
    hub.fails_at["model.safetensors"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):  # in this thread: nothing goes on behind its back
        load(REPO, device="cpu")
    hub.fails_at.clear()
    assert load(REPO, device="cpu", on_event=events.append).spec.name == REPO
    size = (hub.files / "model.safetensors").stat().st_size // 10**6
    assert events[0] == Warned(f"{REPO} is not in the cache: downloading it")
    assert events[1] == Started("download", size or None)
    assert events[-2] == Advanced("download", size)
    assert isinstance(events[-1], Finished)


def test_without_a_size_what_came_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "_POLL_SECONDS", 0.001)
    told: list[tuple[int, int]] = []
    with disks.arriving(tmp_path, 0, lambda done, of: told.append((done, of))):
        (tmp_path / "y").write_bytes(b"\1" * 50_000)
        while told[-1][0] < 50_000:
            pass
    assert told[0] == (0, 0)
    assert {of for _, of in told} == {0}


def test_bytes_are_counted_as_they_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "_POLL_SECONDS", 0.001)
    (tmp_path / "x.incomplete").write_bytes(b"\1" * 50_000)
    assert disks.begun_bytes(tmp_path) >= 50_000
    told: list[int] = []
    with disks.arriving(tmp_path, 200_000, lambda done, _: told.append(done)):
        (tmp_path / "y").write_bytes(b"\1" * 100_000)
        while told[-1] < 150_000:
            pass
    assert 50_000 <= told[0] < 70_000
    assert told == sorted(told)
    assert told[-1] == 200_000
