// The circuit that carries a behaviour: its drawing, what it keeps over training, and every node's effect.

const asShare = (x) => (Number.isFinite(x) ? `${+(100 * x).toFixed(1)} %` : "–");
const between = (number, [, low, high]) =>
  Number.isFinite(low) && Number.isFinite(high) ? `[${number(low)}, ${number(high)}]` : "";
const withInterval = (number, ends) => `${number(ends[0])} ${between(number, ends)}`.trim();
const endsOf = (values, at) => [0, 1, 2].map((end) => values.get(end, at));
// A share that is lost, and that more than all of it is worse than knowing nothing; circuit_lines.py says it alike.
const CLEARLY_MORE = 1.05;
const worseIf = (share) => (share > CLEARLY_MORE ? ", which is worse than knowing nothing" : "");
const lostInWords = (share) => `without it ${asShare(share)} of what is known is lost${worseIf(share)}`;
// JSON has no NaN.
const numbersOf = (ends) => ends.map((value) => value ?? NaN);

// The drawing of the network on the first screen, with the circuit that was found by the step of the slider.
function diagramPanel(run) {
  const readout = el("output", { class: "readout" }),
    host = el("figure", { class: "fills" });
  figure(host, (width, height) => {
    const circuits = shownCircuits(run);
    drawNetwork(run, circuits, foundBy(run, circuits), host, width, isWide(run) ? height : null, readout);
  });
  const choice = run.circuits.length > 1 ? circuitSelect(run) : null;
  const text = run.circuits.length ? DIAGRAM : `${DIAGRAM} No circuit has been searched for.`;
  const numbers = () => diagramNumbers(run, shownCircuits(run), foundBy(run, shownCircuits(run)));
  const panel = downloadable(
    run,
    "Circuit",
    "circuit",
    numbers,
    heading("h3", "Circuit", [text, routeKeys(run)]),
    networkKeys(run),
    choice,
    host,
    readout,
  );
  panel.classList.add("diagram");
  return panel;
}
const MISLEADS =
  "Above 100 %: with this node alone replaced, the other nodes mislead, which is worse than knowing nothing.";
const DIAGRAM =
  "A circle is a head: its colour is the role it is furthest in, and its strength how far: " +
  "(score - chance) / (1 - chance). The thicker the ring, the larger the effect: the share of what is known that is " +
  `lost when this head alone is replaced. ${MISLEADS} The thicker an edge, the more the circuit loses without it; ` +
  "pale nodes are not needed, dashed nodes and pale edges can stand in. Compositions, on demand, are those that stay " +
  "above the band of random pairs from some checkpoint on, as wide as their z.";

function circuitSelect(run) {
  const options = run.circuits.map((each) => el("option", { value: askedOf(each) }, askedOf(each)));
  const change = (event) => {
    state.circuit = event.target.value;
    writeHash();
    changed();
  };
  const select = el("select", { change }, options);
  return figure(el("label", {}, "behaviour ", select), () => {
    select.value = askedOf(run.circuits[circuitShown(run)]);
  });
}
// Which of the behaviours and replacements of a run is shown: the one that is chosen, or the first.
const circuitShown = (run) =>
  Math.max(
    0,
    run.circuits.findIndex((each) => askedOf(each) === state.circuit),
  );
// The circuits of that one; null where none was found.
function shownCircuits(run) {
  const circuits = run.circuits[circuitShown(run)];
  return circuits?.found.length ? circuits : null;
}
// The last of them that was found by the step of the slider.
const foundBy = (run, circuits) =>
  circuits?.found.findLast((each) => each.step <= (run.steps[indexOf(run)] ?? Infinity)) ?? null;

function circuitSection(run) {
  if (!run.circuits.length) return noCircuit(run);
  const panels = run.circuits.map((each) => circuitPanel(run, each));
  const host = el("div", {}, panels);
  return figure(host, () =>
    panels.forEach((panel, i) => {
      panel.hidden = i !== circuitShown(run);
    }),
  );
}

// What a node writes that is not kept, by the name of the replacement.
const REPLACEMENTS = {
  twin: "what it writes on a twin, a sequence that does not tell the answer",
  resample: "what it writes on another sequence",
  position_mean: "its mean at each position",
  mean: "its mean",
  zero: "zero",
};
// The behaviour, the replacement, and whether nodes were searched for and not edges.
const askedOf = ({ behaviour, replacement, ofNodes }) =>
  `${behaviour}, replacement ${inWords(replacement)}${ofNodes ? ", nodes without edges" : ""}`;

function noCircuit(run) {
  if (run.nothingToExplain)
    return el("p", { class: "note" }, `At the last checkpoint there is ${run.nothingToExplain}.`);
  return el(
    "p",
    { class: "note" },
    "No circuit has been found in this run; this command finds the edges that carry its behaviour: ",
    el("code", {}, `headway circuit ${run.path}`),
  );
}

