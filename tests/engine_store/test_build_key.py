"""The key against text that was written by hand, and what it depends on."""

from __future__ import annotations

import hashlib

import pytest
from simulated import ORIN, parts, settings

from edgeq.engine_store.key import KeyParts, differences, engine_key, key_parts, unknown_parts

LAYERS = '[{"name":"head","op":"Gemm","outputs":["float32"],"precision":"float32"}]'

CANONICAL = (
    '{"architecture":"aarch64",'
    '"builder_flags":["FP16","INT8","OBEY_PRECISION_CONSTRAINTS"],'
    f'"calibration_sha256":"{"33" * 32}",'
    '"cleared_flags":["TF32"],'
    '"compute_capability":"8.7",'
    '"device":"NVIDIA Jetson Orin NX",'
    f'"graph":{{"model.fp32.onnx":"{"11" * 32}"}},'
    f'"layers_sha256":"{hashlib.sha256(LAYERS.encode()).hexdigest()}",'
    '"network_flags":[],'
    '"output_types":{"logits":"float32"},'
    f'"plan_sha256":"{"22" * 32}",'
    '"platform":"L4T 36.4.3",'
    '"profile":[{"input":"pixels","max":[8,3,4,4],"min":[1,3,4,4],"opt":[2,3,4,4]}],'
    '"quantization":"implicit",'
    '"tensorrt":"10.3.0",'
    '"workspace_bytes":268435456}'
)
"""The parts of `simulated.parts()`, as the documentation of `edgeq.engine_store.key` says that they are written."""

CHANGES: dict[str, object] = {
    "graph": {"model.fp32.onnx": "12" * 32},
    "plan_sha256": "23" * 32,
    "calibration_sha256": "",
    "quantization": "explicit",
    "network_flags": ("STRONGLY_TYPED",),
    "builder_flags": ("FP16",),
    "cleared_flags": (),
    "layers_sha256": "44" * 32,
    "output_types": {"logits": "float16"},
    "profile": (),
    "workspace_bytes": 512 << 20,
    "tensorrt": "10.16.1",
    "compute_capability": "8.9",
    "device": "NVIDIA Jetson AGX Orin",
    "platform": "L4T 38.2",
    "architecture": "x86_64",
}


def test_golden() -> None:
    assert engine_key(parts()) == hashlib.sha256(b"edgeq.engine-key/1\n" + CANONICAL.encode()).hexdigest()


def test_every_part_is_tried() -> None:
    assert CHANGES.keys() == KeyParts.model_fields.keys()


@pytest.mark.parametrize("name", list(CHANGES))
def test_every_part_makes_another_key_and_is_named(name: str) -> None:
    other = parts().model_copy(update={name: CHANGES[name]})
    assert engine_key(other) != engine_key(parts())
    assert len(differences(parts(), other)) == 1
    assert differences(parts(), parts()) == ()


def test_differences_are_sentences() -> None:
    other = parts("10.16.1").model_copy(update={"workspace_bytes": 512 << 20, "plan_sha256": "23" * 32})
    assert differences(parts(), other) == (
        "built for another precision plan",
        "built with a workspace of 256 MiB, this is 512 MiB",
        "built for TensorRT 10.3.0, this is 10.16.1",
    )
    shapes = differences(parts(), parts().model_copy(update={"profile": ()}))
    assert shapes == ("built for the shapes pixels 1x3x4x4..2x3x4x4..8x3x4x4, this is of the graph alone",)


def test_words_for_people_and_the_order_of_flags_do_not_matter() -> None:
    said = settings().model_copy(
        update={"quantization_reason": "asked for", "peak_bytes": 5, "builder_flags": settings().builder_flags[::-1]}
    )
    again = key_parts(
        said,
        ORIN,
        graph={"model.fp32.onnx": "11" * 32},
        plan_sha256="22" * 32,
        calibration_sha256="33" * 32,
    )
    assert engine_key(again) == engine_key(parts())


def test_what_is_unknown_is_named_and_makes_no_key() -> None:
    nowhere = ORIN.model_copy(update={"compute_capability": None, "device": None})
    dry = parts(None, nowhere)
    assert unknown_parts(dry) == ("tensorrt", "compute_capability", "device")
    assert engine_key(dry) is None
    assert unknown_parts(parts()) == ()
