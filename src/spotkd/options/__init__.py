"""Options: what a user may set, as typed dataclasses that are never changed after parsing.

Beside each field stand its bounds and what it affects (:mod:`.fields`); :mod:`.values` makes the checks and comparisons
from them. Nothing here imports anything heavy, so that ``spotkd --help`` answers at once.
"""

from .cache import CacheOptions
from .cluster import ClusterOptions, EngineName
from .commands import (
    BenchOptions,
    DemoOptions,
    EvaluateOptions,
    ExportOptions,
    InspectOptions,
    PredictOptions,
    ProfileOptions,
    ReportOptions,
    SearchOptions,
    SplitName,
    TrialOptions,
)
from .parsing import check_filled, check_options_file, make_parser, parser_for, read_options
from .run import (
    DataOptions,
    DistillOptions,
    ModelOptions,
    OptimOptions,
    PolicyOptions,
    Precision,
    PreparationOptions,
    RunOptions,
    Select,
    TrainOptions,
)
from .values import (
    changes_of_run,
    check_values,
    deviations,
    flatten,
    from_values,
    learning_rate,
    milestones,
    options_of_test_images,
    result_differences,
    result_options,
    with_values,
)

__all__ = [
    "BenchOptions",
    "CacheOptions",
    "ClusterOptions",
    "DataOptions",
    "DemoOptions",
    "DistillOptions",
    "EngineName",
    "EvaluateOptions",
    "ExportOptions",
    "InspectOptions",
    "ModelOptions",
    "OptimOptions",
    "PolicyOptions",
    "Precision",
    "PredictOptions",
    "PreparationOptions",
    "ProfileOptions",
    "ReportOptions",
    "RunOptions",
    "SearchOptions",
    "Select",
    "SplitName",
    "TrainOptions",
    "TrialOptions",
    "changes_of_run",
    "check_filled",
    "check_options_file",
    "check_values",
    "deviations",
    "flatten",
    "from_values",
    "learning_rate",
    "make_parser",
    "milestones",
    "options_of_test_images",
    "parser_for",
    "read_options",
    "result_differences",
    "result_options",
    "with_values",
]