function circuitPanel(run, circuits) {
  const warnings = circuits.damaged.map((text) => el("p", { class: "warn" }, text));
  if (!circuits.found.length) return el("div", {}, warnings);
  const said = el("p", { class: "said" }),
    tables = el("div", {});
  let written;
  figure(tables, () => {
    const found = foundBy(run, circuits);
    said.textContent = circuitSentence(run, circuits, found, run.steps[indexOf(run)] ?? Infinity);
    if (written !== found)
      tables.replaceChildren(
        ...(found ? [nodeTable(circuits, found), ...groupTable(circuits, found), ...edgeList(circuits, found)] : []),
      );
    written = found;
    for (const row of tables.querySelectorAll("tr[data-node]"))
      row.classList.toggle("chosen", state.head !== null && row.dataset.node === nameOf(state.head));
  });
  return el("div", { class: "circuit" }, warnings, said, circuits.over ? overSteps(run, circuits) : null, tables);
}

function circuitSentence(run, circuits, found, step) {
  const what = askedOf(circuits);
  if (!found) {
    const first = circuits.found[0].step;
    return `No circuit has been found at step ${step} or before (${what}); the first one was found at step ${first}.`;
  }
  const number = (name) => numbersOf(found.numbers[name]);
  const inside = circuits.ofNodes
    ? `${found.nodes.filter((node) => node.kind === NODE_IN).length} of ${found.nodes.length} nodes`
    : `${found.edges.filter((edge) => edge[3]).length} of ${found.edgesInAll} edges`;
  const second = Number.isFinite(found.secondFaithfulness?.[0])
    ? ` Under the replacement ${inWords(found.second)} it keeps ${withInterval(asShare, numbersOf(found.secondFaithfulness))}.`
    : "";
  return (
    `Circuit found at step ${found.step} (${what}, ${found.sequences} sequences): ${inside}. ` +
    `Known: ${withInterval(formatted, number("known"))} ${run.lossUnits}. ` +
    `The circuit keeps ${withInterval(asShare, number("faithfulness"))} of it alone, and ` +
    `${withInterval(asShare, number("necessity"))} is lost without it${worseIf(number("necessity")[0])}. Of ${found.controls.drawn} random circuits of ` +
    `its size the best keeps ${asShare(found.controls.most ?? NaN)} (p ${formatted(found.p ?? NaN)}).${second} ` +
    `Minimality, what the edge that is needed least costs: ${withInterval(asShare, number("minimality"))}` +
    `${found.leastEdge ? ` (${found.leastEdge})` : ""}. Over circuits of growing size: CPR ` +
    `${withInterval(formatted, number("cpr"))} (area under what they keep), CMD ` +
    `${withInterval(formatted, number("cmd"))} (area between that and 1).` +
    (found.misleads ? ` Caution: ${found.misleads}.` : "")
  );
}

const edgeName = ([source, target, input]) => `${source} → ${target}${input === "in" ? "" : `.${input}`}`;
function edgeText(found, at) {
  const edge = found.edges[at];
  const effect = `replaced alone in the network ${withInterval(asShare, endsOf(found.edgeEffect, at))} is lost`;
  return edge[3]
    ? `${edgeName(edge)}: the circuit loses ${withInterval(asShare, endsOf(found.cost, at))} without it; ${effect}`
    : `${edgeName(edge)}: can stand in; ${effect}`;
}

// What is known, and what the last circuit keeps alone and loses, at every checkpoint.
function overSteps(run, circuits) {
  const { over } = circuits;
  const last = circuits.found.find((each) => each.step === over.of) ?? circuits.found.at(-1);
  const known = { label: "known", values: over.known, number: formatted };
  const shares = [
    { label: "kept alone (faithfulness)", values: over.faithfulness, number: asShare },
    { label: "lost without it (necessity)", values: over.necessity, number: asShare },
  ];
  const controls = { step: last.step, ...last.controls };
  return el(
    "div",
    { class: "panels", style: "--least:330px" },
    downloadable(
      run,
      "Known over training",
      "known",
      () => bandNumbers(run, over.steps, [known]),
      el("h3", {}, `Known of ${circuits.behaviour}${run.lossUnits ? `, in ${run.lossUnits}` : ""}`),
      bandChart(run, over.steps, [known], null, "Known over training"),
    ),
    downloadable(
      run,
      "The circuit over training",
      "circuit-over-steps",
      () => bandNumbers(run, over.steps, shares),
      el("h3", {}, `The circuit of step ${over.of ?? last.step} at every checkpoint`),
      el(
        "ul",
        { class: "keys" },
        shares.map(({ label }, i) => lineKey(label, i)),
        el("li", {}, `grey bar at step ${controls.step}: ${controls.drawn} random circuits of its size`),
      ),
      bandChart(run, over.steps, shares, controls, "Shares of what is known, over training"),
    ),
  );
}

