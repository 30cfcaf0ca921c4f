"""From settings and an ONNX file to a serialized engine that was compared with its plan.

What is called, and in which order, is written down in tests/golden/tensorrt. No engine was built here: the calls are
checked against the real bindings of TensorRT 10.3, 10.16 and 11.4, which have no builder without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeq.errors import EngineError, OutputError, first_line
from edgeq.tensorrt.constraints import check_bindings, constrain
from edgeq.tensorrt.loading import quiet_deprecations
from edgeq.tensorrt.log import build_log
from edgeq.tensorrt.outcome import Outcome, Say, cause
from edgeq.tensorrt.progress import Progress, progress_monitor
from edgeq.tensorrt.ranges import set_ranges
from edgeq.tensorrt.settings import BuildSettings, ShapeRange
from edgeq.tensorrt.timing_cache import read_timing_cache, update_timing_cache

__all__ = ["Progress", "Say", "build_engine"]


def build_engine(
    trt: ModuleType,
    settings: BuildSettings,
    graph: Path,
    *,
    calibrator: Any = None,
    ranges: Mapping[str, float] | None = None,
    timing_cache: Path | None = None,
    evidence: Path | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> bytes:
    """Build an engine, and compare it with what was planned.

    An engine that differs from its plan is given where the settings prefer precisions, and refused otherwise. Memory is
    not looked at: `edgeq.tensorrt.settings.check_memory` comes before.

    Args:
        trt: TensorRT, as `edgeq.tensorrt.loading.load_tensorrt` gives it.
        settings: what the builder is told.
        graph: the ONNX file; weights in a file of their own are beside it.
        calibrator: of `edgeq.tensorrt.calibrator`, whose batches have the OPT shapes; there must be one where
            the settings want ranges, and may be none elsewhere.
        ranges: the largest magnitude of each tensor in the calibrator's cache, by name; None where it has none, or
            where images are measured.
        timing_cache: a file of `edgeq.tensorrt.timing_cache`; read, and written after the build.
        evidence: a directory for what is left of a build that does not come out as planned
            (`edgeq.tensorrt.outcome`); what is there is removed then. None keeps nothing.
        progress: called as the build goes on; what it raises stops the build and is raised here.
        say: told of a timing cache that cannot be used, of layers whose precision the engine does not show, and of
            those that differ where precisions are preferred.

    Returns:
        The engine, serialized. It is good for this device and this release alone.

    Raises:
        EngineError: TensorRT refuses the graph, or a layer, a binding or a range is missing.
        UnbuiltError: it builds nothing.
        QuantizeError: a layer of the engine computes in another precision than planned.
        EdgeqError: what the calibrator raises.
    """
    if (calibrator is None) != (settings.calibration == "none"):
        raise EngineError(
            "ranges are wanted and no calibrator was given" if calibrator is None else "nothing is to be calibrated",
            expected="a calibrator with implicit quantization of an INT8 engine, and none elsewhere",
        )
    tell = say or (lambda _sentence: None)
    log, monitor = build_log(trt), progress_monitor(trt, progress)
    outcome = Outcome(trt, settings, log, evidence)
    with quiet_deprecations(), cause(log, f"TensorRT failed while building {graph.name}"):
        engine = _build(trt, settings, graph, calibrator, ranges, timing_cache, monitor, log, tell)
    monitor.check()
    # Without an engine it matters only what failed in calibration: TensorRT may have given up before it began.
    if calibrator is not None and (engine is not None or calibrator.failure is not None):
        calibrator.check()
    if engine is None:
        raise outcome.nothing(graph)
    outcome.verify(engine, tell)
    return engine


def _build(
    trt: ModuleType,
    settings: BuildSettings,
    graph: Path,
    calibrator: Any,
    ranges: Mapping[str, float] | None,
    timing_cache: Path | None,
    monitor: Any,
    log: Any,
    tell: Say,
) -> bytes | None:
    _check_flags(trt, settings)
    builder = trt.Builder(log)
    network = builder.create_network(_bits(trt.NetworkDefinitionCreationFlag, settings.network_flags))
    parser = trt.OnnxParser(network, log)
    _parse(parser, graph)
    (constrain if settings.quantization == "implicit" else check_bindings)(trt, network, settings)
    if calibrator is not None:
        set_ranges(trt, network, settings, ranges)
    config = builder.create_builder_config()
    _configure(trt, config, settings)
    profiles = _profiles(builder, config, settings.profiles, calibrator)
    if timing_cache is not None:
        _give_timings(config, timing_cache, tell)
    config.progress_monitor = monitor
    serialized = _run(builder, network, config, alive=(parser, *profiles))
    if serialized is not None and timing_cache is not None:
        _keep_timings(config, timing_cache, tell)
    return None if serialized is None else bytes(serialized)


def _run(builder: Any, network: Any, config: Any, *, alive: Sequence[Any]) -> Any:  # noqa: ARG001
    """Build. `alive` is what TensorRT uses and does not hold: the parser, which owns the weights, and the profiles."""
    return builder.build_serialized_network(network, config)


def _check_flags(trt: ModuleType, settings: BuildSettings) -> None:
    """Refuse a release that lacks one before anything is parsed."""
    wanted = (
        (trt.NetworkDefinitionCreationFlag, settings.network_flags),
        (trt.BuilderFlag, (*settings.builder_flags, *settings.cleared_flags)),
    )
    missing = [f"{flags.__name__}.{name}" for flags, names in wanted for name in names if not hasattr(flags, name)]
    if missing:
        raise EngineError(
            f"TensorRT {trt.__version__} lacks {', '.join(missing)}",
            expected=f"a release with {settings.quantization} quantization that edgeq was checked against",
            causes=("the release is newer than this edgeq",),
            next_step="take a release that the README names, or a newer edgeq",
        )


def _bits(flags: Any, names: Iterable[str]) -> int:
    """A set of flags as `create_network` takes it."""
    return sum(1 << int(getattr(flags, name)) for name in names)


def _parse(parser: Any, graph: Path) -> None:
    if parser.parse_from_file(str(graph)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    raise EngineError(
        f"TensorRT cannot parse {graph}",
        causes=tuple(_parser_error(error) for error in errors[:10]) or ("it gives no reason: is the file there?",),
        next_step="open it in ONNX Runtime first: edgeq verify-engine BUNDLE --backend onnxruntime",
    )


def _parser_error(error: Any) -> str:
    node = f"{error.node_name() or 'a node without a name'} ({error.node_operator() or 'no operator'})"
    return f"{node}: {' '.join(str(error.desc()).split())[:300]}"


def _configure(trt: ModuleType, config: Any, settings: BuildSettings) -> None:
    """Flags and limits."""
    for name in settings.builder_flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    for name in settings.cleared_flags:
        config.clear_flag(getattr(trt.BuilderFlag, name))
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    # One memory for all on a Jetson: there this pool counts what the host takes, too, so it gets the whole bound.
    config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, settings.peak_bytes)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def _profiles(builder: Any, config: Any, wanted: Sequence[Sequence[ShapeRange]], calibrator: Any) -> tuple[Any, ...]:
    """Give the config its calibrator, and the profiles of the free axes: for running, and for calibrating."""
    if calibrator is not None:
        config.int8_calibrator = calibrator
    if not wanted[0]:
        return ()
    made = []
    for number, ranges in enumerate(wanted):
        profile = _shaped(builder, ranges)
        made.append(profile)
        if config.add_optimization_profile(profile) != number:  # its number is how a run asks for it
            raise EngineError("TensorRT does not take the optimization profile", causes=_shapes(ranges))
    if calibrator is None:
        return tuple(made)
    # TensorRT would put OPT in the place of MIN and MAX: better in a profile of its own.
    fixed = [ShapeRange(input=entry.input, min=entry.opt, opt=entry.opt, max=entry.opt) for entry in wanted[0]]
    calibrated = _shaped(builder, fixed)
    if not config.set_calibration_profile(calibrated):
        raise EngineError("TensorRT does not take the calibration profile", causes=_shapes(fixed))
    return *made, calibrated


def _shaped(builder: Any, ranges: Sequence[ShapeRange]) -> Any:
    profile = builder.create_optimization_profile()
    for entry in ranges:
        profile.set_shape(entry.input, entry.min, entry.opt, entry.max)
    return profile


def _shapes(ranges: Sequence[ShapeRange]) -> tuple[str, ...]:
    return tuple(f"{entry.input}: {entry.min} to {entry.max}" for entry in ranges)


def _give_timings(config: Any, path: Path, tell: Say) -> None:
    payload, problem = read_timing_cache(path)
    if problem:
        tell(f"timing cache ignored: {problem}")
    cache = config.create_timing_cache(payload)
    if cache is not None and config.set_timing_cache(cache, False):  # False: not one of another device or release
        return
    tell(f"timing cache ignored: TensorRT does not take {path.name}")
    config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_timings(config: Any, path: Path, tell: Say) -> None:
    """Add what was measured now to what is in the file by now. A build is not lost for a cache that cannot be kept."""

    def merged(others: bytes) -> bytes:
        cache = config.get_timing_cache()
        theirs = config.create_timing_cache(others) if others else None
        if theirs is not None:
            cache.combine(theirs, False)
        return bytes(cache.serialize())

    try:
        update_timing_cache(path, merged)
    except (OSError, OutputError) as error:
        tell(f"timing cache not kept: {first_line(error)}")
