"""The whole way on a tiny vision-language model and a tiny classifier: from the bundle's directory to an answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from classifier_bundle import classifier_bundle
from packed import rewrite
from running import Running, chat, data_uri, question, running

from edgeq.bundle.keys import make_keys
from edgeq.bundle.manifest import write_manifest
from edgeq.bundle.needs import DeviceFacts, DeviceNeeds
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, GateError, InputError
from edgeq.files import read_json_object
from edgeq.model.images.decode import decode_image
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.runtime.canary.canaries import CANARIES
from edgeq.runtime.vlm.model import open_vlm
from edgeq.service.load_bundle import find_bundle, open_served
from edgeq.service.settings import ServiceSettings

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

SETTINGS = ServiceSettings(threads=1, reserve_mib=64, memory_gb=2, backend="onnxruntime")
QUESTIONS = ("what is it?", "is it blue?", "where?")


@pytest.fixture(scope="module")
def service(prepared_vlm: PreparedVlm) -> Iterator[Running]:
    with running(open_served(prepared_vlm.bundle, SETTINGS)) as service:
        yield service


@pytest.fixture
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_bundle(tmp_path_factory)


def test_answers_are_those_of_the_model_alone(
    service: Running, prepared_vlm: PreparedVlm, tiny_photographs: Path
) -> None:
    """Six requests at once, in pieces and whole, against one after another without the service."""
    photographs = sorted(tiny_photographs.rglob("*.jpg"))[:2]
    vlm = open_vlm(prepared_vlm.bundle, threads=1)
    cases = [(path, text) for path in photographs for text in QUESTIONS]
    wanted = [vlm.ask(decode_image(path.read_bytes(), path.name), text, 6).text for path, text in cases]
    client, name = service.openai(), service.service.served.name

    def ask(number: int) -> str:
        path, text = cases[number]
        messages = question(text, data_uri(path.read_bytes(), "image/jpeg"))
        if number % 2:
            answer = client.chat.completions.create(model=name, messages=messages, max_tokens=6)
            return answer.choices[0].message.content or ""
        pieces = client.chat.completions.create(model=name, messages=messages, max_tokens=6, stream=True)
        return "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices).strip()

    with ThreadPoolExecutor(len(cases)) as together:
        assert list(together.map(ask, range(len(cases)))) == wanted


def test_it_is_named_by_its_directory_and_its_canaries_passed(service: Running, prepared_vlm: PreparedVlm) -> None:
    served = service.service.served
    assert served.name == prepared_vlm.bundle.name
    assert served.canaries is not None
    assert served.canaries.passed
    assert served.backend.startswith("onnxruntime")


def test_a_report_on_a_photograph(service: Running, tiny_photographs: Path) -> None:
    """Random weights see nothing: all that can be known is unknown, and the form is kept."""
    data = next(tiny_photographs.rglob("*.jpg")).read_bytes()
    body = {"image": data_uri(data, "image/jpeg"), "question": "what is it?", "max_tokens": 4}
    report = service.http.post("/v1/inspect", json=body).json()
    assert set(report) == {"version", "damage", "place", "severity", "action", "text", "complete"}
    assert report["damage"] is None


def test_what_the_runtime_refuses(service: Running) -> None:
    """Each character is a token, and the context is 64."""
    name = service.service.served.name
    answer = service.http.post("/v1/chat/completions", json=chat("a" * 100) | {"model": name})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "context_length_exceeded")
    assert "106 tokens, 4 of them of images, and the context is 64" in answer.json()["error"]["message"]


def test_no_memory_for_one_request(prepared_vlm: PreparedVlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before anything is loaded: of a bundle that does not fit, the kernel would end the process there."""
    for name in ("load_vlm", "run_canaries"):
        monkeypatch.setattr(f"edgeq.service.load_bundle.{name}", lambda *_, **__: pytest.fail("something was loaded"))
    with pytest.raises(InputError, match="leaves no memory for requests"):
        open_served(prepared_vlm.bundle, SETTINGS.model_copy(update={"memory_gb": 1e-3}))


# ---- a classifier


def test_classes_are_those_of_the_graph_alone(classifier: Path, tiny_photographs: Path) -> None:
    data = next(tiny_photographs.rglob("*.jpg")).read_bytes()
    preprocess = read_preprocess(read_json_object(classifier / "preprocessor_config.json"))
    pixels = preprocess(decode_image(data, "it"))
    engine = OnnxRuntimeEngine(classifier / "model.int8.ort.onnx", threads=1)
    logits = engine.run({engine.inputs[0]: pixels[None]})[engine.outputs[0]][0]
    with running(open_served(classifier, SETTINGS)) as service:
        answer = service.http.post("/v1/classify", json={"image": data_uri(data, "image/jpeg")}).json()
        best = answer["classes"][0]
        assert best["index"] == int(logits.argmax())
        assert best["label"] == service.service.served.manifest.labels[best["index"]]


def test_an_engine_that_does_not_compute_what_the_workshop_saw(classifier: Path, tmp_path: Path) -> None:
    """The canaries' pictures are exchanged: what the workshop saw is not on them."""
    bundle = shutil.copytree(classifier, tmp_path / "b")
    first, *_, last = sorted((bundle / CANARIES).glob("*.png"))
    for path in (bundle / CANARIES).glob("*.png"):
        if path != first:
            path.write_bytes((last if path != last else first).read_bytes())
    labels = tuple(read_json_object(bundle / "manifest.json")["labels"])
    write_manifest(bundle, labels=labels)
    with pytest.raises(GateError, match="canaries fail"):
        open_served(bundle, SETTINGS)
    assert open_served(bundle, SETTINGS.model_copy(update={"canaries": False})).canaries is None


def test_a_damaged_bundle_and_none(classifier: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(classifier, tmp_path / "b")
    (bundle / "model.int8.ort.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match="its length differs"):
        open_served(bundle, SETTINGS)
    with pytest.raises(ArtifactError, match="neither a bundle nor a store"):
        find_bundle(tmp_path)


def test_an_unsigned_bundle_where_a_key_is_known(classifier: Path, tmp_path: Path) -> None:
    public = make_keys(tmp_path / "team").public
    with pytest.raises(ArtifactError, match="not signed"):
        open_served(classifier, SETTINGS.model_copy(update={"keys": (public,)}))


def test_a_bundle_for_another_device(classifier: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(classifier, tmp_path / "b")
    rewrite(bundle, lambda manifest: manifest.update(needs=DeviceNeeds(memory_bytes=10**9).model_dump()))
    with pytest.raises(ArtifactError, match="not for this device"):
        open_served(bundle, SETTINGS, device=DeviceFacts(memory_bytes=10**8))
