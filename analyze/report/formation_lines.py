"""Lines on a run: its behaviour, and what carries that or looks as if it did."""

from contextlib import suppress

import numpy as np
import xarray as xr

from headway.analyze.formation.behaviour import Behaviour, behaviour
from headway.analyze.formation.half_way import FORMED, PARTLY, HalfWay, half_way, way, way_of_circuit
from headway.analyze.formation.roles import ROLES
from headway.analyze.formation.updates import date_by_updates
from headway.analyze.measures.descriptions import LEAST_KNOWN, SHARE_OF_KNOWN
from headway.analyze.measures.head_names import HEAD_NAMES, MAINLY, spans
from headway.analyze.report.circuit_lines import amount, circuit_in_a_line, circuit_paragraph, lost
from headway.analyze.report.lines import Line
from headway.analyze.report.stored import StoredScores, Variable
from headway.models.config import Head


def behaviour_lines(stored: StoredScores) -> list[Line]:
    """Return the line on the loss that the task is about: the share of the gap that is closed, and the half-way step.

    The gap lies between the loss of a network that does not know the answer and that of one that does, as the task
    gives them. Where the task gives no chance, the loss at the first checkpoint stands in for it; where it gives no
    floor, the line says how far below chance the loss is. A run that an older Headway scored, which did not keep what
    the task is about, is judged by its overall loss. The half-way step is that of ``headway formation``: from the loss
    of every update where that can tell, else from checkpoints.
    """
    about = _behaviour(stored)
    if about is None:
        return []
    asked = stored.variables["loss"]["loss"].attributes.get("behaviour")
    first, last = about.loss.values[[0, -1]]
    named = "loss" if about.part is None else f"loss on {about.part}"
    against = f"chance {about.chance:.3g}" if about.chance is not None else f"{first:.3g} at step {stored.steps[0]}"
    said = f"{named} {amount(last)} ({against})"
    if asked is None:
        said += ", of all positions, because these scores do not say what the task is about"
    closed = float(about.way.values[-1])
    if not closed > 0:
        return [Line(f"{said}: nothing is learned", head="Behaviour")]
    if about.floor is None:
        said += f": {amount(about.null - last)} {stored.loss_units} below it"
    else:
        said += f": {'' if closed >= FORMED else 'only '}{100 * closed:.1f} % of the gap closed"
    reached = _reached(stored, about)
    if reached is not None:
        said += f", half-way {reached}"
        if reached != half_way(about.way):
            said += ", by the loss of every update"
    return [Line(said, head="Behaviour")]


def _behaviour(stored: StoredScores) -> Behaviour | None:
    losses = _losses(stored)
    return behaviour(losses, stored.variables["loss"]["loss"].attributes.get("behaviour")) if "loss" in losses else None


def _losses(stored: StoredScores) -> dict[str, xr.DataArray]:
    return {name: each.values for name, each in stored.variables.get("loss", {}).items()}


def _reached(stored: StoredScores, about: Behaviour) -> HalfWay | None:
    """Return when the behaviour was half-way; None where too little of its gap is closed."""
    closed = float(about.way.values[-1])
    if not closed > 0 or (about.floor is not None and closed < PARTLY):
        return None
    by_updates = date_by_updates(about.way, _losses(stored), about.part, lambda: stored.training.loss)
    return by_updates or half_way(about.way)


def first_lines(stored: StoredScores) -> list[Line]:
    """Return the behaviour and what carries it in one line each: those of the summary, without verdicts on parts."""
    return [*behaviour_lines(stored), *_carried_in_a_line(stored)] if stored.steps else []


def _carried_in_a_line(stored: StoredScores) -> list[Line]:
    run = stored.run
    if not run.circuits and not run.node_circuits:
        why, *signatures = parts_lines(stored)
        heads = "; ".join(" ".join(filter(None, line.cells)) or line.text for line in signatures)
        return [why, Line(heads, head="Signatures")] if heads else [why]
    try:
        return [Line(circuit_in_a_line(*_last_circuit(stored)), head="Circuit")]
    except ValueError as error:
        return [Line(str(error), head="Circuit")]


def half_way_steps(stored: StoredScores) -> dict[str, HalfWay]:
    """Return when the behaviour and the circuit that the summary names were half-way, as far as they were."""
    about, found = _behaviour(stored) if stored.steps else None, {}
    if about is not None:
        found["behaviour"] = _reached(stored, about)
    if stored.run.circuits or stored.run.node_circuits:
        # A damaged circuit is named where it would stand.
        with suppress(ValueError):
            _, over = _last_circuit(stored)
            found["circuit"] = None if over is None else half_way(way_of_circuit(over))
    return {name: date for name, date in found.items() if date is not None}


def head_lines(stored: StoredScores) -> dict[str, str]:
    """Return for each head that mainly does one thing its name, its score at the end, and its half-way step."""
    found = {}
    for (_, role), heads in _alike(stored).items():
        for head in heads:
            line = _row(stored, role, [head], effect=None)
            found[str(head)] = f"{' '.join(line.cells[1:])}, {line.text}"
    return found


def parts_lines(stored: StoredScores) -> list[Line]:
    """Return the lines on the circuit that was found, of edges or else of nodes without edges.

    Without one, they are on heads that look like parts of one.
    Where the network knows nothing of its behaviour at the last checkpoint, there is nothing to explain.
    """
    run = stored.run
    if run.circuits or run.node_circuits:
        try:
            return _of_circuit(stored)
        except ValueError as error:
            return [Line(str(error), head="Circuit")]
    why = nothing_to_explain(stored) or "not searched for; headway circuit RUN finds it"
    return [Line(why, head="Circuit"), *_by_signature(stored)]


