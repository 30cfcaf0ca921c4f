"""Install, upgrade, failed check, rollback, prune, and what is listed then."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from packed import make_bundle
from small_bundles import WEIGHTS, check_clean, make_version, own_bytes, pair, sha256, whole

from edgeq.bundle.errors import BundleError, DeviceError, DigestError, UnknownKeyError, UnsignedError
from edgeq.bundle.keys import make_keys
from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.needs import DeviceFacts, DeviceNeeds
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.transport import pack
from edgeq.errors import ArtifactError, GateError, InputError
from edgeq.install.listing import installed
from edgeq.install.run import install, prune, rollback
from edgeq.install.states import current


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "device" / "edgeq"


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    """Four versions; they are only read."""
    for number in range(4):
        make_version(tmp_path / str(number), number)
    return [tmp_path / str(number) for number in range(4)]


def identity(bundle: Path) -> str:
    return sha256(bundle / "manifest.json")


def uses(root: Path) -> dict[str, str]:
    """What each version is, by id; newest first."""
    return {version.id: version.use for version in installed(root)}


def refuse(_version: Path) -> None:
    raise GateError("canary 3 has the cosine 0.51", expected="0.999", causes=("an FP16 overflow",))


def inodes(directory: Path) -> set[int]:
    return {path.stat().st_ino for path in directory.rglob("*") if path.is_file()}


def test_the_first_version(bundles: list[Path], root: Path) -> None:
    done = install(bundles[0], root)
    assert (done.id, done.previous, done.checked, done.signed_by) == (identity(bundles[0]), None, False, None)
    assert done.path == current(root) == (root / "current").resolve() == root / "versions" / done.id
    assert pair(root) == (done.id, None)
    assert read_manifest(current(root)) == read_manifest(bundles[0])
    sizes = [len(WEIGHTS), len(own_bytes(0)), (bundles[0] / "manifest.json").stat().st_size]
    assert (done.files, done.bytes, done.new_files, done.new_bytes) == (3, sum(sizes), 3, sum(sizes))
    check_clean(root)


def test_an_upgrade_keeps_the_previous_version_and_shares_files(bundles: list[Path], root: Path) -> None:
    install(bundles[0], root)
    done = install(bundles[1], root)
    assert pair(root) == (identity(bundles[1]), identity(bundles[0])) == (done.id, done.previous)
    assert (done.files, done.new_files) == (3, 2)
    weights = [root / "versions" / identity(bundle) / "language/weights" for bundle in bundles[:2]]
    assert weights[0].samefile(weights[1])
    assert weights[0].stat().st_nlink == 3  # two versions, and the object
    assert len([*(root / "objects").glob("*/*")]) == 5  # two manifests, two visions, one language
    check_clean(root)


def test_equal_files_in_one_bundle_are_kept_once(tmp_path: Path, root: Path) -> None:
    done = install(make_bundle(tmp_path / "bundle", {"a": WEIGHTS, "b/c": WEIGHTS, "empty": b""}), root)
    assert (done.files, done.new_files) == (4, 3)
    assert (done.path / "a").samefile(done.path / "b/c")
    assert pair(root) == (done.id, None)


def test_a_transport_file(bundles: list[Path], root: Path, tmp_path: Path) -> None:
    install(bundles[0], root)
    pack(bundles[1], tmp_path / "b.edgeq.tar")
    done = install(tmp_path / "b.edgeq.tar", root)
    assert pair(root) == (identity(bundles[1]), identity(bundles[0]))
    assert (done.files, done.new_files) == (3, 2)
    assert installed(root)[0].source == "b.edgeq.tar"
    check_clean(root)


def test_what_was_installed_is_nobodys_to_write(bundles: list[Path], root: Path, tmp_path: Path) -> None:
    pack(bundles[1], tmp_path / "b.edgeq.tar")
    for source in (bundles[0], tmp_path / "b.edgeq.tar"):
        install(source, root)
        for path in current(root).rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert path.is_dir() or mode & 0o333 == 0, oct(mode)
    assert not inodes(bundles[0]) & inodes(root)  # whoever changes the bundle changes no version


def test_from_another_file_system(bundles: list[Path], root: Path, tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    other = memory / f"edgeq-test-{os.getpid()}.edgeq.tar"
    try:
        pack(bundles[0], other)
        install(other, root)
    finally:
        other.unlink()
    assert pair(root) == (identity(bundles[0]), None)


def test_the_same_version_again(bundles: list[Path], root: Path) -> None:
    for number in (0, 1):
        install(bundles[number], root)
    again = install(bundles[1], root)
    assert (again.new_files, again.new_bytes) == (0, 0)
    assert pair(root) == (identity(bundles[1]), identity(bundles[0]))  # not itself


def test_an_older_version_again(bundles: list[Path], root: Path) -> None:
    for number in (0, 1, 2, 0):
        install(bundles[number], root)
    assert pair(root) == (identity(bundles[0]), identity(bundles[2]))
    assert [*uses(root)] == [identity(bundles[number]) for number in (0, 2, 1)]  # it is the newest now


def test_a_check_sees_the_version_in_use(bundles: list[Path], root: Path) -> None:
    install(bundles[0], root)
    seen = []

    def check(version: Path) -> None:
        seen.append((version, current(root), list(uses(root).values())))

    assert install(bundles[1], root, check=check).checked
    version = root / "versions" / identity(bundles[1])
    assert seen == [(version, version, ["trial", "previous"])]
    assert [*uses(root).values()] == ["current", "previous"]


def test_a_failed_check_goes_back(bundles: list[Path], root: Path) -> None:
    for number in (0, 1):
        install(bundles[number], root)
    with pytest.raises(GateError) as caught:
        install(bundles[2], root, check=refuse)
    assert identity(bundles[2])[:12] in caught.value.what
    assert "canary 3 has the cosine 0.51" in caught.value.what
    assert (caught.value.expected, caught.value.causes) == ("0.999", ("an FP16 overflow",))
    assert f"{identity(bundles[1])[:12]} is in use again" in caught.value.what
    assert pair(root) == (identity(bundles[1]), identity(bundles[0]))
    failed, *others = installed(root)
    assert (failed.id, failed.use, failed.failed) == (
        identity(bundles[2]),
        "failed",
        "canary 3 has the cosine 0.51 (an FP16 overflow)",
    )
    assert [version.failed for version in others] == ["", ""]
    assert whole(root / "versions" / failed.id) == failed.id
    assert install(bundles[2], root, check=lambda _version: None).previous == identity(bundles[1])
    assert installed(root)[0].failed == ""


def test_a_failed_check_of_the_first_version(bundles: list[Path], root: Path) -> None:
    with pytest.raises(GateError, match="no version is in use"):
        install(bundles[0], root, check=refuse)
    assert pair(root) == (None, None)
    with pytest.raises(ArtifactError, match="no version"):
        current(root)


def test_a_failed_check_of_the_version_in_use(bundles: list[Path], root: Path) -> None:
    for number in (0, 1):
        install(bundles[number], root)
    with pytest.raises(GateError, match="still is"):
        install(bundles[1], root, check=refuse)
    assert pair(root) == (identity(bundles[1]), identity(bundles[0]))
    assert installed(root)[0].failed
    assert rollback(root).current == identity(bundles[0])


@pytest.mark.parametrize(
    ("error", "raised", "reason"),
    [
        (RuntimeError("CUDA error 700"), GateError, "RuntimeError: CUDA error 700"),
        (KeyboardInterrupt(), KeyboardInterrupt, "its check was stopped"),
        (SystemExit(143), SystemExit, "its check was stopped"),
    ],
)
def test_whatever_ends_a_check_goes_back(
    bundles: list[Path], root: Path, error: BaseException, raised: type[BaseException], reason: str
) -> None:
    install(bundles[0], root)

    def check(_version: Path) -> None:
        raise error

    with pytest.raises(raised):
        install(bundles[1], root, check=check)
    assert pair(root) == (identity(bundles[0]), None)
    assert installed(root)[0].failed == reason


def test_rollback_and_back_again(bundles: list[Path], root: Path) -> None:
    ids = [identity(bundle) for bundle in bundles]
    for number in (0, 1):
        install(bundles[number], root)
    for now, other in ((ids[0], ids[1]), (ids[1], ids[0])):
        done = rollback(root)
        assert (done.current, done.previous) == pair(root) == (now, other)


def test_rollback_with_nothing_to_go_back_to(bundles: list[Path], root: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing is installed"):
        rollback(root)
    assert not root.exists()
    install(bundles[0], root)
    with pytest.raises(InputError, match="no previous version"):
        rollback(root)
    assert pair(root) == (identity(bundles[0]), None)


def test_rollback_to_a_damaged_version_is_refused(bundles: list[Path], root: Path) -> None:
    for number in (0, 1):
        install(bundles[number], root)
    (root / "versions" / identity(bundles[0]) / "vision.onnx").write_bytes(own_bytes(3))
    with pytest.raises(ArtifactError, match=r"damaged: .*vision\.onnx"):
        rollback(root)
    assert current(root).name == identity(bundles[1])


def test_prune(bundles: list[Path], root: Path) -> None:
    ids = [identity(bundle) for bundle in bundles]
    for bundle in bundles:
        install(bundle, root)
    done = prune(root, 3)
    assert done.removed == (ids[0],)
    assert done.freed_bytes == len(own_bytes(0)) + (bundles[0] / "manifest.json").stat().st_size
    assert [*uses(root)] == [ids[3], ids[2], ids[1]]
    rollback(root)
    assert prune(root, 0).removed == (ids[1],)
    assert pair(root) == (ids[2], ids[3])
    assert prune(root, 0).removed == ()
    check_clean(root)


def test_prune_does_not_count_what_failed(bundles: list[Path], root: Path) -> None:
    for number in (0, 1, 2):
        install(bundles[number], root)
    with pytest.raises(GateError):
        install(bundles[3], root, check=refuse)
    assert prune(root, 3).removed == (identity(bundles[3]),)
    assert [*uses(root).values()] == ["current", "previous", "kept"]


def test_signatures(bundles: list[Path], root: Path, tmp_path: Path) -> None:
    ours, other = (make_keys(tmp_path / name) for name in ("ours", "other"))
    with pytest.raises(UnsignedError):
        install(bundles[0], root, keys=[ours.public])
    sign_bundle(bundles[0], ours.private)
    with pytest.raises(UnknownKeyError):
        install(bundles[0], root, keys=[other.public])
    assert installed(root) == ()
    assert install(bundles[0], root, keys=[other.public, ours.public]).signed_by == ours.id
    assert sha256(current(root) / "manifest.sig") == sha256(bundles[0] / "manifest.sig")
    assert installed(root)[0].signed_by == ours.id
    sign_bundle(bundles[0], other.private)
    assert install(bundles[0], root, keys=[other.public]).signed_by == other.id  # the same version, signed again
    assert sha256(current(root) / "manifest.sig") == sha256(bundles[0] / "manifest.sig")
    prune(root, 0)
    check_clean(root)  # the signature that was there before is gone


def test_a_bundle_for_another_device(root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"a": WEIGHTS}, needs=DeviceNeeds(compute_capability=("8.7",)))
    with pytest.raises(DeviceError):
        install(bundle, root, device=DeviceFacts(compute_capability="7.2"))
    install(bundle, root, device=DeviceFacts(compute_capability="8.7"))


def test_a_refused_bundle_leaves_nothing(bundles: list[Path], root: Path, tmp_path: Path) -> None:
    install(bundles[0], root)
    before = sorted(path for path in root.rglob("*") if "states" not in path.parts)
    pack(bundles[1], tmp_path / "cut.edgeq.tar")
    with (tmp_path / "cut.edgeq.tar").open("r+b") as file:
        file.truncate(2500)
    (bundles[2] / "vision.onnx").write_bytes(own_bytes(3))
    for source, error in (
        (tmp_path / "cut.edgeq.tar", BundleError),
        (bundles[2], DigestError),
        (tmp_path / "nothing", ArtifactError),
        (tmp_path, BundleError),
    ):
        with pytest.raises(error):
            install(source, root)
    assert sorted(path for path in root.rglob("*") if "states" not in path.parts) == before
    assert pair(root) == (identity(bundles[0]), None)


def test_progress_comes_to_its_end(bundles: list[Path], root: Path, tmp_path: Path) -> None:
    pack(bundles[1], tmp_path / "b.edgeq.tar")
    for source, stages in (
        (bundles[0], ["verifying", "copying"]),
        (tmp_path / "b.edgeq.tar", ["unpacking", "verifying"]),
    ):
        told: dict[str, tuple[int, int]] = {}

        def report(stage: str, done: int, total: int, told: dict[str, tuple[int, int]] = told) -> None:
            told[stage] = (done, total)

        install(source, root, report=report)
        assert [*told] == stages
        assert all(done == total for done, total in told.values())
