"""Malformed input, over all commands and file formats: one line that names it, status 2, and nothing on disk changed.

A case is a command, the words that its line must hold (pieces in their order, with … between them), and what is wrong
on disk. Commands run in a folder with a run of each kind: run (finished), unscored (without its scores), stopped
(killed), begun (no checkpoint), text, vectors, positions, synonyms and sentences (their tasks), and gpt2 (a language
model).
"""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from malformed import (
    Contents,
    Damage,
    Watched,
    build,
    contents,
    copied,
    cut,
    file_at,
    folder_at,
    gone,
    holding,
    holds,
    link_at,
    refused,
    replaced,
    typed,
    with_checkpoint,
    with_tensors,
)  # fmt: skip
from toys import Train

# No machine has both.
ABSENT = "mps" if torch.cuda.is_available() else "cuda"
MANY = "9" * 20
DEEP = "[" * 1000
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
)


class Case(NamedTuple):
    """One malformed input."""

    command: str
    says: str
    damage: Damage | None = None
    code: int = 2


def damaged(damage: Damage, *cases: tuple[str, str]) -> list[Case]:
    """Cases of one damage."""
    return [Case(command, says, damage) for command, says in cases]


def plain(*cases: tuple[str, str]) -> list[Case]:
    """Cases in which nothing on disk is damaged."""
    return [Case(command, says) for command, says in cases]


MANY_RUNS = plain(
    ("train induction --seeds 3:3", "seeds: 3:3 is not valid"),
    ("train induction --seeds 0:3,2", "seeds: 2 is given twice"),
    ("train induction --seeds 0:2 --seed 1", "seed: it cannot be given beside --seeds"),
    ("train induction --seeds 0:2 --overwrite", "overwrite: it cannot be given beside --seeds"),
    ("train induction --seeds 0:2 --out run", "out: run is a run"),
    ("train induction --seeds 0:2 --out new --workers 0", "workers: 0 is not valid"),
    ("train induction --seeds 0:2 --out new --address here", "address: here is not valid without --on ray"),
    ("train induction --workers 2 --out new", "workers: it is for many runs; give --seeds too"),
    ("train induction --together 2 --out new", "together: it is for many runs; give --seeds too"),
    ("train induction --seeds 0:2 --out new --together 0", "together: 0 is not valid; it must be from 1 to 256"),
    ("train induction --seeds 0:2 --out new --together -1", "together: -1 is not valid; it must be from 1 to 256"),
    ("train induction --seeds 0:2 --out new --together 257", "together: 257 is not valid; it must be from 1 to 256"),
    ("train induction --seeds 0:2 --out new --together x", "together: 'x' is not valid"),
    ("train induction --seeds 0:2 --out new --together 2 --compile", "compile: True is not valid with together"),
    ("train induction --seeds 0:2 --out new --together 2 --workers 0", "workers: 0 is not valid"),
    ("train induction --seeds 0:2 --out run --together 2", "out: run is a run"),
    ("sweep", "file: is missing"),
    ("sweep nothing.yaml", "sweep: nothing.yaml cannot be read"),
    ("sweep run/config.yaml", "sweep: 'version' is not one of recipe, config, task"),
    ("sweep seeds.yaml", "sweep: seeds.yaml names no recipe, config or task; a recipe is one of induction"),
    ("measure run positions --at 3 --workers 0", "workers: 0 is not valid"),
    ("circuit run positions --at 3", "at: '3' is not valid for several runs"),
    ("densify", "runs: is missing"),
    ("densify run", "between: give either two checkpoints, or --around an event"),
    ("densify run --between 0 1", "between: 1 was not kept"),
    ("train induction --seeds 0:2 --out new --threads_each 0", "threads_each: 0 is not valid"),
    ("densify run --between a b", "between: 'a' is not valid; it must be a whole number"),
    ("densify run --between 3 0", "between: no step lies between 3 and 0"),
    (
        "densify run --around los",
        "around: 'los' is neither behaviour nor circuit nor a score of run",
    ),
)
COMMANDS = plain(
    ("trian", "command: 'trian' is not one of … nearest is 'train'"),
    ("''", "command: '' is not one of train, sweep"),
    ("--seed 1", "command: '--seed' is not one of"),
    ("Train induction", "command: 'Train' is not one of … nearest is 'train'"),
    ("measures run", "measures: takes no argument, got 'run'"),
    ("measures --all", "measures: takes no argument, got '--all'"),
)

RECIPES = plain(
    ("train", "recipe: none given before the options; it must be one of induction"),
    ("train --seed 1 induction", "recipe: none given before the options"),
    ("train inductoin", "recipe: 'inductoin' is not one of … nearest is 'induction'"),
    ("train ''", "recipe: '' is not one of"),
    ("train run", "recipe: 'run' is not one of induction"),
    ("train induction extra", "extra: there is no such option"),
    ("train induction text", "text: there is no such option"),
    ("train induction --config run/config.yaml", "config: a config is a recipe; no other can be given"),
)

OPTIONS = plain(
    ("train induction --model.n_layerz 1", "--model.n_layerz: there is no such option; nearest is '--model.n_layers'"),
    ("train induction --model.n_layer 1", "--model.n_layer: there is no such option; nearest is '--model.n_layers'"),
    ("train induction --ou x", "--ou: there is no such option; nearest is '--out'"),
    ("train induction -o x", "-o: there is no such option"),
    ("train induction --=3", "there is no such option"),
    ("train induction '--steps 3'", "--steps: '--steps 3' is one argument"),
    ("train induction --model {n_layers:1}", "--model: there is no such option"),
    ("train induction --model.n_layers.x 1", "--model.n_layers.x: there is no such option"),
    ("train induction --seeds -1:2", "seeds: '-1:2' is not valid; it must be a number below 4294967296, or a range"),
    ("train induction --optim.lr -1e-3", "optim.lr: -0.001 is not valid; it must be finite and above 0"),
    ("train induction --model.steps 1", "--model.steps: there is no such option; nearest is '--steps'"),
    ("train induction --model.dropout .1", "--model.dropout: there is no such option; --help lists those of this part"),
    ("train induction --overwrite -1", "overwrite: ignored explicit argument '-1'"),
    ("train --task toys:HoldsZero --model.attention_dir causal", "HoldsZero needs bidirectional attention"),
    ("train induction --lr 1", "--lr: there is no such option; nearest is '--optim.lr'"),
    ("train induction --model.lr 1", "--model.lr: there is no such option; nearest is '--optim.lr'"),
    ("train brackets --task.length 42", "--task.length: there is no such option; this part has --task.max_brackets"),
    ("train induction --seed", "seed: expected one argument"),
    ("train induction --seed=", "seed: '' is not valid; it must be a whole number"),
    ("train induction --task.n_tokens", "task.n_tokens: expected one argument"),
    ("train induction --overwrite=yes", "overwrite: ignored explicit argument 'yes'"),
    ("train induction --config", "config: expected one argument"),
    ("train induction --seed '1 2'", "seed: '1 2' is not valid; it must be a whole number"),
    ("train induction --seed none", "seed: 'none' is not valid; it must be a whole number"),
    ("train induction --seed -1", "seed: -1 is not valid; it must be a whole number from 0"),
    ("train induction --seed 1.0", "seed: '1.0' is not valid; it must be a whole number"),
    ("train induction --seed 1e3", "seed: '1000.0' is not valid; it must be a whole number"),
    ("train induction --seed true", "seed: 'True' is not valid; it must be a whole number"),
    ("train induction --seed ٣", "seed: '٣' is not valid; it must be a whole number"),
    ("train induction --seed '[1]'", "seed: '[1]' is not valid; it must be a whole number"),
    ("train induction --eval_seed 4294967296", "eval_seed: 4294967296 is not valid"),
    (f"train induction --eval_seed {MANY}", f"eval_seed: {MANY} is not valid"),
    ("train induction --batch_size 0", "batch_size: 0 is not valid; it must be 1 or more"),
    ("train induction --batch_size 2000000000", "batch_size: 2000000000 is not valid; it must be 1 or more, up to"),
    ("train induction --eval_batch_size 0", "eval_batch_size: 0 is not valid; it must be 1 or more"),
    (
        "train induction --batch_size 900000000",
        "batch_size: 900,000,000 sequences of 48 positions … to train on;",
    ),
    (
        "train induction --eval_batch_size 900000000",
        "eval_batch_size: 900,000,000 sequences of 48 … to score; this",
    ),
    ("train induction --batch_size 90000000 --optim.accumulate 64", "batch_size: 90,000,000 sequences of 48 positions"),
    ("train induction --out run --overwrite --batch_size 900000000", "batch_size: 900,000,000 sequences of 48"),
    ("train induction --seeds 0:2 --batch_size 900000000", "batch_size: 900,000,000 sequences of 48 positions need"),
    ("train --config run/config.yaml --eval_batch_size 900000000", "eval_batch_size: 900,000,000 sequences of 11"),
    (
        "train text --task.corpus corpus --task.n_tokens 331 --task.length 17 --batch_size 900000000",
        "batch_size: 900,000,000 sequences of 17 positions",
    ),
    ("train induction --steps -1", "steps: -1 is not valid; it must be 1 or more"),
    ("train induction --steps 0", "steps: 0 is not valid; it must be 1 or more"),
    (f"train induction --steps {MANY}", f"steps: {MANY} is not valid; it must be 1 or more, up to"),
    (f"train induction --steps {'9' * 5000}", "steps: … is not valid"),
    ("train induction --steps ten", "steps: 'ten' is not valid; it must be a whole number"),
    ("train induction --steps inf", "steps: 'inf' is not valid; it must be a whole number"),
    ("train induction --compile=maybe", "compile/--no_compile: ignored explicit argument 'maybe'"),
)

