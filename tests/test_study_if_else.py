"""The study of if and else: claims on networks where they must hold and fail, identities, and the whole of it."""

import json
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from claim_cases import Cases, Premises, check_all_are_tested, check_all_premises_are_tested, check_case, check_premise
from corpora import source, write_corpus
from language_models import saved_gpt2
from networks import with_random_biases
from test_text import recipe
from toy_studies import untrained_run

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attribution import attribute_sources
from headway.analyze.network.forward import forward_pass, shared_forward_pass
from headway.analyze.network.interventions import heads_except
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.analyze.studies import find_study
from headway.analyze.studies.found_circuit import searched_nodes_section
from headway.analyze.studies.if_else import anomalies, scores, subcircuits
from headway.analyze.studies.if_else.attributions import by_source_part, heads_by_contribution
from headway.analyze.studies.if_else.claims import claims
from headway.analyze.studies.if_else.prompts import Prompts, at_end, over_mean_logit
from headway.analyze.studies.if_else.token_circuits import TokenCircuits, layer_norm, rank_entry
from headway.analyze.studies.result import Claims, StudyResult
from headway.analyze.studies.runner import run_study
from headway.analyze.studying import study
from headway.analyze.tools.anomaly_scores import Separation
from headway.data.conditionals import ELSE, IF, twins
from headway.data.seeds import generator
from headway.data.text import Text
from headway.data.tokenizer import one_token
from headway.models import handmade
from headway.models.config import Head, ModelConfig
from headway.models.convert import Model, load_bridge
from headway.models.hooked_transformer import HookedTransformer

TOKENIZER = handmade.conditionals_tokenizer()
V = len(TOKENIZER)
IF_TOKEN, ELSE_TOKEN, CLOSING = (one_token(TOKENIZER, string) for string in (IF, ELSE, ")"))
COMMA = one_token(TOKENIZER, ",")
OUT = slice(V, 2 * V)


@lru_cache
def prompts() -> Prompts:
    """Of texts of the grammar and pairs of it, with its own tokenizer."""
    draw = generator("data", 1)
    texts = ["\n".join(twins(draw, lines=9)) if i % 2 else text for i in range(17) for text in twins(draw, lines=9)]
    return Prompts.of(texts, TOKENIZER, seed=0, pairs=67, length=16)


@lru_cache
def made_by_hand() -> HookedTransformer:
    return handmade.if_else()[0]


def plain() -> HookedTransformer:
    return deepcopy(made_by_hand())


@torch.no_grad()
def nothing() -> HookedTransformer:
    model = plain()
    for parameter in model.blocks[0].attn.parameters():
        parameter.zero_()
    return model


@torch.no_grad()
def always() -> HookedTransformer:
    """It says `` else`` wherever it is."""
    model = plain()
    model.b_U[ELSE_TOKEN] = 23.0
    for head in (0, 1):
        model.blocks[0].attn.W_O[head] = 0.0
    return model


@torch.no_grad()
def from_a_comma() -> HookedTransformer:
    """What raises `` else`` is a comma."""
    model = plain()
    for head in (0, 1):
        W_V = model.blocks[0].attn.W_V[head]
        W_V[[IF_TOKEN, COMMA], 0] = W_V[[COMMA, IF_TOKEN], 0]
    return model


@torch.no_grad()
def without_the_control() -> HookedTransformer:
    model = plain()
    model.blocks[0].attn.W_O[2] = 0.0
    return model


@torch.no_grad()
def whatever_the_query() -> HookedTransformer:
    """All queries look for `` if`` alike, those of ``)`` too."""
    model = plain()
    model.blocks[0].attn.W_Q[1].zero_()
    return model


@torch.no_grad()
def apart() -> HookedTransformer:
    """The head that looks from ``)`` for `` if`` says nothing of `` else``; the one that does looks from anywhere."""
    model = plain()
    model.blocks[0].attn.W_O[1] = 0.0
    return model


@torch.no_grad()
def from_anything() -> HookedTransformer:
    """Any token raises `` else``, and all are looked at alike."""
    model = plain()
    attention = model.blocks[0].attn
    attention.b_Q[0], attention.W_Q[1] = 0.0, 0.0
    attention.W_V[:2, :V, 0] = 1.0
    return model


