// Attention patterns of every head; a click shows one large, with its tokens.

function tokensOf(run) {
  return run.attention.tokens[Math.min(state.sequence, run.attention.tokens.length - 1)];
}

function patternText(run, index, layer, head, query, key) {
  const tokens = tokensOf(run),
    sequence = Math.min(state.sequence, run.attention.tokens.length - 1);
  const value = run.attention.values.get(index, layer, head, sequence, query, key);
  const entry = `query ${query} “${tokens[query]}” → key ${key} “${tokens[key]}”`;
  return `Step ${run.steps[index]}, ${nameOf([layer, head])}: ${entry}: ${formatted(value)}`;
}

// One pixel an entry; whether any is a number.
function drawPattern(canvas, run, index, layer, head) {
  const size = run.attention.values.shape[4],
    sequence = Math.min(state.sequence, run.attention.tokens.length - 1);
  const stored = run.attention.values.rest(index, layer, head, sequence),
    colors = sharePixels();
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d"),
    image = context.createImageData(size, size);
  new Uint32Array(image.data.buffer).set(Uint32Array.from(stored, (share) => colors[share]));
  context.putImageData(image, 0, 0);
  return stored.some((share) => share !== 255);
}

// Draws a pattern with its tokens along both axes: every one where there is room, every second or third where not.
// Gives what the pointer needs to find an entry: the width of the margin and of a cell.
function drawLabelled(canvas, run, index, layer, head, width, edge, longest) {
  const tokens = tokensOf(run),
    size = tokens.length,
    cell = (width - edge) / size;
  canvas.style.width = canvas.style.height = `${width}px`;
  const context = fresh(canvas, width, width);
  const known = drawPattern(scratch, run, index, layer, head);
  context.imageSmoothingEnabled = false;
  context.drawImage(scratch, edge, edge, cell * size, cell * size);
  context.strokeStyle = css("--line");
  context.strokeRect(edge, edge, cell * size, cell * size);
  if (edge) {
    context.fillStyle = css("--soft");
    context.textBaseline = "middle";
    const every = Math.ceil(11 / cell);
    tokens.forEach((token, place) => {
      if (place % every) return;
      const text = shortened(token, longest);
      const middle = edge + (place + 0.5) * cell;
      context.textAlign = "right";
      context.fillText(text, edge - 3, middle);
      context.save();
      context.translate(middle, edge - 3);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(text, 0, 0);
      context.restore();
    });
  }
  return { context, known, cell };
}
const scratch = document.createElement("canvas");
// By what a reader takes for letters, of which an emoji is one.
function shortened(text, longest) {
  const letters = [...text];
  return letters.length > longest ? `${letters.slice(0, longest - 1).join("")}…` : text;
}
// What names take beside a matrix.
function marginFor(names, longest) {
  const context = fresh(scratch, 1, 1);
  return 8 + Math.max(...names.map((name) => context.measureText(shortened(name, longest)).width));
}

// Which entry lies under the pointer, or null.
function entryUnder(event, canvas, edge, cell, size) {
  const box = canvas.getBoundingClientRect();
  const place = [(event.clientY - box.top - edge) / cell, (event.clientX - box.left - edge) / cell].map(Math.floor);
  return place.every((at) => at >= 0 && at < size) ? place : null;
}

function attentionSection(run) {
  if (!run.attention) return missing(run, "attention");
  const size = run.attention.values.shape[4];
  const readout = el("output", { class: "readout follows" });
  // What the pointer was last on, shown again when the slider moves.
  const hovered = { entry: null };
  figure(readout, () => {
    if (hovered.entry) readout.value = patternText(run, indexOf(run), ...hovered.entry);
  });
  const large = largePattern(run),
    layers = [];
  for (let layer = 0; layer < run.layers; layer++) {
    const cells = Array.from({ length: run.heads }, (_, head) =>
      smallPattern(run, layer, head, readout, hovered, large),
    );
    layers.push(el("h3", {}, `Layer ${layer}`), el("div", { class: "grid", style: columns(run, 290) }, cells));
  }
  const cut =
    size < run.attention.positions
      ? el("p", { class: "note" }, `The first ${size} of ${run.attention.positions} positions.`)
      : null;
  return downloadable(
    run,
    "Attention of all heads",
    "attention",
    attentionNumbers,
    legend((t) => sequential(t * t), "0", "0.25", "1"),
    cut,
    readout,
    large,
    layers,
  );
}

