// What the network in the page is tried on: a sequence, with what stands in for heads that are off.

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
// they stand for the tokens; others are classes.
class Words {
  constructor({ labels, tokenizer, outputs_are_inputs }, { d_vocab, d_vocab_out, n_ctx, input_type }) {
    this.tokenizer = tokenizer && new Tokenizer(tokenizer);
    const spaced = labels?.some((label) => !label || /\s/.test(label));
    this.labels = labels ?? (input_type === "tokens" ? counted(d_vocab).map(String) : []);
    this.outputs =
      outputs_are_inputs && this.labels.length === d_vocab_out ? this.labels : counted(d_vocab_out).map(String);
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
function standIns(networks, step, shown, heads, instead = state.instead) {
  const { n_heads, d_head } = networks.config,
    width = n_heads * d_head,
    found = [];
  if (instead === "other" && heads.length)
    shown.other ??= networks.found.get(step).run(otherSequence(networks, shown.trial));
  const valueAt = {
    zero: () => 0,
    mean: (layer, pos, at) => networks.means.get(step)[layer][at],
    other: (layer, pos, at) => shown.other.z[layer][pos * width + at],
  }[instead];
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

// What tells a sequence at a step, as it has been chosen, from others.
const trialKey = (networks, step) => JSON.stringify([step, shownSequence(networks), state.edit]);

// The sequence and its clean activations, where they are not those of before.
function takeTrial(networks, words, step, shown) {
  const at = shownSequence(networks),
    key = trialKey(networks, step);
  if (shown.key === key) return;
  shown.error = "";
  let trial = Trial.evaluation(networks.sequences, at);
  try {
    if (state.edit !== null && networks.config.input_type === "tokens")
      trial = Trial.edited(networks.sequences, at, words.read(state.edit));
  } catch (error) {
    shown.error = error.message;
  }
  const network = networks.found.get(step);
  const clean = network.run(trial.inputs),
    cleanOutput = network.output(clean);
  const cleanLosses = lossOf(cleanOutput, trial.answers);
  Object.assign(shown, { key, trial, clean, cleanOutput, cleanLosses, other: null });
  shown.at = Math.min(shown.at, trial.inputs.length - 1);
}

// What the network does without the heads that are off: its activations, output and losses.
class Without {
  constructor(networks, step, shown, off) {
    Object.assign(this, { key: `${shown.key} ${state.instead}`, off });
    this.steps = this.compute(networks, step, shown);
  }
  is({ key, off }) {
    return this.key === key && this.off.map(nameOf).sort().join() === off.map(nameOf).sort().join();
  }
  // Computes a layer at a time. What is shared with what is shown is not computed again.
  *compute(networks, step, shown) {
    const network = networks.found.get(step),
      { key, off } = this,
      replaced = standIns(networks, step, shown, off);
    const first = (heads) => Math.min(Infinity, ...heads.map(([layer]) => layer));
    const without = (heads, others) => heads.filter((head) => !others.map(nameOf).includes(nameOf(head)));
    // What is shown may be another sequence before this is done.
    const { trial, clean, cleanOutput, last } = shown;
    const fromClean = first(off),
      fromLast = last?.key === key ? first([...without(off, last.off), ...without(last.off, off)]) : -1;
    const [before, from] = fromLast > fromClean ? [last.now, fromLast] : [clean, fromClean];
    this.now = yield* network.inLayers(trial.inputs, replaced, before, from);
    this.output = this.now === clean ? cleanOutput : network.output(this.now);
    this.losses = lossOf(this.output, trial.answers);
  }
}

// Has what is shown be without the heads that are off.
function runWithout(networks, step, shown, off) {
  const { ahead, last, previous } = shown,
    wanted = new Without(networks, step, shown, off),
    found = [ahead, last, previous].find((each) => each?.is(wanted)) ?? wanted;
  finished(found.steps);
  const { now, output, losses } = found;
  Object.assign(shown, { now, output, losses, last: found });
  if (found !== last) shown.previous = last;
}

// Computes what a press on a head will show in the panels of all runs, while the pointer or the focus is on it.
function lookAhead(name) {
  for (const run of RUNS) {
    const { networks, trial: shown } = run;
    // Something else may have been chosen that is not shown yet.
    if (!shown?.ready || shown.key !== trialKey(networks, shown.step)) continue;
    if (state.instead === "mean" && !networks.means.has(shown.step)) continue;
    const ahead = new Without(networks, shown.step, shown, headsOff(run, switched(name)));
    if ([shown.ahead, shown.last, shown.previous].some((each) => each?.is(ahead))) continue;
    shown.ahead = ahead;
    goThrough(ahead.steps, () => shown.ahead === ahead);
  }
}
