// One model's scores, charts and gallery.

const SIZES = ["small", "medium", "large"];

function modelView(model, images) {
  const parts = [el("h2", {}, model.name), tiles(model), el("div", { class: "charts" },
    bySize(model), precisionRecall(model), training(model), byClass(model))];
  parts.push(el("h3", { style: { marginTop: "28px" } }, "Errors, the worst first"), gallery(model, images), facts(model));
  return parts;
}

function tiles(model) {
  const list = SCORED.filter(([name]) => isNumber(model.scores[name])).map(([name, label, digits]) => {
    const gap = difference(model.scores[name], model.published[name], digits);
    const also = name === "mIoU" && isNumber(model.released_code)
      ? `; released code ${model.released_code}` : "";
    return [label, fixed(model.scores[name], digits), gap
      ? [el("span", { class: gap.kind }, gap.text), ` to the published ${fixed(model.published[name], 1)}${also}`]
      : model.run ? null : "not published"];
  });
  if (!list.length) // of another evaluator than COCO's and MMSegmentation's
    list.push(...Object.entries(model.metrics || {}).filter(([, value]) => isNumber(value)).map(([name, value]) => [name, fixed(value, 3)]));
  list.push(["parameters", `${fixed(model.parameters / 1e6, 1)} M`],
    ["GFLOPs", fixed(model.gflops, 1)],
    ["images a second", fixed(model.images_per_second, 1), model.processes > 1 ? `of each of ${model.processes} processes` : model.versions.device],
    ["peak memory", `${fixed(model.memory.MiB / 1024, 2)} GiB`, model.memory.of]);
  return el("dl", { class: "tiles" }, list.map(([name, value, small]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value, small ? el("small", {}, small) : null))));
}

function bySize(model) {
  const kinds = [["box", "box"], ["mask", "mask"]].filter(([kind]) => isNumber(model.scores[`${kind}_AP`]));
  if (!kinds.length) return null;
  const value = (kind, end) => model.scores[`${kind}_AP${end}`];
  const rows = [["all", ""], ["at IoU 0.50", "50"], ["at IoU 0.75", "75"], ...SIZES.map((s) => [`${s} objects`, `_${s}`])]
    .map(([name, end]) => ({
      name,
      values: kinds.map(([kind]) => value(kind, end) / 100),
      cells: kinds.map(([kind]) => {
        const gap = difference(value(kind, end), model.published[`${kind}_AP${end}`], 1);
        return [fixed(value(kind, end), 1), gap ? el("span", { class: gap.kind }, ` ${gap.text}`) : ""];
      }),
    }));
  const figure = barTable({ title: "AP by size", heads: kinds.map(([, name]) => name), rows, label: "" });
  if (kinds.length > 1) figure.append(legend(kinds.map(([, name]) => name)));
  return figure;
}

function precisionRecall(model) {
  return Object.entries(model.curves || {}).map(([kind, found]) => lineChart({
    title: `Precision over recall, ${kind === "bbox" ? "boxes" : "masks"}`,
    lines: Object.entries(found.curves).map(([name, line]) => ({
      name: name === "mean" ? "mean of IoU 0.50 … 0.95" : `IoU ${name}`,
      points: line.map((precision, i) => [i / (line.length - 1), precision]),
    })),
    xLabel: "recall", yLabel: "precision", x: [0, 1], y: [0, 1],
  }));
}

function training(model) {
  const log = model.training;
  if (!log) return null;
  const charts = [lineChart({ title: "Training: loss", lines: [{ name: "loss", points: log.loss },
    ...((log.val_loss || []).length ? [{ name: "validation loss", points: log.val_loss, dots: true }] : [])],
    xLabel: "iteration", yLabel: "loss", xDigits: 0 })];
  const scores = Object.entries(log.scores).filter(([, points]) => points.length > 1);
  if (scores.length) charts.push(lineChart({ title: "Training: validation", xLabel: model.run ? "iteration" : "validation", yLabel: "score",
    xDigits: 0, lines: scores.map(([name, points]) => ({ name: name.replace("_", " "), points, dots: true })) }));
  return charts;
}

function byClass(model) {
  if (model.classified) return barTable({
    title: "Recall by class", label: "class", heads: ["recall", "precision", "% of images"],
    rows: model.classes.map((c) => ({ name: c.name, values: [c.recall], weight: c.share,
      cells: [percent(c.recall), percent(c.precision), fixed(100 * c.share, 1)] })),
  });
  if (model.classes) return barTable({
    title: "IoU by class", label: "class",
    heads: ["IoU", ...(model.run ? ["precision", "recall"] : []), "% of pixels"],
    rows: model.classes.map((c) => ({ name: c.name, values: [c.IoU], weight: c.share,
      cells: [percent(c.IoU), ...(model.run ? [percent(c.precision), percent(c.recall)] : []), fixed(100 * c.share, 2)] })),
  });
  const { bbox, segm } = model.curves || {};
  const first = bbox || segm;
  if (!first) return null;
  const both = bbox && segm ? segm.classes : null;
  const figure = barTable({
    title: "AP by class", label: "class",
    heads: both ? ["box", "mask", "objects"] : ["AP", "AP50", "objects"],
    rows: first.classes.map((c, i) => ({
      name: c.name, weight: c.objects, values: both ? [c.AP, both[i].AP] : [c.AP],
      cells: [percent(c.AP), percent(both ? both[i].AP : c.AP50), String(c.objects)],
    })),
  });
  if (both) figure.append(legend(["box", "mask"]));
  return figure;
}

function facts(model) {
  const list = [["config", model.config], ["checkpoint", model.file], ["tested", model.finished],
    ["images", `${model.images}` + (model.skipped ? `, ${model.skipped} of them skipped` : "")],
    ["took", `${fixed(model.seconds, 0)} s`], ["processes", String(model.processes)],
    ...Object.entries(model.versions)];
  return el("details", {}, el("summary", {}, "Files and versions"), el("dl", { class: "facts" },
    list.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
}
