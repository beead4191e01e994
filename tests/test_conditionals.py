"""Conditional expressions: which prompts a source text has, by hand-made marks, and what the grammar makes."""

import ast
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import language_models
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headway.data import conditionals
from headway.data.conditionals import concatenate, find_prompts, generate_prompts, random_windows, replace_if, twins
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.data.tokenizer import one_token, train_bpe, wrapped

# Every `` else`` that ends a prompt has the mark § before it, and the `` if`` of its expression ¤.
MARKED = {
    "letters of many bytes before it": "größe = 'ü数'; left = größe¤ if ready§ else right\n",
    "one after another": "value = one¤ if first§ else two¤ if second§ else three\n",
    "one within another": "left = right; value = one¤ if (two¤ if first§ else second)§ else three\n",
    "a filter": "items = [item for item in items if ready]\n",
    "a filter and an expression": "items = [one¤ if item§ else two for item in items if ready]\n",
    "brackets around all parts": "value = ((one)¤ if (ready(item))§ else (two))\n",
    "no space before the if": "value = (one)if ready else two\n",
    "no space before the else": "value = one¤ if ready()§ else two if (ready)else three\n",
    "lines and comments": "value = (\n    one  # if so, else not\n   ¤ if ready  # else if\n   § else two\n)\n",
    "a tab": "value = (\n    one if ready\n\telse two\n)\n",
    "two spaces": "value = one¤ if ready § else two\n",
    "a continued line": "value = one¤ if ready \\\n   § else two\n",
    "an argument before another": "check(one¤ if ready(item)§ else two, key=lambda: item¤ if first§ else second)\n",
    "an f-string": 'value = f"{one¤ if ready§ else two}"\n',
    "a string and a comment": "value = 'one if ready else two'  # one if ready else two\n",
    "statements": "if ready:\n    value = one\nelse:\n    value = two\n",
    "windows' line ends": "one = 1\r\nvalue = one¤ if ready§ else two\r\n",
    "old line ends, and letters that end no line": "one = 'a\u2028\x85'\rvalue = one¤ if ready§ else two\r",
}
PLAIN = {name: text.replace("§", "").replace("¤", "") for name, text in MARKED.items()}
draws = generator("data", 5)
WORDS = "".join(PLAIN.values()) + "".join(text for _ in range(97) for text in twins(draws, lines=2))


