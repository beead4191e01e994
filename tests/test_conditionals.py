"""Prompts before `` else``: which are taken from source texts, and what the grammar draws."""

from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import source
from language_models import tokenizer as gpt2_like

from headway.data.conditionals import found, generated, twins
from headway.data.seeds import generator
from headway.data.tokenizer import one_token, train_bpe, wrapped


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    drawn = [text for seed in range(101) for text in twins(generator("data", seed), lines=3)]
    return wrapped(train_bpe([*drawn, *(source(number) for number in range(7))], n_tokens=613))


def prompts(tokenizer: Any, *texts: str, length: int = 5) -> dict[str, bool]:
    batch = found(texts, tokenizer, length)
    strings = [tokenizer.decode(row) for row in batch.inputs[:, 1:].tolist()]
    return dict(zip(strings, batch.info["anomalous"].tolist(), strict=True))


def ends(tokenizer: Any, *texts: str) -> list[str]:
    """What each prompt says from its own `` if`` on."""
    batch = found(texts, tokenizer, 11)
    pairs = zip(batch.inputs.tolist(), batch.info["if_position"].tolist(), strict=True)
    return [tokenizer.decode(row[place:]) for row, place in pairs]


class TestFound:
    def test_the_tokens_before_else_are_a_prompt(self, tokenizer: Any):
        batch = found(["total = 1\nitem = left if right else value\n"], tokenizer, 6)
        assert tokenizer.decode(batch.inputs[0, 1:]).endswith(" left if right")
        assert batch.inputs[0, 0] == 0
        assert torch.equal(batch.inputs[0, 1:], batch.targets[0, :-1])
        assert batch.targets[0, -1] == one_token(tokenizer, " else")
        assert batch.mask.tolist() == [[False] * 5 + [True]]
        assert batch.inputs[0, batch.info["if_position"][0]] == one_token(tokenizer, " if")

    def test_a_condition_that_ends_in_a_bracket_is_anomalous(self, tokenizer: Any):
        assert list(prompts(tokenizer, "a = b\nitem = left if right else 0").values()) == [False]
        assert list(prompts(tokenizer, "a = b\nitem = left if f() else 0").values()) == [True]
        assert list(prompts(tokenizer, "a = b\nitem = left if x[0] else 0", length=7).values()) == [False]

    def test_characters_of_several_bytes_move_nothing(self, tokenizer: Any):
        assert ends(tokenizer, "größe = '数' + 'é'; item = '数' if right else value") == [" if right"]

    def test_nested_expressions_are_two(self, tokenizer: Any):
        text = "total = count\ntotal = count\nitem = left if right else value if ready else path"
        assert ends(tokenizer, text) == [" if right", " if ready"]

    @pytest.mark.parametrize(
        "text",
        [
            "total = count\nitem = [left for left in right if ready]\nvalue = 1",
            "total = count\nif total:\n    item = 1\nelse:\n    item = 2",
            "total = count\n'item = left if right else value'",
            "total = count  # item = left if right else value",
            "total = count\nfor item in left:\n    pass\nelse:\n    pass",
        ],
    )
    def test_what_is_no_conditional_expression_is_not_taken(self, tokenizer: Any, text: str):
        assert prompts(tokenizer, text) == {}

    def test_line_breaks_and_comments_between_do_not_mislead(self, tokenizer: Any):
        text = "total = count\nitem = (left if right  # or so else not\n    else value)\n"
        assert ends(tokenizer, text) in ([], [" if right  # or so else not\n   "])

    def test_what_does_not_parse_is_passed_over(self, tokenizer: Any):
        good = "total = count\nitem = left if right else value"
        assert prompts(tokenizer, "item = left if right else (", "\0", good) == prompts(tokenizer, good)

    def test_texts_are_never_run(self, tokenizer: Any, tmp_path: Path):
        trap = tmp_path / "run"
        text = f"open({str(trap)!r}, 'w')\nitem = left if right else value\n"
        assert len(prompts(tokenizer, text)) == 1
        assert not trap.exists()

    def test_equal_prompts_are_one_and_short_texts_none(self, tokenizer: Any):
        text = "total = count\nitem = left if right else value\n"
        assert len(prompts(tokenizer, text, text)) == 1
        assert found([text], tokenizer, 97).inputs.shape == (0, 97)


class TestGenerated:
    def test_twins_differ_in_the_end_of_the_condition_alone(self):
        for seed in range(53):
            normal, anomalous = twins(generator("data", seed), lines=2)
            before, after = normal.split(" else ")[0], anomalous.split(" else ")[0]
            assert normal.split(" else ")[1:] == anomalous.split(" else ")[1:]
            assert normal[: normal.rindex(" if ")] == anomalous[: anomalous.rindex(" if ")]
            assert after.endswith(")")
            assert not before.endswith(")")
            compile(normal, "normal", "exec", flags=0x400)  # ast.PyCF_ONLY_AST: it is Python, and is not run
            compile(anomalous, "anomalous", "exec", flags=0x400)

    def test_pairs_are_normal_and_anomalous_in_turn(self, tokenizer: Any):
        batch = generated(tokenizer, seed=0, count=38)
        assert batch.info["anomalous"].tolist() == [False, True] * 19
        assert len({tuple(row) for row in batch.inputs.tolist()}) == 38
        for row, anomalous in zip(batch.inputs.tolist(), batch.info["anomalous"].tolist(), strict=True):
            assert tokenizer.decode(row[-1:]).endswith(")") == anomalous

    def test_the_seed_alone_decides(self, tokenizer: Any):
        first = generated(tokenizer, seed=0, count=22)
        assert torch.equal(first.inputs, generated(tokenizer, seed=0, count=22).inputs)
        assert torch.equal(first.inputs[:14], generated(tokenizer, seed=0, count=14).inputs)
        assert not torch.equal(first.inputs, generated(tokenizer, seed=1, count=22).inputs)

    @pytest.mark.parametrize(
        ("count", "length", "says"), [(3, 16, "count: 3"), (0, 16, "count: 0"), (2, 3, "length: 3")]
    )
    def test_bad_numbers_are_refused(self, tokenizer: Any, count: int, length: int, says: str):
        with pytest.raises(ValueError, match=says):
            generated(tokenizer, seed=0, count=count, length=length)

    def test_a_tokenizer_that_splits_the_keywords_is_refused(self):
        with pytest.raises(ValueError, match=r"is split into"):
            generated(gpt2_like(), seed=0, count=2)
