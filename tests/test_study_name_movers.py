"""The study of name movers: each claim on networks where it must hold and where it must fail, and the whole of it."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from claim_cases import Cases, Premises, check_all_are_tested, check_all_premises_are_tested, check_case, check_premise
from language_models import saved_gpt2
from networks import with_random_biases
from test_command import refused
from toy_studies import untrained_run
from toys import TOKENS

from headway.analyze.measures.attribution import unembedding
from headway.analyze.network.forward import forward_pass, shared_forward_pass
from headway.analyze.studies import find_study
from headway.analyze.studies.name_movers.claims import claims
from headway.analyze.studies.name_movers.components import split_score
from headway.analyze.studies.name_movers.fixed import fixed, key_vectors, query_vectors
from headway.analyze.studies.name_movers.options import Place
from headway.analyze.studies.name_movers.sentences import (
    Chosen,
    Sentences,
    attention_from_end,
    choose,
    io_minus_s,
    logits_at_end,
)
from headway.analyze.studies.result import Claims, StudyResult
from headway.analyze.studies.runner import run_study
from headway.analyze.studying import study
from headway.data.indirect_object import NAMES, OBJECTS, PLACES, TEMPLATES, IndirectObject, join_words, split_words
from headway.models import handmade
from headway.models.config import Head, ModelConfig
from headway.models.convert import Model, load_bridge
from headway.models.hooked_transformer import HookedTransformer

V = handmade.SENTENCES.d_vocab
TOKEN, AGAIN, NOT, SAID = (slice(i * V, (i + 1) * V) for i in range(4))
# A network, the head to explain (the one that the study chooses if None), and the position that it attends to.
Case = tuple[HookedTransformer, Head | None, Place]


@lru_cache
def sentences() -> Sentences:
    batch = handmade.name_movers()[1]
    return Sentences(batch, handmade.SENTENCES.corrupted(batch), handmade.SENTENCES.name_tokens)


@lru_cache
def made_by_hand() -> HookedTransformer:
    return handmade.name_movers()[0]


def copied() -> HookedTransformer:
    return deepcopy(made_by_hand())


def plain() -> Case:
    return made_by_hand(), None, "io"


@torch.no_grad()
def nothing() -> Case:
    model = copied()
    for block in model.blocks:
        for parameter in block.attn.parameters():
            parameter.zero_()
    return model, None, "io"


@torch.no_grad()
def by_suppression() -> Case:
    """The name mover says next to nothing: a head that takes S away does the rest."""
    model = copied()
    attention = model.blocks[2].attn
    attention.W_O[0] *= 0.1
    attention.b_Q[1, -1] = attention.W_K[1, AGAIN, -1] = 23.0
    attention.W_V[1, AGAIN, :V] = torch.eye(V)
    attention.W_O[1, :V, SAID] = -torch.eye(V)
    return model, None, "io"


@torch.no_grad()
def says_other_words_too() -> Case:
    """Whatever name the name mover looks at, it says six other words louder."""
    model = copied()
    model.blocks[2].attn.W_O[0, :V, SAID.stop - 6 : SAID.stop] = 2.0
    return model, None, "io"


@torch.no_grad()
def without_a_negative_head() -> Case:
    model = copied()
    model.blocks[3].attn.W_O.zero_()
    return model, None, "io"


@torch.no_grad()
def weakly_unembedded() -> Case:
    """What the name mover writes is much larger than the direction that raises the logit."""
    model = copied()
    model.W_U.mul_(0.01)
    model.blocks[2].attn.W_O.mul_(5)
    model.blocks[3].attn.W_O.mul_(5)
    return model, None, "io"


@torch.no_grad()
def looks_by_itself() -> Case:
    """The negative head looks for names that are not S, as the name mover does, and reads nothing of that one's."""
    model = copied()
    for name in ("W_Q", "b_Q", "W_K"):
        getattr(model.blocks[3].attn, name).copy_(getattr(model.blocks[2].attn, name))
    return model, None, "io"


@torch.no_grad()
def outweighed() -> Case:
    """The negative head subtracts more than the name mover adds, so that no head moves the name."""
    model = copied()
    model.blocks[3].attn.W_O.mul_(9)
    return model, None, "io"


