"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const filter = document.getElementById("filter");
  const count = document.getElementById("count");

  // Rows without a value come last in either order.
  const compare = (place, numeric, sign) => (a, b) => {
    const x = a.cells[place].dataset.value, y = b.cells[place].dataset.value;
    if (x === "" || y === "") return (x === "") - (y === "");
    const p = Number(x), q = Number(y);
    if (numeric && !Number.isNaN(p) && !Number.isNaN(q)) return sign * (p - q);
    return sign * x.localeCompare(y, undefined, { numeric: true });
  };

  headings.forEach((heading, place) => {
    const button = heading.firstElementChild;
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = "numeric" in button.dataset;
      body.append(...rows.sort(compare(place, numeric, up ? 1 : -1)));
    });
  });

  // Every word must occur in the row.
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      left += !row.hidden;
    }
    count.textContent = `${left} of ${rows.length}`;
  });
})();
