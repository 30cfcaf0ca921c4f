"""The driver's half of a run: hands out tasks, starts other actors for those that die, and gives up on a stall."""

from __future__ import annotations

import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from edgeq.cluster.connect import Cluster, actor_options, first_and_last_line
from edgeq.cluster.job import Job, TaskActor
from edgeq.errors import EdgeqError, EngineError, OutputError

__all__ = ["Driver", "Words", "seen"]

_AGAIN: Final = 3
"""How often a task is handed out again, and how many actors in a row may die before they have begun."""

_TICK: Final = 0.5
"""Seconds between two looks at what the actors do."""

_ASK: Final = 10.0
"""Seconds between two questions to an actor how far it is, or a fourth of the stall."""

_PATIENCE: Final = 60.0
"""Seconds that actors which have begun wait for the others; one of these may find no room after all."""

_SEEN: Final = 60.0
"""Seconds until a file of another machine is seen: a network file system remembers what was not there."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Words:
    """How a run is spoken of in errors.

    Attributes:
        task: such as `shard`.
        alone: what to do to see why a task cannot be done.
        hangs: causes of a stall, beside a cluster without room.
        again: what to do after one.
    """

    task: str
    alone: Callable[[int], str]
    hangs: tuple[str, ...]
    again: str


@dataclass(eq=False)
class _Actor:
    """An actor as the driver knows it.

    Attributes:
        handle: Ray's.
        probe: the file that it makes to begin; None for none.
        doing: Ray's reference to what it was asked to do; None while it is idle.
        task: that it does; None while it begins, or is idle.
        asked: Ray's reference to the question how far it is; None where none is open.
        heard: the last answer.
    """

    handle: Any
    probe: Path | None
    doing: Any
    task: int | None = None
    asked: Any = None
    heard: int = 0


class Driver(Generic[Result]):
    """Hands out tasks.

    Args:
        ray: the module, connected.
        cluster: that does the work.
        words: for errors.
        take: called with the number of each task that is done and what it gave, once, in any order.
        shared: a directory in which a file of every actor must be seen here; None for none.
        gpus: whether these are of use.
    """

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        words: Words,
        take: Callable[[int, Result], None],
        *,
        shared: Path | None,
        gpus: bool,
    ) -> None:
        self._ray, self._words, self._take, self._shared = ray, words, take, shared
        self._stall = cluster.stall_minutes * 60
        self._options = {"max_concurrency": 2, "max_restarts": 0, "max_task_retries": 0} | actor_options(
            ray, cluster, gpus=gpus
        )
        self._actors: list[_Actor] = []
        self._waiting: deque[int] = deque()
        self._lost: dict[int, int] = {}
        self._lost_in_a_row, self._begun = 0, 0
        self._alive = self._last_asked = time.monotonic()

    def run(self, job: Job[Result], tasks: Sequence[int], actors: int) -> None:
        """Have tasks done; the first is handed out when all actors have begun, or those that found room in a minute.

        Args:
            job: what actors are told.
            tasks: their numbers.
            actors: how many.

        Raises:
            EdgeqError: of a task or of a node that cannot take part.
            EngineError: no actor lives long enough to do a task, or nothing goes on.
            OutputError: what a node writes is not seen here.
        """
        maker = self._ray.remote(TaskActor).options(**self._options)
        job_there = self._ray.put(job)
        self._waiting.extend(tasks)
        self._alive = time.monotonic()
        patient_until = self._alive + _PATIENCE
        try:
            while self._waiting or any(actor.task is not None for actor in self._actors):
                while len(self._actors) < actors:
                    self._start(maker.remote(job_there))
                if self._begun >= actors or (self._begun and time.monotonic() > patient_until):
                    self._hand_out()
                self._wait()
                self._ask()
                self._check_stall()
        finally:
            for actor in self._actors:
                self._end(actor)

    def _start(self, handle: Any) -> None:
        probe = None if self._shared is None else self._shared / f"probe-{uuid.uuid4().hex}"
        self._actors.append(_Actor(handle, probe, handle.begin.remote(probe)))

    def _end(self, actor: _Actor) -> None:
        with suppress(Exception):  # it may be dead, and so may be the cluster
            self._ray.kill(actor.handle)
        if actor.probe is not None:
            with suppress(OSError):
                actor.probe.unlink(missing_ok=True)

    def _hand_out(self) -> None:
        for actor in self._actors:
            if actor.doing is None and self._waiting:
                actor.task = self._waiting.popleft()
                actor.doing = actor.handle.do.remote(actor.task)

    def _wait(self) -> None:
        """Take what is done within a moment."""
        at_work = {actor.doing: actor for actor in self._actors if actor.doing is not None}
        done, _ = self._ray.wait(list(at_work), num_returns=1, timeout=_TICK)
        for doing in done:
            actor = at_work[doing]
            try:
                answer = self._ray.get(doing)
            except self._ray.exceptions.RayError as error:
                self._replace(actor, first_and_last_line(error))
                continue
            self._alive = time.monotonic()
            if actor.task is None:
                self._has_begun(actor, *answer)
            else:
                self._has_done(actor, *answer)

    def _has_begun(self, actor: _Actor, node: str, error: EdgeqError | None) -> None:
        """An actor is ready; raises its error, or OutputError where what it writes is not seen here."""
        if error is not None:
            raise error
        if actor.probe is not None:
            if not seen(actor.probe):
                raise OutputError(
                    f"what the node {node} writes into {actor.probe.parent} is not seen on this machine",
                    expected="a directory that all nodes share",
                )
            actor.probe.unlink(missing_ok=True)
        actor.doing = None
        self._begun, self._lost_in_a_row = self._begun + 1, 0

    def _has_done(self, actor: _Actor, result: Any, error: EdgeqError | None) -> None:
        """A task is done; raises what prevented it."""
        if error is not None:
            raise error
        assert actor.task is not None
        task, actor.task, actor.doing = actor.task, None, None
        self._take(task, result)

    def _replace(self, actor: _Actor, reason: str) -> None:
        """An actor is lost: its task waits again. Raises EngineError where that happened too often."""
        self._actors.remove(actor)
        self._end(actor)
        if actor.task is None:
            self._lost_in_a_row += 1
            if self._lost_in_a_row > _AGAIN:
                raise EngineError(
                    f"{self._lost_in_a_row} actors in a row died before they had begun: {reason}",
                    causes=("edgeq is not installed on every node, or not the same", "memory is short on a node"),
                )
            return
        lost = self._lost[actor.task] = self._lost.get(actor.task, 0) + 1
        if lost > _AGAIN:
            raise EngineError(
                f"{self._words.task} {actor.task} was handed out {lost} times, and each time its actor died: {reason}",
                causes=("memory is short on the nodes", "an image in it ends the process that decodes it"),
                next_step=self._words.alone(actor.task),
            )
        self._waiting.appendleft(actor.task)

    def _ask(self) -> None:
        """Ask now and then how far the actors are, and take the answers that are there."""
        now = time.monotonic()
        for actor in self._actors:
            if actor.asked is not None and self._ray.wait([actor.asked], timeout=0)[0]:
                self._take_answer(actor)
        if now - self._last_asked < min(_ASK, self._stall / 4):
            return
        self._last_asked = now
        for actor in self._actors:
            if actor.task is not None and actor.asked is None:
                actor.asked = actor.handle.heard.remote()

    def _take_answer(self, actor: _Actor) -> None:
        asked, actor.asked = actor.asked, None
        with suppress(self._ray.exceptions.RayError):  # a dead actor is told by what it was doing
            heard = self._ray.get(asked)
            if heard != actor.heard:
                actor.heard, self._alive = heard, time.monotonic()

    def _check_stall(self) -> None:
        """Raise EngineError where nothing was done for too long."""
        if time.monotonic() - self._alive < self._stall:
            return
        words = self._words
        under_way = sorted(actor.task for actor in self._actors if actor.task is not None)
        tasks = (
            f"under way: {words.task}s {', '.join(map(str, under_way))}"
            if under_way
            else f"no {words.task} is under way"
        )
        raise EngineError(
            f"nothing was done for {self._stall / 60:g} minutes; {tasks}",
            causes=(*words.hangs, "the cluster has no room for an actor any more"),
            next_step=f"{words.again}; or allow more with --stall-minutes",
        )


def seen(path: Path) -> bool:
    """Whether a file of another machine is seen before too long."""
    until = time.monotonic() + _SEEN
    while not path.exists():
        if time.monotonic() > until:
            return False
        os.listdir(path.parent)  # noqa: PTH208  # makes a network file system look again
        time.sleep(_TICK / 5)
    return True
