"use strict";
/* What the page computes, in float64 on the float32 weights. lib/tests/test_explore.py compares it
   with the library. */

const T = 9, C = 3, M = C ** T; // entries of a table, values of an entry, operations
const TILE = 16; // outputs of a layer that are summed at a time, in registers
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

/** (inputs + 1, outputs), the biases last → tiles of TILE outputs, (inputs + 1, TILE), biases first. */
function tiled([wide, narrow], values) {
  const high = wide + 1, tiles = new Float64Array(Math.ceil(narrow / TILE) * high * TILE);
  for (let i = 0; i < high; i++)
    for (let o = 0; o < narrow; o++)
      tiles[(Math.floor(o / TILE) * high + ((i + 1) % high)) * TILE + (o % TILE)] =
        values[i * narrow + o];
  return tiles;
}

/** What `linear` spends its time in: to the first TILE places, the biases at byte `tile` and, of
    every value up to byte `end`, the value times its weights. A value takes 16 bytes: itself, and
    how far behind the biases its weights stand. */
const plain = (floats, whole) => (value, end, tile) => {
  floats.copyWithin(0, tile / 8, tile / 8 + TILE);
  for (let k = value / 8; k < end / 8; k += 2)
    for (let o = 0, at = (tile + whole[2 * k + 2]) / 8; o < TILE; o++)
      floats[o] += floats[k] * floats[at + o];
};

const BYTES = { // of the words of a WebAssembly function; 0x40: a block that leaves nothing
  "local.get": [0x20], "local.set": [0x21], "i32.const": [0x41], "i32.add": [0x6a],
  "i32.lt_u": [0x49], "i32.load": [0x28], "v128.load": [0xfd, 0], "v128.load64_splat": [0xfd, 10],
  "v128.store": [0xfd, 11], "f64x2.add": [0xfd, 0xf0, 1], "f64x2.mul": [0xfd, 0xf2, 1],
  loop: [0x03, 0x40], if: [0x04, 0x40], br: [0x0c], end: [0x0b],
  $value: [0], $end: [1], $tile: [2], $twice: [3], $weights: [4],
};

/** A module of `plain`, two outputs at a time: the same numbers to the last bit. A number in the
    text is below 128, one byte; after a load or a store are its alignment and its offset. */
function assembled() {
  const each = (text) => Array.from({ length: TILE / 2 }, (_, i) => text(5 + i, 16 * i)).join(" ");
  const text = `
    ${each((sum, at) => `local.get $tile v128.load 3 ${at} local.set ${sum}`)}
    loop local.get $value local.get $end i32.lt_u if
      local.get $value v128.load64_splat 3 0 local.set $twice
      local.get $value i32.load 2 8 local.get $tile i32.add local.set $weights
      ${each((sum, at) => `local.get $twice local.get $weights v128.load 3 ${at} f64x2.mul
        local.get ${sum} f64x2.add local.set ${sum}`)}
      local.get $value i32.const 16 i32.add local.set $value
    br 1 end end
    ${each((sum, at) => `i32.const 0 local.get ${sum} v128.store 3 ${at}`)}
    end`;
  const code = text.trim().split(/\s+/).flatMap((word) => BYTES[word] ?? [Number(word)]);
  const sized = (bytes) => [(bytes.length % 128) | 128, bytes.length >> 7, ...bytes];
  const name = (letters) => [letters.length, ...Array.from(letters, (c) => c.charCodeAt(0))];
  const I32 = 0x7f, V128 = 0x7b, locals = [3, 1, V128, 1, I32, TILE / 2, V128];
  return Uint8Array.from([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // "asm" of version 1, then its sections by number:
    1, ...sized([1, 0x60, 3, I32, I32, I32, 0]), // one type, of three numbers to nothing;
    3, ...sized([1, 0]), // one function, of type 0;
    5, ...sized([1, 0, 1]), // one memory, of one page at first;
    7, ...sized([2, ...name("sum"), 0, 0, ...name("memory"), 2, 0]), // both, seen from outside;
    10, ...sized([1, ...sized([...locals, ...code])]), // and what the function does
  ]);
}

const fast = (() => {
  try {
    return new WebAssembly.Instance(new WebAssembly.Module(assembled())).exports;
  } catch {
    return null; // an older browser, or one where it is switched off
  }
})();

/** Places for numbers, `length` of them at least; of the module's memory where there is one. */
function room(length) {
  if (!fast) return new Float64Array(length);
  const missing = Math.ceil((8 * length - fast.memory.buffer.byteLength) / 2 ** 16);
  if (missing > 0) fast.memory.grow(missing);
  return new Float64Array(fast.memory.buffer);
}

/** x (n, inputs) → (n, outputs). A ReLU leaves half of the inputs 0: they are left out. */
function linear({ shape: [wide, narrow], values: tiles }, x, n) {
  const start = TILE + tiles.length, floats = room(start + 2 * n * wide);
  const whole = new Int32Array(floats.buffer), sum = fast ? fast.sum : plain(floats, whole);
  const ends = new Int32Array(n), y = new Float64Array(n * narrow);
  floats.set(tiles, TILE);
  for (let row = 0; row < n; row++) {
    let k = start + 2 * row * wide;
    for (let i = 0; i < wide; i++) {
      const value = x[row * wide + i];
      floats[k] = value; // and the next one overwrites it if it is 0: faster than a branch
      whole[2 * k + 2] = 8 * TILE * (i + 1);
      k += 2 * (value !== 0);
    }
    ends[row] = k;
  }
  for (let first = 0, tile = TILE; first < narrow; first += TILE, tile += (wide + 1) * TILE)
    for (let row = 0; row < n; row++) {
      sum(8 * (start + 2 * row * wide), 8 * ends[row], 8 * tile);
      for (let o = 0; o < TILE && first + o < narrow; o++) y[row * narrow + first + o] = floats[o];
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
  for (let i = 0; i < x.length; i++) y[i] = (x[i] + Math.abs(x[i])) / 2; // no branch
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
const PACE = 20; // milliseconds of one at least, for the eye

/** What a worker of the page does: n draws, and after every frame a word of how it stands. */
async function count({ layers, untrained, seed, categorical, n }, post) {
  const decoder = network(layers, untrained ? generator(seed, 1) : undefined);
  const own = new Coverage(decoder, seed, categorical);
  while (own.drawn < n) {
    const goal = Math.min(n, own.drawn + Math.ceil(n / FRAMES)), began = Date.now();
    while (own.drawn < goal && Date.now() < began + SLICE)
      own.draw(Math.min(BATCH, goal - own.drawn));
    post({ drawn: own.drawn, count: own.count, seen: own.seen });
    const left = began + PACE - Date.now();
    if (left > 0) await new Promise((then) => setTimeout(then, left));
  }
}
