"""Write down what TransformerLens 3.9's HookedTransformer computes, for ours to be compared with.

TransformerLens 4 no longer has that class, so it runs here once, in an environment of its own, and the tests read the
files it leaves in ``fixtures/``: one safetensors file per network, with

    inputs  attention_mask      what goes in (the mask where there is one)
    weights.NAME                its state dict, buffers included
    logits  cache.HOOK          what comes out, and every activation on the way
    processed.NAME              its weights after load_and_process_state_dict, and
    processed_logits            what it puts out with those
    metadata["fixture"]         JSON: our config, the switches that are on, the names of all hook points

Run ``python make_fixtures.py``: with TransformerLens 3.9 in the interpreter it writes the files, otherwise it first
makes a throwaway environment that has it. The same machine writes the same bytes every time.
"""

import json
import subprocess
import sys
import tempfile
import venv
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures"
TORCH, TRANSFORMER_LENS = "torch==2.13.0", "transformer_lens==3.9.*"

# Distinct primes: a transposed or a wrong axis cannot fit by luck.
BATCH, POS = 2, 5
SIZES = {"n_layers": 2, "d_model": 11, "d_head": 7, "n_heads": 3, "d_vocab": 13, "d_mlp": 19, "n_ctx": 23}

# For each network: its kinds in our config's words, then under "switches", "processed", "padded" and "vectors" what
# else is asked of it. Not processed are those whose parameters another network has as well, and three kinds that
# TransformerLens gets wrong: it takes an activation named solu for one with a LayerNorm of its own, and fails for want
# of its weights; it looks for a bias of the MLP's LayerNorm beside RMSNorm; and it folds ln1 into, and centres W_pos
# of, shortformer networks, whose positions come after ln1.
NETWORKS: dict[str, dict[str, Any]] = {
    "standard_ln_gelu": {"act_fn": "gelu", "d_vocab_out": 17, "processed": True},
    "standard_lnpre_solu_ln_bidirectional": {
        "act_fn": "solu_ln",
        "normalization_type": "LNPre",
        "attention_dir": "bidirectional",
        "processed": True,
    },
    "standard_ln_solu": {"act_fn": "solu"},
    "standard_none_relu": {"act_fn": "relu", "normalization_type": None, "processed": True},
    "standard_ln_attn_only": {"attn_only": True, "d_vocab_out": 17, "processed": True},
    "split_ln_silu": {
        "act_fn": "silu",
        "switches": ["use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"],
    },
    "shortformer_ln_gelu_new": {
        "act_fn": "gelu_new",
        "positional_embedding_type": "shortformer",
    },
    "shortformer_attn_in_ln_attn_only": {
        "attn_only": True,
        "positional_embedding_type": "shortformer",
        "switches": ["use_attn_in"],
    },
    "shortformer_none_attn_only_bidirectional": {
        "attn_only": True,
        "normalization_type": None,
        "attention_dir": "bidirectional",
        "positional_embedding_type": "shortformer",
    },
    "no_positions_ln_solu_ln": {"act_fn": "solu_ln", "positional_embedding_type": "none", "processed": True},
    "left_padded_ln_relu": {"act_fn": "relu", "padded": True},
    "vectors_lnpre_attn_only": {"attn_only": True, "normalization_type": "LNPre", "vectors": True},
    "rotary_rms_silu": {
        "act_fn": "silu",
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "rotary_base": 31,
        "processed": True,
    },
    "rotary_rmspre_attn_only_padded": {
        "attn_only": True,
        "normalization_type": "RMSPre",
        "positional_embedding_type": "rotary",
        "rotary_dim": 6,
        "padded": True,
    },
    "unscaled_rms_solu_ln": {
        "act_fn": "solu_ln",
        "normalization_type": "RMS",
        "use_attn_scale": False,
    },
    "own_scale_none_attn_only": {
        "attn_only": True,
        "normalization_type": None,
        "attn_scale": 1.7,
        "attention_dir": "bidirectional",
        "processed": True,
    },
}


