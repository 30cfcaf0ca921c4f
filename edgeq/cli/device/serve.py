"""`edgeq serve`, and what it shares with `edgeq watch`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from pydantic import BaseModel, ConfigDict

from edgeq.api.device.bundles import this_device
from edgeq.cli import console
from edgeq.cli.device.verify import key_option
from edgeq.cli.exit_statuses import DONE, FAILED, leave
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.engine.registry import RUNNING
from edgeq.install.candidate_here import AUTO
from edgeq.service.http.log import log, logged
from edgeq.service.http.notify import Notifier
from edgeq.service.settings import ServiceSettings, change, load_settings

if TYPE_CHECKING:
    from edgeq.service.served_model import ServedModel

__all__ = ["bundle_options", "chosen_settings", "command", "open_chosen"]

_BUNDLE_OPTIONS = (
    click.option("--config", type=PATH, help="Settings (YAML), such as jetson/edgeq.conf; other options go before it."),
    key_option,
    click.option(
        "--backend",
        type=click.Choice([AUTO, *RUNNING]),
        help="What runs the vision graph, and a text encoder.  [default: TensorRT where an engine was built]",
    ),
    click.option(
        "--canaries/--no-canaries", default=None, help="Check the engine before anything else.  [default: yes]"
    ),
    click.option("--terms", type=PATH, help="The words that reports are read by (YAML).  [default: the bundle's]"),
    click.option("--memory", "memory_gb", type=float, metavar="GB", help="For the whole process.  [default: all]"),
    click.option("--context", type=click.IntRange(1), help="Tokens of a request.  [default: the bundle's]"),
    threads_option,
)


def bundle_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """The options that say how a bundle is opened."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_BUNDLE_OPTIONS), command)


class _Serving(BaseModel):
    """What `--json` prints once requests are answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.serving/1"] = "edgeq.serving/1"
    address: str
    model: str
    kind: str
    digest: str
    canaries: bool | None
    backend: str = ""
    because: str = ""


@click.command("serve")
@click.argument("bundle", type=PATH, required=False)
@bundle_options
@click.option("--index", type=PATH, help="A catalog of `edgeq index` for /v1/search.  [default: none]")
@click.option("--page/--no-page", default=None, help="Pages for a browser at `/` and `/docs`.  [default: yes]")
@click.option("--host", help="The address to listen on; any but the loopback one needs a token.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="The TCP port; 0 takes a free one.  [default: 8000]")
@click.option("--token-file", type=PATH, help="Bearer tokens, one a line.  [default: variable EDGEQ_TOKEN]")
@click.option("--slots", "sequences", type=click.IntRange(1), help="Requests answered at once.  [default: 4]")
@click.option("--queue", type=click.IntRange(0), help="Requests that may wait.  [default: 16]")
@click.option("--max-images", type=click.IntRange(1, 64), help="Images in one request.  [default: 8]")
@click.option("--name", help="The model's name in requests.  [default: the bundle's]")
@click.option(
    "--strict-model", is_flag=True, default=None, help="Refuse requests that name another model.  [default: no]"
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged.  [default: info]"
)
@json_option
def command(bundle: Path | None, config: Path | None, as_json: bool, **flags: Any) -> int:
    """Serve BUNDLE over HTTP: chat, classes, reports, embeddings, search, health, metrics.

    BUNDLE is a bundle's directory or a store of `edgeq install`; without it, what the settings name. Every byte is
    checked and the engine compared with the canaries before the first request is taken. SIGTERM lets the requests under
    way end, SIGHUP reads the token file again. The log is JSON, a line for each request, on stderr.

    Exit status: 70 nothing can be answered any more, 75 memory, a port or a file is not there now; a restart may help.
    78 settings or bundle are wrong, 79 the engine fails its canaries; a restart does not help.
    """

    from edgeq.service.app import make_service
    from edgeq.service.http.access import read_tokens
    from edgeq.service.server import Server, reserve

    settings = chosen_settings(config, **flags)
    tokens = read_tokens(settings.host, settings.token_file)
    with reserve(settings.host, settings.port) as listener, logged(settings.log_level):
        notifier = Notifier.from_environment()
        served = open_chosen(bundle, settings, lambda what: _tell(notifier, what))
        log("opened", backend=served.backend, because=served.because)
        service = make_service(served, settings, tokens)
        server = Server(
            service,
            settings,
            listener,
            notifier,
            ready=lambda address: _announce(address, served, as_json),
            end=partial(leave, FAILED),
            reload=lambda: service.access.change(read_tokens(settings.host, settings.token_file)),
        )
        return DONE if server.run() else FAILED


def chosen_settings(config: Path | None, **flags: Any) -> ServiceSettings:
    """The settings of a file, or the usual ones, with the flags that were given.

    Raises:
        ArtifactError: the file holds no settings.
        InputError: a value is out of range.
    """
    settings = load_settings(config) if config else ServiceSettings()
    return change(settings, **{**flags, "keys": flags.get("keys") or None})


def open_chosen(bundle: Path | None, settings: ServiceSettings, say: Callable[[str], None]) -> ServedModel:
    """Open what was named, or what the settings name.

    Args:
        bundle: a directory; None where the settings name one, or a root of installed versions.
        settings: of the service.
        say: is told, in sentences, what a person should know.
    """

    from edgeq.service.load_bundle import open_served

    return open_served(bundle or settings.bundle or settings.root, settings, device=this_device(), say=say)


def _tell(notifier: Notifier, what: str) -> None:
    notifier.status(what)
    log("starting", doing=what)


def _announce(address: str, served: ServedModel, as_json: bool) -> None:
    """Say where it listens."""
    if not as_json:
        click.echo(f"Serving {served.name} ({served.manifest.kind}) at {address}; Ctrl-C ends it.")
        click.echo(f"{served.backend}: {served.because}")
        return
    console.print_json(
        _Serving(
            address=address,
            model=served.name,
            kind=served.manifest.kind,
            digest=served.digest,
            canaries=None if served.canaries is None else served.canaries.passed,
            backend=served.backend,
            because=served.because,
        )
    )
