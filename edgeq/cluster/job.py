"""What actors are told, and what they are: the half of a run that is on the nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from edgeq import __version__
from edgeq.cluster.connect import require_ray
from edgeq.errors import EdgeqError, InputError, OutputError
from edgeq.faults import is_device_lost

__all__ = ["EDGEQ", "Job", "TaskActor", "Worker", "not_seen"]

EDGEQ = {"edgeq": __version__}
"""The version of this package, as `Job.versions` has it."""

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Worker(Protocol[Result_co]):
    """What an actor has once it has opened a job."""

    def do(self, task: int, hear: Callable[[], None]) -> Result_co:
        """Do one task; doing it a second time must not harm.

        Args:
            task: its number.
            hear: called now and then, to show that it goes on.

        Raises:
            EdgeqError: it cannot be done, here or elsewhere; that ends the run.
        """


class Job(Protocol[Result_co]):
    """What actors are told. It is pickled."""

    @property
    def versions(self) -> Mapping[str, str]:
        """What the driver has of packages that must be the same everywhere."""

    def found(self) -> Mapping[str, str]:
        """The same, where it is called."""

    def open(self, node: str) -> Worker[Result_co]:
        """See that a node has the driver's files, and open what every task needs.

        Args:
            node: its name, for messages.

        Raises:
            EdgeqError: it has not; names the node.
        """


class TaskActor(Generic[Result]):
    """An actor: opens the job once, and does one task at a time.

    Args:
        job: what to do.
    """

    def __init__(self, job: Job[Result]) -> None:
        self._job = job
        self._worker: Worker[Result] | None = None
        self._heard = 0

    def begin(self, probe: Path | None) -> tuple[str, EdgeqError | None]:
        """Open the job, and see that this node has what the driver has; errors name the node, and are given back.

        Args:
            probe: a file to make, which the driver looks for; None for none.
        """
        node = _node()
        try:
            _check_versions(self._job, node)
            self._worker = self._job.open(node)
            if probe is not None:
                _leave(probe, node)
        except EdgeqError as error:
            return node, error
        return node, None

    def do(self, task: int) -> tuple[Result | None, EdgeqError | None]:
        """Do a task; an error is given back, so that it is not taken for this actor's death.

        Raises:
            EdgeqError: the accelerator is lost, which is this actor's death: another one does the task.
        """
        assert self._worker is not None
        try:
            return self._worker.do(task, self._hear), None
        except EdgeqError as error:
            if is_device_lost(error):
                raise
            return None, error

    def heard(self) -> int:
        """A number that rises while the task goes on; asked from another thread than the one that works."""
        return self._heard

    def _hear(self) -> None:
        self._heard += 1


def _check_versions(job: Job[Any], node: str) -> None:
    """Raise InputError where this node has another version of something than the driver."""
    found = job.found()
    for package, version in job.versions.items():
        if found.get(package) != version:
            raise InputError(
                f"the node {node} has {package} {found.get(package)}, the driver {version}",
                next_step="install the same on all nodes",
            )


def _node() -> str:
    """This node, for messages: its address and the start of its number."""
    ray = require_ray()
    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


def _leave(probe: Path, node: str) -> None:
    """Make an empty file; raises OutputError where this node cannot."""
    try:
        probe.touch()
    except OSError as error:
        raise OutputError(
            f"{probe.parent} cannot be written on the node {node}: {error.strerror or error}",
            expected="a directory that all nodes share, and where this user may create files",
        ) from error


def not_seen(what: str, node: str) -> InputError:
    """The error for files of the driver that a node does not have.

    Args:
        what: is missing there.
        node: its name.
    """
    return InputError(
        f"{what} is not seen on the node {node}",
        expected="the same files at the same paths on all nodes",
        causes=("a network file system is not mounted there", "the path is on a disk of this machine alone"),
        next_step="put everything that is read and written where all nodes see it",
    )
