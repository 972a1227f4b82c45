// Puts the page together.

(function start() {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const records = read("models"), images = read("images");
  const tested = records.filter((record) => record.status === "tested");
  const place = (id, ...children) => document.getElementById(id).replaceChildren(...children);
  const count = (status) => records.filter((record) => record.status === status).length;
  const view = document.getElementById("model");
  if (records.length === 1 && records[0].run) {
    document.getElementById("results").remove();
    place("summary", runSummary(records[0]));
    view.replaceWith(...runView(records[0], images));
    return;
  }
  const waiting = records.filter((record) => !record.status);

  place("summary", [`${tested.length} of ${records.length} checkpoints tested`,
    count("failed") && `${count("failed")} failed`, count("skipped") && `${count("skipped")} skipped`,
    waiting.length && `${waiting.length} not tested yet`].filter(Boolean).join(" · "));

  place("untested", ...[["failed", "Failed"], ["skipped", "Skipped"]]
    .map(([status, title]) => [title, records.filter((record) => record.status === status)])
    .filter(([, list]) => list.length)
    .flatMap(([title, list]) => [el("h3", {}, title), el("ul", {}, list.map((record) =>
      el("li", {}, el("strong", {}, record.name), " ", el("span", { class: "error" }, record.error))))]));

  if (!tested.length) {
    view.hidden = true;
    place("table", el("p", {}, "No model has been tested."));
    return;
  }
  const table = modelTable(tested);
  place("table", table.element);
  const fit = () => fitColumns(document.getElementById("table"));
  addEventListener("resize", fit);
  fit();
  place("filters", ...filters(tested, table.filter));
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());

  function show(scroll) {
    const asked = decodeURIComponent((location.hash.match(/^#model=(.*)$/) || [])[1] || "");
    const model = tested.find((one) => one.name === asked) || tested[0];
    const chooser = choice("Model", tested.map((one) => [one.name, one.name]), model.name,
      (name) => { location.hash = address({ name }).slice(1); });
    view.replaceChildren(el("div", { class: "bar" }, chooser), ...modelView(model, images));
    table.choose(model);
    if (scroll) view.scrollIntoView({ block: "start" });
  }
  addEventListener("hashchange", () => show(true));
  show(location.hash.startsWith("#model="));
})();
