"""Published toys, as data: their configurations and the numbers that were published about them."""

from headway.options import nearest
from headway.reproductions.numbers import (
    FirstStep,
    ForGood,
    FreshBatches,
    FreshBetween,
    FreshErrors,
    FreshScore,
    LossAbove,
    LossBetween,
    Score,
    ScoreAt,
    ShareNear,
    TrainingLoss,
)
from headway.reproductions.reproduction import Published, Reproduction

_WARM_UP = "the published warm-up probably exceeded its learning rate, so ours must be later"
_ONE_BATCH = "the published values are of single batches"
_EDELMAN = "Edelman et al. 2024, arXiv 2402.11004, and its code"
_GOES_ON = "The published training has 2,000 updates; the learning rate is constant, so that ours only goes on."
_NO_DROPOUT = {"model.embd_pdrop": 0.0, "model.attn_pdrop": 0.0, "model.resid_pdrop": 0.0}
_HALF_WAY = Published(
    ForGood(LossBetween("bigram", "unigram"), below=0.5),
    2000,
    "below",
    goal=True,
    note="half-way from unigram counts",
)
_PLATEAU = Published(
    ShareNear(LossAbove("unigram"), 0.0, within=0.01, before=2000),
    0.1,
    "above",
    goal=True,
    note="a plateau at unigram counts",
)


def _at_bigram_counts(updates: int) -> Published:
    number = ForGood(LossAbove("bigram"), below=0.01)
    return Published(number, updates, "below", goal=True, note="bigram counts, in as many updates as it takes")


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
            Published(ScoreAt(Score("loss")), 0.1, "below", goal=True),
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
            *(
                Published(FreshBatches("determined", at, batches=200), loss, within=within, note=_ONE_BATCH)
                for at, loss, within in (
                    (500, 0.0069, 0.0015),
                    (1000, 0.0048, 0.001),
                    (2500, 0.0018, 0.0005),
                    (None, 0.00054, 0.0002),
                )
            ),
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
            "schedule.at": [*range(100, 200, 5), *range(200, 825, 25)],
        },
        source="an open specification of induction without a shortcut",
        published=(
            Published(FirstStep(Score("accuracy_repeats"), above=0.99), 500, "below"),
            Published(ScoreAt(Score("accuracy_repeats"), at=500), 0.99, "above"),
            Published(
                ScoreAt(Score("previous_token", layer=0), at=500), 0.73, note="published: .73 and .72, one seed each"
            ),
        ),
        minutes=0.6,
        seeds=10,
    ),
    "markov-chains-2": Reproduction(
        recipe="markov-chains",
        options={"task.n_states": 2, "steps": 3000, "schedule.linear": 60},
        source=_EDELMAN,
        published=(
            *(
                Published(TrainingLoss(at, width=0), loss, within=0.02, note=_ONE_BATCH)
                for at, loss in ((0, 0.718), (400, 0.581), (800, 0.541), (1200, 0.574), (1600, 0.530))
            ),
            _PLATEAU,
            _HALF_WAY,
            _at_bigram_counts(3000),
        ),
        minutes=4,
        seeds=10,
        note=_GOES_ON,
    ),
    "markov-chains-2-floor": Reproduction(
        recipe="markov-chains",
        options={"task.n_states": 2, "steps": 3000, "schedule.linear": 60, **_NO_DROPOUT},
        source=f"{_EDELMAN}, without dropout",
        published=(
            _PLATEAU,
            _HALF_WAY,
            _at_bigram_counts(3000),
        ),
        minutes=2,
        seeds=10,
    ),
    "markov-chains-3": Reproduction(
        recipe="markov-chains",
        options={"task.n_states": 3, "steps": 12_000, "schedule.linear": 60},
        source=_EDELMAN,
        published=(
            Published(TrainingLoss(0, width=0), 1.0986, within=0.1, note="a uniform guess"),
            _PLATEAU,
            _HALF_WAY,
            _at_bigram_counts(12_000),
        ),
        minutes=14,
        seeds=5,
        note=_GOES_ON,
    ),
    "markov-chains-3-floor": Reproduction(
        recipe="markov-chains",
        options={"task.n_states": 3, "steps": 12_000, "schedule.linear": 60, **_NO_DROPOUT},
        source=f"{_EDELMAN}, without dropout",
        published=(
            _PLATEAU,
            _HALF_WAY,
            _at_bigram_counts(12_000),
        ),
        minutes=6,
        seeds=5,
    ),
    "maximum": Reproduction(
        recipe="maximum",
        options={"schedule.log": 6, "schedule.linear": 2},
        source="Gross et al. 2024 (NeurIPS), maximum of four tokens",
        published=(
            Published(
                FreshScore("accuracy", sequences=65_536),
                0.998,
                "above",
                goal=True,
                note="published: near .999 in each of 151 seeds",
            ),
        ),
        minutes=0.5,
        seeds=151,
    ),
    "modular-addition-53": Reproduction(
        recipe="modular-addition",
        options={"steps": 4000, "schedule.at": [*range(60, 130, 5), *range(500, 4000, 100)]},
        source="replications of Nanda et al. 2023, arXiv 2301.05217, with p = 53 and half of the pairs",
        published=(
            Published(
                FirstStep(Score("training_accuracy"), above=0.99),
                93,
                within=5,
                note="checkpoints every 5 updates there",
            ),
            Published(FirstStep(Score("accuracy"), above=0.9), 1637, within=100),
            Published(ScoreAt(Score("accuracy")), 0.99, "above", goal=True),
        ),
        minutes=9,
        seeds=10,
    ),
    "modular-addition-113": Reproduction(
        recipe="modular-addition",
        options={
            "task.p": 113,
            "task.held_out": 0.7,
            "model.d_vocab": 114,
            "model.d_vocab_out": 113,
            "batch_size": 3831,
            "eval_batch_size": 8938,
            "steps": 15_000,
            "schedule.at": [*range(60, 200, 5), *range(2000, 15_000, 250)],
        },
        source="replications of Nanda et al. 2023, arXiv 2301.05217, with p = 113 and 30 % of the pairs",
        published=(
            Published(
                FirstStep(Score("training_accuracy"), above=0.99), 136, within=5, note="checkpoints every 5 updates"
            ),
            Published(
                FirstStep(Score("accuracy"), above=0.9),
                10_017,
                within=250,
                note="checkpoints every 250 updates there; others report 5,000 to 5,760",
            ),
            Published(ScoreAt(Score("accuracy")), 0.99, "above", goal=True),
        ),
        minutes=90,
        seeds=3,
    ),
    "brackets": Reproduction(
        recipe="brackets",
        options={"steps": 20_000},
        source="the balanced-bracket classifier of the ARENA course",
        published=(
            Published(FreshErrors(sequences=5000), 1, "below", note="published: none, of 5,000 strings trained on"),
            Published(FreshErrors(sequences=16_384), 1, "below", goal=True),
            Published(FreshScore("loss", sequences=16_384), 1e-3, "below", goal=True, note="published: about 1e-4"),
        ),
        minutes=40,
        seeds=5,
    ),
    "linear-regression": Reproduction(
        recipe="linear-regression",
        options={"task.n_tasks": 16},
        source="Raventós et al. 2023, arXiv 2306.15063; sizes of Hoogland et al. 2024",
        published=(
            Published(FreshBetween("pool", "ridge", sequences=8192), 0.0, "above"),
            Published(FreshBetween("pool", "ridge", sequences=8192), 1.0, "below"),
        ),
        minutes=20,
        seeds=5,
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
