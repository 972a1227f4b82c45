// The report of one trained model: sections of their own.

const ERRORS = 8; // rows that are shown at once

function runSummary(model) {
  const skipped = model.skipped ? `, ${model.skipped} of them skipped` : "";
  return `${model.images.toLocaleString("en")} images tested${skipped} · ${model.finished.replace("T", " ").slice(0, 16)} · ${model.file}`;
}

function runView(model, images) {
  const section = (title, ...children) => el("section", { "aria-label": title }, el("h2", {}, title), children);
  const note = (text) => (text ? el("p", { class: "note" }, text) : null);
  const missing = model.missing || {};
  const entries = model.gallery || [];
  const errors = (kind, title) => section(title,
    note(missing.gallery || missing[kind]) || errorRows(entries, images, kind, model.min_score));
  const detector = () => [
    section("Precision, recall and F1 over the score", note(missing.by_score) || overScore(model.by_score)),
    confusions("objects", `Detections with a score of at least ${fixed(model.min_score, 2)}, ` +
      "matched with the truth at an IoU of 0.5. The last row holds detections that found no object of their own (background, " +
      "duplicates, badly placed boxes), the last column objects that were not detected."),
    errors("false_negatives", "Worst false negatives"),
    errors("false_positives", "Worst false positives"),
  ];
  function confusions(unit, text) {
    return section("Confusions", note(missing.confusion) || [confusionMatrix(model.confusion, unit), note(text)]);
  }
  return [
    section("Results", tiles(model), missing.curves ? note(`There are no scores by class. ${missing.curves}`)
      : el("div", { class: model.classes ? "charts wide" : "charts" }, bySize(model), precisionRecall(model), byClass(model))),
    section("Training", model.training ? [el("div", { class: "charts" }, training(model)), note(validations(model.training))]
      : note("There is no log of this checkpoint’s training in its folder, so its curves can’t be shown.")),
    model.classified ? [confusions("images"), section("Worst images", gallery(model, images))]
      : model.classes ? [confusions("pixels"), section("Worst images", note(missing.gallery) || maps(entries, images))] : detector(),
    section("Data", dataView(model.data)),
    el("section", { "aria-label": "Files and versions" }, facts(model)),
  ].flat();
}

// Why there is no curve of the validations' scores.
function validations({ scores }) {
  const most = Math.max(0, ...Object.values(scores).map((points) => points.length));
  if (most > 1) return null;
  return most ? "There was one validation, and a curve of its scores takes two."
    : "The log has no validation with AP in COCO’s way or mIoU, so there is no curve of them.";
}

function overScore({ scores, classes, mean }) {
  const place = el("div", {});
  const known = classes.filter((one) => one.objects);
  const show = (one) => place.replaceChildren(lineChart({
    title: one.best === null ? one.name : `${one.name}: F1 is highest, ${fixed(one.best.F1, 2)}, at a score of ${fixed(one.best.score, 2)}`,
    xLabel: "score at least", yLabel: "share", x: [0, 1], y: [0, 1],
    lines: [["precision", "precision"], ["recall", "recall"], ["F1", "F1"]].map(([key, name]) => ({
      name, points: one[key].map((value, i) => [scores[i], value]).filter(([, value]) => isNumber(value)) }))
      .filter((line) => line.points.length),
  }));
  show(mean);
  const all = [mean, ...known];
  const chooser = choice("Class", all.map((one, i) => [String(i), one.name]), "0", (value) => show(all[Number(value)]));
  const at = (one, key) => one.best && one.best[key];
  const table = barTable({
    title: "Best threshold by class", label: "class", heads: ["F1", "score", "precision", "recall"],
    rows: classes.map((one) => ({
      name: one.name, weight: one.objects, values: [at(one, "F1")],
      cells: [fixed(at(one, "F1"), 2), fixed(at(one, "score"), 2),
        fixed(at(one, "precision"), 2), fixed(at(one, "recall"), 2)],
    })),
    note: "The threshold of the highest F1. Lower ones find more objects, higher ones give fewer false positives.",
  });
  return el("div", { class: "charts wide" }, el("div", {}, el("div", { class: "bar" }, chooser), place), table);
}

