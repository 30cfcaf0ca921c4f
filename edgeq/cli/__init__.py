"""The command line: one file for each verb.

Exit status: 0 done, 1 a gate said no, 2 bad input or usage, 70 failed, 75 not now, 78 and 79 a service that a restart
cannot mend, 130 stopped with Ctrl-C, 141 the reader of stdout closed it, 143 terminated; `edgeq.cli.exit_statuses` says
what each of them means.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Final

import click
from click.shell_completion import CompletionItem

from edgeq import __version__
from edgeq.cli.completion import answer_shell, completion_option
from edgeq.cli.error_report import tell_error, tell_stopped, tell_usage
from edgeq.cli.exit_statuses import BAD_INPUT, DONE, FAILED, SERVICES, exit_status, leave
from edgeq.cli.groups import VerbGroup
from edgeq.cli.invocation import Invocation, quiet_libraries, verbose_option
from edgeq.faults import is_device_lost
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
    "lint": "Read any ONNX file against NVIDIA's rules for TensorRT.",
    "judge": "Does another runtime still see: a server or a checkpoint beside a reference.",
    "report": "Write what a bundle knows of itself as one page, or what differs between two.",
    "push": "Send a bundle to Hugging Face's hub, with its model card.",
    "build": "Build the engine for this device from a bundle, or show what would be set.",
    "handover": "Write what Triton, DeepStream or trtexec needs of a bundle.",
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
    "watch": "Report on images that come into a folder, on a film or a camera.",
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


class _Verbs(VerbGroup):
    """Verbs that are imported when they are called, so that `edgeq --help` is quick and needs nothing installed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [*VERBS]

    def find_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in VERBS:
            return None
        half = "device" if name in _DEVICE else "workshop"
        command = importlib.import_module(f"edgeq.cli.{half}.{name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([*VERBS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        verbs = [CompletionItem(name, help=line) for name, line in VERBS.items() if name.startswith(incomplete)]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgeq")
def cli() -> None:
    """Quantize vision models for NVIDIA Jetson, and prove that they still see."""


cli.params += [verbose_option(), completion_option()]


def main() -> None:
    """The `edgeq` command."""
    asked = answer_shell(cli)
    if asked is not None:
        sys.exit(asked)
    signal.signal(signal.SIGTERM, _terminated)
    if sys.stderr is not None:
        faulthandler.enable()  # a crash in a library's own code says where, instead of nothing
    quiet_libraries()
    status = run(sys.argv[1:])
    if _lost:
        leave(status)
    gc.freeze()  # Python ends with looking for garbage in all that was imported: with torch that takes seconds
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises to install faster kernels
    service = next((word for word in arguments if not word.startswith("-")), "") in SERVICES
    asked = Invocation.of(arguments)
    try:
        given = current_arguments(arguments)
        return cli.main(args=given, prog_name="edgeq", standalone_mode=False, obj=asked) or DONE
    except click.ClickException as error:
        tell_usage(error, BAD_INPUT, asked)
        return BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        return _stopped(_INTERRUPTED, asked)
    except Exception as error:
        status = exit_status(error, service=service)
        tell_error(error, status, asked)
        if is_device_lost(error):
            _lost.append(error)
        return status
    except SystemExit as stop:
        if stop.code == _TERMINATED:
            return _stopped(_TERMINATED, asked)
        if _reader_gone(stop):
            return _READER_GONE
        tell_stopped(f"error: a library ended the process, with {stop.code!r}", FAILED, asked)
        return FAILED


def _reader_gone(stop: SystemExit) -> bool:
    """Whether click or rich ended this, as they do where stdout is closed: with 1, which has another meaning here."""
    where = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(stop.__traceback__)]
    return str(where[-1]).partition(".")[0] in ("click", "rich")


def _stopped(status: int, asked: Invocation) -> int:
    tell_stopped("stopped; nothing was left behind", status, asked)
    return status


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    """Unwind on SIGTERM as on Ctrl-C, so that nothing half-written stays."""
    raise SystemExit(_TERMINATED)
