// Pictures of the truth beside the prediction, the worst first.

const PER_PAGE = 12;
const LABELLED = 3; // of a small picture's mistakes
const BAD = ["duplicate", "confused", "misplaced", "nothing there"];

function gallery(model, pictures) {
  const entries = model.gallery || [];
  if (!entries.length) return el("p", { class: "note" }, "There are no pictures of mistakes.");
  return entries[0].truth_map === undefined ? mistakes(entries, pictures) : maps(entries, pictures);
}

function shelf(entries, card) {
  const list = el("ul", { class: "gallery" });
  const more = el("button", { type: "button", onclick: () => show(list.children.length + PER_PAGE) });
  let chosen = entries;
  function show(count) {
    list.append(...chosen.slice(list.children.length, count).map(card));
    const left = chosen.length - list.children.length;
    more.textContent = `Show ${Math.min(left, PER_PAGE)} more`;
    more.hidden = left === 0;
  }
  const start = (order) => { chosen = order; list.replaceChildren(); show(PER_PAGE); };
  start(entries);
  return { element: el("div", {}, list, el("p", {}, more)), start };
}

function mistakes(entries, pictures) {
  const orders = {
    all: () => entries,
    miss: () => entries.filter((e) => e.miss > 0).sort((a, b) => b.miss - a.miss),
    alarm: () => entries.filter((e) => e.alarm > 0).sort((a, b) => b.alarm - a.alarm),
  };
  const { element, start } = shelf(entries, (entry) => card(pairOf(entry, pictures), told(entry)));
  return el("div", {},
    el("div", { class: "bar" }, choice("Show", [["all", "both, by turns"], ["miss", "misses, the worst first"],
      ["alarm", "false alarms, the worst first"]], "all", (value) => start(orders[value]()))),
    el("ul", { class: "legend key" }, [["right", "var(--right)", "found"], ["missed", "var(--missed)", "missed"],
      ["bad", "var(--wrong)", "false alarm"]].map(([, colour, name]) =>
      el("li", {}, el("i", { style: { borderColor: colour } }), name))),
    el("p", { class: "note" }, "Detections with a score of at least 0.3. A miss is the worse the larger the " +
      "object and the less of it is covered; a false alarm is as bad as its score is high."),
    element);
}

function pairOf(entry, pictures) {
  const source = pictures[entry.jpeg];
  return (labels) => el("div", { class: "pair" },
    shot(source, "truth", entry, entry.truth, labels), shot(source, "detections", entry, entry.found, labels));
}

function shot(source, title, entry, marks, labels) {
  const overlay = svg("svg", { viewBox: `0 0 ${entry.width} ${entry.height}`, preserveAspectRatio: "none" });
  const size = Math.max(entry.width, entry.height) / 22;
  const texts = [];
  for (const mark of [...marks].reverse()) { // the worst on top
    const kind = BAD.includes(mark.kind) ? "bad" : mark.kind;
    const [x, y, width, height] = mark.box;
    const group = svg("g", {}, svg("title", {}, said(mark)));
    for (const piece of mark.outline || [])
      group.append(svg("polygon", { class: `mark ${kind}`, points: piece.join(" ") }));
    if (!(mark.outline || []).length) group.append(svg("rect", { class: `mark ${kind}`, x, y, width, height }));
    if ((kind === "bad" || kind === "missed") && marks.indexOf(mark) < labels) {
      const text = mark.name + (isNumber(mark.score) ? ` ${mark.score.toFixed(2)}` : "");
      texts.push(svg("text", {
        x: Math.max(2, Math.min(x + 3, entry.width - text.length * size * 0.56)),
        y: Math.max(size, y + size), "font-size": size,
      }, text));
    }
    overlay.append(group);
  }
  overlay.append(...texts);
  return el("figure", { class: "shot" },
    el("img", { src: source, alt: `${entry.image}, ${title}: ${marks.map(said).slice(0, 8).join("; ")}`,
      width: entry.width, height: entry.height }),
    overlay, el("figcaption", {}, title));
}

function said(mark) {
  if (mark.kind === "found") return `${mark.name}, found`;
  if (mark.kind === "crowd") return `${mark.name}, a crowd: doesn’t count`;
  if (mark.kind === "missed") return `${mark.name}, missed (IoU ${mark.iou.toFixed(2)})`;
  const score = `${mark.name} ${mark.score.toFixed(2)}`;
  if (mark.kind === "right") return `${score}, right (IoU ${mark.iou.toFixed(2)})`;
  if (mark.kind === "confused") return `${score}, where there is ${mark.instead}`;
  if (mark.kind === "duplicate") return `${score}, of an object that was found already`;
  if (mark.kind === "misplaced") return `${score}, off its object (IoU ${mark.iou.toFixed(2)})`;
  return `${score}, where there is nothing`;
}

function told(entry) {
  const worst = [...entry.truth.filter((m) => m.kind === "missed").slice(0, 2),
    ...entry.found.filter((m) => BAD.includes(m.kind)).slice(0, 2)];
  return [el("strong", {}, entry.image), " ", worst.map(said).join("; ")];
}

function maps(entries, pictures) {
  const pair = (entry) => () => el("div", { class: "pair" },
    [["truth", entry.truth_map], ["prediction", entry.found_map]].map(([title, map]) =>
      el("figure", { class: "shot" },
        el("img", { src: pictures[entry.jpeg], alt: `${entry.image}, ${title}` }),
        el("img", { class: "map", src: pictures[map], alt: "" }),
        el("figcaption", {}, title))));
  const text = (entry) => [
    el("strong", {}, entry.image), ` mean IoU ${percent(entry.mean_iou)}`, el("br"),
    entry.classes.filter((c) => c.share >= 0.005).slice(0, 12).map((c) => el("span", { class: "class" },
      el("i", { class: "swatch", style: { background: c.colour } }), `${c.name} ${percent(c.iou)}`))];
  return el("div", {},
    el("p", { class: "note" }, "The images of the lowest mean IoU first; below each, what it shows and the " +
      "IoU in it, the worst first."),
    shelf(entries, (entry) => card(pair(entry), text(entry))).element);
}

function card(pair, text) {
  const open = () => {
    const dialog = document.getElementById("zoom");
    const close = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
    dialog.replaceChildren(pair(Infinity), el("p", {}, text.map((part) => (part.cloneNode ? part.cloneNode(true) : part))), close);
    dialog.showModal();
  };
  return el("li", { class: "card" },
    el("button", { type: "button", "aria-label": "Show larger", onclick: open }, pair(LABELLED)), el("p", {}, text));
}
