"""Benchmarks at the sizes of language models: time relative to bare matrix products, and peak memory.

``python tests/bench_size.py`` prints the table, ``python tests/bench_size.py composition`` prints one part. Every ratio
compares two calls that alternate; every peak is measured in a process of its own, above its memory with the weights.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from bench import alternate, seconds
from torch import Tensor
from transformer_lens import FactoredMatrix
from transformer_lens.utilities import composition_scores

from headway.analyze.measures.composition import k_composition
from headway.analyze.measures.vocabulary import ov_top1, ov_topk, token_pair_rank
from headway.analyze.network.vocabulary import BLOCK, VocabularyCircuit
from headway.analyze.tools.skip_trigrams import skip_trigrams
from headway.data.task import Batch
from headway.models.config import Head, ModelConfig
from headway.models.hooked_transformer import HookedTransformer

# At this size the whole matrix of one head takes 8.7 GiB, which stops a notebook that builds it.
VOCABULARY = ModelConfig(n_layers=1, d_model=512, n_ctx=2, d_head=64, n_heads=8, d_vocab=48_262, attn_only=True)
GPT2_SMALL = ModelConfig(n_layers=12, d_model=768, n_ctx=2, d_head=64, n_heads=12, d_vocab=13, attn_only=True)
# Heads are processed one by one and take equally long, so two are enough to time.
TWO_HEADS = replace(VOCABULARY, n_heads=2)
TOKENS = torch.zeros(1, 2, dtype=torch.long)
BATCH = Batch(TOKENS, TOKENS, torch.ones(1, 2, dtype=torch.bool))
# No two pairs share a row or a column.
PAIRS = [(token, VOCABULARY.d_vocab - 1 - token) for token in range(100)]
# Numbers of rows that the bare loop computes at once; it uses the fastest of these.
CHUNKS = (16, 64, 256, 1024)


def their_k_composition(model: HookedTransformer) -> Tensor:
    """Return the K-composition of all pairs of heads by TransformerLens."""
    with torch.no_grad():
        return composition_scores(FactoredMatrix(model.W_V, model.W_O), FactoredMatrix(model.W_K, model.W_Q.mT))


def trigrams(model: HookedTransformer, head: int) -> None:
    """Compute the 100 best skip trigrams of one head."""
    circuits = VocabularyCircuit.qk(model, Head(0, head)), VocabularyCircuit.ov(model, Head(0, head))
    skip_trigrams(*circuits, k=100)


def all_trigrams(model: HookedTransformer) -> None:
    """Compute the 100 best skip trigrams of every head."""
    for head in range(model.cfg.n_heads):
        trigrams(model, head)


# The measures whose peak memory is measured, each with the sizes of its network.
MEASURED: dict[str, tuple[ModelConfig, Callable[[HookedTransformer], object]]] = {
    "ov_top1": (VOCABULARY, lambda model: ov_top1(model, BATCH)),
    "ov_topk": (VOCABULARY, lambda model: ov_topk(model, BATCH, k=10)),
    "token_pair_rank": (VOCABULARY, lambda model: token_pair_rank(model, BATCH, PAIRS)),
    "skip_trigrams": (VOCABULARY, all_trigrams),
    "k_composition": (GPT2_SMALL, lambda model: k_composition(model, BATCH)),
    "TransformerLens's composition_scores": (GPT2_SMALL, their_k_composition),
}


def factors(model: HookedTransformer, head: int) -> tuple[Tensor, Tensor]:
    """Return the two low-rank factors of one head's ``W_E W_OV W_U``."""
    attention = model.blocks[0].attn
    return model.W_E @ attention.W_V[head], attention.W_O[head] @ model.W_U


def bare_rows(A: Tensor, B: Tensor, chunk: int) -> None:
    """Compute the whole product, ``chunk`` full rows at a time, in one buffer."""
    buffer = torch.empty(chunk, B.shape[1])
    for rows in A.split(chunk):
        torch.mm(rows, B, out=buffer[: len(rows)])


def bare_blocks(A: Tensor, B: Tensor) -> None:
    """Compute the whole product in square blocks."""
    buffer = torch.empty(BLOCK**2)
    for rows in A.split(BLOCK):
        for columns in B.split(BLOCK, dim=1):
            size = (len(rows), columns.shape[1])
            torch.mm(rows, columns, out=buffer[: size[0] * size[1]].view(size))


