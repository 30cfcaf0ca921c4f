"""`edgeq index` and `edgeq search`, with the small CLIP that comes along."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command import Edgeq, assert_refused

import edgeq as api
from edgeq.api.device.retrieval import Indexed, index_images, open_search
from edgeq.bundle.manifest import write_manifest
from edgeq.demo.clip.captions import caption, captions
from edgeq.demo.clip.score import CLIP_WEIGHTS
from edgeq.demo.vlm.report import DefectFinding
from edgeq.demo.vlm.scenes import draw_finding
from edgeq.errors import ArtifactError
from edgeq.extras import install_command
from edgeq.vector_index import library

SCENES = range(9_000_000, 9_000_024)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the small CLIP, texts in FP16: nothing is judged here."""
    folder = tmp_path_factory.mktemp("clip")
    scenes(folder / "images", range(3))
    (folder / "captions.txt").write_text("\n".join(caption(draw_finding(seed)[1], seed) for seed in range(20)))
    api.prepare(
        CLIP_WEIGHTS,
        folder / "images",
        folder / "bundle",
        captions=folder / "captions.txt",
        options=api.RetrievalOptions(method="minmax", channel_equalization="none"),
        threads=1,
    )
    return folder / "bundle"


def scenes(folder: Path, seeds: range) -> dict[str, DefectFinding]:
    """Pictures, and what is on each."""
    folder.mkdir(exist_ok=True)
    found = {}
    for seed in seeds:
        picture, finding = draw_finding(seed)
        picture.save(folder / f"{seed}.png")
        found[f"{seed}.png"] = finding
    return found


@pytest.fixture(scope="module")
def indexed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, DefectFinding]]:
    """A catalog of 24 scenes, and what is on them."""
    folder = tmp_path_factory.mktemp("catalog")
    shown = scenes(folder / "images", SCENES)
    made = index_images(bundle, folder / "images", folder / "catalog", shard_size=10, threads=1)
    assert (made.complete, made.rows, made.shards) == (True, 24, 3)
    assert made.index is not None
    assert (made.index.kind, made.index.recall) == ("flat", 1.0)
    return folder / "catalog", shown


def test_words_find_scenes(indexed: tuple[Path, dict[str, DefectFinding]]) -> None:
    """Each of the findings shown, in a wording that names it; the small model is right for nine in ten of thousands."""
    catalog, shown = indexed
    search, right = open_search(catalog, threads=1), 0
    for finding in set(shown.values()):
        first = search.by_text(captions(finding)[1], k=1)[0]
        right += shown[Path(first.image_path).name] == finding
    assert right >= 0.75 * len(set(shown.values()))


def test_a_picture_finds_itself_and_json_tells_columns(
    edgeq: Edgeq, indexed: tuple[Path, dict[str, DefectFinding]]
) -> None:
    catalog, shown = indexed
    file = catalog.parent / "images" / next(iter(shown))
    done = edgeq("search", catalog, file, "-k", "3", "--json", "--threads", "1")
    assert done.status == 0, done.err
    results = json.loads(done.out)["results"]
    assert len(results) == 3
    assert Path(results[0]["image_path"]) == file
    assert results[0]["score"] > 0.999
    assert results[0]["columns"]["width"] == 64
    assert [one["score"] for one in results] == sorted((one["score"] for one in results), reverse=True)


def test_words_on_the_command_line(edgeq: Edgeq, indexed: tuple[Path, dict[str, DefectFinding]]) -> None:
    done = edgeq("search", indexed[0], "severe corrosion at the top left", "-k", "2", "--threads", "1")
    assert done.status == 0, done.err
    found = [line.split("  ", 1) for line in done.out.splitlines()]
    assert len(found) == 2
    assert all(Path(path).is_file() for _, path in found)
    assert float(found[0][0]) >= float(found[1][0])


