"""Classes, vectors, reports, models, metrics and the description."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import (
    ANSWER,
    NAME,
    WAIT_S,
    BrightnessEngine,
    Running,
    SimulatedRuntime,
    chat,
    classifying,
    data_uri,
    eventually,
    picture,
    running,
    said,
    talking,
)

from edgeq.doctor.thermal import read_zones
from edgeq.engine.power import read_power
from edgeq.runtime.canary.report import CanaryBounds, CanaryCheck, CanaryReport
from edgeq.service.http.in_flight import InFlight
from edgeq.service.metrics import Metrics
from edgeq.service.report import Report
from edgeq.service.routes.vision_routes import classes_of

pytest_plugins = ["one_service"]


@pytest.fixture(scope="module")
def classifier() -> Iterator[Running]:
    with running(classifying()) as service:
        yield service


# ---- classes and vectors


def test_the_likeliest_classes(classifier: Running) -> None:
    """The picture's colour is (200, 10, 10), and the simulated network gives the mean of each channel."""
    answer = classifier.http.post("/v1/classify", json={"image": data_uri(), "top": 2}).json()
    assert answer["model"] == NAME
    assert [(one["index"], one["label"]) for one in answer["classes"]] == [(0, "red"), (1, "green")]
    assert answer["classes"][0]["score"] == pytest.approx(1.0)
    assert answer["classes"][1]["score"] == pytest.approx(math.exp(-190))


def test_softmax_of_three_by_hand() -> None:
    """Of logits 0, ln 2, ln 5 the exponentials are 1, 2 and 5, which are 8 together."""
    logits = np.array([0.0, math.log(2), math.log(5)], np.float32)
    classes = classes_of(logits, ("a", "b"), 9)
    assert [(one.index, one.label) for one in classes] == [(2, None), (1, "b"), (0, "a")]
    assert [one.score for one in classes] == pytest.approx([5 / 8, 2 / 8, 1 / 8])


def test_a_graph_that_ends_in_classes_gives_no_vector(classifier: Running) -> None:
    answer = classifier.http.post("/v1/embed", json={"image": data_uri()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_vectors")


def test_a_vector() -> None:
    """Of (0, 3, 4) the length is 5."""
    with running(classifying(labels=())) as service:
        for normalize, wanted in ((False, [0, 3, 4]), (True, [0, 0.6, 0.8])):
            body = {"image": data_uri(picture((0, 3, 4))), "normalize": normalize, "model": NAME}
            answer = service.http.post("/v1/embed", json=body).json()
            assert answer["data"][0]["embedding"] == pytest.approx(wanted)
        classes = service.http.post("/v1/classify", json={"image": data_uri()}).json()["classes"]
        assert [one["label"] for one in classes] == [None] * 3


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/inspect"])
def test_a_classifier_does_not_talk(classifier: Running, path: str) -> None:
    assert classifier.http.post(path, json=chat()).json()["error"]["code"] == "no_answers"


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embed"])
def test_a_language_model_gives_no_classes(service: Running, path: str) -> None:
    assert service.http.post(path, json={"image": data_uri()}).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"image": data_uri(), "top": 0}, 400),
        ({}, 400),
        ({"image": "a"}, 400),
    ],
)
def test_a_bad_image_to_classify(classifier: Running, body: dict[str, Any], status: int) -> None:
    assert classifier.http.post("/v1/classify", json=body).status_code == status


