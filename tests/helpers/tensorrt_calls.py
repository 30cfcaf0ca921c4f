"""Record what edgeq calls on TensorRT: real bindings, and in place of what needs a GPU autospecs of their classes.

    python -c 'from tensorrt_calls import main; main()' CASES.json

runs in a process with the bindings of one release (`tensorrt_bindings.run_bindings`). An autospec refuses names that
the class does not have; what pybind11's docstrings say of a method's parameters is checked as well. Each case of the
file is one `build_engine`; a JSON list comes out, with the calls of each, one a line.

As TensorRT does, a build gives nothing where a layer obeys INT8 and one of its float tensors has no range: neither by
`set_dynamic_range`, nor by the calibrator, which knows the tensors in the case's `ranges`, or measures all but
constants where that is null.
"""

from __future__ import annotations

import gc
import itertools
import json
import re
import sys
import tempfile
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

QUIET = {"get_layer", "get_input", "get_output", "get_error", "create_execution_context"}
"""They only look at something."""

IMPLICIT = {"set_calibration_profile", "set_dynamic_range", "set_output_type"}
"""Methods that release 11 lacks."""


def main() -> None:
    from edgeq.tensorrt.loading import load_tensorrt

    trt = load_tensorrt()
    cases = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([run(trt, case) for case in cases]))


def run(trt: Any, case: dict[str, Any]) -> dict[str, Any]:
    """One build: its calls, what it gave or raised, and what was said."""
    from edgeq.errors import EdgeqError
    from edgeq.tensorrt.builder import build_engine
    from edgeq.tensorrt.settings import BuildSettings

    stage = Stage(trt, case)
    said: list[str] = []
    reported: list[tuple[str, int, int]] = []

    def report(phase: str, done: int, total: int) -> None:
        reported.append((phase, done, total))
        if case.get("cancel") == phase:
            raise KeyboardInterrupt

    settings = BuildSettings.model_validate(case["settings"])
    setting = nullcontext() if not case.get("without_ranges") else mock.patch("edgeq.tensorrt.builder.set_ranges")
    with tempfile.TemporaryDirectory() as directory:
        timings = Path(directory) / "timing.cache" if "timings" in case else None
        evidence = Path(directory) / "evidence"
        if timings and case["timings"]:
            timings.write_bytes(case["timings"].encode())
        found: dict[str, Any] = {"engine": None, "error": None, "causes": []}
        try:
            calibrator = Calibrator(case.get("calibrator", "")) if case.get("calibrator") is not None else None
            with setting:
                found["engine"] = build_engine(
                    stage,  # type: ignore[arg-type]
                    settings,
                    Path(settings.graph),
                    calibrator=calibrator,
                    ranges=case.get("ranges"),
                    timing_cache=timings,
                    evidence=evidence,
                    progress=report,
                    say=said.append,
                ).decode()
        except (EdgeqError, KeyboardInterrupt) as error:
            found |= {"error": type(error).__name__, "what": str(error), "causes": getattr(error, "causes", [])}
        left = {file.name: file.read_text() for file in evidence.iterdir()} if evidence.exists() else {}
        place = str(evidence)
        kept = timings.read_bytes().decode() if timings and timings.exists() else ""
    seen = {"calls": stage.calls, "said": said, "reported": reported, "alive": stage.alive}
    return {**found, **seen, "timings": kept, "left": left, "place": place}