def trimmed() -> PreTrainedTokenizerFast:
    """One that leaves the space before a token out of the token's place."""
    tokenizer = language_models.tokenizer(WORDS)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def of_spaces() -> PreTrainedTokenizerFast:
    """One of another family: no bytes, no words, and letters that it does not know."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    bpe.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=307, special_tokens=["<s>", "<unk>"], show_progress=False)
    bpe.train_from_iterator([WORDS.replace("数", "")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", unk_token="<unk>")


TOKENIZERS: dict[str, Any] = {
    "our own": wrapped(train_bpe([WORDS], 337)),
    "words": language_models.tokenizer(WORDS),
    "trimmed": trimmed(),
    "of spaces": of_spaces(),
}
TOKENIZER = TOKENIZERS["words"]

each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def spelled(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def strings(batch: Batch) -> list[str]:
    return [TOKENIZER.decode(row) for row in batch.inputs[:, 1:].tolist()]


def by_the_marks(tokenizer: Any, marked: str, length: int) -> list[tuple[list[int], int]]:
    """The prompts before each §, and where the ` if` behind the last open ¤ stands in them."""
    prompts, plain, opened = [], "", []
    for character in marked:
        if character == "¤":
            opened.append(len(spelled(tokenizer, plain)))
        elif character == "§":
            tokens = spelled(tokenizer, plain)
            first = len(tokens) - (length - 1)
            if_at = opened.pop()
            if 0 <= first <= if_at:
                prompts.append(([tokenizer.bos_token_id, *tokens[first:]], 1 + if_at - first))
        else:
            plain += character
    return prompts


class TestFound:
    @each_tokenizer
    @pytest.mark.parametrize("length", [5, 7, 11, 13])
    @pytest.mark.parametrize("marked", MARKED.values(), ids=MARKED)
    def test_prompts_end_at_the_marks(self, tokenizer: Any, marked: str, length: int):
        batch = find_prompts([marked.replace("§", "").replace("¤", "")], tokenizer, length)
        expected = by_the_marks(tokenizer, marked, length)
        got = zip(batch.inputs.tolist(), batch.info["if_position"].tolist(), strict=True)
        assert list(got) == list({tuple(tokens): (tokens, at) for tokens, at in expected}.values())

    @each_tokenizer
    def test_the_marks_are_in_reach_of_a_long_enough_prompt(self, tokenizer: Any):
        before = "\n".join(f"left = {number}" for number in range(17)) + "\n"
        for marked in MARKED.values():
            assert len(by_the_marks(tokenizer, before + marked, 41)) == marked.count("§")

    @pytest.mark.parametrize(
        ("name", "prompts"),
        [
            ("letters of many bytes before it", [" left = größe if ready"]),
            ("one after another", ["value = one if first", " first else two if second"]),
            ("one within another", [" if (two if first"]),
            ("a filter and an expression", [" = [one if item"]),
            ("no space before the else", [" = one if ready()"]),
            ("two spaces", [" = one if ready "]),
            ("an argument before another", [" if ready(item)", "lambda: item if first"]),
            ("an f-string", [' f"{one if ready']),
        ],
    )
    def test_prompts_are_the_words_before_else(self, name: str, prompts: list[str]):
        assert strings(find_prompts([PLAIN[name]], TOKENIZER, 6)) == prompts

    def test_the_if_is_the_expression_s_own(self):
        text = "value = one if (two if first else second) else three"
        batch = find_prompts([text], TOKENIZER, 12)
        assert strings(batch) == ["value = one if (two if first else second)"]
        assert batch.info["if_position"].tolist() == [4]
        # Here only the inner one is in reach.
        assert strings(find_prompts([text], TOKENIZER, 8)) == [" = one if (two if first"]

    def test_one_token_too_few_before_it_is_one_too_few(self):
        text = "value = one if ready else two"
        assert strings(find_prompts([text], TOKENIZER, 6)) == ["value = one if ready"]
        assert strings(find_prompts([text], TOKENIZER, 7)) == []

    def test_the_last_position_alone_counts_and_asks_for_else(self):
        batch = find_prompts(PLAIN.values(), TOKENIZER, 7)
        assert torch.equal(batch.targets[:, :-1], batch.inputs[:, 1:])
        assert (batch.targets[:, -1] == one_token(TOKENIZER, " else")).all()
        assert batch.mask.nonzero().tolist() == [[prompt, 6] for prompt in range(len(batch.inputs))]
        assert batch.task is None

    def test_a_prompt_that_ends_in_a_closing_bracket_is_anomalous(self):
        endings = {"ready": False, "ready()": True, "ready[3]": False, "(ready)": True, "[ready()]": False, "3": False}
        batch = find_prompts([f"left = one if {ending} else two" for ending in endings], TOKENIZER, 6)
        assert dict(zip(endings, batch.info["anomalous"].tolist(), strict=True)) == endings

    def test_a_keyword_without_its_space_is_none_to_a_tokenizer_that_ignores_spaces(self):
        words = Tokenizer(models.WordLevel({"<unk>": 0, "if": 1, "else": 2}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<unk>", unk_token="<unk>")
        assert len(find_prompts(["value = one if (ready) else two"], tokenizer, 7).inputs) == 1
        assert len(find_prompts(["value = one if (ready)else two"], tokenizer, 7).inputs) == 0

    def test_equal_prompts_are_taken_once(self):
        text = "value = one if ready else two\nfirst = second\n"
        assert strings(find_prompts([text, text, "left" + text], TOKENIZER, 5)) == [" = one if ready"]

    def test_what_does_not_parse_is_passed_over(self):
        good = "value = one if ready else two"
        wrong = (f"{good} else", "print one", "value = '\0'", "'\ud800'", "(" * 5000 + ")" * 5000, "-" * 50000 + "1")
        assert strings(find_prompts([*wrong, good, *wrong], TOKENIZER, 6)) == [good.removesuffix(" else two")]

    def test_warnings_about_a_text_are_nobody_s(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            batch = find_prompts([r"left = '\d'; value = one if ready else two"], TOKENIZER, 6)
        assert strings(batch) == [" value = one if ready"]

    def test_texts_are_not_run(self, tmp_path: Path):
        touched = tmp_path / "touched"
        text = f"open({os.fspath(touched)!r}, 'w').close()\nvalue = one if ready else two\n"
        assert strings(find_prompts([text], TOKENIZER, 6)) == ["value = one if ready"]
        assert not touched.exists()
        exec(text.splitlines()[0])
        assert touched.exists()

    @pytest.mark.parametrize("name", ["our own", "words"])
    def test_the_characters_of_bos_are_characters(self, name: str):
        tokenizer = TOKENIZERS[name]
        batch = find_prompts([f"one = 3; value = '{tokenizer.bos_token}' if ready else two"], tokenizer, 12)
        assert (batch.inputs == tokenizer.bos_token_id).sum() == len(batch.inputs) == 1

    def test_nothing_found_is_no_prompt(self):
        batch = find_prompts([], TOKENIZER)
        assert batch.inputs.shape == batch.targets.shape == batch.mask.shape == (0, 16)
        assert {name: (len(value), value.dtype) for name, value in batch.info.items()} == {
            "anomalous": (0, torch.bool),
            "if_position": (0, torch.long),
            "text": (0, torch.long),
        }

    @pytest.mark.parametrize(
        "make", [lambda *of: find_prompts([], *of), lambda *of: generate_prompts(of[0], 0, 2, *of[1:])]
    )
    def test_bad_input_is_refused(self, make: Callable[..., Batch]):
        with pytest.raises(ValueError, match="length: 3 is not valid; it must be at least 4"):
            make(TOKENIZER, 3)
        with pytest.raises(ValueError, match="' if' is not one token of this tokenizer"):
            make(language_models.tokenizer("x else y"))
        with pytest.raises(ValueError, match="' else' is not one token of this tokenizer"):
            make(language_models.tokenizer("x if y"))
        for slow in (SimpleNamespace(is_fast=False), SimpleNamespace()):
            with pytest.raises(ValueError, match="tokenizer: SimpleNamespace is not valid; it must be a fast one"):
                make(slow)


def kind(text: str) -> str:
    """What the condition of a text's conditional expression ends in."""
    (test,) = (node.test for node in ast.walk(ast.parse(text)) if isinstance(node, ast.IfExp))
    while isinstance(test, ast.UnaryOp | ast.BoolOp):
        test = test.operand if isinstance(test, ast.UnaryOp) else test.values[-1]
    if isinstance(test, ast.Call):
        return f"call of {len(test.args)}"
    if isinstance(test, ast.Compare) and f"({ast.unparse(test)}) else" in text:
        return "comparison in brackets"
    last = test.comparators[-1] if isinstance(test, ast.Compare) else test
    return type(last.value).__name__ if isinstance(last, ast.Constant) else type(last).__name__


