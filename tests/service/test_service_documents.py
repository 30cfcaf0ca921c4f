"""Reports of a model that was not trained on their words: its answer is held to a document of the values."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from PIL import Image
from running import SimulatedRuntime, data_uri, running, said, talking

from edgeq.errors import EngineError
from edgeq.extras import install_command
from edgeq.service.load_bundle import open_served
from edgeq.service.report import reader_of, report_question, report_schema
from edgeq.service.report_phrases import DEFAULT_PHRASES, ReportPhrases
from edgeq.service.served_model import ServedModel
from edgeq.service.settings import ServiceSettings
from edgeq.service.watch_inference import watch_inference

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

TERMS = {"version": "edgeq.terms/1", "question": "What is it?", "answers": "json", "damage": {"crack": ["crack"]}}
PHRASES = ReportPhrases.model_validate(TERMS | {"severity": {"minor": ["minor"], "severe": ["severe"]}})
ASKED = "\n".join(
    (
        "What is it?",
        "Answer with a JSON object of these keys and values:",
        'damage: "crack", null',
        'severity: "minor", "severe", null',
        "action: what to do, or null",
    )
)


def served(runtime: SimulatedRuntime) -> ServedModel:
    return replace(talking(runtime), phrases=PHRASES, reader=reader_of(PHRASES))


def test_the_schema_has_the_values_of_the_phrases() -> None:
    schema = report_schema(PHRASES)
    assert schema is not None
    document = {"damage": "crack", "severity": None, "action": "Seal it."}
    jsonschema.validate(document, schema)
    wrong: list[dict[str, Any]] = [{"damage": "rust"}, {"severity": "bad"}, {"action": 3}, {"place": "top"}]
    for change in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document | change, schema)
    for left_out in document:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({key: document[key] for key in document if key != left_out}, schema)


def test_a_model_that_says_the_phrases_is_asked_as_ever() -> None:
    assert report_schema(DEFAULT_PHRASES) is None
    assert report_question(DEFAULT_PHRASES) == DEFAULT_PHRASES.question
    assert report_question(DEFAULT_PHRASES, "how bad?") == "how bad?"


def test_a_report_is_read_from_the_document() -> None:
    runtime, text = SimulatedRuntime(), '{"damage": "crack", "severity": null, "action": "Seal it."}'
    runtime.answers(ASKED, said(text))
    with running(served(runtime)) as service:
        report = service.http.post("/v1/inspect", json={"image": data_uri()}).json()
        assert report == {
            **{"version": "edgeq.report/1", "damage": "crack", "place": None, "severity": None},
            **{"action": "Seal it.", "text": text, "complete": True},
        }
        schema = runtime.asks[-1].schema
        assert schema is not None
        assert json.loads(schema) == report_schema(PHRASES)
        runtime.answers(ASKED, said('{"damage": "cr', "limit"))
        cut = service.http.post("/v1/inspect", json={"image": data_uri()}).json()
        assert (cut["damage"], cut["complete"], cut["text"]) == (None, False, '{"damage": "cr')


def test_watch_asks_for_the_same() -> None:
    runtime = SimulatedRuntime()
    runtime.answers(ASKED, said('{"damage": null, "severity": "minor", "action": null}'))
    seen = watch_inference(served(runtime), 9.0)(Image.new("RGB", (8, 8)))
    assert getattr(seen, "severity", None) == "minor"
    assert runtime.asks[-1].schema is not None


def test_without_the_package_such_a_bundle_is_not_served(
    prepared_vlm: PreparedVlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is said before anything is loaded."""
    terms, told = tmp_path / "terms.yaml", list[str]()
    terms.write_text(json.dumps(TERMS))
    settings = ServiceSettings(threads=1, reserve_mib=64, memory_gb=2, backend="onnxruntime", terms=terms)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(EngineError, match="llguidance is missing") as refused:
        open_served(prepared_vlm.bundle, settings, say=told.append)
    assert refused.value.next_step == install_command("structured")
    assert told == ["checking the bundle"]