class StuckEngine(BrightnessEngine):
    """Waits for a word before it looks: simulated."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)

    def run(self, feeds: Any, outputs: Any = None) -> dict[str, Any]:
        assert self.go.acquire(timeout=WAIT_S)
        return super().run(feeds, outputs)


def test_images_take_turns_and_not_too_many_wait() -> None:
    """One is looked at and two may wait; the fourth comes too early."""
    engine = StuckEngine()
    with running(classifying(engine=engine)) as service:
        answers: list[int] = []

        def ask() -> None:
            answers.append(service.http.post("/v1/classify", json={"image": data_uri()}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        seeing = service.service.served.seeing
        assert seeing is not None
        eventually(lambda: seeing.figures.waiting == 2)
        late = service.http.post("/v1/classify", json={"image": data_uri()})
        assert (late.status_code, late.json()["error"]["code"]) == (429, "busy")
        assert int(late.headers["retry-after"]) >= 1
        engine.go.release(3)
        for thread in threads:
            thread.join(WAIT_S)
        assert answers == [200] * 3
        assert seeing.figures.ended == 3


def test_an_image_that_waits_too_long_gives_its_place_back() -> None:
    engine = StuckEngine()
    with running(classifying(engine=engine), request_seconds=0.1) as service:
        answer = service.http.post("/v1/classify", json={"image": data_uri()})
        assert (answer.status_code, answer.json()["error"]["code"]) == (408, "deadline")
        engine.go.release()


# ---- reports


def test_a_report(service: Running, runtime: SimulatedRuntime) -> None:
    report = service.http.post("/v1/inspect", json={"image": data_uri()}).json()
    assert report == {
        "version": "edgeq.report/1",
        "damage": "wide_crack",
        "place": "top left",
        "severity": "minor",
        "action": "Seal it within a month.",
        "text": ANSWER,
        "complete": True,
    }
    assert runtime.asks[-1].turns[0].texts[0] == "Describe the damage and say what to do."
    assert runtime.asks[-1].sampling.temperature == 0


@pytest.mark.parametrize("text", ["", "no idea", '{"damage": "fire"}', "\0\ud7ff"])
def test_whatever_it_says_the_form_is_the_same(service: Running, runtime: SimulatedRuntime, text: str) -> None:
    runtime.answers("odd", said(text, "limit"))
    report = service.http.post("/v1/inspect", json={"image": data_uri(), "question": "odd"}).json()
    assert Report.model_validate(report).text == text
    assert [report[key] for key in ("damage", "place", "severity", "action", "complete")] == [None] * 4 + [False]


# ---- what the service tells of itself


def test_models(service: Running) -> None:
    (model,) = service.openai().models.list().data
    assert (model.id, model.object, model.owned_by, model.created) == (NAME, "model", "edgeq", 1_700_000_000)
    assert model.model_extra is not None
    assert (model.model_extra["max_model_len"], model.model_extra["max_images"]) == (64, 8)
    assert service.openai().models.retrieve(NAME).id == NAME
    assert service.http.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


def samples(service: Running) -> dict[tuple[str, ...], float]:
    """Name and label values of each sample, as Prometheus' own parser reads them."""
    answer = service.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return read_samples(answer.text)


