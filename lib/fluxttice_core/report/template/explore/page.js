"use strict";
/* The page: what engine.js computes, shown and moved. */

const { vaes, names } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const VALUE = ["−1", "0", "+1"], COLOUR = ["var(--minus)", "var(--zero)", "var(--plus)"];
const STEPS = 81; // places along a slider at which its latent is decoded
const say = (n) => n.toLocaleString("en", { maximumFractionDigits: 0 });
const TWO = { minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: "negative" };
const entry = (t) => `entry a = ${VALUE[Math.floor(t / C)]}, b = ${VALUE[t % C]}`;
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const networks = {}; // built when first asked for

function current() {
  const vae = chosen("vae");
  networks[vae] ??= {
    ...vaes[vae], encoder: network(vaes[vae].encoder), decoder: network(vaes[vae].decoder),
  };
  return networks[vae];
}

// --- The latent ----------------------------------------------------------------------------------

let z, table; // what is shown: the latents, and the classes that they decode to
let held = null, before; // the slider that was moved last, and the table when it was taken up

function buildTable() {
  for (let a = 0; a < C; a++) {
    const row = element("tr", {}, element("th", { scope: "row", textContent: `a = ${VALUE[a]}` }));
    for (let b = 0; b < C; b++) {
      const t = C * a + b, bars = VALUE.map(() => element("i"));
      const button = element("button", { id: `entry${t}`, type: "button" }, element("b"),
        element("span", { className: "bars", ariaHidden: "true" }, ...bars));
      button.onclick = () => give(table.map((value, u) => (u === t ? (value + 1) % C : value)));
      row.append(element("td", {}, button));
    }
    $("table").append(row);
  }
}

function buildSliders() {
  const { active, range, decoder } = current(), wide = decoder[0].shape[0];
  $("active").replaceChildren();
  $("inactive").replaceChildren();
  for (const i of [...active, ...Array(wide).keys()].filter((i, k, all) => all.indexOf(i) === k)) {
    const slider = element("input", {
      type: "range", id: `z${i}`, min: -range, max: range, step: 0.01,
      oninput: () => {
        if (held !== i) [held, before] = [i, table];
        z[i] = Number(slider.value);
        showLatent();
      },
    });
    const label = element("label", { htmlFor: `z${i}`, textContent: `latent ${i}` });
    const track = element("div", { className: "track" }, slider,
      element("div", { className: "stripes", id: `stripes${i}`, ariaHidden: "true" }));
    const number = element("output", { id: `value${i}`, htmlFor: `z${i}` });
    const owner = element("span", { className: "owner", id: `owner${i}` });
    slider.setAttribute("aria-describedby", owner.id);
    $(active.includes(i) ? "active" : "inactive")
      .append(element("div", { className: "latent" }, label, track, number, owner));
  }
  $("others").hidden = active.length === wide;
  $("others-count").textContent = `the other ${wide - active.length} latents`;
}

/** Show a table that was pressed, typed or chosen: its code, and what that decodes to. */
function give(wanted) {
  z = encode(current(), wanted, 1);
  held = null;
  showLatent(wanted);
}

function showLatent(wanted) {
  const logits = run(current().decoder, z, 1);
  table = Array.from(classes(logits));
  const marked = wanted ?? (held === null ? table : before);
  for (let t = 0; t < T; t++) {
    const button = $(`entry${t}`), weights = logits.subarray(C * t, C * t + C);
    const powers = Array.from(weights, (v) => Math.exp(v - Math.max(...weights)));
    const sum = powers.reduce((x, y) => x + y), share = (100 * powers[table[t]]) / sum;
    const likely = share > 99.9 ? "over 99.9" : percent(share, 1); // float64 may say 100: it is less
    button.className = `value${table[t]}` + (table[t] === marked[t] ? "" : " changed");
    button.firstChild.textContent = VALUE[table[t]];
    button.ariaLabel = `${entry(t)}: ${VALUE[table[t]]}, ${likely} % likely. Press for the next value.`;
    button.lastChild.childNodes.forEach((bar, c) => (bar.style.width = `${(100 * powers[c]) / sum}%`));
  }
  const index = indexOf(table);
  $("name").textContent = names[index] ?? `no name: operation ${say(index)}`;
  $("named").value = index in names ? index : "";
  if (document.activeElement !== $("typed")) showTyped();
  const differ = [...marked.keys()].filter((t) => marked[t] !== table[t]);
  if (wanted)
    $("said").textContent = differ.length
      ? `Not kept: ${differ.length} of 9 entries come back otherwise from the code.`
      : "Encoded, and decoded from its code: all nine entries come back.";
  else if (held === null) $("said").textContent = "Drawn from the prior, N(0, 1) in every latent.";
  else
    $("said").textContent = `Latent ${held} moved: ` + (differ.map((t) =>
      `${entry(t)} went from ${VALUE[marked[t]]} to ${VALUE[table[t]]}`).join("; ")
      || "no entry has changed yet") + ".";
  showSliders();
}