def of(head: Head, place: Place = "io") -> Callable[[], Case]:
    return lambda: (made_by_hand(), head, place)


CLAIMS: Cases = [
    ("predicts the name that occurs once", plain, nothing),
    ("attends from the end of the sentence", plain, nothing),
    ("Name movers write", plain, by_suppression),
    ("They copy names", plain, says_other_words_too),
    ("is a negative name mover", plain, without_a_negative_head),
    ("suppresses names", plain, without_a_negative_head),
    ("L3H0 attends to IO", plain, of(Head(1, 0))),
    ("The unembedding of IO", plain, weakly_unembedded),
    ("unembedding of other tokens", plain, of(Head(2, 0))),
    ("unembedding of other names", plain, looks_by_itself),
    ("effective embedding of IO", plain, of(Head(1, 0), "s2")),
    ("queries read the name movers", plain, looks_by_itself),
]


LOOKS_AWAY = of(Head(1, 0))
# There is no name mover, or the head does not attend to the name.
PREMISES: Premises = [
    ("Name movers write", nothing),
    ("They copy names", nothing),
    ("is a negative name mover", LOOKS_AWAY),
    ("suppresses names", LOOKS_AWAY),
    ("The unembedding of IO", LOOKS_AWAY),
    ("unembedding of other tokens", LOOKS_AWAY),
    ("unembedding of other names", LOOKS_AWAY),
    ("effective embedding of IO", LOOKS_AWAY),
    ("queries read the name movers", outweighed),
]


@lru_cache
def found(build: Callable[[], Case]) -> Claims:
    model, head, place = build()
    with shared_forward_pass():
        return claims(model, sentences(), choose(model, sentences(), head, place))


@pytest.mark.parametrize(("says", "accepted", "rejected"), CLAIMS, ids=[each[0] for each in CLAIMS])
def test_a_claim_holds_and_fails_where_it_must(says: str, accepted: Callable[[], Case], rejected: Callable[[], Case]):
    check_case(found(accepted), found(rejected), says)


def test_every_claim_is_tested():
    check_all_are_tested(found(plain), CLAIMS)


@pytest.mark.parametrize(("says", "fails"), PREMISES, ids=[each[0] for each in PREMISES])
def test_a_claim_whose_premise_fails_is_not_measured(says: str, fails: Callable):
    check_premise(found(fails), says)


def test_every_premise_is_tested():
    check_all_premises_are_tested(found(CLAIMS[0][1]), PREMISES)


def test_the_heads_are_found():
    chosen = choose(plain()[0], sentences())
    assert chosen == Chosen(Head(3, 0), (Head(2, 0),), "io")
    assert chosen.earlier == (Head(2, 0),)
    # Without a negative one it is the name mover; without that, the head that does most for the right name.
    assert choose(without_a_negative_head()[0], sentences()).head == Head(2, 0)
    assert choose(plain()[0], sentences(), Head(1, 0)).earlier == ()
    looks = attention_from_end(plain()[0], sentences())
    assert looks["io"].values[2, 0] > 0.99
    assert looks["s2"].values[1, 0] > 0.99


TASK = IndirectObject(n_names=7)
SMALL = replace(
    TOKENS,
    task=TASK,
    model=ModelConfig(n_layers=3, d_model=23, n_ctx=TASK.n_ctx, d_head=5, n_heads=3, d_vocab=TASK.d_vocab, d_mlp=29),
)


def random(**changes: object) -> HookedTransformer:
    config = ModelConfig(**{**SMALL.model.to_dict(), "initializer_range": 0.2, **changes})  # pyright: ignore
    return with_random_biases(HookedTransformer(config))


def bridge(folder: Path) -> Model:
    return load_bridge(str(folder))


NETWORKS: dict[str, Callable[[], HookedTransformer]] = {
    "LN, MLP": random,
    "folded": lambda: random().processed(),
    "shortformer": lambda: random(positional_embedding_type="shortformer"),
    "no LN": lambda: random(normalization_type=None),
    "attention only": lambda: random(attn_only=True),
    "no positions": lambda: random(positional_embedding_type="none"),
}


