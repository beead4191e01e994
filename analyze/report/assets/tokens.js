// The OV and the QK circuit of one head, token by token, from the weights of the checkpoint of the slider.

// More tokens than this are no picture.
const MOST_TOKENS = 150;

const tokenTables = (run) =>
  !run.network.why && run.network.config?.input_type === "tokens" && run.network.config.d_vocab <= MOST_TOKENS && run.network.config.d_vocab_out <= MOST_TOKENS; // prettier-ignore

// The product of two matrices [rows, inner] and [inner, columns].
function product(A, B, inner) {
  const rows = A.length / inner,
    columns = B.length / inner,
    found = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++)
    for (let i = 0; i < inner; i++) {
      const a = A[row * inner + i];
      for (let column = 0; column < columns; column++) found[row * columns + column] += a * B[i * columns + column];
    }
  return found;
}
// Rows without their means, which a LayerNorm takes away; as they are without one.
function centred(A, width, { normalization_type }) {
  if (!["LN", "LNPre"].includes(normalization_type)) return A;
  const found = Float64Array.from(A);
  for (let start = 0; start < A.length; start += width) {
    let mean = 0;
    for (let i = 0; i < width; i++) mean += A[start + i] / width;
    for (let i = 0; i < width; i++) found[start + i] -= mean;
  }
  return found;
}
// The weights of a LayerNorm on the rows of what reads after it.
function foldedInto(A, w) {
  if (!w) return A;
  const width = A.length / w.length;
  return Float64Array.from(A, (a, at) => a * w[Math.floor(at / width)]);
}

// W_E W_OV W_U [input token, output token] and W_E W_QK W_E^T [query token, key token], with the weights of LayerNorm
// folded and its scales left out: `VocabularyCircuit` of the folded network.
function tokenCircuits(network, layer, head) {
  const { config, weights } = network,
    { d_model, d_head } = config;
  const part = (name, rows, columns) => {
    const size = rows * columns;
    return weights.get(`blocks.${layer}.attn.${name}`).subarray(head * size, (head + 1) * size);
  };
  const ln1 = weights.get(`blocks.${layer}.ln1.w`);
  const embedded = centred(network.W_E, d_model, config);
  const read = (name) => product(embedded, foldedInto(part(name, d_model, d_head), ln1), d_model);
  const written = product(centred(part("W_O", d_head, d_model), d_model, config), foldedInto(network.W_U, weights.get("ln_final.w")), d_model); // prettier-ignore
  return {
    OV: product(read("W_V"), written, d_head),
    QK: product(read("W_Q"), transposed(read("W_K"), d_head), d_head),
  };
}

const CIRCUITS = {
  OV: { rows: "input token", columns: "output token", quantity: () => "adds to the logit" },
  QK: { rows: "query token", columns: "key token", quantity: ({ use_attn_scale, attn_scale }) => `attention score${use_attn_scale ? ` times ${attn_scale === -1 ? "√d_head" : attn_scale}` : ""}` }, // prettier-ignore
};
// Rotary positions act between W_Q and W_K.
const hasTokenScores = ({ positional_embedding_type }) => positional_embedding_type !== "rotary";

function tokensSection(run) {
  if (!tokenTables(run)) return el("p", { class: "note" }, `This page has no network of this run, or one with more than ${MOST_TOKENS} tokens.`); // prettier-ignore
  const networks = networksOf(run);
  const words = new Words(run.network.sequences, run.network.config);
  const shown = { title: el("p", { class: "readout" }), head: null };
  const choices = allHeads(run).map(nameOf);
  const select = el("select", { change: (event) => choose(headOf(event.target.value)) }, choices.map((name) => el("option", { value: name }, name))); // prettier-ignore
  const kinds = Object.keys(CIRCUITS).filter((kind) => kind !== "QK" || hasTokenScores(run.network.config));
  const pictures = kinds.map((kind) => tokenPicture(run, kind, words, shown));
  const draw = () => {
    const slider = run.steps[indexOf(run)],
      step = networks.stepAt(slider);
    const head = state.head && choices.includes(nameOf(state.head)) ? state.head : (circuitHeads(run).at(-1) ?? [0, 0]).map(Number); // prettier-ignore
    select.value = nameOf(head);
    shown.title.textContent =
      step === slider
        ? `${nameOf(head)} at step ${step}`
        : `${nameOf(head)} at step ${step}, whose weights are the nearest to step ${slider} in this page`;
    const wanted = [step, networks.steps.at(-1)].filter((each) => !networks.found.has(each));
    if (wanted.length) {
      Promise.all(wanted.map((each) => networks.load(each))).then(() => changed());
      return;
    }
    const key = `${nameOf(head)}`;
    // One scale for all checkpoints: that of the last.
    if (shown.scaled !== key) {
      const last = tokenCircuits(networks.found.get(networks.steps.at(-1)), ...head);
      shown.most = Object.fromEntries(Object.entries(last).map(([kind, values]) => [kind, values.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-9)])); // prettier-ignore
      shown.scaled = key;
    }
    if (shown.key !== `${key} ${step}`) shown.values = tokenCircuits(networks.found.get(step), ...head);
    Object.assign(shown, { key: `${key} ${step}`, head, step });
    for (const picture of pictures) picture.draw();
  };
  const host = el(
    "div",
    {},
    el("div", { class: "row" }, el("label", {}, "head ", select)),
    shown.title,
    kinds.includes("QK") ? null : el("p", { class: "note" }, "Rotary positions act between queries and keys: there are no attention scores of tokens alone, and no QK circuit."), // prettier-ignore
    el("div", { class: "panels", style: "--least:420px" }, pictures.map((each) => each.host)), // prettier-ignore
  );
  return figure(host, draw);
}

