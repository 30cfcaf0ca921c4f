"""The built-in rules, and the plans that they make: of a classifier's graph, of a vision-language model's modules and
of the graph of its vision half.

The sources of the rules: integer kernels and what they fuse, TensorRT Developer Guide, "Working with Quantized Types";
softmax and GELU as the tensors of a vision transformer that eight uniform bits serve worst, PTQ4ViT (arXiv 2111.12293);
NF4 with double quantization for the language model alone, QLoRA (arXiv 2305.14314).
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgeq.errors import PlanError
from edgeq.families.structure import Module
from edgeq.model.checkpoint.packed_weights import packed_scheme
from edgeq.model.graph.components import Component, Layer, read_components, read_layers
from edgeq.plan.conditions import (
    CARRIERS,
    CONDITIONS,
    CONVOLUTIONS,
    FUSED_ACTIVATIONS,
    INT8_CONDITIONS,
    POOLS,
    PRODUCTS,
    STORED_IN_INT8,
    WEIGHTED,
    Surroundings,
)
from edgeq.plan.match import Asked, check_names, check_rules, decide
from edgeq.plan.precision import (
    INT8_HEAD,
    PACKED_BITS,
    QUANTIZED,
    Condition,
    Decision,
    Precision,
    PrecisionPlan,
    Rule,
    Scope,
    WeightGranularity,
)

if TYPE_CHECKING:
    import onnx

__all__ = [
    "CARRIERS",
    "CLASSIFIER_RULES",
    "CONVOLUTIONS",
    "FUSED_ACTIVATIONS",
    "POOLS",
    "PRODUCTS",
    "STORED_IN_INT8",
    "VISION_RULES",
    "WEIGHTED",
    "added_in_float",
    "float_additions",
    "keep_range",
    "left_in_float",
    "module_rules",
    "own_rules",
    "plan_classifier",
    "plan_float",
    "plan_modules",
    "plan_vision",
    "replan",
    "with_int8",
    "without_int8",
]

_FP32, _FP16, _INT8, _NF4 = Precision.FP32, Precision.FP16, Precision.INT8, Precision.NF4


def _rule(name: str, precision: Precision, reason: str, **where: Any) -> Rule:
    return Rule(name=name, precision=precision, reason=reason, **where)


_NORM_IN_PIECES: Final = _rule(
    "fp32-norm-pieces",
    _FP32,
    "of a normalization that is written out: its squares are beyond FP16 from 256 on",
    when="divides-by-root",
)

CLASSIFIER_RULES: Final = (
    _rule("fp32-unknown", _FP32, "an operator that no rule knows; nothing is guessed", when="unknown-operator"),
    _rule("fp32-head", _FP32, "the head's error goes straight into the answer", component="head"),
    _rule(
        "fp32-decoding",
        _FP32,
        "computes with what the head gave, such as boxes in pixels, which FP16 has half a pixel apart from 512 on",
        when="decodes-answer",
    ),
    _rule("fp32-batchnorm", _FP32, "not folded, and no integer kernel", kind="batchnorm"),
    _NORM_IN_PIECES,
    _rule(
        "fp16-normalization",
        _FP16,
        "divides by a root of squares: INT8's error would become large",
        kind="normalization",
    ),
    _rule("fp16-softmax", _FP16, "most of its values are near zero, where INT8 has one step", kind="softmax"),
    _rule("fp16-smooth", _FP16, "GELU, sigmoid and the like have no integer kernel", kind="smooth activation"),
    _rule(
        "fp16-patches",
        _FP16,
        "what it writes goes through the whole transformer; rounded to INT8 it was the largest error",
        when="embeds-patches",
    ),
    _rule(
        "fp16-query-key",
        _FP16,
        "softmax magnifies their error; ONNX Runtime's CPU has no FP16 kernel and takes FP32",
        kind="attention query/key",
        when="constant-weight",
    ),
    _rule(
        "fp16-value-output",
        _FP16,
        "of a transformer, feed-forward layers alone are INT8",
        kind="attention value/output",
        when="constant-weight",
    ),
    _rule(
        "fp16-linear",
        _FP16,
        "of a transformer, not all linear layers are INT8, and this one is none of those named",
        kind="linear",
        when="constant-weight",
    ),
    _rule("int8-weighted", _INT8, "integer kernel in both backends", when="constant-weight"),
    _rule("int8-activation", _INT8, "done by the layer before it", when="done-by-int8-layer"),
    _rule("int8-add", _INT8, "residual addition of INT8 tensors", when="adds-int8"),
    _rule("int8-carrier", _INT8, "moves INT8 values, computes none", when="moves-int8"),
    _rule("int8-pool", _INT8, "average of INT8 values for an INT8 layer", when="pools-int8"),
    _rule("fp16-otherwise", _FP16, "no integer kernel beside INT8 layers"),
)
"""For an image classifier's graph, or an image encoder's. What FP16 does not hold is FP32 by rules before these
(`keep_range`)."""

_FORMER_RULES: Final = frozenset({"fp32-normalization", "fp32-softmax", "fp32-smooth", "fp32-otherwise"})
"""Built-in rules that saved plans may have: what is not INT8 was FP32 once."""

_FLOAT_ADDITIONS: Final = _rule(
    "fp16-residual",
    _FP16,
    "rounded behind every block, what the skip connections carry was the largest error",
    when="adds-tensors",
)

_FLOAT_ADDITION_NAMES: Final = frozenset({_FLOAT_ADDITIONS.name, "fp32-residual"})
"""Its own, and the one that it had in plans where the additions were FP32."""

_SCOPES: Final[dict[Scope, tuple[str, ...]]] = {
    "ffn": ("fp16-patches", "fp16-query-key", "fp16-value-output", "fp16-linear"),
    "ffn-vo": ("fp16-patches", "fp16-query-key", "fp16-linear"),
    "linears": ("fp16-patches",),
}
"""The rules that are for transformers alone, by scope; `ffn` has them all."""

_BEFORE_TABLES: Final = (
    _rule("fp16-vision", _FP16, "4 bits save little here and can lose what the image shows", component="vision"),
    _rule("fp16-connector", _FP16, "small, and every image token goes through it", component="connector"),
    _rule("fp16-cross-attention", _FP16, "where the language model looks at the image", component="cross-attention"),
)
"""For a vision-language model's modules, before those of `--embeddings`."""

