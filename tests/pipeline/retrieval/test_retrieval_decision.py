"""What is told of INT8 texts that were refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.pipeline.retrieval.decision import doubts
from edgeq.pipeline.search import Found
from edgeq.plan.precision import PrecisionPlan
from edgeq.quality.logits import judge_answers
from edgeq.quality.tasks.first_images import compare_first_images
from edgeq.quality.tasks.retrieval import Embedded, compare_retrieval
from edgeq.quality.tasks.retrieval_gate import RetrievalGate, decide_retrieval
from edgeq.quantize.search.layer_search import Search, SearchStep
from edgeq.quantize.search.sensitivity import LayerSensitivity, Sensitivity

EYE = np.eye(8, dtype=np.float32)


def gate(texts: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> RetrievalGate:
    return decide_retrieval(compare_retrieval([frozenset({item}) for item in range(8)], Embedded(EYE, texts, EYE)))


def found(chosen: int | None) -> Found:
    """A search of one step for each layer of the table, in which layer `b` is worst and `d` best."""
    errors = {"a": 0.3, "b": 0.4, "c": 0.2, "d": 0.1}

    def line(name: str, error: float) -> LayerSensitivity:
        alone = judge_answers(EYE, EYE * np.float32(1.0 + error), None).figures()
        settled = {"op": "MatMul", "kind": "linear", "parameters": 4, "bytes": 16, "gain": 0.0, "gain_se": 0.0}
        return LayerSensitivity(layer=name, alone=alone, released=alone, **settled)

    layers = tuple(line(name, error) for name, error in errors.items())
    settled = {"graph_sha256": "", "method": "mse", "weights": "per-channel", "worst_precision": 0.1, "precision": 0.1}
    table = Sensitivity(int8=layers[0].alone, layers=layers, **settled)
    figures = compare_first_images(EYE, EYE, EYE, 10.0)
    steps = tuple(
        SearchStep(kept=tuple(errors)[:count], share=10.0, figures=figures, speedup=None) for count in range(3)
    )
    search = Search(max_drop=0.1, max_unseen_drop=0.3, max_share=50.0, min_speedup=None, steps=steps, chosen=chosen)
    return Found(PrecisionPlan(rules=(), decisions=()), search, table)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (None, "no set of layers within 50 % of the bytes brings the drop"),
        (0, "the calibration captions do not show what INT8 loses"),
        (2, "nor do they find enough with 2 layers in floating point"),
    ],
)
def test_why_keeping_layers_did_not_help_and_which_are_worst(chosen: int | None, told: str) -> None:
    *objections, last = doubts(gate(np.roll(EYE, 1, axis=0)), found(chosen), "fp16")
    assert "drops by 100.00" in objections[0]
    assert told in last
    assert last.endswith("INT8 harms most: b, a, c")


def test_nothing_is_told_where_texts_are_int8() -> None:
    many = np.eye(400, dtype=np.float32)
    kept = decide_retrieval(compare_retrieval([frozenset({item}) for item in range(400)], Embedded(many, many, many)))
    assert kept.passed
    assert list(doubts(kept, found(2), "fp16")) == []
    (alone,) = doubts(None, None, "fp16")
    assert "was not judged" in alone