def main() -> None:
    """Build here, or in an environment that has TransformerLens 3.9."""
    try:
        here = version("transformer_lens").startswith("3.9.")
    except PackageNotFoundError:
        here = False
    if here:
        FIXTURES.mkdir(exist_ok=True)
        for name, network in NETWORKS.items():
            build(name, **network)
        return
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python")
        # torch first and alone: what needs it must find it there, and not fetch another build.
        for requirement in (TORCH, TRANSFORMER_LENS):
            subprocess.run([python, "-m", "pip", "install", "--quiet", requirement], check=True)
        subprocess.run([python, __file__], check=True)


def build(
    name: str,
    switches: list[str] | None = None,
    processed: bool = False,
    padded: bool = False,
    vectors: bool = False,
    **kinds: Any,
) -> None:
    """Run one network of TransformerLens and write what it did."""
    import torch
    from safetensors.torch import save_file
    from transformer_lens import HookedTransformer, HookedTransformerConfig  # pyright: ignore

    draws = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    # Rotary positions are in the scores, and have no table.
    has_positions = kinds.get("positional_embedding_type") not in ("none", "rotary")

    # TransformerLens has no network without positions; one whose table is 0 computes the same.
    theirs = {"act_fn": "relu", "normalization_type": "LN"} | SIZES | kinds
    without = kinds.get("positional_embedding_type") == "none"
    theirs |= {"positional_embedding_type": "standard"} if without else {}
    config = HookedTransformerConfig(**theirs, device="cpu", seed=0)  # pyright: ignore
    model = HookedTransformer(config).eval()  # pyright: ignore
    with torch.no_grad():
        for parameter, values in model.named_parameters():
            values.copy_(torch.randn(values.shape, generator=draws) * 0.3)
            if parameter.endswith(".w"):
                values += 1
        if without:
            model.W_pos.zero_()
    for switch in switches or []:
        getattr(model, f"set_{switch}")(True)

    tensors: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    if padded:
        # Left padding of a different length in each sequence; where it is, the tokens should not matter.
        tensors["attention_mask"] = arguments["attention_mask"] = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    if vectors:
        # TransformerLens knows no vectors as inputs; it can start from the residual stream that they make.
        tensors["inputs"] = torch.randn(BATCH, POS, SIZES["d_vocab"], generator=draws)
        run_on = (tensors["inputs"] @ model.W_E + model.W_pos[:POS]).detach()
        arguments["start_at_layer"] = 0
    else:
        run_on = tensors["inputs"] = torch.randint(SIZES["d_vocab"], (BATCH, POS), generator=draws)

    def keep(state: dict[str, Any], under: str) -> None:
        tensors.update({f"{under}.{k}": v.clone() for k, v in state.items() if has_positions or k != "pos_embed.W_pos"})

    keep(model.state_dict(), "weights")
    # hook_dict before processing: folding gives TransformerLens's attention-only networks a ln2 that never runs.
    points = [point for point in model.hook_dict if has_positions or point != "hook_pos_embed"]
    with torch.no_grad():
        tensors["logits"], cache = model.run_with_cache(run_on, **arguments)
        tensors |= {f"cache.{point}": cache[point].clone() for point in cache if point in points}
        if processed:
            model.load_and_process_state_dict(model.state_dict())
            keep(model.state_dict(), "processed")
            tensors["processed_logits"] = model(run_on, **arguments)

    fixture = {
        "config": SIZES | {"act_fn": "relu"} | kinds | {"input_type": "vectors" if vectors else "tokens"},
        "switches": switches or [],
        "hook_points": points,
    }
    # One metadata entry: safetensors writes several in no fixed order.
    metadata = {"fixture": json.dumps(fixture, sort_keys=True)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, FIXTURES / f"{name}.safetensors", metadata=metadata)


if __name__ == "__main__":
    main()
