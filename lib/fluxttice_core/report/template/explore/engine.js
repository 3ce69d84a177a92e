"use strict";
/* What the page computes, in float64 on the float32 weights. The tests compare it with PyTorch. */

const T = 9, C = 3, M = C ** T; // entries of a table, values of an entry, operations
const BATCH = 128; // latents decoded at a time

/** A percentage; a value below 100 gets as many decimals as keep it below 100. */
function percent(value, decimals) {
  while (value < 100 && Number(value.toFixed(decimals)) >= 100) decimals++;
  return value.toFixed(decimals);
}

// --- Random numbers, equal to those of a torch.Generator on the CPU ------------------------------
/** The Mersenne twister (Matsumoto and Nishimura 1998): a stream of whole numbers below 2^32. */
function twister(seed) {
  const state = new Uint32Array(624).fill(seed, 0, 1);
  for (let i = 1; i < 624; i++)
    state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 0;
  return () => {
    const i = at++ % 624, joined = (state[i] & 2 ** 31) | (state[(i + 1) % 624] & (2 ** 31 - 1));
    let y = state[(i + 397) % 624] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    state[i] = y;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/** torch.rand: n numbers in [0, 1). */
function uniforms(next, n) {
  const u = new Float64Array(n);
  for (let i = 0; i < n; i++) u[i] = (next() & 0xffffff) / 2 ** 24;
  return u;
}

/** torch.randn: n numbers of N(0, 1), n a multiple of 16, by the Box-Muller transform. */
function normals(next, n) {
  const z = uniforms(next, n);
  for (let start = 0; start < n; start += 16)
    for (let i = start; i < start + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - z[i])), angle = 2 * Math.PI * z[i + 8];
      z[i] = radius * Math.cos(angle);
      z[i + 8] = radius * Math.sin(angle);
    }
  return z;
}

// --- Networks ------------------------------------------------------------------------------------
const floats = (base64) => Float64Array.from(new Float32Array( // on a little-endian machine
  Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer));

/** PyTorch's default initialisation: U(±1/√inputs) for a linear layer, 1 and 0 for a LayerNorm. */
function initial({ kind, shape: [inputs, outputs] }, next) {
  if (kind === "layernorm") return new Float64Array(2 * inputs).fill(1, 0, inputs);
  const bound = 1 / Math.sqrt(inputs), size = inputs * outputs;
  const drawn = uniforms(next, size + outputs).map((u) => Math.fround(bound * (2 * u - 1)));
  const values = drawn.slice(); // transposed: PyTorch stores (outputs, inputs)
  for (let k = 0; k < size; k++) values[(k % inputs) * outputs + Math.floor(k / inputs)] = drawn[k];
  return values;
}

/** The layers of the page, ready to run: with their own weights, or initialised from `next`. */
const network = (layers, next) => layers.map((layer) => ({
  ...layer,
  ...(layer.layers && { layers: network(layer.layers, next) }),
  ...(layer.shape && { values: next ? initial(layer, next) : floats(layer.values) }),
}));

/** The decoder that 2_benchmark calls untrained. `init.skip` numbers initialise other parts. */
function untrained({ decoder, init }) {
  const next = twister(init.seed);
  uniforms(next, init.skip);
  return network(decoder, next);
}

/** x (n, inputs) → (n, outputs); `values` are the weights (inputs, outputs), then the biases. */
function linear({ shape: [inputs, outputs], values }, x, n) {
  const y = new Float64Array(n * outputs), biases = values.subarray(inputs * outputs);
  for (let row = 0; row < n; row++) {
    const sums = y.subarray(row * outputs, (row + 1) * outputs);
    sums.set(biases);
    for (let i = 0; i < inputs; i++) {
      const value = x[row * inputs + i];
      if (value === 0) continue; // after a ReLU about half of the inputs are 0
      for (let o = 0, at = i * outputs; o < outputs; o++) sums[o] += value * values[at + o];
    }
  }
  return y;
}

