"""A bundle on its way to a device: build its engine, verify it, install it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeq.bundle.copy import Report
from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.transport import examine_file
from edgeq.bundle.verification_states import Verified
from edgeq.bundle.verify import Trust, examine
from edgeq.device import probe
from edgeq.engine.registry import BUILT
from edgeq.engine.registry import backend as named
from edgeq.engine_store.machine import ask_driver
from edgeq.engine_store.run import BuiltEncoders, BuiltEngine
from edgeq.engine_store.run import build as build_engines
from edgeq.engine_store.store import default_store
from edgeq.errors import EngineError, InputError
from edgeq.install.proof import canary_check
from edgeq.install.run import Installed, install
from edgeq.install.store import ENGINES, ROOT
from edgeq.plan.budget import WORKSPACE_BYTES
from edgeq.tensorrt.loading import QuantizationMode, load_tensorrt
from edgeq.tensorrt.settings import Batch

__all__ = ["build", "install_bundle", "this_device", "verify"]


def build(
    bundle: str | Path,
    *,
    backend: str = BUILT.name,
    store: str | Path | None = None,
    quantization: QuantizationMode | None = None,
    tensorrt: str | None = None,
    batch: Batch | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    images: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> BuiltEngine | BuiltEncoders:
    """Check a bundle byte for byte, and build its engine for this device, or find it in the store.

    Of CLIP or SigLIP, an engine for each of the two encoders.

    Args:
        bundle: made by `prepare`.
        backend: what runs it; all but TensorRT take the bundle's graph as it is.
        store: directory of the engines; None takes /var/lib/edgeq/engines or the user's cache.
        quantization: `explicit` (ranges and types are in the graph) or `implicit` (they are set on an FP32 graph, with
            TensorRT 10); None takes `explicit`.
        tensorrt: the release that must be installed, such as `10.3.0`; None takes the one that is.
        batch: pictures or texts at once: least, usual, most; None is one image, and of CLIP and SigLIP what the service
            runs together.
        workspace_bytes: limit of the builder's workspace.
        images: calibrate on these, on this device, instead of the bundle's ranges.
        progress: called as (stage, done, total).
        say: told what a person should know, in a sentence.

    Returns:
        The engine; of a bundle with two encoders, both.

    Raises:
        ArtifactError: the bundle is damaged, or does not say what an engine is built from.
        InputError: there is no such backend.
        EngineError: there is no such TensorRT, it refuses the graph, or builds nothing.
        QuantizeError: it built something else than was planned; the error says where that is.
        GateError: the build may take more memory than is free, or canaries fail.
        OutputError: the store cannot be written.
    """
    made = build_engines(
        Path(bundle),
        Path(store) if store else default_store(),
        backend=named(backend),
        quantization=quantization,
        tensorrt=tensorrt,
        batch=batch,
        workspace_bytes=workspace_bytes,
        images=Path(images) if images else None,
        progress=progress,
        say=say,
    )
    return made[""] if "" in made else BuiltEncoders(encoders=made)


def verify(
    bundle: str | Path,
    *,
    keys: Sequence[str | Path] = (),
    device: DeviceFacts | None = None,
    progress: Report | None = None,
) -> Verified:
    """Check a bundle: lengths, digests, signature, device. Nothing is written, and nothing in it is loaded.

    Args:
        bundle: a directory or an .edgeq.tar file.
        keys: files of public keys; it must be signed by one of them. Without any the signature is not looked at.
        device: what it must suit, such as `this_device()`; None for any.
        progress: called with the bytes checked and the bytes in all.

    Returns:
        Its manifest, its digest, and whose signature was checked.

    Raises:
        BundleError: its subclass says at which step, and why.
        KeyFileError: a file holds no public key.
    """
    trust = Trust.of([Path(key) for key in keys], device=device)
    place = Path(bundle)
    return (examine if place.is_dir() else examine_file)(place, trust, report=progress)


def install_bundle(
    bundle: str | Path,
    *,
    root: str | Path = ROOT,
    keys: Sequence[str | Path] = (),
    check: bool = True,
    backend: str | None = None,
    answers: bool = False,
    threads: int | None = None,
    because: str = "",
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Installed:
    """Install a bundle on this device, switch to it, and check its canaries; switch back if that fails.

    Args:
        bundle: a directory or an .edgeq.tar file; whether this device has what it needs is checked too.
        root: the directory of installed bundles.
        keys: files of public keys; it must be signed by one of them, and they are remembered. Without any, it must be
            signed by one that was remembered; where none was, the signature is not looked at.
        check: compare the engine with what the workshop saw.
        backend: what is checked: TensorRT's engine, which is built if need be, or the graph in another backend; None
            takes TensorRT where it is installed and there is a GPU, else the backend that the bundle was made for.
        answers: ask a vision-language model the canaries' questions as well.
        threads: of one operator; None takes every processor there is.
        because: why a bundle is taken that is older than one before, expired, or not signed though others were; empty
            refuses it.
        progress: called as (stage, done, total).
        say: told what a person should know, in a sentence.

    Raises:
        BundleError: the bundle is refused; nothing is left of it.
        GateError: the check failed. The version before is current again.
        OutputError: the disk is full or fails, or another process changes the store. Nothing is switched.
    """
    place = Path(root)
    canaries = canary_check(
        place / ENGINES,
        backend=named(backend) if backend else None,
        answers=answers,
        threads=threads,
        progress=progress,
        say=say,
    )
    return install(
        Path(bundle),
        place,
        keys=[Path(key) for key in keys],
        device=this_device(),
        check=canaries if check else None,
        report=progress,
        because=because,
    )


def this_device() -> DeviceFacts:
    """What this machine has, by the kernel, CUDA's driver and TensorRT; what cannot be found out is None."""
    try:
        memory = probe().total_bytes
    except InputError:
        memory = None
    try:
        tensorrt = str(load_tensorrt().__version__)
    except EngineError:
        tensorrt = None
    gpu = ask_driver()
    return DeviceFacts(memory, gpu.compute_capability if gpu else None, tensorrt)