MODELS = plain(
    ("train induction --model.n_layers two", "model.n_layers: 'two' is not valid; it must be a whole number"),
    ("train induction --model.n_layers 2.5", "model.n_layers: '2.5' is not valid; it must be a whole number"),
    ("train induction --model.n_layers 0", "model.n_layers: 0 is not valid; it must be 1 or more"),
    ("train induction --model.n_layers 9999999", "model: 9,999,999 layers with … GiB to train; this machine has 16.0"),
    ("train induction --model.n_layers 100000", "model: 100,000 layers … GiB to train; this machine has 16.0"),
    ("train induction --model.n_ctx 999999999", "model: 2 layers … GiB to train; this machine has 16.0"),
    (
        "train markov-chains --model.positional_embedding_type relative --model.n_ctx 999999999",
        "model: 2 layers … GiB to train; this machine has 16.0",
    ),
    (
        "train induction --model.positional_embedding_type rotary --model.n_ctx 999999999",
        "model: 2 layers … GiB to train; this machine has 16.0",
    ),
    ("train induction --model.n_heads 99999999", "model: 2 layers … GiB to train; this machine has 16.0"),
    ("train induction --model.d_head 99999999", "model: 2 layers … GiB to train; this machine has 16.0"),
    (
        "train induction --model.attn_only false --model.d_mlp 999999999",
        "model: 2 layers … GiB to train; this machine has 16.0",
    ),
    ("train induction --model.n_heads -1", "model.n_heads: -1 is not valid; it must be 1 or more"),
    ("train induction --model.d_head 0", "model.d_head: 0 is not valid; it must be 1 or more"),
    ("train induction --model.d_model 99999999999", "model: 2 layers … GiB to train; this machine has"),
    ("train induction --model.d_mlp 29", "model.d_mlp: it is not used with attn_only True; change that too, or leave"),
    ("train induction --model.act_fn gelu_new", "model.act_fn: it is not used with attn_only True"),
    ("train induction --model.rotary_dim 4", "model.rotary_dim: it is not used with positional_embedding_type"),
    ("train induction --model.normalization_type null --model.eps .1", "model.eps: it is not used with normalization_"),
    ("train induction --model.use_attn_scale false --model.attn_scale 2", "model.attn_scale: it is not used with use_"),
    ("train maximum --model.initializer_range .5", "model.initializer_range: it is not used with init_mode"),
    ("train induction --optim.momentum .5", "optim.momentum: it is not used with optimizer AdamW"),
    ("train induction --optim.optimizer SGD --optim.betas [.5,.6]", "optim.betas: it is not used with optimizer SGD"),
    ("train induction --model.d_mlp 0", "model.d_mlp: 0 is not valid; it must be 1 or more"),
    ("train induction --model.n_ctx 47", "model.n_ctx: 47 is too small; the task needs 48"),
    ("train induction --model.n_ctx 0", "model.n_ctx: 0 is not valid"),
    ("train induction --model.d_vocab 64", "model.d_vocab: 64 is too small; the task needs 65"),
    ("train induction --task.n_tokens 66 --model.d_vocab=65", "d_vocab: 65 is too small; the task needs 67"),
    ("train induction --model.d_vocab_out 64", "model.d_vocab_out: 64 is too small; the task needs 65"),
    ("train induction --model.input_type vectors", "model.input_type: 'vectors' is not valid"),
    ("train affine-recurrence --model.d_vocab 41", "model.d_vocab: 41 is not valid"),
    ("train affine-recurrence --model.input_type tokens", "model.input_type: 'tokens' is not valid"),
    ("train induction --model.act_fn rleu", "model.act_fn: 'rleu' is not valid; … nearest is 'relu'"),
    ("train induction --model.act_fn null", "model.act_fn: 'None' is not valid"),
    ("train induction --model.attn_only maybe", "model.attn_only: 'maybe' is not valid; it must be true or false"),
    ("train induction --model.attn_only 1", "model.attn_only: '1' is not valid; it must be true or false"),
    (
        "train induction --model.attention_dir left",
        "model.attention_dir: 'left' is not valid; it must be one of causal",
    ),
    (
        "train brackets --model.attention_dir causal",
        "model.attention_dir: 'causal' is not valid; Brackets needs bidirectional attention",
    ),
    ("train induction --model.attention_dir bidirectional", "RepeatedTokens needs causal attention"),
    ("train affine-recurrence --model.attention_dir bidirectional", "AffineRecurrence needs causal attention"),
    ("train induction --model.positional_embedding_type alibi", "'alibi' is not valid; it must be one of standard"),
    (
        "train induction --model.positional_embedding_type rotary --model.rotary_dim 3",
        "model.rotary_dim: 3 is not valid; it must be even, from 2 to d_head",
    ),
    (
        "train induction --model.normalization_type ln",
        "model.normalization_type: 'ln' is not valid; it must be one of LN, LNPre, RMS, RMSPre, or null",
    ),
    (
        "train induction --model.tie_word_embeddings true --model.d_vocab_out 71",
        "model.tie_word_embeddings: True is not valid with d_vocab_out 71; it must be d_vocab",
    ),
    ("train induction --model.attn_pdrop 1", "model.attn_pdrop: 1.0 is not valid; it must be at least 0 and below 1"),
    ("train induction --model.eps -1", "model.eps: -1.0 is not valid; it must be finite and 0 or more"),
    ("train induction --model.eps .inf", "model.eps: inf is not valid; it must be finite and 0 or more"),
    ("train induction --model.initializer_range .nan", "model.initializer_range: nan is not valid"),
    ("train induction --model.initializer_range -0.1", "model.initializer_range: -0.1 is not valid"),
    ("train induction --model.dtype float16", "--model.dtype: there is no such option"),
    ("train induction --model.device cuda", "--model.device: there is no such option"),
)

TRAINING = plain(
    ("train induction --optim.optimizer AdmaW", "optim.optimizer: 'AdmaW' is not valid; … nearest is 'AdamW'"),
    ("train induction --optim.lr nan", "optim.lr: 'nan' is not valid; it must be a number"),
    ("train induction --optim.lr .nan", "optim.lr: nan is not valid; it must be finite and above 0"),
    ("train induction --optim.lr .inf", "optim.lr: inf is not valid; it must be finite and above 0"),
    ("train induction --optim.lr 1e999", "optim.lr: inf is not valid; it must be finite and above 0"),
    (
        """train induction --optim.groups '{"blocks.7.*":{"lr":1}}'""",
        "optim.groups: 'blocks.7.*' matches no weight of this network",
    ),
    (
        """train induction --optim.groups '{"*":{"rate":1}}'""",
        "optim.groups: '*' has the options rate; they must be some of",
    ),
    ("train induction --optim.groups 3", "optim.groups: '3' is not valid; it must be a mapping to numbers, such as"),
    ("train induction --optim.accumulate 0", "optim.accumulate: 0 is not valid; it must be 1 or more"),
    ("train induction --optim.accumulate 65", "optim.accumulate: 65 is not valid; it must leave each of 65 parts"),
    ("train induction --optim.lr -1", "optim.lr: -1.0 is not valid; it must be finite and above 0"),
    ("train induction --optim.lr 0", "optim.lr: 0.0 is not valid; it must be finite and above 0"),
    ("train induction --optim.betas 0.9", "optim.betas: '0.9' is not valid; it must be a list such as [0.9, 0.95]"),
    ("train induction --optim.betas '[0.9]'", "optim.betas: '[0.9]' is not valid; it must be a list such as"),
    ("train induction --optim.betas '[0.9, 1.0]'", "optim.betas: 1.0 is not valid; it must be at least 0 and below 1"),
    ("train induction --optim.betas '[.nan, 0.9]'", "optim.betas: nan is not valid; it must be at least 0 and below 1"),
    ("train induction --optim.momentum 1", "optim.momentum: 1.0 is not valid; it must be at least 0 and below 1"),
    ("train induction --optim.weight_decay -1", "optim.weight_decay: -1.0 is not valid"),
    ("train induction --optim.warmup_steps -1", "optim.warmup_steps: -1 is not valid; it must be 0 or more"),
    (
        "train induction --optim.decay exponential",
        "optim.decay: 'exponential' is not valid; it must be one of constant",
    ),
    ("train induction --optim.max_grad_norm x", "optim.max_grad_norm: 'x' is not valid; it must be a number, or null"),
    ("train induction --optim.max_grad_norm 0", "optim.max_grad_norm: 0.0 is not valid; it must be above 0, or null"),
    ("train induction --optim.max_grad_norm .nan", "optim.max_grad_norm: nan is not valid; it must be above 0"),
    ("train induction --schedule.log -1", "schedule.log: -1 is not valid"),
    ("train induction --schedule.log 999999999999", "schedule.log: 999999999999 is not valid; it must be 0 to 10000"),
    ("train induction --schedule.linear 1.5", "schedule.linear: '1.5' is not valid; it must be a whole number"),
    ("train induction --schedule.at 5", "schedule.at: '5' is not valid; it must be a list such as"),
    ("train induction --schedule.at '[5, x]'", "schedule.at: 'x' is not valid; it must be a list such as"),
    ("train induction --schedule.at '[-1]'", "schedule.at: -1 is not valid; it must be 0 or more"),
    ("train induction --schedule.at '[9999]'", "schedule.at: 9999 is not valid; it must be 0 to 1500"),
    ("train induction --schedule.at '[5'", "schedule.at: '[5' is not valid; it must be a list such as"),
    ("train induction --trainer.accelerator gpuu", "trainer.accelerator: 'gpuu' is not valid; … nearest is 'gpu'"),
    (f"train induction --trainer.accelerator {ABSENT}", f"trainer.accelerator: '{ABSENT}' is not to be had here"),
    ("train induction --trainer.precision 8", "trainer.precision: '8' is not valid; it must be one of 32-true"),
    (
        "train induction --trainer.precision 16-mixed --trainer.accelerator cpu",
        "trainer.precision: '16-mixed' is not valid on a CPU",
    ),
    ("train induction --trainer.threads 0", "trainer.threads: 0 is not valid; it must be from 1 to 1024"),
    (
        "train induction --trainer.threads many",
        "trainer.threads: 'many' is not valid; it must be a whole number, or null",
    ),
)

