"""Python conditional expressions, ``a if b else c``: prompts that end right before `` else``."""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from headway.data.seeds import generator
from headway.data.task import Batch
from headway.data.tokenized_corpus import Files, Windows
from headway.data.tokenizer import bos_token_id, one_token

IF, ELSE = " if", " else"
# Index in the evaluation stream; a task's own evaluation batch has index 0, ``random_windows`` the next one.
GENERATOR_INDEX = 1
# After this many draws in a row without a new pair, there are none left.
MAX_TRIES = 1000

# {symbol} is replaced by one of its strings, each equally likely; {ending} is where twins differ.
# fmt: off
GRAMMAR: dict[str, tuple[str, ...]] = {
    "text": (
        "{before}{name} = {conditional}\n",
        "{inside}return {conditional}\n",
        "{before}{function}({conditional})\n",
        "{before}{name} = [{conditional}]\n",
    ),
    "before": ("", "def {function}({name}):\n    return {value}\n\n\n", "{inside}"),
    "inside": (
        "def {function}({name}):\n    {line}\n    ",
        "def {function}(self):\n    {line}\n    {line}\n    ",
    ),
    "line": (
        "{name} = {value}", "{name} = {name} + {number}", "{name}.{name} = {name}",
        "{name} = {function}({name}, {name})",
    ),
    "conditional": ("{value} if {subject}{ending} else {value}",),
    "value": (
        "{name}", "{name}.{name}", "{name}[{number}]", "{function}({name})", "{number}", "{string}", "None", "[]",
    ),
    "subject": ("{name}", "not {name}", "{name} and {name}"),
    "normal": ("", ".{name}", " {comparison} {number}", " == {string}", "{index}"),
    "index": ("[{number}]", "[{name}]"),
    "anomalous": (
        "{method}()", "{method}({name})", "{method}({name}, {value})", " {junction} ({name} {comparison} {number})",
    ),
    "method": ("", ".{name}"),
    "comparison": ("==", "!=", "<", ">"),
    "junction": ("and", "or"),
    "string": ('"{word}"', "'{word}'"),
    "number": tuple(str(number) for number in range(11)),
    "name": (
        "item", "value", "count", "total", "name", "path", "key", "left", "right", "size", "result", "line", "node",
        "data", "start", "end", "text", "first", "last", "other", "ready", "valid", "active", "match", "found",
        "default", "parent", "index", "state", "mode",
    ),
    "function": (
        "load", "find", "check", "print", "update", "build", "select", "clean", "merge", "parse", "convert", "get",
        "run",
    ),
    "word": ("red", "blue", "open", "all", "no", "fast", "north", "one", "test", "main", "left", "json"),
}
# fmt: on

# Brackets, line breaks and comments may surround a keyword. Possessive, so that no comment is read as code.
_AROUND = rb"(?:[\s()\\]|#[^\r\n]*+)*+"
_BETWEEN = {word: re.compile(rb"%b(?<= )(%b)%b" % (_AROUND, word, _AROUND)) for word in (b"if", b"else")}


def find_prompts(texts: Iterable[str], tokenizer: Any, length: int = 16) -> Batch:
    """Find the prompts in Python source texts: the tokens before the `` else`` of every conditional expression.

    A prompt is [BOS, t_1..t_(length-1)], the tokens before the token `` else`` when the whole text is tokenized. An
    expression gives a prompt if there are that many tokens and its own `` if`` is one of them; equal prompts are kept
    once. Texts are parsed and never run; a text that is not Python, or not of this Python's version, is skipped. Only
    the last position counts, and its target is `` else``. If nothing is found, the batch has 0 prompts.

    ``info`` holds ``anomalous`` [n], whether the last token ends in ``)``; ``if_position`` [n], the position of the
    expression's `` if``; and ``text`` [n], the index of the text, or of the pair: prompts of one text resemble each
    other. In real texts, prompts that end in ``)`` differ from others in more ways than that, so a score that separates
    them need not detect the bracket; see ``generate_prompts``.

    Raises:
        ValueError: ``length`` is below 4, or the tokenizer splits `` if`` or `` else`` or gives no offsets of its
            tokens.

    Example:
        >>> from headway.data.tokenizer import train_bpe, wrapped
        >>> tokenizer = wrapped(train_bpe(["x = a if b else c"] * 2, n_tokens=267))
        >>> batch = find_prompts(["x = a if b else c", "x = a if f() else c", "if x: pass"], tokenizer, length=4)
        >>> [tokenizer.decode(row) for row in batch.inputs[:, 1:]], batch.info["anomalous"].tolist()
        ([' a if b'], [False])
    """
    finder = _PromptFinder.create(tokenizer, length)
    return finder.batch(
        {tokens: (at, number) for number, text in enumerate(texts) for tokens, at in finder.prompts(text)}
    )


