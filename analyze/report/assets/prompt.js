// A prompt. A click on a token shows what the network predicts after it, and which components and sources add to that.

let PROMPT; // what the page holds of it, as a run with one sequence
const MOST_BARS = 24;

// The place of a position among those that are drawn; -1 if it is not drawn.
const placeOf = (position) => PROMPT.drawn.indexOf(position);
const shownHead = () => (state.head ? nameOf(state.head) : "all heads");
// On an axis a token stands without its quotes.
const bare = (label) => label.slice(1, -1);

// What the network predicts at the checkpoint of the slider.
const predicted = () => PROMPT.predictions[indexOf(PROMPT)];

function look(position) {
  state.position = within(position);
  writeHash();
  changed();
}
const within = (position) => Math.min(PROMPT.tokens.length - 1, Math.max(0, position));

// In nats; infinite where a probability is too small for its digits.
const lossAt = (position) => -Math.log(predicted().following[position].probability);
function meanLoss() {
  const losses = predicted().following.map((_, position) => lossAt(position));
  return losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
}

function chanceText({ token, probability, rank }) {
  return `${token}, probability ${formatted(probability)}, rank ${rank}`;
}

function chipsSection() {
  const readout = el("output", { class: "readout", "aria-live": "polite" });
  const chips = PROMPT.tokens.map((token, position) =>
    el("button", { type: "button", class: "chip", click: () => look(position) }, token, el("i", {})),
  );
  const host = el("div", { class: "downloadable" }, el("div", { class: "chips" }, chips), readout);
  host.prepend(downloads("Prompt", () => "prompt", host, predictionNumbers));
  return figure(host, () => {
    const { following } = predicted();
    chips.forEach((chip, position) => {
      const chance = following[position - 1]?.probability;
      chip.lastChild.style.cssText = `width:${100 * (chance ?? 0)}%;background:${PALETTE.categories[0]}`;
      chip.title = `position ${position}${chance === undefined ? "" : `, probability ${formatted(chance)}, loss ${formatted(lossAt(position - 1))}`}`;
      chip.classList.toggle("chosen", position === state.position);
      chip.setAttribute("aria-pressed", String(position === state.position));
    });
    const next = following[state.position];
    readout.value =
      `Position ${state.position} of ${PROMPT.tokens.length - 1}, ${PROMPT.tokens[state.position]}. ` +
      (next
        ? `Next token: ${chanceText(next)}, loss ${formatted(lossAt(state.position))} nats. `
        : "It is the last token. ") +
      (following.length ? `Mean loss of the prompt ${formatted(meanLoss())} nats.` : "");
  });
}

// At every checkpoint and position: the next token with its probability, rank and loss.
function predictionNumbers() {
  const steps = PROMPT.steps.length ? PROMPT.steps : [null];
  const rows = steps.flatMap((step, at) =>
    PROMPT.predictions[at].following.map(({ token, probability, rank }, position) => [
      step,
      position,
      PROMPT.tokens[position],
      token,
      probability,
      rank,
      -Math.log(probability),
    ]),
  );
  return { columns: ["step", "position", "token", "next token", "probability", "rank", "loss [nats]"], rows };
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

// Bars with their menu; `what` is what a bar is, `quantity` is as long as it is.
function barTable(title, what, quantity, draw) {
  const caption = el("caption", { class: "note", style: "text-align:left" }),
    body = el("tbody");
  const table = figure(el("table", { class: "bars" }, caption, body), () => {
    const { text, rows, most, signed } = draw();
    caption.textContent = text;
    body.replaceChildren(...barRows(rows, most, signed));
  });
  const host = el("div", { class: "downloadable" }, table);
  const numbers = () => ({ columns: ["position", what, quantity], rows: draw().rows.map(({ name, value }) => [state.position, name, value]) }); // prettier-ignore
  host.prepend(downloads(title, () => `${title}-position-${state.position}`, host, numbers));
  return host;
}

function nextSection() {
  return barTable("Next token", "token", "probability", () => {
    const rows = predicted().likeliest[state.position].map(({ token, probability }) => ({
      name: token,
      value: probability,
    }));
    const next = predicted().following[state.position];
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
      value: PROMPT.outputs.get(indexOf(PROMPT), component, state.position),
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
      value: heads.reduce((sum, head) => sum + PROMPT.sources.get(indexOf(PROMPT), ...head, place, source), 0),
      spelled: true,
      position,
    }));
}

