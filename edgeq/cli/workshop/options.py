"""Options that several verbs of the workshop have."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from click.core import ParameterSource

from edgeq.calibrate.choices import AUTO, CALIBRATION_IMAGES, SEARCH
from edgeq.calibrate.thresholds import METHODS
from edgeq.cli.flags import PATH
from edgeq.device import PROFILES, THIS_MACHINE
from edgeq.engine.registry import BACKENDS, DEFAULT
from edgeq.errors import PlanError
from edgeq.model.heads.detector import HEAD_KINDS
from edgeq.plan.guards import check_allowed
from edgeq.plan.precision import CHANNEL_EQUALIZATIONS, PrecisionPlan, Scope, WeightRounding
from edgeq.plan.rule_file import load_rules
from edgeq.quality.gate import MAX_CLASS_SPREAD, MAX_DROP, MAX_FEATURE_SPREAD, MIN_SPEEDUP, GateBounds
from edgeq.quality.tasks.registry import IMAGE_TASKS, task_names
from edgeq.quantize.search.bounds import MAX_SHARE, SearchBounds

if TYPE_CHECKING:
    from edgeq.pipeline.stages import Options

__all__ = [
    "DEVICES",
    "allowances",
    "backend_option",
    "calibration_options",
    "cap_options",
    "correction_options",
    "eval_option",
    "fold_options",
    "gate_bounds",
    "gate_options",
    "guard_options",
    "images_option",
    "outputs_option",
    "plan_choices",
    "plan_file_option",
    "plan_options",
    "search_bounds",
    "search_options",
    "task_option",
    "track_option",
]

F = TypeVar("F", bound=Callable[..., Any])

DEVICES = f"One of {', '.join([*PROFILES, THIS_MACHINE])}."
"""What --device takes, for its help."""

MAX_DROP_HELP = (
    "Points of top-1 (or of the task's own figure) that may be lost: keep layers in floating point until no more is. "
    "Searched on half of --eval, judged by the other."
)

images_option = click.option(
    "--images",
    type=PATH,
    required=True,
    help="Calibration images: a folder, zip, .npy, .npz, parquet or tar.",
)


def eval_option(*, required: bool) -> Callable[[F], F]:
    """--eval LABELLED."""
    text = "Labelled images: a folder or zip with one folder for each class."
    return click.option("--eval", "labelled", type=PATH, required=required, help=text)


outputs_option = click.option(
    "--output-name",
    "outputs",
    multiple=True,
    metavar="NAME",
    help="The graph's output that is the answer, where labels do not tell; repeatable, the first one is judged.",
)


def _chain(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


track_option = click.option(
    "--track",
    multiple=True,
    metavar="mlflow[:URI]|tensorboard[:DIR]",
    help="Give the figures to an experiment tracker, or to both.  [default: of URI MLFLOW_TRACKING_URI, of DIR runs]",
)

task_option = _chain(
    click.option(
        "--task",
        type=click.Choice(task_names()),
        help="What the network is for, where it does not say it itself: "
        + "; ".join(f"{task.name}: {task.what}" for task in IMAGE_TASKS)
        + ".",
    ),
    click.option(
        "--detector-head",
        type=click.Choice(HEAD_KINDS),
        help="How a detector's outputs are read, where they do not tell it themselves.",
    ),
)


def _channel_equalization(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if re.match(CHANNEL_EQUALIZATIONS, value) is None:
        raise click.BadParameter(
            f"{value}: expected none, cle, repq, smooth, repq-smooth, smooth:0.5 (or another) or auto"
        )
    return value


cap_options = _chain(
    click.option(
        "--max-pixels",
        type=click.IntRange(1),
        help="Vision-language: bound an image's pixels, where the family keeps an image's own size.",
    ),
    click.option(
        "--max-tiles",
        type=click.IntRange(1),
        help="Vision-language: bound the tiles that an image is cut into, where the family does that.",
    ),
)

calibration_options = _chain(
    click.option(
        "--calibration-images",
        type=click.IntRange(1),
        default=CALIBRATION_IMAGES,
        show_default=True,
        help="Use at most so many.",
    ),
    click.option(
        "--method",
        type=click.Choice([AUTO, SEARCH, *METHODS]),
        default=AUTO,
        show_default=True,
        help="How a histogram becomes a range; auto tries all on images held back, search then looks for each tensor's "
        "own range, which takes a transformer some minutes.",
    ),
)

correction_options = _chain(
    click.option(
        "--weight-rounding",
        type=click.Choice(get_args(WeightRounding)),
        default="auto",
        show_default=True,
        help="How INT8 weights are rounded: nearest, or adaround, by what the layer answers; auto tries it with "
        "--method search, or where INT8 is far from FP32.",
    ),
    click.option(
        "--bias-correction/--no-bias-correction",
        default=None,
        help="Let biases take back what quantization shifts on average; without the flag, as --weight-rounding auto.",
    ),
)

backend_option = click.option(
    "--backend",
    type=click.Choice([each.name for each in BACKENDS if not each.built]),
    default=DEFAULT.name,
    show_default=True,
    help="What runs the INT8 network while it is judged; its graph is made beside those that every bundle has.",
)

plan_options = _chain(
    click.option("--rules", "rules_file", type=PATH, help="Rules of your own, asked before the built-in ones (YAML)."),
    click.option(
        "--weights",
        type=click.Choice(["per-channel", "per-tensor"]),
        default="per-channel",
        show_default=True,
        help="Granularity of the weight scales; per-tensor is for comparison only.",
    ),
    click.option(
        "--add-scales",
        type=click.Choice([AUTO, "shared", "separate", "float"]),
        default=AUTO,
        show_default=True,
        help="Scales of the two inputs of a residual addition; auto tries both where --method auto does, else shares. "
        "float leaves additions in floating point, which costs speed; --method search tries that with auto.",
    ),
    click.option(
        "--transformer",
        type=click.Choice(get_args(Scope)),
        default="linears",
        show_default=True,
        help="Of a transformer, in INT8: feed-forward layers; those, value and output; or all linear layers.",
    ),
)

plan_file_option = click.option(
    "--plan",
    "plan_file",
    type=PATH,
    help="A plan of `edgeq plan -o`, in the place of the built-in rules and --weights.",
)

fold_options = _chain(
    click.option("--fold/--no-fold", default=True, help="Fold BatchNorm; --no-fold is for comparison only."),
    click.option("--keep-batchnorm", multiple=True, metavar="NODE", help="Leave this BatchNorm in FP32; repeatable."),
    click.option("--strict", is_flag=True, help="A BatchNorm that cannot be folded is an error."),
    click.option(
        "--channel-equalization",
        default=AUTO,
        show_default=True,
        metavar="WAY",
        callback=_channel_equalization,
        help="Bring channels to like ranges: none, cle (cross-layer equalization, between convolutions), repq, smooth, "
        "smooth:STRENGTH, repq-smooth (before linear layers) or auto, which tries what fits the network.",
    ),
)


search_options = _chain(
    click.option("--max-drop", type=click.FloatRange(0.0), metavar="POINTS", help=MAX_DROP_HELP),
    click.option(
        "--max-float-share",
        type=click.FloatRange(0.0, 100.0),
        default=MAX_SHARE,
        show_default=True,
        metavar="PERCENT",
        help="With --max-drop, and for the text encoder of CLIP and SigLIP, where it is 50: so much of the weighted "
        "layers' bytes may stay in floating point; 0 keeps none.",
    ),
    click.option(
        "--min-speedup",
        type=click.FloatRange(0.0, min_open=True),
        metavar="TIMES",
        help="With --max-drop: so many times FP32's speed must be left at batch 1.",
    ),
)


gate_options = _chain(
    click.option(
        "--gate",
        type=click.Choice(("on", "off")),
        default="on",
        show_default=True,
        help="off keeps INT8 whatever it loses, for comparison, and says what speaks against it.",
    ),
    click.option(
        "--gate-speedup",
        type=click.FloatRange(0.0),
        default=MIN_SPEEDUP,
        show_default=True,
        metavar="TIMES",
        help="A transformer's INT8 graph must be more than so many times as fast as FP32, else floating point is kept.",
    ),
    click.option(
        "--gate-drop",
        type=click.FloatRange(0.0),
        default=MAX_DROP,
        show_default=True,
        metavar="POINTS",
        help="Points of top-1 (or of the task's own figure) that a network in INT8 may lose on --eval. A drop above it "
        "that may be the luck of few images is let through, with a warning.",
    ),
    click.option(
        "--gate-spread",
        type=click.FloatRange(0.0),
        metavar="SHARE",
        help="Without --eval: so large an error of the answers, against what tells images apart, is let through; "
        f"{MAX_CLASS_SPREAD:g} where the classes have names and {MAX_FEATURE_SPREAD:g} elsewhere.",
    ),
)


guard_options = _chain(
    click.option("--allow", "codes", multiple=True, metavar="CODE", help="Pass this guard, such as EQ107; repeatable."),
    click.option("--because", "reasons", multiple=True, metavar="TEXT", help="Why: one for each --allow, in order."),
)


def allowances(codes: Sequence[str], reasons: Sequence[str]) -> dict[str, str]:
    """The guards allowed by --allow and --because: code -> because.

    Raises:
        click.UsageError: an unknown code, one given twice, or not exactly one reason for each.
    """
    if len(codes) != len(reasons):
        raise click.UsageError(
            f"{len(codes)} --allow and {len(reasons)} --because: give a reason for each code, in order"
        )
    if len(set(codes)) < len(codes):
        raise click.UsageError("--allow names a code twice")
    allowed = dict(zip(codes, reasons, strict=True))
    try:
        check_allowed(allowed)
    except PlanError as error:
        raise click.UsageError(str(error)) from None
    return allowed


_SETTLED_BY_PLAN = (
    "rules_file",
    "weights",
    "add_scales",
    "transformer",
    "fold",
    "keep_batchnorm",
    "channel_equalization",
)


def plan_choices(
    *,
    add_scales: str,
    rules_file: Path | None,
    codes: Sequence[str],
    reasons: Sequence[str],
    plan_file: Path | None = None,
    **choices: Any,
) -> Options:
    """The main job's options from the flags of `plan_options`, `guard_options` and `plan_file_option`, and others.

    Args:
        add_scales: `auto`, `shared` or `separate`: scales of a residual addition's two inputs; `float` for none.
        rules_file: rules that come before edgeq's own; None for none.
        codes: guards that may be passed, from --allow.
        reasons: why, one for each of `codes`.
        plan_file: a plan to be used as it is; None to make one.
        choices: further fields of `Options`.

    Raises:
        click.UsageError: --plan is given together with what a plan settles, or an allowance is wrong.
        ArtifactError: a file is not what it should be.
    """

    from edgeq.pipeline.stages import Options

    if plan_file is not None:
        _check_alone(click.get_current_context())
    return Options(
        shared_add=None if add_scales == AUTO else add_scales == "shared",
        float_adds=None if add_scales == AUTO else add_scales == "float",
        rules=load_rules(rules_file) if rules_file else (),
        plan=PrecisionPlan.load(plan_file) if plan_file else None,
        allow=allowances(codes, reasons),
        **choices,
    )


def gate_bounds(gate: str, gate_speedup: float, gate_drop: float, gate_spread: float | None) -> GateBounds:
    """What the flags of `gate_options` demand.

    Args:
        gate: `on` or `off`.
        gate_speedup: times FP32's speed at batch 1, of a transformer.
        gate_drop: points of the task's figure that may be lost.
        gate_spread: error against what tells images apart; None takes the usual one.
    """
    return GateBounds(min_speedup=gate_speedup, max_drop=gate_drop, max_spread=gate_spread, enforced=gate == "on")


def search_bounds(max_drop: float | None, max_float_share: float, min_speedup: float | None) -> SearchBounds | None:
    """What the flags of `search_options` allow; None where no bound was given.

    Args:
        max_drop: points of the task's figure that may be lost; None for no search.
        max_float_share: percent of the weighted layers' bytes that may stay in floating point.
        min_speedup: times FP32's speed that must be left at batch 1; None for any.
    """
    if max_drop is None:
        return None
    return SearchBounds(max_drop, max_share=max_float_share, min_speedup=min_speedup)


def _check_alone(context: click.Context) -> None:
    for name in _SETTLED_BY_PLAN:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = next(option.opts[0] for option in context.command.params if option.name == name)
            raise click.UsageError(f"{flag} and --plan: the plan settles that; make another with edgeq plan")