@pytest.mark.parametrize(("network", "place"), list(zip(NETWORKS, ["io", "s1", "s2"] * 2, strict=True)))
def test_the_real_vectors_give_back_the_score_and_the_attention(network: str, place: str):
    model, some = NETWORKS[network](), Sentences.of(TASK, 0, 11)
    chosen = Chosen(Head(2, 1), (Head(1, 0),), place)  # pyright: ignore[reportArgumentType]
    shown, info, rows = forward_pass(model, some.batch), some.batch.info, torch.arange(11)
    score = shown.activations["blocks.2.attn.hook_attn_scores"][rows, 1, info["end"], info[place]]
    attention = shown.patterns[2][rows, 1, info["end"], info[place]]
    for side, vectors in (("keys", query_vectors), ("queries", key_vectors)):
        affine = fixed(model, some, chosen, side)  # pyright: ignore[reportArgumentType]
        real = affine.scores(vectors(model, some, chosen)["real"])
        torch.testing.assert_close(real, score, rtol=1e-4, atol=1e-4)
        real = vectors(model, some, chosen)["real"]
        torch.testing.assert_close(affine.attention(real), attention, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("side", ["keys", "queries"])
def test_attention_with_another_vector_is_that_of_the_network_that_reads_it(network: str, side: str):
    """Another query changes the scores of all keys, another key the score of one."""
    model, some = NETWORKS[network](), Sentences.of(TASK, 0, 11)
    chosen, info, rows = Chosen(Head(2, 1), (Head(1, 0),), "s1"), some.batch.info, torch.arange(11)
    affine = fixed(model, some, chosen, side)  # pyright: ignore[reportArgumentType]
    vectors = (query_vectors if side == "keys" else key_vectors)(model, some, chosen)
    letter, where = ("Q", info["end"]) if side == "keys" else ("K", info["s1"])
    for name, read in vectors.items():
        changed = (read @ getattr(model, f"W_{letter}")[2, 1] + getattr(model, f"b_{letter}")[2, 1]).detach()

        def put(x: torch.Tensor, hook: object, changed: torch.Tensor = changed) -> torch.Tensor:
            x = x.clone()
            x[rows, where, 1] = changed
            return x

        with model.hooks(fwd_hooks=[(f"blocks.2.attn.hook_{letter.lower()}", put)]):
            _, cache = model.run_with_cache(some.batch.inputs)
        pattern = cache["blocks.2.attn.hook_pattern"][rows, 1, info["end"]].detach()
        torch.testing.assert_close(affine.rows(read).softmax(-1), pattern, rtol=1e-3, atol=1e-4, msg=name)
        torch.testing.assert_close(affine.attention(read), pattern[rows, info["s1"]], rtol=1e-3, atol=1e-4)


def test_the_control_of_names_is_a_name_that_the_sentence_lacks():
    model, some = random(normalization_type=None), Sentences.of(TASK, 0, 101)
    drawn = query_vectors(model, some, Chosen(Head(2, 1), (), "io"))["W_U[other name]"]
    same = (drawn[:, None] == unembedding(model).T[some.names]).all(-1)
    assert (same.sum(1) == 1).all()
    names = some.names[same.float().argmax(1)]
    assert not ((names == some.batch.info["io_token"]) | (names == some.batch.info["s_token"])).any()
    assert len(names.unique()) == len(some.names)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("side", ["q", "k"])
def test_components_add_up_to_the_score_and_biases_are_their_own(network: str, side: str):
    model, some = NETWORKS[network](), Sentences.of(TASK, 0, 11)
    chosen = Chosen(Head(2, 1), (), "io")
    terms = split_score(model, some, chosen, side)  # pyright: ignore[reportArgumentType]
    info, rows = some.batch.info, torch.arange(11)
    score = forward_pass(model, some.batch).activations["blocks.2.attn.hook_attn_scores"][
        rows, 1, info["end"], info["io"]
    ]
    np.testing.assert_allclose(terms.sum("component"), score, rtol=1e-3, atol=1e-4)
    biases = [f"{layer}_b_O" for layer in (0, 1)] + ([] if network == "attention only" else ["0_b_out", "1_b_out"])
    assert set(biases) <= set(terms.component.values)
    # Where nothing stands between, it is the bias times the weights and the other side.
    reader = "W_Q" if side == "q" else "W_K"
    if network == "no LN":
        other = model.run_with_cache(some.batch.inputs)[1][f"blocks.2.attn.hook_{'k' if side == 'q' else 'q'}"].detach()
        there = other[rows, info["io" if side == "q" else "end"], 1]
        expected = there @ (model.b_O[1] @ getattr(model, reader)[2, 1]).detach() / 5**0.5
        np.testing.assert_allclose(terms.sel(component="1_b_O"), expected, rtol=1e-3, atol=1e-5)
        expected = there @ (model.blocks[0].mlp.b_out @ getattr(model, reader)[2, 1]).detach() / 5**0.5
        np.testing.assert_allclose(terms.sel(component="0_b_out"), expected, rtol=1e-3, atol=1e-5)


def test_stand_ins_are_normalised_as_the_layer_does_it():
    model, some = random(), Sentences.of(TASK, 0, 11)
    chosen = Chosen(Head(2, 1), (Head(1, 0),), "io")
    vectors = query_vectors(model, some, chosen)
    assert list(vectors) == ["W_U[IO]", "W_U[S]", "W_U[other name]", "W_U[random]", "output of L1H0", "real"]
    direction = unembedding(model)[:, some.batch.info["io_token"]].T
    centred = direction - direction.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + model.cfg.eps).sqrt()
    w, b = (model.get_parameter(f"blocks.2.ln1.{name}") for name in "wb")
    torch.testing.assert_close(vectors["W_U[IO]"], (centred / scale * w + b).detach(), rtol=1e-4, atol=1e-5)
    keys = list(key_vectors(model, some, chosen))
    assert keys == [
        "W_E[IO]",
        "W_E[S]",
        "effective embedding of IO without MLP 0",
        "effective embedding of IO with MLP 0",
        "MLP 0 alone of IO",
        "effective embedding of S with MLP 0",
        "real",
    ]
    # What MLP 0 writes for the token is what it adds to the embedding that layer 0 makes of it.
    no_norm = random(normalization_type=None)
    vectors = key_vectors(no_norm, some, chosen)
    with torch.no_grad():
        alone = no_norm.blocks[0].mlp(vectors["effective embedding of IO without MLP 0"][:, None])[:, 0]
    torch.testing.assert_close(vectors["MLP 0 alone of IO"], alone, rtol=1e-4, atol=1e-5)
    attention_only = random(attn_only=True)
    assert not any("MLP 0 alone" in name or "with MLP 0" in name for name in key_vectors(attention_only, some, chosen))