@torch.no_grad()
def from_the_bracket() -> HookedTransformer:
    """After ``)`` it looks at ``)``, and that raises `` else``."""
    model = plain()
    attention = model.blocks[0].attn
    attention.W_K[1, [IF_TOKEN, CLOSING], -1] = attention.W_K[1, [CLOSING, IF_TOKEN], -1]
    attention.W_V[1, CLOSING, 0] = 3.0
    return model


@torch.no_grad()
def many_heads() -> HookedTransformer:
    """All heads do alike what two did."""
    model = plain()
    attention = model.blocks[0].attn
    for name in ("W_Q", "b_Q", "W_K", "W_V", "W_O"):
        getattr(attention, name).copy_(getattr(attention, name)[[0] * 8].clone())
    attention.W_O.div_(4)
    return model


@torch.no_grad()
def by_position() -> HookedTransformer:
    """It looks where `` if`` stands most often, whatever stands there."""
    model = plain()
    attention = model.blocks[0].attn
    attention.W_K[0].zero_()
    often = prompts().generated.batch.info["if_position"].bincount().topk(3).indices
    attention.W_K[0, 2 * V + often, -1] = 5.0
    attention.W_Q[1].zero_()
    return model


@torch.no_grad()
def one_reason() -> HookedTransformer:
    """After ``)`` it is as after anything else, but that the embedding of ``)`` speaks against `` else``."""
    model = plain()
    model.blocks[0].attn.W_Q[1].zero_()
    return model


CLAIMS: Cases = [
    ("The network predicts else", plain, nothing),
    ("because of if", plain, always),
    ("maps if to else", plain, from_a_comma),
    ("known pair of Python", plain, without_the_control),
    ("attends from a closing bracket", plain, whatever_the_query),
    ("One head has both", plain, apart),
    ("contribution of heads comes from if", plain, from_anything),
    ("It also does after a closing bracket", plain, from_the_bracket),
    ("A few heads are sufficient", plain, many_heads),
    ("value at if is sufficient", plain, from_the_bracket),
    ("Tokens are sufficient", plain, by_position),
    ("No two heads", plain, many_heads),
    ("Attributions separate", plain, one_reason),
    ("better than controls", plain, from_the_bracket),
]


PREMISES: Premises = [
    ("because of if", from_a_comma),  # it does not predict else
    ("It also does after a closing bracket", from_anything),  # else does not come from if
    ("A few heads are sufficient", from_a_comma),
    ("value at if is sufficient", from_a_comma),
    ("Tokens are sufficient", from_anything),
    ("No two heads", from_a_comma),  # no head maps if to else
    ("better than controls", one_reason),  # attributions do not separate
]


@lru_cache
def untrained() -> list[Separation]:
    return [each[anomalies.ATTRIBUTIONS] for each in anomalies.untrained(plain(), prompts().generated)]


@lru_cache
def found(build: Callable[[], HookedTransformer]) -> Claims:
    with shared_forward_pass():
        return claims(build(), prompts().generated, untrained())


@pytest.mark.parametrize(("says", "accepted", "rejected"), CLAIMS, ids=[each[0] for each in CLAIMS])
def test_a_claim_holds_and_fails_where_it_must(
    says: str, accepted: Callable[[], HookedTransformer], rejected: Callable[[], HookedTransformer]
):
    check_case(found(accepted), found(rejected), says)


def test_every_claim_is_tested():
    check_all_are_tested(found(plain), CLAIMS)


@pytest.mark.parametrize(("says", "fails"), PREMISES, ids=[each[0] for each in PREMISES])
def test_a_claim_whose_premise_fails_is_not_measured(says: str, fails: Callable):
    check_premise(found(fails), says)


def test_every_premise_is_tested():
    check_all_premises_are_tested(found(CLAIMS[0][1]), PREMISES)


def random(layers: int = 1, **changes: object) -> HookedTransformer:
    sizes = {"n_layers": layers, "d_model": 23, "n_ctx": 17, "d_head": 5, "n_heads": 3, "d_vocab": V, "attn_only": True}
    config = ModelConfig(**{**sizes, "initializer_range": 0.2, **changes})  # pyright: ignore
    return with_random_biases(HookedTransformer(config, TOKENIZER))


NETWORKS: dict[str, Callable[[], Model]] = {
    "one layer": random,
    "folded": lambda: random().processed(),
    "MLP": lambda: random(2, attn_only=False, d_mlp=29),
    "shortformer": lambda: random(2, positional_embedding_type="shortformer"),
    "no LN": lambda: random(2, normalization_type=None),
    "no positions": lambda: random(2, positional_embedding_type="none"),
}


