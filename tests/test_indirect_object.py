"""Indirect objects: who is named where, what a corrupted sentence leaves, and the same sentences in other tokens."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from headway.checkpoints.recipe import Recipe
from headway.data.indirect_object import (
    NAMES,
    OBJECTS,
    PLACES,
    SLOTS,
    TEMPLATES,
    IndirectObject,
    TokenizedIndirectObject,
    in_tokens,
    join_words,
    split_words,
)
from headway.data.task import Batch, masked_mean
from headway.models.config import ModelConfig

FEW = IndirectObject(n_names=11)
SENTENCES = [join_words(word for word in split_words(template) if word not in SLOTS) for template in TEMPLATES]


def tokenizer(texts: Iterable[str], across_words: bool = False, **special: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, in which every word of ``texts`` is one token behind a space, and words elsewhere are split."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_words)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=5000,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([f" {text}" for text in texts], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **special)


# Places and objects are split into pieces, and so are most words of the templates.
PIECES = tokenizer([*NAMES, "the", "and", "according"], eos_token="<end>")
TOKENIZED = in_tokens(PIECES, FEW)
VARIED = replace(FEW, s2_place="varied")
TASKS = {
    "words": FEW,
    "ABBA": replace(FEW, order="ABBA"),
    "BABA": replace(FEW, order="BABA"),
    "varied": VARIED,
    "tokens": TOKENIZED,
}

each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def same(a: Batch, b: Batch) -> bool:
    pairs = [(a.inputs, b.inputs), (a.targets, b.targets), (a.mask, b.mask)]
    pairs += [(a.info[name], b.info[name]) for name in a.info.keys() | b.info.keys()]
    return all(torch.equal(x, y) for x, y in pairs)


def of_each(batch: Batch) -> Iterator[tuple[list[int], list[int], dict[str, int]]]:
    """Inputs, targets and the single numbers of ``info`` of each sentence."""
    numbers = {name: values.tolist() for name, values in batch.info.items() if values.ndim == 1}
    for b, (inputs, targets) in enumerate(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)):
        yield inputs, targets, {name: values[b] for name, values in numbers.items()}


def slots_of(template: str, words: list[str]) -> dict[str, str]:
    """What stands in each slot of a sentence that is otherwise the template."""
    pairs = list(zip(split_words(template), words, strict=True))
    assert all(have == expected for expected, have in pairs if expected not in SLOTS)
    return {expected: have for expected, have in pairs if expected in SLOTS}


def deviates(values: Tensor, choices: int) -> bool:
    """Whether counts of ``choices`` outcomes are further from uniform than four standard deviations of chi-squared."""
    expected = len(values) / choices
    statistic = ((values.bincount(minlength=choices) - expected) ** 2 / expected).sum().item()
    return abs(statistic - (choices - 1)) > 4 * math.sqrt(2 * (choices - 1))


# What there is to say


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_has_each_slot_once_and_ends_before_a_name(template: str):
    words = split_words(template)
    assert all(words.count(slot) == 1 for slot in SLOTS)
    assert words.index("FIRST") < words.index("SECOND") < words.index("AGAIN")
    # A name that began the text would be another token than the same name behind a space.
    assert words[0] not in SLOTS
    assert words[-1] in ("to", "for")
    assert join_words(words) == template


def test_words_are_told_apart():
    assert len(NAMES) >= 90
    words = IndirectObject().words
    assert len(words) == len(set(words))
    assert set(words) == {"BOS", *NAMES, *PLACES, *OBJECTS, *(word for text in SENTENCES for word in split_words(text))}
    # Spelled without a space before it, the first word is spelled so wherever it stands.
    first_words = [split_words(template)[0] for template in TEMPLATES]
    assert len(set(first_words)) == len(TEMPLATES)
    assert not set(first_words) & {word for template in TEMPLATES for word in split_words(template)[1:]}
    # "a" stands before objects.
    assert not any(thing[0] in "aeiou" for thing in OBJECTS)


# Sentences


@settings(deadline=None)
@given(n_names=st.integers(6, len(NAMES)), order=st.sampled_from(["mixed", "ABBA", "BABA"]), seed=st.integers(0, 1000))
def test_io_comes_once_and_s_twice_in_the_order_that_info_says(n_names: int, order, seed: int):
    task = IndirectObject(n_names, order)
    batch = task.batch(seed, 0, batch_size=7)
    assert batch.inputs.shape == (7, task.n_ctx)
    for (inputs, targets, info), others in zip(of_each(batch), batch.info["others"].tolist(), strict=True):
        end = info["end"]
        words = [task.words[token] for token in inputs[1 : end + 1]]
        in_slots = slots_of(TEMPLATES[info["template"]], words)
        answer = task.words[targets[end]]
        assert {in_slots["AGAIN"], answer} == {in_slots["FIRST"], in_slots["SECOND"]}
        assert {in_slots["FIRST"], in_slots["SECOND"]} < set(task.names)
        assert in_slots["PLACE"] in PLACES
        assert in_slots["OBJECT"] in OBJECTS
        assert info["order"] == ["FIRST", "SECOND"].index("FIRST" if answer == in_slots["FIRST"] else "SECOND")
        assert order == "mixed" or info["order"] == ["ABBA", "BABA"].index(order)

        assert [q for q, token in enumerate(inputs) if token == info["io_token"]] == [info["io"]]
        assert [q for q, token in enumerate(inputs) if token == info["s_token"]] == [info["s1"], info["s2"]]
        assert (info["io"] < info["s1"]) == (info["order"] == 0)
        assert task.words[info["io_token"]] == answer
        assert set(others) <= set(task.name_tokens.tolist())
        assert len({*others, info["io_token"], info["s_token"]}) == 5


@each_task
def test_targets_are_the_next_tokens_and_count_up_to_the_answer(task: IndirectObject):
    batch = task.batch(0, 0, batch_size=101)
    for (inputs, targets, info), mask in zip(of_each(batch), batch.mask.tolist(), strict=True):
        end = info["end"]
        assert inputs[0] == task.bos_token
        assert [*inputs[1:], task.bos_token] == targets[:end] + [task.bos_token] * (task.n_ctx - end)
        assert targets[end:] == [info["io_token"]] + [task.bos_token] * (task.n_ctx - end - 1)
        assert mask == [True] * (end + 1) + [False] * (task.n_ctx - end - 1)
    parts = task.parts(batch)
    assert torch.equal(parts["end"].int().argmax(1), batch.info["end"])
    assert (parts["end"].sum(1) == 1).all()
    assert torch.equal(parts["end"] ^ parts["before"], batch.mask)


@each_task
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), indices=st.lists(st.integers(0, 10**6), min_size=2, max_size=5, unique=True))
def test_a_batch_depends_on_seed_and_index_alone(task: IndirectObject, seed: int, indices: list[int]):
    before = torch.get_rng_state()
    forwards = {k: task.batch(seed, k, batch_size=5) for k in indices}
    backwards = {k: task.batch(seed, k, batch_size=5) for k in reversed(indices)}
    assert all(same(forwards[k], backwards[k]) for k in indices)
    assert not same(forwards[indices[0]], forwards[indices[1]])
    assert not same(forwards[indices[0]], task.batch(seed + 1, indices[0], batch_size=5))
    assert torch.equal(before, torch.get_rng_state())


def test_everything_is_drawn_uniformly():
    batch = FEW.batch(0, 0, batch_size=4001)
    io, s = batch.info["io_token"] - 1, batch.info["s_token"] - 1
    assert not deviates(batch.info["template"], len(TEMPLATES))
    assert not deviates(batch.info["order"], 2)
    assert not deviates(io * 10 + s - (s > io).long(), 11 * 10)
    # Which of the names come first tells nothing of which template, or which order, it is.
    assert not deviates(batch.info["template"] * 2 + batch.info["order"], 2 * len(TEMPLATES))
    assert not deviates(io * 2 + batch.info["order"], 2 * 11)
    for fillers in (PLACES, OBJECTS):
        tokens = torch.tensor([FEW.words.index(word) for word in fillers])
        found = (batch.inputs[..., None] == tokens).int().amax(1)
        assert (found.sum(1) == 1).all()
        assert not deviates(found.argmax(1), len(fillers))
    assert not deviates(batch.info["others"].flatten() - 1, 11)


def test_io_cannot_be_told_from_the_third_name_if_the_place_of_s2_is_varied():
    batch = VARIED.batch(0, 0, batch_size=4001)
    assert not deviates(batch.info["order"], 3)
    for inputs, targets, info in of_each(batch):
        words = [VARIED.words[token] for token in inputs[1 : info["end"] + 1]]
        in_slots = slots_of(TEMPLATES[info["template"]], words)
        names = [in_slots[slot] for slot in ("FIRST", "SECOND", "AGAIN")]
        assert [names.count(name) for name in names][info["order"]] == 1
        assert VARIED.words[targets[info["end"]]] == names[info["order"]] == VARIED.words[info["io_token"]]
        assert [q for q, token in enumerate(inputs) if token == info["io_token"]] == [info["io"]]
        assert [q for q, token in enumerate(inputs) if token == info["s_token"]] == [info["s1"], info["s2"]]
    assert in_tokens(PIECES, VARIED).s2_place == "varied"


def test_the_place_of_s2_changes_nothing_where_it_is_last():
    last, varied = FEW.batch(0, 0, batch_size=101), VARIED.batch(0, 0, batch_size=101)
    for name in ("template", "io_token", "s_token", "others", "end"):
        assert torch.equal(last.info[name], varied.info[name])
    with pytest.raises(ValueError, match=r"^s2_place: 'first' is not valid; it must be one of last, varied$"):
        replace(FEW, s2_place="first")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^order: 'ABBA' is not valid; it must be mixed with s2_place varied$"):
        replace(VARIED, order="ABBA")


def test_the_order_changes_nothing_but_the_order():
    abba, baba = (replace(FEW, order=order).batch(0, 0, batch_size=101) for order in ("ABBA", "BABA"))
    for name in ("template", "io_token", "s_token", "others", "s2", "end"):
        assert torch.equal(abba.info[name], baba.info[name])
    assert torch.equal(abba.info["io"], baba.info["s1"])
    assert torch.equal(abba.info["s1"], baba.info["io"])
    assert ((abba.inputs != baba.inputs).sum(1) == 2).all()


def test_all_names_are_used():
    batch = IndirectObject().batch(0, 0, batch_size=2003)
    assert batch.info["io_token"].unique().tolist() == list(range(1, 1 + len(NAMES)))
    assert [IndirectObject().words[token] for token in IndirectObject().name_tokens] == list(NAMES)


def test_labels_are_the_words():
    batch = FEW.batch(0, 0, batch_size=3)
    assert FEW.labels(batch) == [[FEW.words[token] for token in row] for row in batch.inputs.tolist()]


# Corrupted sentences


@each_task
def test_a_corrupted_sentence_differs_in_its_names_alone(task: IndirectObject):
    batch = task.batch(0, 0, batch_size=101)
    kept = Batch(batch.inputs.clone(), batch.targets.clone(), batch.mask.clone(), dict(batch.info))
    corrupted = task.corrupted(batch)
    assert same(batch, kept)
    assert corrupted.info is batch.info
    assert corrupted.task is task
    assert torch.equal(corrupted.mask, batch.mask)
    for b, (inputs, targets, info) in enumerate(of_each(corrupted)):
        at = [info["io"], info["s1"], info["s2"]]
        assert [inputs[q] for q in at] == batch.info["others"][b].tolist()
        assert len({inputs[q] for q in at} | {info["io_token"], info["s_token"]}) == 5
        assert (corrupted.inputs[b] != batch.inputs[b]).nonzero()[:, 0].tolist() == sorted(at)
        assert targets[: info["end"]] == inputs[1 : info["end"] + 1]
        # What is asked is the answer to the original.
        assert targets[info["end"] :] == batch.targets[b, info["end"] :].tolist()
        assert targets[info["end"]] == info["io_token"] not in inputs
    assert same(task.corrupted(corrupted), corrupted)


@each_task
def test_in_a_twin_either_name_may_be_the_answer(task: IndirectObject):
    """IO and S stand where they stood, and a third name comes instead of the second S."""
    batch = task.batch(0, 0, batch_size=101)
    kept = batch.inputs.clone()
    twin = task.twin(batch, torch.Generator())
    assert torch.equal(batch.inputs, kept)
    for b, (inputs, _, info) in enumerate(of_each(twin)):
        assert (twin.inputs[b] != batch.inputs[b]).nonzero()[:, 0].tolist() == [info["s2"]]
        assert (inputs[info["io"]], inputs[info["s1"]]) == (info["io_token"], info["s_token"])
        assert inputs[info["s2"]] not in (info["io_token"], info["s_token"])
    # Without the name that is repeated, the two are alike: a guess between them is the best that a network can do. With
    # varied places S is at two of three, as likely at each pair of them, and in one of these IO comes first.
    counts: dict[bool, int] = {False: 0, True: 0}
    for info in (each[2] for each in of_each(task.twin(task.batch(0, 1, batch_size=1009), torch.Generator()))):
        counts[info["io"] < info["s1"]] += 1
    if task.order == "mixed":
        first = 1 / 3 if task.s2_place == "varied" else 0.5
        assert counts[True] / 1009 == pytest.approx(first, abs=0.06)


# Baselines


def every_sentence(task: IndirectObject) -> Iterator[list[str]]:
    """The words of each sentence that can be drawn, with its answer; all are as likely."""
    orders = (0, 1, 2) if task.s2_place == "varied" else {"mixed": (0, 1), "ABBA": (0,), "BABA": (1,)}[task.order]
    for template in map(split_words, TEMPLATES):
        for (io, s), order in itertools.product(itertools.permutations(task.names, 2), orders):
            names = [io if slot == order else s for slot in range(3)]
            for place, thing in itertools.product(PLACES, OBJECTS):
                filled = dict(zip(SLOTS, (*names, place, thing), strict=True))
                yield [*(filled.get(word, word) for word in template), io]


def ideal_losses(rows: Tensor) -> Tensor:
    """Loss at each position of a predictor that knows how many of the rows begin in each way; NaN on padding, -1."""
    begun, losses = torch.zeros(len(rows), dtype=torch.long), torch.full(rows.shape, torch.nan)
    for q, tokens in enumerate(rows.unbind(1)):
        here = tokens >= 0
        _, group, sizes = begun[here].unique(return_inverse=True, return_counts=True)
        _, after, sizes_after = (group * 10_000 + tokens[here]).unique(return_inverse=True, return_counts=True)
        losses[here, q] = (sizes[group] / sizes_after[after]).log()
        begun[here] = after
    return losses


@pytest.mark.parametrize(
    "task",
    [
        IndirectObject(n_names=6),
        IndirectObject(n_names=6, order="BABA"),
        IndirectObject(n_names=6, s2_place="varied"),
        in_tokens(PIECES, IndirectObject(6, "ABBA")),
    ],
    ids=["words", "BABA", "varied", "tokens"],
)
def test_the_best_losses_are_those_of_an_ideal_predictor(task: IndirectObject):
    spelling = task.spelling if isinstance(task, TokenizedIndirectObject) else [(k,) for k in range(task.d_vocab)]
    of_word = dict(zip(task.words, spelling, strict=True))
    rows = [[token for word in words for token in of_word[word]] for words in every_sentence(task)]
    assert len({*map(tuple, rows)}) == len(rows)
    longest = max(map(len, rows))
    # An answer stands where the token before it was asked for it.
    assert longest == task.n_ctx
    losses = ideal_losses(torch.tensor([row + [-1] * (longest - len(row)) for row in rows])).double()
    ends = losses[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
    baselines = task.baselines()
    assert losses.nanmean().item() == pytest.approx(baselines["best"])
    assert (losses.nansum() / (losses.isfinite().sum() - len(rows))).item() == pytest.approx(baselines["before_best"])
    assert ends.abs().max().item() == baselines["end_best"] == 0.0

    possible = {*map(tuple, rows)}
    batch = task.batch(0, 0, batch_size=101)
    for _, targets, info in of_each(batch):
        assert tuple(targets[: info["end"] + 1]) in possible


@each_task
def test_what_little_knowledge_is_worth(task: IndirectObject):
    batch = task.batch(0, 0, batch_size=101)
    end, baselines = task.parts(batch)["end"], task.baselines()
    flat = torch.zeros(101, task.n_ctx, task.d_vocab)
    a_name, either, exact = (torch.full_like(flat, -1e4) for _ in range(3))
    a_name[..., task.name_tokens] = 0
    for name, output in (("io_token", either), ("s_token", either), ("io_token", exact)):
        output[torch.arange(101), :, batch.info[name]] = 0
    assert masked_mean(task.loss(flat, batch), batch.mask).item() == pytest.approx(baselines["chance"])
    for name, output in (("any_name", a_name), ("either_name", either), ("best", exact)):
        assert masked_mean(task.loss(output, batch), end).item() == pytest.approx(baselines[f"end_{name}"]), name


# In the tokens of a tokenizer


def test_the_sentences_are_the_same_in_other_tokens():
    assert max(map(len, TOKENIZED.spelling)) > 2, "nothing is split"
    assert TOKENIZED.names == FEW.names
    assert TOKENIZED.words == FEW.words
    words, tokens = (task.batch(3, 5, batch_size=101) for task in (FEW, TOKENIZED))
    for name in ("template", "order"):
        assert torch.equal(words.info[name], tokens.info[name])
    for (inputs, targets, at), (pieces, next_pieces, piece_at) in zip(of_each(words), of_each(tokens), strict=True):
        sentence = [FEW.words[token] for token in inputs[1 : at["end"] + 1]]
        assert PIECES.decode(pieces[1 : piece_at["end"] + 1]) == join_words(sentence)
        assert PIECES.decode(next_pieces[: piece_at["end"] + 1]) == join_words(
            [*sentence, FEW.words[targets[at["end"]]]]
        )
        for name in ("io", "s1", "s2"):
            assert PIECES.decode([pieces[piece_at[name]]]) == " " + FEW.words[inputs[at[name]]]
        for name in ("io_token", "s_token"):
            assert PIECES.decode([piece_at[name]]) == " " + FEW.words[at[name]]
    others = [str(PIECES.decode(row)).split() for row in tokens.info["others"].tolist()]
    assert others == [[FEW.words[token] for token in row] for row in words.info["others"].tolist()]


def test_a_tokenized_task_is_its_tokenizers():
    assert TOKENIZED.d_vocab == len(PIECES)
    assert TOKENIZED.bos_token == PIECES.eos_token_id
    assert PIECES.convert_ids_to_tokens(TOKENIZED.name_tokens.tolist()) == [f"Ġ{name}" for name in FEW.names]
    batch = TOKENIZED.batch(0, 0, batch_size=3)
    assert TOKENIZED.labels(batch) == [PIECES.convert_ids_to_tokens(row) for row in batch.inputs.tolist()]
    assert in_tokens(PIECES, FEW) == TOKENIZED
    assert hash(in_tokens(PIECES, FEW)) == hash(TOKENIZED)
    assert in_tokens(PIECES, TOKENIZED) == TOKENIZED
    assert in_tokens(PIECES, replace(FEW, order="BABA")).order == "BABA"
    assert in_tokens(PIECES).names == NAMES


def test_a_bos_token_goes_before_an_eos_token():
    both = tokenizer(NAMES, bos_token="<start>", eos_token="<end>")
    assert in_tokens(both).bos_token == both.bos_token_id != both.eos_token_id
    with pytest.raises(
        ValueError, match=r"^tokenizer: .+ is not valid; it must have a bos_token_id or an eos_token_id$"
    ):
        in_tokens(tokenizer(NAMES))


def test_names_that_are_split_are_left_out_or_refused():
    without = tokenizer([name for name in NAMES if name not in ("Alice", "Oscar")], eos_token="<end>")
    task = in_tokens(without)
    assert task.names == tuple(name for name in NAMES if name not in ("Alice", "Oscar"))
    assert task.n_names == len(NAMES) - 2
    batch = task.batch(0, 0, batch_size=1009)
    assert batch.info["io_token"].unique().tolist() == sorted(task.name_tokens.tolist())

    given = ("Ruth", "Nina", "Emma", "Peter", "Laura", "Henry", "Maria")
    assert in_tokens(without, names=given).names == given
    with pytest.raises(
        ValueError, match=r"^names: 'Oscar' is not one token of this tokenizer; it is split into \[.+\]$"
    ):
        in_tokens(without, names=[*given, "Oscar"])
    with pytest.raises(
        ValueError, match=r"^names: 'Ruth' is not valid; it must differ from all other words and names$"
    ):
        in_tokens(without, names=[*given, "Ruth"])
    with pytest.raises(ValueError, match=r"^names: 5 of 5 are one token of this tokenizer; there must be at least 6$"):
        in_tokens(without, names=given[:5])
    with pytest.raises(
        ValueError, match=r"^names: 2 of 100 .+ \('Peter' is split into \[.+\]\); there must be at least 6$"
    ):
        in_tokens(tokenizer(["Alice", "Oscar"], eos_token="<end>"))


def test_a_word_of_a_template_is_no_name():
    with pytest.raises(ValueError, match=r"^names: 'the' is not valid"):
        in_tokens(PIECES, names=[*FEW.names, "the"])


def test_a_name_that_the_tokenizer_does_not_know_is_not_one_token():
    known = {"<unk>": 0, "<end>": 1, **{name: 2 + k for k, name in enumerate(NAMES[1:])}}
    by_word = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    by_word.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=by_word, unk_token="<unk>", eos_token="<end>")
    assert in_tokens(wrapped).names == NAMES[1:]


def test_tokens_that_cross_words_are_refused():
    crossing = tokenizer(
        [f"{name} and" for name in NAMES] + [*NAMES, "met", "the"], across_words=True, eos_token="<end>"
    )
    with pytest.raises(
        ValueError, match=r"^tokenizer: .+ must tokenize a sentence word by word, but it does not in '.+'$"
    ):
        in_tokens(crossing)


# Configuration


@pytest.mark.parametrize("n_names", [5, 101])
def test_too_few_or_too_many_names_are_refused(n_names: int):
    with pytest.raises(ValueError, match=rf"^n_names: {n_names} is not valid; it must be from 6 to 100, .+$"):
        IndirectObject(n_names)


def test_an_unknown_order_is_refused():
    task = IndirectObject()
    # The constructor's types are checked in tests, and in tests alone.
    object.__setattr__(task, "order", "ABAB")
    with pytest.raises(ValueError, match=r"^order: 'ABAB' is not valid; it must be one of mixed, ABBA, BABA$"):
        task.__post_init__()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"n_names": 10}, "n_names"),
        ({"spelling": TOKENIZED.spelling[:-1]}, "spelling"),
        ({"spelling": (*TOKENIZED.spelling[:-1], ())}, "spelling"),
        ({"spelling": (TOKENIZED.spelling[0], (5, 7), *TOKENIZED.spelling[2:])}, "spelling"),
        ({"strings": TOKENIZED.strings[:-1]}, "strings"),
        ({"n_tokens": 17}, "n_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_spelling_that_does_not_fit_is_refused(fields: dict, name: str):
    with pytest.raises(ValueError, match=rf"^{name}: .+ is not valid; it must be .+$") as error:
        replace(TOKENIZED, **fields)
    assert "\n" not in str(error.value)


@each_task
def test_a_recipe_keeps_the_task(task: IndirectObject):
    model = ModelConfig(n_layers=1, d_model=7, n_ctx=task.n_ctx, d_head=5, n_heads=3, d_vocab=task.d_vocab)
    recipe = Recipe(task=task, model=model)
    again = Recipe.from_dict(recipe.to_dict())
    assert recipe.to_yaml() == again.to_yaml()
    assert again == recipe
    assert same(again.task.batch(0, 0, 3), task.batch(0, 0, 3))