function bandChart(run, steps, lines, controls, title) {
  const canvas = el("canvas", { role: "img", "aria-label": title }),
    below = el("figcaption", {});
  // Where little is known shares are wild; the frame does not follow them.
  const span = controls ? [-0.1, 1.2] : spanOf([0, ...lines.flatMap(({ values }) => values.range)]);
  return figure(el("figure", {}, canvas, below), (width) => {
    const { context, x, y, line, top, bottom } = chartFrame(canvas, run, width, span);
    const step = run.steps[indexOf(run)] ?? steps.at(-1);
    const index = Math.max(
      0,
      steps.findLastIndex((each) => each <= step),
    );
    if (controls) {
      const [high, low] = [controls.most, controls.least].map((value) =>
        y(Math.min(span[1], Math.max(span[0], value ?? 0))),
      );
      context.fillStyle = css("--quiet");
      context.fillRect(x(controls.step) - 5, high - 1, 6, Math.max(2, low - high + 2));
    }
    lines.forEach(({ values }, i) => {
      const points = (end) => steps.map((each, at) => [each, values.get(end, at)]);
      const kept = points(0).map(([, value]) => Number.isFinite(value));
      const some = (end) => points(end).filter((_, at) => kept[at]);
      context.fillStyle = lineColor(i);
      context.globalAlpha = 0.22;
      context.beginPath();
      line(some(2));
      line(some(1).reverse(), true);
      context.fill();
      context.globalAlpha = 1;
      context.strokeStyle = lineColor(i);
      context.lineWidth = 1.8;
      context.setLineDash(lineDash(i));
      context.beginPath();
      line(some(0));
      context.stroke();
    });
    chartCursor(context, x(step), top, bottom);
    const numbers = lines.map(
      ({ label, values, number }) => `${label} ${withInterval(number, endsOf(values, index))}`,
    );
    if (controls)
      numbers.push(
        `random circuits at step ${controls.step}: ${asShare(controls.least ?? NaN)} to ${asShare(controls.most ?? NaN)}`,
      );
    below.textContent = `Step ${steps[index]}: ${numbers.join(", ")}`;
    canvas.setAttribute("aria-label", `${title}. ${below.textContent}`);
  });
}

// Effects under both replacements: [values, replacement].
function effectsOf(circuits, first, second, found) {
  return [
    [first, circuits.replacement],
    [second, found.second],
  ].filter(([values]) => values);
}

function nodeTable(circuits, found) {
  const effects = effectsOf(circuits, found.effect, found.secondEffect, found);
  const rows = found.nodes.map(({ name, role, signature }, at) => {
    const named = signature
      ? `${signature[0]}, ${signature[1]} ${formatted(signature[2] ?? NaN)}`
      : headOf(name)
        ? "unnamed"
        : "";
    const numbers = effects.map(([values]) =>
      el("td", { class: "number" }, withInterval(asShare, endsOf(values, at))),
    );
    const node = headOf(name) ? headButton(name) : name;
    return el("tr", { "data-node": name }, el("th", { scope: "row" }, node), el("td", {}, named), numbers, el("td", {}, role)); // prettier-ignore
  });
  const above = effects.some(([values]) => found.nodes.some((_, at) => values.get(0, at) > 1));
  const caption =
    `Every node at step ${found.step}. Effect: the share of what is known that is lost when this node alone is replaced.` +
    (above ? ` ${MISLEADS}` : "");
  const heads = ["node", "name", ...effects.map(([, kind]) => `effect (${inWords(kind)})`), "in this circuit"];
  return circuitTable("Nodes", caption, heads, rows);
}
// Parts that are alike, replaced together; circuits that an older Headway found have no such numbers.
function groupTable(circuits, found) {
  if (!found.groups?.length) return [];
  const effects = effectsOf(circuits, found.groupEffect, found.secondGroupEffect, found);
  const rows = found.groups.map((name, at) => {
    const numbers = effects.map(([values]) =>
      el("td", { class: "number" }, withInterval(asShare, endsOf(values, at))),
    );
    return el("tr", {}, el("th", { scope: "row" }, name), numbers);
  });
  const heads = ["nodes", ...effects.map(([, kind]) => `effect together (${inWords(kind)})`)];
  return [circuitTable("Nodes together", "Nodes that are alike, replaced together.", heads, rows)];
}

function circuitTable(label, caption, heads, rows) {
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": label },
    el(
      "table",
      { class: "nodes" },
      el("caption", { class: "note" }, caption),
      el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col" }, text)))), // prettier-ignore
      el("tbody", {}, rows),
    ),
  );
}

function edgeList(circuits, found) {
  if (circuits.ofNodes) return [];
  return [edgesInWords(found)];
}

function edgesInWords(found) {
  return el(
    "details",
    {},
    el("summary", {}, `Edges of the circuit of step ${found.step}, in words`),
    el("ul", {}, found.edges.map((_, at) => el("li", {}, edgeText(found, at)))), // prettier-ignore
  );
}
