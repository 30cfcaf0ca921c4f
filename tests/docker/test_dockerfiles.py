"""The Dockerfiles keep the rules, and every rule can be broken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dockerfile import RULES, Dockerfile, Stage, broken_rules, parse

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = sorted((CHECKOUT / "docker").glob("*.Dockerfile"))
PINNED = "FROM python:3.11.9-slim\n"
TIDY = "rm -rf /var/lib/apt/lists/*"
UNREADABLE = ("RUN true\n", PINNED + "RUNS true\n", PINNED + "run true\n", PINNED + "RUN true \\\n")


def read(path: Path) -> Dockerfile:
    """One of ours, with the .dockerignore that lies beside it."""
    ignore = path.with_name(f"{path.name}.dockerignore").read_text(encoding="utf-8")
    return parse(path.read_text(encoding="utf-8"), CHECKOUT, ignore)


def broken(text: str, ignore: str = "") -> set[str]:
    """The names of the rules that a Dockerfile breaks."""
    return {message.partition(":")[0] for message in broken_rules(parse(text, CHECKOUT, ignore))}


def installer(name: str) -> str:
    """What jetson/install.sh has for NAME."""
    (value,) = re.findall(rf"^{name}=(\S+)", (CHECKOUT / "jetson/install.sh").read_text("utf-8"), flags=re.MULTILINE)
    return str(value)


def test_there_are_two_files_with_their_stages() -> None:
    stages = {path.name: [stage.name for stage in read(path).stages] for path in FILES}
    assert stages == {
        "device.Dockerfile": ["wheels", "vision", "bitsandbytes-build", "bitsandbytes", "device"],
        "workshop.Dockerfile": ["wheels", "workshop", "tensorrt"],
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_rule_is_broken(path: Path) -> None:
    assert broken_rules(read(path)) == []


def stages(name: str) -> dict[str, Stage]:
    """Of one of our files, by their names."""
    return {stage.name: stage for stage in read(CHECKOUT / "docker" / f"{name}.Dockerfile").stages}


def needed(name: str, target: str) -> set[str]:
    """The stages that a stage is built from, itself among them."""
    found = stages(name)
    text = " ".join(f"{flag}={value}" for one in found[target].instructions for flag, value in one.flags)
    direct = {other for other in found if found[target].image == other or re.search(rf"\bfrom={other}(,|\s|$)", text)}
    return {target}.union(*(needed(name, other) for other in direct))


def test_tensorrt_and_l4t_are_those_of_jetpack_6() -> None:
    """NVIDIA's container of August 2024 has TensorRT 10.3.0; L4T 36.4 is JetPack 6.1 and 6.2."""
    assert stages("workshop")["tensorrt"].image == "nvcr.io/nvidia/tensorrt:24.08-py3"
    device = stages("device")
    assert {device[name].image for name in ("vision", "bitsandbytes-build")} == {"nvcr.io/nvidia/l4t-jetpack:r36.4.0"}


def test_what_needs_nvidia_can_be_left_out() -> None:
    assert needed("workshop", "workshop") == {"workshop", "wheels"}
    assert needed("device", "vision") == {"vision"}
    # A context of the name takes the place of the stage, and of all that it alone is built from.
    assert needed("device", "device") == {"device", "vision", "wheels", "bitsandbytes", "bitsandbytes-build"}
    assert [one.word for one in stages("device")["bitsandbytes"].instructions] == ["COPY"]
    assert {file: stages(file)["wheels"].instructions for file in ("workshop", "device")} == {
        "workshop": (),
        "device": (),
    }


def test_wheels_do_not_stay_in_a_layer() -> None:
    for name in ("workshop", "device"):
        assert [one.rest for one in stages(name)[name].of("COPY") if one.flagged("from")] == []


@pytest.mark.parametrize("name", ["BITSANDBYTES_REPOSITORY", "BITSANDBYTES_TAG", "COMPUTE_CAPABILITY", "BUILD_JOBS"])
def test_image_and_installer_build_the_same_bitsandbytes(name: str) -> None:
    arguments = [instruction.rest for instruction in stages("device")["bitsandbytes-build"].of("ARG")]
    assert f"{name}={installer(name)}" in arguments


