"""A bundle to Hugging Face's hub: what would be sent is told first, and is what was checked, in one commit.

Nothing but the bundle's own files goes out: those that its manifest lists, the manifest, and its signature. The
repository is private unless somebody says otherwise. The hub is reached by `huggingface_hub`, which finds the token
(`HF_TOKEN`, or `hf auth login`) and the hub's address (`HF_ENDPOINT`) by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, PrivateAttr

from edgeq.bundle.contents import MANIFEST, SIGNATURE, BundledFile
from edgeq.bundle.copy import Report
from edgeq.bundle.verification_states import Verified
from edgeq.bundle.verify import Trust, check_unchanged, examine
from edgeq.errors import EdgeqError, InputError, OutputError, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["PushPlan", "Pushed", "plan_push", "push"]

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_SHOWN: Final = 5
_LOGIN: Final = "hf auth login, or set HF_TOKEN to a token that may write"


class PushPlan(BaseModel):
    """What would be sent.

    Attributes:
        bundle: the directory.
        repository: `ORG/NAME`.
        private: the repository is made private, where it is not there.
        digest: of the bundle: the SHA-256 of its manifest.
        signed: there is a signature among the files.
        files: every file, manifest and signature among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = "edgeq.push/1"
    bundle: Path
    repository: str
    private: bool
    digest: str
    signed: bool
    files: tuple[BundledFile, ...]
    _verified: Verified | None = PrivateAttr(default=None)

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


class Pushed(BaseModel):
    """What was done.

    Attributes:
        plan: what was sent.
        removed: files that the repository had and the bundle has not.
        url: of the commit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = "edgeq.pushed/1"
    plan: PushPlan
    removed: tuple[str, ...]
    url: str


def plan_push(
    bundle: Path, repository: str, *, private: bool = True, trust: Trust | None = None, report: Report | None = None
) -> PushPlan:
    """Check a bundle and list what would be sent; nothing is asked of the hub.

    Args:
        bundle: its directory.
        repository: `ORG/NAME`.
        private: for a repository that is to be made.
        trust: what the bundle must satisfy; None leaves its signature unchecked.
        report: called with the bytes checked and the bytes in all.

    Raises:
        InputError: `repository` is no name of one.
        BundleError: the bundle is not whole, or not signed as it must be.
    """
    if _REPOSITORY.fullmatch(repository) is None:
        raise InputError(f"{repository!r:.120} is no repository", expected="ORG/NAME, of letters, digits, ., _ and -")
    verified = examine(bundle, trust or Trust(), report=report)
    own = [MANIFEST] if verified.seal is None else [MANIFEST, SIGNATURE]
    plan = PushPlan(
        bundle=bundle,
        repository=repository,
        private=private,
        digest=verified.digest,
        signed=verified.seal is not None,
        files=(*verified.manifest.files, *(BundledFile.of(bundle / name, bundle) for name in own)),
    )
    plan._verified = verified
    return plan


@dataclass(frozen=True)
class _There:
    """The repository as it is; `files` are those that are not hidden."""

    exists: bool
    private: bool
    files: frozenset[str]


def push(plan: PushPlan, *, remove: bool = False, endpoint: str | None = None, token: str | None = None) -> Pushed:
    """Send what was planned in one commit; the repository is made where it is not there.

    Args:
        plan: from `plan_push`.
        remove: files that the repository has and the bundle has not are removed, so that a copy of it is the bundle.
        endpoint: address of the hub; None leaves that to huggingface_hub.
        token: that may write; None leaves that to huggingface_hub.

    Raises:
        InputError: the repository is public and the plan is private, or holds other files and `remove` is not said.
        DigestError: a file was changed since it was checked; nothing was sent then.
        OutputError: the hub refused, or cannot be reached.
    """
    api = _api(endpoint, token)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _told(plan.repository):
        there = _look(api, plan.repository)
        gone = sorted(there.files - {file.name for file in plan.files})
        _check(plan, there, gone, remove)
        if plan._verified is not None:
            check_unchanged(plan.bundle, plan._verified)
        if not there.exists:
            api.create_repo(plan.repository, private=plan.private, repo_type="model")
        done = api.create_commit(
            plan.repository,
            operations=[
                *(CommitOperationAdd(file.name, plan.bundle / file.name) for file in plan.files),
                *(CommitOperationDelete(name) for name in gone),
            ],
            commit_message=f"edgeq bundle {plan.digest[:12]}",
        )
    return Pushed(plan=plan, removed=tuple(gone), url=str(done.commit_url))


def _api(endpoint: str | None, token: str | None) -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise InputError(
            "huggingface_hub is not installed to reach the hub", next_step="pip install 'edgeq[hub]'"
        ) from error
    return HfApi(endpoint=endpoint, token=token, library_name="edgeq")


def _look(api: HfApi, repository: str) -> _There:
    """What the hub has under this name; to who may not see it, it has nothing."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(repository)
    except RepositoryNotFoundError:
        return _There(exists=False, private=True, files=frozenset())
    names = frozenset(each.rfilename for each in found.siblings or () if not each.rfilename.startswith("."))
    return _There(exists=True, private=bool(found.private), files=names)


def _check(plan: PushPlan, there: _There, gone: list[str], remove: bool) -> None:
    if plan.private and not there.private:
        raise InputError(
            f"{plan.repository} is there and is public",
            expected="a private repository, unless --public is said",
            next_step="add --public, or choose another name",
        )
    if gone and not remove:
        others = ", ".join(gone[:_SHOWN]) + (", …" if len(gone) > _SHOWN else "")
        raise InputError(
            f"{plan.repository} holds {len(gone)} files that the bundle does not list: {others}",
            expected="the bundle's files alone: with others beside them a copy is refused as not whole",
            next_step="add --remove-others, which removes them there, or choose another name",
        )


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """What the hub says when it refuses, in edgeq's words."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except EdgeqError:
        raise
    except LocalTokenNotFoundError as error:
        raise OutputError(f"there is no token to write {repository} with", next_step=_LOGIN) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise OutputError(
            f"the hub refused {repository}: status {status}, {first_line(error)}",
            next_step=_LOGIN if status in (401, 403) else "try it again later",
        ) from error
    except OSError as error:
        raise OutputError(
            f"the hub cannot be reached for {repository}: {first_line(error)}",
            next_step="look at the network, and at HF_ENDPOINT where that is set",
        ) from error
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore")):  # what huggingface_hub asks with
            raise
        raise OutputError(
            f"the hub cannot be reached for {repository}: {first_line(error)}",
            next_step="look at the network, and at HF_ENDPOINT where that is set",
        ) from error
