"""MLflow: a run with params, metrics and small files, by `MlflowClient`.

https://mlflow.org/docs/latest/ml/tracking says what is where. `mlflow-skinny` speaks to servers; databases on this
machine (`sqlite:///mlflow.db`) need the whole `mlflow`, which has the page to look at them too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from edgeq.errors import InputError, first_line
from edgeq.frames.address import without_secrets
from edgeq.track.base import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

__all__ = ["EXPERIMENT", "MlflowTracker"]

EXPERIMENT: Final = "edgeq"
"""The experiment's name, where MLFLOW_EXPERIMENT_NAME is not set."""

_MOST_METRICS: Final = 1000
_MOST_PARAMS: Final = 100
"""Of one request."""
_LONGEST: Final = 6000
"""Characters of a param."""
_NOTE: Final = "mlflow.note.content"
_LONGEST_NOTE: Final = 5000
"""Characters of a tag."""

_CHECKING: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""A server that is not there is reported at once: MLflow's own 7 tries take minutes."""
_WRITING: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where one JSON object may be wanted
}


class MlflowTracker:
    """A server or a database of MLflow's.

    Args:
        uri: MLflow's tracking URI; empty takes MLFLOW_TRACKING_URI, or what MLflow takes without it.
    """

    name = "MLflow"

    def __init__(self, uri: str) -> None:
        self._uri = uri or None
        self._experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        self._client: MlflowClient | None = None
        self._id = ""

    def check(self) -> None:
        """As for `Tracker.check`; the experiment is made where it is not there."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it reports to its makers unless this says no
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.exceptions import MlflowException

        place = without_secrets(self._uri or get_tracking_uri())
        try:
            with _environment(_CHECKING):
                client = MlflowClient(tracking_uri=self._uri)
                found = client.get_experiment_by_name(self._experiment)
                self._id = client.create_experiment(self._experiment) if found is None else found.experiment_id
        except (MlflowException, ImportError, OSError) as error:
            raise InputError(
                f"MLflow cannot be written to at {place}: {without_secrets(first_line(error))}",
                expected="the address of a server, such as mlflow:http://127.0.0.1:5000",
                causes=(
                    "no server is there, or it wants a login (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_TOKEN)",
                    "it is a database or a folder, for which the whole of MLflow is needed: pip install mlflow",
                ),
                passing=True,
            ) from error
        if found is not None and found.lifecycle_stage != "active":
            raise InputError(
                f"MLflow's experiment {self._experiment} was deleted",
                next_step=f"mlflow experiments restore --experiment-id {self._id}, or set MLFLOW_EXPERIMENT_NAME",
            )
        self._client = client

    def write(self, record: Record) -> None:
        """As for `Tracker.write`: a run that ended in the middle is marked as failed."""
        assert self._client is not None
        with _environment(_WRITING):
            run = self._client.create_run(self._id, run_name=record.name).info.run_id
            try:
                self._fill(self._client, run, record)
            except BaseException:
                with suppress(Exception):
                    self._client.set_terminated(run, status="FAILED")
                raise
            self._client.set_terminated(run)

    def _fill(self, client: MlflowClient, run: str, record: Record) -> None:
        from mlflow.entities import Param

        params = [Param(name, value[:_LONGEST]) for name, value in record.params.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            client.log_batch(run, params=params[start : start + _MOST_PARAMS])
        metrics = list(_metrics(record))
        for start in range(0, len(metrics), _MOST_METRICS):
            client.log_batch(run, metrics=metrics[start : start + _MOST_METRICS])
        if record.summary and len(record.summary) <= _LONGEST_NOTE:  # the model card is among the files
            client.set_tag(run, _NOTE, record.summary)
        for name, text in record.texts.items():
            client.log_text(run, text, name)
        for file in (*record.files, *record.pictures):
            client.log_artifact(run, str(file))


def _metrics(record: Record) -> Iterator[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    for name, value in record.metrics.items():
        yield Metric(name, value, now, 0)
    for name, values in record.series.items():
        for step, value in enumerate(values):
            yield Metric(name, value, now, step)


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Settings of MLflow's for a while, which it reads from nowhere else; what the user set stays."""
    own = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)