class Calibrator:
    """Stands for edgeq's own, which has its own tests: the builder only hands it on and asks it afterwards."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self.failure = RuntimeError(fault) if "failed" in fault else None

    def check(self) -> None:
        from edgeq.errors import CalibrationError

        if self._fault:
            raise CalibrationError(self._fault)


def gives(value: Any) -> Callable[..., Any]:
    """A method that gives this whatever it is given."""
    return lambda *_arguments: value


class Stage:
    """`tensorrt` with stand-ins for Builder, OnnxParser and Runtime; everything else is the real module's."""

    def __init__(self, trt: Any, case: dict[str, Any]) -> None:
        self._trt, self._case = trt, case
        self.calls: list[str] = []
        self.alive: dict[str, bool] = {}
        self._watched: dict[str, weakref.ref[Any]] = {}
        self._flags: set[str] = set()
        self._ranged: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trt, name)

    def Builder(self, log: Any) -> Any:
        self._log = log
        if self._case.get("builder") == "real":
            return self._trt.Builder(log)
        self.calls.append("builder = Builder(log)")
        config = self._config = self.spy("config", self._trt.IBuilderConfig, self._config_answers())
        builds = {
            "create_network": lambda *_arguments: self._network(),
            "create_builder_config": gives(config),
            "create_optimization_profile": self._profile,
            "build_serialized_network": lambda *_arguments: self._build(),
        }
        return self.spy("builder", self._trt.Builder, builds)

    def OnnxParser(self, *_arguments: Any) -> Any:
        self.calls.append("parser = OnnxParser(network, log)")
        errors = self._case.get("parser_errors", [])

        def error(index: int) -> Any:
            node, operator, text = errors[index]
            answers = {"node_name": gives(node), "node_operator": gives(operator), "desc": gives(text)}
            return self.spy("error", self._trt.ParserError, answers, quiet=True)

        answers = {"parse_from_file": gives(not errors), "get_error": error}
        return self.watched("parser", self._trt.OnnxParser, answers, {"num_errors": len(errors)})

    def Runtime(self, *_arguments: Any) -> Any:
        self.calls.append("runtime = Runtime(log)")
        text = self._case["inspector"]
        inspector = self.spy("inspector", self._trt.EngineInspector, {"get_engine_information": gives(text)})
        context = self.spy("context", self._trt.IExecutionContext, {"set_input_shape": gives(True)})
        engine = self.spy(
            "engine",
            self._trt.ICudaEngine,
            {"create_engine_inspector": gives(inspector), "create_execution_context": gives(context)},
        )
        return self.spy("runtime", self._trt.Runtime, {"deserialize_cuda_engine": gives(engine)})

    def spy(self, name: str, kind: Any, answers: dict[str, Any], values: Any = None, *, quiet: bool = False) -> Any:
        return Spy(self.calls, name, kind, answers, values or {}, quiet=quiet)

    def watched(self, name: str, kind: Any, answers: dict[str, Any], values: Any = None) -> Any:
        made = self.spy(name, kind, answers, values)
        self._watched[name] = weakref.ref(made)
        return made

    def _profile(self) -> Any:
        name = f"profile{sum(known.startswith('profile') for known in self._watched)}"
        return self.watched(name, self._trt.IOptimizationProfile, {"set_shape": gives(None)})

    def _network(self) -> Any:
        described = self._case["network"]
        self._tensors: dict[str, Any] = {}
        layers = self._layers = [self._layer(entry) for entry in described["layers"]]
        outputs = [self._tensor(name, kind, f"network.output[{name}]") for name, kind in described["outputs"].items()]
        return self.spy(
            "network",
            self._trt.INetworkDefinition,
            {"get_layer": layers.__getitem__, "get_output": outputs.__getitem__},
            {"num_layers": len(layers), "num_outputs": len(outputs)},
        )

    def _layer(self, entry: dict[str, Any]) -> Any:
        """A layer, an ILayer for the bindings whatever it is; `weights` and `op` are those of its own class."""
        inputs = [self._tensor(name) for name in entry["inputs"]]
        outputs = [self._tensor(name, entry.get("writes", "float32")) for name in entry["outputs"]]
        made = self.spy(
            f"layer[{entry['name']}]",
            self._trt.ILayer,
            {
                "get_input": inputs.__getitem__,
                "get_output": outputs.__getitem__,
                "set_output_type": gives(None),
            },
            {
                "name": entry["name"],
                "metadata": entry.get("metadata", ""),
                "type": getattr(self._trt.LayerType, entry.get("type", "CONVOLUTION")),
                "num_inputs": len(inputs),
                "num_outputs": len(outputs),
            },
        )
        if "op" in entry:
            made.__dict__["_values"]["op"] = getattr(self._trt.ElementWiseOperation, entry["op"])
        if "weights" in entry:
            made.__dict__["_values"]["weights"] = np.array(entry["weights"], np.float32)
        return made

    def _tensor(self, name: str, kind: str = "float32", shown: str = "") -> Any:
        if shown or name not in self._tensors:

            def ranged(low: float, high: float) -> bool:
                assert -low == high > 0.0, "TensorRT takes symmetric ranges alone"
                self._ranged.add(name)
                return True

            values = {
                "name": name,
                "dtype": getattr(self._trt, kind),
                "is_network_output": name in self._case["network"]["outputs"],
            }
            shown = shown or f"tensor[{name}]"
            self._tensors[name] = self.spy(shown, self._trt.ITensor, {"set_dynamic_range": ranged}, values)
        return self._tensors[name]

    def _unranged(self) -> list[str]:
        """Tensors without a range that layers want which obey INT8."""
        if not {"INT8", "OBEY_PRECISION_CONSTRAINTS"} <= self._flags:
            return []
        entries = self._case["network"]["layers"]
        constants: set[str] = set()
        for entry in entries:
            moved = entry.get("type") == "SHUFFLE" and set(entry["inputs"]) <= constants
            constants |= set(entry["outputs"]) if entry.get("type") == "CONSTANT" or moved else set()
        known, found = self._case.get("ranges"), []
        for entry, layer in zip(entries, self._layers, strict=True):
            if layer.__dict__["_values"].get("precision") == self._trt.int8:
                found += [name for name in (*entry["inputs"], *entry["outputs"]) if name not in self._ranged]
        measured = (
            [name for name in found if name in constants] if known is None else [n for n in found if n not in known]
        )
        outputs = self._case["network"]["outputs"]
        return [name for name in dict.fromkeys(measured) if name not in outputs and self._is_float(name)]

    def _is_float(self, name: str) -> bool:
        return self._tensors[name].dtype in (self._trt.float32, self._trt.float16)

    def _config_answers(self) -> dict[str, Callable[..., Any]]:
        refused = self._case.get("timings_refused", False)
        numbers = itertools.count(self._case.get("first_profile", 0))

        def cache(payload: bytes) -> Any:
            merged = [payload.decode()]
            answers = {
                "combine": lambda other, _ignore: merged.append(other.payload()),
                "serialize": lambda: "+".join(filter(None, merged)).encode(),
            }
            made = self.spy(f"timings({payload.decode()})", self._trt.ITimingCache, answers)
            object.__setattr__(made, "payload", lambda: payload.decode())
            return made

        return {
            **dict.fromkeys(("clear_flag", "set_memory_pool_limit"), gives(None)),
            "set_flag": lambda flag: self._flags.add(flag.name),
            "add_optimization_profile": lambda _profile: next(numbers),
            "set_calibration_profile": gives(True),
            "create_timing_cache": cache,
            "set_timing_cache": lambda cache, _ignore: not (refused and cache.payload()),
            "get_timing_cache": lambda: cache(b"measured"),
        }

    def _build(self) -> Any:
        """What TensorRT does in a build, as far as edgeq can notice."""
        gc.collect()
        self.alive = {name: reference() is not None for name, reference in self._watched.items()}
        monitor = self._config.progress_monitor
        for phase, steps in (self._case.get("phases") or {}).items():
            monitor.phase_start(phase, None, steps)
            going = all(monitor.step_complete(phase, step) for step in range(steps))
            monitor.phase_finish(phase)
            if not going:
                return None
        for text in self._case.get("logged", []):
            self._log.log(self._trt.ILogger.ERROR, text)
        for text in self._case.get("warned", []):
            self._log.log(self._trt.ILogger.WARNING, text)
        if unranged := self._unranged():
            self._log.log(self._trt.ILogger.ERROR, f"could not find any implementation: no scale of {unranged}")
            return None
        return self._case.get("built", "the engine").encode() if self._case.get("built", "x") else None


