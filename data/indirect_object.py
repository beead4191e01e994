"""Indirect object identification (IOI): two names, one of them repeated; the answer is the other one."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, ClassVar, Literal, get_args

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from headway.data.task import Batch, Behaviour, Task
from headway.data.tokenizer import bos_token_id

Order = Literal["mixed", "ABBA", "BABA"]
S2Place = Literal["last", "varied"]

# FIRST and SECOND are the two names, AGAIN is the one that is repeated. No sentence begins with a slot, so that every
# name has a space before it, and no two begin with the same word, so that the first word identifies the template.
TEMPLATES = (
    "Yesterday FIRST met SECOND outside the PLACE, and AGAIN handed the OBJECT to",
    "Once the rain had stopped, FIRST joined SECOND near the PLACE and AGAIN lent a OBJECT to",
    "Before the PLACE closed, FIRST ran into SECOND, so AGAIN brought the OBJECT back to",
    "Nobody at the PLACE had noticed FIRST and SECOND until AGAIN threw a OBJECT to",
    "According to the newspaper, FIRST and SECOND argued about the PLACE until AGAIN sold the OBJECT to",
    "Every Sunday FIRST helps SECOND clean the PLACE, and AGAIN always finds a OBJECT for",
    "Although FIRST and SECOND arrived late, AGAIN still bought the OBJECT at the PLACE for",
    "Without a word FIRST followed SECOND through the PLACE, where AGAIN had hidden a OBJECT for",
    "In the old photograph FIRST stands beside SECOND at the PLACE while AGAIN offers the OBJECT to",
    "If FIRST travels with SECOND next summer, AGAIN will send a OBJECT from the PLACE to",
    "Last winter FIRST taught SECOND to paint, and AGAIN later mailed the OBJECT from the PLACE to",
    "Since FIRST and SECOND both missed the bus, AGAIN carried the OBJECT across the PLACE for",
    "Our neighbors FIRST and SECOND share a table in the PLACE, where AGAIN once fixed a OBJECT for",
    "As the music began, FIRST smiled at SECOND, and AGAIN slid the OBJECT along the floor of the PLACE to",
    "Long ago a stranger told FIRST and SECOND about the PLACE, and AGAIN described the OBJECT to",
)
NAME_SLOTS = ("FIRST", "SECOND", "AGAIN")
SLOTS: tuple[str, ...] = (*NAME_SLOTS, "PLACE", "OBJECT")
# With a space before it, each is one token of GPT-2. Not sorted, so that the first few do not resemble each other.
# fmt: off
NAMES = (
    "Alice", "Peter", "Laura", "Henry", "Maria", "Simon", "Emma", "Victor", "Julia", "Oscar", "Ruth", "Daniel", "Helen",
    "Martin", "Sophie", "Frank", "Clara", "Thomas", "Nina", "Walter", "Anna", "George", "Lucy", "Robert", "Karen",
    "Philip", "Rosa", "Edward", "Diana", "Jacob", "Molly", "Howard", "Elena", "Oliver", "Susan", "Adam", "Claire",
    "Stephen", "Leah", "Carlos", "Hannah", "Ralph", "Julie", "Vincent", "Wendy", "Isaac", "Sarah", "Kevin", "Paula",
    "Harry", "Louise", "Brian", "Teresa", "Felix", "Jane", "Gordon", "Emily", "Andrew", "Nora", "Michael", "Sylvia",
    "Owen", "Barbara", "Luke", "Fiona", "James", "Natalie", "Colin", "Vanessa", "David", "Carol", "Eric", "Zoe",
    "William", "Margaret", "Nathan", "Rachel", "Leon", "Amanda", "Kenneth", "Catherine", "Tyler", "Ellen", "Patrick",
    "Virginia", "Dennis", "Linda", "Joseph", "Charlotte", "Scott", "Megan", "Arthur", "Janet", "Samuel", "Heather",
    "Hugh", "Joan", "Richard", "Eleanor", "Benjamin",
)
PLACES = (
    "library", "bakery", "museum", "market", "theater", "hotel", "church", "gallery", "airport", "stadium", "castle",
    "harbor",
)
OBJECTS = (
    "letter", "map", "camera", "jacket", "guitar", "book", "ticket", "key", "lamp", "candle", "violin", "package",
)
# fmt: on
MIN_NAMES = 6


@dataclass(frozen=True)
class IndirectObject(Task):
    """Sentences with two names, one of which is repeated; the answer at the end is the other one.

    s_0 = BOS; then the words of a template, with two different names, a place and an object in its slots. The indirect
    object IO occurs once, the subject S twice: IO S .. S is the order ABBA, S IO .. S the order BABA. The input at
    position q is s_q and its target is s_(q+1); END is the last word, and its target is IO. The positions after END
    hold BOS and do not count. Template, order, names, place and object are uniform and independent. The task follows
    Wang et al. 2022, arXiv 2211.00593, with different sentences.

    ``info`` holds [batch] tensors: the positions ``io``, ``s1``, ``s2`` and ``end``, the index of the ``template``,
    ``order`` (the place of IO among the names: 0 is ABBA, 1 is BABA, 2 is S S IO), the tokens ``io_token`` and
    ``s_token``; and ``others`` [batch, 3]: the tokens of three names that are not in the sentence, for ``corrupted``.

    Args:
        n_names: number of names in use, the first ones of NAMES
        order: order of the two names: IO first (ABBA), S first (BABA), or each with probability 1/2 (mixed)
        s2_place: last: the third name of a sentence is S; varied: S is any two of the three, each with probability 1/3,
            so that IO cannot be told from the third name

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> task = IndirectObject()
        >>> batch = task.batch(seed=0, index=0, batch_size=1)
        >>> print(join_words(task.labels(batch)[0][1 : batch.info["end"] + 1]))
        If Carol travels with Sylvia next summer, Sylvia will send a ticket from the theater to
        >>> task.words[batch.info["io_token"]], task.words[batch.info["s_token"]]
        ('Carol', 'Sylvia')
    """

    attention_dir: ClassVar = "causal"
    bos_token: ClassVar[int | None] = 0
    behaviour: ClassVar[Behaviour] = Behaviour("end", "end_any_name", "end_best")

    options_added_later: ClassVar[tuple[str, ...]] = ("s2_place",)

    n_names: int = len(NAMES)
    order: Order = "mixed"
    s2_place: S2Place = "last"

    def __post_init__(self) -> None:
        """Refuse fewer names than a sentence and its corruption need, more than exist, and an unknown order."""
        most = len(self._known_names)
        if not MIN_NAMES <= self.n_names <= most:
            raise ValueError(
                f"n_names: {self.n_names!r} is not valid; it must be from {MIN_NAMES} to {most}, "
                "the number of available names"
            )
        if self.order not in get_args(Order):
            raise ValueError(f"order: {self.order!r} is not valid; it must be one of {', '.join(get_args(Order))}")
        if self.s2_place not in get_args(S2Place):
            raise ValueError(
                f"s2_place: {self.s2_place!r} is not valid; it must be one of {', '.join(get_args(S2Place))}"
            )
        if self.s2_place == "varied" and self.order != "mixed":
            raise ValueError(f"order: {self.order!r} is not valid; it must be mixed with s2_place varied")

    @property
    def names(self) -> tuple[str, ...]:
        """The names in use.

        Example:
            >>> IndirectObject(n_names=6).names
            ('Alice', 'Peter', 'Laura', 'Henry', 'Maria', 'Simon')
        """
        return self._known_names[: self.n_names]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The vocabulary: BOS, the names, the places, the objects, and the other words of the templates.

        Example:
            >>> IndirectObject(n_names=6).words[:3]
            ('BOS', 'Alice', 'Peter')
        """
        others = dict.fromkeys(word for template in TEMPLATES for word in split_words(template) if word not in SLOTS)
        return ("BOS", *self.names, *PLACES, *OBJECTS, *others)

    @property
    def name_tokens(self) -> Int[Tensor, "name"]:
        """The token of each name in ``names``.

        Example:
            >>> IndirectObject(n_names=6).name_tokens.tolist()
            [1, 2, 3, 4, 5, 6]
        """
        return self._pieces[1 : 1 + self.n_names, 0]

    @property
    def d_vocab(self) -> int:
        """Number of tokens: BOS and one for each other word."""
        return len(self.words)

    @property
    def n_ctx(self) -> int:
        """Number of tokens of the longest sentence, with BOS and without the answer."""
        return int(max(self._lengths(max)))

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sentences."""

        def draw(below: int) -> Int[Tensor, "batch"]:
            return torch.randint(below, (batch_size,), generator=generator)

        template, order, place, thing = draw(len(TEMPLATES)), draw(2), draw(len(PLACES)), draw(len(OBJECTS))
        if self.order != "mixed":
            order = torch.full_like(order, int(self.order == "BABA"))
        # The first five entries of a random permutation are five different names.
        five = torch.rand(batch_size, self.n_names, generator=generator).argsort(dim=-1)[:, :5]
        io, s, *others = (1 + five).unbind(1)
        if self.s2_place == "varied":
            order = draw(3)
        # The order is the number of IO's slot, FIRST, SECOND or AGAIN; S has the two others.
        fillers = (
            torch.where(order == 0, io, s),
            torch.where(order == 1, io, s),
            torch.where(order == 2, io, s),
            place + self.words.index(PLACES[0]),
            thing + self.words.index(OBJECTS[0]),
        )
        words, at = self._sentences[template], {}
        for slot, filler in zip(SLOTS, fillers, strict=True):
            here = words == self._code(slot)
            at[slot] = here.int().argmax(1)
            words = torch.where(here, einops.rearrange(filler, "batch -> batch 1"), words)

        tokens, starts, end = self._tokenize(words)
        sequences = torch.arange(batch_size)
        position = {slot: starts[sequences, where] for slot, where in at.items()}
        name_token = self._pieces[:, 0]  # a name has only one
        info = {
            "io": torch.stack([position[slot] for slot in NAME_SLOTS])[order, sequences],
            "s1": torch.where(order == 0, position["SECOND"], position["FIRST"]),
            "s2": torch.where(order == 2, position["SECOND"], position["AGAIN"]),
            "end": end,
            "template": template,
            "order": order,
            "io_token": name_token[io],
            "s_token": name_token[s],
            "others": name_token[torch.stack(others, dim=1)],
        }
        targets = F.pad(tokens[:, 1:], (0, 1), value=self._spelling[0][0])
        targets[sequences, end] = info["io_token"]
        mask = torch.arange(self.n_ctx) <= einops.rearrange(end, "batch -> batch 1")
        return Batch(tokens, targets, mask, info)

    def descriptions(self, batch: Batch) -> list[str]:
        """Return the template of each sequence, and the order of its names."""
        drawn = zip(batch.info["template"].tolist(), batch.info["order"].tolist(), strict=True)
        return [f"template {template}, {('ABBA', 'BABA', 'S S IO')[order]}" for template, order in drawn]

    def corrupted(self, batch: Batch) -> Batch:
        """Return the same sentences with three different names in place of IO, S and S: the answer is undetermined.

        Position ``io`` holds ``others[:, 0]``, ``s1`` holds ``others[:, 1]`` and ``s2`` holds ``others[:, 2]``: the
        paper's ABC. Targets are the next words, except at END: the target there is IO of the original sentence.
        ``info`` is also that of the original.

        Example:
            >>> task = IndirectObject()
            >>> batch = task.batch(seed=0, index=0, batch_size=1)
            >>> print(join_words(task.labels(task.corrupted(batch))[0][1 : batch.info["end"] + 1]))
            If Oscar travels with Michael next summer, Adam will send a ticket from the theater to
        """
        inputs, targets = batch.inputs.clone(), batch.targets.clone()
        sequences = torch.arange(len(inputs), device=inputs.device)
        for name, other in zip(("io", "s1", "s2"), batch.info["others"].unbind(1), strict=True):
            inputs[sequences, batch.info[name]] = other
            targets[sequences, batch.info[name] - 1] = other
        return batch._replace(inputs=inputs, targets=targets)

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the sentences with a third name, ``others[:, 2]``, in place of the second S: either name may be IO.

        The names that can be the answer stay, so that a network that does not know which of the two it is guesses
        between them: ``end_either_name``. Sentences with other names, as ``corrupted`` has, would mislead it to one of
        those. ``generator`` is not used.

        Example:
            >>> task = IndirectObject()
            >>> batch = task.batch(seed=0, index=0, batch_size=1)
            >>> twin = task.twin(batch, torch.Generator())
            >>> print(join_words(task.labels(twin)[0][1 : batch.info["end"] + 1]))
            If Carol travels with Sylvia next summer, Adam will send a ticket from the theater to
        """
        inputs = batch.inputs.clone()
        inputs[torch.arange(len(inputs), device=inputs.device), batch.info["s2"]] = batch.info["others"][:, 2]
        return batch._replace(inputs=inputs)

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Return ``end``: the position END, whose target is IO; ``before``: every other position that counts.

        Example:
            >>> task = IndirectObject()
            >>> batch = task.batch(seed=0, index=0, batch_size=3)
            >>> task.parts(batch)["end"].sum(1).tolist()
            [1, 1, 1]
        """
        positions = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
        end = positions == einops.rearrange(batch.info["end"], "batch -> batch 1")
        return {"end": end, "before": batch.mask & ~end}

    def baselines(self) -> dict[str, float]:
        """Return cross-entropies in nats.

        - ``chance``: ln(d_vocab), a uniform guess, over all positions that count.
        - ``best``: the entropy of a sentence divided by its mean number of positions: the lower bound over all
          positions that count. ``before_best``: the same on the part ``before``.
        - ``end_any_name``: ln(n_names) on the part ``end``, a guess among all names.
        - ``end_either_name``: ln 2 on ``end``, a guess between the two names in the sentence.
        - ``end_best``: 0 on ``end``: the answer is the name that occurs once.

        Example:
            >>> for name, nats in IndirectObject().baselines().items():
            ...     print(name, round(nats, 3))
            chance 5.407
            best 0.962
            before_best 1.018
            end_any_name 4.605
            end_either_name 0.693
            end_best 0.0
        """
        choices = len(TEMPLATES) * self.n_names * (self.n_names - 1) * len(PLACES) * len(OBJECTS)
        if self.order == "mixed":
            choices *= 3 if self.s2_place == "varied" else 2
        positions = fmean(self._lengths(fmean))
        return {
            "chance": math.log(self.d_vocab),
            "best": math.log(choices) / positions,
            "before_best": math.log(choices) / (positions - 1),
            "end_any_name": math.log(self.n_names),
            "end_either_name": math.log(2),
            "end_best": 0.0,
        }

    def labels(self, batch: Batch) -> list[list[str]]:
        """Return the word at each position, BOS after END."""
        known = {
            token: string
            for tokens, strings in zip(self._spelling, self._strings, strict=True)
            for token, string in zip(tokens, strings, strict=True)
        }
        return [[known.get(token, str(token)) for token in row] for row in batch.inputs.tolist()]

    @property
    def _known_names(self) -> tuple[str, ...]:
        return NAMES

    @property
    def _spelling(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of each word in ``words``."""
        return tuple((token,) for token in range(len(self.words)))

    @property
    def _strings(self) -> tuple[tuple[str, ...], ...]:
        """The string of each token in ``_spelling``."""
        return tuple((word,) for word in self.words)

    @cached_property
    def _pieces(self) -> Int[Tensor, "word piece"]:
        """``_spelling`` as a tensor, with -1 after the last token of a word."""
        return pad_sequence([torch.tensor(tokens) for tokens in self._spelling], batch_first=True, padding_value=-1)

    @cached_property
    def _sentences(self) -> Int[Tensor, "template word"]:
        """BOS and the words of each template, as indices of ``words`` or codes of slots; 0 after END."""
        number = {word: index for index, word in enumerate(self.words)} | {slot: self._code(slot) for slot in SLOTS}
        rows = [torch.tensor([0, *(number[word] for word in split_words(text))]) for text in TEMPLATES]
        return pad_sequence(rows, batch_first=True)

    @staticmethod
    def _code(slot: str) -> int:
        return -1 - SLOTS.index(slot)

    def _lengths(self, over: Callable[[Iterable[float]], float]) -> list[float]:
        """Count the tokens of each template, with BOS; ``over``, such as max, gives the length of a place or object."""
        length: dict[str, float] = dict.fromkeys(SLOTS, 1)
        length |= {word: len(tokens) for word, tokens in zip(self.words, self._spelling, strict=True)}
        for slot, fillers in (("PLACE", PLACES), ("OBJECT", OBJECTS)):
            length[slot] = over(length[word] for word in fillers)
        return [1 + math.fsum(length[word] for word in split_words(text)) for text in TEMPLATES]

    def _tokenize(
        self, words: Int[Tensor, "batch word"]
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch word"], Int[Tensor, "batch"]]:
        """Return sentences as tokens padded with BOS, the position of each word's first token, and END."""
        pieces = self._pieces[words]
        is_piece = (pieces >= 0) & F.pad(words[:, 1:] != 0, (1, 0), value=True)[..., None]
        position = is_piece.flatten(1).cumsum(1).view_as(is_piece) - 1
        tokens = torch.full((len(words), self.n_ctx), self._spelling[0][0])
        tokens[is_piece.nonzero()[:, 0], position[is_piece]] = pieces[is_piece]
        return tokens, position[..., 0], position[:, -1, -1]


@dataclass(frozen=True, kw_only=True)
class TokenizedIndirectObject(IndirectObject):
    """The same sentences in the tokens of a pretrained network; ``in_tokens`` makes this task.

    The draws are those of IndirectObject: with the same names, batch k holds the same sentences. A name is one token,
    any other word may be several: positions in ``info`` are token positions, and END is the last word's last token.

    Args:
        chosen: the names in use, n_names of them
        spelling: the tokens of each word in ``words``; the first word, BOS, has one token, which begins and pads a
            sentence
        strings: the string of each of these tokens in the tokenizer
        n_tokens: number of tokens of the tokenizer

    Raises:
        ValueError: if the fields do not fit together.
    """

    chosen: tuple[str, ...]
    spelling: tuple[tuple[int, ...], ...]
    strings: tuple[tuple[str, ...], ...]
    n_tokens: int

    def __post_init__(self) -> None:
        """Refuse a spelling that does not fit the words."""
        super().__post_init__()
        # A config file gives lists.
        for name in ("spelling", "strings"):
            object.__setattr__(self, name, tuple(map(tuple, getattr(self, name))))
        object.__setattr__(self, "chosen", tuple(self.chosen))
        lengths = [len(tokens) for tokens in self.spelling]
        counts = [len(strings) for strings in self.strings]
        largest = max((token for tokens in self.spelling for token in tokens), default=0)
        for name, value, valid, rule in (
            (
                "n_names",
                self.n_names,
                self.n_names == len(self.chosen),
                f"{len(self.chosen)}, the number of names in chosen",
            ),
            (
                "spelling",
                lengths,
                len(lengths) == len(self.words) and min(lengths) > 0 and set(lengths[: 1 + self.n_names]) == {1},
                f"at least one token for each of {len(self.words)} words, and only one for BOS and each name",
            ),
            ("strings", counts, counts == lengths, f"{lengths}, one string for each token of spelling"),
            ("n_tokens", self.n_tokens, largest < self.n_tokens, f"more than {largest}, the largest token of spelling"),
        ):
            if not valid:
                raise ValueError(f"{name}: {value!r} is not valid; it must be {rule}")

    @property
    def bos_token(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The token that begins and pads every sentence."""
        return self.spelling[0][0]

    @property
    def d_vocab(self) -> int:
        """Number of tokens of the tokenizer."""
        return self.n_tokens

    @property
    def _known_names(self) -> tuple[str, ...]:
        return self.chosen

    @property
    def _spelling(self) -> tuple[tuple[int, ...], ...]:
        return self.spelling

    @property
    def _strings(self) -> tuple[tuple[str, ...], ...]:
        return self.strings


def in_tokens(
    tokenizer: Any, task: IndirectObject | None = None, names: Sequence[str] | None = None
) -> TokenizedIndirectObject:
    """Return the sentences of ``task`` in the tokens of a Hugging Face tokenizer.

    A sentence begins with the tokenizer's BOS token, or with its EOS token if it has no BOS: GPT-2 and similar models
    were trained with EOS between texts. Every word except the first has a space before it; a comma has none.

    Args:
        tokenizer: any that has ``encode``, ``convert_ids_to_tokens``, ``bos_token_id``, ``eos_token_id`` and a length.
        task: gives the order and the names; None for a task with the default fields.
        names: other names, each one token; None for the names of ``task`` that are one token.

    Raises:
        ValueError: a name is not one token, names are repeated or too few, the tokenizer has neither BOS nor EOS, or it
            does not tokenize a sentence word by word.

    Example:
        >>> in_tokens(AutoTokenizer.from_pretrained("gpt2")).n_names  # doctest: +SKIP
        100
    """
    task = task or IndirectObject()
    bos = bos_token_id(tokenizer)

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    first_words = [split_words(template)[0] for template in TEMPLATES]

    def encode_word(word: str) -> tuple[int, ...]:
        # Tokenized within a sentence, because many tokenizers split the first word of a text differently.
        before = first_words[0]
        return encode(word) if word in first_words else encode(join_words((before, word)))[len(encode(before)) :]

    def pieces_of(name: str) -> list[str] | None:
        """Return the pieces of a name; None if it is one token that stands for no other word."""
        pieces = encode_word(name)
        whole = len(pieces) == 1 and pieces[0] != getattr(tokenizer, "unk_token_id", None)
        return None if whole else tokenizer.convert_ids_to_tokens(list(pieces))

    others = task.words[1 + task.n_names :]
    chosen = tuple(name for name in task.names if pieces_of(name) is None) if names is None else tuple(names)
    for name in chosen:
        if pieces := pieces_of(name):
            raise ValueError(f"names: {name!r} is not one token of this tokenizer; it is split into {pieces}")
        if name in others or chosen.count(name) > 1:
            raise ValueError(f"names: {name!r} is not valid; it must differ from all other words and names")
    if len(chosen) < MIN_NAMES:
        given = task.names if names is None else chosen
        example = next((f" ({name!r} is split into {pieces_of(name)})" for name in given if name not in chosen), "")
        raise ValueError(
            f"names: {len(chosen)} of {len(given)} are one token of this tokenizer{example}; "
            f"there must be at least {MIN_NAMES}"
        )
    by_word = {word: encode_word(word) for word in (*chosen, *others)}
    for sentence in _sentences_with_every_filler(chosen):
        if encode(join_words(sentence)) != tuple(token for word in sentence for token in by_word[word]):
            raise ValueError(
                f"tokenizer: {type(tokenizer).__name__} is not valid; it must tokenize a sentence word by word, but it "
                f"does not in {join_words(sentence)!r}"
            )
    spelling = ((bos,), *by_word.values())
    return TokenizedIndirectObject(
        n_names=len(chosen),
        order=task.order,
        s2_place=task.s2_place,
        chosen=chosen,
        spelling=spelling,
        strings=tuple(tuple(tokenizer.convert_ids_to_tokens(list(tokens))) for tokens in spelling),
        n_tokens=len(tokenizer),
    )


def _sentences_with_every_filler(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield sentences with their answers, so that each template occurs with each name, place and object."""
    for template in TEMPLATES:
        for k in range(max(len(names), len(PLACES), len(OBJECTS))):
            io, s = names[k % len(names)], names[(k + 1) % len(names)]
            fillers = (io, s, s, PLACES[k % len(PLACES)], OBJECTS[k % len(OBJECTS)])
            filled = dict(zip(SLOTS, fillers, strict=True))
            yield (*(filled.get(word, word) for word in split_words(template)), io)


def split_words(text: str) -> tuple[str, ...]:
    """Split a text into words; a comma is a word.

    Example:
        >>> split_words("At last, rain")
        ('At', 'last', ',', 'rain')
    """
    return tuple(text.replace(",", " ,").split())


def join_words(words: Iterable[str]) -> str:
    """Join words into a text, the inverse of ``split_words``.

    Example:
        >>> join_words(("At", "last", ",", "rain"))
        'At last, rain'
    """
    return " ".join(words).replace(" ,", ",")
