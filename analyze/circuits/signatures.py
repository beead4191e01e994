"""Names of heads, from what they attend to; they are attached to a circuit after it has been found."""

from headway.analyze.measures.attention import (
    current_token,
    duplicate_token,
    first_token,
    fixed_offset,
    mirror,
    prefix_matching,
    previous_token,
)
from headway.analyze.measures.head_names import HEAD_NAMES, MAINLY
from headway.analyze.network.requirements import DoesNotApplyError
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

_MEASURES = (previous_token, prefix_matching, duplicate_token, current_token, first_token, fixed_offset, mirror)


def signatures(model: Model, batch: Batch) -> dict[str, tuple[str, str, float]]:
    """Return a name for each head that has one, with the measure it comes from and its score.

    The name is that of the attention score furthest on the way from chance to 1, if it is more than half of the way.
    It says nothing of what the head writes, nor of whether anything depends on it.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> {head: name for head, (name, *_) in signatures(*composing_pair("k")).items()}
        {'L0H0': 'previous-token head', 'L1H1': 'induction head'}
    """
    found: dict[str, tuple[str, str, float]] = {}
    furthest: dict[str, float] = {}
    for measure in _MEASURES:
        try:
            scores = measure(model, batch)
        except DoesNotApplyError:
            continue
        score, chance = scores[measure.__name__], scores[f"{measure.__name__}_chance"]
        way = ((score - chance) / (1 - chance)).transpose("layer", "head")
        for layer, heads in enumerate(way.values):
            for head, share in enumerate(heads):
                node = str(Head(layer, head))
                if share > max(MAINLY, furthest.get(node, 0.0)):
                    furthest[node] = float(share)
                    found[node] = (
                        HEAD_NAMES[measure.__name__],
                        measure.__name__,
                        score.sel(layer=layer, head=head).item(),
                    )
    return found
