// Attention of all heads on sequences that somebody has given: small patterns, and one large.

// `describe(layer, head, query, key)` says an entry, `mark(context, edge, cell)` draws over a pattern, `pick(query)` is
// called for a row that is clicked, `numbers()` are what the menu saves, and `chosen()` is the row that is read at first.
function mapsOf(run, { describe, mark = () => {}, pick = () => {}, numbers, note = null, chosen = () => Infinity }) {
  const readout = el("output", { class: "readout follows" }),
    large = largeMap(run, describe, mark, pick, chosen);
  // The large one stands above, where a press on a head far below would leave it unseen.
  const enlarge = (head) => {
    choose(isChosen(...head) ? null : head);
    requestAnimationFrame(() => {
      const { top, bottom } = large.getBoundingClientRect();
      if (top < 0 || bottom > innerHeight) large.scrollIntoView();
    });
  };
  const layers = Array.from({ length: run.layers }, (_, layer) => [
    el("h3", {}, `Layer ${layer}`),
    el(
      "div",
      { class: "grid", style: columns(run, 290) },
      Array.from({ length: run.heads }, (_, head) => smallMap(run, layer, head, readout, describe, mark, enlarge)),
    ),
  ]);
  const host = el(
    "div",
    { class: "downloadable" },
    legend((t) => sequential(t * t), "0", "0.25", "1"),
    note,
    readout,
    large,
    layers,
  );
  host.prepend(downloads("Attention of all heads", () => "attention", host, numbers));
  return host;
}

function smallMap(run, layer, head, readout, describe, mark, enlarge) {
  const canvas = el("canvas", { "aria-hidden": "true" });
  const name = nameOf([layer, head]);
  let edge = 0,
    cell = 1;
  const button = el(
    "button",
    {
      type: "button",
      class: "head",
      "aria-label": `${name}; a press enlarges its attention`,
      click: () => enlarge([layer, head]),
      pointermove: (event) => {
        const entry = entryUnder(event, canvas, edge, cell, tokensOf(run).length);
        if (entry) readout.value = describe(layer, head, ...entry);
      },
    },
    canvas,
    el("span", {}, name),
  );
  return figure(button, (width) => {
    edge = width < 110 ? 0 : Math.min(40, marginFor(tokensOf(run), 5));
    const drawn = drawLabelled(canvas, run, indexOf(run), layer, head, width, edge, 5);
    cell = drawn.cell;
    mark(drawn.context, edge, cell);
    button.classList.toggle("chosen", isChosen(layer, head));
    button.setAttribute("aria-pressed", String(isChosen(layer, head)));
  });
}

function largeMap(run, describe, mark, pick, chosen) {
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": "one attention pattern" });
  const title = el("h3", {}),
    readout = el("output", { class: "readout", "aria-live": "polite" });
  const close = el("button", { type: "button", click: () => choose(null) }, "Close");
  const bar = el(
    "div",
    { style: "display:flex;justify-content:space-between;align-items:center;gap:8px" },
    title,
    close,
  );
  const host = el("div", { class: "large", hidden: true }, bar, readout, canvas);
  let edge = 0,
    cell = 1,
    row = null,
    entry = [0, 0];
  const tell = () => {
    readout.value = describe(...state.head, ...entry);
  };
  const find = (event) => {
    entry = entryUnder(event, canvas, edge, cell, tokensOf(run).length) ?? entry;
    tell();
  };
  canvas.addEventListener("pointermove", find);
  canvas.addEventListener("keydown", (event) => {
    if (moved(event, entry, tokensOf(run).length)) draw();
  });
  canvas.addEventListener("click", () => pick(entry[0]));
  function draw() {
    host.hidden = !state.head;
    if (!state.head) return;
    const size = tokensOf(run).length;
    if (row !== chosen()) {
      row = chosen();
      entry = [Math.max(0, row), 0];
    }
    entry = entry.map((at) => Math.min(at, size - 1));
    edge = marginFor(tokensOf(run), 12);
    const room = Math.min(host.clientWidth - 24, Math.max(240, innerHeight - 190));
    const width = edge + size * Math.max(2, Math.min(40, (room - edge) / size));
    const drawn = drawLabelled(canvas, run, indexOf(run), ...state.head, width, edge, 12);
    cell = drawn.cell;
    mark(drawn.context, edge, cell);
    if (document.activeElement === canvas) outline(drawn.context, entry, edge, cell);
    title.textContent = `${nameOf(state.head)}: rows: queries, columns: keys`;
    canvas.setAttribute("aria-label", `${title.textContent}; arrow keys read single entries`);
    tell();
  }
  canvas.addEventListener("focus", draw);
  canvas.addEventListener("blur", draw);
  return figure(host, draw, () => true);
}