function layernorm({ shape: [width], values, eps }, x) {
  const y = x.slice(), mean = (v) => v.reduce((sum, each) => sum + each, 0) / width;
  for (let start = 0; start < x.length; start += width) {
    const own = y.subarray(start, start + width), centre = mean(own);
    const scale = 1 / Math.sqrt(mean(own.map((v) => (v - centre) ** 2)) + eps);
    own.forEach((v, i) => (own[i] = (v - centre) * scale * values[i] + values[width + i]));
  }
  return y;
}

const LAYERS = {
  linear, layernorm,
  relu: (layer, x) => x.map((v) => (v > 0 ? v : 0)),
  silu: (layer, x) => x.map((v) => v / (1 + Math.exp(-v))),
  residual: ({ layers }, x, n) => run(layers, x, n).map((v, i) => v + x[i]),
};

const run = (layers, x, n) => layers.reduce((h, layer) => LAYERS[layer.kind](layer, h, n), x);

// --- Operations ----------------------------------------------------------------------------------
/** Class 0, 1, 2 (for −1, 0, +1) of each triple of logits: the likeliest one, or with `dice`
    (a number in [0, 1) a triple) one drawn from the distribution. */
function classes(logits, dice) {
  const found = new Uint8Array(logits.length / C);
  for (let t = 0; t < found.length; t++) {
    const low = logits[C * t], mid = logits[C * t + 1], high = logits[C * t + 2];
    if (dice) {
      const top = Math.max(low, mid, high);
      const first = Math.exp(low - top), second = first + Math.exp(mid - top);
      const u = (1 - dice[t]) * (second + Math.exp(high - top));
      found[t] = (u > first) + (u > second);
    } else if (mid > low && mid >= high) found[t] = 1; // the first of equal ones, as in PyTorch
    else if (high > low && high > mid) found[t] = 2;
  }
  return found;
}

/** The number of an operation: its entries are digits in base 3, the least significant first. */
function indexOf(table, start = 0) {
  let index = 0;
  for (let t = T - 1; t >= 0; t--) index = C * index + table[start + t];
  return index;
}

const tableOf = (index) => Array.from({ length: T }, (_, t) => Math.floor(index / C ** t) % C);

/** Latent codes (n, D), the posterior means, of n tables of classes. */
const encode = (vae, tables, n) => run(vae.encoder, Float64Array.from(tables, (c) => c - 1), n);

/** The operation that each of n latents decodes to: by argmax, or with `dice` by drawing. */
function decode(decoder, z, n, dice) {
  const tables = classes(run(decoder, z, n), dice);
  return Array.from({ length: n }, (_, row) => indexOf(tables, row * T));
}

// --- Coverage ------------------------------------------------------------------------------------
/** C(N): the mean number of operations that N draws of a perfect generator reach. */
const ceiling = (n) => -M * Math.expm1(n * Math.log1p(-1 / M));

/** Standard deviation of that number. */
function spread(n) {
  const empty = Math.exp(n * Math.log1p(-1 / M)), both = Math.exp(n * Math.log1p(-2 / M));
  return Math.sqrt(M * empty + M * (M - 1) * both - (M * empty) ** 2);
}

/** One trial of 2_benchmark, batch by batch: n prior latents, decoded by every one of `decoders`.
    Latents and dice are drawn in the benchmark's chunks, because the two share one stream. */
function* coverage(decoders, { seed, categorical, n, ns, chunk }) {
  const reached = decoders.map(() => ({ drawn: 0, count: 0, seen: new Uint8Array(M) }));
  const next = twister(seed), D = decoders[0][0].shape[0];
  for (let drawn = 0; drawn < n; drawn = reached[0].drawn) {
    const size = Math.min(chunk, ns.find((end) => end > drawn) - drawn);
    const z = normals(next, size * D), dice = uniforms(next, size * T);
    for (let start = 0; start < size; start += BATCH) {
      const end = Math.min(size, start + BATCH), latents = z.subarray(start * D, end * D);
      const own = categorical ? dice.subarray(start * T, end * T) : undefined;
      reached.forEach((one, i) => {
        for (const index of decode(decoders[i], latents, end - start, own)) {
          one.count += 1 - one.seen[index];
          one.seen[index] = 1;
        }
        one.drawn += end - start;
      });
      yield reached;
    }
  }
}