def generate_prompts(tokenizer: Any, seed: int, count: int, length: int = 16) -> Batch:
    """Generate prompts from a small grammar, in pairs: 2i is normal, and 2i + 1 is its anomalous twin (``twins``).

    Prompts and ``info`` are as in ``find_prompts``. Twins differ in length, and so in how much of the code before the
    expression fits in the prompt. No prompt occurs twice. Pairs are drawn from the grammar, except those whose `` if``
    is not among the last ``length - 1`` tokens: with a short length, or a tokenizer that splits the names, long endings
    are rarer than others. The first prompts of a seed are the same for every count.

    Raises:
        ValueError: ``count`` is odd, below 2, or larger than the number of prompts; ``length`` is below 4, or too short
            for an expression; or ``find_prompts`` refuses the tokenizer.

    Example:
        >>> from headway.data.tokenizer import train_bpe, wrapped
        >>> texts = twins(generator("data", 0), lines=3)
        >>> batch = generate_prompts(wrapped(train_bpe(texts * 2, n_tokens=330)), seed=0, count=2, length=32)
        >>> batch.info["anomalous"].tolist()
        [False, True]
    """
    if count < 2 or count % 2:
        raise ValueError(f"count: {count} is not valid; it must be even and at least 2, since prompts come in pairs")
    finder = _PromptFinder.create(tokenizer, length)
    draw = generator("evaluation", seed, GENERATOR_INDEX)
    prompts: dict[tuple[int, ...], tuple[int, int]] = {}
    tries = 0
    while len(prompts) < count:
        # A line has at least four tokens.
        texts = twins(draw, lines=length // 4)
        pair = {tokens: (at, len(prompts) // 2) for text in texts for tokens, at in finder.prompts(text)}
        if len(pair) == 2 and prompts.keys().isdisjoint(pair):
            prompts |= pair
            tries = 0
        elif (tries := tries + 1) == MAX_TRIES:
            raise ValueError(
                f"length: {length} is not valid for {count} prompts; it must be larger, so that more than "
                f"{len(prompts)} prompts contain their {IF!r}"
            )
    return finder.batch(prompts)


def random_windows(texts: Sequence[str], tokenizer: Any, seed: int, count: int, length: int = 16) -> Batch:
    """Draw windows that end anywhere in texts, [BOS, t_1..t_(length-1)]: no `` else`` need follow them.

    All windows that lie within one text are equally likely, and may be drawn more than once. Every position counts; the
    target at the last position is t_length.

    Raises:
        ValueError: every text is shorter than ``length`` tokens.

    Example:
        >>> from headway.data.tokenizer import train_bpe, wrapped
        >>> tokenizer = wrapped(train_bpe(["x = a if b else c"] * 2, n_tokens=267))
        >>> batch = random_windows(["x = a if b else c"], tokenizer, seed=0, count=3, length=5)
        >>> bool((batch.inputs[:, 1:] == batch.targets[:, :-1]).all())
        True
    """
    token_lists = [
        tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        for text in texts
    ]
    tokens = np.array([token for each in token_lists for token in each], dtype=np.int64)
    windows = Windows(Files(tokens, np.array([len(each) for each in token_lists], dtype=np.int64)), length)
    if not len(windows):
        longest = max(map(len, token_lists), default=0)
        raise ValueError(f"length: {length} is longer than every text; the longest has {longest} tokens")
    draw = generator("evaluation", seed, GENERATOR_INDEX + 1)
    targets = windows(torch.randint(len(windows), (count,), generator=draw))[1]
    return Batch(
        inputs=F.pad(targets[:, :-1], (1, 0), value=bos_token_id(tokenizer)),
        targets=targets,
        mask=torch.ones_like(targets, dtype=torch.bool),
    )


def replace_if(batch: Batch, token: int) -> Batch:
    """Return the same prompts with ``token`` in place of the expression's `` if``.

    Example:
        >>> from headway.data.tokenizer import train_bpe, wrapped
        >>> tokenizer = wrapped(train_bpe(["x = a if b else c"] * 2, n_tokens=267))
        >>> batch = find_prompts(["x = a if b else c"], tokenizer, length=4)
        >>> tokenizer.decode(replace_if(batch, one_token(tokenizer, ",")).inputs[0, 1:])
        ' a, b'
    """
    inputs = batch.inputs.clone()
    inputs[torch.arange(len(inputs)), batch.info["if_position"]] = token
    return batch._replace(inputs=inputs)


def twins(draw: torch.Generator, lines: int) -> tuple[str, str]:
    """Draw two texts from the grammar that differ only in the end of the condition of one conditional expression.

    Both begin with ``lines`` assignments. The expression is assigned, returned, passed as an argument or put in a list,
    each equally likely. The normal condition ends in a name, an attribute, a number, a string or ``]``; the anomalous
    one ends in a call with no, one or two arguments, or in a comparison in brackets. The endings of each kind are
    equally likely, and the two are independent. Both texts may have calls before that, so ``)`` elsewhere carries no
    information.

    Example:
        >>> normal, anomalous = twins(generator("data", 0), lines=1)
        >>> print(normal.splitlines()[-1])
        parent = line if not match.left else 9
        >>> print(anomalous.splitlines()[-1])
        parent = line if not match(state, path[3]) else 9
    """
    text = _expand("{line}\n" * lines + "{text}", draw)
    normal, anomalous = _expand("{normal}", draw), _expand("{anomalous}", draw)
    return text.replace("{ending}", normal), text.replace("{ending}", anomalous)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Concatenate the prompts of several batches, in their order; ``task`` is None.

    Raises:
        ValueError: no batch is given, or the batches have different lengths or different ``info``.

    Example:
        >>> from headway.data.tokenizer import train_bpe, wrapped
        >>> tokenizer = wrapped(train_bpe(["x = a if b else c"] * 2, n_tokens=267))
        >>> one, another = (find_prompts([f"x = a if {b} else c"], tokenizer, length=4) for b in "bd")
        >>> concatenate([one, another]).inputs.shape
        torch.Size([2, 4])
    """
    kinds = {(batch.inputs.shape[1:], batch.targets.shape[1:], frozenset(batch.info)) for batch in batches}
    if len(kinds) != 1:
        lengths = ", ".join(str(batch.inputs.shape[1]) for batch in batches) or "none"
        raise ValueError(
            f"batches: lengths {lengths} are not valid; there must be at least one batch, all of one length and "
            "with the same info"
        )
    padded = any(batch.attention_mask is not None for batch in batches)
    return Batch(
        inputs=torch.cat([batch.inputs for batch in batches]),
        targets=torch.cat([batch.targets for batch in batches]),
        mask=torch.cat([batch.mask for batch in batches]),
        info={name: torch.cat([batch.info[name] for batch in batches]) for name in batches[0].info},
        attention_mask=torch.cat([batch.real for batch in batches]) if padded else None,
    )


class _Keywords(NamedTuple):
    """Ends of the two keywords of a conditional expression, in characters of its text."""

    else_end: int
    if_end: int


@dataclass(frozen=True)
class _PromptFinder:
    """Search for prompts in texts with one tokenizer."""

    tokenizer: Any
    length: int
    bos: int
    if_token: int
    else_token: int

    @classmethod
    def create(cls, tokenizer: Any, length: int) -> "_PromptFinder":
        if length < 4:
            raise ValueError(f"length: {length} is not valid; it must be at least 4, for BOS and `a if b`")
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"tokenizer: {type(tokenizer).__name__} is not valid; it must be a fast one, which gives the "
                "offsets of its tokens"
            )
        return cls(tokenizer, length, bos_token_id(tokenizer), one_token(tokenizer, IF), one_token(tokenizer, ELSE))

    def prompts(self, text: str) -> Iterator[tuple[tuple[int, ...], int]]:
        """Yield the tokens of each prompt in a text, in order, with the position of the expression's `` if``."""
        keywords = _keywords(text)
        if not keywords:
            return
        encoding = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        tokens = encoding["input_ids"]
        # Tokens are matched by their ends: some tokenizers exclude the space before a token from its offsets.
        at = {
            (token, end): position
            for position, (token, (_, end)) in enumerate(zip(tokens, encoding["offset_mapping"], strict=True))
            if token in (self.if_token, self.else_token)
        }
        for else_end, if_end in keywords:
            if_at, else_at = at.get((self.if_token, if_end)), at.get((self.else_token, else_end))
            if if_at is None or else_at is None:
                continue
            first = else_at - (self.length - 1)
            if 0 <= first <= if_at:
                yield (self.bos, *tokens[first:else_at]), 1 + if_at - first

    def batch(self, prompts: Mapping[tuple[int, ...], tuple[int, int]]) -> Batch:
        """Return prompts as a batch; each has the position of its `` if`` and the index of its text."""
        inputs = torch.tensor(list(prompts), dtype=torch.long).view(len(prompts), self.length)
        if_position, text = torch.tensor(list(prompts.values()), dtype=torch.long).view(len(prompts), 2).unbind(1)
        last = inputs[:, -1].tolist()
        closing = {
            token: self.tokenizer.decode([token], clean_up_tokenization_spaces=False).endswith(")")
            for token in set(last)
        }
        return Batch(
            inputs=inputs,
            targets=F.pad(inputs[:, 1:], (0, 1), value=self.else_token),
            mask=F.pad(torch.zeros_like(inputs[:, 1:], dtype=torch.bool), (0, 1), value=True),
            info={
                "anomalous": torch.tensor([closing[token] for token in last], dtype=torch.bool),
                "if_position": if_position,
                "text": text,
            },
        )


def _keywords(text: str) -> list[_Keywords]:
    """Return the keywords of all conditional expressions with a space before both; none if this is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    source = text.encode()
    # ast counts the bytes of a line, and only these characters end a line.
    lines = [0, *(end.end() for end in re.finditer(rb"\r\n?|\n", source))]
    keywords = []
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            if_end = _keyword_end(source, lines, node.body, b"if", node.test)
            else_end = _keyword_end(source, lines, node.test, b"else", node.orelse)
            if if_end is not None and else_end is not None:
                keywords.append(_Keywords(else_end, if_end))
    return sorted(keywords)


def _keyword_end(source: bytes, lines: list[int], left: ast.expr, word: bytes, right: ast.expr) -> int | None:
    """Return the end of the keyword between two expressions, in characters; None without it or a space before it."""
    assert left.end_lineno is not None
    assert left.end_col_offset is not None
    start, end = lines[left.end_lineno - 1] + left.end_col_offset, lines[right.lineno - 1] + right.col_offset
    between = _BETWEEN[word].fullmatch(source, start, end)
    return None if between is None else len(source[: between.end(1)].decode())


def _expand(text: str, draw: torch.Generator) -> str:
    """Replace every symbol in a text of the grammar by one of its strings."""
    return re.sub(r"\{(\w+)\}", lambda symbol: _replacement(symbol, draw), text)


def _replacement(symbol: re.Match[str], draw: torch.Generator) -> str:
    strings = GRAMMAR.get(symbol[1])
    return (
        symbol[0] if strings is None else _expand(strings[int(torch.randint(len(strings), (), generator=draw))], draw)
    )