function smallPattern(run, layer, head, readout, hovered, large) {
  const canvas = el("canvas", { "aria-hidden": "true" }),
    below = el("span", {}, nameOf([layer, head]));
  let edge = 0,
    cell = 1;
  const button = el(
    "button",
    {
      type: "button",
      class: "head",
      click: (event) => {
        const same = state.large && isChosen(layer, head);
        state.large = !same;
        choose([layer, head]);
        if (same) return;
        requestAnimationFrame(() =>
          requestAnimationFrame(() => {
            large.scrollIntoView({ block: "nearest" });
            // By the keyboard one goes on in the pattern, and Escape leads back.
            if (!event.detail) large.querySelector("canvas").focus({ preventScroll: true });
          }),
        );
      },
      pointermove: (event) => {
        const entry = entryUnder(event, canvas, edge, cell, tokensOf(run).length);
        if (!entry) return;
        hovered.entry = [layer, head, ...entry];
        readout.value = patternText(run, indexOf(run), ...hovered.entry);
      },
    },
    canvas,
    below,
  );
  return figure(button, (width) => {
    const index = indexOf(run),
      role = roleOf(run, index, layer, head);
    edge = width < 110 ? 0 : Math.min(34, marginFor(tokensOf(run), 4));
    const drawn = drawLabelled(canvas, run, index, layer, head, width, edge, 4);
    cell = drawn.cell;
    const words = !drawn.known ? "attention is NaN" : role ? `${formatted(role.share)} ${role.words}` : "no role";
    const narrow = run.heads > 8;
    const short = narrow ? formatted(role?.share ?? NaN, 2) : words;
    below.replaceChildren(
      el("i", { style: `background:${role ? PALETTE.categories[role.index] : "none"}` }),
      `${nameOf([layer, head])}: ${short}`,
    );
    button.classList.toggle("chosen", isChosen(layer, head));
    // What is read aloud begins with what is seen.
    button.setAttribute(
      "aria-label",
      `${below.textContent}${narrow ? `: ${words}` : ""}; attention pattern at step ${run.steps[index]}; a press enlarges it`,
    );
  });
}

// Where a run has closed its large pattern, its head stays chosen and gets the focus.
function closeLarge() {
  state.large = false;
  choose(state.head);
  const small = [...document.querySelectorAll("#attention button.chosen")];
  requestAnimationFrame(() => small[0]?.focus({ preventScroll: true }));
}

function largePattern(run) {
  const size = run.attention.values.shape[4];
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": "one attention pattern" });
  const title = el("h3", {}),
    readout = el("output", { class: "readout", "aria-live": "polite" });
  const close = el(
    "button",
    {
      type: "button",
      click: closeLarge,
    },
    "Close",
  );
  const host = el(
    "div",
    { class: "large", hidden: true },
    el("div", { style: "display:flex;justify-content:space-between;gap:8px" }, title, close),
    readout,
    canvas,
  );
  const name = () => `${run.name}-attention-${nameOf(state.head)}-step-${run.steps[indexOf(run)]}`;
  close.before(downloads("Attention of one head", name, host, () => attentionNumbers(run, [state.head])));
  let cell = 1,
    edge = 0,
    at = [Math.min(1, size - 1), 0];
  const tell = () => {
    if (state.head) readout.value = patternText(run, indexOf(run), ...state.head, ...at);
  };
  canvas.addEventListener("pointermove", (event) => {
    const entry = entryUnder(event, canvas, edge, cell, size);
    if (entry) {
      at = entry;
      tell();
    }
  });
  canvas.addEventListener("keydown", (event) => {
    if (moved(event, at, size)) {
      tell();
      draw();
    }
  });
  function draw() {
    const shown = state.large && state.head && state.head[0] < run.layers && state.head[1] < run.heads;
    host.hidden = !shown;
    if (!shown) return;
    const index = indexOf(run),
      [layer, head] = state.head;
    edge = marginFor(tokensOf(run), 9);
    // As large as it can be seen at once, between the title and the slider.
    const room = Math.min(host.clientWidth - 24, Math.max(240, innerHeight - 190));
    const width = edge + size * Math.max(2, Math.min(18, (room - edge) / size));
    const drawn = drawLabelled(canvas, run, index, layer, head, width, edge, 9);
    cell = drawn.cell;
    if (document.activeElement === canvas) outline(drawn.context, at, edge, cell);
    title.textContent = `${nameOf(state.head)} at step ${run.steps[index]}: rows: queries, columns: keys`;
    canvas.setAttribute(
      "aria-label",
      `${title.textContent}; ${drawn.known ? "arrow keys read single entries" : "its attention is NaN"}`,
    );
    if (drawn.known) tell();
    else readout.value = "Its attention is NaN.";
  }
  canvas.addEventListener("focus", draw);
  canvas.addEventListener("blur", draw);
  return figure(host, draw, true);
}
