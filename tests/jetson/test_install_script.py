"""jetson/install.sh on a make-believe Jetson: every step, twice, and what stops it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scratch import CHECKOUT, GOLDEN, Done, JetPack, Scratch, boot

QUESTIONS = ("dpkg-query ", "getent ", "id ", "systemctl get-default", "systemctl cat", "systemctl is-enabled")
"""Calls that change nothing."""

REPEATED = ("python -m pip ", "nvpmodel -q", "runuser ")
"""What a second run does again: pip leaves alone what is there, doctor looks anew."""


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A directory with a wheel of torch."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    (directory / "torch-2.9.1-cp310-cp310-linux_aarch64.whl").touch()
    return directory


@pytest.fixture
def orin(tmp_path: Path) -> Scratch:
    """An Orin NX with JetPack 6."""
    return boot(tmp_path / "root", "6")


def changes(calls: list[str]) -> list[str]:
    """The calls that are no mere questions."""
    return [call for call in calls if not call.startswith(QUESTIONS) and " -c import torch" not in call]


def refused(done: Done, *words: str) -> None:
    """Status 2, one error and one next step, with all of `words` in them."""
    assert done.status == 2
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["error", "next"]
    for word in words:
        assert word in done.err


@pytest.mark.parametrize("jetpack", ["6", "7"])
def test_a_dry_run_says_every_step_and_takes_none(tmp_path: Path, wheels: Path, jetpack: JetPack) -> None:
    jetson = boot(tmp_path / "root", jetpack)
    before = jetson.tree()
    torch = next(wheels.iterdir())
    done = jetson.run("install.sh", "--dry-run", "--torch-wheel", torch, "--headless", "--power", "25w")
    said = done.out.replace(str(CHECKOUT), "CHECKOUT").replace(str(wheels), "WHEELS")
    assert said == (GOLDEN / f"jetpack-{jetpack}" / "dry-run.txt").read_text(encoding="utf-8")
    assert (done.status, done.err) == (0, "")
    assert jetson.tree() == before
    assert set(changes(jetson.calls())) == {"nvpmodel -q"}


@pytest.mark.parametrize("jetpack", ["6", "7"])
def test_the_real_run_takes_the_steps_that_the_dry_run_said(tmp_path: Path, wheels: Path, jetpack: JetPack) -> None:
    jetson = boot(tmp_path / "root", jetpack)
    arguments = ("--wheels", wheels, "--headless", "--power", "25W")
    said = jetson.run("install.sh", "--dry-run", *arguments).out
    done = jetson.run("install.sh", *arguments)
    assert (done.status, done.err) == (0, "")
    told = [line.replace("would ", "") for line in said.splitlines()[:-1] if "constraints.txt (" not in line]
    taken = [line for line in done.out.splitlines() if "write: /opt/edgeq/constraints.txt" not in line]
    # The directory that was built in is removed, and the wheel's whole name is known only once it is there.
    taken = [line.replace("-py3-none-linux_aarch64.whl", "-*.whl") for line in taken if "remove:" not in line]
    assert taken[:-1] == [line.replace("'", "") if "0.50.2-*.whl" in line else line for line in told]


def test_what_lies_on_the_device_afterwards(orin: Scratch, wheels: Path) -> None:
    assert orin.run("install.sh", "--wheels", wheels).status == 0
    tree = orin.tree()
    assert tree["etc/systemd/system/edgeq.service"] == (CHECKOUT / "jetson/edgeq.service").read_text(encoding="utf-8")
    assert tree["etc/edgeq/edgeq.conf"] == (CHECKOUT / "jetson/edgeq.conf").read_text(encoding="utf-8")
    assert tree["usr/local/bin/edgeq"] == "-> /opt/edgeq/venv/bin/edgeq"
    assert tree["opt/edgeq/constraints.txt"] == "bitsandbytes==0.50.2\ntorch==2.9.1+l4t\n"
    assert {"etc/edgeq/keys", "var/lib/edgeq"} <= set(tree)
    assert not [path for path in tree if path.startswith("opt/edgeq/engine_store") or path.endswith(".new")]


def test_bitsandbytes_is_built_for_the_orin_and_the_system_keeps_its_tensorrt(orin: Scratch, wheels: Path) -> None:
    assert orin.run("install.sh", "--wheels", wheels).status == 0
    calls = orin.calls()
    (configured,) = [call for call in calls if call.startswith("cmake -S")]
    assert "-DCOMPUTE_BACKEND=cuda" in configured.split()
    assert "-DCOMPUTE_CAPABILITY=87" in configured.split()
    installed = [call for call in calls if call.startswith("apt-get install") or " install " in call]
    assert installed
    assert not [call for call in installed if "nvinfer" in call or "tensorrt" in call]
    assert all("--no-upgrade" in call for call in installed if call.startswith("apt-get"))
    assert "systemctl enable --now edgeq.service" not in calls


@pytest.mark.parametrize("jetpack", ["6", "7"])
def test_a_second_run_changes_nothing(tmp_path: Path, wheels: Path, jetpack: JetPack) -> None:
    jetson = boot(tmp_path / "root", jetpack)
    arguments = ("install.sh", "--wheels", wheels, "--headless", "--power", "25W")
    assert jetson.run(*arguments).status == 0
    before = jetson.tree()
    jetson.calls()
    assert jetson.run(*arguments).status == 0
    assert jetson.tree() == before
    assert not [call for call in changes(jetson.calls()) if not call.startswith(REPEATED)]


def test_an_edited_configuration_is_kept(orin: Scratch, wheels: Path) -> None:
    orin.run("install.sh", "--wheels", wheels)
    mine = orin.root / "etc/edgeq/edgeq.conf"
    mine.write_text("version: edgeq.service/1\nport: 9000\n", encoding="utf-8")
    assert orin.run("install.sh", "--wheels", wheels).status == 0
    assert "port: 9000" in mine.read_text(encoding="utf-8")


def test_a_run_that_broke_off_goes_on(orin: Scratch, wheels: Path) -> None:
    orin.remember("cmake.status", "1")
    refused(orin.run("install.sh", "--wheels", wheels), "cmake ended with status 1")
    orin.calls()
    (orin.root / "stub/cmake.status").unlink()
    assert orin.run("install.sh", "--wheels", wheels).status == 0
    calls = orin.calls()
    assert [call for call in calls if call.startswith("cmake --build")]
    assert not [call for call in calls if call.startswith(("useradd", "apt-get"))]


def test_what_was_built_for_the_gpu_is_what_is_packed(orin: Scratch, wheels: Path) -> None:
    """Without these pip builds once more, in an environment of its own, for the CPU: and that is what it packs."""
    orin.run("install.sh", "--wheels", wheels)
    calls = orin.calls()
    (packed,) = [call for call in calls if " pip " in call and " wheel " in call]
    assert packed.startswith("BNB_SKIP_CMAKE=1 ")
    assert "--no-build-isolation" in packed
    (tools,) = [call for call in calls if " install " in call and "scikit-build-core" in call]
    assert calls.index(tools) < calls.index(packed)
    assert calls.index(packed) == next(at for at, call in enumerate(calls) if call.startswith("cmake --build")) + 2
    assert sum("BNB_SKIP_CMAKE" in call for call in calls) == 1


@pytest.mark.parametrize(("l4t", "builds"), [(False, 0), (True, 1)])
def test_a_new_jetpack_tries_the_index_and_builds_where_its_kernels_fail(
    orin: Scratch, wheels: Path, l4t: bool, builds: int
) -> None:
    orin.run("install.sh", "--wheels", wheels)
    orin.calls()
    for name in ("etc/nv_tegra_release", "stub/packages"):
        recorded = GOLDEN / "jetpack-7" / Path(name).name
        (orin.root / name).write_text(recorded.read_text(encoding="utf-8"), encoding="utf-8")
    if l4t:
        orin.remember("l4t", "")
    assert orin.run("install.sh", "--wheels", wheels).status == 0
    calls = orin.calls()
    assert [call for call in calls if call.endswith(" bitsandbytes==0.50.2")]
    assert len([call for call in calls if call.startswith("cmake -S")]) == builds
    assert ("/jetpack7-" in (orin.root / "stub/bitsandbytes").read_text(encoding="utf-8")) == l4t
    before = orin.tree()
    assert orin.run("install.sh", "--wheels", wheels).status == 0
    assert orin.tree() == before
    assert not [call for call in orin.calls() if call.startswith("cmake")]


def test_a_wheel_of_bitsandbytes_is_used_and_nothing_is_built(orin: Scratch, wheels: Path) -> None:
    (wheels / "bitsandbytes-0.50.2-py3-none-linux_aarch64.whl").touch()
    assert orin.run("install.sh", "--wheels", wheels, "--offline").status == 0
    calls = orin.calls()
    assert not [call for call in calls if call.startswith(("cmake", "git")) or "build-essential" in call]
    installed = [call for call in calls if " pip " in call and " install " in call]
    assert len(installed) == 3
    assert all("--no-index" in call for call in installed)


SERVERS = "bitsandbytes-0.50.2-py3-none-manylinux_2_24_aarch64.whl"


@pytest.mark.parametrize("jetpack", ["6", "7"])
def test_a_wheel_is_judged_by_its_kernels_and_not_by_its_name(tmp_path: Path, wheels: Path, jetpack: JetPack) -> None:
    """Where they run, nothing is built; where they fail, it is, once, and what was built is what is installed."""
    jetson = boot(tmp_path / "root", jetpack)
    (wheels / SERVERS).touch()
    assert jetson.run("install.sh", "--wheels", wheels).status == 0
    assert not [call for call in jetson.calls() if call.startswith(("cmake", "git"))]
    assert (jetson.root / "stub/bitsandbytes").read_text(encoding="utf-8") == f"{wheels / SERVERS}\n"
    jetson.remember("l4t", "")
    for builds in (1, 0):
        done = jetson.run("install.sh", "--wheels", wheels)
        assert (done.status, "they fail: bitsandbytes, built here" in done.out) == (0, True)
        calls = jetson.calls()
        assert sum(call.startswith("cmake -S") for call in calls) == builds
        launched = next(at for at, call in enumerate(calls) if call.endswith(" -m edgeq.doctor.nf4_launch"))
        assert launched > next(at for at, call in enumerate(calls) if call.endswith("[device,service,language]"))
        built = (jetson.root / "stub/bitsandbytes").read_text(encoding="utf-8")
        assert built.startswith(f"/opt/edgeq/wheels/jetpack{jetpack}-")


def test_a_wheel_whose_kernels_fail_where_nothing_can_be_built(orin: Scratch, wheels: Path) -> None:
    (wheels / SERVERS).touch()
    (orin.root / "usr/local/cuda/bin/nvcc").unlink()
    assert orin.run("install.sh", "--wheels", wheels).status == 0  # its kernels run: no compiler is wanted
    orin.remember("l4t", "")
    refused(orin.run("install.sh", "--wheels", wheels), "nvcc is not there")
    refused(orin.run("install.sh", "--wheels", wheels, "--offline"), "nvcc is not there")


def test_sources_at_hand_are_not_cloned(orin: Scratch, wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "bitsandbytes").mkdir()
    assert orin.run("install.sh", "--wheels", wheels, "--bitsandbytes-source", tmp_path / "bitsandbytes").status == 0
    calls = orin.calls()
    assert not [call for call in calls if call.startswith("git")]
    assert [call for call in calls if call.startswith(f"cmake -S {tmp_path / 'bitsandbytes'} ")]


def test_torch_from_an_index_and_nothing_else(orin: Scratch) -> None:
    assert orin.run("install.sh", "--index-url", "https://index.example/simple").status == 0
    from_index = [call for call in orin.calls() if "--index-url" in call]
    assert [call.split()[-3:] for call in from_index] == [["--index-url", "https://index.example/simple", "torch"]]


def test_without_a_language_model_there_is_no_torch_and_no_compiler(orin: Scratch) -> None:
    assert orin.run("install.sh", "--no-language").status == 0
    calls = orin.calls()
    assert [call for call in calls if call.endswith(f" install {CHECKOUT}[device,service]")]
    assert not [
        call for call in calls if call.startswith(("cmake", "git")) or "torch" in call or "build-essential" in call
    ]


@pytest.mark.parametrize(
    ("flags", "extras"),
    [(("--no-language",), "[device,service,camera,retrieval]"), ((), "[device,service,camera,language]")],
)
def test_further_extras(orin: Scratch, wheels: Path, flags: tuple[str, ...], extras: str) -> None:
    wanted = "camera,retrieval" if flags else "camera"
    assert orin.run("install.sh", "--wheels", wheels, *flags, "--extras", wanted).status == 0
    assert [call for call in orin.calls() if call.endswith(CHECKOUT.as_posix() + extras)]


def test_what_the_unit_runs_is_installed(orin: Scratch, wheels: Path) -> None:
    unit = (CHECKOUT / "jetson/edgeq.service").read_text(encoding="utf-8")
    assert re.search(r"^ExecStart=\S+/edgeq serve ", unit, flags=re.MULTILINE)
    for flags in (("--wheels", wheels), ("--no-language",)):
        assert orin.run("install.sh", *flags).status == 0
        extras = [found[1].split(",") for call in orin.calls() if (found := re.search(r"\[(device\S*)\]$", call))]
        assert ["service" in each for each in extras] == [True]


def test_doctor_has_the_last_word(orin: Scratch, wheels: Path) -> None:
    orin.remember("runuser.status", "1")
    done = orin.run("install.sh", "--wheels", wheels)
    assert done.status == 1
    assert "edgeq doctor found something missing" in done.out
    assert orin.run("install.sh", "--wheels", wheels, "--no-doctor").status == 0


def test_uninstalling_leaves_bundles_and_configuration(orin: Scratch, wheels: Path) -> None:
    before = orin.tree()
    orin.run("install.sh", "--wheels", wheels)
    (orin.root / "var/lib/edgeq/bundle").write_text("8 GB", encoding="utf-8")
    assert orin.run("install.sh", "--uninstall").status == 0
    left = set(orin.tree()) - set(before)
    assert {"var/lib/edgeq/bundle", "etc/edgeq/edgeq.conf"} <= left
    assert not [path for path in left if path.startswith(("opt/edgeq", "usr/local/bin/", "etc/systemd/system/edgeq"))]
    orin.calls()
    assert orin.run("install.sh", "--uninstall").status == 0
    assert orin.calls() == []


def test_torch_that_is_there_is_kept(orin: Scratch, wheels: Path) -> None:
    orin.run("install.sh", "--wheels", wheels)
    done = orin.run("install.sh")
    assert done.status == 0
    assert "keep: torch, which is there" in done.out


@pytest.mark.parametrize(
    ("release", "package", "words"),
    [
        ("", "", ("not a Jetson",)),
        ("# R35 (release), REVISION: 4.1, GCID: 1", "", ("L4T 35.4.1", "neither JetPack 6")),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "", ("L4T 38.2.0", "nor JetPack 7.2")),
        ("# R36 (release), REVISION: 4.3, GCID: 1", "39.2.0-20260601141651", ("36.4.3", "39.2.0")),
        ("", "35.4.1-20230801124926", ("L4T 35.4.1",)),
    ],
)
def test_another_machine_is_refused(orin: Scratch, release: str, package: str, words: tuple[str, ...]) -> None:
    (orin.root / "etc/nv_tegra_release").unlink()
    if release:
        (orin.root / "etc/nv_tegra_release").write_text(release + "\n", encoding="utf-8")
    orin.remember("packages", f"nvidia-l4t-core {package}\n" if package else "")
    refused(orin.run("install.sh"), *words)
    assert not changes(orin.calls())


def test_the_package_alone_says_which_jetpack(orin: Scratch) -> None:
    (orin.root / "etc/nv_tegra_release").unlink()
    assert orin.run("install.sh", "--no-language").out.startswith("JetPack 6 (L4T 36.4.3)\n")


def test_a_jetpack_that_is_told_is_believed_unless_it_is_another(orin: Scratch) -> None:
    refused(orin.run("install.sh", "--jetpack", "7"), "is JetPack 6")
    refused(orin.run("install.sh", "--jetpack", "5"), "6 or 7")
    (orin.root / "etc/nv_tegra_release").write_text("# R38 (release), REVISION: 2.0\n", encoding="utf-8")
    orin.remember("packages", "python3-libnvinfer 10.13.0\n")
    assert orin.run("install.sh", "--jetpack", "7", "--no-language").status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("no torch", "--torch-wheel")),
        (("--torch-wheel", "missing.whl"), ("there is no missing.whl",)),
        (("--wheels",), ("--wheels wants a value",)),
        (("--offline",), ("--offline needs --wheels",)),
        (("--fast",), ("--fast is not an option",)),
        (("--no-language", "--extras", "camera, x]"), ("--extras are names with commas, not camera, x]",)),
    ],
)
def test_bad_options(orin: Scratch, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(orin.run("install.sh", *arguments), *words)
    assert not changes(orin.calls())


def test_offline_nothing_is_cloned(orin: Scratch, wheels: Path) -> None:
    refused(orin.run("install.sh", "--wheels", wheels, "--offline"), "--offline allows no clone")
    assert not changes(orin.calls())


def test_what_jetpack_should_have_brought(orin: Scratch, wheels: Path) -> None:
    (orin.root / "usr/local/cuda/bin/nvcc").unlink()
    refused(orin.run("install.sh", "--wheels", wheels), "nvcc", "nvidia-jetpack")
    orin.remember("packages", "nvidia-l4t-core 36.4.3-20250107174145\n")
    refused(orin.run("install.sh", "--wheels", wheels), "python3-libnvinfer")
    assert not changes(orin.calls())


def test_the_tensorrt_of_jetpack_6_0_is_too_old(orin: Scratch) -> None:
    orin.remember("packages", "nvidia-l4t-core 36.3.0-20240719161631\npython3-libnvinfer 8.6.2.3-1+cuda12.2\n")
    refused(orin.run("install.sh", "--no-language"), "TensorRT 8.6.2.3", "JetPack 6.1")
    assert not changes(orin.calls())


def test_a_dry_run_counts_what_is_missing(orin: Scratch) -> None:
    orin.remember("packages", "nvidia-l4t-core 36.4.3-20250107174145\n")
    done = orin.run("install.sh", "--dry-run")
    assert done.status == 1
    assert done.out.count("  missing: ") == 2
    assert "\n2 missing: a real run would have stopped there.\n" in done.out


def test_a_scratch_root_never_runs_the_machines_own_commands(orin: Scratch, wheels: Path) -> None:
    (orin.root / "usr/bin/useradd").unlink()
    refused(orin.run("install.sh", "--wheels", wheels), "useradd is not there")


def test_a_power_mode_that_wants_a_restart_does_not_end_the_installation(orin: Scratch, wheels: Path) -> None:
    orin.remember("nvpmodel.status", "255")
    done = orin.run("install.sh", "--wheels", wheels, "--power", "40W")
    assert (done.status, done.err) == (1, "")
    assert "sudo nvpmodel -m 4" in done.out
    assert done.out.endswith("Left for you to do: see above.\n")
    assert orin.calls()[-1].startswith("runuser")


def test_a_dry_run_on_another_computer_shows_all_that_it_can(orin: Scratch, wheels: Path) -> None:
    for name in ("etc/nv_tegra_release", "etc/nvpmodel.conf", "stub/packages"):
        (orin.root / name).write_text("", encoding="utf-8")
    (orin.root / "etc/nvpmodel.conf").unlink()
    done = orin.run("install.sh", "--dry-run", "--jetpack", "7", "--wheels", wheels, "--power", "25W")
    assert (done.status, done.err) == (1, "")
    assert done.out.startswith("JetPack 7 (L4T not found; as told)\n")
    assert done.out.endswith("\n2 missing: a real run would have stopped there.\n")
    assert "would run: runuser" in done.out
