"""Which of a graph's outputs is the answer, found before the network is run, and what becomes of each output.

The answer is the output that was named; else the one that has as many numbers for an image as there are labels; else
the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from edgeq.errors import ModelError
from edgeq.model.graph.outputs import NO_TENSOR, GraphOutput, describe_tensors, read_outputs
from edgeq.model.graph.tensors import constant_names, reads

if TYPE_CHECKING:
    import onnx

__all__ = ["Chosen", "Expected", "Form", "Outputs", "choose_outputs", "decided_outputs"]

Form = Literal["as it is", "vector", "probability", "logit"]
"""What an output becomes: itself; a vector [images, numbers]; or two classes, from a probability or from a logit."""

_TWO: Final = 2
_CARRIES: Final = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_SIGMOIDS: Final = frozenset({"HardSigmoid", "Sigmoid"})
_SAME_ORDER: Final = _CARRIES | _SIGMOIDS | {"LogSoftmax", "Softmax"}
_THRESHOLDS: Final = frozenset({"Greater", "GreaterOrEqual"})
_LISTS: Final = frozenset({"ArgMax", "ArgMin", "Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique"})
_COMPARES: Final = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Round"})
_DECIDES: Final = _THRESHOLDS | {"ArgMax", "Round", "TopK"}


@dataclass(frozen=True)
class Expected:
    """What is known of the answer before the network is run.

    Attributes:
        outputs: names that were asked for; empty leaves the choice to what follows.
        labels: class names in the model's config; None where it has none.
        classes: that a labelled set names; None where there is no such set.
        one_vector: the task wants one number for each class, [images, classes].
        one_class: of these classes one alone is right.
    """

    outputs: tuple[str, ...] = ()
    labels: int | None = None
    classes: int | None = None
    one_vector: bool = True
    one_class: bool = True


@dataclass(frozen=True)
class Chosen:
    """One output of the graph to be made.

    Attributes:
        output: as the file has it.
        form: what it becomes.
        listed: it depends on which numbers are the largest, or above a threshold, as a list of what was found does:
            where two are nearly alike, rounding changes it by more than rounding.
    """

    output: GraphOutput
    form: Form = "as it is"
    listed: bool = False

    @property
    def numbers(self) -> int | None:
        """As `GraphOutput.numbers`, of what it becomes."""
        return _TWO if self.form in ("probability", "logit") else self.output.numbers


@dataclass(frozen=True)
class Outputs:
    """All outputs of the graph to be made.

    Attributes:
        chosen: the answers first.
        answers: how many of them are answers.
        changes: what is done to outputs of the file, by name, in words.
        claims_labels: whether the first answer is what the config's class names are for.
        settled: False where a shape must be known first: the network must be run once.
    """

    chosen: tuple[Chosen, ...]
    answers: int
    changes: Mapping[str, str]
    claims_labels: bool = True
    settled: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Of all, in their order."""
        return tuple(each.output.name for each in self.chosen)


def choose_outputs(
    model: onnx.ModelProto,
    expected: Expected,
    image: tuple[int, int] | None = None,
    *,
    measured: Mapping[str, tuple[int, ...]] | None = None,
) -> Outputs:
    """Which outputs a graph is to have, the answers first, and what becomes of each.

    An output that only says which score is the largest, or whether it is above a threshold, gives way to the scores;
    one probability, or one logit of two classes, becomes two; axes of length 1 are left out of a vector.

    Args:
        model: nodes in order; weights need not be there.
        expected: what is known of the answer.
        image: height and width of an image in pixels.
        measured: shapes of outputs that a run with one image gave, for those that cannot be inferred.

    Raises:
        ModelError: a name is none of the outputs; an output is no tensor; labels and outputs do not match, or match in
            several ways. All outputs are named.
    """
    return _Choice(model, expected, image, measured or {}).made()


def decided_outputs(model: onnx.ModelProto) -> frozenset[str]:
    """The outputs of a graph that are lists of what was found, as `Chosen.listed` says, or hang on a comparison.

    Args:
        model: nodes in any order; weights need not be there.
    """
    producers = {name: node for node in model.graph.node for name in node.output if name}
    outputs = [value.name for value in model.graph.output]
    return frozenset(name for name in outputs if _is_listed(name, producers, _LISTS | _COMPARES))


def _is_listed(tensor: str, producers: Mapping[str, onnx.NodeProto], decisions: frozenset[str] = _LISTS) -> bool:
    waiting, seen = [tensor], set[str]()
    while waiting:
        name = waiting.pop()
        node = producers.get(name)
        if node is None or name in seen:
            continue
        if node.op_type in decisions or "NMS" in node.op_type:
            return True
        seen.add(name)
        waiting += reads(node)
    return False