def test_the_answer_is_ahead_where_its_logit_is_larger():
    model, some = random(), Sentences.of(TASK, 0, 11)
    logits, info, rows = logits_at_end(model, some.batch), some.batch.info, torch.arange(11)
    torch.testing.assert_close(io_minus_s(model, some), logits[rows, info["io_token"]] - logits[rows, info["s_token"]])
    logits = logits_at_end(model, some.corrupted)
    lead = io_minus_s(model, some, corrupted=True)
    torch.testing.assert_close(lead, logits[rows, info["io_token"]] - logits[rows, info["s_token"]])


def test_two_heads_stand_beside_each_other(tmp_path: Path):
    """The columns of each head are those of a study of this head."""
    run, found = untrained_run(tmp_path / "run", SMALL), find_study("name-movers")
    both = run_study(found, run, found.given({"sequences": 11, "head": "L2H1", "beside": "L1H0"})).to_tree()
    for head in ("L2H1", "L1H0"):
        alone = run_study(found, run, found.given({"sequences": 11, "head": head})).to_tree()
        assert "Two heads" not in alone
        for title, own in (("Keys", "Query-side"), ("Queries", "Key-side")):
            table = both[f"Two heads/{title} fixed"].to_dataset().sel(head=head)
            of_one = alone[f"{title} fixed/{own} vector: scores and attention"].to_dataset().sel(vector=table.vector)
            for name in ("mean_score", "mean_attention", "above_real"):
                np.testing.assert_allclose(table[name], of_one[name], rtol=1e-5, atol=1e-6)
            assert "real" in table.vector


