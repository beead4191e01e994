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
// Each normalises one row in place; `weights` are those of this norm.
const NORMALIZATIONS = {
  LN(row, eps, { w, b }) {
    NORMALIZATIONS.LNPre(row, eps);
    for (let i = 0; i < row.length; i++) row[i] = row[i] * w[i] + b[i];
  },
  LNPre(row, eps) {
    centre(row);
    scale(row, eps);
  },
  RMS(row, eps, { w }) {
    scale(row, eps);
    for (let i = 0; i < row.length; i++) row[i] *= w[i];
  },
  RMSPre: scale,
  null() {},
};
// Where positions act: W_pos is added to the residual stream, or to the inputs of queries and keys; queries and keys are
// turned by an angle; W_rel is added to the keys that a query sees.
const POSITIONS = {
  standard: { toStream: true },
  shortformer: { toQueriesAndKeys: true },
  none: {},
  rotary: { turns: true },
  relative: { toKeys: true },
};
// The number of keys that a query sees, and the least offset from a key to a query, with which W_rel begins.
const DIRECTIONS = {
  causal: { visible: (query) => query + 1, leastOffset: () => 0 },
  bidirectional: { visible: (_, length) => length, leastOffset: (n_ctx) => 1 - n_ctx },
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

function centre(row) {
  let mean = 0;
  for (let i = 0; i < row.length; i++) mean += row[i];
  mean /= row.length;
  for (let i = 0; i < row.length; i++) row[i] -= mean;
}

function scale(row, eps) {
  let square = 0;
  for (let i = 0; i < row.length; i++) square += row[i] * row[i];
  const size = Math.sqrt(square / row.length + eps);
  for (let i = 0; i < row.length; i++) row[i] /= size;
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

// The same of four rows at a time, because to read W takes as long as to multiply.
function addProducts([x, y, z, u], W, [rowX, rowY, rowZ, rowU]) {
  const width = rowX.length,
    last = x.length - (x.length % 4);
  for (let i = 0, at = 0; i < last; i += 4, at += 4 * width) {
    const [x0, x1, x2, x3] = [x[i], x[i + 1], x[i + 2], x[i + 3]],
      [y0, y1, y2, y3] = [y[i], y[i + 1], y[i + 2], y[i + 3]],
      [z0, z1, z2, z3] = [z[i], z[i + 1], z[i + 2], z[i + 3]],
      [u0, u1, u2, u3] = [u[i], u[i + 1], u[i + 2], u[i + 3]];
    const at1 = at + width,
      at2 = at1 + width,
      at3 = at2 + width;
    for (let j = 0; j < width; j++) {
      const w0 = W[at + j],
        w1 = W[at1 + j],
        w2 = W[at2 + j],
        w3 = W[at3 + j];
      rowX[j] += x0 * w0 + x1 * w1 + x2 * w2 + x3 * w3;
      rowY[j] += y0 * w0 + y1 * w1 + y2 * w2 + y3 * w3;
      rowZ[j] += z0 * w0 + z1 * w1 + z2 * w2 + z3 * w3;
      rowU[j] += u0 * w0 + u1 * w1 + u2 * w2 + u3 * w3;
    }
  }
  for (let i = last; i < x.length; i++)
    for (let j = 0; j < width; j++) {
      const w = W[i * width + j];
      rowX[j] += x[i] * w;
      rowY[j] += y[i] * w;
      rowZ[j] += z[i] * w;
      rowU[j] += u[i] * w;
    }
}

const rowOf = (matrix, at, width) => matrix.subarray(at * width, (at + 1) * width);

// A matrix [rows, columns] as [columns, rows].
function transposed(A, columns) {
  const rows = A.length / columns;
  return A.map((_, at) => A[(at % rows) * columns + Math.floor(at / rows)]);
}

// The product of two vectors, which begin at these places of their arrays.
function dot(a, from, b, to, size) {
  let sum = 0;
  for (let i = 0; i < size; i++) sum += a[from + i] * b[to + i];
  return sum;
}

// x @ W + b for every row, [pos, width].
function project(x, inner, W, b) {
  const rows = x.length / inner,
    width = b.length,
    found = new Float64Array(rows * width);
  for (let at = 0; at < rows; at++) found.set(b, at * width);
  const left = (at) => rowOf(x, at, inner),
    row = (at) => rowOf(found, at, width);
  let at = 0;
  for (; at + 3 < rows; at += 4) {
    const four = [at, at + 1, at + 2, at + 3];
    addProducts(four.map(left), W, four.map(row));
  }
  for (; at < rows; at++) addProduct(left(at), W, row(at));
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
    this.W_U = config.tie_word_embeddings ? transposed(this.W_E, config.d_model) : this.weights.get("unembed.W_U");
    this.b_U = this.bias("unembed.b_U", config.d_vocab_out);
    this.angles = this.positions.turns ? anglesOf(config) : null;
  }

  // The number by which the product of a query and a key is divided.
  get scoreDivisor() {
    const { use_attn_scale, attn_scale, d_head } = this.config;
    if (!use_attn_scale) return 1;
    return attn_scale === -1 ? Math.sqrt(d_head) : attn_scale;
  }

  bias(name, size) {
    return this.config.biases ? this.weights.get(name) : new Float32Array(size);
  }

  // The weights of one layer; those of all heads stand side by side, [d_model, head d_head].
  layer(at) {
    const { n_heads, d_model, d_head, d_mlp, attn_only, act_fn, normalization_type } = this.config;
    const get = (name) => this.weights.get(`blocks.${at}.${name}`);
    const bias = (name, size) => this.bias(`blocks.${at}.${name}`, size);
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
      b_Q: bias("attn.b_Q", n_heads * d_head),
      b_K: bias("attn.b_K", n_heads * d_head),
      b_V: bias("attn.b_V", n_heads * d_head),
      b_O: bias("attn.b_O", d_model),
      // Like queries, so that one product of two arrays is compiled for both.
      W_rel: this.positions.toKeys ? Float64Array.from(get("attn.W_rel")) : null,
      mlp: attn_only
        ? null
        : {
            ln2: this.normalization(`blocks.${at}.ln2`),
            W_in: get("mlp.W_in"),
            b_in: bias("mlp.b_in", d_mlp),
            W_out: get("mlp.W_out"),
            b_out: bias("mlp.b_out", d_model),
            // A LayerNorm inside an MLP is one also in a network whose other norms are none.
            ln:
              act_fn === "solu_ln"
                ? this.normalization(`blocks.${at}.mlp.ln`, normalization_type === "LN" ? "LN" : "LNPre")
                : null,
          },
    };
  }

  // A function that normalises every row of a copy.
  normalization(name, type = this.config.normalization_type) {
    const weights = { w: this.weights.get(`${name}.w`), b: this.weights.get(`${name}.b`) };
    const normalize = NORMALIZATIONS[type];
    const { eps } = this.config;
    return (x, width) => {
      const found = Float64Array.from(x);
      for (let at = 0; at < found.length / width; at++) normalize(rowOf(found, at, width), eps, weights);
      return found;
    };
  }

  // The activations of a sequence of tokens or vectors: streams [layer][pos, d_model] before each layer and after the
  // last, patterns [layer][head][query, key], and z [layer][pos, head d_head]; computed is z as the heads write it.
  //
  // `replaced` has for each layer the outputs that stand in for those of heads: [layer] is a Map of head to z
  // [pos, d_head]. `before` are activations of the same sequence which are the same up to what the heads of layer
  // `from` write; it is the first layer with a replacement where they are the activations without any.
  run(...given) {
    return finished(this.inLayers(...given));
  }

  // The same, one layer at a time.
  *inLayers(sequence, replaced = [], before = null, from = firstReplaced(replaced)) {
    if (before && from >= this.config.n_layers) return before;
    const found = before
      ? {
          streams: before.streams.slice(0, from + 1),
          patterns: before.patterns.slice(0, from + 1),
          computed: before.computed.slice(0, from + 1),
          z: before.z.slice(0, from),
        }
      : { streams: [this.embed(sequence)], patterns: [], computed: [], z: [] };
    for (let at = found.z.length; at < this.config.n_layers; at++) {
      this.through(at, sequence.length, found, replaced[at]);
      yield;
    }
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
    if (found.computed.length === at) this.attend(layer, layer.ln1(before, d_model), length, found);
    const z = this.withReplaced(found.computed[at], replaced, length);
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

  // Turns queries or keys [pos, head d_head] in place by the angles of their positions.
  turn(x, length) {
    const { n_heads, d_head } = this.config,
      { cos, sin, half } = this.angles;
    for (let pos = 0, from = 0; pos < length; pos++)
      for (let head = 0; head < n_heads; head++, from += d_head)
        for (let i = from, angle = pos * half; i < from + half; i++, angle++) {
          const first = x[i],
            second = x[i + half];
          x[i] = first * cos[angle] - second * sin[angle];
          x[i + half] = second * cos[angle] + first * sin[angle];
        }
  }

  // The outputs z of all heads of a layer; their patterns are added to what is `found`.
  attend(layer, read, length, found) {
    const { n_heads, d_head, d_model, n_ctx, attention_dir } = this.config;
    const width = n_heads * d_head,
      { W_rel } = layer,
      { visible, leastOffset } = DIRECTIONS[attention_dir],
      least = leastOffset(n_ctx),
      offsets = W_rel ? W_rel.length / width : 0,
      divisor = this.scoreDivisor;
    const input = this.positions.toQueriesAndKeys ? this.withPositions(read) : read;
    const q = project(input, d_model, layer.W_Q, layer.b_Q),
      k = project(input, d_model, layer.W_K, layer.b_K),
      v = project(read, d_model, layer.W_V, layer.b_V),
      z = new Float64Array(length * width),
      patterns = [];
    if (this.positions.turns) for (const each of [q, k]) this.turn(each, length);
    for (let head = 0; head < n_heads; head++) {
      const pattern = new Float64Array(length * length);
      for (let query = 0; query < length; query++) {
        const row = pattern.subarray(query * length, query * length + visible(query, length));
        const from = query * width + head * d_head;
        for (let key = 0; key < row.length; key++) {
          let score = dot(q, from, k, key * width + head * d_head, d_head);
          if (W_rel) score += dot(q, from, W_rel, (head * offsets + query - key - least) * d_head, d_head);
          row[key] = score / divisor;
        }
        softmax(row);
        for (let key = 0; key < row.length; key++) {
          const share = row[key],
            to = key * width + head * d_head;
          for (let i = 0; i < d_head; i++) z[from + i] += share * v[to + i];
        }
      }
      patterns.push(pattern);
    }
    found.patterns.push(patterns);
    found.computed.push(z);
  }

  // The outputs of the heads of a layer, of which some are replaced.
  withReplaced(computed, replaced, length) {
    if (!replaced?.size) return computed;
    const { n_heads, d_head } = this.config,
      z = Float64Array.from(computed);
    for (const [head, instead] of replaced)
      for (let pos = 0; pos < length; pos++) z.set(rowOf(instead, pos, d_head), (pos * n_heads + head) * d_head);
    return z;
  }
}

// Goes through a generator to its end, and gives what it returns.
function finished(steps) {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

// The first layer in which a head is replaced; Infinity if there is none.
function firstReplaced(replaced) {
  const at = replaced.findIndex((heads) => heads?.size);
  return at < 0 ? Infinity : at;
}

// The cosine and the sine of the angle of each position and pair of entries, [n_ctx, half]: the pair i is of the entries
// i and i + half of a query or key, and entries from 2 half on stay.
function anglesOf({ n_ctx, d_head, rotary_dim, rotary_base }) {
  const half = (rotary_dim ?? d_head) / 2;
  const angles = Float64Array.from({ length: n_ctx * half }, (_, at) => Math.floor(at / half) * rotary_base ** (-(at % half) / half)); // prettier-ignore
  return { half, cos: angles.map(Math.cos), sin: angles.map(Math.sin) };
}

// The loss at each position, NaN where nothing is the right answer: cross-entropy of a token, squared error of a vector.
function lossOf(output, answers) {
  const width = output.length / answers.length;
  return Float64Array.from(answers, (answer, at) => {
    const row = rowOf(output, at, width);
    if (answer === null) return NaN;
    if (typeof answer === "number") return -logProbabilities(row)[answer];
    return row.reduce((sum, x, i) => sum + (answer[i] === null ? NaN : (x - answer[i]) ** 2), 0) / width;
  });
}

function logProbabilities(row) {
  let most = -Infinity,
    sum = 0;
  for (let i = 0; i < row.length; i++) most = Math.max(most, row[i]);
  for (let i = 0; i < row.length; i++) sum += Math.exp(row[i] - most);
  const total = most + Math.log(sum),
    found = new Float64Array(row.length);
  for (let i = 0; i < row.length; i++) found[i] = row[i] - total;
  return found;
}
