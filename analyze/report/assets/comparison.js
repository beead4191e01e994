// What heads do in the sequence that is tried, beside what they do in the whole batch.

// Of less than this share of the loss without all heads there are no shares.
const LEAST_KNOWN = 0.001;

function tryComparison(run) {
  const caption = el("caption", { class: "note", style: "text-align:left" }),
    head = el("thead"),
    body = el("tbody");
  const host = el("table", { class: "cells", hidden: true }, caption, head, body),
    writeRows = rowsIn(body);
  // The losses of the rows, which stay where the slider comes to a checkpoint with the same weights.
  let computed = null,
    shownKey = null;
  // What is computed is of a sequence and of weights that no longer are those that are shown.
  const stop = () => {
    computed = shownKey = null;
  };
  const draw = (networks, step, shown) => {
    if (state.instead === "mean" && !networks.means.has(step)) return stop();
    const circuits = shownCircuits(run),
      found = circuitAt(run);
    const key = `${shown.key} ${state.instead} ${circuitShown(run)} ${found?.step}`,
      rowsKey = `${key} ${indexOf(run)}`;
    if (rowsKey === shownKey && !beforePaper) return;
    shownKey = rowsKey;
    const rows = comparisonRows(run, found);
    const isDone = () => computed.losses.length > rows.length;
    const known = computed?.key === key && (isDone() || !beforePaper);
    if (!known) computed = { key, losses: [] };
    const mine = computed,
      { losses } = computed;
    // A person may choose another while this is computed.
    const { instead } = state;
    const part = found && circuits.part !== "all" ? circuits.part : null;
    function* computing() {
      const network = networks.found.get(step);
      for (const { off } of [...rows, { off: allHeads(run) }]) {
        const replaced = standIns(networks, step, shown, off, instead);
        const output = network.output(network.run(shown.trial.inputs, replaced, shown.clean));
        losses.push(shown.trial.mean(lossOf(output, shown.trial.answers), part));
        yield;
      }
    }
    const fill = () => {
      const clean = shown.trial.mean(shown.cleanLosses, part);
      const known = losses.at(-1) - clean,
        little = Math.abs(known) < LEAST_KNOWN * losses.at(-1);
      host.hidden = !Number.isFinite(known);
      const where = part ? ` on ${inWords(part)}` : "";
      caption.textContent =
        `In this sequence the loss${where} is ${formatted(clean)} with all heads on and ${formatted(losses.at(-1))} with all off; ` +
        (little ? "less than a thousandth is too little for shares." : "shares are of the difference.") +
        (found ? ` A head that is off writes ${INSTEAD[instead]}; in the whole batch, ${REPLACEMENTS[circuits.replacement]}.` : ""); // prettier-ignore
      const batch = found ? `whole batch (circuit of step ${found.step})` : "whole batch (effect)";
      writeTitles(head, ["", "in this sequence", batch]);
      writeRows(
        rows.map(({ name, whole, keeps }, at) => {
          const lost = little ? NaN : (losses[at] - clean) / known;
          return { texts: [name, asShare(keeps ? 1 - lost : lost), whole] };
        }),
      );
    };
    mine.fill = fill;
    if (known) {
      if (isDone()) fill();
      return;
    }
    const steps = computing();
    if (beforePaper) {
      while (!steps.next().done);
      fill();
    } else {
      // What is beside it is drawn first, and what a person does meanwhile: this takes a forward pass a row.
      const isWanted = () => mine === computed;
      afterFrame(async () => isWanted() && (await goThrough(steps, isWanted, quiet)) && mine.fill());
    }
  };
  return { host, draw, stop };
}

// Rows of the comparison: what is off, and the number of the whole batch.
function comparisonRows(run, found) {
  const alone = (head, whole) => ({ name: `${nameOf(head)} off: lost`, off: [head], whole });
  if (!found) {
    const effect = run.effects?.heads;
    return allHeads(run).map((head) => alone(head, effect ? asShare(effect.get(indexOf(run), ...head)) : "–"));
  }
  const inside = circuitHeads(run).map(nameOf);
  const others = allHeads(run).filter((head) => !inside.includes(nameOf(head)));
  const number = (name) => withInterval(asShare, numbersOf(found.numbers[name]));
  return [
    { name: "Only the circuit's heads on: kept", off: others, whole: number("faithfulness"), keeps: true },
    { name: "The circuit's heads off: lost", off: inside.map(headOf), whole: number("necessity") },
    ...allHeads(run).map((head) => {
      const at = found.nodes.findIndex(({ name }) => name === nameOf(head));
      return alone(head, at < 0 ? "–" : withInterval(asShare, endsOf(found.effect, at)));
    }),
  ];
}