def scores_from_end(model: Model, some: Prompts, head: Head) -> torch.Tensor:
    return forward_pass(model, some.batch).activations[f"blocks.{head.layer}.attn.hook_attn_scores"][
        :, head.head, some.end
    ]


@pytest.mark.parametrize("network", NETWORKS)
def test_parts_and_directions_add_up_to_the_scores(network: str):
    model, some = NETWORKS[network](), prompts().generated
    head = Head(model.cfg.n_layers - 1, 1)
    whole = scores_from_end(model, some, head)
    parts = scores.score_parts(model, some, head)
    np.testing.assert_allclose(parts.sum(["query_part", "key_part"]), whole, rtol=1e-3, atol=1e-3)
    assert ("position" in parts.query_part) == (network != "no positions")
    assert ("other" in parts.query_part) == (model.cfg.n_layers > 1)
    attention = scores.patterns_from_parts(parts)
    torch.testing.assert_close(attention["actual"], whole.softmax(-1), rtol=1e-3, atol=1e-4)
    margin = whole[some.at_if] - whole.mean(1)
    _, terms = scores.margin_terms(model, some, head)
    torch.testing.assert_close(terms.sum(0), margin, rtol=1e-3, atol=1e-3)
    by_part = scores.key_margins(model, some, [head]).data["all"]
    expected = [margin[~some.anomalous].mean(), margin[some.anomalous].mean()]
    np.testing.assert_allclose(by_part, expected, rtol=1e-3, atol=1e-3)
    if network == "no positions":
        torch.testing.assert_close(attention["tokens alone"], attention["actual"])


@pytest.mark.parametrize("network", ["LN", "no LN"])
def test_circuits_between_tokens_are_what_the_network_does_with_them(network: str):
    """Without positions, one layer does with two tokens what the tables say, with the scale that ln_final has."""
    kind = "LN" if network == "LN" else None
    model = random(positional_embedding_type="none", normalization_type=kind)
    model = model.processed(center_unembed=False) if network == "LN" else model
    some, head = prompts().generated, Head(0, 2)
    circuits = TokenCircuits.of(model, some)
    tokens = some.batch.inputs
    qk, ov = circuits.qk(head), circuits.ov(head)
    whole = scores_from_end(model, some, head)
    entries = torch.stack([qk.rows(row[-1:])[0, row] for row in tokens])
    # Over the mean of all keys, which no prompt has: only differences are the same.
    expected, measured = (each - each.mean(1, keepdim=True) for each in (whole, entries))
    torch.testing.assert_close(measured, expected, rtol=1e-3, atol=1e-3)
    ends = torch.full((len(tokens),), some.end)
    taken = torch.from_numpy(attribute_sources(model, some.batch, ends, over_mean=True).values)[2]
    pattern = whole.softmax(-1)
    scale = forward_pass(model, some.batch).activations.get("ln_final.hook_scale", torch.ones(*tokens.shape, 1))[
        :, some.end
    ]
    adds = ov.rows(tokens.flatten())[:, ELSE_TOKEN].view_as(tokens)
    # The circuit leaves b_V out, which folding has moved.
    of_bias = (model.b_V[0, 2] @ model.W_O[0, 2] @ model.W_U).detach()
    bias = of_bias[ELSE_TOKEN] - of_bias.mean()
    torch.testing.assert_close(taken, pattern * (adds * circuits.scale + bias) / scale, rtol=1e-3, atol=1e-4)


def test_the_scale_of_embeddings_alone_is_what_ln1_divides_by():
    """In a shortformer, whose LayerNorm keeps its weights, and which reads the embeddings alone."""
    model, some = random(positional_embedding_type="shortformer"), prompts().generated
    with torch.no_grad():
        model.blocks[0].ln1.w.mul_(3.0)  # pyright: ignore
        _, cache = model.run_with_cache(torch.arange(V)[:, None])
    scale = cache["blocks.0.ln1.hook_scale"]
    rows = layer_norm(model, some).figures[0].data.sel(point="embeddings alone, all tokens")
    np.testing.assert_allclose(
        [rows["mean"], rows.least, rows.most], [scale.mean(), scale.min(), scale.max()], rtol=1e-5
    )


