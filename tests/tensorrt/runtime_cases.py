"""What TensorRtEngine does with a simulated engine under the real bindings: runtime_cases.py SCRATCH prints JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from host_memory import HostMemory, read
from simulated_engine import SimulatedTensorRt

from edgeq.engine import Engine
from edgeq.engine.tensorrt import TensorRtEngine
from edgeq.errors import EngineError
from edgeq.tensorrt.loading import load_tensorrt
from edgeq.tensorrt.tensors import DeviceTensor

trt: Any = load_tensorrt()

SCRATCH = Path(sys.argv[1])
Case = Callable[[], dict[str, Any]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def images(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count * 12, dtype=np.float32).reshape(count, 3, 2, 2)


def made(simulated: SimulatedTensorRt | None = None, memory: HostMemory | None = None) -> TensorRtEngine:
    simulated = simulated or SimulatedTensorRt(trt)
    return TensorRtEngine(b"an engine", memory or HostMemory(), trt=simulated.module)


def refusal(call: Callable[[], Any]) -> str:
    try:
        call()
    except EngineError as error:
        return str(error)
    return "nothing was refused"


@case
def several_inputs() -> dict[str, Any]:
    simulated = SimulatedTensorRt(trt, order=True)
    engine = made(simulated)
    order = np.array([2, 0, 1])
    values = engine.run({"image": images(3), "order": order})
    return {
        "inputs": engine.inputs,
        "first": values["half"][:, 0, 0, 0].tolist(),
        "narrow": refusal(lambda: engine.run({"image": images(3), "order": order.astype(np.int32)})),
        "missing": refusal(lambda: engine.run({"image": images(3)})),
        "long": refusal(lambda: engine.run({"image": images(3), "order": np.zeros(9, np.int64)})),
    }


@case
def run() -> dict[str, Any]:
    simulated, memory = SimulatedTensorRt(trt), HostMemory()
    engine: Engine = made(simulated, memory)
    values = engine.run({"image": images(3)})
    return {
        "inputs": engine.inputs,
        "outputs": engine.outputs,
        "names": list(values),
        "doubled": values["doubled"].ravel().tolist(),
        "shape": values["doubled"].shape,
        "half": values["half"].ravel().tolist(),
        "half_dtype": str(values["half"].dtype),
        "calls": simulated.calls(),
        "log": memory.log,
        "given": simulated.given.decode(),
    }


@case
def some_outputs() -> dict[str, Any]:
    engine = made()
    return {"one": list(engine.run({"image": images(1)}, ["half"])), "none": list(engine.run({"image": images(1)}, []))}


@case
def memory_is_kept() -> dict[str, Any]:
    """Batches of 2, 2, 1, 4: only the first and the last need memory."""
    memory = HostMemory()
    engine = made(memory=memory)
    logs, right = [], []
    for count in (2, 2, 1, 4):
        memory.log.clear()
        values = engine.run({"image": images(count)}, ["doubled"])
        right.append(bool((values["doubled"] == 2 * images(count)).all()))
        logs.append([line for line in memory.log if not line.startswith("copy")])
    memory.log.clear()
    engine.close()
    return {"logs": logs, "right": right, "closing": memory.log, "live": len(memory.live)}


@case
def run_device() -> dict[str, Any]:
    simulated, memory = SimulatedTensorRt(trt), HostMemory()
    engine = made(simulated, memory)
    theirs = memory.allocate(images(2).nbytes)
    memory.copy_in(theirs, images(2))
    memory.log.clear()
    found = engine.run_device({"image": DeviceTensor(theirs.address, (2, 3, 2, 2), np.dtype(np.float32))})
    given = {call.args[0]: call.args[1] for call in simulated.context.set_tensor_address.call_args_list}
    doubled = found["doubled"]
    return {
        "names": list(found),
        "log": memory.log,
        "theirs_is_used": given["image"] == theirs.address,
        "ours_is_given": given["doubled"] == doubled.address and given["half"] == found["half"].address,
        "shape": doubled.shape,
        "dtypes": [str(tensor.dtype) for tensor in found.values()],
        "values": np.frombuffer(read(doubled.address, doubled.nbytes), np.float32).tolist(),
    }


@case
def run_device_from_the_host() -> dict[str, Any]:
    simulated, memory = SimulatedTensorRt(trt), HostMemory()
    engine = made(simulated, memory)
    first = engine.run_device({"image": images(1)}, ["half"])["half"]
    log = list(memory.log)
    second = engine.run_device({"image": images(2) + 1}, ["half"])["half"]
    values = [np.frombuffer(read(one.address, one.nbytes), np.float16).tolist() for one in (first, second)]
    return {"log": log, "apart": first.address != second.address, "values": values, "on torch": engine.on_torch}


@case
def several_profiles() -> dict[str, Any]:
    """Images 2, 3..4 and 5..8 high; batches of 2 of the heights 4, 2, 8, 3 and 9."""
    profiles = [[(1, 3, low, 2), (2, 3, high, 2), (4, 3, high, 2)] for low, high in ((1, 2), (3, 4), (5, 8))]
    simulated, memory = SimulatedTensorRt(trt, profiles=profiles), HostMemory()
    engine = made(simulated, memory)
    right, made_for = [], []
    for height in (4, 2, 8, 3):
        image = np.arange(2 * 3 * height * 2, dtype=np.float32).reshape(2, 3, height, 2)
        right.append(bool((engine.run({"image": image})["doubled"] == 2 * image).all()))
        made_for.append(list(simulated.chosen))
    refused = SimulatedTensorRt(trt, profiles=profiles)
    engine_of_refused = made(refused)
    refused.engine.create_execution_context.side_effect = lambda: None
    return {
        "right": right,
        "made for": made_for,
        "told": [context.set_optimization_profile_async.call_count for context in simulated.contexts],
        "high": refusal(lambda: engine.run({"image": np.zeros((2, 3, 9, 2), np.float32)})),
        "no memory": refusal(lambda: engine_of_refused.run({"image": np.zeros((2, 3, 8, 2), np.float32)})),
    }


@case
def not_contiguous() -> dict[str, Any]:
    image = images(2).transpose(0, 1, 3, 2)
    return {"right": bool((made().run({"image": image})["doubled"] == 2 * image).all())}


@case
def wrong_feeds() -> dict[str, Any]:
    engine, float32 = made(), np.dtype(np.float32)
    return {
        "unknown": refusal(lambda: engine.run({"image": images(1), "mask": images(1)})),
        "missing": refusal(lambda: engine.run({})),
        "dtype": refusal(lambda: engine.run({"image": images(1).astype(np.float64)})),
        "batch": refusal(lambda: engine.run({"image": images(9)})),
        "empty": refusal(lambda: engine.run({"image": images(0)})),
        "side": refusal(lambda: engine.run({"image": np.zeros((1, 3, 2, 3), np.float32)})),
        "rank": refusal(lambda: engine.run({"image": images(1)[0]})),
        "output": refusal(lambda: engine.run({"image": images(1)}, ["logits"])),
        "address": refusal(lambda: engine.run_device({"image": DeviceTensor(256 + 16, (1, 3, 2, 2), float32)})),
        "device dtype": refusal(lambda: engine.run_device({"image": DeviceTensor(256, (1, 3, 2, 2), np.dtype("f2"))})),
    }


@case
def refused_engines() -> dict[str, Any]:
    refused = SimulatedTensorRt(trt)
    refused.engine = None
    refused.said = ["the plan file is for another GPU"]
    no_context = SimulatedTensorRt(trt)
    no_context.engine.create_execution_context.return_value = None
    in_host = SimulatedTensorRt(trt)
    in_host.engine.get_tensor_location.return_value = trt.TensorLocation.HOST
    bfloat = SimulatedTensorRt(trt)
    bfloat.engine.get_tensor_dtype.side_effect = lambda _: trt.bfloat16
    file = SCRATCH / "model.engine"
    file.write_bytes(b"an engine")
    return {
        "no device": refusal(lambda: TensorRtEngine(b"an engine", HostMemory(), trt=trt)),  # nothing is simulated
        "bytes": refusal(lambda: made(refused)),
        "file": refusal(lambda: TensorRtEngine(file, HostMemory(), trt=refused.module)),
        "missing": refusal(lambda: TensorRtEngine(SCRATCH / "none.engine", HostMemory(), trt=refused.module)),
        "context": refusal(lambda: made(no_context)),
        "host": refusal(lambda: made(in_host)),
        "bfloat16": refusal(lambda: made(bfloat)),
    }


@case
def failing_runs() -> dict[str, Any]:
    """Each step of a run that TensorRT may refuse."""
    changes: dict[str, dict[str, Any]] = {
        "set_input_shape": {"side_effect": lambda *_: False},
        "infer_shapes": {"return_value": ["image"]},
        "infer_shapes raises": {"side_effect": RuntimeError("shapes do not go together")},
        "get_tensor_shape": {"side_effect": lambda _: trt.Dims((2, -1))},
        "set_tensor_address": {"side_effect": lambda *_: False},
        "execute_async_v3": {"side_effect": lambda _: False},
    }
    found = {}
    for name, change in changes.items():
        simulated, memory = SimulatedTensorRt(trt), HostMemory()
        getattr(simulated.context, name.split()[0]).configure_mock(**change)
        engine = made(simulated, memory)
        found[name] = [refusal(lambda: engine.run({"image": images(1)})), memory.log[-1:]]  # noqa: B023
    return found


@case
def names_of_other_releases() -> dict[str, Any]:
    """The simulated objects have no name that the real classes lack."""
    simulated = SimulatedTensorRt(trt)
    return {
        "engine": hasattr(simulated.engine, "get_binding_shape"),
        "context": hasattr(simulated.context, "execute_async_v2"),
    }


if __name__ == "__main__":
    print(json.dumps({name: function() for name, function in CASES.items()}))