function tokenPicture(run, kind, words, shown) {
  const { rows: rowName, columns: columnName } = CIRCUITS[kind];
  const quantity = CIRCUITS[kind].quantity(run.network.config);
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": `${kind} circuit` }),
    readout = el("output", { class: "readout", "aria-live": "polite" }),
    scale = el("figcaption", {}),
    small = el("canvas");
  const { d_vocab, d_vocab_out } = run.network.config;
  const label = (token) => words.labels[token],
    columnLabel = (token) => (kind === "OV" ? words.outputs : words.labels)[token];
  const [rows, columns] = [d_vocab, kind === "OV" ? d_vocab_out : d_vocab];
  let edge = 0,
    cell = 1,
    at = [0, 0],
    room = 0;
  const value = (row, column) => shown.values[kind][row * columns + column];
  const tell = () => {
    if (!shown.values) return;
    readout.value = `${kind} of ${nameOf(shown.head)}: ${rowName} “${label(at[0])}” → ${columnName} “${columnLabel(at[1])}”: ${formatted(value(...at))}`;
  };
  const host = el("div", { class: "downloadable" }, el("h3", {}, `${kind} circuit`), canvas, readout, scale);
  const numbers = () => ({
    columns: ["run", "step", "layer", "head", rowName, columnName, quantity],
    rows: counted(rows).flatMap((row) => counted(columns).map((column) => [run.name, shown.step, ...shown.head, label(row), columnLabel(column), value(row, column)])), // prettier-ignore
  });
  host.prepend(downloads(`${kind} circuit`, () => `${run.name}-${kind}-${nameOf(shown.head)}-step-${shown.step}`, host, numbers)); // prettier-ignore
  const draw = () => {
    room = Math.min(host.clientWidth, 520);
    const names = [...counted(rows).map(label), ...counted(columns).map(columnLabel)];
    edge = marginFor(names, 6);
    cell = (room - edge) / Math.max(rows, columns);
    canvas.style.width = `${edge + cell * columns}px`;
    canvas.style.height = `${edge + cell * rows}px`;
    const context = fresh(canvas, edge + cell * columns, edge + cell * rows);
    const most = shown.most[kind];
    pixels(small, rows, columns, (row, column) => {
      const share = value(row, column) / most;
      return diverging(Math.sign(share) * Math.sqrt(Math.abs(share)));
    });
    context.imageSmoothingEnabled = false;
    context.drawImage(small, edge, edge, cell * columns, cell * rows);
    context.strokeStyle = css("--line");
    context.strokeRect(edge, edge, cell * columns, cell * rows);
    context.fillStyle = css("--soft");
    context.textBaseline = "middle";
    const every = Math.ceil(11 / cell);
    for (let place = 0; place < Math.max(rows, columns); place += every) {
      const middle = edge + (place + 0.5) * cell;
      context.textAlign = "right";
      if (place < rows) context.fillText(shortened(label(place), 6), edge - 3, middle);
      if (place >= columns) continue;
      context.save();
      context.translate(middle, edge - 3);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(shortened(columnLabel(place), 6), 0, 0);
      context.restore();
    }
    if (document.activeElement === canvas) outline(context, at, edge, cell);
    scale.textContent = `Rows: ${rowName}, columns: ${columnName}. ${quantity}, from −${formatted(most, 2)} (orange) over 0 to ${formatted(most, 2)} (blue), the largest of the last checkpoint, by the square root.`;
    canvas.setAttribute("aria-label", `${kind} circuit of ${nameOf(shown.head)} at step ${shown.step}, token by token. Arrow keys read single entries.`); // prettier-ignore
    tell();
  };
  canvas.addEventListener("pointermove", (event) => {
    const entry = entryUnder(event, canvas, edge, cell, Math.max(rows, columns));
    if (!entry || entry[0] >= rows || entry[1] >= columns) return;
    at = entry;
    tell();
  });
  canvas.addEventListener("keydown", (event) => {
    if (!shown.values || !moved(event, at, Math.max(rows, columns))) return;
    at = [Math.min(at[0], rows - 1), Math.min(at[1], columns - 1)];
    draw();
  });
  for (const kind of ["focus", "blur"]) canvas.addEventListener(kind, () => shown.values && draw());
  return { host, draw };
}
