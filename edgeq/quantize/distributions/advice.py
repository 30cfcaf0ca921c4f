"""What to do with a tensor in eight bits, the figure that says so, and why."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.quantize.distributions.tensors import BlockTensor

__all__ = ["FORMS", "TOLERATED", "Advice", "Costs", "Form", "advise"]

Form = Literal["float", "INT8 per tensor", "INT8 after folding", "twin-uniform"]
FORMS: Final[tuple[Form, ...]] = ("INT8 per tensor", "INT8 after folding", "twin-uniform", "float")

TOLERATED: Final = 0.02
"""What rounding may cost: the root mean square of the error over that of the values. Numbers of a normal distribution
on a grid over nine standard deviations on each side lose just that."""


class Costs(BaseModel):
    """What eight bits cost a tensor, as parts of its root mean square.

    Attributes:
        uniform: one grid for the tensor.
        twin: two grids of seven bits; of a softmax or a GELU only.
        folded: a grid for each channel; of a normalization only.
        lost: the part of a softmax' sum that one grid makes zero.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uniform: float
    twin: float | None = None
    folded: float | None = None
    lost: float | None = None


class Advice(BaseModel):
    """A recommendation.

    Attributes:
        form: what to store the tensor as.
        figure: the field of `Costs` that decided.
        value: that figure.
        reason: in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form
    figure: Literal["uniform", "twin", "folded", "lost"]
    value: float
    reason: str


def advise(tensor: BlockTensor, costs: Costs) -> Advice:
    """The cheapest form that costs the tensor no more than is tolerated."""
    limit = f"{TOLERATED:.0%} are tolerated"
    if costs.uniform <= TOLERATED and (costs.lost or 0.0) <= TOLERATED:
        return Advice(
            form="INT8 per tensor",
            figure="uniform",
            value=costs.uniform,
            reason=f"one grid costs {costs.uniform:.2%}, {limit}",
        )
    against = f"one grid costs {costs.uniform:.2%}"
    if costs.uniform <= TOLERATED:
        against = f"one grid makes {costs.lost:.2%} of the attention zero"
    if costs.folded is not None and costs.folded <= TOLERATED and tensor.foldable:
        reason = f"{against}, one for each channel {costs.folded:.2%}; the difference folds into the weights around it"
        return Advice(form="INT8 after folding", figure="folded", value=costs.folded, reason=reason)
    if costs.twin is not None and costs.twin <= TOLERATED:
        reason = f"{against}, twin grids {costs.twin:.2%}, as two integer products summed"
        return Advice(form="twin-uniform", figure="twin", value=costs.twin, reason=reason)
    figure: Literal["uniform", "lost"] = "uniform" if costs.uniform > TOLERATED else "lost"
    value = costs.uniform if figure == "uniform" else costs.lost or 0.0
    return Advice(form="float", figure=figure, value=value, reason=f"{against}{_no_way(tensor, costs)}; {limit}")


def _no_way(tensor: BlockTensor, costs: Costs) -> str:
    """Why the other forms do not help."""
    if costs.twin is not None:
        return f", twin grids {costs.twin:.2%}"
    if costs.folded is not None and not tensor.foldable:
        return ", and its channels cannot be folded: not only linear layers read it"
    return "" if costs.folded is None else f", one for each channel {costs.folded:.2%}"
