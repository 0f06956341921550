"use strict";
// Sorting and places. A table sorts by a column: click a heading, or press Enter or Space on it. The first click sorts upwards, the
// second downwards; equal rows keep their order, and cells without a number stay at the end. A place of the page and its state stand
// behind the # of the address, as in #compare?toy=two_moons&sort=difference.ascending, so that a copied address shows the same again.

function sortKey(cell) {
  const text = cell.dataset.sort ?? cell.textContent;
  if (text === "" || text === "n/a") return null;
  if (text === "inf") return Infinity;
  if (text === "-inf") return -Infinity;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a < b ? -1 : a > b ? 1 : 0;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a < b ? -1 : a > b ? 1 : 0;
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

// Sorts by a text such as "kl.descending"; an unknown column leaves the table as it is.
function applySort(table, text) {
  const [key, direction] = text.split(/\.(?=[^.]*$)/);
  const headings = Array.from(table.tHead.rows[0].cells);
  const heading = headings.find((each) => each.dataset.key === key);
  if (!heading) return;
  for (const each of headings) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction === "descending" ? "descending" : "ascending");
  sortRows(table, heading.cellIndex, direction === "descending" ? -1 : 1);
}

function toggle(table, heading) {
  const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const text = `${heading.dataset.key}.${direction}`;
  applySort(table, text);
  say(`Sorted by ${heading.textContent}, ${direction}.`);
  if (!table.dataset.place) return;
  const here = currentPlace();
  const state = here.id === table.dataset.place ? here.state : new URLSearchParams();
  state.set("sort", text);
  remember(table.dataset.place, state);
}

function say(text) {
  document.getElementById("status").textContent = text;
}

function currentPlace() {
  const text = location.hash.slice(1);
  const at = text.indexOf("?");
  if (at < 0) return { id: text, state: new URLSearchParams() };
  return { id: text.slice(0, at), state: new URLSearchParams(text.slice(at + 1)) };
}

function remember(id, state) {
  const query = String(state);
  history.replaceState(null, "", `#${id}${query && "?"}${query}`);
}

// What a place does with its state; the comparison adds itself.
const restorers = {};

function restoreSort(id, state) {
  const table = Array.from(document.querySelectorAll("table[data-place]")).find((each) => each.dataset.place === id);
  if (table && state.has("sort")) applySort(table, state.get("sort"));
}

// A link to a closed block opens it and all around it; one with a state restores that too.
function restorePlace() {
  const { id, state } = currentPlace();
  const target = id ? document.getElementById(id) : null;
  if (!target) return;
  for (let block = target; block; block = block.parentElement) {
    if (block instanceof HTMLDetailsElement) block.open = true;
  }
  (restorers[id] ?? restoreSort)(id, state);
  target.tabIndex = -1;
  target.focus({ preventScroll: true });
  target.scrollIntoView();
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    heading.querySelector("button").addEventListener("click", () => toggle(table, heading));
  }
}
window.addEventListener("hashchange", restorePlace);
window.addEventListener("DOMContentLoaded", restorePlace);
