"""What the page shows of one run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..analysis import Inspection
from .charts import HeatMap, LineChart
from .gallery import Gallery
from .run_record import RunRecord


@dataclass
class Section:
    """What the page shows of one run.

    Attributes:
        run: what its files hold.
        items: the summary: a term and what there is to say.
        charts, heat_maps: its figures.
        inspection: where its policy sends samples; None where nothing learns, or for lack of files.
        classes: classes by mean P(teacher), in blocks of rows: name, and a value for each spot.
        galleries: the samples with the highest and the lowest P(teacher).
        remarks: what could not be shown, and why.
    """

    run: RunRecord
    items: list[tuple[str, str]] = field(default_factory=list)
    charts: list[LineChart] = field(default_factory=list)
    heat_maps: list[HeatMap] = field(default_factory=list)
    inspection: Inspection | None = None
    classes: list[list[tuple[str, list[float]]]] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