TASKS = plain(
    ("train induction --task.d_vector 3", "--task.d_vector: there is no such option"),
    ("train induction --task.length -3", "task.length: -3 is not valid"),
    ("train induction --task.length 2", "task.length: 2 is not valid; it must be at least 3"),
    ("train induction --task.period_min 0", "task.period_min: 0 is not valid; it must be at least 1"),
    ("train induction --task.period_max 99", "task.period_max: 99 is not valid; it must be at least period_min"),
    ("train induction --task.late_start 1.5", "task.late_start: 1.5 is not valid; it must be a share"),
    ("train induction --task.late_start .nan", "task.late_start: nan is not valid; it must be a share"),
    ("train induction --task.n_tokens 3", "task.n_tokens: 3 is not valid; it must be at least"),
    ("train induction --task.corpus package:email", "--task.corpus: there is no such option"),
    (f"train induction --task.length {MANY}", "task.n_tokens: 64 is not valid; it must be at least 9999"),
    (f"train induction --task.n_tokens {MANY}", "model: 2 layers … GiB to train; this machine has"),
    ("train induction --task.length 60000 --task.n_tokens 60000", "batch_size: 64 sequences of 60,000 positions need"),
    (
        "train previous-token --task.length 9000000",
        "batch_size: 256 sequences of 9,000,000 … to train on; this",
    ),
    (
        "train previous-token --task.length 30000 --batch_size 1",
        "eval_batch_size: 64 sequences of 30,000 … to score;",
    ),
    ("train fuzzy-induction --task.length 60000 --task.n_pairs 60000", "batch_size: 64 sequences of 60,000 positions"),
    ("train markov-chains --task.length 99999999", "model: 2 layers with … GiB to train; this machine has 16.0"),
    ("train maximum --task.length 99999999", "model: 1 layer with … GiB to train; this machine has 16.0"),
    ("train brackets --task.max_brackets 99999998", "model: 3 layers with … GiB to train; this machine has 16.0"),
    ("train linear-regression --task.dimension 99999999", "model: … GiB to train; this machine has 16.0"),
    ("train linear-regression --task.n_pairs 99999999", "model: … GiB to train; this machine has 16.0"),
    ("train affine-recurrence --task.d_vector 99999999", "model: … GiB to train; this machine has 16.0"),
    ("train fuzzy-induction --task.n_pairs 3", "task.n_pairs: 3 is not valid; it must be at least"),
    ("train fuzzy-induction --task.period_min 1", "task.period_min: 1 is not valid; it must be at least 2"),
    ("train fuzzy-induction --task.length 1", "task.length: 1 is not valid; it must be at least 4"),
    ("train fuzzy-induction --task.period_max 90", "task.period_max: 90 is not valid"),
    ("train indirect-object --task.n_names 2", "task.n_names: 2 is not valid; it must be from 6 to"),
    ("train indirect-object --task.n_names 9999", "task.n_names: 9999 is not valid; it must be from 6 to"),
    ("train indirect-object --task.order ABAB", "task.order: 'ABAB' is not valid; it must be one of"),
    ("train indirect-object --task.s2_place first", "task.s2_place: 'first' is not valid; it must be one of"),
    (
        "train indirect-object --task.s2_place varied --task.order ABBA",
        "task.order: 'ABBA' is not valid; it must be mixed",
    ),
    ("train markov-chains --task.n_states 1", "task.n_states: 1 is not valid; it must be from 2"),
    ("train markov-chains --task.order 4", "task.order: 4 is not valid; it must be from 1 to 3"),
    ("train markov-chains --task.order 3 --task.n_states 9", "task.order: 3 is not valid; n_states^order = 729 must"),
    ("train markov-chains --task.length 1", "task.length: 1 is not valid; it must be more than the order"),
    ("train markov-chains --task.n_chains 0", "task.n_chains: 0 is not valid; it must be null, or 1 to"),
    ("train markov-chains --task.chain_seed -1", "task.chain_seed: -1 is not valid; it must be a whole number"),
    ("train maximum --task.n_tokens 1", "task.n_tokens: 1 is not valid; it must be at least 2"),
    ("train maximum --task.length 1", "task.length: 1 is not valid; it must be at least 2"),
    ("train modular-addition --task.p 1", "task.p: 1 is not valid; it must be from 2 to 1024"),
    ("train modular-addition --task.held_out 1", "task.held_out: 1.0 is not valid; it must be a share"),
    ("train brackets --task.max_brackets 7", "task.max_brackets: 7 is not valid; it must be even, and at least 2"),
    ("train linear-regression --task.dimension 0", "task.dimension: 0 is not valid; it must be at least 1"),
    ("train linear-regression --task.n_pairs 1", "task.n_pairs: 1 is not valid; it must be at least 2"),
    ("train linear-regression --task.noise_variance 0", "task.noise_variance: 0.0 is not valid; it must be finite"),
    ("train linear-regression --task.n_tasks 9999", "task.n_tasks: 9999 is not valid; it must be null, or 1 to"),
    ("train linear-regression --task.task_seed -1", "task.task_seed: -1 is not valid; it must be a whole number"),
    ("train previous-token --task.length 1", "task.length: 1 is not valid; it must be at least 2"),
    ("train previous-token --task.n_tokens 0", "task.n_tokens: 0 is not valid; it must be at least 1"),
    ("train previous-token --task.bos 2", "task.bos: '2' is not valid; it must be true or false"),
    ("train affine-recurrence --task.d_vector 0", "task.d_vector: 0 is not valid; it must be at least 1"),
    ("train affine-recurrence --task.compl 0", "task.compl: 0 is not valid"),
    ("train affine-recurrence --task.length_max 99999", "task.length_max: 99999 is not valid; it must be at most"),
    ("train affine-recurrence --task.length_min 1", "task.length_min: 1 is not valid"),
    ("train affine-recurrence --task.c_min .nan", "task.c_min: nan is not valid"),
    ("train affine-recurrence --task.c_min 3", "task.c_max: 2.0 is not valid; it must be finite, at least c_min = 3.0"),
    ("train affine-recurrence --task.a_max .inf", "task.a_max: inf is not valid"),
    ("train affine-recurrence --task.cap_min -1", "task.cap_min: -1.0 is not valid"),
    ("train text --task.n_tokens 256", "task.n_tokens: 256 is not valid; it must be from 257"),
    ("train text --task.n_tokens 70000", "task.n_tokens: 70000 is not valid; it must be from 257"),
    ("train text --task.length 1", "task.length: 1 is not valid; it must be at least 2"),
    ("train text --task.held_out 0", "task.held_out: 0.0 is not valid; it must be a share"),
    ("train text --task.held_out .nan", "task.held_out: nan is not valid; it must be a share"),
    ("train text --task.corpus ''", "corpus: '' is not valid; it must be stdlib, package:NAME"),
    ("train text --task.corpus 'a\0b'", "corpus: 'a\\x00b' is not valid; it must be stdlib, package:NAME"),
    ("train text --task.corpus nowhere", "corpus: no folder or file matches 'nowhere'"),
    (
        "train text --task.corpus package:nothing_of_this_name",
        "corpus: 'package:nothing_of_this_name' is not installed",
    ),
    ("train text --task.corpus package:os.path", "corpus: 'package:os.path' is not installed"),
    ("train text --task.corpus empty", "corpus: 'empty' has no texts (skipped: none); it must have at least two"),
    ("train text --task.corpus few", "corpus: 'few' has 1 text (skipped: none); it must have at least two"),
    ("train text --task.corpus binary", "corpus: 'binary' has no texts (skipped: 2 undecodable)"),
    ("train text --task.corpus latin.txt", "corpus: 'latin.txt' has no texts (skipped: 1 undecodable)"),
    ("train text --task.corpus /dev/zero", "corpus: no folder or file matches '/dev/zero'"),
    ("train text --task.corpus 'corpus/*.nothing'", "corpus: no folder or file matches 'corpus/*.nothing'"),
    ("train text --task.corpus corpus --task.n_tokens 331 --task.length 99999", "length: 99999 is longer than every"),
    ("train text --task.corpus_hash abc --task.corpus corpus", "corpus_hash: abc… is not the hash of 'corpus'"),
)

OWN_TASKS = plain(
    ("train --task RepeatedTokens", "task: 'RepeatedTokens' cannot be imported … must be package.module:Class"),
    ("train --task ''", "task: '' cannot be imported"),
    ("train --task :", "task: ':' cannot be imported"),
    ("train --task .x:Y", "task: '.x:Y' cannot be imported"),
    ("train --task toys:", "task: 'toys:' cannot be imported"),
    ("train --task 'toys:a\0b'", "task: 'toys:a\\x00b' cannot be imported"),
    ("train --task toys:TOKENS", "task: 'toys:TOKENS' is not a headway.data.task.Task"),
    ("train --task os:system", "task: 'os:system' is not a headway.data.task.Task"),
    ("train --task builtins:int", "task: 'builtins:int' is not a headway.data.task.Task"),
    ("train --task no.such:Task", "task: 'no.such:Task' cannot be imported"),
    ("train --task syntax:Task", "task: 'syntax:Task' cannot be imported (SyntaxError"),
    ("train --task raising:Task", "task: 'raising:Task' cannot be imported (SystemExit"),
    ("train --task headway.data.task:Task", "task: 'headway.data.task:Task' lacks baselines, d_vocab"),
    ("train --task toys:Boundless", "task: targets from 7 to 13 are not valid; this network puts out 0 to 6"),
    ("train --task toys:CountsNothing", "task: no position of its batch counts"),
    ("train --task toys:Adding --task.held_out 0.01", "task.held_out: 0.01 is not valid; of 25 sequences it leaves"),
    ("train --task toys:Adding --task.held_out 0.999", "task.held_out: 0.999 is not valid; of 25 sequences it leaves"),
    ("train --task toys:Adding --task.held_out 1", "task.held_out: 1.0 is not valid; it must be a share"),
    (
        "train --task toys:Adding --batch_size 14",
        "batch_size: 14 is not valid; the task has only 13 sequences to train",
    ),
    ("train --task toys:Adding --eval_batch_size 13", "eval_batch_size: 13 is not valid; the task has only 12"),
    ("train --task toys:Adding --model.d_vocab_out 4", "model.d_vocab_out: 4 is too small; the task needs 5"),
    ("train --task toys:Padding --task.fault everywhere", "task: its sequence 0 is padding everywhere"),
    ("train --task toys:Padding --task.fault first", "task: its sequence 0 has padding before its end"),
    ("train --task toys:Padding --task.fault counts", "task: its sequence 0 counts a position that is padding"),
    (
        "train --task toys:Numbers --model.d_vocab_out 3",
        "model.d_vocab_out: 3 is not valid; a target of the task has 2",
    ),
    ("train --task toys:Counting --task.modulus x", "task.modulus: 'x' is not valid; it must be a whole number"),
    (
        "train --task toys:Counting --task.modulos 3",
        "--task.modulos: there is no such option; nearest is '--task.modulus'",
    ),
    ("train --task toys:Counting --task.modulus -1", "model.d_vocab: -1 is not valid"),
    ("train --task toys:Counting --task.modulus 0", "model.d_vocab: 0 is not valid"),
    ("train --task headway.data.repeated_token:RepeatedTokens", "nearest is 'headway.data.repeated_tokens:Rep"),
    ("train --task headway.data.previous_token:PreviusToken", "nearest is 'headway.data.previous_token:Prev"),
    ("train --task headway.data.renamed:Renamed", "task: 'headway.data.renamed:Renamed' needs a default for"),
    ("train --task", "task: expected one argument"),
)

PLACES = plain(
    ("train induction --out run", "out: run holds a run already; --overwrite replaces it, --resume run goes on"),
    ("train induction --out run/config.yaml", "out: run/config.yaml is a file"),
    ("train induction --out run/weights/../../run", "out: run/weights/../../run holds a run already"),
    ("train induction --out run/weights/run", "out: run/weights/run lies in the run"),
    ("train induction --out run/new", "out: run/new lies in the run"),
    ("train induction --out foreign", "out: foreign holds config.yaml but no run; it must be empty, or hold a run"),
    ("train induction --out foreign --overwrite", "out: foreign holds config.yaml but no run"),
    ("train induction --out mine.svg", "out: mine.svg is a file; it must be a directory"),
    ("train induction --out mine.svg/run", "out: mine.svg/run cannot be written"),
    ("train induction --out /proc/run", "out: /proc/run cannot be written"),
    ("train induction --out /proc/version/run", "out: /proc/version/run cannot be written"),
    ("train induction --out /dev/full", "out: /dev/full is a file; it must be a directory"),
    ("train induction --out /dev/null/run", "out: /dev/null/run cannot be written"),
    ("train induction --out ''", "out: '' is not valid; it must be a directory"),
    ("train induction --out 'a\0b'", "out: 'a\\x00b' is not valid; it must be a directory"),
    (f"train induction --out {'x' * 300}", "out: 'xxx … is not valid; it must be a directory"),
    ("train induction --out run --overwrite --model.d_model 99999999999", "model: 2 layers … GiB to train"),
    ("train induction --out run --overwrite --model.n_ctx 5", "model.n_ctx: 5 is too small"),
    ("train induction --out", "out: expected one argument"),
)

