"""Lines on a run: its behaviour, and what carries that or looks as if it did."""

import numpy as np

from headway.analyze.formation.half_way import FORMED, PARTLY, half_way, way
from headway.analyze.formation.roles import ROLES
from headway.analyze.measures.head_names import HEAD_NAMES, MAINLY
from headway.analyze.report.circuit_lines import amount, circuit_lines, spans, wrapped
from headway.analyze.report.stored import StoredScores, Variable
from headway.models.config import Head


def behaviour_lines(stored: StoredScores) -> list[str]:
    """Return the line on the loss that the task is about: the share of the gap that is closed, and the half-way step.

    The gap lies between the loss of a network that does not know the answer and that of one that does, as the task
    gives them. Where the task gives no chance, the loss at the first checkpoint stands in for it; where it gives no
    floor, the line says how far below chance the loss is. A run that an older Headway scored, which did not keep what
    the task is about, is judged by its overall loss.
    """
    losses = stored.variables.get("loss", {})
    if "loss" not in losses:
        return []
    asked = losses["loss"].attributes.get("behaviour")
    part, chance, floor = (None, None, None) if asked is None else (asked[name] for name in ("part", "chance", "floor"))
    variable = losses.get(f"loss_{part}", losses["loss"])
    values = variable.values
    named = f"loss on {part}" if variable.name != "loss" else "loss"
    first, last = values.values[[0, -1]]
    about = f"chance {chance:.3g}" if chance is not None else f"{first:.3g} at step {stored.steps[0]}"
    null = first if chance is None else chance
    best = float(np.nanmin(values.values)) if floor is None else floor
    said = f"{named} {amount(last)} ({about})"
    if asked is None:
        said += ", of all positions, because these scores do not say what the task is about"
    gap = float(null - best)
    if not gap > 0 or not null - last > 0:
        return wrapped("Behaviour   ", f"{said}: nothing is learned")
    closed = float(null - last) / gap
    if floor is None:
        said += f": {amount(float(null - last))} {stored.loss_units} below it"
    else:
        said += f": {'' if closed >= FORMED else 'only '}{100 * closed:.1f} % of the gap closed"
    reached = half_way(way(values, float(null), best))
    if reached is not None and (floor is None or closed >= PARTLY):
        said += f", half-way {reached}"
    return wrapped("Behaviour   ", said)


def parts_lines(stored: StoredScores) -> list[str]:
    """Return the lines on the circuit that was found; without one, those on heads that look like parts of one."""
    run = stored.run
    if run.circuits:
        try:
            return _of_circuit(stored)
        except ValueError as error:
            return wrapped("Circuit     ", str(error))
    return [
        *wrapped("Circuit     ", "not searched for; headway circuit RUN finds it"),
        *_by_signature(stored),
    ]


def _of_circuit(stored: StoredScores) -> list[str]:
    run = stored.run
    circuit = run.circuit()
    asked = circuit.known.attrs
    over = None
    if run.circuit_file(None, asked["part"] or None, asked["replacement"]).exists():
        over = run.circuit(part=asked["part"] or "all", replacement=asked["replacement"], over_steps=True)
    nulls = {
        (node, measure): null
        for node, (_, measure, _) in circuit.node_in_circuit.attrs.get("names", {}).items()
        if (null := _null(stored, measure, node)) is not None
    }
    lines = circuit_lines(circuit, over, stored.loss_units, nulls)
    if asked["step"] != stored.steps[-1]:
        lines += wrapped("  ", f"(This circuit is that of step {asked['step']}.)")
    return lines


def _null(stored: StoredScores, measure: str, node: str) -> float | None:
    variable = stored.variables.get(measure, {}).get(f"{measure}_null")
    if variable is None:
        return None
    layer, head = map(int, node[1:].split("H"))
    last = variable.values.isel(step=-1)
    value = float(last[{axis: at for axis, at in (("layer", layer), ("head", head)) if axis in last.dims}])
    return value if np.isfinite(value) else None


def _by_signature(stored: StoredScores) -> list[str]:
    """Return a line for the heads of a layer that mainly do one thing: their scores, effects and half-way steps."""
    if stored.roles is None:
        return []
    last = stored.roles.isel(step=-1)
    alike: dict[tuple[int, str], list[Head]] = {}
    for layer, heads in enumerate(last.role.values):
        for head, role in enumerate(heads):
            if last.role_share.values[layer, head] > MAINLY:
                alike.setdefault((layer, str(role)), []).append(Head(layer, head))
    effect = stored.variables.get("effect", {}).get("effect")
    rows = [_row(stored, role, heads, effect) for (_, role), heads in alike.items()]
    if not rows:
        return wrapped("Signatures  ", f"no head is more than half of the way to any: {', '.join(ROLES.values())}")
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    return [
        line
        for *cells, rest in rows
        for line in wrapped("  " + "".join(f"{cell:<{size}}  " for cell, size in zip(cells, widths, strict=True)), rest)
    ]


def _row(stored: StoredScores, measure: str, heads: list[Head], effect: Variable | None) -> tuple[str, str, str, str]:
    scores = stored.variables[measure][measure].values.transpose("step", "layer", "head")
    name = HEAD_NAMES[measure] + ("s" if len(heads) > 1 else "")
    found = [float(scores.isel(step=-1, layer=layer, head=head)) for layer, head in heads]
    null = _null(stored, measure, str(heads[0]))
    low = 0.0 if null is None else null
    beside = "" if null is None else f" (null {null:.3f})"
    dates = [half_way(way(scores.isel(layer=layer, head=head), low, 1.0)) for layer, head in heads]
    said = [f"half-way {_between([date.step for date in dates if date is not None])}"]
    if effect is not None:
        costs = effect.values.isel(step=-1).transpose("layer", "head").values
        said.append(f"effect alone {_ends([float(costs[head]) for head in heads])} {stored.loss_units}".rstrip())
    ends = f"{min(found):.3f}" if len(found) == 1 else f"{min(found):.3f} to {max(found):.3f}"
    return spans(list(map(str, heads))), name, ends + beside, ", ".join(said)


def _between(steps: list[float]) -> str:
    ends = sorted({round(step) for step in (min(steps), max(steps))})
    return ("at step " if len(ends) == 1 else "at steps ") + " to ".join(map(str, ends))


def _ends(values: list[float]) -> str:
    ends = [amount(min(values)), amount(max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