@pytest.mark.whole
def test_from_end_to_end(tmp_path: Path):
    run = untrained_run(tmp_path / "run", SMALL, (0, 17))
    result = study("name-movers", run, sequences=23)
    assert {figure.kind for section in result.sections for figure in section.figures} == {"lines", "maps", "table"}
    xr.testing.assert_identical(StudyResult.read(run.study_file("name-movers", 17)).to_tree(), result.to_tree())
    assert json.dumps(result.claims[0].says)[1:-1] in run.report_file.read_text()
    tree = result.to_tree()
    formed = tree["Over training/Measures over training"]
    assert formed.step.values.tolist() == [0, 17]
    assert formed.copying.dims == ("layer", "head", "step")
    some = tree["Behaviour/Examples"]
    batch = TASK.evaluation_batch(run.recipe.eval_seed, 23)
    words = TASK.labels(batch)[0][1 : int(batch.info["end"][0]) + 1]
    assert some.sentence.values[0] == " ".join(words)
    assert some.io.values[0] == TASK.words[int(batch.info["io_token"][0])]
    # Histograms hold each sentence once, and stand in the order of their means.
    counts = tree["Keys fixed/Query-side vector: histogram of scores"].sentences
    assert set(counts.sum("score").values.tolist()) == {23}
    means = tree["Keys fixed/Query-side vector: scores and attention"].mean_score.values
    assert np.array_equal(means, np.sort(means))


@pytest.mark.parametrize(
    ("changes", "head", "place"),
    [
        ({"n_layers": 1, "attn_only": True, "normalization_type": None}, "L0H2", "io"),
        ({"positional_embedding_type": "shortformer"}, "L2H1", "s2"),
    ],
    ids=["one layer, attention only, no LN", "shortformer"],
)
def test_any_network_any_head_and_any_place_can_be_studied(changes: dict, head: str, place: str, tmp_path: Path):
    found = find_study("name-movers")
    run = untrained_run(tmp_path / "run", replace(SMALL, model=replace(SMALL.model, **changes)))
    result = run_study(found, run, found.given({"sequences": 11, "head": head, "to": place}))
    tree = result.to_tree()
    xr.testing.assert_identical(StudyResult.from_tree(tree).to_tree(), tree)
    assert f"The score of {head} from END to {place.upper()}" in tree["Keys fixed"].attrs["text"]
    name = "W_U[IO]" if place == "io" else "W_U[S]"
    assert name in tree["Keys fixed/Query-side vector: scores and attention"].vector.values
    if head == "L0H2":
        # A head of layer 0 has nothing before it to read.
        assert tree["Path patching/Attention of L0H2 from END"].sizes["path, input"] == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 whose tokenizer knows seven of the names, and all other words."""
    known = [*NAMES[:7], *PLACES, *OBJECTS, *(word for text in TEMPLATES for word in split_words(text))]
    words = f"{join_words(known)} {join_words(reversed(known))}"
    return saved_gpt2(tmp_path_factory.mktemp("models") / "gpt2-names", words, n_layer=3)


def test_a_language_model_is_studied_in_its_own_tokens(folder: Path):
    found = find_study("name-movers")
    result = run_study(found, load_bridge(str(folder)), found.given({"sequences": 13}))
    assert (result.step, result.run) == (None, str(folder))
    sentence = result.to_tree()["Behaviour/Examples"].sentence.values[0]
    assert sentence.split()[0] in {text.split()[0] for text in TEMPLATES}


def test_a_language_model_that_lacks_names_or_places_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = ("--out", str(tmp_path / "out"))
    short = saved_gpt2(tmp_path / "short", join_words(NAMES[:7]) + " " + join_words(NAMES[:7]), n_positions=11)
    cases = {
        (str(folder), *out, "--names", "[Alice,Peter,Laura,Henry,Maria,Zebulon]"): "names: 'Zebulon' is not one token",
        (str(folder), *out, "--names", "[Alice,Peter]"): "names: 2 of 2 are one token of this tokenizer",
        (str(short), *out): "has a context of 11 tokens; the sentences have",
    }
    capsys.readouterr()
    for arguments, message in cases.items():
        assert message in refused(["study", "name-movers", *arguments], capsys), arguments
    assert not (tmp_path / "out").exists()
