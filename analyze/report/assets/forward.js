// The forward pass of a transformer, for one sequence. Activations are rows, as in TransformerLens: x @ W. What is
// [pos, width] lies in one Float64Array, row after row; patterns are [query, key].
//
// To add an option of a network, add an entry to its table below, and its name to COMPUTED in network_in_page.py.

// Each changes one row of neurons in place.
const ACTIVATIONS = {
  relu: elementwise((x) => (x > 0 ? x : 0)),
  gelu: elementwise((x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2))),
  gelu_new: elementwise((x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))),
  silu: elementwise((x) => x / (1 + Math.exp(-x))),
  solu,
  solu_ln: solu,
};
// Each normalises one row in place; `weights` are those of this LayerNorm.
const NORMALIZATIONS = {
  LN(row, eps, { w, b }) {
    centreAndScale(row, eps);
    for (let i = 0; i < row.length; i++) row[i] = row[i] * w[i] + b[i];
  },
  LNPre: centreAndScale,
  null() {},
};
// What positions add to the residual stream, and to the inputs of queries and keys.
const POSITIONS = {
  standard: { toStream: true, toQueriesAndKeys: false },
  shortformer: { toStream: false, toQueriesAndKeys: true },
  none: { toStream: false, toQueriesAndKeys: false },
};
// The number of keys that a query sees.
const VISIBLE = {
  causal: (query) => query + 1,
  bidirectional: (_, length) => length,
};
// The embedding of one position, added to a row.
const EMBEDDINGS = {
  tokens(token, W_E, row) {
    const start = token * row.length;
    for (let i = 0; i < row.length; i++) row[i] += W_E[start + i];
  },
  vectors(vector, W_E, row) {
    addProduct(vector, W_E, row);
  },
};

function elementwise(f) {
  return (row) => {
    for (let i = 0; i < row.length; i++) row[i] = f(row[i]);
  };
}

// x * softmax(x)
function solu(row) {
  const shares = Float64Array.from(row);
  softmax(shares);
  for (let i = 0; i < row.length; i++) row[i] *= shares[i];
}

// With an error below 1.2e-7 of 1 - erf: Press et al., Numerical Recipes, chapter 6.2.
const ERF = [
  -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
  0.17087277,
];
function erf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const rest = t * Math.exp(-x * x + ERF.reduceRight((sum, term) => sum * t + term, 0));
  return x >= 0 ? 1 - rest : rest - 1;
}

function centreAndScale(row, eps) {
  let mean = 0,
    square = 0;
  for (let i = 0; i < row.length; i++) mean += row[i];
  mean /= row.length;
  for (let i = 0; i < row.length; i++) {
    row[i] -= mean;
    square += row[i] * row[i];
  }
  const scale = Math.sqrt(square / row.length + eps);
  for (let i = 0; i < row.length; i++) row[i] /= scale;
}

function softmax(row) {
  let most = -Infinity,
    sum = 0;
  for (let i = 0; i < row.length; i++) most = Math.max(most, row[i]);
  for (let i = 0; i < row.length; i++) sum += row[i] = Math.exp(row[i] - most);
  for (let i = 0; i < row.length; i++) row[i] /= sum;
}

// row += x @ W. Four rows of W at a time, because to read and write `row` takes longer than to multiply.
function addProduct(x, W, row) {
  const width = row.length,
    last = x.length - (x.length % 4);
  for (let i = 0, at = 0; i < last; i += 4, at += 4 * width) {
    const x0 = x[i],
      x1 = x[i + 1],
      x2 = x[i + 2],
      x3 = x[i + 3];
    const at1 = at + width,
      at2 = at1 + width,
      at3 = at2 + width;
    for (let j = 0; j < width; j++) row[j] += x0 * W[at + j] + x1 * W[at1 + j] + x2 * W[at2 + j] + x3 * W[at3 + j];
  }
  for (let i = last; i < x.length; i++) for (let j = 0; j < width; j++) row[j] += x[i] * W[i * width + j];
}

const rowOf = (matrix, at, width) => matrix.subarray(at * width, (at + 1) * width);

