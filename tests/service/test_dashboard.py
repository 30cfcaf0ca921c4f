"""The dashboard for Grafana asks for metrics, labels and values that the services really have."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families
from retrieval_bundle import indexed, retrieval_bundle
from retrieving import SETTINGS
from running import SimulatedRuntime, chat, data_uri, image_part, running, talking

from edgeq.service.http.in_flight import InFlight
from edgeq.service.load_bundle import open_served
from edgeq.service.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "grafana" / "edgeq.json"
DASHBOARD: Final[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
VARIABLES: Final[dict[str, dict[str, Any]]] = {each["name"]: each for each in DASHBOARD["templating"]["list"]}

SCRAPED = frozenset({"job", "instance"})
"""Labels that Prometheus adds to everything."""

FUNCTIONS = frozenset({"histogram_quantile", "label_values", "max", "min", "rate", "sum", "vector"})
GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
OPERATORS = frozenset({"and", "or", "unless", "bool", "offset"})
TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<window>\[[^\]]*\])"""
    r"""|(?P<number>[0-9.]+)|(?P<sign>=~|!~|!=|==|[-+*/(){}=,<>]))"""
)

Labels = dict[str, set[str]]


def tokens(expression: str) -> list[tuple[str, str]]:
    """Kind and text of each; what is none raises ValueError."""
    found, place = [], 0
    while place < len(expression.rstrip()):
        match = TOKEN.match(expression, place)
        if match is None:
            raise ValueError(f"{expression[place:]!r} in {expression!r}")
        found.append((str(match.lastgroup), str(match[str(match.lastgroup)])))
        place = match.end()
    return found


def faults(expression: str, known: dict[str, Labels]) -> Iterator[str]:
    """What an expression of PromQL asks for that no service has; `known` has the labels of each metric.

    Of PromQL it reads what the dashboard uses, and raises ValueError where there is more.
    """
    left = tokens(expression)
    metrics: list[str] = []
    grouped: list[str] = []
    while left:
        kind, text = left.pop(0)
        ahead = left[0][1] if left else ""
        if kind != "name" or text in OPERATORS:
            continue
        if text in GROUPING:
            grouped += taken(left, "(", ")")
        elif ahead == "(" or text in FUNCTIONS:
            if text not in FUNCTIONS:
                raise ValueError(f"{text} is no function that is known here")
        else:
            metrics.append(text)
            if text not in known:
                yield f"{text} is no metric"
            matchers = taken(left, "{", "}") if ahead == "{" else []
            for label, sign, value in zip(matchers[::3], matchers[1::3], matchers[2::3], strict=True):
                yield from unmatched(text, label, sign, value[1:-1], known.get(text, {}))
    for label in grouped:
        if not all(label in known.get(metric, {}) for metric in metrics):
            yield f"no label {label} in all of {metrics}"


def taken(left: list[tuple[str, str]], start: str, end: str) -> list[str]:
    """What stands between two signs, without commas; it is taken away."""
    assert left.pop(0)[1] == start
    found = []
    while (text := left.pop(0)[1]) != end:
        found.append(text)
    return [text for text in found if text != ","]


def unmatched(metric: str, label: str, sign: str, value: str, labels: Labels) -> Iterator[str]:
    if label in SCRAPED:
        return
    if label not in labels:
        yield f"{metric} has no label {label}"
    elif sign == "=" and value and value not in labels[label]:
        yield f"{metric} never has {label}={value}"


