// A prompt. A click on a token shows what the network predicts after it, and which components and sources add to that.

let PROMPT; // what the page holds of it
const MOST_BARS = 24;

// The place of a position among those that are drawn; -1 if it is not drawn.
const placeOf = (position) => PROMPT.drawn.indexOf(position);
const shownHead = () => (state.head ? nameOf(state.head) : "all heads");
// On an axis a token stands without its quotes.
const bare = (label) => label.slice(1, -1);

function look(position) {
  state.position = Math.min(PROMPT.tokens.length - 1, Math.max(0, position));
  changed();
}

function chanceText({ token, probability, rank }) {
  return `${token}, probability ${formatted(probability)}, rank ${rank}`;
}

function chipsSection() {
  const readout = el("output", { class: "readout", "aria-live": "polite" });
  const chips = PROMPT.tokens.map((token, position) => {
    const chance = PROMPT.following[position - 1]?.probability;
    const described = chance === undefined ? "" : `probability ${formatted(chance)}`;
    const bar = el("i", { style: `width:${100 * (chance ?? 0)}%;background:${PALETTE.categories[0]}` });
    return el(
      "button",
      { type: "button", class: "chip", title: `position ${position} ${described}`, click: () => look(position) },
      token,
      bar,
    );
  });
  return figure(el("div", {}, el("div", { class: "chips" }, chips), readout), () => {
    chips.forEach((chip, position) => {
      chip.classList.toggle("chosen", position === state.position);
      chip.setAttribute("aria-pressed", String(position === state.position));
    });
    const next = PROMPT.following[state.position];
    readout.value =
      `Position ${state.position} of ${PROMPT.tokens.length - 1}, ${PROMPT.tokens[state.position]}. ` +
      (next ? `Next token: ${chanceText(next)}.` : "It is the last token.");
  });
}

// Bars from the left, or with a sign from the middle; `most` is the length of a whole one.
function barRows(rows, most, signed) {
  return rows.map(({ name, value, strong, spelled }) => {
    const share = (signed ? 50 : 100) * Math.min(1, Math.abs(value) / most);
    const left = !signed ? 0 : value >= 0 ? 50 : 50 - share;
    const color = PALETTE.categories[value >= 0 ? 0 : 1];
    return el(
      "tr",
      {},
      el("th", { scope: "row", class: `${spelled ? "token" : ""} ${strong ? "strong" : ""}` }, name),
      el("td", { class: "number" }, formatted(value)),
      el(
        "td",
        { class: "bar" },
        el(
          "div",
          { class: "track" },
          el("b", { style: `left:${signed ? 50 : 0}%` }),
          el("i", { style: `left:${left}%;width:${share}%;background:${color}` }),
        ),
      ),
    );
  });
}

function barTable(draw) {
  const caption = el("caption", { class: "note", style: "text-align:left" }),
    body = el("tbody");
  return figure(el("table", { class: "bars" }, caption, body), () => {
    const { text, rows, most, signed } = draw();
    caption.textContent = text;
    body.replaceChildren(...barRows(rows, most, signed));
  });
}

function nextSection() {
  return barTable(() => {
    const rows = PROMPT.likeliest[state.position].map(({ token, probability }) => ({
      name: token,
      value: probability,
    }));
    const next = PROMPT.following[state.position];
    if (next && !rows.some(({ name }) => name === next.token))
      rows.push({ name: `${next.token} (rank ${next.rank})`, value: next.probability, strong: true });
    return {
      text: `After position ${state.position}; ${next ? "in bold: the next token of the prompt." : "nothing follows in the prompt."}`,
      rows: rows.map((row) => ({ ...row, spelled: true, strong: row.strong ?? row.name === next?.token })),
      most: 1,
      signed: false,
    };
  });
}

// The largest by size, and what the others add up to.
function largest(rows) {
  const order = [...rows].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const rest = order.slice(MOST_BARS);
  if (!rest.length) return order;
  return [
    ...order.slice(0, MOST_BARS),
    { name: `${rest.length} others`, value: rest.reduce((sum, { value }) => sum + value, 0) },
  ];
}
const longest = (rows) => Math.max(1e-9, ...rows.map(({ value }) => Math.abs(value)));

function componentRows() {
  return largest(
    PROMPT.components.map((name, component) => ({
      name,
      value: PROMPT.outputs.get(component, state.position),
      strong: state.head !== null && name === nameOf(state.head),
    })),
  );
}

