// The circuit that carries a behaviour: its parts and edges, what it keeps over training, and every node's effect.

const ROUTES = {
  q: { port: -0.55, dash: "6 4", color: () => PALETTE.categories[5], words: "to queries (Q)" },
  k: { port: 0, dash: "", color: () => "var(--ink)", words: "to keys (K)" },
  v: { port: 0.55, dash: "1.5 4", color: () => PALETTE.nothing, words: "to values (V)" },
  in: { port: 0, dash: "", color: () => PALETTE.categories[0], words: "to an MLP or the output" },
};
const NODE_IN = "in the circuit",
  NODE_FREE = "not needed";

const asShare = (x) => (Number.isFinite(x) ? `${+(100 * x).toFixed(1)} %` : "–");
const between = (number, [, low, high]) =>
  Number.isFinite(low) && Number.isFinite(high) ? `[${number(low)}, ${number(high)}]` : "";
const withInterval = (number, ends) => `${number(ends[0])} ${between(number, ends)}`.trim();
const endsOf = (values, at) => [0, 1, 2].map((end) => values.get(end, at));
// JSON has no NaN.
const numbersOf = (ends) => ends.map((value) => value ?? NaN);

function circuitSection(run) {
  if (!run.circuits.length)
    return el(
      "p",
      { class: "note" },
      "No circuit has been found in this run; this command finds the edges that carry its behaviour: ",
      el("code", {}, `headway circuit ${run.path}`),
    );
  const panels = run.circuits.map((each) => circuitPanel(run, each));
  if (panels.length === 1) return panels[0];
  const show = (chosen) =>
    panels.forEach((panel, i) => {
      panel.hidden = i !== chosen;
    });
  show(0);
  const options = run.circuits.map((each, i) =>
    el("option", { value: i }, `${each.behaviour}, replacement ${inWords(each.replacement)}`),
  );
  const select = el("select", { change: (event) => show(Number(event.target.value)) }, options);
  return el("div", {}, el("label", {}, "behaviour ", select), panels);
}

function circuitPanel(run, circuits) {
  const warnings = circuits.damaged.map((text) => el("p", { class: "warn" }, text));
  if (!circuits.found.length) return el("div", {}, warnings);
  const said = el("p", { class: "said" }),
    readout = el("output", { class: "readout" }),
    host = el("figure", { class: "scroll" }),
    tables = el("div", {});
  let written = null;
  figure(host, (room) => {
    const step = run.steps[indexOf(run)] ?? Infinity;
    const found = circuits.found.findLast((each) => each.step <= step) ?? null;
    said.textContent = circuitSentence(run, circuits, found, step);
    const focused = host.contains(document.activeElement) ? document.activeElement.dataset.node : null;
    host.replaceChildren(circuitDrawing(run, circuits, found, room, readout));
    if (focused) host.querySelector(`[data-node="${focused}"]`)?.focus({ preventScroll: true });
    if (written === found) return;
    written = found;
    readout.value = "";
    tables.replaceChildren(...(found ? [nodeTable(circuits, found), edgeList(circuits, found)] : []));
  });
  return el(
    "div",
    { class: "circuit" },
    warnings,
    said,
    el(
      "ul",
      { class: "keys" },
      Object.values(ROUTES).map(({ color, dash, words }) => {
        const stroke = { stroke: color(), "stroke-width": 3, "stroke-dasharray": dash };
        const sample = el("line", { x1: 0, x2: 30, y1: 4, y2: 4, ...stroke });
        return el("li", {}, el("svg", { width: 30, height: 8, "aria-hidden": "true" }, sample), words);
      }),
      el(
        "li",
        {},
        "the wider, the more the circuit loses without the edge; dashed circles and pale edges can stand in",
      ),
    ),
    readout,
    host,
    circuits.over ? overSteps(run, circuits) : null,
    tables,
  );
}

