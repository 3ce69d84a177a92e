"use strict";
// The first half computes and touches no page; the second builds the page.

/** A number as the reports print it: never rounded up to 1 or 100 %. */
function number(value, unit) {
  if (value === null) return "undefined";
  if (unit === "count") return value.toFixed(0);
  const near = value > 0.999 && value < 1;
  const fixed = (x, one) => {
    let decimals = 4;
    while (decimals < 16 && Number(x.toFixed(decimals)) >= one) decimals++;
    return x.toFixed(decimals);
  };
  if (unit === "number" && near && value < 1 - 1e-12) return fixed(value, 1);
  if (unit !== "share")
    return value.toFixed(unit === "nats" || (value !== 0 && Math.abs(value) < 0.1) ? 4 : 3);
  const small = value > 0 && value < 0.001;
  return (near ? fixed(100 * value, 100) : (100 * value).toFixed(small ? 4 : 2)) + "%";
}

/** The interval, or that nothing was drawn. A figure is [value, low, high]; an exact one [value]. */
function interval([value, low, high], unit) {
  if (value === null) return "";
  return low === undefined ? "exact" : `${number(low, unit)} … ${number(high, unit)}`;
}

/** Whether two figures' intervals are disjoint; two exact figures, by more than a millionth. */
function disjoint([a, aLow = a, aHigh = a], [b, bLow = b, bHigh = b]) {
  if (a === null || b === null) return a !== b;
  if (aLow === aHigh && bLow === bHigh) // what another machine's rounding does is no difference
    return Math.abs(a - b) > 1e-6 * Math.max(Math.abs(a), Math.abs(b));
  return aLow > bHigh || bLow > aHigh;
}

/** Every figure and every parameter in which two rows differ, and how many figures both have. */
function compare(a, b) {
  const figures = [], parameters = [];
  let compared = 0;
  for (const vae of Object.keys(a.figures))
    for (const metric of Object.keys(a.figures[vae])) {
      const [one, other] = [a.figures[vae][metric], (b.figures[vae] || {})[metric]];
      if (!other) continue;
      compared++;
      if (disjoint(one, other)) figures.push({ vae, metric, a: one, b: other });
    }
  const names = new Set([...Object.keys(a.params), ...Object.keys(b.params)]);
  for (const name of names) {
    const [one, other] = [a, b].map((row) =>
      name in row.params ? JSON.stringify(row.params[name]) : "–");
    if (one !== other) parameters.push({ name, a: one, b: other });
  }
  return { figures, parameters, compared };
}

/** What a column sorts by; of a metric, the worse VAE's (1: more is better). Undefined comes last. */
function key(row, column, better) {
  if (column in row) return row[column] === null ? undefined : row[column];
  const known = Object.values(row.figures).flatMap((figures) => figures[column]?.[0] ?? []);
  if (!known.length) return undefined;
  return better > 0 ? Math.min(...known) : Math.max(...known);
}

function sorted(rows, column, down, better) {
  const order = (x, y) => (x < y ? -1 : x > y ? 1 : 0);
  return rows.map((row) => [key(row, column, better), row]).sort(([x, a], [y, b]) => {
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return (down ? -1 : 1) * order(x, y) || order(b.run, a.run);
  }).map(([, row]) => row);
}

/** Whether a row has every word of `text`, whatever its case. */
function matches(row, text) {
  const { date, name, state, verdict, checkpoint, recipe, seed, damaged } = row;
  const said = [date, name, state, verdict, checkpoint, recipe, `seed=${seed}`, damaged && "damaged"]
    .join(" ").toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => said.includes(word));
}

/** Every metric's [least, largest] over all rows and controls: the ends of its bars. */
function scales(data) {
  const ends = {};
  const see = (metric, low, high) => {
    const [a, b] = ends[metric] || [Infinity, -Infinity];
    ends[metric] = [Math.min(a, low), Math.max(b, high)];
  };
  for (const row of data.rows)
    for (const figures of Object.values(row.figures))
      for (const metric of Object.keys(data.headlines))
        if (figures[metric] && figures[metric][0] !== null)
          see(metric, figures[metric][0], figures[metric][0]);
  for (const band of Object.values(data.bands))
    for (const metrics of Object.values(band))
      for (const metric of Object.keys(data.headlines))
        for (const [low, high] of Object.values(metrics[metric] || {})) see(metric, low, high);
  for (const metric of Object.keys(ends)) if (data.metrics[metric][1] === "share") ends[metric] = [0, 1];
  return ends;
}

