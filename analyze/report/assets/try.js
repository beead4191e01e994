// The network runs in the page: on a sequence that a person edits, with heads that a person switches off.

const MOST_PREDICTIONS = 5;

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
      const failed = (error) => {
        said.textContent = `The weights of step ${step} cannot be unpacked: ${error.message}.`;
      };
      networks.load(step).then(tryAgain, failed);
      return;
    }
    if (state.instead === "mean" && !networks.means.has(step)) {
      const steps = networks.meansAt(step);
      if (beforePaper) while (!steps.next().done);
      else again(steps);
    }
    takeTrial(networks, words, step, shown);
    const off = headsOff(run);
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

// What is wrong with the text that stands in the panel of a run.
const wrongIn = (run) => (state.wrong?.run === run ? state.wrong.message : "");

function trialSentence(run, networks, step, shown, off) {
  const { trial, losses, cleanLosses } = shown,
    error = wrongIn(run) || shown.error;
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
    { change: (event) => setTrial({ tried: Number(event.target.value), edit: null, wrong: null }) },
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
  // A text that cannot be read leaves the sequence as it is.
  const read = (edit) => {
    try {
      words.read(edit);
      return { edit, wrong: null };
    } catch (error) {
      return { wrong: { run, message: error.message } };
    }
  };
  const kind = words.tokenizer ? "text" : "tokens";
  const typed = el(words.tokenizer ? "textarea" : "input", {
    ...(words.tokenizer ? { rows: 3 } : { type: "text" }),
    spellcheck: "false",
    autocomplete: "off",
    "aria-label": `${kind} of the sequence`,
    input: (event) => setTrial(read(event.target.value)),
  });
  const undo = press("As it was", () => setTrial({ edit: null, wrong: null }));
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
    const wrong = wrongIn(run);
    undo.disabled = state.edit === null && !wrong;
    if (!words.labels.length || wrong) return;
    const text = state.edit ?? words.write(inputs[shownSequence(networks)]);
    if (typed.value !== text) typed.value = text;
  };
  return { host, update };
}

// The circuit found by the step of the slider, if there is one.
function circuitAt(run) {
  return foundBy(run, shownCircuits(run));
}
const circuitHeads = (run) =>
  (circuitAt(run)?.nodes ?? []).filter((node) => node.kind === NODE_IN && headOf(node.name)).map(({ name }) => headOf(name)); // prettier-ignore

// The heads that are off once one is switched off, or on again.
function switched(name) {
  const off = new Set(state.off);
  if (!off.delete(name)) off.add(name);
  return off;
}
// Those of a run.
const headsOff = (run, off = state.off) =>
  [...off].map(headOf).filter(([layer, head]) => layer < run.layers && head < run.heads);
// What a button does that switches the head that `name()` gives.
const switching = (name) => ({
  click: () => setTrial({ off: switched(name()) }),
  pointerenter: () => lookAhead(name()),
  focus: () => lookAhead(name()),
});

function tryHeads(run) {
  const cells = new Map();
  const cell = (layer, head) => {
    const name = nameOf([layer, head]);
    const canvas = el("canvas", { "aria-hidden": "true" }),
      below = el("span", {});
    const toggle = switching(() => name);
    const button = el("button", { type: "button", class: "head", "data-head": name, ...toggle }, canvas, below);
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
  drawPixels(cell.canvas, size, size, (drawn) => {
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
