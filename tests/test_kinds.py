"""Every measure gives a number or a reason, on every kind of network and in every dtype."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from networks import (
    D_VOCAB,
    alibi_bridge,
    gpt2_bridge,
    gpt_neo_bridge,
    half_bridge,
    hidden_patterns_bridge,
    llama_bridge,
    norms_after_bridge,
    norms_around_bridge,
    parallel_bridge,
)
from random_networks import network
from toys import Adding

from headway.analyze.measures import MEASURES, Measure
from headway.analyze.network.forward import shared_forward_pass
from headway.analyze.network.interventions import through_paths
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.markov_chains import MarkovChains
from headway.data.modular_addition import ModularAddition
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

VECTORS = AffineRecurrence(d_vector=13, length_min=4, length_max=7)
CHAINS = MarkovChains(n_states=D_VOCAB, length=13)
ADDITION = ModularAddition(p=5)


@lru_cache
def batch(kind: str) -> Batch:
    periods: dict[str, Any] = {"period_min": 3, "period_max": 5}
    if kind == "one segment twice":
        periods = {"period_min": 6, "period_max": 6, "late_start": 0.0}
    repeats = RepeatedTokens(n_tokens=D_VOCAB - 1, length=13, **periods)
    tasks = {"vectors": VECTORS, "chains": CHAINS, "modular addition": ADDITION, "a set": Adding(modulus=D_VOCAB - 1)}
    return tasks.get(kind, repeats).evaluation_batch(0, 5)


def ours(dtype: torch.dtype = torch.float32, **kinds: Any) -> Callable[[], Model]:
    return lambda: network(dtype=dtype, **{"d_vocab": D_VOCAB, "d_vocab_out": D_VOCAB} | kinds)


KINDS: dict[str, Callable[[], Model]] = {
    "GPT-2": gpt2_bridge,
    "grouped heads": llama_bridge,
    "windows": gpt_neo_bridge,
    "parallel": parallel_bridge,
    "ALiBi": alibi_bridge,
    "norms after": norms_after_bridge,
    "norms before and after": norms_around_bridge,
    "hidden patterns": hidden_patterns_bridge,
    "bfloat16 bridge": half_bridge,
    **{
        f"{positions}, {norm}": ours(positional_embedding_type=positions, normalization_type=norm)
        for positions, norm in (("standard", "LN"), ("standard", None), ("shortformer", "LNPre"), ("none", "LN"))
    },
    "attention only": ours(attn_only=True),
    "bidirectional": ours(attention_dir="bidirectional"),
    "one layer": ours(n_layers=1),
    "one segment twice": ours(),
    "wider than its vocabulary": ours(d_model=37),
    "a set": ours(d_vocab_out=D_VOCAB - 1),
    "other outputs": ours(d_vocab_out=D_VOCAB + 2),
    "vectors": ours(input_type="vectors", d_vocab=VECTORS.d_vocab, d_vocab_out=VECTORS.d_vocab),
    "chains": ours(),
    "modular addition": ours(d_vocab=ADDITION.d_vocab, d_vocab_out=ADDITION.d_vocab_out),
    "float64": ours(torch.float64),
    "bfloat16": ours(torch.bfloat16),
    "float16": ours(torch.float16),
    "shortformer bfloat16": ours(torch.bfloat16, positional_embedding_type="shortformer"),
}
# They follow a head's output into what reads the residual stream.
OF_OV = (
    "ov_eigenvalue", "ov_eigenvalue_residual", "induction_eigenvalue", "q_composition", "k_composition",
    "v_composition", "ov_top1", "ov_topk", "token_pair_rank", "k_composition_top1", "direct_attribution",
    "path_patch", "ov_identity_surgery",
)  # fmt: skip


@lru_cache
def model_of(kind: str) -> Model:
    return KINDS[kind]()


@lru_cache
def in_float32(kind: str) -> Model:
    """A network whose weights are those of one in half precision."""
    model = network(dtype=torch.float32, d_vocab=D_VOCAB, d_vocab_out=D_VOCAB)
    model.load_state_dict({name: weight.float() for name, weight in model_of(kind).state_dict().items()})
    return model


@lru_cache
def scores_of(kind: str, build: Callable[[str], Model] = model_of) -> dict[str, Any]:
    """The score of every measure on a kind of network, or the reason why it has none."""

    def score(measure: Measure) -> Any:
        try:
            return measure(build(kind), batch(kind))
        except DoesNotApplyError as reason:
            return reason

    with shared_forward_pass():
        return {measure.name: score(measure) for measure in MEASURES}


def number_of(measure: str) -> str:
    """A variable with a number also of random networks; these know nothing of which an effect could be a share."""
    return "effect_known" if measure == "effect" else measure


@pytest.mark.parametrize("kind", KINDS)
def test_every_measure_gives_a_number_or_a_reason(kind: str):
    scores = scores_of(kind)
    assert scores.keys() == {measure.name for measure in MEASURES}
    for measure, score in scores.items():
        if isinstance(score, DoesNotApplyError):
            assert str(score), measure
            assert "\n" not in str(score), measure
        else:
            assert np.issubdtype(score[measure].dtype, np.number), measure
            assert score[number_of(measure)].notnull().any(), measure


@pytest.mark.parametrize("measure", [measure.name for measure in MEASURES])
def test_a_measure_gives_a_number_on_some_kind(measure: str):
    likely = ("standard, LN", "a set", "one segment twice", "wider than its vocabulary", "chains", "modular addition")
    assert any(not isinstance(scores_of(kind)[measure], DoesNotApplyError) for kind in (*likely, *KINDS))


@pytest.mark.parametrize("kind", ["norms after", "norms before and after"])
def test_what_follows_a_heads_output_is_refused_where_a_norm_follows_attention(kind: str):
    scores, model = scores_of(kind), model_of(kind)
    for name in OF_OV:
        assert isinstance(scores[name], DoesNotApplyError), name
    for name in ("loss", "attention", "previous_token", "ablation"):
        assert not isinstance(scores[name], DoesNotApplyError), name
    for attempt in (
        lambda: VocabularyCircuit.ov(model, [Head(0, 0)]),
        lambda: through_paths(model, batch(kind), [Head(0, 0)], [Head(1, 1)], "k"),
    ):
        with pytest.raises(DoesNotApplyError):
            attempt()


def test_patterns_that_a_kernel_hides_are_asked_for():
    scores = scores_of("hidden patterns")
    for name in ("attention", "previous_token", "attention_entropy", "qk_eigenvalue"):
        assert "load it with attn_implementation='eager'" in str(scores[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("measure", [measure.name for measure in MEASURES])
def test_half_precision_has_the_scores_of_its_weights(measure: str, dtype: str):
    """Rounding moves a score by little of its spread over heads."""
    score = scores_of(dtype)[measure]
    exact = scores_of(dtype, in_float32)[measure]
    assert isinstance(score, DoesNotApplyError) == isinstance(exact, DoesNotApplyError)
    if not isinstance(score, DoesNotApplyError):
        ours, theirs = (np.asarray(each[number_of(measure)].values, dtype=float) for each in (score, exact))
        assert ours.shape == theirs.shape
        assert np.array_equal(np.isnan(ours), np.isnan(theirs))
        spread = max(np.nanstd(theirs), 0.1 * np.nanmax(np.abs(theirs)))
        # What is known is a difference of losses, which have a rounding of their own.
        assert np.nanmean(np.abs(ours - theirs)) < 0.1 * spread + torch.finfo(model_of(dtype).W_E.dtype).eps


@pytest.mark.usefixtures("unchecked")
def test_masks_that_are_not_bool_are_refused():
    for mask in (batch("tokens").mask.int(), batch("tokens").mask.float()):
        for measure in [each for each in MEASURES[:7] if not each.name.startswith("training")]:
            with pytest.raises(ValueError, match=r"batch: its mask is torch\.(int32|float32); it must be torch\.bool"):
                measure(model_of("standard, LN"), batch("tokens")._replace(mask=mask))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_tokens_of_another_integer_type_score_the_same(measure: Measure):
    short = batch("tokens")._replace(inputs=batch("tokens").inputs.int(), targets=batch("tokens").targets.int())
    expected = scores_of("standard, LN")[measure.name]
    if not isinstance(expected, DoesNotApplyError):
        found = measure(model_of("standard, LN"), short)[measure.name].values
        assert np.array_equal(found, expected[measure.name].values, equal_nan=True)
