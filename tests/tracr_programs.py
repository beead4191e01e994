"""Programs that Tracr compiled, as networks and tasks of ours, with the circuit that their labels and weights state.

Each variable of a program has directions of its own in the residual stream, named in ``Program.labels``. So the truth
about a compiled network is read off, and nobody has to judge it: an edge is used if its source writes a direction that
its target reads, and something that the output reads follows from it.

Most compiled networks use each of their heads, or else heads of which every weight is 0. Each network gets distractors
beside them, which nothing depends on: see ``with_distractors``.
"""

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from headway.data.task import Batch, Task
from headway.models.config import Head, ModelConfig
from headway.models.hooked_transformer import HookedTransformer

FIXTURES = Path(__file__).parent / "tracr" / "fixtures"
PROGRAMS = sorted(path.stem for path in FIXTURES.glob("*.safetensors"))
# A compiled network puts out 1 for its answer and 0 for the others, which is no confident prediction.
LOGITS = 10.0
HEADS, UNUSED = 4, 5


class Use(NamedTuple):
    """An edge of the true circuit: a node that writes, a later node, and the input that reads ("in" for MLPs)."""

    source: str
    target: str
    input: str

    def __str__(self) -> str:
        return f"{self.source}->{self.target}" + ("" if self.input == "in" else f".{self.input}")


