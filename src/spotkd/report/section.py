"""What the page shows of one run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..analysis import Inspection
from ..escaping import escape_shell
from ..formatting import join_words
from .charts import HeatMap, LineChart
from .gallery import Gallery, Sample
from .run_record import RunRecord

_ALL = 0.99  # share of an epoch's samples from which a policy decides nothing


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
        patterns: in words, for which samples the policy uses the teacher.
        samples: what is known of the galleries' samples, by their place in the split.
        learns: whether a policy decides where it distils; None where that is not known.
        step_milliseconds: mean time of a training step; None where it is not known.
        guesses: whether its network does no better on the test images than guessing.
        teacher_guesses: whether its teacher does no better on the images of the inspection.
        remarks: what could not be shown, and why.
    """

    run: RunRecord
    items: list[tuple[str, str]] = field(default_factory=list)
    charts: list[LineChart] = field(default_factory=list)
    heat_maps: list[HeatMap] = field(default_factory=list)
    inspection: Inspection | None = None
    classes: list[list[tuple[str, list[float]]]] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    learns: bool | None = None
    step_milliseconds: float | None = None
    guesses: bool = False
    teacher_guesses: bool = False
    remarks: list[str] = field(default_factory=list)

    @property
    def inspect_command(self) -> str:
        """The command that writes the table of every image of the split."""
        split = "train" if self.inspection is None else self.inspection.split
        return escape_shell(["spotkd", "inspect", str(self.run.folder), "--split", split])

    @property
    def ordinary(self) -> str | None:
        """That a policy decides nothing, in words; None where it decides, or where there is none."""
        shares = self.run.shares
        if not self.learns or not shares:
            return None
        every = [spot for spot, share in shares.items() if share >= _ALL]
        none = [spot for spot, share in shares.items() if share <= 1 - _ALL]
        if len(every) == len(shares):
            return "This run is ordinary distillation: in the last epoch its policy distils every sample at every spot."
        if len(none) == len(shares):
            return "This run is no distillation: in the last epoch its policy distils no sample at any spot."
        if len(every) + len(none) == len(shares):
            return (
                f"This run is ordinary distillation at {join_words(every)}: in the last epoch its policy distils every "
                f"sample there and none at {join_words(none)}."
            )
        return None
