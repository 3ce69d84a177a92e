"use strict";
/* What the page computes, in float64 on the float32 weights. lib/tests/test_explore.py compares it
   with the library. */

const T = 9, C = 3, M = C ** T; // entries of a table, values of an entry, operations
const TILE = 8; // outputs of a layer that are summed at a time, in registers
const BATCH = 128; // latents through a network at a time

/** A percentage; more decimals where fewer would round it up to 100. */
function percent(value, decimals) {
  while (value < 100 && Number(value.toFixed(decimals)) >= 100) decimals++;
  return value.toFixed(decimals);
}

// --- Random numbers ------------------------------------------------------------------------------

/** sfc32 (Doty-Humphrey, PractRand): a stream of whole numbers below 2^32. */
function generator(seed, stream) {
  let a = seed | 0, b = (seed / 2 ** 32) | 0, c = stream | 0, counter = 1;
  const next = () => {
    const sum = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return sum >>> 0;
  };
  for (let i = 0; i < 20; i++) next();
  return next;
}

const uniform = (next) => (next() + 1) / 2 ** 32; // in (0, 1]

/** n numbers of N(0, 1), n even: the polar method (Marsaglia and Bray 1964). */
function normals(next, n) {
  const z = new Float64Array(n);
  for (let i = 0; i < n; i += 2) {
    let x, y, s;
    do {
      x = next() / 2 ** 31 - 1;
      y = next() / 2 ** 31 - 1;
      s = x * x + y * y;
    } while (s >= 1 || s === 0);
    const scale = Math.sqrt((-2 * Math.log(s)) / s);
    z[i] = x * scale;
    z[i + 1] = y * scale;
  }
  return z;
}

// --- Networks ------------------------------------------------------------------------------------

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return Float64Array.from(new Float32Array(bytes.buffer)); // every machine left is little-endian
}

/** What PyTorch gives a fresh layer: U(±1/√inputs) to a linear one, 1 and 0 to a LayerNorm. */
function fresh({ kind, shape: [wide, narrow] }, next) {
  if (kind === "layernorm") return new Float64Array(2 * wide).fill(1, 0, wide);
  const bound = 1 / Math.sqrt(wide);
  return Float64Array.from({ length: (wide + 1) * narrow }, () => bound * (2 * uniform(next) - 1));
}

/** The layers that the page holds, ready to run; with a generator, the same ones untrained. */
function network(layers, next) {
  return layers.map((layer) => {
    if (layer.layers) return { ...layer, layers: network(layer.layers, next) };
    if (!layer.shape) return layer;
    const values = next ? fresh(layer, next) : floats(layer.values);
    return { ...layer, values: layer.kind === "linear" ? tiled(layer.shape, values) : values };
  });
}

/** (inputs + 1, outputs), the last row the biases → tiles of TILE outputs, each (inputs + 1, TILE). */
function tiled([wide, narrow], values) {
  const tiles = new Float64Array(Math.ceil(narrow / TILE) * (wide + 1) * TILE);
  for (let i = 0; i <= wide; i++)
    for (let o = 0; o < narrow; o++)
      tiles[(Math.floor(o / TILE) * (wide + 1) + i) * TILE + (o % TILE)] = values[i * narrow + o];
  return tiles;
}

/** x (n, inputs) → (n, outputs). A ReLU leaves half of the inputs 0: they are left out. */
function linear({ shape: [wide, narrow], values: w }, x, n) {
  const at = new Int32Array(n * wide), kept = new Float64Array(n * wide), ends = new Int32Array(n);
  for (let row = 0; row < n; row++) {
    let end = row * wide;
    for (let i = 0; i < wide; i++) {
      const value = x[row * wide + i];
      kept[end] = value; // and the next one overwrites it if it is 0: faster than a branch
      at[end] = i * TILE;
      end += value !== 0 ? 1 : 0;
    }
    ends[row] = end;
  }
  const y = new Float64Array(n * narrow), sums = new Float64Array(TILE);
  for (let first = 0, tile = 0; first < narrow; first += TILE, tile += (wide + 1) * TILE) {
    const bias = tile + wide * TILE, count = Math.min(TILE, narrow - first);
    for (let row = 0; row < n; row++) {
      let a = w[bias], b = w[bias + 1], c = w[bias + 2], d = w[bias + 3];
      let e = w[bias + 4], f = w[bias + 5], g = w[bias + 6], h = w[bias + 7];
      for (let k = row * wide, end = ends[row]; k < end; k++) {
        const value = kept[k], j = tile + at[k];
        a += value * w[j];
        b += value * w[j + 1];
        c += value * w[j + 2];
        d += value * w[j + 3];
        e += value * w[j + 4];
        f += value * w[j + 5];
        g += value * w[j + 6];
        h += value * w[j + 7];
      }
      sums[0] = a; sums[1] = b; sums[2] = c; sums[3] = d;
      sums[4] = e; sums[5] = f; sums[6] = g; sums[7] = h;
      for (let o = 0; o < count; o++) y[row * narrow + first + o] = sums[o];
    }
  }
  return y;
}

