"""`edgeq.conf`: what the service goes by. `jetson/edgeq.conf` explains every key and has the same defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyAddress,
    StringConstraints,
    ValidationError,
)

from edgeq.engine.registry import RUNNING
from edgeq.errors import ArtifactError, InputError
from edgeq.install.candidate_here import AUTO
from edgeq.runtime.cuda_graphs import GraphMode
from edgeq.runtime.scheduler.admission import SLOTS
from edgeq.yaml_text import read_yaml

__all__ = ["SETTINGS_VERSION", "WATCH_TIMEOUT_S", "ServiceSettings", "change", "load_settings"]

SETTINGS_VERSION: Final = "edgeq.service/1"

WATCH_TIMEOUT_S: Final = 10.0
"""So long an image that cannot be decoded may still be in the making, for `edgeq watch`."""

_MOST_BYTES: Final = 1 << 20
_MIB: Final = 1 << 20
_LONGEST_S: Final = 3600.0

_HostName = Annotated[str, StringConstraints(pattern=r"^[0-9a-z]([0-9a-z.-]{0,252}[0-9a-z])?$")]
"""A host's name as it stands in an address: lower case, without port."""

_ModelName = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z_.:/-]{0,127}$")]


def _backend(name: str) -> str:
    if name not in (AUTO, *RUNNING):
        raise ValueError(f"expected one of {', '.join((AUTO, *RUNNING))}")
    return name


