"""The report: one JSON file with a schema number, from which everything else is rendered."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from oodattack.diagnose import Verdict

Schema = Literal[1]  # raised when a field changes its meaning or goes
Direction = Literal["hide", "raise", "both", "match", "quantile", "cross", "misclassify"]
Key = tuple[str, str, str]  # detector@network, threat, OOD set; see `Named`
Share = Annotated[float, Field(ge=0, le=1)]


def whole_box_by_name(fields: dict[str, Any]) -> bool:
    """`whole_box` of a record older than that field: then the shipped threats alone were such, known by their names."""
    return fields.get("threat") in ("sanity-full-box", "sanity-full-box-both")


def in_words(key: Key) -> str:
    """A key as people read it, such as "energy@ce, linf-8-255 on svhn"."""
    name, threat, ood = key
    return f"{name}, {threat} on {ood}"


class Record(BaseModel):
    """Immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Metrics(Record):
    """Numbers from the scores of two sets. Positive class: OOD. Intervals: 95 %, stratified bootstrap."""

    auroc: Share
    auroc_low: Share
    auroc_high: Share
    fpr_at_95_id_tpr: Share = Field(description="share of OOD accepted where 95 % of ID are accepted")
    fpr_at_95_id_tpr_low: Share
    fpr_at_95_id_tpr_high: Share
    fpr_at_95_ood_tpr: Share = Field(description="share of ID flagged where 95 % of OOD are flagged")
    fpr_at_95_ood_tpr_low: Share
    fpr_at_95_ood_tpr_high: Share
    aupr: Share
    n_id: int
    n_ood: int
    ties: Share = Field(description="share of ID-OOD pairs with equal scores; they count half in AUROC")


class Deployed(Record):
    """What happens at the threshold that was set on clean ID scores for 95 % ID TPR."""

    threshold: float
    id_tpr: Share = Field(description="share of (attacked) ID inputs still accepted")
    fpr: Share = Field(description="share of (attacked) OOD inputs accepted")


class Mape(Record):
    """Distance left to the target over rows: mean |z - z_in| / max |z_in|, as a fraction."""

    median: float
    p90: float
    max: float


class Crossing(Record):
    """Smallest perturbation found, per OOD row, that the threshold for 95 % ID TPR accepts; in the threat's norm.

    Rows on which none was found count as infinite; a percentile that falls on them is null.
    """

    threshold: float
    share: Share = Field(description="share of rows on which one was found")
    p10: float | None
    median: float | None
    p90: float | None


class Radius(Record):
    """Radii of the OOD rows that the clean threshold for 95 % ID TPR detects: within, no input is accepted. Certified.

    Bisected within the threat's own radius, from below: larger ones count as that.
    """

    rows: int
    p10: float
    median: float
    p90: float


class Certified(Record):
    """What no attack within the threat model can beat, from bounds of all scores."""

    auroc: Share = Field(description="at least this")
    fpr_at_95_id_tpr: Share = Field(description="at most this")
    fpr_at_95_ood_tpr: Share = Field(description="at most this")
    fpr_deployed: Share = Field(description="at most this share of OOD inputs passes the clean threshold")
    undecided: Share = Field(description="ID-OOD pairs neither certified in order nor shown out of it by the attack")
    radius: Radius | None = Field(description="null where OOD inputs are not attacked, or none was detected")
    seconds: float


class Named(Record):
    """A part of the report about one detector, threat and OOD set, which tell it from all others of its kind."""

    detector: str
    network: str
    threat: str
    ood: str

    @property
    def name(self) -> str:
        """detector@network, or the detector alone."""
        return f"{self.detector}@{self.network}" if self.network else self.detector

    @property
    def key(self) -> Key:
        """What tells it from all others of its kind."""
        return self.name, self.threat, self.ood

    @property
    def where(self) -> str:
        """The same in words."""
        return in_words(self.key)

    @property
    def sweep(self) -> str:
        """Name of the sweep whose threat models are called SWEEP@EPS, or none."""
        return self.threat.rpartition("@")[0]


