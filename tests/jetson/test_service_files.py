"""jetson/edgeq.service and edgeq.conf: what systemd and the service will read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from scratch import CHECKOUT

from edgeq.cli.exit_statuses import NO_RESTART
from edgeq.device import device_profile
from edgeq.service.http.connections import descriptor_room
from edgeq.service.server import LAST_S
from edgeq.service.settings import ServiceSettings

UNIT = CHECKOUT / "jetson/edgeq.service"
CONFIGURATION = CHECKOUT / "jetson/edgeq.conf"
INSTALLER = (CHECKOUT / "jetson/install.sh").read_text(encoding="utf-8")


def settings(section: str) -> dict[str, str]:
    """The settings of one section of the unit."""
    text = UNIT.read_text(encoding="utf-8").split(f"[{section}]\n")[1].split("\n[")[0]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [line.split("=", 1) for line in lines]
    assert len({key for key, _ in pairs}) == len(pairs), "a setting that is there twice"
    return dict(pairs)


def constant(name: str) -> str:
    """What install.sh has for NAME."""
    (value,) = re.findall(rf"^{name}=(\S+)", INSTALLER, flags=re.MULTILINE)
    return str(value)


def test_the_unit_runs_what_the_installer_puts_there() -> None:
    service = settings("Service")
    program, verb, *arguments = service["ExecStart"].split()
    assert program == f"{constant('PREFIX')}/venv/bin/edgeq"
    assert (verb, arguments) == ("serve", ["--config", f"{constant('CONFIGURATION')}/edgeq.conf"])
    assert service["User"] == service["Group"] == "edgeq"
    assert f"/var/lib/{service['StateDirectory']}" == constant("STATE") + "/engines"


def test_the_service_is_watched_bounded_and_given_up_only_where_a_restart_mends_nothing() -> None:
    service, unit = settings("Service"), settings("Unit")
    assert service["Type"] == "notify"
    assert service["WatchdogSec"].endswith("s")
    # a process that is stopped (SIGSTOP) hears no SIGABRT: without this it is left for TimeoutStopSec
    assert int(service["TimeoutAbortSec"].removesuffix("s")) < int(service["WatchdogSec"].removesuffix("s"))
    assert service["MemoryMax"].endswith("%")
    assert service["Restart"] == "on-failure"
    assert {int(status) for status in service["RestartPreventExitStatus"].split()} == NO_RESTART
    assert unit["StartLimitIntervalSec"] == "0"
    assert "StartLimitBurst" not in unit
    assert int(service["RestartSteps"]) > 0
    assert (service["RestartSec"], service["RestartMaxDelaySec"]) == ("5s", "5min")


def test_a_reload_sends_the_signal_that_the_server_reads_its_tokens_on() -> None:
    """By the shell, which every system has; /bin/kill is of procps, which a small one does not."""
    assert settings("Service")["ExecReload"] == '/bin/sh -c "kill -HUP $MAINPID"'


def test_descriptors_and_time_to_stop_are_enough() -> None:
    """For as many connections as the settings allow; and the process ends by itself before systemd kills it."""
    service, chosen = settings("Service"), ServiceSettings()
    assert descriptor_room(chosen.connections, int(service["LimitNOFILE"])) == chosen.connections
    assert service["TimeoutStopSec"] == "1min"
    assert chosen.drain_seconds + LAST_S < 60


def test_memory_max_leaves_room_for_the_system() -> None:
    """Not above what the plan may use, 14.1 GiB of an Orin NX, and not so low that 13B (10.1 GB) would not fit."""
    orin = device_profile("orin-nx-16gb")
    limit = orin.total_bytes * int(settings("Service")["MemoryMax"].rstrip("%")) / 100
    assert 12e9 < limit <= orin.budget_bytes


def test_hardening_that_keeps_the_gpu() -> None:
    service = settings("Service")
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["SupplementaryGroups"].split() == ["video", "render"]
    # Any of these closes the GPU's device files off; ProtectClock does, because it implies a DeviceAllow.
    assert service["PrivateDevices"] == "no"
    assert service["DevicePolicy"] == "auto"
    assert not {"DeviceAllow", "ProtectClock", "MemoryDenyWriteExecute", "ProcSubset"} & set(service)


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    there = UNIT.read_text(encoding="utf-8").replace(settings("Service")["ExecStart"], "/bin/true")
    (tmp_path / "edgeq.service").write_text(there, encoding="utf-8")
    command = ["systemd-analyze", "verify", str(tmp_path / "edgeq.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if "edgeq.service" in line]
    newer = ("RestartSteps", "RestartMaxDelaySec")  # of systemd 254; an older one says that it leaves them out
    assert (done.returncode, [line for line in told if not any(f"'{key}'" in line for key in newer)]) == (0, [])


def test_every_key_of_the_configuration_is_explained() -> None:
    lines = CONFIGURATION.read_text(encoding="utf-8").splitlines()
    keys = list(yaml.safe_load("\n".join(lines)))
    assert len(keys) >= 15
    for key in keys:
        (number,) = [number for number, line in enumerate(lines) if line.startswith(f"{key}:")]
        assert lines[number - 1].startswith("# "), key
        assert lines[number - 1].rstrip().endswith((".", "?")), key


def test_the_defaults_are_the_cautious_ones() -> None:
    configuration = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    assert configuration["root"] == constant("STATE")
    assert configuration["host"] == "127.0.0.1"
    assert configuration["image_hosts"] == []
    assert configuration["canaries"] is True
    assert configuration["sequences"] == 4
    assert configuration["reserve_mib"] << 20 == device_profile("orin-nx-16gb").reserve_bytes