def read(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and labels of each sample."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Labels]:
    """Metrics, their labels, and values of these: of a text and image encoder, a language model, and a Jetson."""
    bundle = retrieval_bundle(tmp_path_factory)
    catalog = indexed(bundle, bundle.parent / "images", tmp_path_factory.mktemp("catalog") / "c")
    texts = []
    with running(open_served(bundle, SETTINGS.model_copy(update={"index": catalog}))) as service:
        for query in ("a cat", image_part(data_uri())):
            assert service.http.post("/v1/search", json={"query": query}).status_code == 200
        assert service.http.get("/v1/search/images/0").status_code == 200
        texts.append(service.http.get("/metrics").text)
    with running(talking(SimulatedRuntime())) as service:
        assert service.http.post("/v1/chat/completions", json=chat("a")).status_code == 200
        texts.append(service.http.get("/metrics").text)
    jetson = ROOT / "tests" / "golden" / "doctor" / "orin-nx-jetpack-6.2"
    texts.append(Metrics(talking(SimulatedRuntime()), InFlight(), jetson).text().decode())
    found: dict[str, Labels] = {}
    for text in texts:
        for name, labels in read(text):
            for label, value in labels.items():
                found.setdefault(name, {}).setdefault(label, set()).add(value)
            found.setdefault(name, {})
    return found


@pytest.mark.parametrize("expression", sorted({target["expr"] for target in TARGETS}))
def test_what_is_asked_for_is_there(known: dict[str, Labels], expression: str) -> None:
    assert list(faults(expression, known)) == []


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["legendFormat"])
def test_a_legend_has_labels_that_are_left(known: dict[str, Labels], target: dict[str, Any]) -> None:
    parts = [text for kind, text in tokens(target["expr"]) if kind == "name"]
    grouping = re.findall(r"\bby \(([^)]*)\)", target["expr"])
    left: frozenset[str]
    if grouping:
        left = frozenset.intersection(*(frozenset(re.split(r",\s*", each)) for each in grouping))
    elif {"sum", "min", "max"} & set(parts):
        left = frozenset()
    else:
        (metric,) = [part for part in parts if part in known]
        left = SCRAPED | set(known[metric])
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sum(rate(edgeq_gone_total[5m]))", "edgeq_gone_total is no metric"),
        ("edgeq_search_seconds", "edgeq_search_seconds is no metric"),
        ('edgeq_batches_total{encoders="text"}', "edgeq_batches_total has no label encoders"),
        ('edgeq_batches_total{encoder="texts"}', "edgeq_batches_total never has encoder=texts"),
        ("sum by (le) (rate(edgeq_searches_total[5m]))", "no label le in all of ['edgeq_searches_total']"),
        ("sum(rate(edgeq_index_rows[5m])) by (tower)", "no label tower in all of ['edgeq_index_rows']"),
    ],
)
def test_what_is_not_there_is_found(known: dict[str, Labels], expression: str, fault: str) -> None:
    assert list(faults(expression, known)) == [fault]


@pytest.mark.parametrize(
    "expression", ["topk(3, edgeq_index_rows)", "edgeq_index_rows @ 5", "sum(edgeq_index_rows) ^ 2"]
)
def test_what_is_not_understood_is_no_pass(known: dict[str, Labels], expression: str) -> None:
    with pytest.raises(ValueError, match=r"no function|in '"):
        list(faults(expression, known))


def test_grafana_can_load_it() -> None:
    """What Grafana asks of a dashboard's JSON (schemaVersion 36 and later)."""
    assert DASHBOARD["id"] is None
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", DASHBOARD["uid"])
    assert 36 <= DASHBOARD["schemaVersion"] <= 41
    assert VARIABLES["datasource"] | {"type": "datasource", "query": "prometheus"} == VARIABLES["datasource"]
    numbers = Counter(panel["id"] for panel in DASHBOARD["panels"])
    assert set(numbers.values()) == {1}
    assert {panel["type"] for panel in DASHBOARD["panels"]} == {"row", "stat", "timeseries"}
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        if panel["type"] == "row":
            assert panel["panels"] == []
            continue
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["overrides"] == []
        references = [target["refId"] for target in panel["targets"]]
        assert references == [chr(ord("A") + number) for number in range(len(references))]
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


def test_panels_lie_side_by_side_in_24_columns() -> None:
    taken_by: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken_by.setdefault((x, y), panel["title"]) == panel["title"]


def test_variables_are_those_that_are_used() -> None:
    used = set(re.findall(r"\$\{?(\w+)", FILE.read_text(encoding="utf-8"))) - {"__rate_interval"}
    assert used == set(VARIABLES)
    for name in ("job", "instance"):
        assert VARIABLES[name]["query"]["query"].startswith("label_values(edgeq_bundle_info")
