// One drawing of the network: the effect of each node, the circuit that was found, and compositions on demand.

const ROUTES = {
  q: { port: -0.55, dash: "6 4", color: () => PALETTE.categories[5], name: "Q", words: "to queries (Q)" },
  k: { port: 0, dash: "", color: () => "var(--ink)", name: "K", words: "to keys (K)" },
  v: { port: 0.55, dash: "1.5 4", color: () => PALETTE.nothing, name: "V", words: "to values (V)" },
  in: { port: 0, dash: "", color: () => PALETTE.categories[0], words: "to an MLP or the output" },
};
const COMPOSITIONS = ["q", "k", "v"];
const NODE_IN = "in the circuit",
  NODE_FREE = "not needed";
// More lines than this cannot be told apart.
const MOST_EDGES = 120;

function roleOf(run, index, layer, head) {
  const role = run.roles ? run.roles.role.get(index, layer, head) : -1;
  return role < 0
    ? null
    : { index: role, words: ROLES[role][1], name: ROLES[role][0], share: run.roles.share.get(index, layer, head) };
}

// The compositions above their bands for good by this checkpoint, strongest first, of the kinds that are shown.
function compositionsAt(run, index) {
  const found = [];
  for (const score of run.perPair) {
    const kind = COMPOSITIONS.find((letter) => score.label === `${letter}_composition`);
    if (!kind || !state.kinds.includes(kind)) continue;
    score.pairs.rows.forEach(([from, to], pair) => {
      if (score.formed.get(pair) <= run.steps[index])
        found.push({ score, kind, pair, from, to, z: score.z.get(index, pair) });
    });
  }
  return found.filter((edge) => edge.z > 0).sort((a, b) => b.z - a.z);
}

function pairText(run, score, pair, index) {
  const [from, to] = score.pairs.rows[pair].map((at) => [Math.floor(at / run.heads), at % run.heads]);
  const formed = score.formed.get(pair);
  let text = `${nameOf(from)} → ${nameOf(to)}: ${score.label} ${formatted(score.values.get(index, pair))}`;
  if (score.ceiling) text += ` of at most ${formatted(score.ceiling.get(index, pair))}`;
  if (score.null) text += `, null ${formatted(score.null.get(index, from[0], to[0]))}`;
  if (score.z) text += `, z ${formatted(score.z.get(index, pair))}`;
  return (
    text + (Number.isNaN(formed) ? "; not above its band at the end" : `; above its band from step ${formed} on`)
  );
}

// The share of what is known that is lost without a node: as the circuit's search found it at its own checkpoint, and
// as it was scored at any other. NaN where it is unknown.
function effectAt(run, found, index, name) {
  const at = found ? found.nodes.findIndex((node) => node.name === name) : -1;
  if (at >= 0 && (found.step === run.steps[index] || !run.effects)) return found.effect.get(0, at);
  const head = headOf(name);
  if (head) return run.effects?.heads.get(index, ...head) ?? NaN;
  return name.startsWith("MLP") ? (run.effects?.mlps?.get(index, Number(name.slice(3))) ?? NaN) : NaN;
}

// Rows from the embedding at the bottom to the output at the top; a layer's MLP stands above its heads.
function rowsOfNodes(run, names) {
  const rows = [names.filter((name) => ["embed", "pos_embed"].includes(name))];
  for (let layer = 0; layer < run.layers; layer++)
    rows.push(
      Array.from({ length: run.heads }, (_, head) => nameOf([layer, head])),
      names.filter((name) => name === `MLP${layer}`),
    );
  return [...rows, names.filter((name) => name === "output")].filter((row) => row.length);
}
function nodePlaces(rows, width, gap, left) {
  const placed = new Map();
  rows.forEach((row, level) => {
    row.forEach((name, i) => {
      // A name below its node stands as far from it as the node from the row above.
      placed.set(name, [
        left + ((i + 0.5) * (width - left)) / row.length,
        (rows.length - level - 0.5) * gap - Math.min(8, gap / 8),
      ]);
    });
  });
  return placed;
}

