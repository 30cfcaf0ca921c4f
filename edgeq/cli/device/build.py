"""`edgeq build`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgeq.api.device.bundles import build
from edgeq.bundle.manifest import read_manifest
from edgeq.cli import console
from edgeq.cli.device.build_tables import print_plan
from edgeq.cli.progress import progress_and_words
from edgeq.engine.registry import BUILT, NAMES
from edgeq.engine.registry import backend as named
from edgeq.engine_store.machine import read_machine
from edgeq.engine_store.planned import build_key, encoders_of, has_both, plan_build
from edgeq.engine_store.run import BuiltEncoders
from edgeq.engine_store.store import EngineStore, default_store
from edgeq.errors import EngineError
from edgeq.plan.budget import WORKSPACE_BYTES
from edgeq.tensorrt.inputs import FP16_INPUTS
from edgeq.tensorrt.loading import QuantizationMode, load_tensorrt, newer_than_known, version_of
from edgeq.tensorrt.settings import Batch, BuildSettings

__all__ = ["command"]

_PATH = click.Path(path_type=Path)
_MIB = 1 << 20
_FOR_TENSORRT = ("quantization", "tensorrt", "batch", "workspace", "images", "dry_run")


@click.command("build")
@click.argument("bundle", type=_PATH)
@click.option(
    "--backend",
    type=click.Choice(NAMES),
    default=BUILT.name,
    show_default=True,
    help="What runs it; all but TensorRT take the bundle's graph as it is.",
)
@click.option(
    "--quantization",
    type=click.Choice(["implicit", "explicit"]),
    help="explicit: ranges and types are in the graph. implicit: they are set on an FP32 graph (TensorRT 10).  "
    "[default: explicit]",
)
@click.option("--tensorrt", metavar="VERSION", help="The release that builds, such as 10.3.0.  [default: installed]")
@click.option(
    "--batch",
    type=click.IntRange(1),
    nargs=3,
    metavar="MIN OPT MAX",
    help="Pictures or texts at once: least, usual, most.  [default: one image; of CLIP 1 32 64 texts, 1 8 32 images]",
)
@click.option(
    "--workspace",
    type=click.IntRange(1),
    default=WORKSPACE_BYTES // _MIB,
    show_default=True,
    metavar="MIB",
    help="Limit of the builder's workspace.",
)
@click.option("--store", type=_PATH, help="Directory of the engines.  [default: /var/lib/edgeq/engines, or your cache]")
@click.option("--images", type=_PATH, help="Calibrate on these, on this device, instead of the bundle's ranges.")
@click.option("--dry-run", is_flag=True, help="Print all that would be set; needs no TensorRT.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    bundle: Path,
    backend: str,
    quantization: QuantizationMode | None,
    tensorrt: str | None,
    batch: Batch | None,
    workspace: int,
    store: Path | None,
    images: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build the engine of BUNDLE for this device, or find it in the store. CLIP and SigLIP have one for each encoder.

    The engine is kept under a key made of the graph, the plan, what the builder is told, TensorRT's release, the GPU
    and the system's release: another device or release gets another engine. Of a bundle with an INT8 and an FP16 graph
    both are built and run the canaries, and the quicker one that passes is taken. Where implicit quantization cannot
    obey every precision, a second try prefers them, and the canaries decide. An engine that is not what was planned is
    kept in the store with a report, and the error says where. With --dry-run nothing is built: what would be set is
    printed, for a person to read before going to the device.
    """
    if not named(backend).built:
        _refuse(_FOR_TENSORRT)
    choices: dict[str, Any] = {
        "quantization": quantization,
        "batch": batch,
        "workspace_bytes": workspace * _MIB,
        "images": images,
    }
    if dry_run:
        _dry_run(bundle, store or default_store(), tensorrt, choices, as_json)
        return
    with progress_and_words() as (progress, say):
        built = build(bundle, store=store, backend=backend, tensorrt=tensorrt, **choices, progress=progress, say=say)
    if as_json:
        console.print_json(built)
        return
    for encoder, engine in built.encoders.items() if isinstance(built, BuiltEncoders) else (("", built),):
        click.echo(engine.engine)
        because = engine.because if engine.reused else f"built, because {engine.because}"
        click.echo(f"{encoder}: {because}" if encoder else because, err=True)


def _dry_run(bundle: Path, root: Path, tensorrt: str | None, choices: dict[str, Any], as_json: bool) -> None:
    manifest = read_manifest(bundle)
    release = tensorrt or _installed()
    if release and (warning := newer_than_known(version_of(release))):
        click.echo(warning, err=True)
    planned = {
        encoder: plan_build(bundle, encoder=encoder, tensorrt=release, **choices) for encoder in encoders_of(manifest)
    }
    if as_json:
        console.print_json_text(_in_json(planned))
        return
    for settings in planned.values():
        parts = build_key(bundle, manifest, settings, read_machine(), images=choices["images"])
        print_plan(settings, parts, EngineStore(root))
    if has_both(manifest):
        half = plan_build(bundle, tensorrt=release, described=FP16_INPUTS, **{**choices, "images": None})
        parts = build_key(bundle, manifest, half, read_machine(), described=FP16_INPUTS)
        print_plan(half, parts, EngineStore(root))


def _in_json(planned: dict[str, BuildSettings]) -> str:
    """The settings of the only encoder, or of each by its name."""
    if "" in planned:
        return planned[""].model_dump_json(indent=1)
    return json.dumps({"encoders": {name: one.model_dump(mode="json") for name, one in planned.items()}}, indent=1)


def _installed() -> str | None:
    """The release of the TensorRT that is installed; None where none is."""
    with suppress(EngineError):
        return ".".join(map(str, version_of(load_tensorrt())))
    return None


def _refuse(names: Sequence[str]) -> None:
    """Raise click.UsageError where an option was given that ONNX Runtime has no use for."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} is for --backend {BUILT.name}")
