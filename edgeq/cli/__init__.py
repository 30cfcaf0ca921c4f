"""The command line: one file for each verb.

Exit status: 0 done, 1 a gate said no, 2 bad input or usage, 70 failed, 75 not now, 78 and 79 a service that a restart
cannot mend, 130 stopped with Ctrl-C, 141 the reader of stdout closed it, 143 terminated; `edgeq.cli.exit_statuses` says
what each of them means.
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Final

import click

from edgeq import __version__
from edgeq.cli.exit_statuses import BAD_INPUT, DONE, FAILED, SERVICES, exit_status, leave
from edgeq.errors import EdgeqError
from edgeq.faults import is_device_lost, known_fault
from edgeq.old_names import current_arguments

__all__ = ["VERBS", "cli", "main", "run"]

VERBS: Final = {
    "inspect": "Show what a model is made of and what would be done to it.",
    "prepare": "Make a judged bundle of a classifier or a vision-language model: the main job.",
    "plan": "Show which layer gets which precision, and why; check it; does it fit a device.",
    "export": "First stage: export to ONNX, fold BatchNorm, prove parity.",
    "calibrate": "Second stage: find the range of every tensor.",
    "quantize": "Third stage: make the INT8 graphs.",
    "sensitivity": "Find the layers that INT8 harms most.",
    "evaluate": "Last stage: judge INT8 against FP32.",
    "report": "Write what a bundle knows of itself as one page, or what differs between two.",
    "push": "Send a bundle to Hugging Face's hub, with its model card.",
    "build": "Build the engine for this device from a bundle, or show what would be set.",
    "verify-engine": "Compare a bundle's engine with its reference, on its canaries.",
    "keygen": "Make a key pair to sign bundles with.",
    "sign": "Sign a bundle.",
    "verify": "Check a bundle: lengths, digests, signature, device.",
    "bundle": "Pack, unpack and compare bundles.",
    "install": "Install a bundle on this device, check it, and switch to it.",
    "rollback": "Switch back to the bundle before.",
    "list": "Show the installed bundles.",
    "trust": "Whose bundles are installed: lists of keys, revoked keys, the history.",
    "prune": "Remove installed bundles that are no longer wanted.",
    "doctor": "Is this machine able to run bundles: what is there, and what is missing.",
    "bench": "Measure a bundle on this machine, beside what the machine allows at the most.",
    "run": "Ask a bundle's vision-language model about an image.",
    "index": "Embed images with a bundle of CLIP or SigLIP into a catalog, and index it.",
    "search": "Find images of a catalog by words, or by an image.",
    "serve": "Serve a bundle over HTTP: chat, classes, reports, metrics.",
    "watch": "Write a report beside each image that comes into a folder.",
    "demo": "Go the whole way on the small networks that come along.",
}
"""Each verb with its line in `edgeq --help`."""

_DEVICE: Final = frozenset(
    [
        "build",
        "index",
        "search",
        "verify-engine",
        "keygen",
        "sign",
        "verify",
        "bundle",
        "install",
        "rollback",
        "list",
        "trust",
        "prune",
        "doctor",
        "bench",
        "run",
        "serve",
        "watch",
    ]
)
"""Verbs that a device without the workshop's packages has; they lie in `edgeq.cli.device`."""

_lost: list[Exception] = []
"""Errors over an accelerator that is lost: their frames hold what lies on it, so that nothing lets it go."""

_INTERRUPTED = 128 + signal.SIGINT
_READER_GONE = 128 + signal.SIGPIPE
_TERMINATED = 128 + signal.SIGTERM


class _Verbs(click.Group):
    """Verbs that are imported when they are called, so that `edgeq --help` is quick and needs nothing installed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [*VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        half = "device" if cmd_name in _DEVICE else "workshop"
        command = importlib.import_module(f"edgeq.cli.{half}.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([*VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgeq")
def cli() -> None:
    """Quantize vision models for NVIDIA Jetson, and prove that they still see."""


def main() -> None:
    """The `edgeq` command."""
    signal.signal(signal.SIGTERM, _terminated)
    status = run(sys.argv[1:])
    if _lost:
        leave(status)
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises to install faster kernels
    service = next(iter(arguments), "") in SERVICES
    try:
        return cli.main(args=current_arguments(arguments), prog_name="edgeq", standalone_mode=False) or DONE
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        return _stopped(_INTERRUPTED)
    except Exception as error:
        _tell(error)
        if is_device_lost(error):
            _lost.append(error)
        return exit_status(error, service=service)
    except SystemExit as stop:
        if stop.code == _TERMINATED:
            return _stopped(_TERMINATED)
        if _reader_gone(stop):
            return _READER_GONE
        click.echo(f"error: a library ended the process, with {stop.code!r}", err=True)
        return FAILED


def _tell(error: Exception) -> None:
    """What went wrong, in a few lines; with a traceback where nobody foresaw it."""
    fault = known_fault(error)
    if isinstance(error, EdgeqError):
        click.echo(f"error: {error}", err=True)
    elif fault is not None:
        click.echo(f"error: {fault}", err=True)
    elif isinstance(error, ImportError):
        click.echo(f"error: {error}\nnext: pip install 'edgeq[{_extra(error.name)}]'", err=True)
    elif isinstance(error, OSError):  # of this machine: no right to read, a disk that fails
        click.echo(f"error: {error}", err=True)
    else:
        click.echo("".join(traceback.format_exception(error)).rstrip(), err=True)


def _reader_gone(stop: SystemExit) -> bool:
    """Whether click or rich ended this, as they do where stdout is closed: with 1, which has another meaning here."""
    where = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(stop.__traceback__)]
    return str(where[-1]).partition(".")[0] in ("click", "rich")


def _extra(package: str | None) -> str:
    """The extra that brings a package which is not installed."""
    if package in ("accelerate", "bitsandbytes"):
        return "language"
    if package == "cryptography":
        return "device"
    if package in ("anyio", "h11", "httptools", "prometheus_client", "starlette", "uvicorn", "uvloop"):
        return "service"
    if package in ("faiss", "pyarrow", "tokenizers"):
        return "retrieval"
    from_torch = ("huggingface_hub", "onnxscript", "safetensors", "torch", "transformers")
    return "torch" if (package or "").split(".")[0] in from_torch else "quantize"


def _stopped(status: int) -> int:
    click.echo("stopped; nothing was left behind", err=True)
    return status


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    """Unwind on SIGTERM as on Ctrl-C, so that nothing half-written stays."""
    raise SystemExit(_TERMINATED)
