// Heads by layer, coloured by what they attend to, and edges for the compositions that have formed.

const KINDS = {
  q_composition: { port: -0.55, dash: "6 4", color: () => PALETTE.categories[5], name: "Q" },
  k_composition: { port: 0, dash: "", color: () => "var(--ink)", name: "K" },
  v_composition: { port: 0.55, dash: "1.5 4", color: () => PALETTE.nothing, name: "V" },
};
// More lines than this cannot be told apart.
const MOST_EDGES = 120;

function roleOf(run, index, layer, head) {
  const role = run.roles ? run.roles.role.get(index, layer, head) : -1;
  return role < 0
    ? null
    : { index: role, words: ROLES[role][1], name: ROLES[role][0], share: run.roles.share.get(index, layer, head) };
}

// The compositions above their bands for good by this checkpoint, strongest first.
function edgesAt(run, index) {
  const found = [];
  for (const score of run.perPair) {
    if (!(score.label in KINDS) || !state.kinds.includes(KINDS[score.label].name.toLowerCase())) continue;
    score.pairs.forEach(([from, to], pair) => {
      if (score.formed.get(pair) <= run.steps[index])
        found.push({ score, pair, from, to, z: score.z.get(index, pair) });
    });
  }
  return found.filter((edge) => edge.z > 0).sort((a, b) => b.z - a.z);
}

function pairText(run, score, pair, index) {
  const [from, to] = score.pairs[pair].map((at) => [Math.floor(at / run.heads), at % run.heads]);
  const formed = score.formed.get(pair);
  let text = `${nameOf(from)} → ${nameOf(to)}: ${score.label} ${formatted(score.values.get(index, pair))}`;
  if (score.ceiling) text += ` of at most ${formatted(score.ceiling.get(index, pair))}`;
  if (score.null) text += `, null ${formatted(score.null.get(index, from[0], to[0]))}`;
  if (score.z) text += `, z ${formatted(score.z.get(index, pair))}`;
  return (
    text + (Number.isNaN(formed) ? "; not above its band at the end" : `; above its band from step ${formed} on`)
  );
}