// The contribution of each source position through the chosen head, or through all heads.
function sourceRows(place) {
  const heads = state.head
    ? [state.head]
    : Array.from({ length: PROMPT.layers * PROMPT.heads }, (_, i) => [
        Math.floor(i / PROMPT.heads),
        i % PROMPT.heads,
      ]);
  return PROMPT.drawn
    .filter((position) => position <= state.position)
    .map((position, source) => ({
      name: `${position} ${PROMPT.tokens[position]}`,
      value: heads.reduce((sum, head) => sum + PROMPT.sources.get(...head, place, source), 0),
      spelled: true,
      position,
    }));
}

function attributionPanels() {
  const note = PROMPT.leftOut ? el("p", { class: "warn" }, `Left out: ${PROMPT.leftOut}`) : null;
  if (!PROMPT.outputs) return note;
  const title = el("p", { class: "readout" });
  const components = barTable(() => {
    const rows = componentRows();
    const total = rows.reduce((sum, { value }) => sum + value, 0);
    return {
      text: `Logits over the mean; sum ${formatted(total)}.`,
      rows,
      most: longest(rows),
      signed: true,
    };
  });
  const sources = barTable(() => {
    const place = placeOf(state.position);
    if (place < 0) return { text: "The prompt is long, and the page leaves this position out.", rows: [], most: 1 };
    const all = sourceRows(place);
    const most = longest(all);
    const kept = new Set(largest(all).map(({ position }) => position));
    const total = all.reduce((sum, { value }) => sum + value, 0);
    return {
      text: `Contribution of each source position through ${shownHead()}; sum ${formatted(total)}.`,
      rows: all.filter(({ position }) => kept.has(position)),
      most,
      signed: true,
    };
  });
  return el(
    "div",
    {},
    note,
    figure(title, () => {
      title.textContent = `Explained: ${chanceText(PROMPT.explained[state.position])} after position ${state.position}.`;
    }),
    el(
      "div",
      { class: "panels", style: "--least:340px" },
      el("div", {}, el("h3", {}, "By component"), components),
      PROMPT.sources ? el("div", {}, el("h3", {}, "By source token"), sources) : null,
    ),
  );
}

function entryText(layer, head, query, key) {
  const at = (place) => `${PROMPT.drawn[place]} ${PROMPT.tokens[PROMPT.drawn[place]]}`;
  const value = PROMPT.attention.values.get(0, layer, head, 0, query, key);
  let text = `${nameOf([layer, head])}: query ${at(query)} → key ${at(key)}: ${formatted(value)}`;
  if (PROMPT.sources) text += `, and adds ${formatted(PROMPT.sources.get(layer, head, query, key))}`;
  return text;
}

// Frames the row of the chosen position.
function markRow(context, edge, cell) {
  const row = placeOf(state.position);
  if (row < 0) return;
  context.strokeStyle = css("--accent");
  context.lineWidth = 1.5;
  context.strokeRect(edge, edge + row * cell, cell * PROMPT.drawn.length, cell);
}

function smallMap(layer, head, readout) {
  const canvas = el("canvas", { "aria-hidden": "true" });
  const name = nameOf([layer, head]),
    size = PROMPT.drawn.length;
  let edge = 0,
    cell = 1;
  const button = el(
    "button",
    {
      type: "button",
      class: "head",
      "aria-label": `${name}; a press enlarges its attention and shows the contribution of each source`,
      click: () => choose(isChosen(layer, head) ? null : [layer, head]),
      pointermove: (event) => {
        const entry = entryUnder(event, canvas, edge, cell, size);
        if (entry) readout.value = entryText(layer, head, ...entry);
      },
    },
    canvas,
    el("span", {}, name),
  );
  return figure(button, (width) => {
    edge = width < 110 ? 0 : Math.min(40, marginFor(tokensOf(PROMPT), 5));
    const drawn = drawLabelled(canvas, PROMPT, 0, layer, head, width, edge, 5);
    cell = drawn.cell;
    markRow(drawn.context, edge, cell);
    button.classList.toggle("chosen", isChosen(layer, head));
    button.setAttribute("aria-pressed", String(isChosen(layer, head)));
  });
}

