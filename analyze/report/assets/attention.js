// Attention patterns: every head small, and the one that is chosen large with its tokens.

function tokensOf(run) {
  return run.attention.tokens[Math.min(state.sequence, run.attention.tokens.length - 1)];
}

function patternText(run, index, layer, head, query, key) {
  const tokens = tokensOf(run),
    sequence = Math.min(state.sequence, run.attention.tokens.length - 1);
  const value = run.attention.values.get(index, layer, head, sequence, query, key);
  const entry = `query ${query} “${tokens[query]}” → key ${key} “${tokens[key]}”`;
  return `Step ${run.steps[index]}, ${nameOf([layer, head])}: ${entry}: ${formattedShare(value)}`;
}

// One pixel an entry; whether any is a number.
function drawPattern(canvas, run, index, layer, head) {
  const size = run.attention.values.shape[4],
    sequence = Math.min(state.sequence, run.attention.tokens.length - 1);
  const stored = run.attention.values.rest(index, layer, head, sequence),
    colors = sharePixels();
  let known = false;
  drawPixels(canvas, size, size, (drawn) => {
    for (let at = 0; at < stored.length; at++) {
      drawn[at] = colors[stored[at]];
      known ||= stored[at] !== 255;
    }
  });
  return known;
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
// What names take beside a matrix; those of one list are measured once.
const ruler = document.createElement("canvas").getContext("2d");
const margins = new Map();
function marginFor(names, longest) {
  const key = `${longest} ${names.join("\n")}`;
  if (!margins.has(key)) {
    ruler.font = FONT;
    margins.set(key, 8 + Math.max(...names.map((name) => ruler.measureText(shortened(name, longest)).width)));
  }
  return margins.get(key);
}

// Which entry lies under the pointer, or null.
function entryUnder(event, canvas, edge, cell, size) {
  const box = canvas.getBoundingClientRect();
  const place = [(event.clientY - box.top - edge) / cell, (event.clientX - box.left - edge) / cell].map(Math.floor);
  return place.every((at) => at >= 0 && at < size) ? place : null;
}

function attentionPanel(run) {
  if (!run.attention) {
    return el(
      "div",
      { class: "attention" },
      heading("h3", "Attention"),
      headCard(run, []),
      missing(run, "attention"),
    );
  }
  const size = run.attention.values.shape[4];
  const cut = size < run.attention.positions ? ` The first ${size} of ${run.attention.positions} positions.` : "";
  const host = downloadable(
    run,
    "Attention of all heads",
    "attention",
    attentionNumbers,
    el(
      "div",
      { class: "title" },
      heading(
        "h3",
        "Attention of every head",
        "Rows: queries, columns: keys. The colour follows the square root, so that weak attention is visible. " +
          "The dot before a name has the colour of the head's role. " +
          `A click on a head chooses it everywhere and shows it large.${cut}`,
      ),
      legend((t) => sequential(t * t), "0", "0.25", "1"),
    ),
    smallPatterns(run),
    largePattern(run),
  );
  host.classList.add("attention");
  return host;
}

// Tiles of heads are at most so wide; from LABELLED on their names stand below them.
const MOST_TILE = 150,
  LABELLED = 46,
  BESIDE_LAYER = 30,
  AROUND_TILE = 8;
// How many layers stand side by side, and how wide tiles are: as wide as fits into a width and a height.
function tileLayout(run, width, height) {
  let best = { side: 0 };
  for (let across = 1; across <= run.layers; across++) {
    const rows = Math.ceil(run.layers / across);
    const wide = (width - across * BESIDE_LAYER) / (across * run.heads) - AROUND_TILE;
    const high = height / rows - AROUND_TILE;
    const side = Math.floor(Math.min(wide, high - 18 >= LABELLED ? high - 18 : high, MOST_TILE));
    if (side > best.side) best = { side, across };
  }
  return { across: 1, ...best, side: Math.max(8, best.side) };
}

function smallPatterns(run) {
  const cells = allHeads(run).map(([layer, head]) => {
    const canvas = el("canvas", { "aria-hidden": "true" }),
      label = el("span", {});
    const button = el(
      "button",
      {
        type: "button",
        class: "head",
        "data-head": nameOf([layer, head]),
        click: () => choose(isChosen(layer, head) ? null : [layer, head]),
      },
      canvas,
      label,
    );
    return { layer, head, canvas, label, button };
  });
  const layers = Array.from({ length: run.layers }, (_, layer) =>
    el(
      "div",
      { class: "layer", role: "group", "aria-label": `Layer ${layer}` },
      el("span", { "aria-hidden": "true" }, `L${layer}`),
      cells.filter((cell) => cell.layer === layer).map(({ button }) => button),
    ),
  );
  const host = el("div", { class: "tiles" }, layers);
  let laidOut = "";
  tryPanels.add(host);
  return figure(host, (width) => {
    const index = indexOf(run);
    const key = `${width} ${firstRoom(run)}`;
    if (key !== laidOut) {
      const { side, across } = tileLayout(run, width, isWide(run) ? 0.3 * firstRoom(run) : Infinity);
      host.style.cssText = `--side:${side}px;--across:${across};--heads:${run.heads}`;
      host.classList.toggle("unlabelled", side < LABELLED);
      laidOut = key;
    }
    for (const cell of cells) {
      const { layer, head, canvas, label, button } = cell;
      const role = roleOf(run, index, layer, head),
        name = nameOf([layer, head]);
      const known = drawPattern(canvas, run, index, layer, head);
      const off = state.off.has(name);
      const text = `${name}${known ? "" : ": NaN"}${off ? " off" : ""}`;
      setText(label, text);
      const color = role ? PALETTE.categories[role.index] : "transparent";
      if (cell.color !== color) label.style.setProperty("--role", (cell.color = color));
      button.classList.toggle("chosen", isChosen(layer, head));
      button.classList.toggle("off", off);
      const words = !known ? "attention is NaN" : role ? `${formatted(role.share)} ${role.words}` : "no role";
      setChanged(button, "aria-label", `${name}: ${words}; its attention pattern`);
      setChanged(button, "aria-pressed", String(isChosen(layer, head)));
    }
  });
}

// The head that is shown large: the one that is chosen, or else the one that leads at the end.
function headShown(run) {
  if (state.head && state.head[0] < run.layers && state.head[1] < run.heads) return state.head;
  run.leading ??= leadingHead(run);
  return run.leading.head;
}
// The head with the largest effect; without effects the one that is furthest in a role.
function leadingHead(run) {
  const last = run.steps.length - 1;
  const by = [
    ["at the end most is lost without it", (head) => run.effects?.heads.get(last, ...head)],
    ["it is furthest in its role at the end", (head) => roleOf(run, last, ...head)?.share],
    ["it is the first", () => 0],
  ];
  for (const [why, weight] of by) {
    const known = allHeads(run).filter((head) => Number.isFinite(weight(head)));
    if (known.length) return { head: known.reduce((best, head) => (weight(head) > weight(best) ? head : best)), why };
  }
  return { head: [0, 0], why: "" };
}

function largePattern(run) {
  const size = run.attention.values.shape[4];
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": "one attention pattern" });
  const readout = el("output", { class: "readout", "aria-live": "polite" });
  const card = headCard(run, [readout]);
  const host = el("div", { class: "large fills" }, canvas, card);
  const name = () => `${run.name}-attention-${nameOf(headShown(run))}-step-${run.steps[indexOf(run)]}`;
  card.append(downloads("Attention of one head", name, host, () => attentionNumbers(run, [headShown(run)])));
  let cell = 1,
    edge = 0,
    at = [Math.min(1, size - 1), 0],
    room = [0, 0];
  const tell = () => {
    readout.value = patternText(run, indexOf(run), ...headShown(run), ...at);
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
  function draw(width = room[0], height = room[1]) {
    room = [width, height];
    const index = indexOf(run),
      [layer, head] = headShown(run);
    edge = marginFor(tokensOf(run), 9);
    // As large as it can be seen at once, beside its words where there is room for them.
    const most = isWide(run) ? Math.min(Math.max(220, height), 0.66 * width) : Math.min(width, 560);
    const side = edge + size * Math.max(1, Math.min(30, (most - edge) / size));
    const drawn = drawLabelled(canvas, run, index, layer, head, side, edge, 9);
    cell = drawn.cell;
    if (document.activeElement === canvas) outline(drawn.context, at, edge, cell);
    canvas.setAttribute(
      "aria-label",
      `${nameOf([layer, head])} at step ${run.steps[index]}: rows: queries, columns: keys; ` +
        (drawn.known ? "arrow keys read single entries" : "its attention is NaN"),
    );
    if (drawn.known) tell();
    else readout.value = "Its attention is NaN.";
  }
  canvas.addEventListener("focus", () => draw());
  canvas.addEventListener("blur", () => draw());
  return figure(host, draw);
}

// What is known of the head that is shown, and a switch that takes it out of the network in the page.
function headCard(run, more) {
  const title = el("h4", {}),
    end = el("p", {}),
    now = el("p", {}),
    said = el("output", { class: "switched" });
  const toggle = el("button", { type: "button", ...switching(() => nameOf(headShown(run))) });
  const link = el("button", { type: "button", click: () => goToSection("try") }, "Try the network ↓");
  const canTry = run.network.config !== undefined;
  const host = el(
    "div",
    { class: "card" },
    title,
    end,
    now,
    more,
    canTry ? [el("div", { class: "row" }, toggle, link), said] : null,
  );
  run.onTrial = (text) => {
    said.value = state.off.size ? `On one sequence: ${text}` : "";
  };
  tryPanels.add(host);
  return figure(host, () => {
    const head = headShown(run),
      name = nameOf(head),
      index = indexOf(run);
    title.textContent = `${name} at step ${run.steps[index]}`;
    const unchosen = isChosen(...head)
      ? ""
      : `Shown because ${run.leading.why}; a click on any head shows that one. `;
    end.textContent = `${unchosen}${run.headLines[name] ? `At the end: ${run.headLines[name]}.` : ""}`;
    now.textContent = `Now: ${headNow(run, index, head)}.`;
    toggle.textContent = `Switch ${name} ${state.off.has(name) ? "on" : "off"}`;
    if (!state.off.size) said.value = "";
  });
}

// The role and the effect of a head at one checkpoint, and what it is in the circuit.
function headNow(run, index, head) {
  const circuits = shownCircuits(run),
    found = foundBy(run, circuits),
    name = nameOf(head);
  const node = found?.nodes.find((each) => each.name === name),
    role = roleOf(run, index, ...head),
    effect = effectAt(run, found, index, name);
  const said = role ? [`${role.words} (${formatted(role.share)} of the way from chance to 1)`] : ["no attention score above its null band"]; // prettier-ignore
  if (node) said.push(`${node.role}${node.kind === NODE_IN ? ` of step ${found.step}` : ""}`);
  if (Number.isFinite(effect)) said.push(lostInWords(effect));
  return said.join("; ");
}
