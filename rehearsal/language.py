"""A device's life with a vision-language bundle: torch and bitsandbytes, a release, an answer, a chat."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rehearsal.client import ChatAnswer, chat, served, stop
from rehearsal.compare import compare_answers, compare_chats, compare_features
from rehearsal.device import (
    INSTALLER,
    STORE,
    copy_checkout,
    doctor_findings,
    expect,
    package_versions,
    unit_of,
)
from rehearsal.first_day import PAGE, lacking_lines, read_first_day
from rehearsal.releases import Release
from rehearsal.report import Difference, Steps, UnexpectedError
from rehearsal.root import Machine

__all__ = ["LANGUAGE_PACKAGES", "LanguageStory"]

LANGUAGE_PACKAGES: Final = ("torch", "bitsandbytes", "transformers", "tokenizers", "safetensors", "accelerate")
"""Whose versions are compared."""

_WHEELS: Final = "/root/wheels"
_ASKED: Final = "/var/lib/edgeq-asked"
_READY_S: Final = 1500.0
_VERB_S: Final = 3600.0
_KEY, _PACKED, _REPORT, _BENCH = (
    "/root/team.public.pem",
    "/root/inspector.edgeq.tar",
    "/root/report.json",
    "/root/bench.json",
)
_HERE: Final = {
    "jetson/install.sh": INSTALLER,
    "WHEELS": _WHEELS,
    "team.public.pem": _KEY,
    "inspector.edgeq.tar": _PACKED,
    "report.json": _REPORT,
    "bench.json": "/root/bench.json",
    "tensorrt": "onnxruntime",
}
"""What stands in the first day's commands for what a person has, and for TensorRT."""
_SHORT: Final = ("--tokens", "4", "--clients", "1", "--repeats", "2", "--warmup", "1")
"""For the first day's bench: an emulated machine has no speed to measure."""