// The names of all nodes: those of the circuits, or the heads and the MLPs that have an effect.
function nodeNames(run, circuits) {
  if (circuits) return [...circuits.found[0].nodes.map((node) => node.name), "output"];
  const layers = Array.from({ length: run.layers }, (_, layer) => layer);
  const heads = layers.flatMap((layer) => Array.from({ length: run.heads }, (_, head) => nameOf([layer, head])));
  return run.effects?.mlps ? [...heads, ...layers.map((layer) => `MLP${layer}`)] : heads;
}

function curveBetween(placed, from, to, route, r) {
  const [x1, top] = placed.get(from),
    [x, bottom] = placed.get(to);
  const y1 = top - r,
    x2 = x + route.port * r,
    y2 = bottom + r * (1 - 0.3 * Math.abs(route.port)),
    bend = (y1 - y2) * 0.45;
  return `M${x1} ${y1}C${x1} ${y1 - bend} ${x2} ${y2 + bend} ${x2} ${y2}`;
}

// Draws into a host; ``found`` is the circuit of this checkpoint or null, ``circuits`` those it belongs to or null.
// Without a height it takes what its rows need.
function drawNetwork(run, circuits, found, host, width, height, readout) {
  const index = indexOf(run);
  const names = nodeNames(run, circuits);
  const rows = rowsOfNodes(run, names);
  const gap = Math.max(
    16,
    Math.min(104, height === null ? 104 - 8 * Math.max(0, rows.length - 5) : height / rows.length),
  );
  const apart = (width - 28) / run.heads;
  const r = Math.max(2, Math.min(22, 0.42 * apart, Math.max(6, 0.3 * gap)));
  // Layers stand to the left of nodes that have no room for their names.
  const placed = nodePlaces(rows, width, gap, r < LEAST_NAMED ? 28 : 0);
  const compositions = compositionsAt(run, index);
  const focused = host.contains(document.activeElement) ? document.activeElement.dataset.node : null;
  const key = [run, circuits, found, width, height];
  let drawn = drawings.get(host);
  if (!drawn?.key.every((part, at) => part === key[at])) {
    const svg = el("svg", { width, height: rows.length * gap, role: "group" });
    // Lines of text below a node: its effect, and its name where there is room for one.
    const lines = { count: Math.floor((gap - 2 * r - 4) / 12), effect: apart > 38, name: apart > 84 };
    const nodes = [...placed].map(([name, place]) => nodeOf(run, circuits, found, name, place, r, lines, readout));
    svg.append(...(found ? circuitEdges(found, placed, r, readout) : []), ...nodes.map((node) => node.host));
    if (r < LEAST_NAMED)
      for (const [first] of rows.filter(([name]) => headOf(name)))
        svg.append(el("text", { x: 0, y: placed.get(first)[1] + 4 }, `L${headOf(first)[0]}`));
    host.replaceChildren(svg);
    drawn = { key, svg, nodes, compositions: [] };
    drawings.set(host, drawn);
  }
  for (const edge of drawn.compositions) edge.remove();
  drawn.compositions = compositionEdges(run, compositions, placed, r, readout);
  drawn.svg.prepend(...drawn.compositions);
  for (const node of drawn.nodes) node.update(index);
  const described = describedAt(run, found, index, names, compositions);
  drawn.svg.setAttribute("aria-label", described);
  readout.value = described;
  // The focus stays on its node, which is then read aloud anew.
  const again = focused && drawn.svg.querySelector(`[data-node="${focused}"]`);
  again?.blur();
  again?.focus({ preventScroll: true });
}
// What stays of each drawing while the slider moves.
const drawings = new WeakMap();
// A smaller node has no room for its name.
const LEAST_NAMED = 9;

function describedAt(run, found, index, names, compositions) {
  const effects = names.map((name) => [name, effectAt(run, found, index, name)]).filter(([, x]) => x >= 0.1);
  const largest = effects.sort((a, b) => b[1] - a[1]).slice(0, 4);
  const said = largest.length
    ? `most is lost without ${largest.map(([name, x]) => `${name} (${asShare(x)}${worseIf(x)})`).join(", ")}`
    : "without any single node less than 10 % is lost";
  const some =
    compositions.length > MOST_EDGES
      ? `; the ${MOST_EDGES} strongest of ${compositions.length} compositions`
      : compositions.length
        ? `; ${compositions.length} compositions above their null bands`
        : "";
  return `Step ${run.steps[index] ?? found?.step}: ${said}${some}`;
}