function largeMap() {
  const size = PROMPT.drawn.length;
  const canvas = el("canvas", { tabindex: 0, role: "img" });
  const title = el("h3", {}),
    readout = el("output", { class: "readout", "aria-live": "polite" });
  const close = el("button", { type: "button", click: () => choose(null) }, "Close");
  const bar = el("div", { style: "display:flex;justify-content:space-between;gap:8px" }, title, close);
  const host = el("div", { class: "large", hidden: true }, bar, readout, canvas);
  let edge = 0,
    cell = 1,
    entry = [Math.max(0, size - 1), 0];
  const tell = () => {
    readout.value = entryText(...state.head, ...entry);
  };
  canvas.addEventListener("pointermove", (event) => {
    entry = entryUnder(event, canvas, edge, cell, size) ?? entry;
    tell();
  });
  canvas.addEventListener("keydown", (event) => {
    if (moved(event, entry, size)) draw();
  });
  canvas.addEventListener("click", () => look(PROMPT.drawn[entry[0]]));
  function draw() {
    host.hidden = !state.head;
    if (!state.head) return;
    edge = marginFor(tokensOf(PROMPT), 12);
    const room = Math.min(host.clientWidth - 24, Math.max(240, innerHeight - 190));
    const width = edge + size * Math.max(2, Math.min(40, (room - edge) / size));
    const drawn = drawLabelled(canvas, PROMPT, 0, ...state.head, width, edge, 12);
    cell = drawn.cell;
    markRow(drawn.context, edge, cell);
    if (document.activeElement === canvas) outline(drawn.context, entry, edge, cell);
    title.textContent = `${nameOf(state.head)}: rows: queries, columns: keys`;
    canvas.setAttribute("aria-label", `${title.textContent}; arrow keys read single entries`);
    tell();
  }
  canvas.addEventListener("focus", draw);
  canvas.addEventListener("blur", draw);
  return figure(host, draw, true);
}

function mapsSection() {
  const readout = el("output", { class: "readout follows" });
  const layers = Array.from({ length: PROMPT.layers }, (_, layer) => [
    el("h3", {}, `Layer ${layer}`),
    el(
      "div",
      { class: "grid", style: columns(PROMPT, 290) },
      Array.from({ length: PROMPT.heads }, (_, head) => smallMap(layer, head, readout)),
    ),
  ]);
  const cut =
    PROMPT.drawn.length < PROMPT.tokens.length
      ? el(
          "p",
          { class: "note" },
          `${PROMPT.drawn.length} of ${PROMPT.tokens.length} positions are drawn: the first, and those up to position ${PROMPT.drawn.at(-1)}.`,
        )
      : null;
  return el(
    "div",
    {},
    legend((t) => sequential(t * t), "0", "0.25", "1"),
    cut,
    readout,
    largeMap(),
    layers,
  );
}

const PROMPT_SECTIONS = [
  [
    "string",
    "Prompt",
    "The bar below a token is its probability given the tokens before it. A click or the arrow keys choose a position; the figures below explain the prediction after it.",
    chipsSection,
  ],
  ["next", "Next token", null, nextSection],
  [
    "attribution",
    "Direct attribution",
    "What each component adds directly to the logit of the next token (after the last position: of the likeliest token), over the mean of all logits; effects through later layers are not in it. The contribution of a head is split by source token: attention times what the value there adds. Biases, MLPs and the embedding have no source.",
    attributionPanels,
  ],
  [
    "attention",
    "Attention",
    "Rows: queries, columns: keys; a frame marks the chosen position. The colour follows the square root, so that weak attention is visible. A click enlarges a head and shows its contributions alone.",
    mapsSection,
  ],
  [
    "about",
    "About",
    null,
    () =>
      el(
        "dl",
        { class: "about" },
        PROMPT.about.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]),
      ),
  ],
];

async function begin({ palette, prompt }) {
  PALETTE = palette;
  for (const each of document.querySelectorAll("#controls, .skip")) each.remove();
  const page = document.getElementById("page");
  try {
    PROMPT = unpacked({ ...prompt, packed: null }, await inflated(prompt.packed));
  } catch (error) {
    page.append(el("p", { class: "warn" }, `This browser cannot read the page's data (${error.message}).`));
    return;
  }
  // As a run holds what is drawn of it: one sequence.
  const tokens = PROMPT.drawn.map((position) => bare(PROMPT.tokens[position]));
  PROMPT.attention = { values: PROMPT.attention, tokens: [tokens] };
  state.position = PROMPT.position;
  readHash();
  for (const [id, title, text, build] of PROMPT_SECTIONS) {
    page.append(titled(id, title, text, build()));
  }
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.key === "Escape" && state.head) choose(null);
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target.closest("canvas[tabindex]")) return;
    event.preventDefault();
    look(state.position + by);
  });
  makeContents();
  makeTheme();
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      document.body.dataset.ready = String(Math.round(performance.now()));
    }),
  );
}