@dataclass(frozen=True)
class ProgramTask(Task):
    """The sequences of one program, drawn without replacement while there are enough; targets are what it answers.

    Categorical answers have a cross-entropy, of 10 times the outputs; numerical ones a squared error. Positions at
    which the program says nothing (BOS, PAD, None) do not count.
    """

    program: "Program" = field(repr=False)

    @property
    def d_vocab(self) -> int:
        return self.program.config.d_vocab

    @property
    def n_ctx(self) -> int:
        return self.program.config.n_ctx

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sequences."""
        inputs, answers = self.program.tensors["inputs"].long(), self.program.tensors["targets"]
        rounds = -(-batch_size // len(inputs))
        drawn = torch.cat([torch.randperm(len(inputs), generator=generator) for _ in range(rounds)])[:batch_size]
        inputs, answers = inputs[drawn], answers[drawn]
        if self.program.categorical:
            return Batch(inputs, answers.clamp(0).long(), answers >= 0)
        return Batch(inputs, answers.nan_to_num()[:, :, None], ~answers.isnan())

    def loss(self, output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos"]:
        """Return the cross-entropy in nats, or the squared error, at each position."""
        return super().loss(LOGITS * output if self.program.categorical else output, batch)

    def baselines(self) -> dict[str, float]:
        """Return the loss of the program itself."""
        return {"program": 0.0}


@dataclass(frozen=True, eq=False)
class Program:
    """One compiled program: its fixture, the network made from it, and the truth about it."""

    name: str
    config: ModelConfig
    program: str
    categorical: bool
    labels: list[str]
    tokens: list[str]
    outputs: list[str]
    tensors: dict[str, Tensor]

    @classmethod
    def load(cls, name: str) -> "Program":
        """Read the fixture of this name; see tests/tracr/make_fixtures.py."""
        with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
            about = json.loads(file.metadata()["fixture"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return cls(name, ModelConfig(**about.pop("config")), tensors=tensors, **about)

    @cached_property
    def compiled(self) -> HookedTransformer:
        """The network as Tracr compiled it."""
        model = HookedTransformer(replace(self.config, initializer_range=0.0)).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if f"weights.{name}.at" in self.tensors:
                    at = self.tensors[f"weights.{name}.at"].long()
                    weight.view(-1)[at] = self.tensors[f"weights.{name}.values"]
        return model

    @cached_property
    def model(self) -> HookedTransformer:
        """The same network with distractors, which compute nothing that anything depends on."""
        return with_distractors(self.compiled, self.name)

    @cached_property
    def task(self) -> ProgramTask:
        """The task of computing what the program computes."""
        return ProgramTask(self)


def heads_of(model: HookedTransformer) -> Iterator[Head]:
    """Every head of a network."""
    return (Head(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads))


@torch.no_grad()
def with_distractors(model: HookedTransformer, name: str) -> HookedTransformer:
    """Return the network with 4 heads in each layer, in random order, and 5 more directions.

    In place of new heads, and of those that Tracr left empty, each layer gets in turn

    - a head that attends and reads as a used head of the network does (one of its layer if there is one), and writes
      nothing;
    - such a head that writes to the new directions, which nobody but the next kind reads;
    - a head of random weights, which reads everything and writes to the new directions.
    """
    draws = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    cfg = replace(model.cfg, n_heads=max(HEADS, model.cfg.n_heads), d_model=model.cfg.d_model + UNUSED)
    wider = HookedTransformer(cfg).eval()
    old, new = slice(model.cfg.d_model), slice(model.cfg.d_model, None)
    wider.W_E[:, old], wider.W_pos[:, old], wider.W_U[old] = model.W_E, model.W_pos, model.W_U
    used = [head for head in heads_of(model) if model.W_O[head].any()]
    for layer, (block, compiled) in enumerate(zip(wider.blocks, model.blocks, strict=True)):
        block.mlp.W_in[old], block.mlp.W_out[:, old] = compiled.mlp.W_in, compiled.mlp.W_out
        places = torch.randperm(cfg.n_heads, generator=draws).tolist()
        here = [head for head in used if head.layer == layer]
        for head in here:
            place = places.pop()
            for W in ("W_Q", "W_K", "W_V"):
                getattr(block.attn, W)[place, old] = getattr(model, W)[head]
            block.attn.W_O[place][:, old] = model.W_O[head]
        for turn, place in enumerate(places):
            copied = here or used
            head = copied[int(torch.randint(len(copied), (), generator=draws))]
            for W in ("W_Q", "W_K", "W_V"):
                if turn % 3 == 2:
                    getattr(block.attn, W)[place] = torch.randn(cfg.d_model, cfg.d_head, generator=draws)
                else:
                    getattr(block.attn, W)[place, old] = getattr(model, W)[head]
            if turn % 3 != 0:
                block.attn.W_O[place][:, new] = torch.randn(cfg.d_head, UNUSED, generator=draws)
    return wider


# The truth


@dataclass
class Reads:
    """The directions that each input of each node reads for something that the output follows from; by node."""

    reads: dict[str, dict[str, Tensor]]
    writes: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedTransformer) -> "Reads":
        """Go through a network from its output to its embedding.

        The output reads the directions in which W_U is not 0. A head is used if its W_V W_O takes some direction to one
        that is read later; then v reads the rows that it takes there, and q and k read the rows and columns of
        W_Q W_K.T that are not 0. An MLP is used if a neuron writes to a direction that is read later; its input reads
        what those neurons read. A node that is not used reads nothing.
        """
        read = model.W_U.ne(0).any(1)
        reads: dict[str, dict[str, Tensor]] = {"output": {"in": read}}
        writes = {"embed": model.W_E.ne(0).any(0), "pos_embed": model.W_pos.ne(0).any(0)}
        for layer in reversed(range(model.cfg.n_layers)):
            mlp, attention = model.blocks[layer].mlp, model.blocks[layer].attn
            writes[f"MLP{layer}"] = mlp.W_out.ne(0).any(0)
            needed = mlp.W_out[:, read].ne(0).any(1)
            reads[f"MLP{layer}"] = {"in": mlp.W_in[:, needed].ne(0).any(1)}
            read = read | reads[f"MLP{layer}"]["in"]
            before = read
            for head in range(model.cfg.n_heads):
                name = str(Head(layer, head))
                OV = attention.W_V[head] @ attention.W_O[head]
                QK = attention.W_Q[head] @ attention.W_K[head].T
                writes[name] = attention.W_O[head].ne(0).any(0)
                v = OV[:, read].ne(0).any(1)
                q, k = (QK.ne(0).any(axis) & v.any() for axis in (1, 0))
                reads[name] = {"q": q, "k": k, "v": v}
                before = before | q | k | v
            read = before
        return cls(reads, writes)


def used_edges(model: HookedTransformer) -> dict[Use, Tensor]:
    """Return the edges that a compiled network uses, each with the directions that carry it.

    An edge is used if its source writes a direction that its target reads (``Reads``) and the source comes first. What
    is read at an input is read because the output follows from it, so every node of such an edge is on a path to the
    output.
    """
    found = Reads.of(model)
    order = ["embed", "pos_embed"]
    edges: dict[Use, Tensor] = {}
    for layer in range(model.cfg.n_layers):
        heads = [str(Head(layer, head)) for head in range(model.cfg.n_heads)]
        for nodes in (heads, [f"MLP{layer}"]):
            edges |= _into(nodes, order, found)
            order = order + nodes
    return edges | _into(["output"], order, found)


def _into(nodes: list[str], sources: list[str], found: Reads) -> dict[Use, Tensor]:
    edges = {}
    for node in nodes:
        for input, read in found.reads[node].items():
            for source in sources:
                carried = read & found.writes[source]
                if carried.any():
                    edges[Use(source, node, input)] = carried
    return edges


def used_nodes(model: HookedTransformer) -> set[str]:
    """Return the names of the heads and MLPs that a compiled network uses: those that an edge leaves from."""
    return {edge.source for edge in used_edges(model)} - {"embed", "pos_embed"}


@torch.no_grad()
def telling_edges(model: HookedTransformer, batch: Batch) -> set[Use]:
    """Return the used edges through which something about the sequence passes.

    What the target reads through its weights differs between sequences at some position. No replacement that comes from
    other sequences at the same position (``position_mean``, ``resample``) can show the use of the other edges: those
    from the positions, those that carry the constant direction ``one`` or BOS, and queries that are the same for every
    token.
    """
    _, cache = model.run_with_cache(batch.inputs)
    written: dict[str, Tensor] = {"embed": cache["hook_embed"], "pos_embed": cache["hook_pos_embed"]}
    for layer in range(model.cfg.n_layers):
        z = cache["z", layer]
        written |= {str(Head(layer, h)): z[:, :, h] @ model.W_O[layer, h] for h in range(model.cfg.n_heads)}
        written[f"MLP{layer}"] = cache["mlp_out", layer]
    differs = {node: each - each.mean(0) for node, each in written.items()}
    return {
        edge
        for edge, directions in used_edges(model).items()
        if (differs[edge.source] * directions @ _reading_weights(model, edge)).abs().max() > 1e-3
    }


def _reading_weights(model: HookedTransformer, edge: Use) -> Float[Tensor, "d_model into"]:
    """Return the matrix by which an input reads the residual stream."""
    if edge.target == "output":
        return model.W_U
    if edge.input == "in":
        return model.blocks[int(edge.target.removeprefix("MLP"))].mlp.W_in
    head = Head.named(edge.target)
    if edge.input == "v":
        return model.W_V[head] @ model.W_O[head]
    QK = model.W_Q[head] @ model.W_K[head].T
    return QK if edge.input == "q" else QK.T


def auroc(scores: dict[str, float], true: set[str]) -> float:
    """Return the probability that one that is used scores above one that is not; a tie counts half.

    Those without a score (NaN) rank last.
    """
    ranked = {name: -math.inf if math.isnan(score) else score for name, score in scores.items()}
    above = torch.tensor([score for name, score in ranked.items() if name in true], dtype=torch.float64)[:, None]
    below = torch.tensor([score for name, score in ranked.items() if name not in true], dtype=torch.float64)
    return ((above > below).double() + (above == below).double() / 2).mean().item()