function compositionEdges(run, compositions, placed, r, readout) {
  const index = indexOf(run);
  const kinds = COMPOSITIONS.map((letter) => `${letter}_composition`);
  const zs = RUNS.flatMap((each) =>
    each.perPair.filter((score) => kinds.includes(score.label) && score.z).map((score) => score.z.range[1]),
  );
  const most = Math.max(1, ...finite(zs));
  return compositions
    .slice(0, MOST_EDGES)
    .reverse()
    .map(({ score, kind, pair, from, to, z }) => {
      const [source, target] = [from, to].map((at) => nameOf([Math.floor(at / run.heads), at % run.heads]));
      const near = !state.head || [source, target].includes(nameOf(state.head));
      const text = pairText(run, score, pair, index);
      return el(
        "path",
        {
          class: "edge",
          d: curveBetween(placed, source, target, ROUTES[kind], r),
          stroke: ROUTES[kind].color(),
          "stroke-width": 1.5 + (7 * z) / most,
          "stroke-dasharray": ROUTES[kind].dash,
          opacity: near ? 0.45 : 0.12,
          "data-kind": ROUTES[kind].name,
          pointerenter: () => {
            readout.value = text;
          },
        },
        el("title", {}, text),
      );
    });
}

// Edges of the circuit lie above those that stand in.
function circuitEdges(found, placed, r, readout) {
  const order = found.edges.map((_, at) => at).sort((a, b) => found.edges[a][3] - found.edges[b][3]);
  return order.map((at) => {
    const [source, target, input, inside] = found.edges[at];
    const text = edgeText(found, at),
      cost = found.cost.get(0, at);
    return el(
      "path",
      {
        class: "edge",
        d: curveBetween(placed, source, target, ROUTES[input], r),
        stroke: ROUTES[input].color(),
        "stroke-width": inside ? 1.5 + 6 * Math.min(1, Math.max(0, cost || 0)) : 1.2,
        "stroke-dasharray": ROUTES[input].dash,
        opacity: inside ? 0.9 : 0.35,
        "data-edge": edgeName(found.edges[at]),
        "data-inside": String(inside),
        pointerenter: () => {
          readout.value = text;
        },
      },
      el("title", {}, text),
    );
  });
}

// A circle in the colour of its head's role, inside a ring as thick as the node's effect; both in words for a reader.
// `update` shows the state at a checkpoint.
function nodeOf(run, circuits, found, name, [x, y], r, lines, readout) {
  const node = found?.nodes.find((node) => node.name === name);
  const kind = node?.kind ?? NODE_IN;
  const head = headOf(name);
  let text = "",
    lit = null;
  const tell = () => {
    readout.value = text;
  };
  const pick = () => {
    tell();
    if (head) choose(isChosen(...head) ? null : head);
  };
  // Its name stays as dark as others.
  const opacity = kind === NODE_FREE ? 0.4 : null;
  const dashed = kind === NODE_IN || kind === NODE_FREE ? null : "4 3";
  const words = lines.name ? (node?.signature?.[0].split(" ") ?? []) : [];
  const named = words.length > 1 ? [words.slice(0, -1).join(" "), words.at(-1)] : words;
  const size = Math.max(8, Math.min(12, r * 0.55));
  const ring = el("circle", { class: "ring", cx: x, cy: y, r, fill: "var(--paper)", "stroke-dasharray": dashed, opacity }); // prettier-ignore
  const disc = el("circle", { class: "role", cx: x, cy: y, r: r - 1, opacity });
  const label = r < LEAST_NAMED ? el("title") : el("text", { x, y }, name === "pos_embed" ? "pos" : name);
  const below = [];
  const host = el(
    "g",
    {
      class: "node",
      tabindex: 0,
      role: "button",
      "data-node": name,
      "data-kind": kind,
      click: pick,
      pointerenter: tell,
      focus: tell,
      keydown: (event) => {
        if (!["Enter", " "].includes(event.key)) return;
        event.preventDefault();
        pick();
      },
    },
    ring,
    disc,
    label,
  );
  const update = (index) => {
    const chosen = head !== null && isChosen(...head);
    const role = head ? roleOf(run, index, ...head) : null;
    const effect = effectAt(run, found, index, name);
    text = nodeText(run, circuits, found, index, name);
    host.classList.toggle("chosen", chosen);
    setChanged(host, "aria-label", text);
    if (head) setChanged(host, "aria-pressed", String(chosen));
    setChanged(host, "data-role", role?.name ?? "");
    setChanged(ring, "stroke-width", String(1.2 + 5 * Math.min(1, r / 12) * Math.min(1, Math.max(0, effect || 0))));
    setChanged(disc, "fill", role ? PALETTE.categories[role.index] : "none");
    setChanged(disc, "fill-opacity", String(role ? 0.06 + 0.94 * Math.max(0, role.share) : 0));
    const light =
      role && role.share > 0.5 && opacity === null
        ? "fill:#fff;paint-order:stroke;stroke:#0008;stroke-width:2px"
        : "";
    if (r < LEAST_NAMED) setText(label, text);
    else if (light !== lit) label.style.cssText = `font-size:${size}px;${(lit = light)}`;
    const written = [...(Number.isFinite(effect) && lines.effect ? [asShare(effect)] : []), ...named];
    const count = Math.min(written.length, Math.max(0, lines.count));
    while (below.length > count) below.pop().remove();
    while (below.length < count) {
      const line = el("text", { class: "level", x, y: y + r + 11 + 12 * below.length });
      below.push(line);
      host.append(line);
    }
    below.forEach((line, i) => setText(line, written[i]));
  };
  return { host, update };
}

