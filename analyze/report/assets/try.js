// The network runs in the page: on a sequence that a person edits, with heads that a person switches off.

// What is computed in one go, in milliseconds, before the browser may draw.
const SLICE = 8;
// Networks with more numbers in all than this are unpacked when the slider comes to them, and others beforehand.
const MOST_UNPACKED = 2e7;
const MOST_PREDICTIONS = 5;
// Of less than this share of the loss without all heads there are no shares.
const LEAST_KNOWN = 0.001;

// The networks of one run, unpacked one after the other, and the means of their heads.
class Networks {
  constructor({ config, layout, steps, weights, sequences }) {
    Object.assign(this, { config, layout, steps, weights, sequences });
    this.found = new Map();
    this.means = new Map();
    this.begun = new Map();
  }
  // The step with weights that is nearest to one of the slider, along the axis of all that is drawn over training.
  stepAt(step) {
    const off = (each) => Math.abs(Math.log1p(each) - Math.log1p(step));
    return this.steps.reduce((best, each) => (off(each) < off(best) ? each : best));
  }
  async load(step) {
    if (!this.found.has(step)) {
      const numbers = await weightsIn(this.weights[this.steps.indexOf(step)]);
      this.found.set(step, new Network(this.config, this.layout, numbers));
    }
  }
  async loadAll() {
    const size = this.layout.reduce((sum, [, shape]) => sum + shape.reduce((a, b) => a * b, 1), 0);
    if (size * this.steps.length > MOST_UNPACKED) return;
    for (const step of this.steps) {
      await this.load(step);
      await pause();
    }
  }
  // Goes through the evaluation sequences, one a step, and leaves the mean of each head there, [layer][head d_head].
  // Computes the means at a step, one sequence at a time; what was begun goes on.
  meansAt(step) {
    if (!this.begun.has(step)) this.begun.set(step, this.computeMeans(step));
    return this.begun.get(step);
  }
  *computeMeans(step) {
    const network = this.found.get(step);
    const width = this.config.n_heads * this.config.d_head;
    const sums = Array.from({ length: this.config.n_layers }, () => new Float64Array(width));
    let positions = 0;
    for (const sequence of this.sequences.inputs) {
      network.run(sequence).z.forEach((z, layer) => {
        for (let at = 0; at < z.length; at++) sums[layer][at % width] += z[at];
      });
      positions += sequence.length;
      yield;
    }
    this.means.set(step, sums.map((sum) => sum.map((value) => value / positions))); // prettier-ignore
  }
}

// The networks of a run, which all figures share.
function networksOf(run) {
  if (!run.networks) {
    run.networks = new Networks(run.network);
    run.networks.loadAll();
  }
  return run.networks;
}

// The bytes of float32 numbers: the first of all, then the second, and so on.
async function weightsIn(text) {
  const bytes = new Uint8Array(await inflated(text)),
    count = bytes.length / 4;
  const ordered = new Uint8Array(bytes.length);
  for (let byte = 0; byte < 4; byte++)
    for (let at = 0; at < count; at++) ordered[4 * at + byte] = bytes[byte * count + at];
  return new Float32Array(ordered.buffer);
}

const pause = () => new Promise((done) => setTimeout(done));

// Goes through a generator in slices, as long as nobody asks for something newer; whether it came to its end.
async function goThrough(steps, wanted, between = pause) {
  let until = performance.now() + SLICE;
  while (!steps.next().done) {
    if (performance.now() < until) continue;
    await between();
    if (!wanted()) return false;
    until = performance.now() + SLICE;
  }
  return true;
}