def test_a_catalog_grows_and_forgets(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    """Nothing is embedded twice; what is gone is not found; an index of before is refused."""
    images, catalog = tmp_path / "images", tmp_path / "catalog"
    scenes(images, range(100, 104))
    asked = ("index", bundle, "--images", images, "-o", catalog, "--threads", "1")
    first = edgeq(*asked)
    assert first.status == 0, first.err
    assert "4 images in 1 shards" in first.out
    assert f'edgeq search {catalog} "WORDS"' in first.out
    before = (catalog / "img_emb" / "img_emb_0000.npy").stat().st_mtime_ns
    scenes(images, range(200, 202))
    (images / "100.png").unlink()
    assert edgeq(*asked, "--kind", "none").status == 0
    assert_refused(edgeq("search", catalog, "corrosion"), "the index of", "run edgeq index again")
    again = edgeq(*asked, "--json")
    made = Indexed.model_validate_json(again.out)
    assert (made.rows, made.removed, made.shards) == (6, 1, 2)
    assert (catalog / "img_emb" / "img_emb_0000.npy").stat().st_mtime_ns == before
    names = {Path(one.image_path).name for one in open_search(catalog, threads=1).by_text("a crack", k=50)}
    assert names == {"101.png", "102.png", "103.png", "200.png", "201.png"}


def test_shards_of_several_processes(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    scenes(tmp_path / "images", range(6))
    asked = (
        "index",
        bundle,
        "--images",
        tmp_path / "images",
        "-o",
        tmp_path / "c",
        "--shard-size",
        "2",
        "--threads",
        "1",
    )
    part = edgeq(*asked, "--shards", "1-2")
    assert part.status == 0, part.err
    assert "others are still to be made" in part.out
    assert "6 images in 3 shards" in edgeq(*asked, "--shards", "0").out
    assert_refused(edgeq(*asked, "--shards", "3-1"), "expected A-B")


def test_an_installed_bundle_indexes_and_is_checked_by_its_canaries(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    store, images = tmp_path / "store", tmp_path / "images"
    scenes(images, range(3))
    done = edgeq("install", bundle, "--root", store, "--threads", "1")
    assert done.status == 0, done.err
    assert edgeq("index", store, "--images", images, "-o", tmp_path / "c", "--threads", "1").status == 0
    vectors = np.load(bundle / "canaries" / "texts.npy")
    broken = shutil.copytree(bundle, tmp_path / "broken")
    np.save(broken / "canaries" / "texts.npy", vectors[::-1])
    write_manifest(broken, kind="retrieval")
    refused = edgeq("install", broken, "--root", store, "--threads", "1")
    assert refused.status == 1
    assert "does not compute here what the workshop saw" in refused.err


def test_a_cluster_that_is_not_there(
    edgeq: Edgeq, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without Ray; nothing is planned."""
    scenes(tmp_path / "images", range(1))
    asked = ("index", bundle, "--images", tmp_path / "images", "-o", tmp_path / "c", "--on", "ray")
    assert_refused(edgeq(*asked, "--shards", "0"), "a cluster makes all shards")
    if find_spec("ray") is not None:
        assert_refused(edgeq(*asked, "--address", "127.0.0.1:1"), "no Ray cluster can be used at 127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert_refused(edgeq(*asked), install_command("cluster"))
    assert not (tmp_path / "c").exists()


def test_without_faiss_nothing_is_embedded(
    edgeq: Edgeq, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes(tmp_path / "images", range(2))
    monkeypatch.setitem(sys.modules, "faiss", None)
    library.faiss.cache_clear()
    asked = ("index", bundle, "--images", tmp_path / "images", "-o", tmp_path / "c", "--threads", "1")
    assert_refused(edgeq(*asked), "faiss is not installed", install_command("retrieval"))
    assert not (tmp_path / "c").exists()
    assert edgeq(*asked, "--kind", "none").status == 0


def test_another_bundle_is_refused(
    edgeq: Edgeq, bundle: Path, indexed: tuple[Path, dict[str, DefectFinding]], tmp_path: Path
) -> None:
    catalog, _ = indexed
    other = shutil.copytree(bundle, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "made_by": "edgeq of another day"}))
    assert_refused(edgeq("search", catalog, "corrosion", "--bundle", other), "is not the bundle that")
    assert_refused(edgeq("index", other, "--images", catalog.parent / "images", "-o", catalog), "another bundle")
    with pytest.raises(ArtifactError):
        open_search(tmp_path)
    assert open_search(catalog, bundle=bundle, threads=1).by_text("a crack", k=1)
