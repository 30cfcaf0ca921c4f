"""docker/compose.yaml, and a service of it as words of a command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import yaml

from rehearsal.report import UnexpectedError

__all__ = ["COMPOSE", "NOT_HERE", "flags_of", "read_services", "validate"]

COMPOSE: Final = Path(__file__).resolve().parents[2] / "docker" / "compose.yaml"

NOT_HERE: Final = ("runtime: nvidia", "/etc/nv_tegra_release", "/etc/nvpmodel.conf", "/var/lib/nvpmodel")
"""What a Jetson alone has; it is left out of what is run."""

_HANDLED_ELSEWHERE: Final = {
    "build",
    "image",
    "command",
    "healthcheck",
    "restart",
    "stop_grace_period",
    "ports",
    "runtime",
}


def validate(path: Path = COMPOSE) -> str:
    """Hold it against the schema of Compose's specification, in which no other key is allowed.

    Raises:
        UnexpectedError: it does not keep to it.
    """
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnexpectedError(f"{path.name}: {done.stdout.strip()} {done.stderr.strip()}")
    return done.stdout.strip()


def read_services(path: Path = COMPOSE) -> dict[str, dict[str, Any]]:
    """Its services, with what is merged into them."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return cast(dict[str, dict[str, Any]], found["services"])


def flags_of(service: Mapping[str, Any], places: Mapping[str, str]) -> list[str]:
    """The flags of `docker run` that do what the service says.

    Args:
        service: of compose.yaml.
        places: directories or the engine's volumes for its own, by the path that they have inside.

    Raises:
        UnexpectedError: it has a key that is not known here.
    """
    flags = [f"--network={service['network_mode']}"]
    for key, value in service.items():
        if key == "read_only":
            flags += ["--read-only"] if value else []
        elif key == "tmpfs":
            flags += [f"--tmpfs={place}" for place in value]
        elif key == "cap_drop":
            flags += [f"--cap-drop={name}" for name in value]
        elif key == "security_opt":
            flags += [f"--security-opt={option}" for option in value]
        elif key == "mem_limit":
            flags.append(f"--memory={value}")
        elif key == "environment":
            flags += [f"--env={name}" for name in value]
        elif key == "volumes":
            flags += _mounts(value, places)
        elif key not in _HANDLED_ELSEWHERE | {"network_mode"}:
            raise UnexpectedError(f"compose.yaml: what {key} does is not known here")
    return flags


def _mounts(volumes: list[str], places: Mapping[str, str]) -> list[str]:
    flags = list[str]()
    for volume in volumes:
        if volume.partition(":")[0] in NOT_HERE:
            continue
        # Of `${EDGEQ_WORK:-../out}:/work:ro` what is after the variable.
        inside, _, mode = volume.rpartition("}")[2].partition(":")[2].partition(":")
        flags.append(f"--volume={places[inside]}:{inside}{mode and ':' + mode}")
    return flags