// A sequence of the evaluation batch, edited or not, with its right answers and the positions that count.
class Trial {
  constructor(inputs, answers, counted, parts, ofTokens, edited) {
    Object.assign(this, { inputs, answers, counted, parts, ofTokens, edited });
  }
  static evaluation({ inputs, targets, mask, parts }, at) {
    const masks = parts.map(({ name, mask: of }) => ({ name, mask: of[at] }));
    return new Trial(inputs[at], targets[at], mask[at], masks, !Array.isArray(targets[0][0]), false);
  }
  // Positions count as in the sequence that was edited; where the answer is the next token, it is that of the edit.
  static edited(sequences, at, inputs) {
    const of = Trial.evaluation(sequences, at),
      length = inputs.length,
      { shift } = sequences;
    const known = (place) => (place < of.answers.length && (shift === null || length === of.inputs.length) ? of.answers[place] : null); // prettier-ignore
    const answers = inputs.map((_, place) => (shift === null ? null : inputs[place + shift]) ?? known(place));
    const counted = answers.map((answer, place) => (answer === null ? 0 : (of.counted[place] ?? 1)));
    const parts = of.parts.map(({ name, mask }) => ({ name, mask: answers.map((_, place) => mask[place] ?? 0) }));
    return new Trial(inputs, answers, counted, parts, of.ofTokens, true);
  }
  // The mean of losses over all positions that count, or those of a part.
  mean(losses, part = null) {
    const mask = this.parts.find(({ name }) => name === part)?.mask ?? this.counted;
    const some = losses.filter((loss, at) => mask[at] && this.counted[at] && Number.isFinite(loss));
    return some.length ? some.reduce((a, b) => a + b, 0) / some.length : NaN;
  }
}

// The words of the tokens of a run, and how a sequence is written with them. Outputs have the words of the tokens where
// there are as many of both; others are classes.
class Words {
  constructor({ labels, tokenizer }, { d_vocab, d_vocab_out, n_ctx, input_type }) {
    this.tokenizer = tokenizer && new Tokenizer(tokenizer);
    const spaced = labels?.some((label) => !label || /\s/.test(label));
    this.labels = labels ?? (input_type === "tokens" ? counted(d_vocab).map(String) : []);
    this.outputs = this.labels.length === d_vocab_out ? this.labels : counted(d_vocab_out).map(String);
    this.typed = spaced ? this.labels.map((_, at) => String(at)) : this.labels;
    this.tokens = new Map(this.typed.map((word, at) => [word, at]));
    this.longest = n_ctx;
  }
  write(inputs) {
    if (this.tokenizer) return this.tokenizer.decode(inputs);
    return inputs.map((token) => this.typed[token]).join(" ");
  }
  // The tokens of a text; an error with what is wrong.
  read(text) {
    const found = this.tokenizer ? this.tokenizer.encode(text) : this.readTokens(text);
    if (!found.length) throw Error("The sequence is empty.");
    if (found.length > this.longest)
      throw Error(`${found.length} tokens are too many; this network reads at most ${this.longest}.`);
    return found;
  }
  readTokens(text) {
    const words = text.split(/\s+/).filter(Boolean);
    const wrong = words.findIndex((word) => !this.tokens.has(word));
    const known = `${this.typed.slice(0, 3).join(", ")} … ${this.typed.at(-1)}`;
    if (wrong >= 0) throw Error(`Position ${wrong}: “${words[wrong]}” is not a token; tokens are ${known}.`);
    return words.map((word) => this.tokens.get(word));
  }
}

// What stands in for the outputs of heads [pos, d_head], as a Map of heads for each layer.
function standIns(networks, step, shown, heads) {
  const { n_heads, d_head } = networks.config,
    width = n_heads * d_head,
    found = [];
  if (state.instead === "other" && heads.length)
    shown.other ??= networks.found.get(step).run(otherSequence(networks, shown.trial));
  const valueAt = {
    zero: () => 0,
    mean: (layer, pos, at) => networks.means.get(step)[layer][at],
    other: (layer, pos, at) => shown.other.z[layer][pos * width + at],
  }[state.instead];
  for (const [layer, head] of heads) {
    const z = new Float64Array(shown.trial.inputs.length * d_head);
    for (let at = 0; at < z.length; at++)
      z[at] = valueAt(layer, Math.floor(at / d_head), head * d_head + (at % d_head));
    (found[layer] ??= new Map()).set(head, z);
  }
  return found;
}
const shownSequence = ({ sequences }) => Math.min(state.tried, sequences.inputs.length - 1);
// As ablated_loss does: each sequence takes from the one before it, and the first from the last. Where that one has ended,
// the inputs of this one stay.
function otherSequence(networks, { inputs }) {
  const before = networks.sequences.inputs.at(shownSequence(networks) - 1);
  return inputs.map((input, at) => before[at] ?? input);
}

