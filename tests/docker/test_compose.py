"""docker/compose.yaml: Compose's schema, what it names exists, and what it starts has few rights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from dockerfile import parse

from rehearsal.images.compose import COMPOSE, NOT_HERE, flags_of, read_services, validate
from rehearsal.report import UnexpectedError

TEXT = COMPOSE.read_text(encoding="utf-8")
SERVICES = read_services()
PLACES = {"/work": "out", "/var/lib/edgeq": "bundles"}


def test_it_keeps_to_the_schema_of_compose() -> None:
    assert validate() == "ok -- validation done"


@pytest.mark.parametrize(
    ("right", "wrong"), [("mem_limit: 13g", "mem_limt: 13g"), ("read_only: true", "read_only: [yes]")]
)
def test_a_slip_of_the_pen_is_refused(right: str, wrong: str, tmp_path: Path) -> None:
    assert right in TEXT
    (tmp_path / "compose.yaml").write_text(TEXT.replace(right, wrong), encoding="utf-8")
    with pytest.raises(UnexpectedError, match=wrong.partition(":")[0]):
        validate(tmp_path / "compose.yaml")


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_built_exists(name: str) -> None:
    build = SERVICES[name]["build"]
    context = (COMPOSE.parent / build["context"]).resolve()
    path = context / build["dockerfile"]
    file = parse(path.read_text(encoding="utf-8"), context)
    (stage,) = [stage for stage in file.stages if stage.name == build["target"]]
    named = re.findall(r"from=(\w+)", " ".join(mount for one in stage.of("RUN") for mount in one.flagged("mount")))
    assert set(build.get("additional_contexts", {})) <= set(named)


def test_the_device_is_given_its_wheels() -> None:
    assert {name for name in SERVICES if "additional_contexts" in SERVICES[name]["build"]} == {"device", "serve"}


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_started_has_few_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["network_mode"] == ("bridge" if name == "serve" else "none")
    assert re.fullmatch(r"edgeq-\w+:local", service["image"])


def test_the_service_is_this_machines_alone_and_wants_a_token() -> None:
    """Inside its container it listens on every address, for which `edgeq serve` demands a token."""
    serve = SERVICES["serve"]
    assert serve["ports"] == ["127.0.0.1:8000:8000"]
    assert serve["command"] == ["serve", "--host", "0.0.0.0"]
    assert serve["environment"] == {"EDGEQ_TOKEN": None}


def test_the_service_is_what_the_device_is_but_for_what_it_serves() -> None:
    same = SERVICES["device"].keys() - {"network_mode"}
    assert {key: SERVICES["serve"][key] for key in same} == {key: SERVICES["device"][key] for key in same}


def test_answers_under_way_may_end() -> None:
    """As under systemd: longer than `drain_seconds`, and as long as its unit has."""
    settings = yaml.safe_load((COMPOSE.parents[1] / "jetson/edgeq.conf").read_text(encoding="utf-8"))
    assert SERVICES["serve"]["stop_grace_period"] == "1m"
    assert settings["drain_seconds"] < 60
    assert "TimeoutStopSec=1min" in (COMPOSE.parents[1] / "jetson/edgeq.service").read_text(encoding="utf-8")


def test_volumes_are_declared_or_paths() -> None:
    declared = cast(dict[str, Any], yaml.safe_load(TEXT)["volumes"])
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", volume).partition(":")[0]
            assert source in declared or source.startswith(("/", "..")), volume


def test_only_the_jetson_has_the_nvidia_runtime_and_a_limit_of_memory() -> None:
    jetson = {"device", "serve"}
    assert {name for name, service in SERVICES.items() if service.get("runtime") == "nvidia"} == jetson
    assert {name for name, service in SERVICES.items() if "mem_limit" in service} == jetson
    (gpu,) = SERVICES["tensorrt"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpu["capabilities"] == ["gpu"]


def test_a_service_as_flags() -> None:
    assert flags_of(SERVICES["device"], PLACES) == [
        "--network=none",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges:true",
        "--read-only",
        "--tmpfs=/tmp",
        "--memory=13g",
        "--volume=bundles:/var/lib/edgeq",
        "--volume=out:/work:ro",
    ]


def test_only_what_a_jetson_has_is_left_out_of_the_flags() -> None:
    sources = [volume.partition(":")[0] for volume in SERVICES["device"]["volumes"]]
    assert [source for source in sources if source.startswith("/")] == [name for name in NOT_HERE if name[0] == "/"]


def test_a_key_that_the_rehearsal_does_not_know_is_not_passed_over() -> None:
    with pytest.raises(UnexpectedError, match="pid"):
        flags_of({**SERVICES["device"], "pid": "host"}, PLACES)
