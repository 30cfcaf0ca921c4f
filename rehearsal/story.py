"""A device's life with a classifier's bundle: the installer, releases, the service, a power cut. A step is a line."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from edgeq.doctor.finding import STATUSES
from rehearsal.client import Running, classes, kill, served, stop
from rehearsal.compare import compare_canaries, compare_scores
from rehearsal.device import (
    INSTALLER,
    STORE,
    copy_checkout,
    current_release,
    doctor_findings,
    expect,
    install_release,
    package_versions,
    trust,
    unit_of,
)
from rehearsal.releases import Releases, canary_images
from rehearsal.report import Difference, Steps, UnexpectedError
from rehearsal.root import Machine
from rehearsal.stand_ins import POWER_MODE

__all__ = ["PACKAGES", "Story", "unit_complaints"]

PACKAGES: Final = ("numpy", "onnxruntime", "pillow", "pydantic", "cryptography", "uvloop", "httptools")
"""Whose versions are compared; wheels for a processor."""

_LATER_KEYS: Final = ("RestartSteps", "RestartMaxDelaySec")
_WATCHED: Final = "/var/lib/edgeq-watched"
_INSTALL: Final = (INSTALLER, "--no-language", "--headless", "--power", POWER_MODE)


class Story:
    """The rehearsal of one bundle.

    Args:
        device: the emulated machine, mounted, with its stand-ins.
        here: this machine.
        bundle: a classifier's.
        releases: made of it.
        checkout: of edgeq; its files are copied onto the device.
        work: a directory for logs.
    """

    def __init__(
        self, device: Machine, here: Machine, bundle: Path, releases: Releases, checkout: Path, work: Path
    ) -> None:
        self._device = device
        self._here = here
        self._bundle = bundle
        self._releases = releases
        self._checkout = checkout
        self._work = work
        self._images = canary_images(bundle)
        self._canaries: dict[str, Any] = {}
        self._scores: dict[str, dict[str, float]] = {}
        self.differences: list[Difference] = []
        self.versions: dict[str, str] = {}

    def tell(self, steps: Steps) -> None:
        """Take every step."""
        steps.take(
            "copy the checkout onto the device", lambda: copy_checkout(self._device, self._checkout), essential=True
        )
        steps.take("install.sh --dry-run", self._dry_run)
        steps.take("install.sh", self._install_script, essential=True)
        steps.take("install.sh again", self._install_again)
        steps.take("systemd-analyze verify edgeq.service", self._unit)
        steps.take("edgeq install, release 1, with its canaries", self._first_release, essential=True)
        steps.take("edgeq verify-engine", self._verify_engine)
        steps.take("edgeq doctor, as the user edgeq", self._doctor)
        steps.take("edgeq serve, as the unit starts it, and a client", self._serve)
        steps.take("SIGTERM ends it", self._stop)
        steps.take("edgeq watch", self._watch)
        steps.take("upgrade to release 2", self._upgrade)
        steps.take("release 3, whose canaries fail, is refused", self._failing)
        steps.take("release 1 again, older, is refused", self._older)
        steps.take("edgeq rollback", self._rollback)
        steps.take("power cut while it serves, and start", self._power_cut)
        steps.take("compare with this machine", self._compare)
        steps.take("install.sh --uninstall", self._uninstall)

    # --- the installer ------------------------------------------------------------------------------------------------

    def _dry_run(self) -> str:
        before = self._device.run("find", "/opt", "/etc", "/var/lib", "/usr/local").out
        done = expect(self._device.run(*_INSTALL, "--dry-run"), 0)
        if self._device.run("find", "/opt", "/etc", "/var/lib", "/usr/local").out != before:
            raise UnexpectedError("it changed something")
        return f"{len(done.out.splitlines())} lines, nothing changed"

    def _install_script(self) -> str:
        done = self._device.run(*_INSTALL)
        (self._work / "install.log").write_text(done.out + done.err, encoding="utf-8")
        expect(done, 0)
        self.versions = package_versions(self._device, PACKAGES)
        return "all steps done, and edgeq doctor at its end misses nothing"

    def _install_again(self) -> str:
        done = expect(self._device.run(*_INSTALL, "--no-doctor"), 0)
        lines = [line.strip() for line in done.out.splitlines()]
        changed = [line for line in lines if line.startswith(("write:", "link:", "make:", "run:"))]
        if len(changed) != 1 or " pip " not in changed[0]:
            raise UnexpectedError(f"it changed {changed}")
        return f"{sum(line.startswith('keep:') for line in lines)} things kept, pip alone is run"

    def _unit(self) -> str:
        done = expect(self._device.run("systemd-analyze", "verify", "/etc/systemd/system/edgeq.service"), 0)
        complaints = unit_complaints(done.err)
        if complaints:
            raise UnexpectedError(" ".join(complaints))
        return (
            f"nothing to say but of keys of 254, by systemd {self._device.run('systemctl', '--version').out.split()[1]}"
        )

    # --- releases -----------------------------------------------------------------------------------------------------

    def _first_release(self) -> str:
        trust(self._device, self._releases.public_key)
        return install_release(self._device, self._releases.first)

    def _in_use(self, release: int) -> str:
        current = current_release(self._device)
        if current != release:
            raise UnexpectedError(f"release {current} is in use")
        return f"release {release} is in use"

    def _upgrade(self) -> str:
        install_release(self._device, self._releases.second)
        with self._served() as running:
            self._ask(running, self._images[:1])
        return f"{self._in_use(2)}, and answers"

    def _failing(self) -> str:
        said = install_release(self._device, self._releases.failing, status=1)
        return f"{self._in_use(2)}; {said}"

    def _older(self) -> str:
        said = install_release(self._device, self._releases.first, status=2)
        return f"{self._in_use(2)}; {said}"

    def _rollback(self) -> str:
        expect(self._device.run(*self._device.edgeq, "rollback"), 0)
        return self._in_use(1)

    # --- what it computes ---------------------------------------------------------------------------------------------

    def _verify_engine(self) -> str:
        words = ("verify-engine", f"{STORE}/current", "--seconds", "2", "--json")
        done = expect(self._device.run(*self._device.edgeq, *words), 0)
        self._canaries = json.loads(done.out)
        return str(self._canaries["conclusion"])

    def _doctor(self) -> str:
        found = {name: finding["status"] for name, finding in doctor_findings(self._device).items()}
        if found["TensorRT"] != "warning":
            raise UnexpectedError(f"{found}")
        counts = Counter(found.values())
        return (
            ", ".join(f"{counts[status]} {status}" for status in STATUSES)
            + "; TensorRT, an empty package, is warned of"
        )

    def _served(self) -> AbstractContextManager[Running]:
        unit = unit_of(self._device)
        return served(self._device, unit.command, unit.user, self._work / "serve-arm64.log")

    def _ask(self, running: Running, images: Sequence[Path]) -> dict[str, dict[str, float]]:
        return {image.name: classes(running.address, image) for image in images}

    def _serve(self) -> str:
        with self._served() as running:
            self._scores = self._ask(running, self._images)
        return f"READY=1 after {running.seconds} s, {len(self._scores)} images answered"

    def _stop(self) -> str:
        with self._served() as running:
            status = stop(running)
        if status:
            raise UnexpectedError(f"status {status}")
        return "status 0"

    def _watch(self) -> str:
        user, place = unit_of(self._device).user, self._device.root / _WATCHED[1:]
        expect(self._device.run("install", "--directory", "--owner", user, _WATCHED), 0)
        for image in self._images:
            shutil.copy(image, place)
        expect(self._device.run(*self._device.edgeq, "watch", STORE, _WATCHED, "--once", user=user), 0)
        for image in self._images:
            seen = json.loads((place / f"{image.name}.json").read_text(encoding="utf-8"))["seen"]
            if seen["classes"][0]["label"] != next(iter(self._scores[image.name])):
                raise UnexpectedError(
                    f"{image.name} is {seen['classes'][0]['label']} here, and another class over HTTP"
                )
        return f"{len(self._images)} reports, with the service's classes"

    def _power_cut(self) -> str:
        with self._served() as running:
            kill(running.process)
        if running.process.returncode != -signal.SIGKILL:
            raise UnexpectedError(f"it had ended with {running.process.returncode}")
        with self._served() as again:
            answered = self._ask(again, self._images[:1])
        if answered != {name: self._scores[name] for name in answered}:
            raise UnexpectedError("it answers otherwise than before")
        return f"{self._in_use(1)} {again.seconds} s after its start, and answers as before"

    def _compare(self) -> str:
        words = ("verify-engine", str(self._bundle), "--seconds", "2", "--json")
        here = json.loads(expect(self._here.run(*self._here.edgeq, *words), 0).out)
        self.differences += compare_canaries(here, self._canaries)
        with served(
            self._here, (*self._here.edgeq, "serve", str(self._bundle)), "", self._work / "serve.log"
        ) as running:
            scores = self._ask(running, self._images)
        self.differences += compare_scores(scores, self._scores)
        beyond = [difference.what for difference in self.differences if not difference.within]
        if beyond:
            raise UnexpectedError(f"beyond the bound: {'; '.join(beyond)}")
        return f"{len(self.differences)} lines, all within their bounds"

    def _uninstall(self) -> str:
        expect(self._device.run(_INSTALL[0], "--uninstall"), 0)
        self._in_use(1)
        left = [name for name in ("opt/edgeq", "usr/local/bin/edgeq") if (self._device.root / name).exists()]
        if left:
            raise UnexpectedError(f"still there: {left}")
        return "bundles, configuration and user stay"


def unit_complaints(said: str) -> list[str]:
    """What `systemd-analyze verify` says of edgeq.service, but for keys of systemd 254, which older ones pass over."""
    lines = [line for line in said.splitlines() if "edgeq.service" in line]
    return [line for line in lines if not any(f"Unknown key '{key}'" in line for key in _LATER_KEYS)]
