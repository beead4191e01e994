"""Sequences that are shown differ from each other, and those of one run are the same at all of its checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toys import TOKENS, VECTORS, Train

from headway.analyze import measure
from headway.analyze.measures.attention import STORED_SEQUENCES, attention
from headway.analyze.measures.variety import varied_sequences
from headway.analyze.network.forward import forward_pass
from headway.checkpoints import Run
from headway.checkpoints.scores import read_file, score_file, write_scores
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch


@pytest.mark.parametrize("seed", range(5))
def test_induction_is_shown_on_other_periods_with_and_without_a_lead_in(seed: int):
    batch = RepeatedTokens().evaluation_batch(seed, 64)
    chosen = varied_sequences(batch, 4)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert chosen == varied_sequences(batch, 4)
    kinds = {(batch.info["period"][each].item(), batch.info["lead"][each].item() > 0) for each in chosen}
    assert len({period for period, _ in kinds}) >= 3
    assert {lead for _, lead in kinds} == {True, False}


def test_a_sequence_that_is_equal_to_one_already_chosen_comes_last():
    tokens = torch.tensor([[1, 2, 3, 1], [4, 5, 6, 4], [1, 1, 1, 1], [2, 3, 3, 2]])
    batch = Batch(tokens, tokens, torch.ones(4, 4, dtype=torch.bool))
    # The second repeats at the distance of the first; its tokens do not matter.
    assert varied_sequences(batch, 3) == [0, 2, 3]
    assert varied_sequences(batch, 9) == [0, 1, 2, 3]
    masked = batch._replace(mask=torch.tensor([[True] * 4] * 3 + [[False] * 4]))
    assert 3 in varied_sequences(masked, 2)


def test_vectors_are_told_apart_by_the_positions_that_count():
    batch = VECTORS.task.evaluation_batch(0, 7)
    assert len(set(varied_sequences(batch, 4))) == 4


def test_attention_is_that_of_the_chosen_sequences_with_their_tokens(trained: Train, tmp_path: Path):
    run = trained(TOKENS, tmp_path / "run")
    batch, model = run.batch(), run.model()
    chosen = varied_sequences(batch, STORED_SEQUENCES)
    stored = attention(model, batch).attention
    expected = forward_pass(model, batch).patterns[:, chosen].transpose(1, 2)
    np.testing.assert_array_equal(stored, expected.detach())
    kept = run.scores.attention
    assert kept.attrs["sequences"] == chosen
    assert kept.attrs["tokens"] == run.task.labels(batch.at(chosen))


def test_attention_on_other_sequences_is_computed_again_wherever_it_is_kept(trained: Train, tmp_path: Path):
    run = trained(TOKENS, tmp_path / "run")
    expected = run.scores.attention.load()
    for step in run.steps[:2]:  # as an older Headway stored it
        path = score_file(run.path, step, "attention")
        scores = read_file(path)
        del scores.attention.attrs["sequences"]
        scores.attention[:] = 0.5
        write_scores(path, scores)
    others = {path: path.stat().st_mtime_ns for path in run.path.glob("scores/*/*") if path.stem != "attention"}
    measure(Run(run.path), [attention])
    np.testing.assert_array_equal(Run(run.path).scores.attention, expected)
    assert {path: path.stat().st_mtime_ns for path in others} == others
