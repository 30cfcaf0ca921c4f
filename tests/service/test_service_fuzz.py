"""Requests made up from the service's own description: none of them gets a 500, and each answer is as described."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from retrieval_bundle import indexed, retrieval_bundle
from retrieving import SETTINGS
from running import NAME, Running, SimulatedRuntime, classifying, data_uri, running, talking
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from edgeq.service.load_bundle import open_served
from edgeq.service.routes.schemas import IMAGE_URI
from edgeq.service.served_model import ServedModel

EXAMPLES = int(os.environ.get("EDGEQ_FUZZ_EXAMPLES", "25"))
"""Of each of the six tests: `make fuzz` asks for many."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


schemathesis.openapi.format(IMAGE_URI, st.sampled_from([data_uri(), data_uri(b"no image"), "data:,", "http://a/b"]))


@pytest.fixture(scope="module", params=["talking", "looking", "searching"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made: dict[str, Callable[[], ServedModel]] = {
        "talking": lambda: talking(SimulatedRuntime()),
        "looking": lambda: classifying(labels=()),
        "searching": lambda: searching(tmp_path_factory),
    }
    with running(made[request.param]()) as service:
        yield service


def searching(factory: pytest.TempPathFactory) -> ServedModel:
    """A real two-tower bundle with a catalog."""
    bundle = retrieval_bundle(factory)
    catalog = indexed(bundle, bundle.parent / "images", factory.mktemp("catalog") / "c")
    return open_served(bundle, SETTINGS.model_copy(update={"index": catalog, "name": NAME}))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=str)
def test_no_made_up_request_gets_a_500(service: Running, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) >= 6
    strategy = st.one_of([operation.as_strategy(generation_mode=mode) for operation in operations])

    @settings(max_examples=EXAMPLES, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
    @given(strategy)
    def ask(case: schemathesis.Case[Any]) -> None:
        answer = case.call(base_url=service.url)
        # 413 refuses as well as 400 does, and is none of the statuses by which schemathesis knows a refusal
        checks = [check for check in CHECKS if check is not negative_data_rejection or answer.status_code != 413]
        case.validate_response(answer, checks=checks)

    ask()
    assert service.http.get(f"/v1/models/{NAME}").status_code == 200