def test_an_entry_stands_where_it_is_counted_to_stand():
    values = torch.randn(23, 29, generator=torch.Generator().manual_seed(0))
    found = rank_entry(VocabularyCircuit(values, torch.eye(29)), 3, 5)
    assert found.value == pytest.approx(values[3, 5].item())
    assert found.row_rank == 1 + int((values[3] > values[3, 5]).sum())
    assert found.column_rank == 1 + int((values[:, 5] > values[3, 5]).sum())
    assert found.row_percentile == pytest.approx((29 - found.row_rank) / 28)
    assert found.column_percentile == pytest.approx((23 - found.column_rank) / 22)
    assert found.softmax == pytest.approx(values[3].softmax(0)[5].item())
    assert found.least == min(found.row_percentile, found.column_percentile)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_ends_of_a_subcircuit(network: str):
    """All heads are the network, and no head is the network with all of them ablated."""
    model, some = NETWORKS[network](), prompts().generated
    every = heads_except(model)
    whole = at_end(model, some.batch)
    found = subcircuits.run_subcircuit(model, some, every)
    assert found.logit == pytest.approx(over_mean_logit(whole, ELSE_TOKEN).mean().item(), abs=1e-5)
    assert found.loss == pytest.approx(-whole.log_softmax(-1)[:, ELSE_TOKEN].mean().item(), abs=1e-5)
    none = subcircuits.run_subcircuit(model, some, [])
    assert (found.share_of_logit(none, found), none.share_of_logit(none, found)) == (1, 0)
    # The network's own function of loss, of a task whose every position counts, says the same of ordinary text.
    text = some.ordinary._replace(task=Text())
    clean = ablated_loss(model, text, []).loss.item()
    assert subcircuits.text_loss(model, some, every) == pytest.approx(clean, abs=1e-5)
    ablated = ablated_loss(model, text, every, "position_mean").loss.item()
    assert subcircuits.text_loss(model, some, []) == pytest.approx(ablated, abs=1e-5)
    # Reading all that it reads changes nothing: without positions, that is reading tokens alone.
    if network == "no positions":
        last = [Head(1, head) for head in range(3)]
        alone = subcircuits.run_subcircuit(model, some, last, subcircuits.TOKENS_ALONE)
        assert alone.logit == pytest.approx(subcircuits.run_subcircuit(model, some, last).logit, abs=1e-4)


def test_what_is_read_at_if_alone_is_the_rest_at_its_mean():
    """Where every other token has the same value, nothing is lost."""
    model, some = plain(), prompts().generated
    with torch.no_grad():
        for head in range(2, 8):
            model.blocks[0].attn.W_O[head] = 0.0
    every = heads_except(model)
    whole, alone = (subcircuits.run_subcircuit(model, some, every, read) for read in (None, subcircuits.IF_ALONE))
    # The mean value holds that of the few ` if` of ordinary text.
    assert alone.logit == pytest.approx(whole.logit, rel=0.01)
    by_position = subcircuits.run_subcircuit(model, some, every, subcircuits.POSITIONS_ALONE)
    assert by_position.logit < 0.2 * whole.logit


def test_no_twin_of_a_prompt_that_was_fitted_to_is_tried():
    some = prompts().generated
    fit, tried = anomalies._split(some)
    assert not (fit & some.anomalous).any()
    assert not (fit & tried).any()
    pair = torch.arange(len(fit)) // 2
    assert set(pair[fit].tolist()).isdisjoint(pair[tried].tolist())
    assert int(tried.sum()) == 2 * int((tried & some.anomalous).sum())
    # Real prompts have no twins, but neighbours.
    real = prompts().real
    text = real.batch.info["text"]
    assert len(text.unique()) < len(text)
    for fit, tried in (anomalies._split(real), anomalies._halves(real)):
        assert set(text[fit].tolist()).isdisjoint(text[tried].tolist())
        assert (tried & real.anomalous).any()