// The panels of all runs, and what says on the first screen which heads are off; what a person does in one concerns them
// all, and no other figure.
const tryPanels = new Set();
function setTrial(change) {
  Object.assign(state, change);
  writeHashSoon();
  tryAgain();
}
function tryAgain() {
  changed([...tryPanels].map((host) => figures.get(host)));
}

function trySection(run) {
  const { network } = run;
  if (network.why) return el("p", { class: "note" }, network.why);
  const networks = networksOf(run);
  const words = new Words(network.sequences, network.config);
  const parts = [
    tryControls(run, networks, words),
    el("p", { class: "said", role: "status" }),
    tryHeads(run),
    tryTokens(),
    tryPredictions(words),
    tryComparison(run),
    tryPositions(run, words),
  ];
  const hosts = parts.map((part) => part.host ?? part);
  const host = el("div", { class: "try" }, hosts.slice(0, 4), el("div", { class: "tables" }, hosts.slice(4)));
  const [controls, said, heads, tokens, predictions, comparison, positions] = parts;
  let now = null,
    going = null;
  const shown = { at: 0, ready: false };
  run.trial = shown;
  const look = (at) => {
    shown.at = at;
    tryAgain();
  };
  const draw = () => {
    const step = networks.stepAt(run.steps[indexOf(run)]);
    now = step;
    shown.ready = false;
    controls.update();
    const again = async (steps) => {
      if (going === step) return;
      going = step;
      const done = await goThrough(steps, () => now === step);
      if (going === step) going = null;
      if (done) tryAgain();
    };
    if (!networks.found.has(step)) {
      comparison.stop();
      said.textContent = `The weights of step ${step} are being unpacked.`;
      networks.load(step).then(tryAgain);
      return;
    }
    if (state.instead === "mean" && !networks.means.has(step)) {
      const steps = networks.meansAt(step);
      if (beforePaper) while (!steps.next().done);
      else again(steps);
    }
    takeTrial(networks, words, step, shown);
    const off = [...state.off].map(headOf).filter(([layer, head]) => layer < run.layers && head < run.heads);
    const ready = state.instead !== "mean" || networks.means.has(step) || !off.length;
    if (ready) {
      runWithout(networks, step, shown, off);
    }
    said.textContent = ready
      ? trialSentence(run, networks, step, shown, off)
      : "The means of the heads are computed.";
    run.onTrial?.(said.textContent);
    if (!ready) return comparison.stop();
    Object.assign(shown, { ready, step, instead: state.instead });
    heads.draw(shown);
    tokens.draw(shown, words, look);
    predictions.draw(shown, off.length > 0);
    comparison.draw(networks, step, shown);
  };
  // Where a head is off, the first screen says what that does.
  figure(host, draw, () => state.off.size > 0);
  // It is long, and below what a person looks at.
  figure(positions.host, () => shown.ready && positions.draw(shown.step, shown));
  for (const each of [host, positions.host]) tryPanels.add(each);
  return host;
}

// The sequence and its clean activations, where they are not those of before.
function takeTrial(networks, words, step, shown) {
  const at = shownSequence(networks);
  const key = `${step} ${at} ${state.edit}`;
  if (shown.key === key) return;
  shown.error = "";
  let trial = Trial.evaluation(networks.sequences, at);
  try {
    if (state.edit !== null && networks.config.input_type === "tokens")
      trial = Trial.edited(networks.sequences, at, words.read(state.edit));
  } catch (error) {
    // What cannot be read leaves the sequence as it was.
    shown.error = error.message;
    trial = shown.trial ?? trial;
  }
  const network = networks.found.get(step);
  const clean = network.run(trial.inputs),
    cleanOutput = network.output(clean);
  const cleanLosses = lossOf(cleanOutput, trial.answers);
  Object.assign(shown, { key, trial, clean, cleanOutput, cleanLosses, other: null });
  shown.at = Math.min(shown.at, trial.inputs.length - 1);
}

