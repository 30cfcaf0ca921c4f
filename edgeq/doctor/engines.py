"""What the engine probes found: ONNX Runtime, TensorRT and the quantization mode that its release leaves."""

from __future__ import annotations

from collections.abc import Mapping

from edgeq.doctor.child import Outcome
from edgeq.doctor.finding import DoctorFinding
from edgeq.engine.base import EngineBackend
from edgeq.engine.registry import BUILT, DEFAULT, backend
from edgeq.errors import EngineError
from edgeq.extras import install_command
from edgeq.tensorrt.loading import choose_quantization, newer_than_known, version_of

__all__ = ["onnxruntime_finding", "other_findings", "tensorrt_finding", "tensorrt_version"]


def tensorrt_version(probe: Outcome) -> str | None:
    """The release that can be used here; None where there is none."""
    found = probe.facts.get(BUILT.name)
    return str(found) if found and not probe.facts.get("runtime_error") and probe.whole else None


def onnxruntime_finding(probe: Outcome | None, *, tensorrt: bool) -> DoctorFinding:
    """The default engine and its providers.

    Args:
        probe: None where it is not installed.
        tensorrt: TensorRT works here, so that there is an engine without it.
    """
    step = install_command("device")
    if probe is None or "providers" not in probe.facts:
        seen = "not installed" if probe is None else f"it cannot be imported: {probe.ending}"
        means = "TensorRT alone runs the graphs" if tensorrt else "there is no engine to run a vision graph in"
        status = "warning" if tensorrt else "missing"
        return DoctorFinding(name="ONNX Runtime", status=status, seen=seen, means=means, next_step=step)
    names = ", ".join(provider.removesuffix("ExecutionProvider") for provider in probe.facts["providers"])
    return DoctorFinding(name="ONNX Runtime", status="ok", seen=f"{probe.facts[DEFAULT.name]}, providers: {names}")


def tensorrt_finding(probe: Outcome, *, jetson: bool) -> DoctorFinding:
    """TensorRT's version and the quantization mode that follows from it; a machine without it runs in ONNX Runtime."""
    facts = probe.facts
    if BUILT.name not in facts:
        seen = str(facts.get("error") or f"it cannot be imported: {probe.ending}")
        absent = DoctorFinding(
            name="TensorRT", status="unknown", seen=seen, means="vision graphs run in ONNX Runtime here"
        )
        if jetson or "installed but" in seen or "error" not in facts:
            return absent.model_copy(update={"status": "warning", "next_step": str(facts.get("next_step", ""))})
        return absent
    if not probe.whole or "runtime_error" in facts:
        return DoctorFinding(
            name="TensorRT",
            status="warning",
            seen=f"{facts[BUILT.name]}, and no runtime can be made: {facts.get('runtime_error') or probe.ending}",
            means="there is no GPU, no driver, or a driver that is too old; engines are neither built nor run here",
        )
    return _with_quantization(str(facts[BUILT.name]))


def other_findings(probes: Mapping[str, Outcome]) -> tuple[DoctorFinding, ...]:
    """Backends that are installed beside the two: name -> how its probe ended."""
    return tuple(_other(backend(name), probe) for name, probe in probes.items())


def _other(found: EngineBackend, probe: Outcome) -> DoctorFinding:
    release = probe.facts.get(found.name)
    if release is None:
        step = install_command(found.extra)
        seen = f"it cannot be imported: {probe.ending}"
        return DoctorFinding(name=found.title, status="warning", seen=seen, next_step=step)
    rest = "; ".join(f"{fact}: {_listed(value)}" for fact, value in probe.facts.items() if fact != found.name)
    return DoctorFinding(name=found.title, status="ok", seen=f"{release}; {rest}" if rest else str(release))


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _with_quantization(version: str) -> DoctorFinding:
    try:
        _, why = choose_quantization(version_of(version), None)
        warning = newer_than_known(version_of(version))
    except EngineError as error:
        return DoctorFinding(
            name="TensorRT", status="warning", seen=version, means=error.what, next_step=error.next_step
        )
    if warning:
        return DoctorFinding(name="TensorRT", status="warning", seen=version, means=warning)
    return DoctorFinding(name="TensorRT", status="ok", seen=version, means=f"quantization is {why}")
