"use strict";
(() => {
  const table = document.getElementById("cells");
  if (!table) return;
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const value = (row, i) => row.cells[i].dataset.v;
  const number = (v) => (v === "" ? NaN : Number(v));

  // Sort by a column: first click up, second down; rows without a value stay last, equal rows keep their order.
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sign = down ? -1 : 1, numeric = head.hasAttribute("data-number");
    const compare = (a, b) => {
      const [u, v] = [value(a, i), value(b, i)];
      if (u === "" || v === "") return (u === "") - (v === "");
      return sign * (numeric ? number(u) - number(v) : u < v ? -1 : u > v ? 1 : 0);
    };
    body.append(...[...rows].sort(compare));
  }));

  // Filter: every word must be in the row; the details of a row that is hidden are hidden too.
  const words = document.getElementById("words"), verdict = document.getElementById("verdict");
  const count = document.getElementById("count");
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((w) => text.includes(w)) || (verdict.value !== "" && row.dataset.verdict !== verdict.value);
      document.getElementById(row.dataset.cell).hidden = row.hidden;
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} cells`;
  };
  words.addEventListener("input", filter);
  verdict.addEventListener("input", filter);
  filter();

  // A link to a cell opens it.
  const open = () => {
    const cell = document.getElementById(location.hash.slice(1));
    if (cell && cell.tagName === "DETAILS") { cell.open = true; cell.scrollIntoView(); }
  };
  window.addEventListener("hashchange", open);
  open();
  document.getElementById("open-all").addEventListener("click", (event) => {
    const closed = event.target.getAttribute("aria-pressed") !== "true";
    event.target.setAttribute("aria-pressed", closed);
    document.querySelectorAll("details.cell").forEach((d) => { d.open = closed && !d.hidden; });
  });
  // On paper nothing can be opened: what says how to repeat the run is.
  window.addEventListener("beforeprint", () => { document.querySelectorAll("details.print").forEach((d) => { d.open = true; }); });
})();
