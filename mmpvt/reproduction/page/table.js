// The table of models: sorted by any column, filtered by family, backbone, data set and name.

const SCORED = [["box_AP", "box AP", 1], ["mask_AP", "mask AP", 1], ["mIoU", "mIoU", 2],
  ["top1", "top-1", 1]];

function columns(models) {
  const score = (name) => (model) => model.scores[name];
  const list = [
    { head: "model", text: true, value: (m) => m.name, cell: (m) => el("a", { href: address(m), title: m.name }, m.name) },
    { head: "family", text: true, value: (m) => m.family },
    { head: "backbone", text: true, value: (m) => m.backbone },
    { head: "data set", text: true, value: (m) => m.dataset },
  ];
  for (const [name, label, digits] of SCORED) {
    if (!models.some((m) => isNumber(m.scores[name]))) continue;
    list.push({ head: label, value: score(name), digits });
    if (!models.some((m) => isNumber(m.published[name]))) continue;
    const gap = (m) => difference(m.scores[name], m.published[name], digits);
    list.push({ head: "published", of: label, value: (m) => (isNumber(m.scores[name]) ? m.published[name] : null), digits: 1 });
    list.push({ head: "Δ", of: label, value: (m) => gap(m)?.gap,
      cell: (m) => (gap(m) ? el("span", { class: gap(m).kind }, gap(m).text) : "–") });
  }
  for (const size of ["small", "medium", "large"])
    if (models.some((m) => isNumber(m.scores[`box_AP_${size}`])))
      list.push({ head: `AP ${size}`, value: score(`box_AP_${size}`), digits: 1 });
  return list.concat(
    { head: "params, M", value: (m) => m.parameters / 1e6, digits: 1 },
    { head: "GFLOPs", value: (m) => m.gflops, digits: 1 },
    { head: "images/s", value: (m) => m.images_per_second, digits: 1 },
    { head: "memory, GiB", value: (m) => m.memory.MiB / 1024, digits: 2,
      cell: (m) => `${fixed(m.memory.MiB / 1024, 2)} ${m.memory.of}` });
}

const address = (model) => `#model=${encodeURIComponent(model.name)}`;

function modelTable(models) {
  const list = columns(models);
  const label = (column) => [column.head, column.of].filter(Boolean).join(" ");
  const rows = new Map(models.map((model) => [model, el("tr", { role: "row" }, list.map((column) =>
    el("td", { role: "cell", class: column.text ? "text" : null, "data-label": label(column) },
      column.cell ? column.cell(model) : column.text ? column.value(model) : fixed(column.value(model), column.digits))))]));
  const body = el("tbody", { role: "rowgroup" }, ...rows.values());
  let sorted = null, sign = 1;
  const heads = list.map((column) =>
    el("th", { scope: "col", role: "columnheader", class: column.text ? "text" : null },
      el("button", { type: "button", "aria-label": column.of && label(column), onclick: () => sort(column) },
        column.head, column.of && el("span", { class: "of" }, ` ${column.of}`))));

  function sort(column) {
    sign = sorted === column ? -sign : column.text ? 1 : -1;
    sorted = column;
    const order = [...models].sort((a, b) => {
      const [p, q] = [column.value(a), column.value(b)];
      if (column.text) return sign * String(p).localeCompare(String(q), "en", { numeric: true });
      if (!isNumber(p) || !isNumber(q)) return isNumber(q) - isNumber(p); // what is unknown, last
      return sign * (p - q);
    });
    body.append(...order.map((model) => rows.get(model)));
    heads.forEach((head, i) => {
      if (list[i] === column) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  }
  return {
    element: el("table", { role: "table" }, el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads)), body),
    filter(keep) { for (const [model, row] of rows) row.hidden = !keep(model); },
    choose(chosen) { for (const [model, row] of rows) row.classList.toggle("chosen", model === chosen); },
  };
}

// Where the columns don't fit side by side, each model's values stand below one another instead.
function fitColumns(holder) {
  holder.classList.remove("stacked");
  holder.classList.toggle("stacked", holder.scrollWidth > holder.clientWidth);
}

function filters(models, onchange) {
  const chosen = { family: "", backbone: "", dataset: "", name: "" };
  const count = el("output", {});
  function changed() {
    const keep = (model) =>
      ["family", "backbone", "dataset"].every((key) => !chosen[key] || model[key] === chosen[key]) &&
      model.name.toLowerCase().includes(chosen.name);
    count.textContent = `${models.filter(keep).length} of ${models.length} models`;
    onchange(keep);
  }
  const select = (label, key) => {
    const values = [...new Set(models.map((model) => model[key]))].sort();
    return choice(label, [["", "all"], ...values.map((value) => [value, value])], "",
      (value) => { chosen[key] = value; changed(); });
  };
  const search = el("input", { type: "search", name: "name",
    oninput: () => { chosen.name = search.value.trim().toLowerCase(); changed(); } });
  changed();
  return [select("Family", "family"), select("Backbone", "backbone"), select("Data set", "dataset"),
    field("Name contains", search), count];
}
