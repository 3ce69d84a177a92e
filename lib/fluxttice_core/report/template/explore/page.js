"use strict";
/* The page: shows and moves what engine.js computes. */

const { vaes, names, ns, chunk } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const VALUE = ["−1", "0", "+1"], COLOUR = ["var(--minus)", "var(--zero)", "var(--plus)"];
const STEPS = 81; // positions along a slider at which its latent is decoded
const say = (n) => n.toLocaleString("en", { maximumFractionDigits: 0 });
const entry = (t) => `entry a = ${VALUE[Math.floor(t / C)]}, b = ${VALUE[t % C]}`;
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const current = () => vaes[chosen("vae")];
const sliders = [...document.querySelectorAll("input[type=range]")];

for (const vae of Object.values(vaes)) {
  vae.untrained = untrained(vae); // needs the layers as they are in the page
  for (const part of ["encoder", "decoder"]) vae[part] = network(vae[part]);
}

// --- The latent code -----------------------------------------------------------------------------
let z, table; // the latents, and the classes that they decode to
let held = null, before; // the slider that was moved last, and the table before it was moved

function chooseVae() {
  const { active, range } = current();
  sliders.forEach((slider, i) => {
    Object.assign(slider, { min: -range, max: range });
    $(active.includes(i) ? "active" : "inactive").append(slider.closest(".latent"));
  });
  $("ours-name").textContent = `VAE-${chosen("vae")}`;
  resetCoverage();
}

/** Show latents; those of a table that was chosen, with the table. */
function give(latents, wanted) {
  z = latents;
  held = null;
  showLatent(wanted);
}

const giveTable = (wanted) => give(encode(current(), wanted, 1), wanted);

function move(i) {
  if (held !== i) [held, before] = [i, table];
  z[i] = Number(sliders[i].value);
  showLatent();
}

function showLatent(wanted) {
  const logits = run(current().decoder, z, 1);
  table = Array.from(classes(logits));
  const compared = wanted ?? (held === null ? table : before);
  for (let t = 0; t < T; t++) showEntry(t, logits.subarray(C * t, C * t + C), compared[t]);
  const index = indexOf(table);
  $("name").textContent = names[index] ?? `no name: operation ${say(index)}`;
  $("named").value = index in names ? index : "";
  $("said").textContent = sentence(wanted, compared);
  for (let i = 0; i < z.length; i++) showSlider(i);
}

function showEntry(t, logits, compared) {
  const powers = Array.from(logits, (v) => Math.exp(v - Math.max(...logits)));
  const shares = powers.map((power) => (100 * power) / powers.reduce((x, y) => x + y));
  const share = shares[table[t]]; // below 100 %, although float64 may round it to 100
  const likely = share > 99.9 ? "over 99.9" : percent(share, 1);
  const button = $(`entry${t}`), [value, bars] = button.children;
  button.className = `value${table[t]}` + (table[t] === compared ? "" : " changed");
  value.textContent = VALUE[table[t]];
  button.ariaLabel = `${entry(t)}: ${value.textContent}, ${likely} % likely. Press to change it.`;
  [...bars.children].forEach((bar, c) => (bar.style.width = `${shares[c]}%`));
}

function sentence(wanted, compared) {
  const changes = compared.flatMap((value, t) =>
    value === table[t] ? [] : `${entry(t)} went from ${VALUE[value]} to ${VALUE[table[t]]}`);
  if (wanted && !changes.length) return "Encoded and decoded: all nine entries are reconstructed.";
  if (wanted) return `Encoded and decoded: ${changes.join("; ")}.`;
  if (held === null) return "Drawn from the prior: N(0, 1) in every latent.";
  return `Latent ${held} moved: ${changes.join("; ") || "no entry has changed yet"}.`;
}

/** A slider, and under it the values that the entry it changes most takes along its way. */
function showSlider(i) {
  const { decoder, range } = current(), moved = new Float64Array(STEPS * z.length);
  for (let step = 0; step < STEPS; step++) {
    moved.set(z, step * z.length);
    moved[step * z.length + i] = range * ((2 * step) / (STEPS - 1) - 1);
  }
  const along = classes(run(decoder, moved, STEPS)), changes = Array(T).fill(0);
  for (let k = T; k < along.length; k++) changes[k % T] += along[k] !== along[k - T];
  const most = Math.max(...changes), owner = changes.indexOf(most);
  const more = changes.filter(Boolean).length - 1;
  $(`owner${i}`).textContent = most
    ? `${entry(owner)}${more ? `, and ${more} more` : ""}` : "changes nothing here";
  const colours = Array.from({ length: STEPS }, (_, k) =>
    `${most ? COLOUR[along[k * T + owner]] : "var(--line)"} 0 ${(100 * (k + 1)) / STEPS}%`);
  $(`stripes${i}`).style.background = `linear-gradient(to right, ${colours})`;
  sliders[i].value = z[i];
  $(`value${i}`).textContent = z[i].toFixed(2).replace("-0.00", "0.00").replace("-", "−");
}