function attributionPanels() {
  const note = PROMPT.leftOut ? el("p", { class: "warn" }, `Left out: ${PROMPT.leftOut}`) : null;
  if (!PROMPT.outputs) return note;
  const title = el("p", { class: "readout" });
  const components = barTable("By component", "component", "logit over the mean", () => {
    const rows = componentRows();
    const total = rows.reduce((sum, { value }) => sum + value, 0);
    return {
      text: `Logits over the mean; sum ${formatted(total)}.`,
      rows,
      most: longest(rows),
      signed: true,
    };
  });
  const sources = barTable("By source token", "source", "logit over the mean", () => {
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
      title.textContent = `Explained: ${chanceText(predicted().explained[state.position])} after position ${state.position}.`;
    }),
    el(
      "div",
      { class: "panels", style: "--least:460px" },
      el("div", {}, el("h3", {}, "By component"), components),
      PROMPT.sources ? el("div", {}, el("h3", {}, "By source token"), sources) : null,
    ),
  );
}

function entryText(layer, head, query, key) {
  const at = (place) => `${PROMPT.drawn[place]} ${PROMPT.tokens[PROMPT.drawn[place]]}`;
  const index = indexOf(PROMPT),
    value = PROMPT.attention.values.get(index, layer, head, 0, query, key);
  let text = `${nameOf([layer, head])}: query ${at(query)} → key ${at(key)}: ${formattedShare(value)}`;
  if (PROMPT.sources) text += `, and adds ${formatted(PROMPT.sources.get(index, layer, head, query, key))}`;
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

function mapsSection() {
  const cut =
    PROMPT.drawn.length < PROMPT.tokens.length
      ? el(
          "p",
          { class: "note" },
          `${PROMPT.drawn.length} of ${PROMPT.tokens.length} positions are drawn: the first, and those up to position ${PROMPT.drawn.at(-1)}.`,
        )
      : null;
  const pick = (row) => look(PROMPT.drawn[row]);
  return mapsOf(PROMPT, {
    describe: entryText,
    mark: markRow,
    pick,
    numbers: promptAttention,
    note: cut,
    chosen: () => placeOf(state.position),
  });
}

function promptAttention() {
  const index = indexOf(PROMPT),
    positions = counted(PROMPT.drawn.length);
  const place = (at) => [PROMPT.drawn[at], PROMPT.tokens[PROMPT.drawn[at]]];
  const rows = allHeads(PROMPT).flatMap(([layer, head]) =>
    positions.flatMap(
      (query) =>
      positions
        .filter((key) => key <= query)
        .map((key) => [PROMPT.steps[index], layer, head, ...place(query), ...place(key), shareOfFile(PROMPT.attention.values.get(index, layer, head, 0, query, key))]), // prettier-ignore
    ),
  );
  const columns = [
    "step",
    "layer",
    "head",
    "query position",
    "query token",
    "key position",
    "key token",
    SHARE_COLUMN,
  ];
  return { columns, rows };
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
  const page = document.getElementById("page");
  try {
    PROMPT = unpacked({ ...prompt, packed: null }, await inflated(prompt.packed));
  } catch (error) {
    page.append(el("p", { class: "warn" }, `This browser cannot read the page's data (${error.message}).`));
    return;
  }
  const tokens = PROMPT.drawn.map((position) => bare(PROMPT.tokens[position]));
  PROMPT.attention = { values: PROMPT.attention, tokens: [tokens] };
  RUNS = [PROMPT];
  makePlaces();
  readPrompt();
  for (const [id, title, text, build] of PROMPT_SECTIONS) {
    page.append(titled(id, title, text, build()));
  }
  if (PROMPT.steps.length > 1) {
    besidePlace = () => (PROMPT.tokens.length > 1 ? ` · mean loss ${formatted(meanLoss())}` : "");
    makeControls(onPromptKey);
    if (PROMPT.fewer) document.getElementById("string").append(el("p", { class: "note" }, PROMPT.fewer));
  } else {
    for (const each of document.querySelectorAll("#controls, .skip")) each.remove();
    document.addEventListener("keydown", onPromptKey);
  }
  addEventListener("hashchange", () => {
    readPrompt();
    changed();
  });
  makeContents();
  makeShare();
  makeTheme();
  if (PROMPT.steps.length > 1) goToPlace();
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      document.body.dataset.ready = String(Math.round(performance.now()));
    }),
  );
}

// A page without a place in its address opens at the checkpoint and the position that it was asked for.
function readPrompt() {
  readHash();
  if (state.step === Infinity && !location.hash.includes("step=")) state.step = PROMPT.opened ?? Infinity;
  state.position = within(state.position ?? PROMPT.position);
}

// Arrow keys choose a position, and move the slider where that has the focus.
function onPromptKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.key === "Escape" && state.head) choose(null);
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const inside = event.target.closest('canvas[tabindex], select, input[type="text"]');
  if (!by && event.key === "p" && PROMPT.steps.length > 1 && !inside) play();
  if (!by || inside || event.target.id === "slider") return;
  event.preventDefault();
  look(state.position + by);
}