RESUMING = plain(
    ("train --resume nowhere", "run: nowhere holds no run"),
    ("train --resume ''", "resume: '' is not valid; it must be a directory"),
    ("train --resume mine.svg", "run: mine.svg holds no run"),
    ("train --resume run/weights", "run: run/weights holds no run"),
    ("train --resume foreign", "run: foreign holds no run (there is no environment.json in it)"),
    ("train induction --resume run", "resume: a run goes on as it was"),
    ("train --resume run --steps 9", "resume: a run goes on as it was"),
    ("train --resume run --out there", "resume: a run goes on as it was"),
    ("train --resume run --config run/config.yaml", "resume: a run goes on as it was"),
    ("train --resume", "resume: expected one argument"),
    ("train --resume run stopped", "resume: a run goes on as it was"),
    ("train --resume stopped --task toys:TOKENS", "task: 'toys:TOKENS' is not a headway.data.task.Task"),
)


def without(name: str):
    def change(checkpoint: dict) -> None:
        del checkpoint[name]

    change.__name__ = f"without {name}"
    return change


def set_to(name: str, value: object):
    def change(checkpoint: dict) -> None:
        checkpoint[name] = value

    change.__name__ = f"with {name} {value!r}"
    return change


def emptied(checkpoint: dict) -> None:
    checkpoint["optimizer_states"][0]["state"] = {}


def emptied_without_a_digest(checkpoint: dict) -> None:
    emptied(checkpoint)
    del checkpoint["digest"]


def other_rate(checkpoint: dict) -> None:
    checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] *= 2


def other_rate_from_now_on(checkpoint: dict) -> None:
    checkpoint["lr_schedulers"][0]["base_lrs"][0] *= 2


def another_moment_of_the_schedule(checkpoint: dict) -> None:
    checkpoint["lr_schedulers"][0]["last_epoch"] += 1


def more_weight_decay(checkpoint: dict) -> None:
    checkpoint["optimizer_states"][0]["param_groups"][0]["weight_decay"] = 0.5


def other_betas(checkpoint: dict) -> None:
    checkpoint["optimizer_states"][0]["param_groups"][0]["betas"] = (0.5, 0.5)


def updates_forgotten(checkpoint: dict) -> None:
    for state in checkpoint["optimizer_states"][0]["state"].values():
        state["step"] -= 1


def loops_of_the_start(checkpoint: dict) -> None:
    loops = checkpoint["loops"]["fit_loop"]
    loops["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"] = 0


def loops_near_the_end(checkpoint: dict) -> None:
    checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] = 1_000


UNLIKE_ITS_STEP = (
    other_rate,
    other_rate_from_now_on,
    another_moment_of_the_schedule,
    more_weight_decay,
    other_betas,
    updates_forgotten,
    loops_of_the_start,
    loops_near_the_end,
)


def without_digest(change: Callable[[dict], None]) -> Callable[[dict], None]:
    def both(checkpoint: dict) -> None:
        change(checkpoint)
        del checkpoint["digest"]

    both.__name__ = f"{change.__name__} without a digest"
    return both


def other_weights(checkpoint: dict) -> None:
    next(iter(checkpoint["state_dict"].values()))[0] += 1


def fewer_weights(checkpoint: dict) -> None:
    checkpoint["state_dict"].popitem()


def moments_of_another_shape(checkpoint: dict) -> None:
    for state in checkpoint["optimizer_states"][0]["state"].values():
        state["exp_avg"] = state["exp_avg"].flatten()[:1]


def empty_state(checkpoint: dict) -> dict:
    return {}


def a_list(checkpoint: dict) -> list:
    return [1]


KEYS = (
    "recipe",
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "loops",
    "global_step",
    "pytorch-lightning_version",
)
RESUME_FILES = [
    Case(
        "train --resume stopped",
        f"resume: stopped/resume.ckpt {says} … headway train --config stopped/config.yaml",
        each,
    )
    for each, says in (
        *((with_checkpoint(without(name)), f"is damaged ('{name}')") for name in KEYS[:-1]),
        *((with_checkpoint(without(name), signed=True), f"is damaged ('{name}')") for name in KEYS),
        *((with_checkpoint(set_to(name, None), signed=True), f"is damaged ({name} is a NoneType)") for name in KEYS),
        *((with_checkpoint(set_to(name, {}), signed=True), "is damaged") for name in ("state_dict", "loops")),
        (with_checkpoint(set_to("optimizer_states", []), signed=True), "was altered"),
        (with_checkpoint(set_to("lr_schedulers", []), signed=True), "was altered"),
        (with_checkpoint(set_to("lr_schedulers", [{}]), signed=True), "is damaged ('last_epoch')"),
        (with_checkpoint(set_to("pytorch-lightning_version", "none"), signed=True), "is damaged (pytorch-lightning"),
        (with_checkpoint(set_to("global_step", -1), signed=True), "is of step -1"),
        (with_checkpoint(set_to("global_step", True), signed=True), "is damaged (global_step is a bool)"),
        (with_checkpoint(set_to("global_step", 3), signed=True), "is of step 3, but the run has kept step 1"),
        (with_checkpoint(emptied), "was altered"),
        (with_checkpoint(emptied_without_a_digest), "was altered"),
        *((with_checkpoint(without_digest(change)), "was altered") for change in UNLIKE_ITS_STEP),
        *((with_checkpoint(change, signed=True), "was altered") for change in UNLIKE_ITS_STEP),
        (with_checkpoint(other_rate), "was altered"),
        (with_checkpoint(other_weights), "was altered"),
        (with_checkpoint(other_weights, signed=True), "has other weights than stopped/weights"),
        (with_checkpoint(fewer_weights, signed=True), "is damaged"),
        (with_checkpoint(moments_of_another_shape, signed=True), "is damaged (exp_avg of weight 0 has the shape"),
        (with_checkpoint(empty_state), "is damaged"),
        (with_checkpoint(a_list), "is damaged"),
        (holding("stopped/resume.ckpt", b""), "is damaged"),
        (holding("stopped/resume.ckpt", b"none"), "is damaged"),
        (holding("stopped/resume.ckpt", b"PK\x03\x04"), "is damaged"),
        (cut("stopped/resume.ckpt"), "is damaged"),
        (gone("stopped/resume.ckpt"), "is missing"),
        (folder_at("stopped/resume.ckpt"), "is damaged"),
        (link_at("stopped/resume.ckpt", "resume.ckpt"), "is missing"),
    )
]


def config(old: str, new: str, says: str, command: str = "train --config run/config.yaml --out new") -> Case:
    """A config.yaml with one line replaced."""
    return Case(command, f"config: run/config.yaml … {says}", replaced("run/config.yaml", old, new))


