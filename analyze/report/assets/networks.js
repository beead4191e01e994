// The networks of a run at its checkpoints, unpacked from the page.

// Networks with more numbers in all than this are unpacked when the slider comes to them, and others beforehand.
const MOST_UNPACKED = 2e7;

// The networks of one run, unpacked one after the other, and the means of their heads.
class Networks {
  constructor({ config, layout, steps, weights, sequences }) {
    Object.assign(this, { config, layout, steps, weights, sequences });
    this.loading = new Map();
    this.found = new Map();
    this.means = new Map();
    this.begun = new Map();
  }
  // The step with weights that is nearest to one of the slider, along the axis of all that is drawn over training.
  stepAt(step) {
    const off = (each) => Math.abs(Math.log1p(each) - Math.log1p(step));
    return this.steps.reduce((best, each) => (off(each) < off(best) ? each : best));
  }
  // Unpacks the network of a step, once.
  load(step) {
    if (!this.loading.has(step)) this.loading.set(step, this.unpack(step));
    return this.loading.get(step);
  }
  async unpack(step) {
    const numbers = await weightsIn(this.weights[this.steps.indexOf(step)]);
    this.found.set(step, new Network(this.config, this.layout, numbers));
  }
  async loadAll() {
    const size = this.layout.reduce((sum, [, shape]) => sum + shape.reduce((a, b) => a * b, 1), 0);
    if (size * this.steps.length > MOST_UNPACKED) return;
    for (const step of this.steps) {
      // What cannot be unpacked is said when the slider comes to it.
      await this.load(step).catch(() => {});
      await pause();
    }
  }
  // Computes the mean of each head over the evaluation sequences at a step, [layer][head d_head], one sequence at a time;
  // what was begun goes on.
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
