// The truth beside the prediction, the worst images first.

const PER_PAGE = 12;
const LABELLED = 3; // marks of a small image
const FALSE_POSITIVES = ["duplicate", "classification", "localization", "background"];

function gallery(model, images) {
  const entries = model.gallery || [];
  if (!entries.length) return el("p", { class: "note" }, (model.missing || {}).gallery || "There are no images with errors.");
  if (model.classified) return classified(entries, images);
  return entries[0].truth_map === undefined ? detections(entries, images) : maps(entries, images);
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

function detections(entries, images) {
  const worst = (sort) => entries.filter((e) => e[sort] > 0).sort((a, b) => b[sort] - a[sort]);
  const orders = {
    all: () => entries,
    false_negative: () => worst("false_negative"),
    false_positive: () => worst("false_positive"),
  };
  const { element, start } = shelf(entries, (entry) => card(pairOf(entry, images), caption(entry)));
  return el("div", {},
    el("div", { class: "bar" }, choice("Show", [["all", "both, in turns"],
      ["false_negative", "false negatives, the worst first"], ["false_positive", "false positives, the worst first"]], "all", (value) => start(orders[value]()))),
    key(),
    el("p", { class: "note" }, "Detections with a score of at least 0.3. A false negative is the worse the larger the " +
      "object and the lower its best IoU; a false positive, the higher its score."),
    element);
}

function pairOf(entry, images) {
  const source = images[entry.jpeg];
  return (labels) => el("div", { class: "pair" },
    shot(source, "truth", entry, entry.truth, labels), shot(source, "detections", entry, entry.detections, labels));
}

function shot(source, title, entry, marks, labels) {
  const overlay = svg("svg", { viewBox: `0 0 ${entry.width} ${entry.height}`, preserveAspectRatio: "none" });
  const size = Math.max(entry.width, entry.height) / 22;
  const texts = [];
  for (const mark of [...marks].reverse()) { // the worst on top
    const kind = FALSE_POSITIVES.includes(mark.kind) ? "false-positive" : mark.kind;
    const [x, y, width, height] = mark.box;
    const group = svg("g", { class: mark.chosen ? "chosen" : null }, svg("title", {}, describe(mark)));
    for (const piece of mark.polygons || [])
      group.append(svg("polygon", { class: `mark ${kind}`, points: piece.join(" ") }));
    if (!(mark.polygons || []).length) group.append(svg("rect", { class: `mark ${kind}`, x, y, width, height }));
    if ((kind === "false-positive" || kind === "missed") && (mark.chosen || marks.indexOf(mark) < labels)) {
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
    el("img", { src: source, alt: `${entry.image}, ${title}: ${marks.map(describe).slice(0, 8).join("; ")}`,
      width: entry.width, height: entry.height }),
    overlay, el("figcaption", {}, title));
}

function key() {
  return el("ul", { class: "legend key" }, [["var(--correct)", "detected"], ["var(--missed)", "missed"],
    ["var(--wrong)", "false positive, or detected as another class"]].map(([colour, name]) =>
    el("li", {}, el("i", { style: { borderColor: colour } }), name)));
}

function describe(mark) {
  if (mark.kind === "detected") return `${mark.name}, detected`;
  if (mark.kind === "crowd") return `${mark.name}, a crowd: ignored`;
  if (mark.kind === "misclassified") return `${mark.name}, detected as another class`;
  if (mark.kind === "missed") return `${mark.name}, missed (IoU ${mark.iou.toFixed(2)})`;
  const score = `${mark.name} ${mark.score.toFixed(2)}`;
  if (mark.kind === "correct") return `${score}, correct (IoU ${mark.iou.toFixed(2)})`;
  if (mark.kind === "ignored") return `${score}, in a crowd: ignored`;
  if (mark.kind === "classification") return `${score}, wrong class: ${mark.true_class}`;
  if (mark.kind === "duplicate") return `${score}, duplicate`;
  if (mark.kind === "localization") return `${score}, poor localization (IoU ${mark.iou.toFixed(2)})`;
  return `${score}, background`;
}

function caption(entry) {
  const worst = [...entry.truth.filter((m) => m.kind === "missed").slice(0, 2),
    ...entry.detections.filter((m) => FALSE_POSITIVES.includes(m.kind)).slice(0, 2)];
  return [el("strong", {}, entry.image), " ", worst.map(describe).join("; ")];
}

function classified(entries, images) {
  const picture = (entry) => () => el("figure", { class: "shot" },
    el("img", { src: images[entry.jpeg], alt: `${entry.image}, of the class ${entry.class_}` }));
  const text = (entry) => [el("strong", {}, entry.image), ` ${entry.class_}, taken for `,
    entry.taken_for.map(([name, score]) => `${name} ${score.toFixed(2)}`).join(", ")];
  return el("div", {},
    el("p", { class: "note" }, "Images taken for another class, the lowest score of the true one first."),
    shelf(entries, (entry) => card(picture(entry), text(entry))).element);
}

function maps(entries, images) {
  const pair = (entry) => () => el("div", { class: "pair" },
    [["truth", entry.truth_map], ["prediction", entry.prediction_map]].map(([title, map]) =>
      el("figure", { class: "shot" },
        el("img", { src: images[entry.jpeg], alt: `${entry.image}, ${title}` }),
        el("img", { class: "map", src: images[map], alt: "" }),
        el("figcaption", {}, title))));
  const text = (entry) => [
    el("strong", {}, entry.image), ` mean IoU ${percent(entry.mean_iou)}`, el("br"),
    entry.classes.filter((c) => c.share >= 0.005).slice(0, 12).map((c) => el("span", { class: "class" },
      el("i", { class: "swatch", style: { background: c.colour } }), `${c.name} ${percent(c.iou)}`))];
  return el("div", {},
    el("p", { class: "note" }, "The images of the lowest mean IoU first; below each, its classes and " +
      "their IoU, the worst first."),
    shelf(entries, (entry) => card(pair(entry), text(entry))).element);
}

function card(pair, text, chosen) {
  const open = () => {
    const dialog = document.getElementById("zoom");
    const close = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
    dialog.replaceChildren(pair(Infinity), el("p", {}, text.map((part) => (part.cloneNode ? part.cloneNode(true) : part))), close);
    dialog.showModal();
  };
  return el("li", { class: chosen ? "card row" : "card" },
    el("button", { type: "button", "aria-label": "Show larger", onclick: open }, pair(LABELLED)), el("p", {}, text));
}
