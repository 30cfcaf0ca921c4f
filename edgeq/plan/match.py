"""Ask rules in order: the first that matches a layer decides it, and what is wrong with the rules is an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from edgeq.errors import PlanError
from edgeq.model.graph.components import Layer
from edgeq.plan.precision import Condition, Decision, Rule

__all__ = ["Asked", "check_names", "check_rules", "decide", "is_catch_all"]

Holds = Callable[[Condition, Layer], bool]
"""Whether a condition holds for a layer."""

_PATTERNS = ("component", "kind", "layer")


@dataclass
class Asked:
    """What became of each rule, by name.

    Attributes:
        matched: how many layers it matched.
        decided: how many it decided.
        first: the rule that decided the first layer that it matched.
    """

    matched: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def note(self, matching: Sequence[Rule]) -> None:
        """Count one layer, with all rules that match it."""
        self.matched.update(rule.name for rule in matching)
        self.decided[matching[0].name] += 1
        for rule in matching:
            self.first.setdefault(rule.name, matching[0].name)


def decide(component: str, layer: Layer, rules: Sequence[Rule], holds: Holds, asked: Asked) -> Decision:
    """The decision for one layer; `asked` counts it.

    A rule that matches every layer speaks only for what is left over: it never counts as overruled.

    Args:
        component: name of the part of the model that has the layer.
        layer: decided on.
        rules: the first that matches decides.
        holds: whether a rule's condition holds for a layer.
        asked: what became of each rule; is changed.

    Raises:
        PlanError: no rule matches.
    """
    matching = [rule for rule in rules if _matches(rule, component, layer, holds)]
    if not matching:
        raise PlanError(
            f"no rule of the plan matches {layer.name} ({layer.op}, {layer.kind}, in {component})",
            expected="a rule for every layer",
            next_step="add a last rule without patterns, for all that is left",
        )
    asked.note(matching)
    chosen, *others = matching
    against = [rule for rule in others if rule.precision is not chosen.precision and not is_catch_all(rule)]
    return Decision(
        layer=layer.name,
        op=layer.op,
        component=component,
        kind=layer.kind,
        parameters=layer.parameters,
        bytes=layer.bytes,
        precision=chosen.precision,
        rule=chosen.name,
        reason=chosen.reason,
        overruled=tuple(rule.name for rule in against),
    )


def is_catch_all(rule: Rule) -> bool:
    """Whether a rule matches every layer."""
    return rule.when is None and all(getattr(rule, name) == "*" for name in _PATTERNS)


def _matches(rule: Rule, component: str, layer: Layer, holds: Holds) -> bool:
    return _fits(rule, component, layer) and (rule.when is None or holds(rule.when, layer))


def _fits(rule: Rule, component: str, layer: Layer) -> bool:
    """Whether all three patterns match."""
    found = {"component": component, "kind": layer.kind, "layer": layer.name}
    return all(fnmatchcase(found[name], getattr(rule, name)) for name in _PATTERNS)


def check_names(rules: Iterable[Rule]) -> None:
    """Raise PlanError when two rules have one name: nobody could tell which of them decided."""
    twice = [name for name, count in Counter(rule.name for rule in rules).items() if count > 1]
    if twice:
        raise PlanError(
            f"more than one rule is named {', '.join(twice[:3])}",
            expected="a name for each rule that the others, and the built-in ones, do not have",
        )


def check_rules(
    rules: Iterable[Rule], subjects: Sequence[tuple[str, Layer]], asked: Asked, *, must_decide: bool = True
) -> None:
    """Raise PlanError for a rule that matches no layer or, where it must, decides none.

    Args:
        rules: those to be checked.
        subjects: every layer with its component's name.
        asked: what became of the rules.
        must_decide: a rule whose layers are all decided by rules before it is an error too.
    """
    for rule in rules:
        if not asked.matched[rule.name]:
            raise _matches_nothing(rule, subjects)
        if must_decide and not asked.decided[rule.name]:
            raise PlanError(
                f"the rule {rule.name} decides nothing: {asked.first[rule.name]} is asked before it",
                expected="every rule decides at least one layer",
                next_step=f"put {rule.name} before {asked.first[rule.name]}, or take it out",
            )


def _matches_nothing(rule: Rule, subjects: Sequence[tuple[str, Layer]]) -> PlanError:
    fitting = [layer for component, layer in subjects if _fits(rule, component, layer)]
    if fitting:
        because = f'its patterns match {len(fitting)} layers, "{rule.when}" holds for none of them'
        return PlanError(f"the rule {rule.name} matches no layer: {because}")
    return PlanError(
        f"the rule {rule.name} matches no layer",
        expected="patterns over component, kind and layer that match at least one",
        causes=tuple(_near_misses(rule, subjects)) or ("each pattern matches some layer, no layer matches all",),
        next_step="edgeq plan MODEL shows components and kinds, with --json every layer",
    )


def _near_misses(rule: Rule, subjects: Sequence[tuple[str, Layer]]) -> Iterator[str]:
    found: dict[str, list[str]] = {
        "component": list(dict.fromkeys(component for component, _ in subjects)),
        "kind": list(dict.fromkeys(layer.kind for _, layer in subjects)),
        "layer": [layer.name for _, layer in subjects],
    }
    for name, present in found.items():
        pattern = getattr(rule, name)
        if not any(fnmatchcase(value, pattern) for value in present):
            close = get_close_matches(pattern, present, n=3, cutoff=0.3) or present[:3]
            yield f"no {name} is like {pattern!r}; there is {', '.join(close)}"