class Spy:
    """An autospec of one of TensorRT's classes that writes calls and assignments down."""

    def __init__(
        self, calls: list[str], name: str, kind: Any, answers: dict[str, Any], values: dict[str, Any], *, quiet: bool
    ) -> None:
        known = _names(kind)
        answers = {entry: answer for entry, answer in answers.items() if entry in known or entry not in IMPLICIT}
        wrong = [entry for entry in (*answers, *values) if entry not in known]
        assert not wrong, f"{kind.__name__} has no {wrong}"
        self.__dict__.update(_calls=calls, _name=name, _kind=kind, _answers=answers, _values=values, _quiet=quiet)

    def __getattr__(self, name: str) -> Any:
        if name in self._values:
            assert name in _names(self._kind), f"{self._kind.__name__} has no {name}"
            return self._values[name]
        getattr(_autospec(self._kind), name)  # AttributeError where the class has no such name
        answer = self._answers[name]

        def call(*arguments: Any) -> Any:
            _check_count(self._kind, name, len(arguments))
            result = answer(*arguments)
            if name not in QUIET and not self._quiet:
                given = f"{_show(result)} = " if isinstance(result, Spy) else ""
                self._calls.append(f"{given}{self._name}.{name}({', '.join(map(_show, arguments))})")
            return result

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":  # as the bindings do it: from then on it has the names of that class
            assert issubclass(value, self._kind)
            self.__dict__["_kind"] = value
            return
        setattr(_autospec(self._kind), name, value)
        self._values[name] = value
        self._calls.append(f"{self._name}.{name} = {_show(value)}")


@cache
def _names(kind: Any) -> frozenset[str]:
    return frozenset(dir(kind))


@cache
def _autospec(kind: Any) -> Any:
    return mock.create_autospec(kind, instance=True, spec_set=True)


def _check_count(kind: Any, name: str, given: int) -> None:
    """Whether a method takes so many arguments; of overloaded ones nothing is known."""
    found = re.match(rf"{name}\(self: [\w.]+(?:, )?(.*)\) ->", getattr(kind, name).__doc__ or "")
    if found is None:
        return
    parameters = [text for text in re.sub(r"<[^>]*>|\[.*?\]", "", found[1]).split(", ") if text]
    needed = sum("=" not in text for text in parameters)
    assert needed <= given <= len(parameters), f"{kind.__name__}.{name} takes {needed} to {len(parameters)} arguments"


def _show(value: Any) -> str:
    if isinstance(value, Spy):
        return str(value._name)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (bool, int, tuple)):
        return str(value)
    if isinstance(value, str):
        return value
    if hasattr(type(value), "__members__"):
        return f"{type(value).__name__}.{value.name}"
    return {"Calibrator": "calibrator", "Log": "log", "Monitor": "monitor"}[type(value).__name__]
