// Line charts whose values can be read with a pointer, a finger or the arrow keys, and tables with bars.
//
// Written by hand, 130 lines and 7 kB: the page is one file, without network, under a policy that
// refuses eval. Of the chart libraries, Vega compiles its expressions with eval, Plotly's bundle
// (4.5 MB) would be a quarter of the page's budget, uPlot (50 kB) draws on a canvas that neither a
// screen reader nor the arrow keys can read, and static SVG of Matplotlib shows no values.

const COLOURS = ["var(--first)", "var(--second)", "var(--third)"];

// lines: [{name, points: [[x, y], …]}]; every line's y is read at the x nearest to the pointer.
function lineChart({ title, lines, xLabel, yLabel, xDigits = 2, yDigits = 3, x: xRange, y: yRange }) {
  const width = 520, height = 300, left = 52, right = 12, top = 10, bottom = 42;
  const all = lines.flatMap((line) => line.points);
  const [x0, x1] = xRange || spread(all.map((p) => p[0]));
  const [y0, y1] = yRange || [0, roundUp(spread(all.map((p) => p[1]))[1])];
  const x = (value) => left + ((value - x0) / (x1 - x0 || 1)) * (width - left - right);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0 || 1)) * (height - top - bottom);

  const cross = svg("line", { class: "cross", y1: top, y2: height - bottom, visibility: "hidden" });
  const dots = lines.map((_, i) => svg("circle", { r: 4, fill: COLOURS[i % 3], visibility: "hidden" }));
  const readout = el("output", { "aria-live": "polite" }, "Point at the chart, or use ← and →.");
  const xs = [...new Set(all.map((p) => p[0]))].sort((a, b) => a - b);
  let at = -1;

  function show(index) {
    at = Math.max(0, Math.min(xs.length - 1, index));
    const place = xs[at];
    cross.setAttribute("x1", x(place));
    cross.setAttribute("x2", x(place));
    cross.setAttribute("visibility", "visible");
    const values = lines.map((line, i) => {
      const point = nearest(line.points, place);
      dots[i].setAttribute("cx", x(point[0]));
      dots[i].setAttribute("cy", y(point[1]));
      dots[i].setAttribute("visibility", "visible");
      return `${line.name} ${fixed(point[1], yDigits)}`;
    });
    readout.textContent = `${xLabel} ${fixed(place, xDigits)}: ${values.join(" · ")}`;
  }
  const pointed = (event) => {
    const box = chart.getBoundingClientRect();
    const value = x0 + (((event.clientX - box.left) / box.width) * width - left) /
      (width - left - right) * (x1 - x0);
    let best = 0;
    xs.forEach((other, i) => { if (Math.abs(other - value) < Math.abs(xs[best] - value)) best = i; });
    show(best);
  };
  const typed = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -xs.length, End: xs.length }[event.key];
    if (step) { show(at + step); event.preventDefault(); }
  };
  const chart = svg("svg", {
    class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0,
    "aria-label": `${title}: ${yLabel} over ${xLabel}, ${lines.map((l) => l.name).join(", ")}`,
    onpointermove: pointed, onpointerdown: pointed, onkeydown: typed,
  },
  ticks(y0, y1).map((value) => [
    svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
    svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, short(value)),
  ]),
  ticks(x0, x1, xDigits === 0).map((value) =>
    svg("text", { x: x(value), y: height - bottom + 18, "text-anchor": "middle" }, short(value))),
  svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
  svg("text", { x: 14, y: (top + height - bottom) / 2, "text-anchor": "middle",
    transform: `rotate(-90 14 ${(top + height - bottom) / 2})` }, yLabel),
  lines.map((line, i) => svg("polyline", {
    class: "line", stroke: COLOURS[i % 3],
    points: line.points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" "),
  })),
  lines.filter((line) => line.points.length < (line.dots ? 60 : 2)).map((line) => line.points.map((p) =>
    svg("circle", { cx: x(p[0]), cy: y(p[1]), r: 3, fill: COLOURS[lines.indexOf(line) % 3] }))),
  cross, dots);
  return el("figure", {}, el("h3", {}, title), chart, legend(lines.map((line) => line.name)), readout);
}

function legend(names) {
  return el("ul", { class: "legend" }, names.map((name, i) =>
    el("li", {}, el("i", { style: { background: COLOURS[i % 3] } }), name)));
}

const spread = (values) => values.reduce(([low, high], value) =>
  [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
const nearest = (points, place) => points.reduce((best, point) =>
  Math.abs(point[0] - place) < Math.abs(best[0] - place) ? point : best);

function stepOf(low, high, whole) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const steps = [1, 2, 2.5, 5, 10].map((factor) => factor * power);
  return steps.find((value) => value >= rough && (!whole || Number.isInteger(value))) || 1;
}
function roundUp(high) {
  if (!(high > 0)) return 1;
  const step = stepOf(0, high, false);
  return Math.ceil(high / step - 1e-9) * step;
}
function ticks(low, high, whole = false) {
  if (!(high > low)) return [low];
  const step = stepOf(low, high, whole);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}
const short = (value) => {
  const rounded = Number(value.toPrecision(6));
  if (rounded && Math.abs(rounded) < 0.001) return rounded.toExponential(0);
  return rounded >= 10000 ? `${Number((rounded / 1000).toPrecision(4))}k` : String(rounded);
};

// rows: [{name, values: [share, …], cells: [text, …]}]
function barTable({ title, heads, rows, label, note, judged = true }) {
  const body = el("tbody");
  const fill = (order) => body.replaceChildren(...order(rows).map((row) => el("tr", {},
    el("th", { class: "text", scope: "row" }, row.name),
    el("td", { class: "meter" }, row.values.map((value) => el("span", {
      class: isNumber(value) ? "" : "ghost", style: { width: `${Math.max(1, 100 * (value || 0))}%` },
    }))),
    row.cells.map((cell) => el("td", {}, cell)))));
  const by = (key, sign) => (list) => [...list].sort((a, b) =>
    isNumber(key(a)) - isNumber(key(b)) ? isNumber(key(b)) - isNumber(key(a)) : sign * (key(a) - key(b)));
  const orders = {
    worst: by((row) => row.values[0], 1),
    best: by((row) => row.values[0], -1),
    most: by((row) => row.weight, -1),
    name: (list) => [...list].sort((a, b) => a.name.localeCompare(b.name)),
  };
  const names = [["worst", "worst first"], ["best", "best first"], ["most", "commonest first"], ["name", "by name"]].slice(judged ? 0 : 2);
  const sorting = rows.some((row) => isNumber(row.weight))
    ? el("div", { class: "bar" }, choice("Order", names, names[0][0], (value) => fill(orders[value]))) : null;
  fill(sorting ? orders[names[0][0]] : (list) => list);
  return el("figure", {}, el("h3", {}, title), sorting,
    el("div", { class: "tall", tabindex: 0, role: "region", "aria-label": title },
      el("table", {}, el("thead", {}, el("tr", {}, el("th", { class: "text", scope: "col" }, label),
        el("th", { scope: "col" }), heads.map((head) => el("th", { scope: "col" }, head)))), body)),
    note ? el("p", { class: "note" }, note) : null);
}