class ServiceSettings(BaseModel):
    """All settings.

    Attributes:
        bundle: the directory of the bundle that is served; None for the one that is in use in `root`.
        root: a store of `edgeq install`; TensorRT's engines are kept in it.
        keys: public keys, one of which must have signed the bundle; without any the signature is not looked at.
        backend: that runs the vision graph.
        canaries: the engine is compared with what the workshop saw before the first request.
        name: of the model in requests; None takes the bundle's.
        strict_model: requests that name another model are refused; else a header of the answer says which one answers.
        terms: a file of `edgeq.terms/1` for `/v1/inspect`; None takes the bundle's own, or those that come along.
        index: a catalog of `edgeq index`, made with the bundle, that `/v1/search` looks in.
        page: pages for a browser, at `/` to use the bundle and at `/docs` with the API.
        host, port: where it listens; port 0 takes a free one.
        token_file: a bearer token a line.
        token_requests: under way with one of several tokens, at most; None shares `sequences` and `queue` out.
        connections: open at once, at most; fewer where the limit of descriptors is low.
        connections_per_address: of these, from one address; this machine's own and `proxies` are not counted so.
        proxies: addresses behind which there are many clients.
        image_hosts: from which images are fetched.
        max_images: in one request, over all of its messages.
        image_mib, image_megapixels: the largest image, encoded in MiB and in millions of pixels.
        images_mib, images_megapixels: the same of all images of a request together; at least what one may have.
        body_seconds: in which a request's header, and then its body, must have come.
        request_seconds: after which a request is given up.
        drain_seconds: that requests under way have to end after SIGTERM.
        memory_gb: for the whole process, in 10^9 bytes; None takes what the device has.
        context: longest sum of images, conversation and answer, in tokens; None takes the bundle's.
        sequences: requests answered at once.
        queue: requests that may wait.
        reserve_mib: memory that is left to everything else.
        cache_mib: what is kept of images seen lately, at most; None takes room for 16 pictures. Of a text and image
            encoder: of texts seen lately; None takes 64.
        threads: of one operator; None takes every processor, but for a language model that is as quick with fewer.
        cuda_graphs: decode steps on a GPU are captured as CUDA graphs: `auto` goes on without where that fails, `off`
            does not try, with `required` the service does not start without.
        batch_invariant: an answer has the same bits whatever else is in the batch.
        fused_prefill_rows: pieces of a prompt of up to so many tokens go through bitsandbytes' fused kernel on a GPU.
        log_level: from which on events are logged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.service/1"] = SETTINGS_VERSION
    bundle: Path | None = None
    root: Path = Path("/var/lib/edgeq")
    keys: tuple[Path, ...] = ()
    backend: Annotated[str, AfterValidator(_backend)] = AUTO
    canaries: bool = True
    name: _ModelName | None = None
    strict_model: bool = False
    terms: Path | None = None
    index: Path | None = None
    page: bool = True
    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8000, ge=0, le=65535)
    token_file: Path | None = None
    token_requests: int | None = Field(default=None, ge=1)
    connections: int = Field(default=512, ge=16, le=10_000)
    connections_per_address: int = Field(default=128, ge=1, le=10_000)
    proxies: tuple[IPvAnyAddress, ...] = ()
    image_hosts: tuple[_HostName, ...] = ()
    max_images: int = Field(default=8, ge=1, le=64)
    image_mib: float = Field(default=20, gt=0, le=128)
    image_megapixels: float = Field(default=50, gt=0, le=64)
    images_mib: float = Field(default=20, gt=0, le=512)
    images_megapixels: float = Field(default=100, gt=0, le=512)
    body_seconds: float = Field(default=30, gt=0, le=_LONGEST_S)
    request_seconds: float = Field(default=120, gt=0, le=_LONGEST_S)
    drain_seconds: float = Field(default=45, ge=0, le=_LONGEST_S)
    memory_gb: float | None = Field(default=None, gt=0)
    context: int | None = Field(default=None, ge=1)
    sequences: int = Field(default=SLOTS, ge=1, le=64)
    queue: int = Field(default=16, ge=0, le=10_000)
    reserve_mib: int = Field(default=1216, ge=0)
    cache_mib: int | None = Field(default=None, ge=0)
    threads: int | None = Field(default=None, ge=1)
    cuda_graphs: GraphMode = "auto"
    batch_invariant: bool = True
    fused_prefill_rows: int = Field(default=0, ge=0, le=512)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def requests_per_token(self, tokens: int) -> int | None:
        """Requests under way with each of so many tokens, at most; None where there is one, or none."""
        if tokens < 2:
            return None
        return self.token_requests or max((self.sequences + self.queue) // tokens, 1)

    @property
    def image_bytes(self) -> int:
        """Bytes of the largest encoded image."""
        return int(self.image_mib * _MIB)

    @property
    def image_pixels(self) -> int:
        """Pixels of the largest image."""
        return int(self.image_megapixels * 1e6)

    @property
    def images_bytes(self) -> int:
        """Bytes of all encoded images of a request together."""
        return max(int(self.images_mib * _MIB), self.image_bytes)

    @property
    def images_pixels(self) -> int:
        """Pixels of all images of a request together."""
        return max(int(self.images_megapixels * 1e6), self.image_pixels)


def load_settings(path: Path) -> ServiceSettings:
    """Read a file of settings; a key that is left out has its default.

    Raises:
        ArtifactError: the file is missing, too long, is not YAML, or has a key or a value that is not known.
    """
    try:
        found = read_yaml(path, _MOST_BYTES)
        if not isinstance(found, dict) or "version" not in found:
            raise ValueError("it does not say its version")
        return ServiceSettings.model_validate(found)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} does not hold the settings of the service",
            expected=f"YAML with version: {SETTINGS_VERSION} and the keys that jetson/edgeq.conf explains",
            causes=_reasons(error),
        ) from error


def change(settings: ServiceSettings, **changes: Any) -> ServiceSettings:
    """The settings with those that were given; None leaves one as it is.

    Raises:
        InputError: a value is out of range.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return ServiceSettings.model_validate({**settings.model_dump(), **given})
    except ValidationError as error:
        raise InputError("a setting is not usable", causes=_reasons(error)) from error


def _reasons(error: Exception) -> tuple[str, ...]:
    """What is wrong, one line for each key."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False)
        return tuple(f"{'.'.join(map(str, one['loc']))}: {one['msg']}"[:200] for one in found[:3])
    return (" ".join(str(error).split())[:300],)