class _Choice:
    """One choice under way."""

    def __init__(
        self,
        model: onnx.ModelProto,
        expected: Expected,
        image: tuple[int, int] | None,
        measured: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._model, self._expected, self._image = model, expected, image
        self._given = tuple(_with_measured(output, measured) for output in read_outputs(model, image))
        self._measured = bool(measured)
        self._producers = {name: node for node in model.graph.node for name in node.output if name}
        self._constants = constant_names(model.graph)
        self._changes: dict[str, str] = {}
        self._instead: dict[str, str] = {}

    def made(self) -> Outputs:
        outputs = self._scores(self._tensors())
        answers, claims, settled = self._answers(outputs)
        rest = [output for output in outputs if output not in answers]
        forms: list[Form] = [self._form(output, alone=len(outputs) == 1, claims=claims) for output in answers]
        for output, form in zip(answers, forms, strict=True):
            self._tell(output, form)
        forms += ["as it is"] * len(rest)
        chosen = tuple(
            Chosen(output, form, _is_listed(output.name, self._producers))
            for output, form in zip((*answers, *rest), forms, strict=True)
        )
        if claims and settled:
            self._check_classes(chosen[0])
        return Outputs(chosen, len(answers), self._changes, claims, settled)

    def _tensors(self) -> tuple[GraphOutput, ...]:
        """The outputs that are tensors; others may be left out only where the answer was named."""
        names = self._expected.outputs
        unknown = [name for name in names if name not in {output.name for output in self._given}]
        if unknown:
            raise self._refused(f"the graph has no output {', '.join(unknown)}", "the name of an output")
        others = [output for output in self._given if output.kind == NO_TENSOR]
        if others and (not names or any(output.name in names for output in others)):
            raise self._refused(f"the output {others[0].name} is no tensor", "tensors")
        self._changes |= {output.name: "left out: it is no tensor" for output in others}
        return tuple(output for output in self._given if output not in others)

    def _scores(self, outputs: tuple[GraphOutput, ...]) -> tuple[GraphOutput, ...]:
        """The outputs, with scores in the place of what was only decided from them."""
        found: dict[str, GraphOutput] = {}
        for output in outputs:
            scores = self._scores_of(output, alone=len(outputs) == 1)
            if scores is not output:
                what = "its logits" if self._decided(output.name) is None else "which it only decides from"
                self._changes[output.name] = f"gives way to {scores}, {what}"
            self._instead[output.name] = scores.name
            found.setdefault(scores.name, scores)
        return tuple(found.values())

    def _scores_of(self, output: GraphOutput, *, alone: bool) -> GraphOutput:
        behind = self._decided(output.name) or self._logits(output)
        if behind is None:
            return output
        (scores,) = describe_tensors(self._model, [behind], self._image)
        return scores if scores.is_float and (alone or scores.numbers) else output

    def _decided(self, tensor: str) -> str | None:
        """The scores that `tensor` is only a decision on; None where it is more, or something else."""
        scores: str | None = None
        while (node := self._producers.get(tensor)) is not None:
            if node.op_type in _DECIDES and self._decision_alone(node):
                scores = node.input[0]
            elif node.op_type not in _CARRIES:
                break
            tensor = node.input[0]
        return scores

    def _logits(self, output: GraphOutput) -> str | None:
        """Of probabilities of several labels, each by itself, what their sigmoid reads: yes is said above 0 there."""
        if not self._expected.one_vector or self._expected.one_class or not output.numbers:
            return None
        node = self._producers.get(output.name)
        while node is not None and node.op_type in _CARRIES:
            node = self._producers.get(node.input[0])
        return str(node.input[0]) if node is not None and node.op_type == "Sigmoid" else None

    def _decision_alone(self, node: onnx.NodeProto) -> bool:
        """Whether a decision is given to the caller alone: a detector goes on with what its TopK found."""
        if node.op_type in _THRESHOLDS and node.input[1] not in self._constants:
            return False
        waiting, outputs = [name for name in node.output if name], {value.name for value in self._model.graph.output}
        while waiting:
            tensor = waiting.pop()
            readers = [reader for reader in self._model.graph.node if tensor in reads(reader)]
            if not readers and tensor not in outputs and node.op_type != "TopK":
                return False
            if any(reader.op_type not in _CARRIES | _DECIDES for reader in readers):
                return False
            waiting += [name for reader in readers for name in reader.output]
        return True

    def _answers(self, outputs: Sequence[GraphOutput]) -> tuple[list[GraphOutput], bool, bool]:
        """The answers among the outputs; whether the first is what class names are for; whether that is settled."""
        expected = self._expected
        if expected.outputs:
            named = self._named(outputs)
            fits = expected.labels is None or named[0].numbers == expected.labels or self._is_two(named[0])
            return named, expected.one_vector and (fits or expected.classes is not None), named[0].shape is not None
        if not expected.one_vector or (expected.labels is None and expected.classes is None):
            return [outputs[0]], expected.one_vector, True
        found = self._by_count(outputs)
        if len(found) > 1 and len({self._root(output.name) for output in found}) > 1:
            raise self._refused(
                f"{len(found)} outputs may be the classes: {', '.join(one.name for one in found)}",
                "one that is the answer",
                next_step=f"--output-name {found[-1].name}",
            )
        if found:
            return found[:1], True, True
        if not self._measured and any(output.shape is None or None in output.shape for output in outputs):
            return [outputs[0]], True, False
        if expected.classes is None and not all(output.numbers for output in outputs):
            return [outputs[0]], False, True  # a detector's or an encoder's, of which nobody asks for a class
        raise self._refused(*self._no_match())

    def _named(self, outputs: Sequence[GraphOutput]) -> list[GraphOutput]:
        """Those that were asked for, or what took their places."""
        by_name = {output.name: output for output in outputs}
        return list(dict.fromkeys(by_name[self._instead[name]] for name in self._expected.outputs))

    def _by_count(self, outputs: Sequence[GraphOutput]) -> list[GraphOutput]:
        """The outputs that may have a number for each class."""
        labels, classes = self._expected.labels, self._expected.classes
        vectors = [output for output in outputs if output.numbers and output.is_float]
        exact = [output for output in vectors if output.numbers == (classes if labels is None else labels)]
        exact = exact or [output for output in vectors if self._is_two(output)]
        if exact or labels is not None:
            return exact
        return [output for output in vectors if classes is not None and int(output.numbers or 0) > classes]

    def _is_two(self, output: GraphOutput) -> bool:
        """Whether an output of one number stands for two classes."""
        labels, classes = self._expected.labels, self._expected.classes
        if output.numbers != 1 or not output.is_float or not self._expected.one_class:
            return False
        if labels is not None:
            return labels == _TWO
        return classes == _TWO or (classes is None and self._is_probability(output.name))

    def _is_probability(self, tensor: str) -> bool:
        node = self._producers.get(tensor)
        while node is not None and node.op_type in _CARRIES:
            node = self._producers.get(node.input[0])
        return node is not None and node.op_type in _SIGMOIDS

    def _root(self, tensor: str) -> str:
        """What an output is computed from by functions that leave the order of its numbers: logits of a softmax."""
        while (node := self._producers.get(tensor)) is not None and node.op_type in _SAME_ORDER | _SIGMOIDS:
            tensor = node.input[0]
        return tensor

    def _form(self, output: GraphOutput, *, alone: bool, claims: bool) -> Form:
        if not self._expected.one_vector or not output.numbers or not output.is_float:
            return "as it is"
        if self._is_two(output):
            return "probability" if self._is_probability(output.name) else "logit"
        known = self._expected.labels is not None or self._expected.classes is not None
        flat = output.shape is not None and len(output.shape) == _TWO
        return "as it is" if flat or not (alone or (known and claims)) else "vector"

    def _tell(self, output: GraphOutput, form: Form) -> None:
        told = {
            "vector": f"becomes [batch, {output.numbers}]",
            "probability": "a probability p becomes two classes, [1 - p, p]",
            "logit": "a logit x becomes two classes, [0, x]",
        }
        if form in told:
            self._changes[output.name] = f"{output}: {told[form]}"

    def _check_classes(self, answer: Chosen) -> None:
        """Raise ModelError where the answer cannot be for the labels, or the labelled set."""
        labels, classes, numbers = self._expected.labels, self._expected.classes, answer.numbers
        if classes is not None and numbers is None:
            raise self._refused(
                f"{answer.output.name} has not one number for each class, and the labelled images are of {classes}",
                "an output [batch, classes], or axes of length 1 beside",
            )
        if labels is not None and numbers != labels:
            raise self._refused(*self._no_match())
        if classes is not None and numbers is not None and numbers < classes:
            raise self._refused(
                f"the labelled images are of {classes} classes, and {answer.output.name} has {numbers} for an image",
                f"at least {classes}",
            )

    def _no_match(self) -> tuple[str, str]:
        """What happened, and what was expected."""
        labels, classes = self._expected.labels, self._expected.classes
        if labels is not None:
            return f"config.json names {labels} classes, and no output has as many numbers for an image", (
                f"an output [batch, {labels}], or axes of length 1 beside"
            )
        return f"the labelled images are of {classes} classes, and no output has so many numbers for an image", (
            f"an output [batch, {classes}] or more, or axes of length 1 beside"
        )

    def _refused(self, what: str, expected: str, next_step: str = "") -> ModelError:
        one = any(output.numbers == 1 for output in self._given)
        likely = (
            "config.json belongs to another model" if self._expected.labels is not None else "",
            "of one number two classes are made where config.json names two, the other one first" if one else "",
            "the network is no classifier: leave out --eval, or say with --task what it is for",
        )
        causes = (f"the outputs are {'; '.join(map(str, self._given))}", *(() if next_step else likely))
        name = next((each.name for each in self._given if each.kind != NO_TENSOR), "NAME")
        return ModelError(
            what,
            expected=expected,
            causes=tuple(filter(None, causes)),
            next_step=next_step or f"--output-name {name} if that is the answer; --task says what the network is for",
        )


def _with_measured(output: GraphOutput, measured: Mapping[str, tuple[int, ...]]) -> GraphOutput:
    """With the shape of a run where inference left something open."""
    shape = measured.get(output.name)
    if shape is None or (output.shape is not None and None not in output.shape):
        return output
    return replace(output, shape=shape, batched=shape[:1] == (1,))