// --- The coverage --------------------------------------------------------------------------------
const MAPS = ["ours", "untrained"], WIDE = 243, HIGH = 81; // pixel i is operation i
const SLICE = 40; // milliseconds of computation between two moments for the reader's input
let runs, curves, drawing = null; // for each map: its run and its curve; the batches being drawn

function resetCoverage() {
  drawing = null;
  runs = MAPS.map(() => ({ drawn: 0, count: 0, seen: new Uint8Array(M) }));
  curves = MAPS.map(() => []);
  $("verdict").textContent = "";
  $("why").hidden = chosen("mode") === "argmax";
  showCoverage();
}

async function draw() {
  resetCoverage();
  const { decoder, untrained, trials } = current(), seed = trials[$("trial").value - 1];
  const n = Number($("n").value), categorical = chosen("mode") === "categorical";
  const batches = (drawing = coverage([decoder, untrained], { seed, categorical, n, ns, chunk }));
  while (drawing === batches) {
    const end = performance.now() + SLICE;
    let step;
    do step = batches.next(); while (!step.done && performance.now() < end);
    if (step.done) drawing = null;
    else runs = step.value;
    showCoverage();
    await new Promise((then) => setTimeout(then));
  }
}

function showCoverage() {
  const n = Number($("n").value), steps = Array.from({ length: 101 }, (_, k) => (k * n) / 100);
  $("ceiling-line").setAttribute("points", points(steps.map((x) => [x, ceiling(x)]), n));
  $("progress").value = runs[0].drawn / n;
  $("draw").textContent = drawing ? "Stop" : "Draw";
  MAPS.forEach((map, i) => showMap(map, runs[i], curves[i], n));
  if (runs[0].drawn < n) return;
  const [ours, others] = runs.map((one) => one.count), top = ceiling(n), margin = 1.96 * spread(n);
  const place = Math.abs(ours - top) <= margin ? "within" : ours < top ? "below" : "above";
  $("verdict").textContent = `${say(n)} draws: this network reached ${say(ours)} operations, ` +
    `${place} the range of a perfect generator (${say(top)} ± ${say(margin)}). ` +
    `The untrained network reached ${say(others)}.`;
}

function showMap(map, { drawn, count, seen }, curve, n) {
  const ink = $(map).getContext("2d"), share = percent((100 * count) / M, 2);
  ink.clearRect(0, 0, WIDE, HIGH);
  ink.fillStyle = getComputedStyle($(map)).color;
  seen.forEach((lit, k) => lit && ink.fillRect(k % WIDE, Math.floor(k / WIDE), 1, 1));
  $(map).ariaLabel = `Map of 19,683 operations, ${say(count)} of them reached`;
  $(`${map}-count`).textContent = say(count);
  $(`${map}-share`).textContent = drawn ? `${share} % of all` : "press Draw";
  curve.push([drawn, count]);
  $(`${map}-line`).setAttribute("points", points(curve, n));
}

/** Draws and operations → positions in the chart's frame of 600 × 180. */
const points = (curve, n) => curve.map(([x, y]) => [(600 * x) / n, 180 - (180 * y) / M]).join(" ");

// --- Begin ---------------------------------------------------------------------------------------
sliders.forEach((slider, i) => (slider.oninput = () => move(i)));
for (let t = 0; t < T; t++)
  $(`entry${t}`).onclick = () => giveTable(table.map((c, u) => (u === t ? (c + 1) % C : c)));
$("named").onchange = ({ target }) => target.value && giveTable(tableOf(Number(target.value)));
$("random").onclick = () => giveTable(tableOf(Math.floor(Math.random() * M)));
$("prior").onclick = () => give(normals(twister(Math.random() * 2 ** 32), z.length));
$("network").onchange = () => (chooseVae(), giveTable(table));
$("settings").onchange = resetCoverage;
$("draw").onclick = () => (drawing ? ((drawing = null), showCoverage()) : draw());
chooseVae();
giveTable(tableOf(Number(Object.keys(names).find((index) => names[index].startsWith("AND")))));
