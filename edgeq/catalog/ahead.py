"""Work done ahead by threads: results in order, and never more of them held than a bound says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Task], Result], tasks: Iterator[Task], *, workers: int, most: int
) -> Generator[tuple[Task, Result], None, None]:
    """Each task with its result, in order; threads are at the next ones while the caller is at this one.

    Args:
        function: called in the threads; what it raises is raised here.
        tasks: drawn in the caller's thread.
        workers: threads.
        most: tasks begun or done and not yet given out.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgeq-catalog")
    waiting: deque[tuple[Task, Future[Result]]] = deque()
    try:
        while True:
            while len(waiting) < most and (task := next(tasks, None)) is not None:
                waiting.append((task, pool.submit(function, task)))
            if not waiting:
                return
            # No name is given to a result: it would be held while the caller works with the next.
            yield waiting[0][0], waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
