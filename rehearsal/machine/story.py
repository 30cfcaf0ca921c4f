"""What a device does from its power button on, under its own systemd: start, answer, hang, grow too large, stop."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from rehearsal.machine.emulator import Booted, Hardware, booted
from rehearsal.machine.image import GUEST, TOKEN, Disk
from rehearsal.releases import canary_images
from rehearsal.report import Steps, UnexpectedError
from rehearsal.root import Done

__all__ = ["BootStory", "shown"]

_BOOT_S: Final = 900.0
_READY_S: Final = 600.0
_LOGIN: Final = "Debian GNU/Linux"
"""Of the line before `login:`, which has no end."""

_KEY: Final = "/etc/edgeq/keys/team.public.pem"
_AT_ONCE: Final = 8
"""Requests that are under way when the service is told to stop."""


def shown(text: str) -> dict[str, str]:
    """Properties as `systemctl show` prints them."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


class BootStory:
    """The rehearsal of one disk, with 2 GB of memory.

    Args:
        disk: its image is not written to.
        bundle: a classifier's, whose canaries are asked for.
        work: for logs and what the machine writes.
    """

    def __init__(self, disk: Disk, bundle: Path, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._work = work
        self._images = canary_images(bundle)
        self._expected = _expected(bundle)
        overlay = work / "boot.qcow2"
        make = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk.image.resolve()), str(overlay)]
        subprocess.run(make, check=True)
        nodes = (
            f"driver=file,filename={overlay},node-name=file,cache.no-flush=on",
            "driver=qcow2,file=file,node-name=disk",
        )
        self._hardware = Hardware(disk.kernel, disk.initramfs, nodes, words=("systemd.show_status=no",))
        self._machine: Booted | None = None

    def tell(self, steps: Steps) -> None:
        """Take every step."""
        with self._on():
            if not steps.take("boot, without a bundle", self._first_boot, essential=True):
                return
            steps.take("edgeq install, with its canaries, and systemctl enable", self._install, essential=True)
            steps.take("systemctl poweroff", self._poweroff)
        with self._on():
            steps.take("the service starts with the machine", self._starts, essential=True)
            steps.take("a client asks for every canary", self._ask_all)
            steps.take("what systemd holds it to", self._properties)
            steps.take("systemd-analyze security", self._security)
            steps.take("journald has its lines", self._journal)
            steps.take("systemctl reload", self._reload)
            steps.take("a stop that drains", self._drain)
            steps.take("a service that hangs (SIGSTOP) is killed by the watchdog, and comes back", self._watchdog)
            steps.take("a service that grows above MemoryMax is killed, and comes back", self._memory_max)
            steps.take("a bundle that needs 8 GB is refused by edgeq install", self._needs)
            steps.take("edgeq doctor: a memory plan of 6 GB does not fit", self._doctor)
            steps.take("power cut while it serves", self._cut)
        with self._on():
            steps.take("it starts by itself after the cut", self._starts)
            steps.take("and answers as before", self._ask_all)

    @contextmanager
    def _on(self) -> Iterator[None]:
        with booted(self._hardware, self._work / "boot-console.log") as machine:
            self._machine = machine
            yield

    @property
    def _on_now(self) -> Booted:
        assert self._machine is not None
        return self._machine

    def _run(self, *words: str, status: int | None = 0, seconds: float = 600) -> Done:
        done = self._on_now.run(*words, seconds=seconds)
        if status is not None and done.status != status:
            raise UnexpectedError(f"{' '.join(words)}: status {done.status}, not {status}: {done.said}")
        return done

    # --- on and off ---------------------------------------------------------------------------------------------------

    def _first_boot(self) -> str:
        machine = self._on_now
        machine.wait_for(_LOGIN, _BOOT_S)
        state = self._run("systemctl", "is-system-running", "--wait", status=None).out.strip()
        if state != "running":
            raise UnexpectedError(f"{state}: {self._run('systemctl', '--failed', '--no-legend').out}")
        kernel, took = self._run("uname", "-rm").out.strip(), machine.seconds
        version = self._run("systemctl", "--version").out.split()[1]
        return f"{kernel}, systemd {version}, running after {took:.0f} s"

    def _install(self) -> str:
        done = self._run("edgeq", "install", f"{GUEST}/release1.edgeq.tar", "--key", _KEY, seconds=1200)
        self._run("systemctl", "enable", "edgeq")
        return done.out

    def _poweroff(self) -> str:
        self._run("systemctl", "poweroff", status=None)
        self._on_now.wait_off(_BOOT_S)
        return "off"

    def _starts(self) -> str:
        self._on_now.wait_for(_LOGIN, _BOOT_S)
        self._wait_ready(_READY_S)
        found = self._show("ActiveState", "NRestarts")
        if found != {"ActiveState": "active", "NRestarts": "0"}:
            raise UnexpectedError(str(found))
        return f"ready {self._on_now.seconds:.0f} s after the power button, nobody having logged in"

    def _cut(self) -> str:
        self._on_now.cut_power()
        return "SIGKILL of QEMU"

    # --- the service --------------------------------------------------------------------------------------------------

    def _show(self, *names: str) -> dict[str, str]:
        return shown(self._run("systemctl", "show", "edgeq", f"--property={','.join(names)}").out)

    def _get(self, path: str, body: bytes | None = None, seconds: float = 120) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._on_now.address}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def _wait_ready(self, seconds: float, *, other_than: str = "") -> None:
        """Until it answers, as another process than the one with this number."""
        until, last = time.monotonic() + seconds, ""
        while time.monotonic() < until:
            try:
                status, body = self._get("/health/ready", seconds=30)
                last = f"{status} {body[:200]!r}"
                if status == 200 and self._show("MainPID")["MainPID"] not in ("0", other_than):
                    return
            except OSError as error:
                last = str(error)
            time.sleep(0.5)
        journal = self._run("journalctl", "--unit=edgeq", "--lines=6", "--output=cat", status=None).out
        raise UnexpectedError(f"not ready after {seconds:.0f} s: {last}; {journal}")

    def _classify(self, image: Path) -> str:
        status, body = self._get("/v1/classify", _question(image), 300)
        if status != 200:
            raise UnexpectedError(f"{image.name}: {status} {body[:200]!r}")
        return str(json.loads(body)["classes"][0]["label"])

    def _ask_all(self) -> str:
        said = {image.name: self._classify(image) for image in self._images}
        if said != self._expected:
            raise UnexpectedError(f"{said}, not {self._expected}")
        return f"{len(said)} of {len(said)} have the class that the workshop saw"

    def _properties(self) -> str:
        names = ("Type", "NotifyAccess", "WatchdogUSec", "MemoryMax", "User", "NoNewPrivileges", "ControlGroup")
        found = self._show(*names)
        limit = int(self._run("cat", f"/sys/fs/cgroup{found['ControlGroup']}/memory.max").out)
        total = int(re.findall(r"MemTotal: +(\d+)", self._run("cat", "/proc/meminfo").out)[0]) << 10
        if (found["Type"], found["NotifyAccess"], found["User"]) != ("notify", "main", "edgeq"):
            raise UnexpectedError(str(found))
        return (
            f"Type=notify, WatchdogSec={found['WatchdogUSec']}, as {found['User']}; memory.max {limit / 1e9:.2f} GB, "
            f"{limit / total:.0%} of {total / 1e9:.2f} GB"
        )

    def _security(self) -> str:
        text = self._run("systemd-analyze", "security", "--no-pager", "edgeq.service").out
        (self._work / "security.txt").write_text(text, encoding="utf-8")
        found = re.search(r"Overall exposure level for edgeq.service: (\S+ \S+)", text)
        if found is None:
            raise UnexpectedError(text[-300:])
        return f"overall exposure {found[1]}, and clients are answered"

    def _journal(self) -> str:
        said = self._run("journalctl", "--unit=edgeq", "--boot", "--output=json", "--no-pager").out
        entries = [json.loads(line) for line in said.splitlines()]
        own = [str(entry["MESSAGE"]) for entry in entries if entry.get("_COMM") == "edgeq"]
        if not any("started" in line for line in own):
            raise UnexpectedError(f"{len(own)} lines of its own: {own[:5]}")
        return f"{len(own)} lines of its own, among them its start"

    def _reload(self) -> str:
        before = self._show("MainPID")["MainPID"]
        done = self._run("systemctl", "reload", "edgeq", status=None)
        if done.status:
            raise UnexpectedError(done.said)
        self._wait_ready(_READY_S)
        now = self._show("MainPID", "NRestarts", "ActiveState")
        if now != {"MainPID": before, "NRestarts": "0", "ActiveState": "active"}:
            raise UnexpectedError(f"{now}, before process {before}")
        return "the same process goes on"

    def _drain(self) -> str:
        body = _question(self._images[0])
        answers, first, lock = list[int](), threading.Event(), threading.Lock()

        def ask() -> None:
            try:
                status = self._get("/v1/classify", body, 600)[0]
            except OSError:
                status = 0
            with lock:
                answers.append(status)
            first.set()

        threads = [threading.Thread(target=ask) for _ in range(_AT_ONCE)]
        for thread in threads:
            thread.start()
        if not first.wait(600):
            raise UnexpectedError("no answer")
        under_way = _AT_ONCE - len(answers)
        done = self._run("systemctl", "stop", "edgeq")
        for thread in threads:
            thread.join()
        found = self._show("Result", "ActiveState", "ExecMainStatus")
        journal = self._run("journalctl", "--unit=edgeq", "--lines=8", "--output=cat").out
        draining = re.search(r'"?draining"?.*', journal)
        self._run("systemctl", "start", "edgeq", seconds=900)
        if set(answers) != {200} or found["Result"] != "success":
            raise UnexpectedError(f"answers {answers}, {found}")
        told = f"; {draining[0][:80]}" if draining else ""
        return f"{under_way} requests were open, all answered 200; stopped in {done.seconds:.1f} s{told}"

    def _watchdog(self) -> str:
        before = self._show("MainPID", "NRestarts")
        begin = time.monotonic()
        self._run("systemctl", "kill", "--kill-whom=main", "--signal=SIGSTOP", "edgeq")  # there may be no /bin/kill
        while self._show("MainPID")["MainPID"] == before["MainPID"]:
            if time.monotonic() - begin > _READY_S:
                raise UnexpectedError(f"after {_READY_S:.0f} s it is still there, stopped")
            time.sleep(1)
        ended = time.monotonic() - begin
        self._wait_ready(_READY_S, other_than=before["MainPID"])
        journal = self._run("journalctl", "--unit=edgeq", "--lines=60", "--output=cat").out
        if "atchdog timeout" not in journal:
            raise UnexpectedError(journal[-400:])
        restarts = self._show("NRestarts")["NRestarts"]
        again = time.monotonic() - begin
        return f"killed {ended:.0f} s after it hung, answers again after {again:.0f} s; restarts {restarts}"

    def _memory_max(self) -> str:
        before = self._show("MainPID", "MemoryCurrent")
        self._run("systemctl", "set-property", "--runtime", "edgeq", "MemoryMax=24M", "MemorySwapMax=0", status=None)
        begin = time.monotonic()
        with suppress(OSError):
            self._get("/v1/classify", _question(self._images[0]), 60)
        while "oom-kill" not in self._run("journalctl", "--unit=edgeq", "--lines=40", "--output=cat").out:
            if time.monotonic() - begin > _READY_S:
                raise UnexpectedError("it was not ended")
            time.sleep(1)
        self._run("systemctl", "set-property", "--runtime", "edgeq", "MemoryMax=90%", "MemorySwapMax=1G")
        self._wait_ready(_READY_S, other_than=before["MainPID"])
        return (
            f"with MemoryMax=24M the kernel ended it (it held {int(before['MemoryCurrent']) / 1e6:.0f} MB); "
            f"with 90 % it answers again after {time.monotonic() - begin:.0f} s, and the machine went on"
        )

    # --- memory as on a device ----------------------------------------------------------------------------------------

    def _needs(self) -> str:
        done = self._run("edgeq", "install", f"{GUEST}/large.edgeq.tar", "--key", _KEY, status=2)
        if not re.search(r"needs 8\.0 GB of memory, there is \d", done.said):
            raise UnexpectedError(done.said)
        self._wait_ready(60)
        return done.said

    def _doctor(self) -> str:
        before = self._out_of_memory()
        done = self._run("edgeq", "doctor", f"{GUEST}/planned", "--json", status=1, seconds=900)
        findings = {each["name"]: each for each in json.loads(done.out)["findings"]}
        found = findings["allocation"]
        if found["status"] != "missing" or "wanted" not in found["seen"]:
            raise UnexpectedError(str(found))
        if self._out_of_memory() != before:
            raise UnexpectedError(self._out_of_memory()[-300:])
        self._wait_ready(60)
        return f"{found['seen']}; the kernel killed nothing, and the service goes on"

    def _out_of_memory(self) -> str:
        """What the kernel has said of it since it began."""
        return self._run("journalctl", "--dmesg", "--boot", "--grep=Out of memory", "--output=cat", status=None).out


def _expected(bundle: Path) -> dict[str, str]:
    """Image -> the class that the workshop saw."""
    listed: dict[str, Any] = json.loads((bundle / "canaries/canaries.json").read_text(encoding="utf-8"))
    labels = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["labels"]
    import numpy as np

    logits = np.load(bundle / "canaries" / listed["int8_logits"])
    return {
        Path(entry["image"]).name: labels[int(row.argmax())]
        for entry, row in zip(listed["canaries"], logits, strict=True)
    }


def _question(image: Path) -> bytes:
    url = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    return json.dumps({"image": url}).encode()