def test_features_are_what_their_names_say():
    model, some = random(), prompts().generated
    every = anomalies.features(model, some)
    assert {name: x.shape[1] for name, x in every.items()} == {
        anomalies.ATTRIBUTIONS: 3 * 16,
        anomalies.EARLIER: 3 * 15,
        "attention scores (QK)": 3 * 16,
        "residual stream": 23,
        "all logits": V,
        "embedding of the last token": 23,
        anomalies.ELSE_PROBABILITY: 1,
        anomalies.AT_IF: 16,
    }
    with torch.no_grad():
        logits, cache = model.run_with_cache(some.batch.inputs)
    scores = cache["blocks.0.attn.hook_attn_scores"][:, :, -1]
    expected = {
        "attention scores (QK)": (scores - scores.mean(-1, keepdim=True)).flatten(1),
        "residual stream": cache["blocks.0.hook_resid_post"][:, -1],
        "all logits": logits[:, -1],
        anomalies.ELSE_PROBABILITY: logits[:, -1].log_softmax(-1)[:, [ELSE_TOKEN]],
        "embedding of the last token": model.W_E.detach()[some.batch.inputs[:, -1]],
    }
    for name, values in expected.items():
        torch.testing.assert_close(every[name], values, rtol=1e-4, atol=1e-5, msg=lambda text, at=name: f"{at}: {text}")
    assert torch.equal(every[anomalies.AT_IF].argmax(1), some.batch.info["if_position"])
    direct = anomalies.else_attributions(model, some).sum("source").sum("head").values
    np.testing.assert_allclose(every[anomalies.ATTRIBUTIONS].sum(1), direct, rtol=1e-4, atol=1e-5)
    last = anomalies.else_attributions(model, some).isel(source=-1).sum("head").values
    np.testing.assert_allclose(every[anomalies.EARLIER].sum(1), direct - last, rtol=1e-4, atol=1e-5)
    # Normal prompts that are all the same, or two, leave nothing to judge by.
    assert math.isnan(anomalies.mahalanobis_separation(torch.ones(len(some.anomalous), 3), some).auroc)


def test_nothing_is_told_apart_by_noise_that_texts_have_in_common():
    """The probe has many features and few prompts: it knows what it was shown, and must not be asked about that."""
    real = prompts().real
    text = real.batch.info["text"]
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(int(text.max()) + 1, 211, generator=draws)[text]
    noise = noise + 0.01 * torch.randn(noise.shape, generator=draws)
    for found in (anomalies.mahalanobis_separation(noise, real), anomalies.probe_separation(noise, real)):
        assert found.low < 0.5 + 0.15
        assert found.high > 0.5 - 0.15
    some = prompts().generated
    x = torch.randn(len(some.anomalous), 211, generator=draws)
    found = anomalies.probe_separation(x, some)
    assert found.null_low - 0.1 < found.auroc < found.null_high + 0.1


def test_what_heads_take_is_partedby_place():
    some = prompts().generated
    source = torch.arange(16.0)
    by_source = xr.DataArray(source.expand(2, len(some.anomalous), 16).numpy(), dims=("head", "prompt", "source"))
    found = by_source_part(by_source, some)
    at = some.batch.info["if_position"]
    assert not found["BOS"].any()
    torch.testing.assert_close(found["if"], 2.0 * at)
    torch.testing.assert_close(found["before_if"], 1.0 * at * (at - 1))
    torch.testing.assert_close(found["condition"], 2.0 * torch.stack([source[i + 1 : 15].sum() for i in at]))
    torch.testing.assert_close(found["END"], torch.full_like(found["if"], 30.0))


def test_scores_by_distance_have_their_peak_where_a_head_looks():
    """A head that looks three tokens back, whatever stands there."""
    model, some, back = nothing(), prompts().generated, 3
    attention = model.blocks[0].attn
    with torch.no_grad():
        for query in range(back, 16):
            attention.W_Q[1, 2 * V + query, query] = attention.W_K[1, 2 * V + query - back, query] = 7.0
    figures = scores.positions_section(model, some, [Head(0, 1)]).figures
    by_distance = next(each.data for each in figures if "distance" in each.data.dims)
    best = by_distance.score.sel(head="L0H1").argmax("distance")
    assert by_distance.distance.values[best] in (back, -back)


def test_an_untrained_network_makes_no_claim():
    some = prompts().generated
    config = ModelConfig(n_layers=1, d_model=61, n_ctx=17, d_head=13, n_heads=4, d_vocab=V, attn_only=True)
    controls = [
        each[anomalies.ATTRIBUTIONS] for each in anomalies.untrained(HookedTransformer(config, TOKENIZER), some)
    ]
    for seed in range(11, 17):
        made = claims(HookedTransformer(config, TOKENIZER, seed=seed), some, controls)
        held = {claim.says for claim in made if claim.holds}
        # Whatever writes the last token tells apart what is defined by it: that is why there are controls.
        assert held <= {
            "No two heads have the same circuit",
            "Attributions separate anomalous prompts from normal ones",
        }


