"""The version of TransformerLens that runs the tests: 3.9 has its own HookedTransformer, 4 has not."""

from importlib.metadata import version

VERSION = version("transformer_lens")
IS_3 = VERSION.startswith("3.")