function page(data) {
  const CHUNK = 25;
  const at = (id) => document.getElementById(id);
  const ends = scales(data), chosen = [];
  let shown = [], column = "date", down = true, waiting = 0;

  function element(name, attributes, ...children) {
    const svg = ["svg", "rect", "line"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function figure(row, vae, metric) {
    const found = row.figures[vae][metric], [, unit, better] = data.metrics[metric];
    if (!found) return "";
    // A band says what noise scores. Where neither more nor less is better, there is none.
    const controls = (better && data.bands[row.band]?.[vae]?.[metric]) || {};
    const made = element("div", { class: "figure" },
      element("span", { class: `vae ${vae}` }, vae), number(found[0], unit), " ",
      element("small", {}, found[0] === null ? "" : `(${interval(found, unit)})`));
    if (found[0] === null || !Object.keys(controls).length) return made;
    const [low, high] = ends[metric], x = (value) => 100 * (value - low) / (high - low || 1);
    const said = Object.entries(controls).map(([name, [a, b]]) =>
      `${name} ${number(a, unit)} … ${number(b, unit)}`).join("; ");
    const bar = element("svg", { class: `band ${vae}`, viewBox: "-1 0 102 8", role: "img",
      preserveAspectRatio: "none", "aria-label": `controls: ${said}` });
    for (const [a, b] of Object.values(controls))
      bar.append(element("rect", { x: x(a), y: 0, width: Math.max(x(b) - x(a), 1), height: 8 }));
    bar.append(element("line", { x1: x(found[0]), x2: x(found[0]), y1: 0, y2: 8 }));
    made.append(bar);
    made.title = `controls: ${said}`;
    return made;
  }

  function line(row) {
    const box = element("input", { type: "checkbox", "aria-label": `compare ${row.run}` });
    box.checked = chosen.includes(row);
    box.addEventListener("change", () => choose(row, box.checked));
    const links = row.pages.flatMap((file) =>
      [element("a", { href: `${row.run}/${file}` }, file.slice(2, -5)), " "]);
    const steps = Object.entries(row.steps).filter(([, state]) => state !== "complete")
      .map(([step, state]) => `${step} ${state}`).join(", ");
    return element("tr", { "data-state": row.state },
      element("td", {}, box),
      element("td", {}, row.date.slice(0, 10), element("small", {}, row.date.slice(11))),
      element("th", { scope: "row" }, element("a", { href: `${row.run}/` }, row.name),
        element("small", {}, ...links)),
      element("td", {}, element("span", { class: row.state }, row.state),
        element("small", {}, steps),
        element("span", { class: "reason", title: row.reason }, row.damaged || row.reason)),
      element("td", {}, element("span", { class: row.verdict }, row.verdict || "–")),
      element("td", {}, element("code", { title: row.checkpoint }, row.checkpoint.slice(0, 8))),
      element("td", {}, row.recipe, element("small", {}, row.seed === null ? "" : `seed ${row.seed}`)),
      ...Object.keys(data.headlines).map((metric) => element("td", {},
        ...Object.keys(row.figures).map((vae) => figure(row, vae, metric)))));
  }

  function more() {
    const body = at("runs").tBodies[0], start = body.rows.length;
    body.append(...shown.slice(start, start + CHUNK).map(line));
    waiting = body.rows.length < shown.length ? setTimeout(more) : 0;
  }

  function show() {
    clearTimeout(waiting);
    const found = data.rows.filter((row) => matches(row, at("filter").value));
    shown = sorted(found, column, down, data.metrics[column]?.[2]);
    at("count").textContent = `${shown.length} of ${data.rows.length} runs`;
    at("runs").tBodies[0].replaceChildren();
    more();
  }

  function choose(row, on) {
    if (on) chosen.push(row);
    else chosen.splice(chosen.indexOf(row), 1);
    if (chosen.length > 2) { chosen.shift(); show(); }
    at("comparison").replaceChildren(...(chosen.length === 2 ? compared(...chosen) : []));
  }

  function compared(...pair) {
    const [a, b] = sorted(pair, "run", false), found = compare(a, b);
    const said = ([...figure], unit) => [number(figure[0], unit),
      " ", element("small", {}, `(${interval(figure, unit)})`)];
    const table = (caption, rows) => {
      if (!rows.length) return element("p", {}, `${caption}: none.`);
      const head = ["", `${a.date} ${a.name}`, `${b.date} ${b.name}`];
      return element("table", {}, element("caption", { class: "hidden" }, caption),
        element("thead", {}, element("tr", {}, ...head.map((text) =>
          element(text ? "th" : "td", text ? { scope: "col" } : {}, text)))),
        element("tbody", {}, ...rows.map(([name, ...cells]) => element("tr", {},
          element("th", { scope: "row" }, ...name),
          ...cells.map((cell) => element("td", {}, ...cell))))));
    };
    const figures = found.figures.map((one) => {
      const [title, unit] = data.metrics[one.metric];
      const name = [element("span", { class: `vae ${one.vae}` }, one.vae), title];
      return [name, said(one.a, unit), said(one.b, unit)];
    });
    const parameters = found.parameters.map((one) => [[one.name], [one.a], [one.b]]);
    return [
      element("h2", {}, `${figures.length} of ${found.compared} figures differ by more than both intervals, exact ones by more than a millionth`),
      table("Figures that differ", figures),
      element("h2", {}, `${parameters.length} parameters differ`),
      table("Parameters that differ", parameters),
    ];
  }

  function head() {
    const columns = { date: "date (UTC)", name: "run", state: "status", verdict: "verdict",
      checkpoint: "checkpoint", recipe: "recipe", ...data.headlines };
    const made = Object.entries(columns).map(([name, text]) => {
      const button = element("button", { type: "button" }, text);
      button.addEventListener("click", () => {
        [column, down] = [name, name === column ? !down : name in data.headlines];
        for (const [other, cell] of cells)
          cell.setAttribute("aria-sort", other !== column ? "none" : down ? "descending" : "ascending");
        show();
      });
      const sort = name === column ? "descending" : "none";
      return [name, element("th", { scope: "col", "aria-sort": sort }, button)];
    });
    const cells = made, first = element("th", { scope: "col" }, "compare");
    at("runs").tHead.append(element("tr", {}, first, ...made.map(([, cell]) => cell)));
  }

  head();
  at("filter").addEventListener("input", show);
  show();
}

if (typeof document !== "undefined")
  page(JSON.parse(document.getElementById("data").textContent));