CONFIGS = [
    *plain(
        ("train --config nowhere.yaml", "config: nowhere.yaml cannot be read (No such file"),
        ("train --config run", "config: run cannot be read (Is a directory"),
        ("train --config ''", "config: '' is not valid; it must be a file"),
        ("train --config 'a\0b'", "config: 'a\\x00b' is not valid; it must be a file"),
        ("train --config mine.svg", "config: mine.svg holds no recipe"),
        ("train --config latin.txt", "config: latin.txt is not YAML"),
        ("train --config /dev/null", "config: /dev/null holds no recipe"),
        ("train --config /dev/zero", "config: /dev/zero is larger than 10,000,000 bytes"),
        ("train --config foreign/config.yaml", "config: foreign/config.yaml: version: None is not valid"),
        ("train --config run/environment.json", "config: run/environment.json: version: None is not valid"),
        ("train --config run/config.yaml --task.d_vector 3", "--task.d_vector: there is no such option"),
        ("train --config run/config.yaml --steps 0", "steps: 0 is not valid"),
        (
            "train --config run/config.yaml --task toys:Counting",
            "config: run/config.yaml: task.n_tokens: there is no",
        ),
    ),
    # A run's own name is the directory of the new one, which may not be a file.
    Case("train --config run/config.yaml", "out: runs/run cannot be written (Not a directory)", file_at("runs")),
    *(
        Case("train --config run/config.yaml", says, holding("run/config.yaml", content))
        for content, says in (
            ("", "config: run/config.yaml holds no recipe"),
            ("]", "config: run/config.yaml is not YAML"),
            ("5", "config: run/config.yaml holds no recipe"),
            ("[1, 2]", "config: run/config.yaml holds no recipe"),
            (b"\xff\xfe\x00", "config: run/config.yaml is not YAML"),
            (b"a: \x00", "config: run/config.yaml is not YAML"),
            ("a: 1\n---\nb: 2", "config: run/config.yaml is not YAML"),
            ("!!python/object/apply:os.system [touch executed]", "config: run/config.yaml is not YAML"),
            ("&a [*a]", "config: run/config.yaml is not YAML"),
            ("version: 1\ntask: &a {class: *a}", "config: run/config.yaml is not YAML"),
            (DEEP, "config: run/config.yaml is not YAML"),
            (f"{BOMB}\nversion: *a11", "config: run/config.yaml holds more than 100,000 values"),
            (
                f"version: 1\n{BOMB}\ntask: {{class: headway.data.repeated_tokens:RepeatedTokens, n_tokens: *a11}}",
                "config: run/config.yaml holds more than 100,000 values",
            ),
            (f"version: {'9' * 5000}", "config: run/config.yaml is not YAML"),
            (f"version: {'x' * 1000000}", "config: run/config.yaml: version: 'xxx … (1000002 characters) is not valid"),
            ("{}", "config: run/config.yaml: version: None is not valid"),
            ("version: 1", "config: run/config.yaml: task.class: is missing"),
            ("? [a, b]\n: 1\nversion: 1", "config: run/config.yaml is not YAML"),
            (
                "1: 2\nversion: 1\ntask: {class: 'headway.data.repeated_tokens:RepeatedTokens'}",
                "config: run/config.yaml: 1: there is no",
            ),
        )
    ),
    config("version: 1", "version: '1'", "version: '1' is not valid; this Headway reads version 1"),
    config("version: 1", "version: 2", "version: 2 is not valid; this Headway reads version 1"),
    config("version: 1", "version: true", "version: True is not valid; this Headway reads version 1"),
    config("version: 1\n", "", "version: None is not valid; this Headway reads version 1"),
    config("version: 1", "version: 1\nmodel.n_layers: 3", "model.n_layers: there is no such option"),
    config("version: 1", "version: 1\nday: 2020-99-99", "is not YAML"),
    config("version: 1", "]", "is not YAML"),
    config("  n_layers: 2", "  n_layers: two", "model.n_layers: 'two' is not valid; it must be a whole number"),
    config("  n_layers: 2", "  n_layers: 2.0", "model.n_layers: '2.0' is not valid; it must be a whole number"),
    config("  n_layers: 2", "  n_layers: true", "model.n_layers: "),
    config("  n_layers: 2", "  n_layers: null", "model.n_layers: null is not valid; it must be a whole number"),
    config("  n_layers: 2\n", "", "model.n_layers: is missing"),
    config("  n_layers: 2", "  n_layerz: 2", "model.n_layerz: there is no such option; nearest is 'model.n_layers'"),
    config("  n_tokens: 13", "  d_vector: 64", "task.d_vector: there is no such option"),
    config("  n_tokens: 13", "  n_tokens: [64]", "task.n_tokens: … 64 … is not valid; it must be a whole number"),
    config("  n_tokens: 13", "  n_tokens: '13'", "task.n_tokens: '13' is not valid; it must be a whole number"),
    config("  act_fn: relu", "  act_fn: rleu", "model.act_fn: 'rleu' is not valid; … nearest is 'relu'"),
    config("  act_fn: relu", "  act_fn: [relu]", "model.act_fn: … is not valid"),
    config(
        "  attn_only: true", "  attn_only: maybe", "model.attn_only: 'maybe' is not valid; it must be true or false"
    ),
    config("  attn_only: true", "  attn_only: 1", "model.attn_only: 1 is not valid; it must be true or false"),
    config("  d_head: 5", "  d_head: 0", "model.d_head: 0 is not valid"),
    config("  lr: 0.01", "  lr: -.003", "optim.lr: -0.003 is not valid"),
    config("  lr: 0.01", "  lr: .nan", "optim.lr: nan is not valid"),
    config("optim:", "optim: 3\nopt:", "optim: 3 is not valid; it must be a mapping of options"),
    config("optim:", "optim: null\nopt:", "optim: None is not valid; it must be a mapping of options"),
    config("compile: false", "compile: perhaps", "compile: 'perhaps' is not valid; it must be true or false"),
    config("\nseed: 0", "\nsede: 0", "sede: there is no such option; nearest is 'seed'"),
    config("\nseed: 0", "\nseed: 2020-01-01", "seed: … is not valid; it must be a whole number"),
    config("\nseed: 0", "\nseed: !!binary aGFsbG8=", "seed: … is not valid; it must be a whole number"),
    config("\nseed: 0", "\nseed: 1\nseed: 2", "seed: it is given twice; give it once"),
    config("  class: headway.data.repeated_tokens:RepeatedTokens\n", "", "task.class: is missing"),
    config(
        "  class: headway.data.repeated_tokens:RepeatedTokens",
        "  class: 3",
        "task.class: … must be package.module:Class",
    ),
    config("  class: headway.data.repeated_tokens:", "  class: headway.data.repeated:", "task: … cannot be imported"),
    config(
        "  class: headway.data.repeated_tokens:",
        "  class: nothing.here:",
        "task: … is not a task of Headway … say --trust",
    ),
    config("  at: []", "  at: [0.5]", "schedule.at: … is not valid; it must be a list such as"),
    config("  at: []", "  at: {1: 2}", "schedule.at: … is not valid; it must be a list such as"),
]
RUN_CONFIGS = [
    config("version: 1", "]", "is not YAML", "measure run"),
    config("version: 1", "version: 2", "version: 2 is not valid", "report run"),
    config("version: 1", "version: 2", "version: 2 is not valid", "plot run loss"),
    config("version: 1", "version: 2", "version: 2 is not valid", "train --resume run"),
    config("version: 1", "version: 2", "version: 2 is not valid", "study induction run --sequences 5 --overwrite"),
    *(
        Case(
            "measure run --overwrite --only loss",
            "config.json beside it, is damaged (it is of another network than config.yaml)",
            damage,
        )
        for damage in (
            replaced("run/config.yaml", "  n_layers: 2", "  n_layers: 10"),
            replaced("run/config.yaml", "  d_vocab: 14", "  d_vocab: 15"),
        )
    ),
    config("  n_layers: 2", "  n_layers: two", "model.n_layers: 'two' is not valid", "report run"),
    config("  n_layers: 2", "  n_layers: two", "model.n_layers: 'two' is not valid", "plot run loss"),
    config("  n_layers: 2", "  n_layers: -2", "model.n_layers: -2 is not valid", "train --resume run"),
    config("\nsteps: 3", "\nsteps: many", "steps: 'many' is not valid; it must be a whole number", "report run"),
    config("\nsteps: 3", "\nsteps: -3", "steps: -3 is not valid", "report run"),
    config("\nsteps: 3", "\nsteps: -3", "steps: -3 is not valid", "report run --live"),
    config("\nsteps: 3", f"\nsteps: {MANY}", "steps: … is not valid", "plot run loss"),
    config("model:", "model: [1]\nmodell:", "model: [1] is not valid; it must be a mapping of options", "report run"),
    config("eval_batch_size: 3", "eval_batch_size: 0", "eval_batch_size: 0 is not valid", "measure run"),
    Case(
        "measure run",
        "eval_batch_size: 900,000,000 sequences of 11 positions need about … this machine has 16.0",
        replaced("run/config.yaml", "eval_batch_size: 3", "eval_batch_size: 900000000"),
    ),
    *(
        Case(command, says, holding("run/config.yaml", content))
        for content, says in (
            ("", "config: run/config.yaml holds no recipe"),
            (b"\xff", "config: run/config.yaml is not YAML"),
            (DEEP, "config: run/config.yaml is not YAML"),
            (f"{BOMB}\nversion: *a11", "config: run/config.yaml holds more than 100,000 values"),
        )
        for command in ("measure run", "report run", "plot run loss", "train --resume run", "text run hello")
    ),
    Case(
        "train --resume stopped",
        "config.yaml has changed: steps was 3",
        replaced("stopped/config.yaml", "\nsteps: 3", "\nsteps: 4"),
    ),
    *damaged(
        folder_at("run/config.yaml"),
        ("measure run", "run: run holds no run (there is no config.yaml in it)"),
        ("report run", "run: run holds no run (there is no config.yaml in it)"),
    ),
    *damaged(
        link_at("run/config.yaml", "config.yaml"),
        ("plot run loss", "run: run holds no run (there is no config.yaml in it)"),
        ("train induction --out run", "out: run holds weights but no run; it must be empty"),
    ),
    *damaged(
        gone("run/environment.json"),
        ("measure run", "run: run holds no run (there is no environment.json in it)"),
        ("train induction --out run", "out: run holds weights but no run; it must be empty"),
    ),
    *damaged(
        holding("foreign/config.yaml", DEEP),
        ("train induction --out foreign", "out: foreign holds config.yaml but no run"),
    ),
    *damaged(
        holding("foreign/config.yaml", b"\xff"),
        ("train induction --out foreign", "out: foreign holds config.yaml but no run"),
    ),
]

LAST = "run/weights/step-00000003.safetensors"


def endless(arrays: dict) -> None:
    arrays["unembed.b_U"][0] = float("nan")


def enlarged() -> None:
    replaced("run/config.yaml", "  n_layers: 2", "  n_layers: 30000").apply()
    replaced("run/weights/config.json", '"n_layers": 2', '"n_layers": 30000').apply()


def of_another_shape(arrays: dict) -> None:
    arrays["unembed.b_U"] = arrays["unembed.b_U"][:-1].copy()


def lacking_one(arrays: dict) -> None:
    arrays.popitem()


WEIGHTS = [
    *(
        Case(command, "run: run/weights/step-00000003.safetensors, or config.json beside it, is damaged", damage)
        for damage in (
            holding(LAST, b""),
            holding(LAST, b"\xff" * 100),
            cut(LAST),
            folder_at(LAST),
            link_at(LAST, "step-00000003.safetensors"),
            with_tensors(LAST, of_another_shape),
            with_tensors(LAST, lacking_one),
            with_tensors(LAST, endless),
            holding("run/weights/config.json", b"[]"),
            holding("run/weights/config.json", b""),
            holding("run/weights/config.json", b"\xff"),
            holding("run/weights/config.json", DEEP),
            holding("run/weights/config.json", b'{"n_layers": 2}'),
            replaced("run/weights/config.json", '"n_layers": 2', '"n_layers": 1e999'),
            replaced("run/weights/config.json", '"n_layers": 2', '"n_layers": -2'),
            replaced("run/weights/config.json", '"n_layers": 2', '"n_layers": 99999999'),
            replaced("run/weights/config.json", '"d_model": 19', '"d_model": 99999999'),
            replaced("run/weights/config.json", '"d_model": 19', '"d_model": null'),
            gone("run/weights/config.json"),
        )
        for command in ("measure run --at 3 --overwrite --only loss",)
    ),
    *damaged(
        Damage("run of 30,000 layers in both files", enlarged, "run/config.yaml"),
        (
            "measure run --only loss --overwrite",
            "is damaged (blocks.2.ln1.w is missing in it, which config.json has)",
        ),
        ("text run hello", "is damaged (blocks.2.ln1.w is missing in it"),
        ("study induction run --sequences 5 --overwrite", "is damaged (blocks.2.ln1.w is missing in it"),
    ),
    *damaged(
        gone("run/weights"),
        ("measure run", "run: run has no checkpoint yet"),
        ("study induction run", "run: run has no checkpoint yet"),
        ("text run hello", "run: run has no checkpoint yet"),
    ),
    *damaged(file_at("run/weights"), ("measure run", "run: run has no checkpoint yet")),
    *damaged(
        cut(LAST), ("study induction run --sequences 5 --overwrite", "run: run/weights/step-00000003.safetensors")
    ),
    *damaged(
        cut("text/weights/step-00000001.safetensors"),
        ("text text hello", "run: text/weights/step-00000001.safetensors"),
    ),
]

LOSS = "run/scores/step-00000003/loss.safetensors"
SCORES = [
    *(
        Case("plot run loss --at 3", f"step: 3 is left out: scores: {LOSS} is damaged … measure again", damage)
        for damage in (holding(LOSS, b""), cut(LOSS), holding(LOSS, b"\xff" * 99), folder_at(LOSS))
    ),
    *damaged(gone(LOSS), ("plot run loss --at 3", "step: 3 is left out: loss not scored; headway measure run does it")),
    *damaged(gone("run/scores"), ("plot run loss", "run: run has no scores yet; headway measure run computes them")),
    *damaged(file_at("run/scores"), ("plot run loss", "run: run has no scores yet")),
    *(
        Case("measure run --only loss", f"{path}/{rest} cannot be written", file_at(path), code=1)
        for path, rest in (
            ("run/scores", "evaluation.safetensors"),
            ("run/scores/step-00000003", "loss.safetensors"),
        )
    ),
    *damaged(
        link_at("run/scores", "../corpus"),
        ("measure run --only loss", "run: run/scores is a link that leads out of the run"),
    ),
    *(
        Case("measure run --only previous_token --overwrite", "scores: run/scores/null/", damage)
        for damage in (holding("run/scores/null/previous_token.safetensors", b""),)
    ),
    *plain(
        ("measure begun", "run: begun has no checkpoint yet"), ("plot unscored loss", "run: unscored has no scores yet")
    ),
]