// The activations without the heads that are off. What they share with those of before is not computed again.
function runWithout(networks, step, shown, off) {
  const network = networks.found.get(step),
    key = `${shown.key} ${state.instead}`,
    replaced = standIns(networks, step, shown, off);
  const first = (heads) => Math.min(Infinity, ...heads.map(([layer]) => layer));
  const without = (heads, others) => heads.filter((head) => !others.map(nameOf).includes(nameOf(head)));
  const { last } = shown;
  const fromClean = first(off),
    fromLast = last?.key === key ? first([...without(off, last.off), ...without(last.off, off)]) : -1;
  const [before, from] = fromLast > fromClean ? [last.now, fromLast] : [shown.clean, fromClean];
  const now = network.run(shown.trial.inputs, replaced, before, from);
  shown.output = now === shown.clean ? shown.cleanOutput : network.output(now);
  shown.losses = lossOf(shown.output, shown.trial.answers);
  Object.assign(shown, { now, last: { key, off, now } });
}

function trialSentence(run, networks, step, shown, off) {
  const { trial, losses, cleanLosses, error } = shown;
  const slider = run.steps[indexOf(run)];
  const nearest =
    step === slider ? `Step ${step}` : `Step ${step}, whose weights are the nearest to step ${slider} in this page`;
  const numbers = [null, ...trial.parts.map(({ name }) => name)]
    .map((part) => [part, trial.mean(losses, part), trial.mean(cleanLosses, part)])
    .filter(([, loss]) => Number.isFinite(loss))
    .map(([part, loss, clean]) => {
      const on = off.length ? ` (${formatted(clean)} with all heads on)` : "";
      return `loss${part ? ` on ${inWords(part)}` : ""} ${formatted(loss)}${on}`;
    });
  const own = networks.sequences.loss ? "" : " The task has a loss of its own, which is not this one.";
  const heads = off.length ? `, off: ${off.map(nameOf).join(", ")}` : "";
  const answers =
    trial.edited && networks.sequences.shift === null
      ? " Right answers are those of the sequence before the edit."
      : "";
  const fewer = step === slider ? "" : ` ${run.network.fewer}`;
  return `${error ? `${error} ` : ""}${nearest}${heads}: ${numbers.join(", ") || "no position has a right answer"}.${own}${answers}${fewer}`;
}

function tryControls(run, networks, words) {
  const { inputs, count } = networks.sequences;
  const sequence = el(
    "select",
    { change: (event) => setTrial({ tried: Number(event.target.value), edit: null }) },
    inputs.map((_, at) =>
      el("option", { value: at }, [at, networks.sequences.descriptions[at]].filter((x) => x !== "").join(": ")),
    ),
  );
  const instead = el(
    "select",
    { change: (event) => setTrial({ instead: event.target.value }) },
    Object.entries(INSTEAD).map(([value, text]) => el("option", { value }, text)),
  );
  const press = (text, click) => el("button", { type: "button", click }, text);
  const inCircuit = () => circuitHeads(run).map(nameOf);
  const others = () => allHeads(run).map(nameOf).filter((name) => !inCircuit().includes(name)); // prettier-ignore
  const ofCircuit = [
    press("Circuit off", () => setTrial({ off: new Set(inCircuit()) })),
    press("Only the circuit on", () => setTrial({ off: new Set(others()) })),
  ];
  const kind = words.tokenizer ? "text" : "tokens";
  const typed = el(words.tokenizer ? "textarea" : "input", {
    ...(words.tokenizer ? { rows: 3 } : { type: "text" }),
    spellcheck: "false",
    autocomplete: "off",
    "aria-label": `${kind} of the sequence`,
    input: (event) => setTrial({ edit: event.target.value }),
  });
  const undo = press("As it was", () => setTrial({ edit: null }));
  const host = el(
    "div",
    {},
    el(
      "div",
      { class: "row" },
      el("label", {}, "sequence ", sequence, ` of ${count}`),
      el("label", {}, "a head that is off writes ", instead),
      press("All heads on", () => setTrial({ off: new Set() })),
      run.circuits.length ? ofCircuit : null,
    ),
    words.labels.length ? el("div", { class: "row typed" }, el("label", {}, `${kind} `, typed), undo) : null,
  );
  const update = () => {
    sequence.value = shownSequence(networks);
    instead.value = state.instead;
    for (const button of ofCircuit) button.disabled = !circuitHeads(run).length;
    undo.disabled = state.edit === null;
    if (document.activeElement !== typed && words.labels.length)
      typed.value = state.edit ?? words.write(inputs[shownSequence(networks)]);
  };
  return { host, update };
}