def test_the_heads_that_add_most_come_first():
    some = prompts().generated
    assert heads_by_contribution(plain(), some)[:2] == [Head(0, 0), Head(0, 1)]
    assert subcircuits.top_quarter(heads_by_contribution(plain(), some)) == [Head(0, 0), Head(0, 1)]


def test_the_heads_that_carry_else_are_found_beside_those_that_add_most():
    model, some = plain(), prompts().generated
    batch, chosen = some.of_else(model), subcircuits.top_quarter(heads_by_contribution(model, some))
    section = searched_nodes_section(model, batch, chosen)
    [figure] = section.figures
    assert figure.data["heads of"].values.tolist() == ["this study", "found on these prompts"]
    assert figure.data.faithfulness.values[1] > 0.9
    # The heads that say `` else`` wherever they are carry nothing of what the condition tells.
    assert "it lacks" in section.text or "they are the same" in section.text
    assert searched_nodes_section(nothing(), batch, chosen).text.startswith("Not measured: ")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Text]:
    folder = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_CACHE", str(folder / "cache"))
        yield Text(str(write_corpus(folder / "corpus")), n_tokens=331, length=17).resolved()


@pytest.mark.whole
def test_from_end_to_end(task: Text, tmp_path: Path):
    run = untrained_run(tmp_path / "run", recipe(task), (0, 3))
    result = study("if-else", run, sequences=11, length=13, pair=[["(", ","], [IF, ELSE]])
    xr.testing.assert_identical(StudyResult.read(run.study_file("if-else", 3)).to_tree(), result.to_tree())
    assert json.dumps(result.claims[0].says)[1:-1] in run.report_file.read_text()
    tree = result.to_tree()
    assert tree["Over training/Measures over training"].step.values.tolist() == [0, 3]
    pairs = tree["OV: other pairs/Best head of each pair"]
    assert pairs.pair.values.tolist()[-2:] == ["'(' → ','", "' if' → ' else'"]
    # The network has not been trained.
    perplexity = tree["Behaviour/Perplexity on held-out text"].perplexity
    assert perplexity.sel(predictor="chance").item() == pytest.approx(331)
    assert 1.5 * 331 > perplexity.sel(predictor="this network").item() > perplexity.sel(predictor="bigram").item()
    assert tree["Behaviour/Examples"].prompt.values[0].startswith(("'", '"'))
    kinds = tree["Behaviour/Probability of ' else'"]
    assert kinds["count"].sel(prompts="generated, normal").item() == 11
    assert kinds["count"].sel(prompts="real, normal").item() > 5
    # What no head and all heads differ by is next to nothing, of which no share is given.
    left = tree["Subcircuits/Logit and loss of subcircuits"]
    assert left.loss_back.isnull().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layers": 2, "positional_embedding_type": "shortformer"},
        {"positional_embedding_type": "none", "normalization_type": None, "attn_only": False, "d_mlp": 23},
    ],
    ids=["two layers, shortformer", "no positions, no LN, MLP"],
)
def test_any_network_on_text_can_be_studied(task: Text, changes: dict, tmp_path: Path):
    small = recipe(task)
    run = untrained_run(tmp_path / "run", replace(small, model=ModelConfig(**{**small.model.to_dict(), **changes})))
    found = find_study("if-else")
    result = run_study(found, run, found.given({"sequences": 7, "length": 13}))
    xr.testing.assert_identical(StudyResult.from_tree(result.to_tree()).to_tree(), result.to_tree())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 whose tokenizer has been trained on code."""
    return saved_gpt2(tmp_path_factory.mktemp("models") / "gpt2-code", "\n".join(map(source, range(7))))


def test_a_language_model_is_studied_in_its_own_tokens(folder: Path, tmp_path: Path):
    texts, found = write_corpus(tmp_path / "texts"), find_study("if-else")
    given = found.given({"sequences": 7, "length": 17, "corpus": str(texts)})
    result = run_study(found, load_bridge(str(folder)), given)
    assert result.step is None
    assert "Perplexity on held-out text" not in result.to_tree()["Behaviour"]