function circuitSentence(run, circuits, found, step) {
  const what = `${circuits.behaviour}, replacement ${inWords(circuits.replacement)}`;
  if (!found) {
    const first = circuits.found[0].step;
    return `No circuit has been found at step ${step} or before (${what}); the first one was found at step ${first}.`;
  }
  const number = (name) => numbersOf(found.numbers[name]);
  const inside = found.edges.filter((edge) => edge[3]).length;
  const second = Number.isFinite(found.secondFaithfulness?.[0])
    ? ` Under the replacement ${inWords(found.second)} it keeps ${withInterval(asShare, numbersOf(found.secondFaithfulness))}.`
    : "";
  return (
    `Circuit found at step ${found.step} (${what}, ${found.sequences} sequences): ${inside} of ${found.edgesInAll} edges. ` +
    `Known: ${withInterval(formatted, number("known"))} ${run.lossUnits}. ` +
    `The circuit keeps ${withInterval(asShare, number("faithfulness"))} of it alone, and ` +
    `${withInterval(asShare, number("necessity"))} is lost without it. Of ${found.controls.drawn} random circuits of ` +
    `its size the best keeps ${asShare(found.controls.most ?? NaN)} (p ${formatted(found.p ?? NaN)}).${second}`
  );
}

function nodeText(circuits, found, at) {
  const { name, role, signature } = found.nodes[at];
  const named = signature ? ` (${signature[0]}, ${signature[1]} ${formatted(signature[2] ?? NaN)})` : "";
  let text = `${name}${named}: ${role}; effect ${withInterval(asShare, endsOf(found.effect, at))} of what is known (${inWords(circuits.replacement)})`;
  if (found.secondEffect)
    text += `, ${withInterval(asShare, endsOf(found.secondEffect, at))} (${inWords(found.second)})`;
  return text;
}

const edgeName = ([source, target, input]) => `${source} → ${target}${input === "in" ? "" : `.${input}`}`;
function edgeText(found, at) {
  const edge = found.edges[at];
  const effect = `replaced alone in the network ${withInterval(asShare, endsOf(found.edgeEffect, at))} is lost`;
  return edge[3]
    ? `${edgeName(edge)}: the circuit loses ${withInterval(asShare, endsOf(found.cost, at))} without it; ${effect}`
    : `${edgeName(edge)}: can stand in; ${effect}`;
}

// Rows from the embedding at the bottom to the output at the top; a layer's MLP stands above its heads.
function circuitPlaces(run, names, width, gap) {
  const rows = [names.filter((name) => ["embed", "pos_embed"].includes(name))];
  for (let layer = 0; layer < run.layers; layer++)
    rows.push(
      Array.from({ length: run.heads }, (_, head) => nameOf([layer, head])),
      names.filter((name) => name === `MLP${layer}`),
    );
  const filled = [...rows, ["output"]].filter((row) => row.length);
  const placed = new Map();
  filled.forEach((row, level) => {
    row.forEach((name, i) => {
      placed.set(name, [((i + 0.5) * width) / row.length, (filled.length - level - 0.5) * gap]);
    });
  });
  return { placed, height: filled.length * gap };
}

