"""What a docstring must say: every parameter of three and more, an array's shape and dtype, the errors raised."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from docstrings import (
    Package,
    holds_array,
    read_package,
    without_args,
    without_attributes,
    without_raises,
    without_shape,
)

PACKAGE = Path(__file__).resolve().parents[1] / "edgeq"


def module(source: str) -> Package:
    """A made-up module, and an error of EdgeqError's tree."""
    return read_package({"made_up": f"class UpError(EdgeqError): ...\n\n{dedent(source)}"})


@pytest.fixture(scope="module")
def edgeq() -> Package:
    """Edgeq itself."""
    files = sorted(PACKAGE.rglob("*.py"))
    return read_package({str(file.relative_to(PACKAGE.parent)): file.read_text(encoding="utf-8") for file in files})


def test_every_parameter_of_three_or_more_is_described(edgeq: Package) -> None:
    assert len(edgeq.functions) > 500
    assert without_args(edgeq) == []


def test_every_field_of_a_dataclass_of_three_or_more_is_described(edgeq: Package) -> None:
    assert len(edgeq.dataclasses) > 100
    assert without_attributes(edgeq) == []


def test_every_array_that_is_given_has_its_shape_and_dtype_said(edgeq: Package) -> None:
    assert sum(holds_array(each.function.returns) for each in edgeq.functions) > 50
    assert without_shape(edgeq) == []


def test_every_error_that_a_function_raises_itself_is_named(edgeq: Package) -> None:
    assert edgeq.above("BundleError") == {"ArtifactError", "InputError", "EdgeqError", "Exception"}
    assert without_raises(edgeq) == []


def test_a_parameter_left_out_is_found() -> None:
    package = module(
        '''
        def two(a: int, b: int) -> None:
            """Needs no list."""

        def three(a: int, *b: int, c: int) -> None:
            """Does something.

            Args:
                a, c: numbers.
                d: another function's.
            """

        class Thing:
            """A thing."""

            def __init__(self, a: int, b: int, c: int) -> None: ...

            def _own(self, a: int, b: int, c: int) -> None: ...

            @property
            def method(self) -> int: ...
        '''
    )
    assert without_args(package) == [
        "made_up:7 three: Args: leaves out b",
        "made_up:7 three: d is no parameter",
        "made_up:18 Thing.__init__: Args: leaves out a, b, c",
    ]


def test_what_a_docstring_refers_to_describes_too_and_only_where_it_does() -> None:
    package = module(
        '''
        def first(a: int, b: int, c: int) -> None:
            """First.

            Args:
                a, b, c: numbers.

            Raises:
                UpError: always.
            """

        def second(a: int, b: int, c: int) -> None:
            """As `first`, twice."""
            raise UpError("no")

        def third(a: int, b: int, d: int) -> None:
            """As `first`, with another number."""

        def fourth(a: int, b: int, c: int) -> None:
            """Calls `first`."""
        '''
    )
    assert without_args(package) == [
        "made_up:18 third: Args: leaves out d",
        "made_up:21 fourth: Args: leaves out a, b, c",
    ]
    assert without_raises(package) == []


def test_a_base_and_a_protocol_describe_what_overrides_and_implements() -> None:
    package = module(
        '''
        class Shape(Protocol):
            """A shape."""

            def draw(self, a: int, b: int, c: int) -> NDArray[np.float32]:
                """Float32 [n].

                Args:
                    a, b, c: numbers.
                """

        class Circle:
            """Has the protocol's shape."""

            def draw(self, a: int, b: int, c: int) -> NDArray[np.float32]:
                """A circle."""

        class Dot(Circle):
            """Derived."""

            def draw(self, a: int, b: int, c: int) -> NDArray[np.float32]:
                """A dot."""

        class Other:
            """Has other parameters."""

            def draw(self, a: int, b: int, d: int) -> NDArray[np.float32]:
                """Something else."""
        '''
    )
    assert without_args(package) == ["made_up:29 Other.draw: Args: leaves out a, b, d"]
    assert without_shape(package) == ["made_up:29 Other.draw: no shape and no dtype of its array"]


def test_a_field_left_out_is_found() -> None:
    package = module(
        '''
        @dataclass(frozen=True)
        class Three:
            """Three.

            Attributes:
                a: a number.
                b: another.
            """

            a: int
            b: int
            c: int
            _d: int
            e: ClassVar[int]

        @dataclass
        class Two:
            """Two."""

            a: int
            b: int
        '''
    )
    assert without_attributes(package) == ["made_up:5 Three: Attributes: leaves out c"]


def test_an_array_without_shape_or_dtype_is_found() -> None:
    package = module(
        '''
        def good() -> tuple[NDArray[np.float32], int]:
            """Pixels float32 [n, 3], and a number."""

        def scalar() -> "torch.Tensor":
            """A sum.

            Returns:
                float32 [].
            """

        def elsewhere(a: int) -> dict[str, torch.Tensor]:
            """Tensors.

            Args:
                a: float32 [n].
            """

        def shapeless() -> Sequence[np.ndarray]:
            """Parts, int8."""

        def maker() -> Callable[[int], torch.Tensor]:
            """Makes tensors."""

        def typeless() -> torch.Tensor | None:
            """Features [n]; None for none."""
        '''
    )
    assert without_shape(package) == [
        "made_up:14 elsewhere: no shape and no dtype of its array",
        "made_up:21 shapeless: no shape of its array",
        "made_up:27 typeless: no dtype of its array",
    ]


def test_an_error_that_is_not_named_is_found() -> None:
    package = module(
        '''
        class LowError(UpError): ...

        def silent() -> None:
            """Does something."""
            if True:
                raise LowError("no")

        def vague() -> None:
            """Raises an EdgeqError."""
            raise LowError("no")

        def plain() -> None:
            """Raises LowError."""
            raise LowError("no")

        def kind() -> None:
            """Does something.

            Raises:
                UpError: of a kind.
            """
            raise LowError("no")

        def within() -> None:
            """Does something."""

            def inner() -> None:
                raise LowError("no")

            raise ValueError("of Python")

        @dataclass
        class Thing:
            """Checks itself."""

            def __post_init__(self) -> None:
                raise UpError("no")
        '''
    )
    assert without_raises(package) == [
        "made_up:6 silent: does not say that it raises LowError",
        "made_up:11 vague: does not say that it raises LowError",
        "made_up:39 Thing.__post_init__: does not say that it raises UpError",
    ]
