"""Old names of the options; deprecated."""
# ruff: noqa: F401

from .options import *  # noqa: F403
from .options import (
    BenchOptions as BenchConfig,
)
from .options import (
    DataOptions as DataConfig,
)
from .options import (
    DemoOptions as DemoConfig,
)
from .options import (
    DistillOptions as DistillConfig,
)
from .options import (
    EvaluateOptions as EvaluateConfig,
)
from .options import (
    ExportOptions as ExportConfig,
)
from .options import (
    InspectOptions as InspectConfig,
)
from .options import (
    ModelOptions as ModelConfig,
)
from .options import (
    OptimOptions as OptimConfig,
)
from .options import (
    PolicyOptions as PolicyConfig,
)
from .options import (
    Precision,
    Select,
    SplitName,
    check_filled,
    make_parser,
    parser_for,
)
from .options import (
    PredictOptions as PredictConfig,
)
from .options import (
    PreparationOptions as PreparationConfig,
)
from .options import (
    ProfileOptions as ProfileConfig,
)
from .options import (
    ReportOptions as ReportConfig,
)
from .options import (
    RunOptions as RunConfig,
)
from .options import (
    TrainOptions as TrainConfig,
)
from .options import (
    flatten as flattened,
)
from .options import (
    read_options as read_config,
)
from .untrusted.yaml_files import check_yaml, read_yaml
from .untrusted.yaml_files import check_yaml_file as check_file


def data_spec(config):
    from .training.build import data_spec as made

    return made(config)