// The circuit found by the step of the slider, if there is one.
function circuitAt(run) {
  return foundBy(run, shownCircuits(run));
}
const circuitHeads = (run) =>
  (circuitAt(run)?.nodes ?? []).filter((node) => node.kind === NODE_IN && headOf(node.name)).map(({ name }) => headOf(name)); // prettier-ignore

// Switches a head off, or on again.
function toggleHead(name) {
  const off = new Set(state.off);
  if (!off.delete(name)) off.add(name);
  setTrial({ off });
}

function tryHeads(run) {
  const cells = new Map();
  const cell = (layer, head) => {
    const name = nameOf([layer, head]);
    const canvas = el("canvas", { "aria-hidden": "true" }),
      below = el("span", {});
    const toggle = () => toggleHead(name);
    const button = el("button", { type: "button", class: "head", "data-head": name, click: toggle }, canvas, below);
    cells.set(name, { layer, head, button, canvas, below });
    return button;
  };
  const layers = Array.from({ length: run.layers }, (_, layer) => [
    el("h3", {}, `Layer ${layer}`),
    el("div", { class: "grid", style: columns(run, 150) }, Array.from({ length: run.heads }, (_, head) => cell(layer, head))), // prettier-ignore
  ]);
  const draw = ({ now, trial }) => {
    const size = trial.inputs.length;
    const colors = sharePixels();
    for (const [name, cell] of cells) {
      const { button, below } = cell,
        off = state.off.has(name),
        text = `${name} ${off ? "off" : "on"}`;
      drawTrial(cell, now.patterns[cell.layer][cell.head], size, colors);
      if (below.textContent === text) continue;
      below.textContent = text;
      button.classList.toggle("off", off);
      button.setAttribute("aria-label", `${text}; a press switches it ${off ? "on" : "off"}`);
      button.setAttribute("aria-pressed", String(off));
    }
  };
  const host = el("div", { class: "downloadable" }, layers);
  const name = () => `${run.name}-patterns-step-${run.trial.step}`;
  host.prepend(downloads("Patterns of this sequence", name, host, () => trialPatterns(run)));
  return { host, draw };
}

// Draws a pattern that is not there yet, one pixel an entry.
function drawTrial(cell, pattern, size, colors) {
  if (cell.pattern === pattern && cell.colors === colors) return;
  Object.assign(cell, { pattern, colors });
  picture(cell.canvas, size, size, (drawn) => {
    for (let at = 0; at < drawn.length; at++) drawn[at] = colors[Math.round(254 * pattern[at])];
  });
}

// The patterns of all heads in the sequence that the network in the page reads, as they are now.
function trialPatterns(run) {
  const { step, now, trial } = run.trial;
  const positions = counted(trial.inputs.length);
  const rows = allHeads(run).flatMap(([layer, head]) =>
    positions.flatMap(
      (query) =>
      positions.map((key) => [step, layer, head, state.off.has(nameOf([layer, head])) ? "off" : "on", query, key, now.patterns[layer][head][query * positions.length + key]]), // prettier-ignore
    ),
  );
  return { columns: ["step", "layer", "head", "state", "query position", "key position", "attention"], rows };
}

// Every position with its token and its loss.
function tryTokens() {
  const host = el("div", { class: "chips" });
  const draw = ({ trial, losses, cleanLosses, at }, words, look) => {
    const most = Math.max(1e-9, ...finite([...losses, ...cleanLosses]));
    while (host.children.length > trial.inputs.length) host.lastChild.remove();
    while (host.children.length < trial.inputs.length) {
      const place = host.children.length;
      host.append(
        el("button", { type: "button", class: "chip", click: () => look(place) }, el("span"), el("b"), el("i")),
      );
    }
    const write = words.labels.length ? (place) => words.labels[trial.inputs[place]] : (place) => `x${place}`;
    [...host.children].forEach((chip, place) => {
      const [text, clean, bar] = chip.children;
      const word = write(place);
      // What has changed in size has the browser lay out the page; bars are only scaled.
      if (text.textContent !== word) text.textContent = word;
      clean.style.transform = `scaleX(${(cleanLosses[place] || 0) / most})`;
      bar.style.transform = `scaleX(${(losses[place] || 0) / most})`;
      bar.style.background = PALETTE.categories[losses[place] > cleanLosses[place] + 1e-9 ? 1 : 0];
      chip.classList.toggle("chosen", place === at);
      chip.classList.toggle("uncounted", !trial.counted[place]);
      setChanged(chip, "aria-pressed", String(place === at));
    });
  };
  const note = "Bars: the loss at each position, above with all heads on, below as it is now. A press shows what is predicted there."; // prettier-ignore
  return { host: el("div", {}, el("p", { class: "note" }, note), host), draw };
}

