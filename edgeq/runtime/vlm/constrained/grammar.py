"""From a JSON schema to the tokens that each step of an answer may take, by llguidance.

The grammar is compiled in the thread of the one who asks, and each answer has a copy of its own that follows its
tokens. See docs/decisions/0028-constrained-decoding.md.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EngineError, first_line
from edgeq.extras import install_command
from edgeq.runtime.vlm.constrained.schema import SchemaError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

__all__ = ["Follower", "Grammars", "require_llguidance"]

_REMEMBERED: Final = 32
"""Schemas whose grammars are kept."""

_SPACES: Final = " ?"
"""Between the parts of a document: a model that may write as many as it likes may never end."""


def require_llguidance() -> None:
    """Raise EngineError where the package that holds answers to a schema is missing."""
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise EngineError(
            f"the package {error.name} is missing, which holds answers to a JSON schema",
            next_step=install_command("structured"),
        ) from error


class Follower:
    """One answer's grammar, which goes on with its tokens.

    Args:
        matcher: of this answer alone.
        stop: tokens that end an answer.
    """

    def __init__(self, matcher: LLMatcher, stop: Sequence[int]) -> None:
        self._matcher = matcher
        self._stop = frozenset(stop)

    @property
    def fault(self) -> str:
        """Why it cannot go on; empty where it can."""
        return first_line(RuntimeError(self._matcher.get_error())) if self._matcher.is_error() else ""

    def allowed(self) -> NDArray[np.int32]:
        """Which tokens may come next, a bit for each, the lowest first: int32 [ceil(vocabulary / 32)].

        None is allowed where `fault` says why.
        """
        return np.frombuffer(self._matcher.compute_bitmask(), np.int32)

    def take(self, token: int) -> bool:
        """Go on with a token that was allowed; whether the document ends with it."""
        if token in self._stop:
            return True
        return not self._matcher.consume_token(token) or self._matcher.is_stopped()


class Grammars:
    """Compiles schemas for one tokenizer; from any thread.

    The grammars of the last schemas are kept, and what is known of the tokenizer from the first use on.

    Args:
        tokenizer: transformers', with a tokenizer of the Rust library behind it.
        vocabulary: logits of a step.
        stop: tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, stop: Sequence[int]) -> None:
        self._tokenizer, self._vocabulary, self._stop = tokenizer, vocabulary, tuple(stop)
        self._known: LLTokenizer | None = None
        self._grammars: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()  # one is compiled at a time

    def follow(self, schema: str) -> Follower:
        """A schema's grammar at its beginning.

        Args:
            schema: from `edgeq.runtime.vlm.constrained.schema.schema_text`.

        Raises:
            SchemaError: the schema has something in it that is not followed, or is too complex; or the tokenizer is of
                a kind whose tokens' texts are not known, or llguidance is missing.
        """
        with self._lock:
            matcher = self._grammars.get(schema)
            if matcher is None:
                self._grammars[schema] = matcher = self._compiled(schema)
            self._grammars.move_to_end(schema)
            while len(self._grammars) > _REMEMBERED:
                self._grammars.popitem(last=False)
            return Follower(matcher.deep_copy(), self._stop)

    def _compiled(self, schema: str) -> LLMatcher:
        tokens = self._tokens()
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _SPACES})
        except ValueError as error:
            raise _refused(first_line(error)) from error
        matcher = LLMatcher(tokens, grammar, log_level=0, limits=_limits())
        first = Follower(matcher.deep_copy(), self._stop)
        if matcher.is_error() or not first.allowed().any() or first.fault:
            raise _refused(Follower(matcher, ()).fault or first.fault or "no document is of this form")
        return matcher

    def _tokens(self) -> LLTokenizer:
        """Each token's text, as llguidance reads it from the tokenizer's own description."""
        if self._known is None:
            try:
                require_llguidance()
                from llguidance import LLTokenizer

                described = self._tokenizer.backend_tokenizer.to_str()
                size = max(self._vocabulary, len(self._tokenizer))
                self._known = LLTokenizer(described, n_vocab=size, eos_token=list(self._stop))
            except EngineError as error:
                raise SchemaError(f"no answer is held to a JSON schema here: {error.what}") from error
            except Exception as error:  # no such tokenizer (AttributeError), or a kind that llguidance does not know
                raise SchemaError(
                    "the answers of this model cannot be held to a JSON schema: its tokenizer is of a kind that is not "
                    f"understood ({first_line(error)})"
                ) from error
        return self._known


def _limits() -> LLParserLimits:
    """llguidance's own bounds: some 10 ms of regular expressions at the start and 7 in a step, some 40 MB of states."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        max_grammar_size=50_000,
        verbose_errors=False,
    )


def _refused(why: str) -> SchemaError:
    return SchemaError(f"the JSON schema cannot be followed: {why}", next_step="leave that out of the schema")