function circuitDrawing(run, circuits, found, room, readout) {
  const names = circuits.found[0].nodes.map((node) => node.name);
  const width = Math.max(room, run.heads * 84),
    r = 22;
  const { placed, height } = circuitPlaces(run, names, width, 104);
  const svg = el("svg", { width, height, role: "group" });
  svg.setAttribute(
    "aria-label",
    found
      ? `Circuit found at step ${found.step}: ${found.edges
          .filter((edge) => edge[3])
          .map(edgeName)
          .join(", ")}`
      : "No circuit at this step",
  );
  // Edges of the circuit lie above those that stand in.
  const order = (found?.edges ?? []).map((_, at) => at).sort((a, b) => found.edges[a][3] - found.edges[b][3]);
  for (const at of order) {
    const [source, target, input, inside] = found.edges[at];
    const route = ROUTES[input];
    const [x1, y1] = placed.get(source),
      [x, y] = placed.get(target);
    const x2 = x + route.port * r,
      y2 = y + r * (1 - 0.3 * Math.abs(route.port)),
      bend = (y1 - r - y2) * 0.45;
    const text = edgeText(found, at);
    const cost = found.cost.get(0, at);
    svg.append(
      el(
        "path",
        {
          class: "edge",
          d: `M${x1} ${y1 - r}C${x1} ${y1 - r - bend} ${x2} ${y2 + bend} ${x2} ${y2}`,
          stroke: route.color(),
          "stroke-width": inside ? 1.5 + 6 * Math.min(1, Math.max(0, cost || 0)) : 1.2,
          "stroke-dasharray": route.dash,
          opacity: inside ? 0.9 : 0.35,
          "data-edge": edgeName(found.edges[at]),
          "data-inside": String(inside),
          pointerenter: () => {
            readout.value = text;
          },
        },
        el("title", {}, text),
      ),
    );
  }
  for (const [name, [x, y]] of placed) {
    const at = found ? found.nodes.findIndex((node) => node.name === name) : -1;
    const node = at < 0 ? null : found.nodes[at];
    const kind = name === "output" ? NODE_IN : (node?.kind ?? NODE_FREE);
    const text = node ? nodeText(circuits, found, at) : name;
    const head = headOf(name);
    const pick = () => {
      readout.value = text;
      if (head) choose(isChosen(...head) ? null : head);
    };
    const tell = () => {
      readout.value = text;
    };
    const words = node?.signature?.[0].split(" ") ?? [];
    const lines = words.length > 1 ? [words.slice(0, -1).join(" "), words.at(-1)] : words;
    svg.append(
      el(
        "g",
        {
          class: `node${head && isChosen(...head) ? " chosen" : ""}`,
          tabindex: 0,
          role: "button",
          "aria-label": text,
          "aria-pressed": head ? String(isChosen(...head)) : null,
          "data-node": name,
          "data-kind": kind,
          opacity: kind === NODE_FREE ? 0.35 : 1,
          click: pick,
          pointerenter: tell,
          focus: tell,
          keydown: (event) => {
            if (!["Enter", " "].includes(event.key)) return;
            event.preventDefault();
            pick();
          },
        },
        el("circle", {
          cx: x,
          cy: y,
          r,
          fill: kind === NODE_IN ? "var(--band)" : "var(--paper)",
          "stroke-dasharray": kind === NODE_IN || kind === NODE_FREE ? null : "4 3",
        }),
        el("text", { x, y }, name === "pos_embed" ? "pos" : name),
        lines.map((line, i) => el("text", { class: "level", x, y: y + r + 9 + 12 * i }, line)),
      ),
    );
  }
  return svg;
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
    el(
      "div",
      {},
      el("h3", {}, `Known of ${circuits.behaviour}${run.lossUnits ? `, in ${run.lossUnits}` : ""}`),
      bandChart(run, over.steps, [known], null, "Known over training"),
    ),
    el(
      "div",
      {},
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

function nodeTable(circuits, found) {
  const effects = [
    [found.effect, circuits.replacement],
    [found.secondEffect, found.second],
  ].filter(([values]) => values);
  const rows = found.nodes.map(({ name, role, signature }, at) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, name),
      el(
        "td",
        {},
        signature
          ? `${signature[0]}, ${signature[1]} ${formatted(signature[2] ?? NaN)}`
          : headOf(name)
            ? "unnamed"
            : "",
      ),
      effects.map(([values]) => el("td", { class: "number" }, withInterval(asShare, endsOf(values, at)))),
      el("td", {}, role),
    ),
  );
  const heads = ["node", "name", ...effects.map(([, kind]) => `effect (${inWords(kind)})`), "in this circuit"];
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": "Nodes" },
    el(
      "table",
      { class: "nodes" },
      el(
        "caption",
        { class: "note" },
        `Every node at step ${found.step}. Effect: the share of what is known that is lost when this node alone is replaced.`,
      ),
      el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col" }, text)))), // prettier-ignore
      el("tbody", {}, rows),
    ),
  );
}

function edgeList(circuits, found) {
  return el(
    "details",
    {},
    el("summary", {}, `Edges of the circuit of step ${found.step}, in words`),
    el("ul", {}, found.edges.map((_, at) => el("li", {}, edgeText(found, at)))), // prettier-ignore
  );
}