// Titles and rows of numbers of a table. What changes has the browser lay out the table, and the rest stays.
function writeTitles(head, titles) {
  if ([...head.querySelectorAll("th")].map((cell) => cell.textContent).join("\n") === titles.join("\n")) return;
  head.replaceChildren(el("tr", {}, titles.map((text) => el("th", { scope: "col" }, text)))); // prettier-ignore
}
function rowsIn(body, firstNumber = 1) {
  let lines = [];
  const cell = (column) =>
    column ? el("td", { class: column < firstNumber ? null : "number" }) : el("th", { scope: "row" });
  const line = ({ texts }) => {
    const cells = texts.map((_, column) => cell(column));
    return { row: el("tr", {}, cells), cells, texts: [] };
  };
  return (rows) => {
    if (lines.length !== rows.length || lines[0]?.cells.length !== rows[0]?.texts.length) {
      lines = rows.map(line);
      body.replaceChildren(...lines.map(({ row }) => row));
    }
    rows.forEach(({ texts, strong = false }, at) => {
      const { row, cells, texts: before } = lines[at];
      row.classList.toggle("strong", strong);
      texts.forEach((text, column) => {
        if (before[column] !== text) cells[column].textContent = before[column] = text;
      });
    });
  };
}

// What is predicted at one position, with all heads on and as it is now.
function tryPredictions(words) {
  const caption = el("caption", { class: "note", style: "text-align:left" }),
    head = el("thead"),
    body = el("tbody");
  const host = el("table", { class: "cells" }, caption, head, body),
    writeRows = rowsIn(body);
  const draw = ({ trial, output, cleanOutput, at, losses }, some) => {
    const answer = trial.answers[at],
      width = output.length / trial.inputs.length;
    const [now, clean] = [output, cleanOutput].map((each) => rowOf(each, at, width));
    const rows = trial.ofTokens ? tokenRows(words, now, clean, answer) : null;
    const numbers = rows ?? vectorRows(now, clean, answer);
    const right = typeof answer === "number" ? `; the right answer, ${words.outputs[answer]}, in bold` : "";
    caption.textContent = `Position ${at}: loss ${formatted(losses[at])}${right}.`;
    const titles = [rows ? "token" : "entry", ...(rows ? [] : ["right"]), "all heads on", ...(some ? ["now"] : [])];
    writeTitles(head, titles);
    writeRows(
      numbers.map(({ name, strong, values }) => ({
        strong,
        texts: [name, ...values.slice(0, titles.length - 1).map((value) => formatted(value))],
      })),
    );
  };
  return { host, draw };
}

// The likeliest tokens of both, and the right one.
function tokenRows(words, now, clean, answer) {
  const [ofNow, ofClean] = [now, clean].map((row) => logProbabilities(row).map(Math.exp));
  const best = [...ofNow.keys()].sort((a, b) => ofNow[b] - ofNow[a]).slice(0, MOST_PREDICTIONS);
  const rows = answer === null || best.includes(answer) ? best : [...best, answer];
  return rows.map((token) => ({
    name: words.outputs[token],
    strong: token === answer,
    values: [ofClean[token], ofNow[token]],
  }));
}
function vectorRows(now, clean, answer) {
  return [...now.keys()]
    .slice(0, 8)
    .map((at) => ({ name: String(at), strong: false, values: [answer?.[at] ?? NaN, clean[at], now[at]] }));
}