def nothing_to_explain(stored: StoredScores) -> str:
    """Return why there is nothing to explain at the last checkpoint; "" if there is, or if nobody has measured it."""
    variables = stored.variables.get("effect", {})
    if not {"effect_known", "effect_clean"} <= variables.keys():
        return ""
    known, clean = (float(variables[f"effect_{name}"].values.values[-1]) for name in ("known", "clean"))
    if not np.isfinite(known + clean) or known >= LEAST_KNOWN * (known + clean):
        return ""
    asked = variables["effect"].attributes
    on = f" on {asked['part']}" if asked.get("part") else ""
    by = f" ({asked['replacement']})" if asked.get("replacement") else ""
    return (
        f"nothing to explain: the loss{on} is {amount(clean)}, and {amount(known + clean)} with everything "
        f"replaced{by}; less than a tenth of it is known"
    )


def _last_circuit(stored: StoredScores) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Return the circuit of edges, or else of nodes without edges, that was found last, and its numbers over training.

    Raises:
        ValueError: a run without circuits, or one whose files are damaged.
    """
    run = stored.run
    nodes = not run.circuits
    circuit = run.circuit(nodes=nodes)
    asked = circuit.known.attrs
    if not run.circuit_file(None, asked["part"] or None, asked["replacement"], nodes).exists():
        return circuit, None
    of_part = {"part": asked["part"] or "all", "replacement": asked["replacement"]}
    return circuit, run.circuit(**of_part, over_steps=True, nodes=nodes)


def _of_circuit(stored: StoredScores) -> list[Line]:
    circuit, over = _last_circuit(stored)
    asked = circuit.known.attrs
    nulls = {
        (node, measure): null
        for node, (_, measure, _) in circuit.node_in_circuit.attrs.get("names", {}).items()
        if (null := _null(stored, measure, node)) is not None
    }
    lines = circuit_paragraph(circuit, over, stored.loss_units, nulls)
    if asked["step"] != stored.steps[-1]:
        lines.append(Line(f"(This circuit is that of step {asked['step']}.)"))
    return lines


def _null(stored: StoredScores, measure: str, node: str) -> float | None:
    variable = stored.variables.get(measure, {}).get(f"{measure}_null")
    if variable is None:
        return None
    layer, head = map(int, node[1:].split("H"))
    last = variable.values.isel(step=-1)
    value = float(last[{axis: at for axis, at in (("layer", layer), ("head", head)) if axis in last.dims}])
    return value if np.isfinite(value) else None


def _by_signature(stored: StoredScores) -> list[Line]:
    """Return a line for the heads of a layer that mainly do one thing: their scores, effects and half-way steps."""
    if stored.roles is None:
        return []
    effect = stored.variables.get("effect", {}).get("effect")
    rows = [_row(stored, role, heads, effect) for (_, role), heads in _alike(stored).items()]
    if not rows:
        text = f"none: no head is more than half of the way from chance to any of {', '.join(ROLES.values())}"
        return [Line(text, head="Signatures")]
    return rows


def _alike(stored: StoredScores) -> dict[tuple[int, str], list[Head]]:
    """Return the heads of a layer that mainly do one thing at the last checkpoint, by layer and role."""
    alike: dict[tuple[int, str], list[Head]] = {}
    if stored.roles is None or not stored.steps:
        return alike
    last = stored.roles.isel(step=-1)
    for layer, heads in enumerate(last.role.values):
        for head, role in enumerate(heads):
            if last.role_share.values[layer, head] > MAINLY:
                alike.setdefault((layer, str(role)), []).append(Head(layer, head))
    return alike


def _row(stored: StoredScores, measure: str, heads: list[Head], effect: Variable | None) -> Line:
    scores = stored.variables[measure][measure].values.transpose("step", "layer", "head")
    name = HEAD_NAMES[measure] + ("s" if len(heads) > 1 else "")
    found = [float(scores.isel(step=-1, layer=layer, head=head)) for layer, head in heads]
    null = _null(stored, measure, str(heads[0]))
    low = 0.0 if null is None else null
    beside = "" if null is None else f" (null {null:.3f})"
    dates = [half_way(way(scores.isel(layer=layer, head=head), low, 1.0)) for layer, head in heads]
    said = [f"half-way {_between([date.step for date in dates if date is not None])}"]
    if effect is not None:
        last = effect.values.isel(step=-1).transpose("layer", "head").values
        said += _effect([float(last[head]) for head in heads], effect.attributes["units"])
    ends = f"{min(found):.3f}" if len(found) == 1 else f"{min(found):.3f} to {max(found):.3f}"
    return Line(", ".join(said), (spans(list(map(str, heads))), name, ends + beside))


def _effect(values: list[float], units: str) -> list[str]:
    """Return the effects of heads in words: shares, or the losses that older runs have; nothing without a number."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return []
    if units == SHARE_OF_KNOWN:
        ends = f"{100 * min(known):.1f} % to " if min(known) < max(known) else ""
        whose = "without it" if len(values) == 1 else "without one of them"
        return [f"{whose} {ends}{lost(max(known), 'of what is known ')}"]
    return [f"costs {_ends(known)} {units} alone".replace("  ", " ")]


def _between(steps: list[float]) -> str:
    ends = sorted({round(step) for step in (min(steps), max(steps))})
    return ("at step " if len(ends) == 1 else "at steps ") + " to ".join(map(str, ends))


def _ends(values: list[float]) -> str:
    ends = [amount(min(values)), amount(max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