function diagramSection(run) {
  if (!run.steps.length) return missing(run, "previous_token");
  const host = el("figure", { class: "scroll" });
  const readout = el("output", { class: "readout follows" });
  const zs = RUNS.flatMap((each) =>
    each.perPair.filter((score) => score.label in KINDS && score.z).map((score) => score.z.range[1]),
  );
  const most = Math.max(1, ...finite(zs));
  figure(host, (room) => {
    const index = indexOf(run);
    const width = Math.max(room, run.heads * 38 + 40),
      gap = run.layers > 4 ? 84 : 116;
    const height = run.layers * gap;
    const r = Math.min(24, ((width - 40) / run.heads) * 0.4, gap * 0.28);
    const x = (head) => 40 + ((head + 0.5) * (width - 48)) / run.heads;
    const y = (layer) => height - (layer + 0.5) * gap;
    const svg = el("svg", { width, height, role: "group" });
    const edges = edgesAt(run, index);
    const chosen = state.head && state.head[0] < run.layers && state.head[1] < run.heads ? state.head : null;
    for (let layer = 0; layer < run.layers; layer++)
      svg.append(el("text", { x: 0, y: y(layer) + 4 }, `layer ${layer}`));
    for (const { score, pair, from, to, z } of edges.slice(0, MOST_EDGES).reverse()) {
      const kind = KINDS[score.label];
      const [x1, y1] = [x(from % run.heads), y(Math.floor(from / run.heads)) - r];
      const [x2, y2] = [
        x(to % run.heads) + kind.port * r,
        y(Math.floor(to / run.heads)) + r * (1 - 0.3 * Math.abs(kind.port)),
      ];
      const bend = (y1 - y2) * 0.45;
      const text = pairText(run, score, pair, index);
      const near = !chosen || [from, to].includes(chosen[0] * run.heads + chosen[1]);
      svg.append(
        el(
          "path",
          {
            class: "edge",
            d: `M${x1} ${y1}C${x1} ${y1 - bend} ${x2} ${y2 + bend} ${x2} ${y2}`,
            stroke: kind.color(),
            "stroke-width": 1.5 + (7 * z) / most,
            "stroke-dasharray": kind.dash,
            opacity: near ? 0.85 : 0.2,
            "data-kind": kind.name,
            pointerenter: () => {
              readout.value = text;
            },
          },
          el("title", {}, text),
        ),
      );
    }
    for (let layer = 0; layer < run.layers; layer++) {
      for (let head = 0; head < run.heads; head++) {
        const role = roleOf(run, index, layer, head);
        const text = role
          ? `${nameOf([layer, head])}: ${role.words} (${role.name}, ${formatted(role.share)} of the way from chance to 1)`
          : `${nameOf([layer, head])}: no attention score above its null band`;
        const node = el(
          "g",
          {
            class: `node${isChosen(layer, head) ? " chosen" : ""}`,
            tabindex: 0,
            role: "button",
            "aria-label": text,
            "aria-pressed": String(isChosen(layer, head)),
            "data-role": role?.name ?? "",
            "data-head": nameOf([layer, head]),
            click: () => choose(isChosen(layer, head) ? null : [layer, head]),
            pointerenter: () => {
              readout.value = text;
            },
            focus: () => {
              readout.value = text;
            },
            keydown: (event) => {
              if (["Enter", " "].includes(event.key)) {
                event.preventDefault();
                choose(isChosen(layer, head) ? null : [layer, head]);
              }
            },
          },
          el("circle", { cx: x(head), cy: y(layer), r, fill: "var(--paper)" }),
          el("circle", {
            cx: x(head),
            cy: y(layer),
            r,
            fill: role ? PALETTE.categories[role.index] : "none",
            "fill-opacity": role ? 0.06 + 0.94 * Math.max(0, role.share) : 0,
          }),
          el(
            "text",
            {
              x: x(head),
              y: y(layer),
              style: `font-size:${Math.max(8, r * 0.55)}px;${role && role.share > 0.5 ? "fill:#fff;paint-order:stroke;stroke:#0008;stroke-width:2px" : ""}`,
            },
            nameOf([layer, head]),
          ),
        );
        svg.append(node);
      }
    }
    const described =
      edges.length > MOST_EDGES
        ? `the ${MOST_EDGES} strongest of ${edges.length} compositions`
        : `${edges.length} compositions`;
    svg.setAttribute("aria-label", `Circuit diagram at step ${run.steps[index]}: ${described}`);
    const focused = host.contains(document.activeElement) ? document.activeElement.dataset.head : null;
    host.replaceChildren(svg);
    readout.value = `Step ${run.steps[index]}: ${described} above their null bands`;
    // The focus stays on its head, whose role at this step is read aloud.
    if (focused) svg.querySelector(`[data-head="${focused}"]`).focus({ preventScroll: true });
  });
  const roles = ROLES.filter(([name]) => name in DEFINITIONS);
  return el(
    "div",
    {},
    el(
      "ul",
      { class: "keys" },
      roles.map(([, words], i) =>
        el(
          "li",
          {},
          el("i", { style: `background:${PALETTE.categories[ROLES.findIndex((role) => role[1] === words)]}` }),
          words,
        ),
      ),
    ),
    el(
      "ul",
      { class: "keys" },
      Object.values(KINDS).map((kind) =>
        el(
          "li",
          {},
          el(
            "label",
            {},
            el("input", {
              type: "checkbox",
              checked: state.kinds.includes(kind.name.toLowerCase()),
              "data-shared": kind.name,
              change: (event) => {
                const letter = kind.name.toLowerCase();
                state.kinds = event.target.checked ? state.kinds + letter : state.kinds.replace(letter, "");
                shareState(event.target);
              },
            }),
            ` ${kind.name}-composition `,
            el(
              "svg",
              { width: 30, height: 8, "aria-hidden": "true" },
              el("line", {
                x1: 0,
                x2: 30,
                y1: 4,
                y2: 4,
                stroke: kind.color(),
                "stroke-width": 3,
                "stroke-dasharray": kind.dash,
              }),
            ),
          ),
        ),
      ),
    ),
    readout,
    host,
  );
}