def alike(one: str, other: str) -> str:
    """What both begin with."""
    return "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    draw = generator("data", 3)
    return [twins(draw, lines=2) for _ in range(3001)]


@pytest.fixture(scope="module")
def generated() -> Batch:
    return generate_prompts(TOKENIZER, seed=0, count=1000)


class TestTwins:
    def test_endings_are_of_all_kinds_alike(self, pairs: list[tuple[str, str]]):
        normal = Counter(kind(text) for text, _ in pairs)
        anomalous = Counter(kind(text) for _, text in pairs)
        assert set(normal) == {"Name", "Attribute", "int", "str", "Subscript"}
        assert set(anomalous) == {"call of 0", "call of 1", "call of 2", "comparison in brackets"}
        for kinds in (normal, anomalous):
            # Four standard deviations of a share.
            share = 1 / len(kinds)
            wide = 4 * (share * (1 - share) / len(pairs)) ** 0.5
            assert all(abs(count / len(pairs) - share) < wide for count in kinds.values())

    def test_statements_are_of_all_kinds(self, pairs: list[tuple[str, str]]):
        last = [ast.parse(text).body[-1] for text, _ in pairs]
        kinds = Counter(
            type(each.value) if isinstance(each, ast.Assign | ast.Expr | ast.Return) else type(each)
            for statement in last
            for each in (statement.body[-1] if isinstance(statement, ast.FunctionDef) else statement,)
        )
        returned = sum("    return " in text.splitlines()[-1] for text, _ in pairs)
        assert set(kinds) == {ast.IfExp, ast.Call, ast.List}
        for count in (kinds[ast.IfExp] - returned, returned, kinds[ast.Call], kinds[ast.List]):
            assert count / len(pairs) == pytest.approx(1 / 4, abs=4 * (3 / 16 / len(pairs)) ** 0.5)

    def test_twins_differ_in_the_ending_alone(self, pairs: list[tuple[str, str]]):
        for normal, anomalous in pairs:
            before, after = alike(normal, anomalous), alike(normal[::-1], anomalous[::-1])[::-1]
            assert " if " in before
            assert " else " in after
            assert anomalous.rpartition(" else ")[0].endswith(")")
            assert not normal.rpartition(" else ")[0].endswith(")")