// x @ W + b for every row, [pos, width].
function project(x, inner, W, b) {
  const rows = x.length / inner,
    width = b.length,
    found = new Float64Array(rows * width);
  for (let at = 0; at < rows; at++) {
    const row = rowOf(found, at, width);
    row.set(b);
    addProduct(rowOf(x, at, inner), W, row);
  }
  return found;
}

// A network with its weights: `layout` lists the name and the shape of each, in the order in which `numbers` has them.
class Network {
  constructor(config, layout, numbers) {
    this.config = config;
    this.weights = new Map();
    let start = 0;
    for (const [name, shape] of layout) {
      const size = shape.reduce((a, b) => a * b, 1);
      this.weights.set(name, numbers.subarray(start, (start += size)));
    }
    this.layers = Array.from({ length: config.n_layers }, (_, layer) => this.layer(layer));
    this.norm = this.normalization("ln_final");
    this.W_E = this.weights.get("embed.W_E");
    this.W_pos = this.weights.get("pos_embed.W_pos");
    this.W_U = this.weights.get("unembed.W_U");
    this.b_U = this.weights.get("unembed.b_U");
  }

  // The weights of one layer; those of all heads stand side by side, [d_model, head d_head].
  layer(at) {
    const { n_heads, d_model, d_head, attn_only, act_fn } = this.config;
    const get = (name) => this.weights.get(`blocks.${at}.${name}`);
    const sideBySide = (W) => {
      const found = new Float32Array(W.length);
      for (let head = 0; head < n_heads; head++)
        for (let i = 0; i < d_model; i++) {
          const from = (head * d_model + i) * d_head;
          found.set(W.subarray(from, from + d_head), (i * n_heads + head) * d_head);
        }
      return found;
    };
    return {
      ln1: this.normalization(`blocks.${at}.ln1`),
      W_Q: sideBySide(get("attn.W_Q")),
      W_K: sideBySide(get("attn.W_K")),
      W_V: sideBySide(get("attn.W_V")),
      W_O: get("attn.W_O"),
      b_Q: get("attn.b_Q"),
      b_K: get("attn.b_K"),
      b_V: get("attn.b_V"),
      b_O: get("attn.b_O"),
      mlp: attn_only
        ? null
        : {
            ln2: this.normalization(`blocks.${at}.ln2`),
            W_in: get("mlp.W_in"),
            b_in: get("mlp.b_in"),
            W_out: get("mlp.W_out"),
            b_out: get("mlp.b_out"),
            ln: act_fn === "solu_ln" ? this.normalization(`blocks.${at}.mlp.ln`, "LNPre") : null,
          },
    };
  }

  // A function that normalises every row of a copy. A LayerNorm inside an MLP is there also in a network without others.
  normalization(name, without = null) {
    const weights = { w: this.weights.get(`${name}.w`), b: this.weights.get(`${name}.b`) };
    const normalize = NORMALIZATIONS[this.config.normalization_type ?? without];
    const { eps } = this.config;
    return (x, width) => {
      const found = Float64Array.from(x);
      for (let at = 0; at < found.length / width; at++) normalize(rowOf(found, at, width), eps, weights);
      return found;
    };
  }

  // The activations of a sequence of tokens or vectors: streams [layer][pos, d_model] before each layer and after the
  // last, patterns [layer][head][query, key], and z [layer][pos, head d_head].
  //
  // `replaced` has for each layer the outputs that stand in for those of heads: [layer] is a Map of head to z
  // [pos, d_head]. Layers before the first replacement are taken from `clean`, the activations without any.
  run(sequence, replaced = [], clean = null) {
    const { n_layers } = this.config;
    const first = clean ? Array.from({ length: n_layers }, (_, at) => at).find((at) => replaced[at]?.size) : 0;
    if (clean && first === undefined) return clean;
    const found = {
      streams: clean ? clean.streams.slice(0, first + 1) : [this.embed(sequence)],
      patterns: clean ? clean.patterns.slice(0, first) : [],
      z: clean ? clean.z.slice(0, first) : [],
    };
    for (let at = first; at < n_layers; at++) this.through(at, sequence.length, found, replaced[at]);
    return found;
  }