function layernorm({ shape: [wide], values, eps }, x, n) {
  const y = new Float64Array(n * wide);
  for (let row = 0; row < n; row++) {
    const own = x.subarray(row * wide, (row + 1) * wide);
    const mean = own.reduce((sum, v) => sum + v, 0) / wide;
    const variance = own.reduce((sum, v) => sum + (v - mean) ** 2, 0) / wide;
    const scale = 1 / Math.sqrt(variance + eps);
    for (let i = 0; i < wide; i++)
      y[row * wide + i] = (own[i] - mean) * scale * values[i] + values[wide + i];
  }
  return y;
}

function relu(layer, x) {
  const y = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) y[i] = x[i] > 0 ? x[i] : 0;
  return y;
}

const silu = (layer, x) => x.map((v) => v / (1 + Math.exp(-v)));

function residual({ layers }, x, n) {
  const y = run(layers, x, n);
  for (let i = 0; i < x.length; i++) y[i] += x[i];
  return y;
}

const LAYERS = { linear, layernorm, relu, silu, residual };

const run = (layers, x, n) => layers.reduce((h, layer) => LAYERS[layer.kind](layer, h, n), x);

// --- Operations ----------------------------------------------------------------------------------

/** Class 0, 1, 2 (for −1, 0, +1) of each of n·T triples of logits; with a generator, by drawing. */
function classes(logits, next) {
  const found = new Uint8Array(logits.length / C);
  for (let t = 0; t < found.length; t++) {
    const low = logits[C * t], mid = logits[C * t + 1], high = logits[C * t + 2];
    if (next) {
      const top = Math.max(low, mid, high);
      const first = Math.exp(low - top), second = first + Math.exp(mid - top);
      const u = uniform(next) * (second + Math.exp(high - top));
      found[t] = (u > first) + (u > second);
    } else if (mid > low && mid >= high) found[t] = 1; // of equals the first, as in the library
    else if (high > low && high > mid) found[t] = 2;
  }
  return found;
}

/** Number of the operation whose entries start at `start`: base 3, least entry first. */
function indexOf(table, start = 0) {
  let index = 0;
  for (let t = T - 1; t >= 0; t--) index = C * index + table[start + t];
  return index;
}

const tableOf = (index) => Array.from({ length: T }, (_, t) => Math.floor(index / C ** t) % C);

/** Codes (n, D), the posterior means, of n tables of classes. */
const encode = (vae, tables, n) => run(vae.encoder, Float64Array.from(tables, (c) => c - 1), n);

/** Numbers of the operations that n latents decode to: by argmax, or with a generator by drawing. */
function decode(decoder, z, n, next) {
  const tables = classes(run(decoder, z, n), next);
  return Array.from({ length: n }, (_, row) => indexOf(tables, row * T));
}

// --- Coverage ------------------------------------------------------------------------------------

/** C(N): how many of the operations N draws of a perfect generator reach, on average. */
const ceiling = (n) => -M * Math.expm1(n * Math.log1p(-1 / M));

/** Standard deviation of that number. */
function spread(n) {
  const empty = Math.exp(n * Math.log1p(-1 / M)), both = Math.exp(n * Math.log1p(-2 / M));
  return Math.sqrt(M * empty + M * (M - 1) * both - (M * empty) ** 2);
}

/** Draws of the prior, and the operations that they reach through one decoder. */
class Coverage {
  constructor(decoder, seed, categorical) {
    this.decoder = decoder;
    this.latents = generator(seed, 2); // of one seed, the same for every decoder
    this.dice = categorical ? generator(seed, 3) : undefined;
    this.seen = new Uint8Array(M);
    this.count = this.drawn = 0;
  }

  draw(n) {
    const z = normals(this.latents, n * this.decoder[0].shape[0]);
    for (const index of decode(this.decoder, z, n, this.dice)) {
      this.count += 1 - this.seen[index];
      this.seen[index] = 1;
    }
    this.drawn += n;
  }
}

const FRAMES = 40, SLICE = 100; // frames of a run at least, milliseconds of one at most

/** What a worker of the page does: n draws, and after every frame a word of how it stands. */
async function count({ layers, untrained, seed, categorical, n }, post) {
  const decoder = network(layers, untrained ? generator(seed, 1) : undefined);
  const own = new Coverage(decoder, seed, categorical);
  while (own.drawn < n) {
    const goal = Math.min(n, own.drawn + Math.ceil(n / FRAMES)), until = Date.now() + SLICE;
    while (own.drawn < goal && Date.now() < until) own.draw(Math.min(BATCH, goal - own.drawn));
    post({ drawn: own.drawn, count: own.count, seen: own.seen });
    if (own.drawn === goal) await new Promise((then) => setTimeout(then, 12)); // for the eye
  }
}
