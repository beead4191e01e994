"""A language model as Hugging Face keeps it: small, of random weights, with a tokenizer of its own."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

TEXT = "Then Mary and John went to the shop and John gave a book to Mary."


def tokenizer(words: str = TEXT) -> PreTrainedTokenizerFast:
    """A byte-level BPE of which the words of a text are single tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    bpe.train_from_iterator([words] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|end|>", eos_token="<|end|>")


def saved_gpt2(folder: Path, words: str = TEXT, **sizes: int) -> Path:
    """A folder that ``save_pretrained`` wrote, of a GPT-2 and its tokenizer."""
    tokens = tokenizer(words)
    config = GPT2Config(
        **{"n_layer": 2, "n_embd": 20, "n_head": 4, "n_positions": 64, "n_inner": 23} | sizes,  # pyright: ignore
        vocab_size=len(tokens),
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = GPT2LMHeadModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
