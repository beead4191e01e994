"""Published toys, as data: their configurations and the numbers that were published about them."""

from headway.options import nearest
from headway.reproductions.numbers import FirstStep, ScoreAt, TrainingLoss
from headway.reproductions.reproduction import Published, Reproduction

_WARM_UP = "the published warm-up probably exceeded its learning rate, so ours must be later"
_ONE_BATCH = "the published values are of single batches"

REPRODUCTIONS: dict[str, Reproduction] = {
    "previous-token": Reproduction(
        recipe="previous-token",
        options={},
        source="TransformerLens, No Position Experiment",
        published=(
            Published(TrainingLoss(0, width=0), 6.00, within=0.1),
            Published(TrainingLoss(400), 4.11, note=_WARM_UP),
            Published(TrainingLoss(700), 0.65, note=_WARM_UP),
            Published(TrainingLoss(1000), 0.077, note=_WARM_UP),
            Published(TrainingLoss(3000), 0.0078, note=_WARM_UP),
            Published(TrainingLoss(3900), 0.0032, within=0.002),
            Published(ScoreAt("loss"), 0.1, "below"),
        ),
        minutes=14,
        seeds=3,
    ),
    "affine-recurrence": Reproduction(
        recipe="affine-recurrence",
        options={"schedule.at": [500, 1000, 2500]},
        source="Bhargav & Gu, arXiv 2410.17438",
        published=(
            Published(TrainingLoss(0, width=0), 0.196, within=0.03, note=_ONE_BATCH),
            Published(ScoreAt("loss_determined", at=500), 0.0069, within=0.0015, note=_ONE_BATCH),
            Published(ScoreAt("loss_determined", at=1000), 0.0048, within=0.001, note=_ONE_BATCH),
            Published(ScoreAt("loss_determined", at=2500), 0.0018, within=0.0005, note=_ONE_BATCH),
            Published(ScoreAt("loss_determined"), 0.00054, within=0.0002, note=_ONE_BATCH),
        ),
        minutes=15,
        seeds=3,
        note="The published losses are compared with ours where the answer is determined: others are higher.",
    ),
    "induction": Reproduction(
        recipe="induction",
        options={
            "task.length": 32,
            "task.late_start": 0.0,
            "task.only_repeats": True,
            "schedule.at": list(range(200, 825, 25)),
        },
        source="an open specification of induction without a shortcut",
        published=(
            Published(FirstStep("accuracy_repeats", above=0.99), 500, "below"),
            Published(ScoreAt("accuracy_repeats", at=500), 0.99, "above"),
            Published(ScoreAt("previous_token", at=500, layer=0), 0.73, note="published: .73 and .72, one seed each"),
        ),
        minutes=0.6,
        seeds=10,
    ),
}


def find_reproduction(name: str) -> Reproduction:
    """Return the reproduction of this name.

    Raises:
        ValueError: a name that is none.
    """
    if name not in REPRODUCTIONS:
        names = ", ".join(REPRODUCTIONS)
        raise ValueError(f"reproduction: {name!r} is not one of {names}{nearest(name, REPRODUCTIONS)}")
    return REPRODUCTIONS[name]