@torch.no_grad()
def bare_heads(model: HookedTransformer, product: Callable[[Tensor, Tensor], None]) -> None:
    """Compute the factors of every head and their whole product, and nothing else."""
    for head in range(model.cfg.n_heads):
        product(*factors(model, head))


@torch.no_grad()
def bare_pairs(model: HookedTransformer) -> None:
    """Compute the factors of every head, and the rows and columns of the pairs."""
    rows, columns = torch.tensor(PAIRS).unbind(1)
    for head in range(model.cfg.n_heads):
        A, B = factors(model, head)
        torch.mm(A[rows], B)
        torch.mm(A, B[:, columns])


@torch.no_grad()
def bare_both(model: HookedTransformer) -> None:
    """Compute the factors of one head's QK and OV circuits and both whole products, in square blocks."""
    attention = model.blocks[0].attn
    bare_blocks(model.W_E @ attention.W_Q[0], (model.W_E @ attention.W_K[0]).mT)
    bare_blocks(*factors(model, 0))


def best_chunk(model: HookedTransformer) -> int:
    """Return the number of rows at which the bare loop is fastest, on a part of one head's product."""
    with torch.no_grad():
        A, B = factors(model, 0)
        return min(CHUNKS, key=lambda chunk: min(seconds(lambda: bare_rows(A[:4096], B, chunk)) for _ in range(3)))


def vocabulary() -> None:
    """Compare measures over a vocabulary of 48,262 tokens with the bare products that they need."""
    two = HookedTransformer(TWO_HEADS)
    top1, top10 = (partial(measure, two, BATCH) for measure in (ov_top1, partial(ov_topk, k=10)))
    chunk = best_chunk(two)
    rows, blocks = (partial(bare_heads, two, product) for product in (partial(bare_rows, chunk=chunk), bare_blocks))
    alternate(f"ov_top1 / bare products, {chunk} rows at a time", "1.5", top1, rows, 3)
    alternate("ov_top1 / bare products, in square blocks", "-", top1, blocks, 3)
    alternate("ov_topk, k = 10 / ov_top1", "-", top10, top1, 3)
    model = HookedTransformer(VOCABULARY)
    pairs = partial(token_pair_rank, model, BATCH, PAIRS)
    alternate("token_pair_rank, 100 pairs / bare rows and columns", "1.5", pairs, partial(bare_pairs, model), 12)
    best, both = partial(trigrams, two, 0), partial(bare_both, two)
    alternate("skip_trigrams, k = 100 / both bare products, in square blocks", "1.5", best, both, 3)
    for measure in ("ov_top1", "ov_topk", "token_pair_rank", "skip_trigrams"):
        show_peak(measure, "512")


def composition() -> None:
    """Compare the K-composition of all pairs of heads at the sizes of gpt2-small with TransformerLens's."""
    model = HookedTransformer(GPT2_SMALL)
    ours = partial(k_composition, model, BATCH)
    alternate("k_composition / TransformerLens's", ".05", ours, partial(their_k_composition, model), 3)
    show_peak("k_composition", "1500")
    show_peak("TransformerLens's composition_scores", "-")


def show_peak(measure: str, goal: str) -> None:
    """Print one row of the table, measured in a process of its own."""
    command = [sys.executable, __file__, "peak", measure]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    peak = float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    print(f"{f'peak memory of {measure} above the weights':66} {peak:6.0f}  MB (goal {goal})", flush=True)


def peak(measure: str) -> None:
    """Print the peak memory of this process during the call, in MB above its memory with the weights.

    Linux's counter is read from /proc, because getrusage also counts the memory of the process that started this one.
    """
    config, call = MEASURED[measure]
    model = HookedTransformer(config)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to the current memory
    before = status("VmRSS")
    call(model)
    print((status("VmHWM") - before) / 1e6)


def status(field: str) -> int:
    """Return a memory size of this process, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


PARTS = {part.__name__: part for part in (vocabulary, composition)}


def main(names: list[str]) -> None:
    """Print the table, or the parts of it that are named."""
    if names[:1] == ["peak"]:
        return peak(names[1])
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