CIRCUIT = plain(
    ("circuit", "runs: is missing"),
    ("circuit nowhere", "run: nowhere holds no run"),
    ("circuit run run", "run: run is given twice"),
    ("circuit begun", "run: begun has no checkpoint yet"),
    ("circuit run --at 1", "step: 1 was not kept; nearest is 0"),
    ("circuit run --at first", "at: 'first' is not valid; it must be a checkpoint, last or all"),
    ("circuit run --at -3", "at: '-3' is not valid; it must be a checkpoint, last or all"),
    ("circuit run --at 3,0", "at: '3,0' is not valid; it must be a checkpoint, last or all"),
    ("circuit run --part end", "part: 'end' is not a part of this task; it has first, repeats"),
    ("circuit run --replace swap", "replace: 'swap' is not one of twin, resample, position_mean, mean, zero"),
    ("circuit positions --replace twin", "replacement: 'twin' does not apply: PreviousToken draws no twins"),
    ("circuit run --sequences 0", "sequences: 0 is not valid; it must be 1 or more"),
    ("circuit run --sequences 1", "circuit: needs at least 2 sequences"),
    ("circuit run --orders 0", "orders: 0 is not valid; it must be 1 or more"),
    ("circuit run --controls -1", "controls: -1 is not valid; it must be 1 or more"),
    ("circuit run --controls many", "controls: 'many' is not valid"),
    ("circuit run --max_minutes 0", "max_minutes: 0 is not valid; it must be more than 0"),
    ("circuit run --max_minutes nan", "max_minutes: 'nan' is not valid; it must be a number"),
    ("circuit run --max_minutes soon", "max_minutes: 'soon' is not valid"),
    ("circuit run --max_edges 70", "max_edges: there is no such option"),
    ("circuit run --nodes", "circuit: nothing to explain: the loss on repeats is"),
    ("circuit run --nodes --at 1", "step: 1 was not kept; nearest is 0"),
    ("circuit run --out there", "out: 'there' is not valid; the circuit of a run is written to the run"),
    ("circuit nowhere --task sorting", "run: nowhere holds no run"),
    ("circuit run --seed -1", "seed: -1 is not valid"),
    ("circuit run --edges 7", "edges: there is no such option"),
    ("circuit run", "circuit: nothing to explain: the loss on repeats is"),
    ("circuit gpt2", "task: is missing; a language model needs one of indirect-object, or a Task"),
    ("circuit gpt2 --task sorting", "task: 'sorting' is not valid; a language model needs one of indirect-object"),
    ("circuit gpt2 --task indirect-object --at 3", "at: 3 is not valid; a language model has no checkpoints here"),
    ("circuit gpt2 --task indirect-object --out run", "out: run holds a run; give another directory"),
)

FORMATION = [
    *plain(
        ("formation", "runs: give directories of runs, or two groups with --compare"),
        ("formation run --compare run text", "runs: give directories of runs, or two groups with --compare"),
        ("formation nowhere", "run: nowhere holds no run"),
        ("formation ''", "run: '' is not valid; it must be a directory"),
        ("formation empty", "run: empty holds no run"),
        ("formation foreign", "run: foreign holds no run"),
        ("formation run run", "run: run is given twice; it counts once"),
        ("formation unscored", "run: unscored has no scores yet; headway measure unscored computes them"),
        ("formation run text", "run: text is of the task Text and run of RepeatedTokens; compare runs of one task"),
        (
            "formation run --measures lsos",
            "measures: 'lsos' is not an event or a score of these runs; nearest is 'loss'",
        ),
        ("formation run --measures ''", "measures: '' is not an event or a score of these runs"),
        ("formation run --measures attention", "measures: 'attention' is not valid; it has the axes"),
        ("formation run --measures in_context", "measures: 'in_context' is not valid; it has no upper end"),
        ("formation run --only circuit", "only: 'circuit' is not an event or a score of these runs"),
        ("formation run --part end", "part: 'end' is not valid; it must be one of all, first, repeats"),
        ("formation run --replace swap", "replace: 'swap' is not that of a circuit of these runs; there is none"),
        ("formation run --seed -1", "seed: -1 is not valid; it must be 0 or more"),
        ("formation run --seed many", "seed: 'many' is not valid; it must be a whole number"),
        ("formation run --json run", "json: run is a directory; it must be a file"),
        ("formation run --json mine.html", "json: mine.html is not a table of formation of Headway; --overwrite"),
        ("formation run --olny loss", "--olny: there is no such option; nearest is '--only'"),
        ("formation --compare run", "compare: expected 2 arguments"),
        ("formation --compare run nowhere", "compare: no folder matches nowhere"),
        ("formation --compare run 'no*'", "compare: no folder matches no*"),
        ("formation --compare run run", "compare: run is given twice; name two groups"),
        ("formation --compare run ./run", "/run is in both groups"),
        ("formation --compare run text", "compare: the runs are of the tasks RepeatedTokens and Text"),
    ),
    Case(
        "formation run", "step-00000003/loss.safetensors is damaged", cut("run/scores/step-00000003/loss.safetensors")
    ),
]

MEASURING = plain(
    ("measure", "runs: is missing"),
    ("measure ''", "run: '' is not valid; it must be a directory"),
    ("measure 'a\0b'", "run: 'a\\x00b' is not valid; it must be a directory"),
    ("measure nowhere", "run: nowhere holds no run"),
    ("measure mine.svg", "run: mine.svg holds no run"),
    ("measure gpt2", "run: gpt2 holds no run"),
    ("measure run run", "run: run is given twice"),
    ("measure run --at 1", "step: 1 was not kept; nearest is 0"),
    ("measure run --at -1", "step: -1 was not kept"),
    ("measure run --at one", "at: 'one' is not valid; it must be steps separated by commas"),
    ("measure run --at ''", "at: '' is not valid; it must be steps separated by commas"),
    ("measure run --at 0,", "at: '0,' is not valid; it must be steps separated by commas"),
    ("measure run --at 0,1 --overwrite", "step: 1 was not kept"),
    ("measure run --at 3.0", "at: '3.0' is not valid; it must be steps separated by commas"),
    ("measure run --at ٣", "at: '٣' is not valid; it must be steps separated by commas"),
    ("measure run --at 0_3", "at: '0_3' is not valid; it must be steps separated by commas"),
    (f"measure run --at {'9' * 5000}", "at: '999 … (5002 characters) is not valid; it must be steps"),
    ("measure run --at last", "at: 'last' is not valid"),
    ("measure run --at", "at: expected one argument"),
    ("measure run --only prefix_mathcing", "only: 'prefix_mathcing' is not a measure … nearest is 'prefix_matching'"),
    ("measure run --only ''", "only: '' is not a measure"),
    ("measure run --only loss,", "only: '' is not a measure"),
    ("measure run --only 'loss, accuracy'", "only: ' accuracy' is not a measure"),
    ("measure run --only Loss", "only: 'Loss' is not a measure … nearest is 'loss'"),
    ("measure run --onyl loss", "--onyl: there is no such option; nearest is '--only'"),
    ("measure run --only toys:nothing", "only: 'toys:nothing' cannot be imported … package.module:function"),
    ("measure run --only toys:", "only: 'toys:' cannot be imported"),
    ("measure run --only :loss", "only: ':loss' cannot be imported"),
    ("measure run --only syntax:f", "only: 'syntax:f' cannot be imported (SyntaxError"),
    ("measure run --only raising:f", "only: 'raising:f' cannot be imported (SystemExit"),
    ("measure run --only toys:TOKENS", "only: 'toys:TOKENS' is not a function (model, batch)"),
    ("measure run --only os:system", "only: 'os:system' is not a function (model, batch)"),
    ("measure run --only os:getcwd", "only: 'os:getcwd' is not a function (model, batch)"),
    ("measure run --only builtins:len", "only: 'builtins:len' is not a function (model, batch)"),
    ("measure run --only builtins:pow", "pow: the function fails on this network and batch (TypeError"),
    ("measure run --only operator:add", "add: the function fails on this network and batch (TypeError"),
    ("measure run --only os:rename", "rename: the function fails on this network and batch (TypeError"),
    ("measure run --only toys:Counting", "only: 'toys:Counting'"),
    ("measure run --only headway.analyze.measures.loss:loss", "only: … loss' has the name of a measure of ours"),
    ("measure run --task toys:TOKENS", "task: 'toys:TOKENS' is not a headway.data.task.Task"),
    (
        "measure run --task toys:Counting --only loss --overwrite",
        "config: run/config.yaml: task.n_tokens: there is no",
    ),
    ("measure run --overwrite=1", "overwrite: ignored explicit argument '1'"),
)

