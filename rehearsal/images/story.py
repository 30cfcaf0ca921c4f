"""What is done with the images, one step after the other."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from rehearsal.client import classes, free_port
from rehearsal.images.base import BASE, base_image, wheels
from rehearsal.images.compose import COMPOSE, flags_of, read_services, validate
from rehearsal.images.engine import ContainerEngine
from rehearsal.images.report import BuiltImage, Layer
from rehearsal.releases import canary_images
from rehearsal.report import Steps, UnexpectedError

__all__ = ["RIGHTS", "ImagesStory", "broken_rights"]

_USER: Final = 10001
_VOLUME: Final = "edgeq-rehearsal-bundles"
_NAME: Final = "edgeq-rehearsal-serve"
_TOKEN: Final = "rehearsal-of-the-images-0123456789"
_READY_S: Final = 600.0
_STOP_S: Final = "60"

RIGHTS: Final = """
import json, os, tempfile
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
places = ("/", "/etc", "/opt/edgeq", "/usr", "/var", "/tmp", "/work", "/var/lib/edgeq")
def writable(place):
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            return True
    except OSError:
        return False
print(json.dumps({
    "user": os.getuid(),
    "capabilities": int(status["CapBnd"], 16) | int(status["CapEff"], 16),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "writable": [place for place in places if writable(place)],
}))
"""
"""A program that tells, inside a container, what its process may do."""


def broken_rights(found: dict[str, Any], writable: Sequence[str]) -> list[str]:
    """What a process may that it should not, or may not that it should.

    Args:
        found: what RIGHTS printed.
        writable: where it should be able to write.
    """
    wrong = list[str]()
    if found["user"] != _USER:
        wrong.append(f"its user is {found['user']}")
    if found["capabilities"]:
        wrong.append(f"its capabilities are {found['capabilities']:#x}")
    if found["no_new_privileges"] != 1:
        wrong.append("it may get new privileges")
    if found["writable"] != list(writable):
        wrong.append(f"it writes in {found['writable']}, and should in {list(writable)}")
    return wrong


class ImagesStory:
    """Builds the images and runs them.

    Args:
        engine: that does it.
        cache: a directory that stays.
        work: a directory for this time.
    """

    def __init__(self, engine: ContainerEngine, cache: Path, work: Path) -> None:
        self._engine = engine
        self._cache = cache
        self._work = work
        self._services = read_services()
        self._port = free_port()
        self._address = ""
        self.images: list[BuiltImage] = []

    def tell(self, steps: Steps) -> None:
        """Take all steps; what was started is ended."""
        try:
            self._build(steps)
            self._run_workshop(steps)
            self._run_device(steps)
        finally:
            for words in (("rm", "--force", _NAME), ("volume", "rm", "--force", _VOLUME)):
                self._quietly(*words)

    def _build(self, steps: Steps) -> None:
        contexts = {name: self._cache / name for name in ("wheels", "bitsandbytes")}
        steps.take("compose.yaml against Compose's schema", validate)
        steps.take("a stand-in for the base images", lambda: base_image(self._engine, self._cache), essential=True)
        steps.take("torch's wheel", lambda: wheels("torch", contexts["wheels"]), essential=True)
        steps.take("bitsandbytes' wheel", lambda: wheels("bitsandbytes", contexts["bitsandbytes"]), essential=True)
        for file, argument, target in (
            ("workshop", "PYTHON_IMAGE", "workshop"),
            ("device", "L4T_IMAGE", "vision"),
            ("device", "L4T_IMAGE", "device"),
        ):
            steps.take(
                f"build {file}.Dockerfile, stage {target}",
                partial(self._build_one, file, argument, target, contexts),
                essential=True,
            )

    def _build_one(self, file: str, argument: str, target: str, contexts: dict[str, Path]) -> str:
        wanted = {} if target == "vision" else contexts if target == "device" else {"wheels": contexts["wheels"]}
        path = COMPOSE.with_name(f"{file}.Dockerfile")
        self._engine.build(path, target, _tag(target), {argument: BASE}, wanted)
        facts, base = self._engine.facts(_tag(target)), self._engine.facts(BASE)
        image = BuiltImage(
            name=target,
            bytes=facts.bytes,
            base_bytes=base.bytes,
            layers=facts.layers,
            user=facts.user,
            entrypoint=facts.entrypoint,
            command=facts.command,
            own_layers=tuple(Layer(bytes=size, made_by=made) for size, made in facts.own_layers),
        )
        self.images.append(image)
        if image.user.partition(":")[0] in ("", "0", "root"):
            raise UnexpectedError(f"the image's user is {image.user or 'root'}")
        return f"{image.bytes / 1e9:.2f} GB in {image.layers} layers, user {image.user}"

    def _run_workshop(self, steps: Steps) -> None:
        (self._work / "out").mkdir(parents=True)
        shutil.chown(self._work / "out", _USER, _USER)
        steps.take(
            "workshop: user, capabilities, root file system", lambda: self._rights("workshop", ("/tmp", "/work"))
        )
        steps.take("workshop: edgeq demo, without its vision-language model", self._demo, essential=True)

    def _run_device(self, steps: Steps) -> None:
        writable = ("/tmp", "/var/lib/edgeq")
        steps.take("device: user, capabilities, root file system", lambda: self._rights("device", writable))
        for image in ("device", "vision"):
            steps.take(f"{image}: edgeq doctor", partial(self._doctor, image))
        steps.take("device: edgeq install", self._install, essential=True)
        steps.take("serve: the health check fails where nothing is served", self._unhealthy)
        steps.take("serve: the health check passes", self._serve, essential=True)
        steps.take("serve: a client", self._ask)
        steps.take("serve: no token, no answer", self._refused)
        steps.take("serve: told to stop", self._stop)

    def _flags(self, service: str) -> list[str]:
        places = {"/work": str(self._work / "out"), "/var/lib/edgeq": _VOLUME}
        return flags_of(self._services[service], places)

    def _rights(self, service: str, writable: Sequence[str]) -> str:
        said = self._engine.run(_tag(service), [*self._flags(service), "--entrypoint=python"], "-c", RIGHTS)
        if wrong := broken_rights(json.loads(said), writable):
            raise UnexpectedError("; ".join(wrong))
        return f"{_USER}, none, read-only but for {', '.join(writable)}"

    def _demo(self) -> str:
        said = self._engine.run(
            _tag("workshop"), self._flags("workshop"), "demo", "--scenes", "0", "--output", "/work/demo", "--json"
        )
        json.loads(said)
        return f"a bundle of {len(list((self._work / 'out/demo/bundle').rglob('*')))} files"

    def _doctor(self, image: str) -> str:
        found = json.loads(self._engine.run(_tag(image), self._flags("device"), "doctor", "--json"))
        if not found["able"]:
            raise UnexpectedError(str([finding for finding in found["findings"] if finding["status"] == "missing"]))
        known = (finding for finding in found["findings"] if finding["status"] != "unknown")
        return ", ".join(f"{finding['name']} {finding['status']}" for finding in known)

    def _install(self) -> str:
        said = self._engine.run(_tag("device"), self._flags("device"), "install", "/work/demo/bundle")
        return said.strip()

    def _unhealthy(self) -> str:
        test: list[str] = self._services["serve"]["healthcheck"]["test"][1:]
        try:
            self._engine.run(_tag("device"), [*self._flags("device"), f"--entrypoint={test[0]}"], *test[1:])
        except UnexpectedError as error:
            return str(error)
        raise UnexpectedError("it passes")

    def _serve(self) -> str:
        service, begin = self._services["serve"], time.monotonic()
        (port,) = service["ports"]
        address, _, inside = port.split(":")
        flags = [*self._flags("serve"), f"--env=EDGEQ_TOKEN={_TOKEN}", f"--name={_NAME}"]
        flags.append(f"--publish={address}:{self._port}:{inside}")
        self._address = f"http://{address}:{self._port}"
        self._engine.start(_tag("device"), flags, *service["command"])
        test: list[str] = service["healthcheck"]["test"][1:]
        while time.monotonic() - begin < _READY_S:
            if not self._engine.inspect(_NAME)["State"]["Running"]:
                raise UnexpectedError(f"it ended: {self._engine.call('logs', _NAME)[-300:]}")
            try:
                self._engine.call("exec", _NAME, *test)
            except UnexpectedError:
                time.sleep(1)
            else:
                return f"{time.monotonic() - begin:.1f} s after its start"
        raise UnexpectedError(f"it did not within {_READY_S:.0f} s")

    def _ask(self) -> str:
        bundle = self._work / "out/demo/bundle"
        labels = json.loads((bundle / "config.json").read_text(encoding="utf-8"))["id2label"]
        logits = np.load(bundle / "canaries/int8.npy")
        images = canary_images(bundle)
        answers = [next(iter(classes(self._address, image, _TOKEN))) for image in images]
        expected = [labels[str(index)] for index in logits.argmax(axis=1)]
        if answers != expected:
            raise UnexpectedError(f"it says {answers}, and the workshop said {expected}")
        return f"{len(images)} of {len(images)} images of the same class as in the workshop's image"

    def _refused(self) -> str:
        try:
            classes(self._address, canary_images(self._work / "out/demo/bundle")[0])
        except urllib.error.HTTPError as error:
            if error.code == 401:
                return "401"
            raise UnexpectedError(f"HTTP {error.code}") from error
        raise UnexpectedError("it answers")

    def _stop(self) -> str:
        begin = time.monotonic()
        self._engine.call("stop", "-t", _STOP_S, _NAME)
        took = time.monotonic() - begin
        status = self._engine.inspect(_NAME)["State"]["ExitCode"]
        if status:
            raise UnexpectedError(f"status {status} after {took:.1f} s")
        return f"status 0 after {took:.1f} s"

    def _quietly(self, *words: str) -> None:
        with suppress(UnexpectedError):
            self._engine.call(*words)


def _tag(stage: str) -> str:
    return f"localhost/edgeq-rehearsal-{stage}:built"