class LanguageStory:
    """The rehearsal of one vision-language bundle, on a device of its own.

    Args:
        device: the emulated machine, mounted, with its stand-ins.
        here: this machine.
        bundle: a vision-language one, with canaries.
        release: made of it.
        wheels: a directory with torch's and bitsandbytes' for the device.
        checkout: of edgeq; its files are copied onto the device.
        work: a directory for logs.
    """

    def __init__(
        self,
        device: Machine,
        here: Machine,
        bundle: Path,
        release: Release,
        wheels: Path,
        checkout: Path,
        work: Path,
    ) -> None:
        self._device = device
        self._here = here
        self._bundle = bundle
        self._release = release
        self._wheels = wheels
        self._checkout = checkout
        self._work = work
        listed = json.loads((bundle / "canaries/canaries.json").read_text(encoding="utf-8"))["canaries"]
        self._questions = [(bundle / "canaries" / each["image"], str(each["question"])) for each in listed]
        self._canaries: dict[str, Any] = {}
        self._answers: list[str] = []
        self._chat: ChatAnswer | None = None
        self.differences: list[Difference] = []
        self.versions: dict[str, str] = {}

    def tell(self, steps: Steps) -> None:
        """Take every step."""
        steps.take("language: copy the checkout", lambda: copy_checkout(self._device, self._checkout), essential=True)
        steps.take("language: first day 1, the release", lambda: self._day(1))
        steps.take("language: first day 2, install.sh --dry-run", self._dry_run)
        steps.take("language: first day 3, install.sh with wheels", self._install_script, essential=True)
        steps.take("language: first day 4 and 5, edgeq install --answers", self._install, essential=True)
        steps.take("language: first day 6, edgeq doctor", self._doctor)
        steps.take("language: first day 7, edgeq verify-engine --answers", self._verify_engine)
        steps.take("language: first day 8, edgeq bench, short", lambda: self._day(8, *_SHORT))
        steps.take("language: first day 9, edgeq run", lambda: self._day(9))
        steps.take("language: edgeq run on each canary", self._run)
        steps.take("language: edgeq serve, as the unit starts it, and a streamed chat", self._serve)
        steps.take("language: compare with this machine", self._compare)

    def _day(self, number: int, *more: str) -> str:
        """Run a command of jetson/FIRST_DAY.md; it must print what the page says. Gives what it printed."""
        (command,) = read_first_day(PAGE.read_text(encoding="utf-8"))[number]
        done = expect(self._device.run(*command.with_words(_HERE), *more, user=command.user, seconds=_VERB_S), 0)
        (self._work / f"first-day-{number}.log").write_text(done.out + done.err, encoding="utf-8")
        lacking = lacking_lines(done.out + done.err, command.prints)
        if lacking:
            raise UnexpectedError(f"it does not print {lacking}: {done.said}")
        return done.out

    def _dry_run(self) -> str:
        shutil.copytree(self._wheels, self._device.root / _WHEELS[1:])
        return f"{len(self._day(2).splitlines())} lines"

    def _install_script(self) -> str:
        (judged,) = [line for line in self._day(3).splitlines() if line.startswith("NF4 kernel: ")]
        self.versions = package_versions(self._device, LANGUAGE_PACKAGES)
        return judged

    def _install(self) -> str:
        shutil.copy(self._release.public_key, self._device.root / _KEY[1:])
        shutil.copy(self._release.packed, self._device.root / _PACKED[1:])
        self._day(4)
        return self._day(5)

    def _doctor(self) -> str:
        self._day(6)
        finding = doctor_findings(self._device)["NF4 kernel"]
        if "multiplied NF4 weights on cpu" not in finding["seen"] or "own library" in finding["means"]:
            raise UnexpectedError(f"{finding['seen']}: {finding['means']}")
        return f"{finding['seen']}; {finding['means']}"

    def _verify_engine(self) -> str:
        said = self._day(7).strip().splitlines()[-1]
        report = (self._device.root / _REPORT[1:]).read_text(encoding="utf-8")
        self._canaries = json.loads(report)
        return said

    def _verified(self, machine: Machine, bundle: str) -> dict[str, Any]:
        words = (*machine.edgeq, "verify-engine", bundle, "--answers", "--seconds", "2", "--json")
        report: dict[str, Any] = json.loads(expect(machine.run(*words, seconds=_VERB_S), 0).out)
        return report

    def _run(self) -> str:
        place = self._device.root / _ASKED[1:]
        place.mkdir()
        for image, _ in self._questions:
            shutil.copy(image, place)
        asked = [(f"{_ASKED}/{image.name}", question) for image, question in self._questions]
        self._answers = self._asked(self._device, f"{STORE}/current", asked, unit_of(self._device).user)
        return " / ".join(self._answers)

    def _asked(self, machine: Machine, bundle: str, asked: Sequence[tuple[str, str]], user: str = "") -> list[str]:
        return [
            json.loads(
                expect(
                    machine.run(*machine.edgeq, "run", bundle, image, question, "--json", user=user, seconds=_VERB_S), 0
                ).out
            )["text"]
            for image, question in asked
        ]

    def _serve(self) -> str:
        unit = unit_of(self._device)
        log = self._work / "serve-language-arm64.log"
        with served(self._device, unit.command, unit.user, log, seconds=_READY_S) as running:
            self._chat = chat(running.address, *self._questions[0])
            status = stop(running)
        if status:
            raise UnexpectedError(f"SIGTERM ended it with status {status}")
        return (
            f"READY=1 after {running.seconds} s; {len(self._chat.tokens)} tokens in {self._chat.pieces} pieces: "
            f"{self._chat.text}; SIGTERM: status 0"
        )

    def _compare(self) -> str:
        self.differences += compare_features(self._verified(self._here, str(self._bundle)), self._canaries)
        asked = [(str(image), question) for image, question in self._questions]
        self.differences += compare_answers(self._asked(self._here, str(self._bundle), asked), self._answers)
        words = (*self._here.edgeq, "serve", str(self._bundle))
        with served(self._here, words, "", self._work / "serve-language.log") as running:
            here = chat(running.address, *self._questions[0])
        if self._chat is not None:
            self.differences += compare_chats(here, self._chat)
        beyond = [difference.what for difference in self.differences if not difference.within]
        if beyond:
            raise UnexpectedError(f"beyond the bound: {'; '.join(beyond)}")
        return f"{len(self.differences)} lines, all within their bounds"