STUDIES = plain(
    ("study indction run", "study: 'indction' is not one of … nearest is 'induction'"),
    ("study run", "study: 'run' is not one of affine-recurrence"),
    ("study ''", "study: '' is not one of affine-recurrence"),
    ("study induction", "runs: is missing"),
    ("study induction ''", "run: '' is not valid; it must be a run or a language model"),
    ("study previous-token ''", "run: '' is not valid; it must be a directory"),
    ("study previous-token nowhere", "run: nowhere holds no run"),
    ("study affine-recurrence gpt2", "run: gpt2 holds no run"),
    ("study affine-recurrence vectors positions", "run: positions is of the task PreviousToken"),
    ("study induction run --at 1", "step: 1 was not kept; nearest is 0"),
    ("study induction run --at last", "at: 'last' is not valid; it must be a whole number, or null"),
    ("study induction run --sequences 1", "sequences: 1 is not valid; it must be at least 2"),
    ("study induction run --sequences many", "sequences: 'many' is not valid; it must be a whole number"),
    ("study induction run --sequences 2.5", "sequences: '2.5' is not valid; it must be a whole number"),
    (f"study induction run --sequences {MANY}", f"sequences: {MANY} is not valid; it must be at most"),
    (
        "study induction run --sequences 9999999 --overwrite",
        "sequences: 9,999,999 sequences of 11 positions need about",
    ),
    ("study induction run --seqences 3", "--seqences: there is no such option; nearest is '--sequences'"),
    ("study induction run --current_above 1.5", "current_above: 1.5 is not valid; it must be 0 to 1"),
    ("study induction run --previous_above .nan", "previous_above: nan is not valid; it must be 0 to 1"),
    ("study induction run --first_above -1", "first_above: -1.0 is not valid; it must be 0 to 1"),
    ("study induction run --induction_above x", "induction_above: 'x' is not valid; it must be a number"),
    ("study induction run --sequences 5", "study: run/studies/step-00000003/induction.nc exists; --overwrite runs it"),
    ("study induction run unscored", "study: run/studies/step-00000003/induction.nc exists; --overwrite runs it"),
    ("study induction run --out there", "out: 'there' is not valid; a study of a run is written to the run"),
    ("study induction run run --overwrite", "run: run is given twice"),
    ("study induction run nowhere --overwrite", "run: nowhere holds no run"),
    ("study induction vectors", "run: vectors is of the task AffineRecurrence; induction needs RepeatedTokens"),
    (
        "study induction unscored vectors",
        "run: vectors is of the task AffineRecurrence; induction needs RepeatedTokens",
    ),
    ("study induction unscored --pairs nowhere.txt", "pairs: 'nowhere.txt' cannot be read"),
    ("study induction unscored --pairs run", "pairs: 'run' cannot be read"),
    ("study induction unscored --pairs ''", "pairs: '' cannot be read"),
    ("study induction unscored --pairs latin.txt", "pairs: 'latin.txt' cannot be read"),
    ("study induction unscored --pairs 'a\0b'", "pairs: 'a\\x00b' cannot be read"),
    ("study induction unscored --pairs one.txt", "pairs: one.txt has 1 valid pairs; give at least 2"),
    ("study induction unscored --pairs words.txt", "pairs: line 1 of words.txt has 'seven'; tokens of this run are"),
    ("study induction unscored --pairs three.txt", "pairs: line 1 of three.txt is '5,7,9'; it must be two tokens"),
    ("study induction synonyms --pairs words.txt", "pairs: 'words.txt' is not valid for a run of RepeatedSynonyms"),
    (
        "study induction unscored --pairs /dev/zero",
        "pairs: '/dev/zero' cannot be read (is larger than 10,000,000 bytes)",
    ),
    ("study induction gpt2 --at 3", "at: 3 is not valid; a language model has no checkpoints here"),
    ("study induction gpt2 --out run", "out: run holds a run; give another directory"),
    ("study induction gpt2 --out mine.svg", "out: mine.svg is a file; it must be a directory"),
    ("study induction begun", "run: begun has no checkpoint yet"),
    ("study name-movers run", "run: run is of the task RepeatedTokens; name-movers needs IndirectObject"),
    ("study name-movers sentences --to s3", "to: 's3' is not valid; it must be one of io, s1, s2"),
    ("study name-movers sentences --head x", "head: 'x' is not valid; it must be a name such as L0H7"),
    ("study name-movers sentences --head L9H0", "head: L9H0"),
    ("study name-movers sentences --head L0H99999999999999999999", "head: L0H9999"),
    ("study name-movers sentences --head L０H0", "head: 'L０H0' is not valid"),
    ("study name-movers sentences --beside L01H0", "beside: 'L01H0' is not valid; it must be a name such as L0H7"),
    ("study name-movers sentences --beside L0H99", "beside: L0H99"),
    (
        "study name-movers sentences --head L1H0 --beside L1H0 --sequences 3",
        "beside: L1H0 is not valid; it must be another",
    ),
    ("study name-movers sentences --names '[Bob, Eve]'", "names: Bob, Eve is not valid for a run"),
    ("study name-movers sentences --names Bob", "names: 'Bob' is not valid; it must be a list such as"),
    ("study name-movers sentences --sequences 0", "sequences: 0 is not valid; it must be at least 2"),
    ("study name-movers sentences run", "run: run is of the task RepeatedTokens"),
    ("study name-movers gpt2 --names '[]' --out there", "names: 0 of 0 are one token of this tokenizer; there must be"),
    (
        "study name-movers gpt2 --names '[Mary, John]' --out there",
        "names: 2 of 2 are one token of this tokenizer; there",
    ),
    ("study if-else run", "run: run is of the task RepeatedTokens; if-else needs Text"),
    ("study if-else text --sequences 2", "sequences: 2 is not valid; it must be at least 3"),
    ("study if-else text --length 3", "length: 3 is not valid; it must be at least 4"),
    ("study if-else text --length -3", "length: -3 is not valid"),
    ("study if-else text --length 18", "length: 18 is not valid; the context of text is 17 tokens"),
    ("study if-else text --length 999", "length: 999 is not valid; the context of text is 17 tokens"),
    ("study if-else text --pair ' if'", "pair: expected 2 arguments"),
    ("study if-else text --pair ' nothing' ' else'", "' nothing' is not one token"),
    ("study if-else text --pair '' ''", "'' is not one token"),
    ("study if-else text --corpus few", "corpus: 'few' is not valid for a run, which has its own"),
    ("study if-else gpt2 --corpus nowhere --out there", "corpus: no folder or file matches 'nowhere'"),
    ("study previous-token positions --top 1", "top: 1 is not valid; it must be at least 2"),
    ("study previous-token positions --top x", "top: 'x' is not valid; it must be a whole number"),
    ("study previous-token positions --sequences 9999999", "sequences: 9,999,999 sequences of 11 positions need"),
    ("study name-movers sentences --sequences 9999999", "sequences: 9,999,999 sequences of … positions need"),
    (
        "study if-else text --sequences 9999999",
        "sequences: 9,999,999 sequences of 16 … this machine has",
    ),
    (
        "study affine-recurrence vectors --sequences 9999999",
        "sequences: 9,999,999 sequences of 14 positions need about",
    ),
    ("study previous-token positions --sequences 1", "sequences: 1 is not valid; it must be at least 2"),
    ("study previous-token positions --sequences 2", "sequences: 2 is not valid"),
    ("study previous-token run", "run: run is of the task RepeatedTokens; previous-token needs PreviousToken"),
    ("study affine-recurrence run", "run: run is of the task RepeatedTokens; affine-recurrence needs AffineRecurrence"),
    ("study affine-recurrence vectors --sequences 1", "sequences: 1 is not valid; it must be at least 2"),
    ("study affine-recurrence vectors --length 0", "length: 0"),
    ("study affine-recurrence vectors --length -5", "length: -5"),
    ("study affine-recurrence vectors --c .nan", "c: nan is not valid"),
    ("study affine-recurrence vectors --c .inf", "c: inf is not valid"),
    ("study affine-recurrence vectors --c 1e200", "c: 1e+200 is not valid"),
    ("study affine-recurrence vectors --heads '[x]'", "heads: 'x' is not valid; it must be a name such as L0H7"),
    ("study affine-recurrence vectors --heads '[L7H0]'", "heads: L7H0"),
    (
        "study affine-recurrence vectors --heads L0H0",
        "heads: 'L0H0' is not valid; it must be a list such as [L0H3, L1H0]",
    ),
    ("study affine-recurrence vectors --length 3", "length: 3 is not valid; it must be at least 4, for an answer"),
    ("study affine-recurrence vectors --heads '[7]'", "it must be a list such as [L0H3, L1H0]"),
    ("study affine-recurrence vectors --heads '[7H0]'", "heads: '7H0' is not valid; it must be a name such as L0H7"),
    ("study affine-recurrence vectors --c 1e30", "c: 1e+30 is not valid; sequences of 12 vectors grow too large"),
    (
        "study affine-recurrence vectors --probe_sequences 19",
        "probe_sequences: 19 is not valid; it must be at least 21, more samples than",
    ),
    ("study affine-recurrence vectors --probe_sequences 0", "probe_sequences: 0 is not valid"),
    ("study affine-recurrence vectors --probe_sequences -3", "probe_sequences: -3 is not valid"),
)
STUDY_FILES = [
    *(
        Case("study induction run", "study: run/studies/step-00000003/induction.nc is damaged", damage)
        for damage in (
            holding("run/studies/step-00000003/induction.nc", b""),
            holding("run/studies/step-00000003/induction.nc", b"\x89HDF\r\n\x1a\n"),
            cut("run/studies/step-00000003/induction.nc"),
            folder_at("run/studies/step-00000003/induction.nc"),
        )
    ),
    *damaged(holding("gpt2/config.json", b"{"), ("study induction gpt2 --out there", "model: 'gpt2' cannot be loaded")),
    *damaged(holding("gpt2/config.json", b"[]"), ("text gpt2 hello", "model: 'gpt2' cannot be loaded")),
    *damaged(cut("gpt2/model.safetensors"), ("text gpt2 hello", "model: 'gpt2' cannot be loaded")),
    *damaged(gone("gpt2/tokenizer.json"), ("text gpt2 hello", "model: 'gpt2' cannot be loaded")),
]

PROMPTS = [
    *plain(
        ("text", "run: is missing"),
        ("text text", "string: is missing"),
        ("text text ''", "string: '' is not valid; it must have at least one token"),
        ("text '' hello", "run: '' is not valid; it must be a run or a language model"),
        ("text run hello", "model: it has no tokenizer"),
        ("text vectors hello", "model: it has no tokenizer"),
        ("text begun hello", "run: begun has no checkpoint yet"),
        ("text ./nowhere hello", "run: nowhere holds no run"),
        ("text mine.svg hello", "run: mine.svg holds no run"),
        ("text text hello world", "world: there is no such option"),
        ("text text hello --at 7", "step: 7 was not kept"),
        ("text text hello --at x", "at: 'x' is not valid; it must be a whole number, or null"),
        ("text text hello --postion 3", "--postion: there is no such option; nearest is '--position'"),
        ("text gpt2 hello --token ' Mary and'", "' Mary and' is not one token … it is split into ' Mary', ' and'"),
        ("text text hello --top 0", "top: 0 is not valid; it must be at least 1"),
        ("text text hello --top many", "top: 'many' is not valid; it must be a whole number"),
        ("text text hello --position 99", "position: 99 does not exist; this string has positions 0 (BOS) to"),
        ("text text hello --position -1", "position: -1 does not exist"),
        ("text text hello --position end", "position: 'end' is not valid; it must be a whole number"),
        ("text text hello --token ' nothing'", "token: ' nothing' is not one token of this tokenizer"),
        ("text text hello --token ''", "token: '' is not one token of this tokenizer"),
        (f"text text '{'a b ' * 50}'", "string: it has … tokens with BOS; it must have at most n_ctx = 17"),
        ("text text caf\udce9", "string: 'caf\\udce9' is not valid; it must be UTF-8"),
        ("text text hello --token \udce9", "token: '\\udce9' is not valid; it must be UTF-8"),
        ("text text hello --out text", "out: text is a directory; it must be a file"),
        ("text text hello --out ''", "out: '' is not valid"),
        ("text text hello --out mine.html", "out: mine.html is not a page of Headway; --overwrite replaces it"),
        ("text text hello --out /proc/page.html", "out: /proc/page.html cannot be written"),
        ("text text hello --out /dev/full", "out: /dev/full is not a regular file"),
        ("text gpt2 hello --at 3", "at: 3 is not valid; a language model has no checkpoints here"),
        ("text gpt2 caf\udce9 --out page.html", "string: 'caf\\udce9' is not valid; it must be UTF-8"),
    ),
    Case("text text -", "string: '' is not valid; it must have at least one token", typed(b"")),
    Case("text text -", "string: what is typed is not valid; it must be UTF-8", typed(b"caf\xe9")),
    Case(
        "text text hello",
        "run: text/tokenizer.json, which spells its tokens, cannot be read",
        gone("text/tokenizer.json"),
    ),
    Case(
        "text text hello",
        "run: text/tokenizer.json, which spells its tokens, cannot be read",
        folder_at("text/tokenizer.json"),
    ),
    *(
        Case(
            "text text hello",
            "run: text/tokenizer.json is not the tokenizer that this network was trained with",
            damage,
        )
        for damage in (
            holding("text/tokenizer.json", b""),
            cut("text/tokenizer.json"),
            holding("text/tokenizer.json", b"{}"),
        )
    ),
    Case("text run hello", "run: run/tokenizer.json is damaged", holding("run/tokenizer.json", b"{}")),
    Case("text run hello", "run: run/tokenizer.json is damaged", holding("run/tokenizer.json", b"\xff")),
    Case("text text hello", "out: text/text.html is not a page of Headway", holding("text/text.html", "mine")),
    Case("text text hello", "out: text/text.html is a directory", folder_at("text/text.html")),
]