function errorRows(entries, images, kind, minScore) {
  const side = kind === "false_negatives" ? "truth" : "detections";
  const errors = entries.flatMap((entry) => entry[side].filter((mark) => mark.severity > 0).map((mark) => ({ entry, mark })))
    .sort((a, b) => b.mark.severity - a.mark.severity);
  if (!errors.length) return el("p", { class: "note" }, "There are none.");
  const list = el("ul", { class: "errors" });
  const more = el("button", { type: "button", onclick: () => show(list.children.length + ERRORS) }, "Show more");
  function show(count) {
    list.append(...errors.slice(list.children.length, count).map((error) => errorRow(error, images)));
    more.hidden = list.children.length === errors.length;
  }
  show(ERRORS);
  return [el("p", { class: "note" }, kind === "false_negatives"
    ? `Objects that no detection with a score of at least ${fixed(minScore, 2)} covers: large ones, and those with the lowest IoU, first.`
    : "Detections that are no object, or of another class, a second one of the same, or badly placed: the highest score first."),
  key(), list, el("p", {}, more)];
}

function errorRow({ entry, mark }, images) {
  const only = { ...entry, truth: [...entry.truth], detections: [...entry.detections] };
  const side = entry.truth.includes(mark) ? "truth" : "detections";
  only[side] = [{ ...mark, chosen: true }, ...entry[side].filter((one) => one !== mark)]; // drawn on top
  const text = [el("strong", {}, mark.name), describe(mark).slice(mark.name.length), el("br"),
    el("span", { class: "soft" }, entry.image)];
  return card((labels) => pairOf(only, images)(labels === LABELLED ? 0 : labels), text, mark);
}

function dataView(sets) {
  const name = (one) => one.splits.join(", ");
  const good = sets.filter((one) => !one.error);
  const span = (sides) => (sides ? `${sides[0]} … ${Math.round(sides[1])} … ${sides[2]}` : "–");
  const rows = [
    ["images", (one) => one.images.toLocaleString("en")],
    ["without any object or label", (one) => one.empty.toLocaleString("en")],
    ["objects", (one) => (one.unit === "objects" ? sum(one).toLocaleString("en") : null)],
    ["objects an image", (one) => (one.unit === "objects" ? fixed(sum(one) / one.images, 1) : null)],
    ["small / medium / large objects, %", (one) => one.sizes && one.sizes.map((share) => fixed(100 * share, 0)).join(" / ")],
    ["width: least … median … most, pixels", (one) => span(one.width)],
    ["height, likewise", (one) => span(one.height)],
  ].filter(([, value]) => good.some((one) => value(one)));
  const table = el("div", { class: "scroll" }, el("table", { class: "sets" },
    el("thead", {}, el("tr", {}, el("th", {}), good.map((one) => el("th", { scope: "col" }, name(one))))),
    el("tbody", {}, rows.map(([title, value]) => el("tr", {}, el("th", { class: "text", scope: "row" }, title),
      good.map((one) => el("td", {}, value(one) || "–")))))));
  const names = [...new Set(good.flatMap((one) => one.classes.map((c) => c.name)))];
  const shares = good.map((one) => Object.fromEntries(one.classes.map((c) => [c.name, c.count])));
  const pixels = good.some((one) => one.unit === "pixels");
  const most = shares.map((share) => Math.max(1, ...Object.values(share)));
  const bars = good.length ? barTable({
    title: pixels ? "Labelled pixels by class, %" : good[0]?.unit === "images" ? "Images by class" : "Objects by class", label: "class", judged: false, heads: good.map(name),
    rows: names.map((title) => ({
      name: title, weight: shares[0][title] || 0, values: shares.slice(0, 2).map((share, i) => (share[title] || 0) / most[i]),
      cells: shares.map((share, i) => (pixels ? fixed((100 * (share[title] || 0)) / Math.max(1, sum(good[i])), 2) : (share[title] || 0).toLocaleString("en"))),
    })),
    note: good.some((one) => one.read < one.images) ? `Of ${good.map((one) => `${name(one)}: ${one.read} of ${one.images}`).join("; ")} label maps.` : null,
  }) : null;
  if (bars && good.length > 1) bars.append(legend(good.slice(0, 2).map(name)));
  return el("div", {}, el("div", { class: "charts wide" }, el("div", {}, table), bars),
    el("ul", { class: "note" }, sets.map((one) => el("li", {}, `${name(one)}: ${one.place}`, one.error ? `: ${one.error}` : ""))));
}
const sum = (one) => one.classes.reduce((total, c) => total + c.count, 0);