/** Each slider, and under it what the entry that it changes becomes along its way. */
function showSliders() {
  const { decoder, range } = current(), wide = z.length;
  for (let i = 0; i < wide; i++) {
    const moved = new Float64Array(STEPS * wide);
    for (let step = 0; step < STEPS; step++) {
      moved.set(z, step * wide);
      moved[step * wide + i] = range * ((2 * step) / (STEPS - 1) - 1);
    }
    const along = classes(run(decoder, moved, STEPS));
    const changes = Array.from({ length: T }, (_, t) => {
      let count = 0;
      for (let step = 1; step < STEPS; step++)
        count += along[step * T + t] !== along[(step - 1) * T + t];
      return count;
    });
    const most = Math.max(...changes), owner = changes.indexOf(most);
    const more = changes.filter(Boolean).length - 1;
    $(`owner${i}`).textContent = most
      ? `${entry(owner)}${more ? `, and ${more} more` : ""}` : "changes nothing here";
    const stops = Array.from({ length: STEPS }, (_, step) => {
      const colour = most ? COLOUR[along[step * T + owner]] : "var(--line)";
      return `${colour} ${(100 * step) / STEPS}% ${(100 * (step + 1)) / STEPS}%`;
    });
    $(`stripes${i}`).style.background = `linear-gradient(to right, ${stops.join()})`;
    $(`z${i}`).value = z[i];
    $(`value${i}`).textContent = z[i].toLocaleString("en", TWO).replace("-", "−");
  }
}

function showTyped() {
  $("typed").value = table.map((c) => "−0+"[c]).join("").replace(/...(?!$)/g, "$& ");
  $("typed").ariaInvalid = "false";
}

/** −0+ in any spelling (also -1 0 1) → classes, or nothing. */
function parsed(text) {
  const signs = text.replace(/[−–]/g, "-").replace(/([-+])1/g, "$1").replace(/1/g, "+");
  const kept = signs.replace(/[\s,;]/g, "");
  return /^[-0+]{9}$/.test(kept) ? Array.from(kept, (sign) => "-0+".indexOf(sign)) : null;
}

function readTyped() {
  const wanted = parsed($("typed").value);
  $("typed").ariaInvalid = String(!wanted);
  if (wanted) give(wanted);
  else $("said").textContent = "A table is nine of − 0 +, row by row, such as −−− −00 −0+.";
}

// --- The coverage --------------------------------------------------------------------------------

const MAPS = ["ours", "untrained"], WIDE = 243, HIGH = 81; // pixel i is operation i
const WORK = URL.createObjectURL(new Blob([
  $("engine").textContent, "onmessage = ({ data }) => count(data, postMessage);",
], { type: "text/javascript" }));
let runs, workers = []; // of each map: how its run of draws stands, and who draws while it goes on

function stop() {
  workers.forEach((worker) => worker.terminate());
  workers = [];
  $("draw").textContent = "Draw";
}

function resetCoverage() {
  stop();
  runs = MAPS.map(() => ({ drawn: 0, count: 0, seen: new Uint8Array(M), curve: [[0, 0]] }));
  const seed = $("seed").valueAsNumber, fine = Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32;
  $("seed").ariaInvalid = String(!fine);
  $("draw").disabled = !fine;
  $("verdict").textContent = fine ? "" : "The seed is a whole number from 0 to 4,294,967,295.";
  $("why").hidden = chosen("how") === "argmax";
  $("ours-name").textContent = `VAE-${chosen("vae")}`;
  showCoverage();
}