_TABLE_RULES: Final = {
    _FP16: (
        _rule("fp16-head", _FP16, "its error goes straight into the next word", component="head"),
        _rule("fp16-embedding", _FP16, "a table that is read, not multiplied", kind="embedding"),
    ),
    _INT8: (
        _rule(INT8_HEAD, _INT8, "asked for; each word of the vocabulary has a scale", component="head"),
        _rule(
            "int8-embedding",
            _INT8,
            "asked for; each word of the vocabulary has a scale",
            component="language",
            kind="embedding",
        ),
    ),
}
"""Those of `--embeddings`, by the precision of the input embedding and the output head."""

_NORMALIZATION: Final = _rule(
    "fp16-normalization", _FP16, "few numbers, and every activation goes through them", kind="normalization"
)
"""Between those of `--embeddings` and those of `--language`."""

_LANGUAGE_REASONS: Final = {
    Precision.NF4: "most of the bytes; double quantization",
    Precision.INT4: "most of the bytes; groups along the input have a scale each",
    Precision.INT8: "most of the bytes; each output channel has a scale",
}

_LANGUAGE_RULES: Final[dict[Precision, tuple[Rule, ...]]] = {
    precision: (
        *(
            _rule(f"{precision.value}-{kind.strip('*')}", precision, reason, component="language", kind=kind)
            for kind in ("linear", "attention*", "feed-forward")
        ),
        _rule("fp16-otherwise", _FP16, "no linear layer of the language model"),
    )
    for precision, reason in _LANGUAGE_REASONS.items()
}
"""Those of `--language`, by the precision of the language model's linear layers."""

VISION_RULES: Final = (
    _rule(
        "fp32-angles", _FP32, "positions times frequencies: rounded, they turn by another angle", when="makes-angles"
    ),
    _NORM_IN_PIECES,
    _rule("fp16-connector", _FP16, "small, and every image token goes through it", component="connector"),
    _rule("fp16-vision", _FP16, "half the bytes of FP32, and rounding that features survive", component="vision"),
)
"""For the graph of vision encoder and connector; what would overflow is kept in FP32 by rules before these."""