class TestGenerated:
    @each_tokenizer
    def test_else_follows_as_a_token_of_its_own(self, tokenizer: Any):
        batch = generate_prompts(tokenizer, seed=1, count=22, length=29)
        for row in batch.inputs[:, 1:].tolist():
            text = tokenizer.decode(row, clean_up_tokenization_spaces=False)
            assert spelled(tokenizer, text + " else")[-3:] == [*row[-2:], one_token(tokenizer, " else")]
        assert (batch.targets[:, -1] == one_token(tokenizer, " else")).all()
        assert (batch.inputs[:, 0] == tokenizer.bos_token_id).all()
        at = batch.info["if_position"]
        assert (batch.inputs[torch.arange(22), at] == one_token(tokenizer, " if")).all()
        assert (batch.inputs == one_token(tokenizer, " if")).sum() == 22

    def test_every_second_prompt_ends_in_a_closing_bracket(self, generated: Batch):
        assert generated.info["anomalous"].tolist() == [False, True] * 500
        ends = [text.endswith(")") for text in strings(generated)]
        assert ends == [False, True] * 500

    def test_twins_share_what_stands_before_the_ending(self, generated: Batch):
        if_at = generated.info["if_position"].tolist()
        rows = generated.inputs.tolist()
        for normal in range(0, 1000, 2):
            # The condition's first word too.
            shared = [rows[each][1 : if_at[each] + 2] for each in (normal, normal + 1)]
            reach = min(map(len, shared))
            assert reach >= 2
            assert shared[0][-reach:] == shared[1][-reach:]

    def test_endings_are_varied(self, generated: Batch):
        normal = Counter(text.split()[-1][-1] for text in strings(generated)[::2])
        share = {
            "letter": sum(count for end, count in normal.items() if end.isalpha()),
            "number": sum(count for end, count in normal.items() if end.isdigit()),
            "string": normal['"'] + normal["'"],
            "bracket": normal["]"],
        }
        assert sum(share.values()) == 500
        assert share["letter"] > share["number"] > 50 < share["string"]
        assert share["bracket"] > 50

    def test_a_bracket_elsewhere_tells_nothing(self, generated: Batch):
        closing = [")" in text[:-1] for text in strings(generated)]
        assert 0.2 < sum(closing[::2]) / 500 < 0.8

    def test_there_are_thousands_and_none_comes_twice(self):
        rows = generate_prompts(TOKENIZER, seed=2, count=2000).inputs.tolist()
        assert len(set(map(tuple, rows))) == 2000

    def test_pairs_stay_pairs_where_prompts_are_few(self):
        batch = generate_prompts(TOKENIZER, seed=0, count=100, length=5)
        assert batch.info["anomalous"].tolist() == [False, True] * 50

    def test_a_seed_gives_the_same_and_another_others(self, generated: Batch):
        torch.manual_seed(5)
        again = generate_prompts(TOKENIZER, seed=0, count=100)
        assert torch.equal(again.inputs, generated.inputs[:100])
        other = generate_prompts(TOKENIZER, seed=1, count=100)
        assert not set(map(tuple, other.inputs.tolist())) & set(map(tuple, again.inputs.tolist()))

    @pytest.mark.parametrize("length", [7, 16, 61])
    def test_a_long_prompt_is_as_full_as_a_short_one(self, length: int):
        batch = generate_prompts(TOKENIZER, seed=0, count=10, length=length)
        assert batch.inputs.shape == (10, length)
        assert (batch.inputs == TOKENIZER.bos_token_id).sum() == 10

    @pytest.mark.parametrize("count", [0, 1, -2, 7])
    def test_a_count_of_no_pairs_is_refused(self, count: int):
        with pytest.raises(ValueError, match=f"count: {count} is not valid; it must be even and at least 2"):
            generate_prompts(TOKENIZER, seed=0, count=count)

    def test_a_length_with_too_few_prompts_is_refused(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(conditionals, "MAX_TRIES", 100)
        with pytest.raises(ValueError, match=r"length: 4 is not valid for 5000 prompts; .* more than [0-9]+ prompts"):
            generate_prompts(TOKENIZER, seed=0, count=5000, length=4)


class TestTogether:
    def test_prompts_of_two_batches_are_one_after_another(self):
        one, another = (
            find_prompts(PLAIN.values(), TOKENIZER, 7),
            generate_prompts(TOKENIZER, seed=0, count=4, length=7),
        )
        both = concatenate([one, another])
        n = len(one.inputs)
        for joined, parts in zip(both[:3], zip(one[:3], another[:3], strict=True), strict=True):
            assert torch.equal(joined[:n], parts[0])
            assert torch.equal(joined[n:], parts[1])
        assert {name: value[n:].tolist() for name, value in both.info.items()} == {
            name: value.tolist() for name, value in another.info.items()
        }
        assert both.task is None

    def test_nothing_found_adds_nothing(self):
        one = find_prompts(PLAIN.values(), TOKENIZER, 7)
        assert torch.equal(concatenate([find_prompts([], TOKENIZER, 7), one]).inputs, one.inputs)

    def test_what_does_not_fit_together_is_refused(self):
        with pytest.raises(ValueError, match="batches: lengths none are not valid"):
            concatenate([])
        with pytest.raises(ValueError, match="batches: lengths 7, 11 are not valid"):
            concatenate([find_prompts([], TOKENIZER, 7), find_prompts([], TOKENIZER, 11)])
        with pytest.raises(ValueError, match=r"batches: lengths 7, 7 are not valid; .* the same info"):
            concatenate([find_prompts([], TOKENIZER, 7), find_prompts([], TOKENIZER, 7)._replace(info={})])


class TestOrdinary:
    TEXTS = ("one = two", "value = one if ready else two\nleft = right\n" * 3)

    def test_windows_are_neighbours_of_one_text_after_bos(self):
        batch = random_windows(self.TEXTS, TOKENIZER, seed=0, count=61, length=5)
        assert bool((batch.inputs[:, 0] == TOKENIZER.bos_token_id).all())
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        assert bool(batch.mask.all())
        windows = {TOKENIZER.decode(row) for row in batch.targets}
        assert all(any(window in text for text in self.TEXTS) for window in windows)
        # They end anywhere: before any token of the second text, of which all are drawn.
        spelled = TOKENIZER.encode(self.TEXTS[1], add_special_tokens=False)
        every = {tuple(spelled[i : i + 5]) for i in range(len(spelled) - 4)}
        assert every <= set(map(tuple, random_windows(self.TEXTS, TOKENIZER, 0, 2003, 5).targets.tolist()))

    def test_a_seed_gives_the_same_and_another_others(self):
        one, same, other = (random_windows(self.TEXTS, TOKENIZER, seed, 31, 5).targets for seed in (0, 0, 1))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_texts_that_are_all_shorter_are_refused(self):
        with pytest.raises(ValueError, match=r"length: 61 is longer than every text; the longest has [0-9]+ tokens"):
            random_windows(self.TEXTS[:1], TOKENIZER, seed=0, count=3, length=61)
        with pytest.raises(ValueError, match="the longest has 0 tokens"):
            random_windows([], TOKENIZER, seed=0, count=3, length=5)


def test_another_token_stands_where_the_if_of_the_expression_stood():
    batch = find_prompts(PLAIN.values(), TOKENIZER, 7)
    comma = one_token(TOKENIZER, ",")
    changed = replace_if(batch, comma)
    different = changed.inputs != batch.inputs
    assert different.sum(1).tolist() == [1] * len(batch.inputs)
    assert torch.equal(different.nonzero()[:, 1], batch.info["if_position"])
    assert bool((batch.inputs[different] == one_token(TOKENIZER, " if")).all())
    assert bool((changed.inputs[different] == comma).all())