function nodeText(run, circuits, found, index, name) {
  const at = found ? found.nodes.findIndex((node) => node.name === name) : -1;
  const said = [];
  let start = name;
  if (at >= 0) {
    const { role, signature } = found.nodes[at];
    if (signature) start += ` (${signature[0]}, ${signature[1]} ${formatted(signature[2] ?? NaN)})`;
    said.push(role, `at step ${found.step} without it ${withInterval(asShare, endsOf(found.effect, at))} of what is known is lost${worseIf(found.effect.get(0, at))} (${inWords(circuits.replacement)})`); // prettier-ignore
    if (found.secondEffect)
      said.push(`${withInterval(asShare, endsOf(found.secondEffect, at))} (${inWords(found.second)})`);
  }
  const effect = effectAt(run, found, index, name);
  if ((at < 0 || found.step !== run.steps[index]) && Number.isFinite(effect))
    said.push(`at step ${run.steps[index]} ${lostInWords(effect)}`);
  const head = headOf(name),
    role = head ? roleOf(run, index, ...head) : null;
  if (role) said.push(`${role.words} (${role.name}, ${formatted(role.share)} of the way from chance to 1)`);
  else if (head) said.push("no attention score above its null band");
  return said.length ? `${start}: ${said.join("; ")}` : start;
}

const lineSample = ({ color, dash }) => {
  const stroke = { stroke: color(), "stroke-width": 3, "stroke-dasharray": dash };
  const sample = el("line", { x1: 0, x2: 30, y1: 4, y2: 4, ...stroke });
  return el("svg", { width: 30, height: 8, "aria-hidden": "true" }, sample);
};
// What lines of a circuit mean.
function routeKeys(run) {
  if (!run.circuits.length) return null;
  const routes = Object.values(ROUTES).map((route) => el("li", {}, lineSample(route), route.words));
  return el("ul", { class: "keys" }, routes);
}

// What colours mean, and the switches of compositions.
function networkKeys(run) {
  const roles = ROLES.filter(([name]) => name in DEFINITIONS).map(([, words]) => {
    const color = PALETTE.categories[ROLES.findIndex((role) => role[1] === words)];
    return el("li", {}, el("i", { style: `background:${color}` }), words);
  });
  const kinds = run.perPair.length ? COMPOSITIONS.map((letter) => [letter, ROUTES[letter]]) : [];
  const switches = kinds.map(([letter, route]) => {
    const input = el("input", {
      type: "checkbox",
      checked: state.kinds.includes(letter),
      "data-shared": route.name,
      "aria-label": `${route.name}-composition`,
      change: (event) => {
        state.kinds = event.target.checked ? state.kinds + letter : state.kinds.replace(letter, "");
        shareState(event.target);
      },
    });
    input.shows = () => state.kinds.includes(letter);
    return el("label", {}, input, route.name);
  });
  const also = switches.length ? el("li", { class: "switches" }, "compositions ", switches) : null;
  return el("ul", { class: "keys" }, roles, also);
}