def plan_classifier(
    model: onnx.ModelProto,
    *,
    rules: Sequence[Rule] = (),
    weights: WeightGranularity = "per-channel",
    shared_add: bool = True,
    keep_batchnorm: tuple[str, ...] = (),
    transformer: Scope = "linears",
) -> PrecisionPlan:
    """Decide the precision of every layer of a folded classifier.

    Args:
        model: FP32 graph with uniquely named nodes, in topological order.
        rules: asked before the built-in ones.
        weights: granularity of the INT8 weight scales.
        shared_add: put both inputs of an INT8 addition on one scale.
        keep_batchnorm: BatchNormalization nodes that were kept on purpose.
        transformer: which linear layers are INT8 where there is attention.

    Raises:
        PlanError: one of `rules` matches or decides nothing, has the name of another, or asks for what a layer cannot.
    """
    asked, subjects = Asked(), _subjects(model)
    in_force = (*rules, *_built_in(subjects, transformer))
    check_names(in_force)
    decisions = _decide_graph(model, subjects, in_force, asked)
    check_rules(rules, subjects, asked)
    return PrecisionPlan(
        weights=weights,
        shared_add=shared_add,
        keep_batchnorm=keep_batchnorm,
        transformer=transformer,
        rules=_in_force(in_force, asked),
        decisions=decisions,
    )


def own_rules(plan: PrecisionPlan) -> tuple[Rule, ...]:
    """The rules of a plan that are not built in, here or in an earlier release."""
    names = {*_FORMER_RULES, *_FLOAT_ADDITION_NAMES, *(rule.name for rule in CLASSIFIER_RULES)}
    return tuple(rule for rule in plan.rules if rule.name not in names)


def keep_range(model: onnx.ModelProto, plan: PrecisionPlan, reasons: Mapping[str, str]) -> PrecisionPlan:
    """`plan` with layers of it in FP32 that FP16 would break, each by a rule of its own.

    An INT8 layer that FP16 would break writes FP32, and so does one that a layer in FP32 reads: what reads it in
    floating point is FP32 as well, or a Cast would stand between the two and keep them from being fused.

    Args:
        model: FP32, with the node names of `plan`, in topological order.
        plan: for that graph; its own rules stay behind the new ones.
        reasons: layer -> why FP16 would not do, in a sentence; of layers that are planned FP32 nothing is done.
    """
    half = plan.layers(_FP16)
    kept = {name: reason for name, reason in reasons.items() if name in half}
    kept |= _beside_fp32(model, plan, kept, reasons)
    found = tuple(_rule(f"fp32-range:{name}", _FP32, reason, layer=glob.escape(name)) for name, reason in kept.items())
    if not found:
        return plan
    rules = (*found, *plan.rules)
    decisions = _decide_graph(model, _subjects(model), rules, Asked())
    return plan.model_copy(update={"rules": rules, "decisions": decisions})


def _beside_fp32(
    model: onnx.ModelProto, plan: PrecisionPlan, kept: Mapping[str, str], reasons: Mapping[str, str]
) -> dict[str, str]:
    """Layers planned FP16 that read what an INT8 layer writes in FP32, each with the reason.

    Args:
        model, plan: as for `keep_range`.
        kept: layers planned FP16 that are to be FP32.
        reasons: of those, and of INT8 layers that write FP32.
    """
    half, int8 = plan.layers(_FP16), plan.layers(_INT8)
    graph = Surroundings.of(model)
    kernels = {node.name: _kernel(node, graph, int8) for node in model.graph.node if node.name in int8}
    found: dict[str, str] = {}
    grown = bool(kept) or any(name in int8 for name in reasons)
    while grown:
        grown = False
        for name, readers in kernels.items():
            exact = [user for user in readers if user in kept or user in found]
            open_ones = [user for user in readers if user in half and user not in kept and user not in found]
            if open_ones and (exact or name in reasons):
                because = f"reads what {name} writes in FP32" + (f" for {exact[0]}" if exact else "")
                found |= dict.fromkeys(open_ones, because)
                grown = True
    return found


def _kernel(node: onnx.NodeProto, graph: Surroundings, int8: frozenset[str]) -> list[str]:
    """The layers that read what an INT8 layer writes, behind the activation that it applies."""
    readers = graph.consumers.get(node.output[0], [])
    if len(readers) == 1 and readers[0].op_type in FUSED_ACTIVATIONS and readers[0].name in int8:
        readers = graph.consumers.get(readers[0].output[0], [])
    return [reader.name for reader in readers]