PAGES = [
    *plain(
        ("report", "runs: is missing"),
        ("report nowhere", "run: nowhere holds no run"),
        ("report ''", "run: '' is not valid; it must be a directory"),
        ("report 'a\0b'", "run: 'a\\x00b' is not valid; it must be a directory"),
        ("report run nowhere", "run: nowhere holds no run"),
        ("report run run/scores", "run: run/scores holds no run"),
        ("report run --out run", "out: run is a directory; it must be a file"),
        ("report run --out ''", "out: '' is not valid"),
        ("report run --out 'a\0b'", "out: 'a\\x00b' is not valid"),
        ("report run --out run/config.yaml", "out: run/config.yaml is not a page of Headway; --overwrite"),
        ("report run --out mine.html", "out: mine.html is not a page of Headway; --overwrite"),
        ("report run --out mine.svg/page.html", "out: mine.svg/page.html cannot be written"),
        ("report run --out /proc/page.html", "out: /proc/page.html cannot be written"),
        ("report run --out /dev/full", "out: /dev/full is not a regular file"),
        ("report run --out /dev/full --overwrite", "out: /dev/full is not a regular file"),
        ("report run --out /dev/null --overwrite", "out: /dev/null is not a regular file"),
        ("report run --lvie", "--lvie: there is no such option; nearest is '--live'"),
        ("report run --live=1", "live: ignored explicit argument '1'"),
        ("report run --live --out mine.html", "out: mine.html is not a page of Headway; --overwrite"),
        ("report run --live --out run", "out: run is a directory; it must be a file"),
        ("report nowhere --live", "run: nowhere holds no run"),
        ("report run --out", "out: expected one argument"),
        *(
            (
                f"report run --with-weights {size}",
                f"weights: {shown} is not valid; it must be one of fitting, all, none, or",
            )
            for size, shown in (("few", "'few'"), ("0", "0.0"), ("-1", "-1.0"), ("nan", "nan"), ("100.1", "100.1"))
        ),
        ("report run --with-weights=1e-3", "weights: 0.001 is not valid for this page, which has"),
    ),
    Case(
        "report run", "out: run/report.html is not a page of Headway; --overwrite", holding("run/report.html", "mine")
    ),
    Case("report run", "out: run/report.html is a directory", folder_at("run/report.html")),
    Case("report run --live", "out: run/report.html is a directory", folder_at("run/report.html")),
    Case("report run unscored", "out: report.html is not a page of Headway", holding("report.html", "mine")),
]

FIGURES = [
    *plain(
        ("plot", "runs: is missing"),
        ("plot run", "figure: is missing"),
        ("plot nowhere attention", "run: nowhere holds no run"),
        ("plot '' loss", "run: '' is not valid; it must be a directory"),
        ("plot run ''", "figure: '' is not one of loss"),
        ("plot run atention", "figure: 'atention' is not one of … nearest is 'attention'"),
        ("plot run loss attention", "run: loss holds no run"),
        ("plot run attention --at 1", "step: 1 is not among those with scores; nearest is 0"),
        ("plot run attention --at x", "at: 'x' is not valid; it must be a whole number"),
        ("plot run loss --part repeats", "part: 'repeats' is not valid; the figure loss takes at"),
        ("plot run circuit --replace twin", "figure: circuit has not been found; headway circuit run finds it"),
        ("plot run attention --layer 2", "layer: 2 is not valid; this run has 0 to 1"),
        ("plot run attention --layer -1", "layer: -1 is not valid; this run has 0 to 1"),
        ("plot run attention --layer two", "layer: 'two' is not valid; it must be a whole number"),
        ("plot run attention --head 3", "head: 3 is not valid; this run has 0 to 2"),
        (f"plot run attention --head {MANY}", f"head: {MANY} is not valid; this run has 0 to 2"),
        ("plot run attention --sequence 99", "sequence: 99 is not valid; this run has"),
        ("plot run attention --measure loss", "measure: 'loss' is not valid; the figure attention takes"),
        ("plot run loss --layer 0", "layer: 0 is not valid; the figure loss takes"),
        ("plot run heads --measure nothing", "measure: 'nothing'"),
        ("plot run heads --measure previous_tokn", "measure: 'previous_tokn' … nearest is 'previous_token'"),
        ("plot run heads --measure ''", "measure: ''"),
        ("plot run network --measure previous_token", "measure: 'previous_token' is not a score of the network"),
        ("plot run eigenvalues --measure loss", "measure: 'loss' has no eigenvalues"),
        ("plot run eigenvalues --head 9", "head: 9 is not valid; this run has 0 to 2"),
        ("plot run composition --measure loss", "measure: 'loss' is not a score of pairs of heads in this run"),
        ("plot run attribution --measure loss", "measure: 'loss' is not valid; the figure attribution takes"),
        ("plot run diagram --head 0", "head: 0 is not valid; the figure diagram takes"),
        ("plot run loss --out loss.docx", "out: 'loss.docx' is not valid; it must end in .png, .svg, .pdf"),
        ("plot run loss --out loss", "out: 'loss' is not valid; it must end in .png, .svg, .pdf"),
        ("plot run loss --out ''", "out: '' is not valid"),
        ("plot run loss --out 'a\0b.svg'", "out: 'a\\x00b.svg' is not valid"),
        ("plot run loss --out run/config.yaml", "out: 'run/config.yaml' is not valid; it must end in .png, .svg, .pdf"),
        ("plot run loss --out mine.svg", "out: mine.svg is not a figure of Headway; --overwrite replaces it"),
        ("plot run loss --out mine.svg/loss.svg", "out: mine.svg/loss.svg cannot be written"),
        ("plot run loss --out /proc/loss.svg", "out: /proc/loss.svg cannot be written"),
        ("plot run loss --out /dev/full", "out: '/dev/full' is not valid; it must end in .png, .svg, .pdf"),
    ),
    Case(
        "plot run loss --out full.svg",
        "out: full.svg is not a regular file",
        link_at("full.svg", "/dev/full"),
    ),
    Case(
        "plot run loss --out full.svg --overwrite",
        "out: full.svg is not a regular file",
        link_at("full.svg", "/dev/full"),
    ),
    Case(
        "plot run loss --out fold.svg",
        "out: fold.svg is a directory",
        folder_at("fold.svg"),
    ),
]

IMPORTING = [
    *plain(
        ("import", "files: is missing"),
        ("import them.pt", "out: is missing"),
        ("import them.pt --out new", "file: them.pt is no file"),
        ("import run --out new", "file: run is a run already"),
        ("import corpus --out new", "file: corpus holds no file of weights"),
        ("import run/weights --out positions", "out: positions holds a run already"),
        ("import run/weights --out run/new", "out: run/new lies in the run"),
        ("import run/weights --out new --step 1", "step: 1 are given for"),
        ("import run/weights --out new --step one", "step: 'one' is not valid; it must be steps separated by commas"),
        ("import run/weights --out new --key model", "key: 'model' is not in run/weights/step-"),
        ("import run/weights --out new --layout joined", "layout: joined needs the number of heads"),
        ("import run/weights --out new --layout joind", "layout: 'joind' is not one of … nearest is 'joined'"),
        ("import run/weights --out new --model.n_heads 7", "model.n_heads: 7 is not valid; run/weights/step-"),
        ("import run/weights --out new --model.n_head 7", "--model.n_head: there is no such option; nearest is"),
        ("import run/weights --out new --model.act_fn rleu", "model.act_fn: 'rleu' is not valid … nearest is 'relu'"),
        ("import run/weights --out new --task inductoin", "task: 'inductoin' is not one of … nearest is 'induction'"),
        ("import run/weights --out new --task induction", "is too small; the task needs"),
        ("import run/weights --out new --task induction --task.n_token 3", "--task.n_token: there is no such option"),
        ("import run/weights --out new --task induction --task.length 1", "task.length: 1 is not valid"),
        ("import run/weights --out new --task.length 1", "--task.length: there is no such option without --task"),
        ("import run/weights --out new --expect accuracy", "expect: 'accuracy' is not valid"),
        ("import run/weights --out new --expect accuracy=1", "expect: accuracy needs a task; give --task"),
        ("import run/weights --out new --config nowhere.json", "config: nowhere.json cannot be read"),
        ("import run/weights --out new --config '{}'", "config: '{}' holds no configuration of a network"),
        ("import run/weights --out new --config mine.html", "config: 'mine.html' is not JSON"),
        ("import run/weights --out new --tokenizer mine.html", "tokenizer: mine.html cannot be read"),
        ("export run --out new", "to: is missing; give hooked-transformer, bridge or huggingface"),
        ("export run --to bridge", "out: is missing; give the folder"),
        ("export run --to brigde --out new", "to: 'brigde' is not one of … nearest is 'bridge'"),
        ("export nowhere --to bridge --out new", "run: nowhere holds no run"),
        ("export run --to bridge --out new --step 400", "step: 400 was not kept"),
        ("export run --to bridge --out new --push them/toy", "push: them/toy is not valid with to bridge"),
        ("export run --to huggingface --out run", "out: run exists, and is no export of Headway"),
        ("export run --to huggingface --out mine.html", "out: mine.html exists, and is no export of Headway"),
        ("audit", "runs: is missing"),
        ("audit nowhere", "run: nowhere holds no run"),
        ("audit empty", "run: empty holds no run"),
        ("audit run --all", "--all: there is no such option"),
    ),
    Case("import them.pt --out new", "file: them.pt is empty", holding("them.pt", b"")),
    Case("import them.pt --out new", "file: them.pt cannot be read as weights", holding("them.pt", b"PK")),
    Case(
        "import them.safetensors --out new", "file: them.safetensors cannot be read", holding("them.safetensors", b"x")
    ),
    Case("audit run", "config: run/config.yaml", replaced("run/config.yaml", "optim:", "optin:")),
]

CASES = [
    *IMPORTING, *COMMANDS, *MANY_RUNS, *RECIPES, *OPTIONS, *MODELS, *TRAINING, *TASKS, *OWN_TASKS, *PLACES, *RESUMING,
    *RESUME_FILES, *CONFIGS, *RUN_CONFIGS, *WEIGHTS, *SCORES, *MEASURING, *CIRCUIT, *FORMATION, *STUDIES,
    *STUDY_FILES, *PROMPTS, *PAGES, *FIGURES,
]  # fmt: skip


def named(case: Case) -> str:
    command = ascii(case.command)[1:-1]
    return command[:90] + ("" if case.damage is None else f" -- {ascii(case.damage.what)[1:-1]}")[:90]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, trained: Train) -> Watched:
    """The folder that every case begins with."""
    folder = tmp_path_factory.mktemp("malformed")
    build(folder, trained)
    return Watched(folder)


class Here(NamedTuple):
    """The folder that one works in: what it holds at first, and a function that gives what it holds now."""

    before: Contents
    now: Callable[[], Contents]


@pytest.fixture
def here(case: Case, whole: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The folder with its damage, if it has one: then it is a copy."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "stdin", sys.stdin)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # beside a module of the user's own
    # A machine of 16 GiB, whatever it has.
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2**22, "SC_PAGE_SIZE": 2**12}.__getitem__)
    if case.code == 2:
        monkeypatch.setattr("headway.train._fit", lambda *_: pytest.fail("it trains"))
    if case.damage is not None:
        copied(whole.folder, tmp_path, f"{case.command} {case.damage.path}")
        monkeypatch.chdir(tmp_path)
        case.damage.apply()
        return Here(contents(tmp_path), lambda: contents(tmp_path))
    monkeypatch.chdir(whole.folder)
    return Here(whole.before, whole.now)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_malformed_input_is_one_line_and_changes_nothing(
    case: Case, here: Here, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    try:
        line = refused(shlex.split(case.command), case.code, capfd, caplog)
    finally:
        after = here.now()
    assert after == here.before
    assert holds(line, case.says), line


def test_no_case_stands_twice_and_there_are_enough():
    assert len(CASES) >= 250
    assert len({named(case) for case in CASES}) == len(CASES)
