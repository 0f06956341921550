"use strict";
// Sorts the rows of a table by a column: click a heading, or press Enter or Space on it. The first
// click sorts upwards, the second downwards; cells without a number always stay at the end.

function sortKey(cell) {
  const text = cell.dataset.sort ?? cell.textContent;
  if (text === "") return null;
  if (text === "inf") return Infinity;
  if (text === "-inf") return -Infinity;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a < b ? -1 : a > b ? 1 : 0;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b);
}

function sortRows(table, column, sign) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row, order) => ({ row, order, key: sortKey(row.cells[column]) }));
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.order - b.order;
    return sign * compareKeys(a.key, b.key) || a.order - b.order;
  });
  body.append(...rows.map((item) => item.row));
}

function toggle(table, heading) {
  const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  sortRows(table, heading.cellIndex, sign);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    heading.querySelector("button").addEventListener("click", () => toggle(table, heading));
  }
}

// A link to a closed block opens it.
function openTarget() {
  const target = location.hash ? document.getElementById(location.hash.slice(1)) : null;
  if (target instanceof HTMLDetailsElement) target.open = true;
}

window.addEventListener("hashchange", openTarget);
openTarget();
