"use strict";
(() => {
  const body = document.querySelector("#pairs tbody"), headings = [...document.querySelectorAll("#pairs thead th")];
  const search = document.getElementById("search"), boxes = [...document.querySelectorAll("#levels input")];
  const rows = [...body.rows].map((row, number) => ({
    row,
    number,
    level: row.dataset.level,
    text: [row.cells[1].textContent, row.cells[1].title, row.cells[2].textContent].join("\n").toLowerCase(),
    values: [...row.cells].map((cell) => cell.dataset.value ?? ""),
  }));

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const levels = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let shown = 0;
    for (const { row, level, text } of rows) {
      row.hidden = !(levels.has(level) && words.every((word) => text.includes(word)));
      shown += !row.hidden;
    }
    document.getElementById("shown").value = `${shown} of ${rows.length}`;
  };

  // empty values last in both directions; equal ones in the order of the list
  const names = new Intl.Collator("en", { numeric: true });
  const sort = (column, direction) => {
    const numeric = headings[column].dataset.column !== "id";
    const compare = (a, b) => {
      const [x, y] = [a.values[column], b.values[column]];
      if (x === "" || y === "") return (x === "") - (y === "") || a.number - b.number;
      return direction * (numeric ? x - y : names.compare(x, y)) || a.number - b.number;
    };
    body.append(...rows.sort(compare).map(({ row }) => row));
    for (const [index, heading] of headings.entries()) {
      if (index === column) heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else heading.removeAttribute("aria-sort");
    }
  };

  for (const [column, heading] of headings.entries()) {
    heading.querySelector("button")?.addEventListener("click", () => {
      sort(column, heading.getAttribute("aria-sort") === "ascending" ? -1 : 1);
    });
  }
  search.addEventListener("input", filter);
  for (const box of boxes) box.addEventListener("change", filter);
  filter();
})();