def without_int8(model: onnx.ModelProto, plan: PrecisionPlan, layers: Mapping[str, str], rule: str) -> PrecisionPlan:
    """`plan` with INT8 layers of it in FP16, and what follows from that around them; its rules stay.

    Args:
        model: FP32, with the node names of `plan`.
        plan: for that graph.
        layers: names of those layers, each with the reason.
        rule: the name that their decisions get.
    """
    graph = Surroundings.of(model)
    decisions = {decision.layer: decision for decision in plan.decisions}
    for name, reason in layers.items():
        changed = {"precision": _FP16, "rule": rule, "reason": reason}
        decisions[name] = decisions[name].model_copy(update=changed)
    graph.precision.update((name, decision.precision) for name, decision in decisions.items())
    nodes = [node for node in model.graph.node if node.name in decisions and node.op_type not in WEIGHTED]
    otherwise = CLASSIFIER_RULES[-1]
    left = True
    while left:  # what only led to such a layer follows it, which stands before it
        left = False
        for node in nodes:
            if graph.precision[node.name] is _INT8 and not any(ask(node, graph) for ask in INT8_CONDITIONS.values()):
                changed = {"precision": _FP16, "rule": otherwise.name, "reason": otherwise.reason}
                decisions[node.name] = decisions[node.name].model_copy(update=changed)
                graph.precision[node.name], left = _FP16, True
    return plan.model_copy(update={"decisions": tuple(decisions.values())})


def with_int8(model: onnx.ModelProto, plan: PrecisionPlan, layers: Mapping[str, tuple[str, str]]) -> PrecisionPlan:
    """`plan` with layers in INT8 that no rule kept in floating point, and what follows from that behind them.

    A layer in FP16 only because nothing said otherwise may be INT8 for a backend that has a kernel for it; activations,
    additions and carriers behind it then may be, too. Layers that a rule decided stay.

    Args:
        model: FP32, with the node names of `plan`, in topological order.
        plan: for that graph.
        layers: name -> the rule that the decision gets, and the reason.
    """
    decisions = {decision.layer: decision for decision in plan.decisions}
    graph = Surroundings.of(model)
    graph.precision.update((name, decision.precision) for name, decision in decisions.items())
    open_ones = {name for name, decision in decisions.items() if decision.rule == CLASSIFIER_RULES[-1].name}
    grown: set[str] = set()
    for node in model.graph.node:
        if node.name not in open_ones:
            continue
        found = layers.get(node.name)
        if found is None and any(name in grown for name in node.input):
            found = _follows(node, graph)
        if found is not None:
            changed = {"precision": _INT8, "rule": found[0], "reason": found[1]}
            decisions[node.name] = decisions[node.name].model_copy(update=changed)
            graph.precision[node.name] = _INT8
            grown.update(node.output)
    return plan.model_copy(update={"decisions": tuple(decisions.values())}) if grown else plan


def _follows(node: onnx.NodeProto, graph: Surroundings) -> tuple[str, str] | None:
    """The rule by which a layer without weights is INT8 where it stands, and its reason; None where it is not."""
    for rule in CLASSIFIER_RULES:
        ask = INT8_CONDITIONS.get(rule.when) if rule.when is not None and rule.when != "constant-weight" else None
        if rule.precision is _INT8 and ask is not None and ask(node, graph):
            return rule.name, rule.reason
    return None


def float_additions(model: onnx.ModelProto, plan: PrecisionPlan, *, named: bool = False) -> PrecisionPlan:
    """`plan` with the residual additions that it has in INT8 in FP16, and what follows from that around them.

    What the skip connections carry is rounded by no addition then; layers with weights stay as they are.

    Args:
        model: FP32, with the node names of `plan`.
        plan: for that graph; its rules before the one that puts additions in INT8 still come first.
        named: the rule is there even where no addition is in INT8, so that the plan says why.
    """
    if not named and not any(decision.rule == "int8-add" for decision in plan.decisions):
        return plan
    last = len(plan.rules) - 1  # for all that is left
    place = next((at for at, rule in enumerate(plan.rules) if rule.name == "int8-add"), last)
    rules = (*plan.rules[:place], _FLOAT_ADDITIONS, *plan.rules[place:])
    decisions = _decide_graph(model, _subjects(model), rules, Asked())
    return plan.model_copy(update={"rules": rules, "decisions": decisions})


def left_in_float(before: PrecisionPlan, plan: PrecisionPlan) -> tuple[str, ...]:
    """Names of the additions that are in floating point by `float_additions`, or because a layer before them is.

    Args:
        before: the plan as it was made.
        plan: what became of it, for the same graph.
    """
    int8 = {decision.layer for decision in before.decisions if decision.rule == "int8-add"}
    floating = set(added_in_float(plan))
    return tuple(
        decision.layer
        for decision in plan.decisions
        if decision.layer in floating or (decision.layer in int8 and decision.precision is not _INT8)
    )


