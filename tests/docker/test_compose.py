"""docker/compose.yaml: what it names exists, and what it starts has few rights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from dockerfile import parse

DIRECTORY = Path(__file__).resolve().parents[2] / "docker"
COMPOSE = cast(dict[str, Any], yaml.safe_load((DIRECTORY / "compose.yaml").read_text(encoding="utf-8")))
SERVICES = cast(dict[str, dict[str, Any]], COMPOSE["services"])

KEYS = {"build", "cap_drop", "deploy", "image", "mem_limit", "network_mode", "read_only", "runtime", "security_opt"} | {
    "tmpfs",
    "volumes",
}
"""Keys of Compose's specification that are in use; another one may be a slip of the pen."""


@pytest.mark.parametrize("name", SERVICES)
def test_keys_are_those_of_compose(name: str) -> None:
    assert set(SERVICES[name]) <= KEYS
    assert set(SERVICES[name]["build"]) <= {"additional_contexts", "context", "dockerfile", "target"}


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_built_exists(name: str) -> None:
    build = SERVICES[name]["build"]
    context = (DIRECTORY / build["context"]).resolve()
    path = context / build["dockerfile"]
    file = parse(path.read_text(encoding="utf-8"), context)
    (stage,) = [stage for stage in file.stages if stage.name == build["target"]]
    named = re.findall(r"from=(\w+)", " ".join(flag for one in stage.of("RUN") for flag in one.flags.values()))
    assert set(named) == set(build.get("additional_contexts", {}))


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_started_has_few_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["network_mode"] == "none"
    assert re.fullmatch(r"edgeq-\w+:local", service["image"])


def test_volumes_are_declared_or_paths() -> None:
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", volume).partition(":")[0]
            assert source in COMPOSE["volumes"] or source.startswith(("/", "..")), volume


def test_only_the_jetson_has_the_nvidia_runtime_and_a_limit_of_memory() -> None:
    assert {name for name, service in SERVICES.items() if service.get("runtime") == "nvidia"} == {"device"}
    assert {name for name, service in SERVICES.items() if "mem_limit" in service} == {"device"}
    (gpu,) = SERVICES["tensorrt"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpu["capabilities"] == ["gpu"]