class Curve(Named):
    """AUROC left against the queries spent, or against the radius."""

    against: Literal["queries", "eps"]
    points: list[tuple[float, Share]]
    exact: bool = Field(description="false: AUROC of the surrogate that was searched on, not of the detector")
    eps50: float | None = Field(description="radius that leaves AUROC 0.5, interpolated; null where none does")
    certified: list[tuple[float, Share]] | None = Field(
        default=None, description="certified AUROC against the radius, where it was asked for and there is one"
    )


class Result(Named):
    """One detector x threat x OOD set."""

    direction: Direction
    whole_box: bool = Field(
        default_factory=whole_box_by_name,
        description="the attacker may use the whole box, and every detector must fall to that",
    )
    attack: str = Field(description="the search, in words")
    surrogate: str | None = Field(description="what was differentiated in place of the score, if anything")
    shared_with: list[str] = Field(description="detectors for which this search was done once")
    clean: Metrics
    attacked: Metrics
    attacked_8bit: Metrics = Field(description="the same images rounded to 8 bits")
    deployed: Deployed
    mape: Mape | None
    crossing: Crossing | None = None
    stopped: dict[str, Share] | None = Field(default=None, description="share of rows by why their search ended")
    distance: float = Field(description="largest perturbation, in input units of the threat's norm")
    queries: float = Field(description="calls of what the search differentiates, per attacked input, mean")
    non_finite_rows: int = Field(
        default=0, description="attacked inputs on which a score or gradient was not finite; they keep their best point"
    )
    seconds: float
    members: dict[str, float] | None = Field(
        description="AUROC left by each member of a suite; after its first turn, where they share queries"
    )
    indicators: dict[str, float | bool | str | None]
    verdict: Verdict
    reason: str
    certified_auroc: float | None = Field(default=None, description="no attack leaves less; see `certified`")
    certified: Certified | None = None
    uncertified: str | None = Field(default=None, description="why there are no bounds, where they were asked for")


class Skipped(Named):
    """A cell that was not run, and why."""

    reason: str


class Source(Record):
    """A data set as it was used."""

    name: str
    n: int
    sha256: str
    source: str


class Overlap(Record):
    """Images that are in two sets, at 8 bits."""

    first: str = Field(description="id, targets or an OOD set")
    second: str = Field(description="another of these, or what networks or detectors have learnt from")
    images: int


class Spec(Record):
    """Everything needed to repeat the run."""

    command: str | None
    seed: int
    samples: int | None
    batch_size: int
    precision: str
    device: str
    id: Source
    targets: Source | None
    ood: list[Source]
    starts: list[Source] = Field(default_factory=list, description="start images of threats with their own")
    detectors: list[str]
    networks: dict[str, str] = Field(description="network -> SHA-256 of its weights")
    fingerprints: dict[str, str | None] = Field(
        default_factory=dict,
        description="detector -> SHA-256 of its class, arguments and fitted tensors; null for user code",
    )
    id_accuracy: dict[str, float] = Field(description="network -> accuracy on held-out ID images, where known")
    threats: dict[str, str] = Field(description="threat -> SHA-256 of its fields")
    overlaps: list[Overlap] = Field(default_factory=list, description="pairs of sets that share images; none is good")


class Report(Record):
    """Clean numbers beside numbers under attack."""

    schema_: Schema = Field(alias="schema")
    created: str
    spec: Spec
    versions: dict[str, str]
    results: list[Result]
    skipped: list[Skipped]
    curves: list[Curve] = Field(default_factory=list)

    @property
    def swept(self) -> set[str]:
        """Names of the sweeps that have a curve against eps."""
        return {curve.threat for curve in self.curves if curve.against == "eps"}

    def table(self) -> None:
        """Print the table to the terminal."""
        from oodattack.report.console import show

        show(self)

    def json_text(self) -> str:
        """The report as JSON text, one trailing newline."""
        return self.model_dump_json(indent=1, by_alias=True) + "\n"

    def save(self, path: str | Path) -> None:
        """Write report.json; under a name that ends in .html the page: tables, verdicts and curves of the report; in
        .csv a line for each result; in .tex a table for each OOD set, which needs booktabs.

        It is written to a temporary name first, so that a reader never sees half a file. The page of a run directory
        has more: histograms of scores and contact sheets, from images and scores that a report alone does not have.

        Raises:
            ValueError: the file cannot be written, or its name promises another format.
        """
        from oodattack.report.file import write

        write(self, Path(path))