def test_nothing_of_the_device_comes_from_the_workshop() -> None:
    text = (CHECKOUT / "docker/device.Dockerfile").read_text(encoding="utf-8")
    assert "[device,service${EXTRAS:+,$EXTRAS}]" in text
    assert "[device,service,language]" in text
    assert "workshop" not in text


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("base_image_is_pinned", "FROM python\n"),
        ("base_image_is_pinned", "FROM python:latest\n"),
        ("base_image_is_pinned", "FROM registry.example:5000/python\n"),
        ("base_image_is_pinned", "ARG IMAGE=python:3\nFROM ${IMAGE}\n"),
        (
            "apt_is_used_well",
            PINNED + f"RUN apt-get update && apt-get install --yes git && {TIDY}\n",
        ),
        ("apt_is_used_well", PINNED + "RUN apt-get install --yes --no-install-recommends git\n"),
        ("nothing_is_upgraded", PINNED + "RUN apt-get update && apt-get upgrade --yes\n"),
        ("nothing_is_upgraded", PINNED + "RUN sudo true\n"),
        ("what_is_started_is_not_root", PINNED + 'CMD ["edgeq"]\n'),
        ("what_is_started_is_not_root", PINNED + 'USER edgeq\nUSER root\nCMD ["edgeq"]\n'),
        ("what_is_started_is_not_root", PINNED + 'USER 0:0\nENTRYPOINT ["edgeq"]\n'),
        ("copied_paths_exist", PINNED + "COPY edgeq nowhere /x/\n"),
        ("copied_paths_exist", PINNED + "COPY ../main/edgeq /x/\n"),
        ("copied_paths_exist", PINNED + "ADD edgeq /x/\n"),
        ("other_stages_exist", PINNED + "COPY --from=nginx /a /b\n"),
        ("other_stages_exist", PINNED + "RUN --mount=type=bind,from=elsewhere,target=/x true\n"),
        (
            "other_stages_exist",
            "FROM scratch AS wheels\n"
            + PINNED
            + "RUN --mount=type=bind,from=elsewhere,target=/x --mount=type=bind,from=wheels,target=/y true\n",
        ),
        ("pipes_can_fail", PINNED + "RUN cat /a | sort >/b\n"),
        ("every_format_has_it", PINNED + 'SHELL ["/bin/bash", "-o", "pipefail", "-c"]\nRUN true\n'),
        ("started_without_a_shell", PINNED + "USER edgeq\nCMD edgeq doctor\n"),
        ("started_without_a_shell", PINNED + "USER edgeq\nENTRYPOINT ['edgeq']\n"),
        ("downloads_are_bounded", PINNED + "RUN python -m pip install numpy\n"),
        ("downloads_are_bounded", PINNED + "RUN git clone --depth 1 https://example.org/x /x\n"),
        ("directories_are_whole_paths", PINNED + "WORKDIR work\n"),
        ("variables_are_declared", "ARG TAG=1\n" + PINNED + 'RUN echo "${TAG}"\n'),
    ],
)
def test_a_rule_can_be_broken(rule: str, text: str) -> None:
    assert broken(text) == {rule}


def test_every_rule_is_tried() -> None:
    (marks,) = [mark for mark in test_a_rule_can_be_broken.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert {rule for rule, _ in marks.args[1]} == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize(
    "text",
    [
        PINNED.rstrip() + "@sha256:" + "0" * 64 + "\n",
        PINNED.replace("\n", " AS first\n") + "FROM first\nCOPY --from=first /a /b\n",
        "FROM scratch AS wheels\n" + PINNED + "RUN --mount=type=bind,from=wheels,target=/x true\n",
        PINNED + "RUN true || true\n",
        PINNED + "RUN grep 'a|b' /c\n",
        PINNED + "# a comment\nRUN true \\\n    # another\n    && true\n",
        PINNED + 'ARG TAG=1\nRUN echo "${TAG}"\n',
    ],
)
def test_what_is_right_breaks_no_rule(text: str) -> None:
    assert broken(text) == set()


@pytest.mark.parametrize(
    "text", ["RUN true\n", PINNED + "RUNS true\n", PINNED + "run true\n", PINNED + "RUN true \\\n"]
)
def test_what_docker_would_not_read(text: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse(text, CHECKOUT)


def test_what_the_ignore_file_keeps_out_cannot_be_copied() -> None:
    copy = PINNED + "COPY edgeq /x/\n"
    assert broken(copy, "*\n") == {"copied_paths_exist"}
    assert broken(copy, "*\n!edgeq\n") == set()
    assert broken(copy, "# edgeq\n") == set()


def test_what_was_built_for_the_gpu_is_what_is_packed() -> None:
    """As install.sh does it: without these pip builds bitsandbytes once more, for the CPU alone."""
    (packed,) = [
        part
        for part in (CHECKOUT / "docker/device.Dockerfile").read_text(encoding="utf-8").split("&&")
        if " wheel --no-cache-dir" in part
    ]
    assert "BNB_SKIP_CMAKE=1 " in packed
    assert "--no-build-isolation" in packed