  // The logits, or predicted vectors, [pos, d_vocab_out].
  output({ streams }) {
    const { n_layers, d_model } = this.config;
    return project(this.norm(streams[n_layers], d_model), d_model, this.W_U, this.b_U);
  }

  embed(sequence) {
    const { d_model, input_type } = this.config;
    const stream = new Float64Array(sequence.length * d_model);
    sequence.forEach((input, at) => EMBEDDINGS[input_type](input, this.W_E, rowOf(stream, at, d_model)));
    return this.positions.toStream ? this.withPositions(stream) : stream;
  }

  get positions() {
    return POSITIONS[this.config.positional_embedding_type];
  }

  withPositions(x) {
    return x.map((value, at) => value + this.W_pos[at]);
  }

  through(at, length, found, replaced) {
    const { d_model, d_mlp, act_fn } = this.config;
    const layer = this.layers[at],
      before = found.streams[at];
    const read = layer.ln1(before, d_model);
    const z = this.attend(layer, read, length, found, replaced);
    const after = project(z, z.length / length, layer.W_O, layer.b_O);
    for (let i = 0; i < after.length; i++) after[i] += before[i];
    found.z.push(z);
    found.streams.push(after);
    if (!layer.mlp) return;
    const { ln2, W_in, b_in, W_out, b_out, ln } = layer.mlp;
    let neurons = project(ln2(after, d_model), d_model, W_in, b_in);
    for (let pos = 0; pos < length; pos++) ACTIVATIONS[act_fn](rowOf(neurons, pos, d_mlp));
    if (ln) neurons = ln(neurons, d_mlp);
    const added = project(neurons, d_mlp, W_out, b_out);
    for (let i = 0; i < after.length; i++) after[i] += added[i];
  }

  // The outputs z of all heads of a layer; their patterns are added to what is `found`.
  attend(layer, read, length, found, replaced) {
    const { n_heads, d_head, d_model, attention_dir } = this.config;
    const width = n_heads * d_head;
    const input = this.positions.toQueriesAndKeys ? this.withPositions(read) : read;
    const q = project(input, d_model, layer.W_Q, layer.b_Q),
      k = project(input, d_model, layer.W_K, layer.b_K),
      v = project(read, d_model, layer.W_V, layer.b_V),
      z = new Float64Array(length * width),
      patterns = [];
    for (let head = 0; head < n_heads; head++) {
      const pattern = new Float64Array(length * length);
      for (let query = 0; query < length; query++) {
        const row = pattern.subarray(query * length, query * length + VISIBLE[attention_dir](query, length));
        const from = query * width + head * d_head;
        for (let key = 0; key < row.length; key++) {
          let score = 0;
          for (let i = 0, to = key * width + head * d_head; i < d_head; i++) score += q[from + i] * k[to + i];
          row[key] = score / Math.sqrt(d_head);
        }
        softmax(row);
        for (let key = 0; key < row.length; key++)
          for (let i = 0, to = key * width + head * d_head; i < d_head; i++) z[from + i] += row[key] * v[to + i];
      }
      patterns.push(pattern);
      const instead = replaced?.get(head);
      for (let pos = 0; instead && pos < length; pos++)
        z.set(rowOf(instead, pos, d_head), pos * width + head * d_head);
    }
    found.patterns.push(patterns);
    return z;
  }
}

// The loss at each position, NaN where nothing is the right answer: cross-entropy of a token, squared error of a vector.
function lossOf(output, answers) {
  const width = output.length / answers.length;
  return Float64Array.from(answers, (answer, at) => {
    const row = rowOf(output, at, width);
    if (answer === null) return NaN;
    if (typeof answer === "number") return -logProbabilities(row)[answer];
    return row.reduce((sum, x, i) => sum + (x - answer[i]) ** 2, 0) / width;
  });
}

function logProbabilities(row) {
  const most = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = most + Math.log(row.reduce((sum, x) => sum + Math.exp(x - most), 0));
  return row.map((x) => x - total);
}
