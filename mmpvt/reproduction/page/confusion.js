// What a model takes for what: a matrix whose cells can be read with a pointer, a finger or the arrow keys.

const NAMED = 40; // classes whose names stand beside the matrix; of more, the readout names them
const NUMBERED = 12; // classes whose cells hold their share
const PAIRS = 20;

// names: of rows and columns; counts[i][j]: of what is i and was taken for j.
function confusionMatrix({ names, counts }, unit) {
  const background = names.at(-1) === "background" && counts.length > 1 && unit === "objects";
  const size = counts.length, cell = size <= NUMBERED ? 46 : size <= NAMED ? 22 : Math.max(5, Math.floor(800 / size));
  const letters = size > NAMED ? 0 : Math.min(22, Math.max(...names.map((name) => name.length)));
  const left = 28 + letters * 6.6, top = 28 + letters * (size <= NUMBERED ? 4.8 : 6.6);
  const slanted = size <= NUMBERED && letters ? Math.min(110, letters * 5) : 6; // the last name reaches out
  const width = left + size * cell + slanted, height = top + size * cell + 6;
  const totals = counts.map((row) => row.reduce((a, b) => a + b, 0));
  const rowName = (i) => (background && i === size - 1 ? "background" : names[i]);
  const columnName = (j) => (background && j === size - 1 ? "not detected" : names[j]);
  const clip = (text) => (text.length > 22 ? `${text.slice(0, 21)}…` : text);
  const share = (i, j) => (totals[i] ? counts[i][j] / totals[i] : 0);
  const say = (i, j) => `${rowName(i)} → ${columnName(j)}: ${counts[i][j].toLocaleString("en")} of ` +
    `${totals[i].toLocaleString("en")} ${unit} (${percent(share(i, j))}%)`;
  const readout = el("output", { "aria-live": "polite" }, "Point at a cell, or use the arrow keys.");
  const cross = svg("rect", { class: "cell-frame", width: cell, height: cell, visibility: "hidden" });
  let at = [0, -1];
  function show(i, j) {
    at = [Math.max(0, Math.min(size - 1, i)), Math.max(0, Math.min(size - 1, j))];
    cross.setAttribute("x", left + at[1] * cell);
    cross.setAttribute("y", top + at[0] * cell);
    cross.setAttribute("visibility", "visible");
    readout.textContent = say(...at);
  }
  const pointed = (event) => {
    const box = chart.getBoundingClientRect(), scale = width / box.width;
    const [i, j] = [((event.clientY - box.top) * scale - top) / cell, ((event.clientX - box.left) * scale - left) / cell];
    if (i >= 0 && j >= 0 && i < size && j < size) show(Math.floor(i), Math.floor(j));
  };
  const typed = (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (step) { show(at[0] + step[0], at[1] + step[1]); event.preventDefault(); }
  };
  const cells = counts.flatMap((row, i) => row.map((count, j) => [i, j, count])).filter(([, , count]) => count);
  const middle = (i) => (i + 0.5) * cell;
  const chart = svg("svg", {
    class: "matrix", viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, style: { maxWidth: `${Math.max(width, 520)}px` },
    "aria-label": `Confusion matrix of ${size} classes: the table of pairs has its largest values`,
    onpointermove: pointed, onpointerdown: pointed, onkeydown: typed,
  },
  svg("rect", { class: "frame", x: left, y: top, width: size * cell, height: size * cell }),
  cells.map(([i, j, count]) => svg("rect", {
    class: i === j ? "right" : "confused", x: left + j * cell, y: top + i * cell, width: cell, height: cell,
    "fill-opacity": (0.1 + 0.9 * share(i, j)).toFixed(3),
  }, size <= NAMED ? svg("title", {}, say(i, j)) : null)),
  size <= NUMBERED ? cells.filter(([i, j]) => share(i, j) >= 0.005).map(([i, j]) => svg("text", {
    class: share(i, j) > 0.55 ? "strong" : null, x: left + middle(j), y: top + middle(i) + 4, "text-anchor": "middle",
  }, (100 * share(i, j)).toFixed(0))) : null,
  letters ? names.map((_, i) => [
    svg("text", { x: left - 6, y: top + middle(i) + 4, "text-anchor": "end" }, clip(rowName(i))),
    svg("text", { x: left + middle(i) + 4, y: top - 6,
      transform: `rotate(${size <= NUMBERED ? -42 : -90} ${left + middle(i) + 4} ${top - 6})` }, clip(columnName(i))),
  ]) : null,
  svg("text", { class: "axis", x: left + (size * cell) / 2, y: 13, "text-anchor": "middle" }, "predicted"),
  svg("text", { class: "axis", x: 13, y: top + (size * cell) / 2, "text-anchor": "middle",
    transform: `rotate(-90 13 ${top + (size * cell) / 2})` }, "truth"),
  cross);
  const scale = el("p", { class: "scale note" }, "share of a row: 0 ", el("i", { class: "right" }), el("i", { class: "confused" }),
    ` 100 % · blue: right, orange: taken for another`);
  return el("div", { class: size <= NUMBERED ? "charts wide" : "matrix-and-pairs" },
    el("figure", {}, el("h3", {}, "Confusion matrix"), el("div", { class: "scroll" }, chart), scale, readout),
    pairTable(counts, totals, unit, rowName, columnName, background));
}

function pairTable(counts, totals, unit, rowName, columnName, background) {
  const last = counts.length - 1;
  const pairs = counts.flatMap((row, i) => row.map((count, j) => ({ i, j, count })))
    .filter(({ i, j, count }) => i !== j && count && !(background && (i === last || j === last)))
    .sort((a, b) => b.count - a.count).slice(0, PAIRS);
  if (!pairs.length) return el("p", { class: "note" }, "No class was taken for another.");
  const largest = pairs[0].count;
  return el("div", { class: "pairs" }, barTable({
    title: "Most confused pairs", label: "truth → prediction", heads: [unit, "% of the class"],
    rows: pairs.map(({ i, j, count }) => ({
      name: `${rowName(i)} → ${columnName(j)}`, values: [count / largest],
      cells: [count.toLocaleString("en"), percent(count / totals[i])],
    })),
  }));
}