def read_samples(text: str) -> dict[tuple[str, ...], float]:
    """The same of a text."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_of_a_language_model() -> None:
    with running(talking(SimulatedRuntime())) as service:
        for text in ("a", " "):
            service.http.post("/v1/chat/completions", json=chat(text))
        service.http.get("/somewhere/else")
        found = samples(service)
        assert found["edgeq_http_requests_total", "/v1/chat/completions", "200"] == 1
        assert found["edgeq_http_requests_total", "/v1/chat/completions", "422"] == 1
        assert found["edgeq_http_requests_total", "other", "404"] == 1
        assert found["edgeq_time_to_first_token_seconds_sum",] == 1.5
        assert found["edgeq_time_per_token_seconds_sum",] == pytest.approx((4.5 - 1.5) / 3)
        assert found["edgeq_queue_seconds_count",] == 1
        assert found["edgeq_kv_bytes", "used"] == 30
        assert found["edgeq_kv_bytes", "allocated"] == 1000
        assert found["edgeq_context_tokens",] == 64
        assert found["edgeq_context_used_ratio",] == 16 / 64
        assert found["edgeq_prompt_tokens_cached_total",] == 0
        assert found["edgeq_requests_ended_total", "stop"] == 2
        assert found["edgeq_cache_hits_total", "features"] == 3
        assert found["edgeq_requests_queued",] == 0
        assert found["edgeq_memory_available_bytes",] > 0
        assert found["process_resident_memory_bytes",] > 0
        assert any(key[0] == "edgeq_bundle_info" and NAME in key for key in found)


def test_metrics_of_a_jetson_and_of_its_canaries() -> None:
    """From files made by hand from public descriptions; one of two canaries fails."""
    root = Path(__file__).parents[1] / "golden" / "doctor" / "orin-nx-jetpack-6.2"
    checks = (CanaryCheck(image="0.png"), CanaryCheck(image="1.png", failure="it is far off"))
    report = CanaryReport(
        kind="vision-language", against="FP32", bounds=CanaryBounds(), canaries=checks, failures=("it is far off",)
    )
    served = replace(talking(SimulatedRuntime()), canaries=report)
    found = read_samples(Metrics(served, InFlight(), root).text().decode())
    assert found["edgeq_canaries_passed",] == 0
    assert found["edgeq_canaries", "failed"] == found["edgeq_canaries", "passed"] == 1
    zones = {zone.name: zone.celsius for zone in read_zones(root)}
    assert zones
    assert {key[1]: value for key, value in found.items() if key[0] == "edgeq_temperature_celsius"} == zones
    assert "edgeq_power_watts" not in {key[0] for key in found}, "nothing that is not measured"
    power = read_power(root)
    assert power is not None
    assert found["edgeq_power_mode_info", str(power.mode), power.name or ""] == 1


def test_metrics_of_power(tmp_path: Path) -> None:
    """As the kernel's ina3221 shows an Orin NX; a rail without a current and another monitor are left out."""
    files = {
        "hwmon0": {"name": "nvme", "in1_label": "no", "in1_input": "1000", "curr1_input": "1000"},
        "hwmon3": {
            **{"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "19152", "curr1_input": "376"},
            **{"in2_label": "VDD_CPU_GPU_CV", "in2_input": "19152"},
            **{"in3_label": "VDD_SOC", "in3_input": "19144", "curr3_input": "80", "in7_label": "sum of shunt voltages"},
        },
    }
    for monitor, texts in files.items():
        (tmp_path / "sys/class/hwmon" / monitor).mkdir(parents=True)
        for name, text in texts.items():
            (tmp_path / "sys/class/hwmon" / monitor / name).write_text(f"{text}\n")
    found = read_samples(Metrics(talking(SimulatedRuntime()), InFlight(), tmp_path).text().decode())
    rails = {key[1]: value for key, value in found.items() if key[0] == "edgeq_power_watts"}
    assert rails == {"VDD_IN": pytest.approx(7.201152), "VDD_SOC": pytest.approx(1.53152)}


def test_a_classifier_has_no_context(classifier: Running) -> None:
    (model,) = classifier.http.get("/v1/models").json()["data"]
    assert (model["max_model_len"], model["max_images"]) == (None, None)


def test_metrics_of_a_classifier(classifier: Running) -> None:
    classifier.http.post("/v1/classify", json={"image": data_uri()})
    assert samples(classifier)["edgeq_images_total",] >= 1


def test_the_description_is_of_what_is_there(service: Running, classifier: Running) -> None:
    talks = json.loads(service.http.get("/openapi.json").text)
    names = json.loads(classifier.http.get("/openapi.json").text)
    assert talks["openapi"].startswith("3.1")
    assert {"/v1/chat/completions", "/v1/inspect"} <= set(talks["paths"])
    assert "/v1/classify" in names["paths"]
    assert not {"/v1/classify", "/v1/embed"} & set(talks["paths"])
    assert not {"/v1/chat/completions", "/v1/embed"} & set(names["paths"])
    for found, service_ in ((talks, service), (names, classifier)):
        for path, ways in found["paths"].items():
            for method, way in ways.items():
                body = way.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
                answer = service_.http.request(method, path.replace("{model}", NAME), json=body)
                assert answer.status_code == 200, (path, answer.text)


def test_with_a_token_the_description_says_so() -> None:
    with running(talking(SimulatedRuntime()), token="a-token-of-a-test") as service:
        found = json.loads(service.http.get("/openapi.json").text)
        assert found["paths"]["/v1/models"]["get"]["security"] == [{"token": []}]
        assert "401" in found["paths"]["/v1/models"]["get"]["responses"]
        assert "security" not in found["paths"]["/health/live"]["get"]