def added_in_float(plan: PrecisionPlan) -> tuple[str, ...]:
    """Names of the additions that `float_additions` put in floating point, in the graph's order."""
    return tuple(decision.layer for decision in plan.decisions if decision.rule in _FLOAT_ADDITION_NAMES)


def _built_in(subjects: Sequence[tuple[str, Layer]], transformer: Scope) -> tuple[Rule, ...]:
    """The built-in rules; those for transformers only where there is attention, and as far as the scope wants them."""
    attention = any(layer.kind.startswith("attention") for _, layer in subjects)
    left_out = set(_SCOPES["ffn"]) - set(_SCOPES[transformer] if attention else ())
    return tuple(rule for rule in CLASSIFIER_RULES if rule.name not in left_out)


def plan_float(model: onnx.ModelProto, *, because: str, rules: Sequence[Rule] = ()) -> PrecisionPlan:
    """Decide the precision of every layer of a graph that stays in floating point: FP16 wherever that is possible.

    Args:
        model: FP32 graph with uniquely named nodes, in topological order.
        because: why it does, in a sentence.
        rules: asked before the others, FP16 and FP32 only.

    Raises:
        PlanError: as for `plan_classifier`.
    """
    unknown = next(rule for rule in CLASSIFIER_RULES if rule.name == "fp32-unknown")
    asked, subjects, in_force = Asked(), _subjects(model), (*rules, unknown, _rule("fp16-float", _FP16, because))
    check_names(in_force)
    decisions = _decide_graph(model, subjects, in_force, asked)
    check_rules(rules, subjects, asked)
    return PrecisionPlan(rules=_in_force(in_force, asked), decisions=decisions)


def plan_vision(model: onnx.ModelProto, *, rules: Sequence[Rule] = ()) -> PrecisionPlan:
    """Decide the precision of every layer of the graph that `edgeq.export.vision` makes.

    Args:
        model: FP32 graph with uniquely named nodes, in topological order; those of the connector are called
            `/connector/...`.
        rules: asked before the built-in ones; the components are `vision` and `connector`.

    Raises:
        PlanError: as for `plan_classifier`.
    """
    asked, in_force = Asked(), (*rules, *VISION_RULES)
    subjects = tuple((_half_of(layer), layer) for layer in read_layers(model))
    check_names(in_force)
    decisions = _decide_graph(model, subjects, in_force, asked)
    check_rules(rules, subjects, asked)
    return PrecisionPlan(rules=_in_force(in_force, asked), decisions=decisions)


def _half_of(layer: Layer) -> str:
    return "connector" if layer.name.startswith("/connector/") else "vision"


def replan(model: onnx.ModelProto, saved: PrecisionPlan) -> PrecisionPlan:
    """Ask the rules of a saved plan again, in the place of the built-in ones.

    Args:
        model: as for `plan_classifier`. It may be another one than the plan was made for, if every rule matches a layer
            of it.
        saved: its rules, settings and allowances are taken over.

    Raises:
        PlanError: a rule matches nothing; or the plan is for these very layers and its decisions are not what its rules
            decide.
    """
    asked, subjects = Asked(), _subjects(model)
    made = saved.model_copy(update={"decisions": _decide_graph(model, subjects, saved.rules, asked)})
    check_rules(saved.rules, subjects, asked, must_decide=False)
    same_layers = [(d.layer, d.op) for d in saved.decisions] == [(d.layer, d.op) for d in made.decisions]
    if same_layers and (changes := saved.diff(made)):
        raise PlanError(
            f"the plan's rules decide otherwise than the plan says, in {len(changes)} places",
            expected="decisions that follow from the rules",
            causes=changes[:5],
            next_step="change rules, not decisions: edgeq plan MODEL --rules RULES.yaml -o PLAN.yaml",
        )
    return made


def plan_modules(
    components: Sequence[Component],
    *,
    rules: Sequence[Rule] = (),
    language: Precision = Precision.NF4,
    embeddings: Precision = Precision.FP16,
) -> PrecisionPlan:
    """Decide the precision of every module of a vision-language model.

    Args:
        components: as `edgeq.families.modules.read_modules` gives them.
        rules: asked before the built-in ones. A condition never holds here: conditions are about graphs.
        language: of the language model's linear layers: NF4, INT4 or INT8, the weights alone.
        embeddings: of its input embedding and output head: FP16 or INT8, the weights alone.

    Raises:
        PlanError: as for `plan_classifier`; a layer's input is too odd for integers in groups; or the input embedding
            cannot be in integers where it is asked for.
    """
    asked, in_force = Asked(), (*rules, *module_rules(language, embeddings))
    check_names(in_force)
    subjects = tuple((component.name, layer) for component in components for layer in component.layers)
    decisions = tuple(
        decide(name, layer, in_force, lambda _condition, _layer: False, asked) for name, layer in subjects
    )
    check_rules(rules, subjects, asked)
    for decision, (_, layer) in zip(decisions, subjects, strict=True):
        _check_module(decision, layer, nf4=language is _NF4)
    _check_tied(decisions)
    return PrecisionPlan(rules=_in_force(in_force, asked), decisions=decisions)


