"""Serving with OpenVINO: a classifier that was made for it, a vision-language model that was not, and `auto`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from classifier_bundle import classifier_bundle
from running import chat, data_uri, running

from edgeq.engine.openvino import OpenVinoEngine
from edgeq.errors import EngineError
from edgeq.files import read_json_object
from edgeq.install.candidate_here import AUTO
from edgeq.model.images.decode import decode_image
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.service.load_bundle import open_served
from edgeq.service.settings import ServiceSettings

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

SETTINGS = ServiceSettings(threads=1, reserve_mib=64, memory_gb=2, backend="openvino")
ON_AUTO = SETTINGS.model_copy(update={"backend": AUTO})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny classifier's, for OpenVINO; not to be written to."""
    return classifier_bundle(tmp_path_factory, "openvino")


@pytest.mark.parametrize("settings", [SETTINGS, ON_AUTO], ids=["openvino", "auto"])
def test_classes_are_those_of_the_graph_alone(bundle: Path, tiny_photographs: Path, settings: ServiceSettings) -> None:
    data = next(tiny_photographs.rglob("*.jpg")).read_bytes()
    preprocess = read_preprocess(read_json_object(bundle / "preprocessor_config.json"))
    pixels = preprocess(decode_image(data, "it"))
    engine = OpenVinoEngine(bundle / "model.int8.ov.onnx", threads=1)
    logits = engine.run({engine.inputs[0]: pixels[None]})[engine.outputs[0]][0]
    with running(open_served(bundle, settings)) as service:
        served = service.service.served
        assert served.backend.startswith("openvino ")
        assert served.canaries is not None
        assert served.canaries.passed
        answer = service.http.post("/v1/classify", json={"image": data_uri(data, "image/jpeg")}).json()
        assert answer["classes"][0]["index"] == int(logits.argmax())


def test_auto_takes_onnxruntime_for_a_bundle_that_was_made_for_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert open_served(classifier_bundle(tmp_path_factory), ON_AUTO).backend.startswith("onnxruntime ")


@pytest.mark.usefixtures("without_openvino")
def test_where_it_is_not_installed(bundle: Path) -> None:
    served = open_served(bundle, ON_AUTO)
    assert served.backend.startswith("onnxruntime ")
    assert served.canaries is not None
    assert served.canaries.passed
    with pytest.raises(EngineError, match="OpenVINO is not installed"):
        open_served(bundle, SETTINGS)


@pytest.mark.parametrize(("settings", "backend"), [(SETTINGS, "openvino "), (ON_AUTO, "onnxruntime ")])
def test_a_vision_language_models_graph(prepared_vlm: PreparedVlm, settings: ServiceSettings, backend: str) -> None:
    """It was made for no backend, so that `auto` takes the usual one."""
    with running(open_served(prepared_vlm.bundle, settings)) as service:
        served = service.service.served
        assert served.backend.startswith(backend)
        assert served.canaries is not None
        assert served.canaries.passed
        asked = chat("what is it?") | {"model": served.name, "max_tokens": 4}
        assert service.http.post("/v1/chat/completions", json=asked).status_code == 200