// What heads do in this sequence, beside what the circuit's numbers say of the whole batch.
function tryComparison(run) {
  const caption = el("caption", { class: "note", style: "text-align:left" }),
    head = el("thead"),
    body = el("tbody");
  const host = el("table", { class: "cells", hidden: true }, caption, head, body),
    writeRows = rowsIn(body);
  // The losses of the rows, which stay where the slider comes to a checkpoint with the same weights.
  let computed = null,
    shownKey = null;
  // What is computed is of a sequence and of weights that no longer are those that are shown.
  const stop = () => {
    computed = shownKey = null;
  };
  const draw = (networks, step, shown) => {
    if (state.instead === "mean" && !networks.means.has(step)) return stop();
    const circuits = shownCircuits(run),
      found = circuitAt(run);
    const key = `${shown.key} ${state.instead} ${circuitShown(run)} ${found?.step}`,
      rowsKey = `${key} ${indexOf(run)}`;
    if (rowsKey === shownKey && !beforePaper) return;
    shownKey = rowsKey;
    const rows = comparisonRows(run, found);
    const isDone = () => computed.losses.length > rows.length;
    const known = computed?.key === key && (isDone() || !beforePaper);
    if (!known) computed = { key, losses: [] };
    const mine = computed,
      { losses } = computed;
    const part = found && circuits.part !== "all" ? circuits.part : null;
    function* computing() {
      const network = networks.found.get(step);
      for (const { off } of [...rows, { off: allHeads(run) }]) {
        const replaced = standIns(networks, step, shown, off);
        const output = network.output(network.run(shown.trial.inputs, replaced, shown.clean));
        losses.push(shown.trial.mean(lossOf(output, shown.trial.answers), part));
        yield;
      }
    }
    const fill = () => {
      const clean = shown.trial.mean(shown.cleanLosses, part);
      const known = losses.at(-1) - clean,
        little = Math.abs(known) < LEAST_KNOWN * losses.at(-1);
      host.hidden = !Number.isFinite(known);
      const where = part ? ` on ${inWords(part)}` : "";
      caption.textContent =
        `In this sequence the loss${where} is ${formatted(clean)} with all heads on and ${formatted(losses.at(-1))} with all off; ` +
        (little ? "less than a thousandth is too little for shares." : "shares are of the difference.");
      const batch = found
        ? `whole batch (circuit of step ${found.step}, replacement ${inWords(circuits.replacement)})`
        : "whole batch (effect)";
      writeTitles(head, ["", "in this sequence", batch]);
      writeRows(
        rows.map(({ name, whole, keeps }, at) => {
          const lost = little ? NaN : (losses[at] - clean) / known;
          return { texts: [name, asShare(keeps ? 1 - lost : lost), whole] };
        }),
      );
    };
    mine.fill = fill;
    if (known) {
      if (isDone()) fill();
      return;
    }
    const steps = computing();
    if (beforePaper) {
      while (!steps.next().done);
      fill();
    } else {
      // What is beside it is drawn first, and what a person does meanwhile: this takes a forward pass a row.
      const isWanted = () => mine === computed;
      afterFrame(async () => isWanted() && (await goThrough(steps, isWanted, quiet)) && mine.fill());
    }
  };
  return { host, draw, stop };
}

// Rows of the comparison: what is off, and the number of the whole batch.
function comparisonRows(run, found) {
  const alone = (head, whole) => ({ name: `${nameOf(head)} off: lost`, off: [head], whole });
  if (!found) {
    const effect = run.effects?.heads;
    return allHeads(run).map((head) => alone(head, effect ? asShare(effect.get(indexOf(run), ...head)) : "–"));
  }
  const inside = circuitHeads(run).map(nameOf);
  const others = allHeads(run).filter((head) => !inside.includes(nameOf(head)));
  const number = (name) => withInterval(asShare, numbersOf(found.numbers[name]));
  return [
    { name: "Only the circuit's heads on: kept", off: others, whole: number("faithfulness"), keeps: true },
    { name: "The circuit's heads off: lost", off: inside.map(headOf), whole: number("necessity") },
    ...allHeads(run).map((head) => {
      const at = found.nodes.findIndex(({ name }) => name === nameOf(head));
      return alone(head, at < 0 ? "–" : withInterval(asShare, endsOf(found.effect, at)));
    }),
  ];
}