def module_rules(language: Precision, embeddings: Precision = Precision.FP16) -> tuple[Rule, ...]:
    """The built-in rules for a vision-language model's modules.

    Args:
        language, embeddings: as for `plan_modules`.
    """
    return (*_BEFORE_TABLES, *_TABLE_RULES[embeddings], _NORMALIZATION, *_LANGUAGE_RULES[language])


def _check_module(decision: Decision, layer: Layer, *, nf4: bool) -> None:
    """Raise PlanError for a precision that a module's weights cannot be in."""
    if decision.precision in QUANTIZED and decision.op != "Linear":
        table = (decision.component, decision.kind, decision.precision) == ("language", "embedding", _INT8)
        if not table:
            raise _impossible(decision, "only linear layers can be quantized here, and to INT8 the input embedding")
        if nf4:
            raise _impossible(decision, "no loader of NF4 checkpoints reads an embedding in integers")
    bits = PACKED_BITS.get(decision.precision)
    if bits and isinstance(layer, Module) and layer.shape and packed_scheme(bits, layer.shape[-1]) is None:
        raise _impossible(decision, f"its input of {layer.shape[-1]:,} numbers falls into no groups of whole words")


def _check_tied(decisions: Sequence[Decision]) -> None:
    """Raise PlanError where a head without a weight of its own is planned otherwise than the embedding that it is."""
    tables = [decision for decision in decisions if (decision.component, decision.kind) == ("language", "embedding")]
    for head in decisions:
        if head.component != "head" or head.parameters or len(tables) != 1 or head.precision is tables[0].precision:
            continue
        raise PlanError(
            f"{head.layer} and {tables[0].layer} are one weight, planned {head.precision.value} by {head.rule} and "
            f"{tables[0].precision.value} by {tables[0].rule}",
            expected="one precision for both",
            next_step="--embeddings fp16 or int8 decides both; or let a rule match both",
        )


def _in_force(rules: Sequence[Rule], asked: Asked) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if asked.matched[rule.name])


def _subjects(model: onnx.ModelProto) -> tuple[tuple[str, Layer], ...]:
    """Every layer of a graph with its component's name, in the graph's order."""
    lies_in = {layer.name: part.name for part in read_components(model) for layer in part.layers}
    return tuple((lies_in[layer.name], layer) for layer in read_layers(model))


def _decide_graph(
    model: onnx.ModelProto, subjects: Sequence[tuple[str, Layer]], rules: Sequence[Rule], asked: Asked
) -> tuple[Decision, ...]:
    graph = Surroundings.of(model)
    graph.heads = frozenset(layer.name for component, layer in subjects if component == "head")
    nodes = {node.name: node for node in model.graph.node}

    def holds(condition: Condition, layer: Layer) -> bool:
        return CONDITIONS[condition](nodes[layer.name], graph)

    for component, layer in subjects:  # a carrier asks about the layers behind it
        if layer.op in WEIGHTED:
            graph.precision[layer.name] = decide(component, layer, rules, holds, Asked()).precision
    decisions = []
    for component, layer in subjects:
        decision = decide(component, layer, rules, holds, asked)
        graph.precision[layer.name] = decision.precision
        if decision.precision in (Precision.NF4, Precision.INT4):
            raise _impossible(decision, "4 bits are for the linear layers of a language model")
        if decision.precision is Precision.INT8 and not any(holds(condition, layer) for condition in INT8_CONDITIONS):
            raise _impossible(decision, "it has no integer kernel where it stands")
        decisions.append(decision)
    return tuple(decisions)


def _impossible(decision: Decision, because: str) -> PlanError:
    return PlanError(
        f"the rule {decision.rule} wants {decision.layer} ({decision.op}) in {decision.precision.value}: {because}",
        expected="a precision that the layer can have",
        next_step=f"make the patterns of {decision.rule} narrower, or give it a condition (`when`)",
    )