function draw() {
  if (workers.length) return stop();
  resetCoverage();
  const n = Number($("n").value), categorical = chosen("how") === "categorical";
  const layers = vaes[chosen("vae")].decoder, seed = $("seed").valueAsNumber;
  $("draw").textContent = "Stop";
  workers = MAPS.map((name, i) => {
    const worker = new Worker(WORK);
    worker.onmessage = ({ data }) => {
      runs[i] = { ...data, curve: [...runs[i].curve, [data.drawn, data.count]] };
      showMap(name, i);
      if (runs.some(({ drawn }) => drawn < n)) return;
      stop();
      tellCoverage();
    };
    worker.postMessage({ layers, untrained: name === "untrained", seed, categorical, n });
    return worker;
  });
}

function tellCoverage() {
  const [ours, untrained] = runs.map((run) => run.count), n = runs[0].drawn;
  const top = ceiling(n), margin = 1.96 * spread(n);
  const more = ours < top ? "fewer than" : "more than";
  const inside = Math.abs(ours - top) <= margin ? "within what" : more;
  $("verdict").textContent =
    `${say(n)} draws: this network reached ${say(ours)} operations, ${inside} chance ` +
    `allows a perfect generator (${say(top)} ± ${say(margin)}); the untrained one ${say(untrained)}.`;
  MAPS.forEach((name, i) =>
    ($(name).ariaLabel = `Map of 19,683 operations, ${say(runs[i].count)} of them lit`));
}

function showCoverage() {
  const n = Number($("n").value);
  const steps = Array.from({ length: 101 }, (_, k) => [(k * n) / 100, ceiling((k * n) / 100)]);
  $("ceiling-line").setAttribute("points", points(steps, n));
  $("last").textContent = say(n);
  $("half").textContent = say(n / 2);
  MAPS.forEach(showMap);
}

function showMap(name, i) {
  const { drawn, count, seen, curve } = runs[i], share = (100 * count) / ceiling(drawn);
  const [red, green, blue] = getComputedStyle($(name)).color.match(/\d+/g);
  const image = new ImageData(WIDE, HIGH), pixels = new Uint32Array(image.data.buffer);
  const colour = (255 << 24) | (blue << 16) | (green << 8) | red;
  for (let index = 0; index < M; index++) pixels[index] = seen[index] * colour;
  $(name).getContext("2d").putImageData(image, 0, 0);
  $(`${name}-count`).textContent = say(count);
  $(`${name}-share`).textContent = drawn ? `${percent(share, 2)} % of the ceiling` : "press Draw";
  $(`${name}-line`).setAttribute("points", points(curve, Number($("n").value)));
}

/** Draws and operations → places in the chart's frame of 600 × 180. */
const points = (curve, n) =>
  curve.map(([x, y]) => `${((600 * x) / n).toFixed(1)},${(180 - (180 * y) / M).toFixed(1)}`).join(" ");

// --- Begin ---------------------------------------------------------------------------------------

buildTable();
for (const [index, name] of Object.entries(names))
  $("named").append(element("option", { value: index, textContent: name }));
$("typed").oninput = readTyped;
$("typed").onblur = showTyped;
$("named").onchange = () => $("named").value && give(tableOf(Number($("named").value)));
$("random").onclick = () => give(tableOf(Math.floor(Math.random() * M)));
$("prior").onclick = () => {
  z = normals(generator(Math.floor(Math.random() * 2 ** 32), 0), z.length);
  held = null;
  showLatent();
};
for (const radio of document.querySelectorAll("input[name=vae]"))
  radio.onchange = () => {
    buildSliders();
    give(table);
    resetCoverage();
  };
for (const control of [...document.querySelectorAll("input[name=how]"), $("n"), $("seed")])
  control.onchange = resetCoverage;
$("draw").onclick = draw;
for (const name of MAPS)
  $(name).onclick = ({ offsetX, offsetY, target }) => {
    const x = Math.floor((WIDE * offsetX) / target.clientWidth);
    give(tableOf(x + WIDE * Math.floor((HIGH * offsetY) / target.clientHeight)));
    $("latent").scrollIntoView();
  };
matchMedia("(prefers-color-scheme: dark)").onchange = showCoverage;
buildSliders();
give(tableOf(Number(Object.keys(names).find((index) => names[index].startsWith("AND")))));
resetCoverage();
