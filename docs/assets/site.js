// A click on the head of a table's column sorts by it. Tables of options have empty heads: they stay.
for (const table of document.querySelectorAll("article table:not([class])")) {
  const heads = [...table.querySelectorAll("thead th")];
  const rows = table.querySelectorAll("tbody tr").length;
  if (rows < 4 || heads.some((head) => !head.textContent.trim())) continue;
  for (const head of heads) {
    head.tabIndex = 0;
    head.addEventListener("keydown", (event) => event.key === "Enter" && head.click());
  }
  new Tablesort(table);
}
