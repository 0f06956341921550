// The comparison: chosen estimators held against one of them or the best, from the data in the page.

const MOST_ROWS = 500;
const SIGMAS = 2;
const PAIRED_SEEDS = 3;

const board = JSON.parse(document.getElementById("compare-data").textContent);
const form = document.getElementById("compare-form");
const results = document.getElementById("compare-table");

const cells = board.rows.flatMap(([table, entry, design, numbers]) =>
  Object.entries(numbers).map(([column, [text, badness, error, limit = "", seeds = {}]]) => ({
    table: board.tables[table],
    entry: board.entries[entry],
    design,
    column: board.columns[column],
    text,
    badness: Number(badness),
    error,
    limit,
    seeds,
    group: `${table}.${column}`,
  })),
);
const groups = new Map();
for (const cell of cells) {
  if (!groups.has(cell.group)) groups.set(cell.group, []);
  groups.get(cell.group).push(cell);
}

// Difference in badness of one cell to another: mean and error over common seeds, or of the means.
function difference(cell, other) {
  const seeds = Object.keys(cell.seeds).filter((seed) => seed in other.seeds);
  if (seeds.length >= PAIRED_SEEDS) {
    const differences = seeds.map((seed) => Number(cell.seeds[seed]) - Number(other.seeds[seed]));
    const mean = differences.reduce((sum, each) => sum + each, 0) / seeds.length;
    const spread = differences.reduce((sum, each) => sum + (each - mean) ** 2, 0);
    const error = Math.sqrt(spread / (seeds.length - 1) / seeds.length);
    return { value: mean, error, needed: board.needed[seeds.length], from: `${seeds.length} paired seeds` };
  }
  const stated = cell.error !== null && other.error !== null;
  const error = stated ? Math.hypot(cell.error, other.error) : null;
  return { value: cell.badness - other.badness, error, needed: SIGMAS, from: stated ? "both, combined" : "not stated" };
}

// A lower limit of n* is an upper limit of badness; "<=" says that the difference is at most so much.
function bound(cell, other) {
  const upper = cell.limit === "above" || other.limit === "below";
  const lower = cell.limit === "below" || other.limit === "above";
  if (upper && lower) return null;
  return upper ? "\u2264 " : lower ? "\u2265 " : "";
}

function verdict({ value, error, needed }, sign) {
  if (error === null && Number.isFinite(value)) return "no error stated";
  if (value > needed * (error || 0) && sign !== "\u2264 ") return "worse";
  if (value < -needed * (error || 0) && sign !== "\u2265 ") return "better";
  return "not told apart";
}

function reference(cell, against) {
  const group = groups.get(cell.group);
  if (!against) {
    const ranked = group.filter((each) => each.entry[1] === "entry");
    return ranked.reduce((best, each) => (best && best.badness <= each.badness ? best : each), null);
  }
  const found = group.filter((each) => each.entry[0] === against);
  return found.find((each) => each.design === cell.design) ?? found[0] ?? null;
}

function compared(cell, against) {
  const other = reference(cell, against);
  if (!other) return { cell, other, text: "n/a", key: "", verdict: "nothing to hold it against", from: "" };
  if (other === cell) return { cell, other, text: "0", key: "0", verdict: against ? "the same" : "the best", from: "" };
  const found = difference(cell, other);
  const sign = bound(cell, other);
  if (sign === null || Number.isNaN(found.value)) {
    return { cell, other, text: "n/a", key: "", verdict: "not told apart", from: sign === null ? "both are limits" : "" };
  }
  const text = sign + (found.value > 0 ? "+" : "") + formatNumber(found.value, found.error);
  return { cell, other, text, key: String(found.value), verdict: verdict(found, sign), from: sign ? "a limit" : found.from };
}

function chosenCells(state) {
  const names = new Set(state.getAll("e"));
  const number = state.get("number") ?? "";
  const keeps = (name, value) => !state.get(name) || state.get(name) === value;
  return cells.filter(
    ({ table, entry, design, column }) =>
      (names.size ? names.has(entry[0]) : entry[1] === "entry") &&
      (number === "all" || column[0] === (number || table[4])) &&
      keeps("toy", table[0]) &&
      keeps("budget", table[2]) &&
      keeps("design", design) &&
      (!state.get("trait") || table[5].includes(state.get("trait"))),
  );
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function link(text, id) {
  const made = document.createElement("a");
  made.setAttribute("href", `#${id}`);
  made.textContent = text;
  return made;
}

function resultRow({ cell, other, text, key, verdict: judged, from }) {
  const row = document.createElement("tr");
  const name = element("th", "", { scope: "row", "data-sort": cell.entry[0] });
  name.append(link(cell.entry[0], cell.entry[2]));
  const toy = element("td", "", { "data-sort": cell.table[0] });
  toy.append(link(cell.table[0], cell.table[1]));
  const against = element("td", other ? other.entry[0] : "n/a");
  if (other) against.append(element("small", other.text));
  row.append(
    name,
    toy,
    element("td", cell.column[1]),
    element("td", cell.text, { class: "number", "data-sort": cell.badness }),
    element("td", text, { class: "number", "data-sort": key }),
    element("td", judged, { class: judged.split(" ")[0] }),
    against,
    element("td", from),
    element("td", cell.table[2], { "data-sort": cell.table[3] }),
    element("td", cell.design),
  );
  return row;
}

// In the order of the data: toy by toy, and in each the smallest difference first.
function inOrder(rows) {
  const places = new Map(Array.from(groups.keys(), (key, order) => [key, order]));
  const size = (row) => (row.key === "" ? Infinity : Number(row.key));
  return rows.sort((a, b) => places.get(a.cell.group) - places.get(b.cell.group) || compareKeys(size(a), size(b)));
}

function showComparison(state) {
  const rows = inOrder(chosenCells(state).map((cell) => compared(cell, state.get("against") ?? "")));
  results.tBodies[0].replaceChildren(...rows.slice(0, MOST_ROWS).map(resultRow));
  document.getElementById("compare-results").hidden = rows.length === 0;
  for (const heading of results.tHead.rows[0].cells) heading.removeAttribute("aria-sort");
  if (state.has("sort")) applySort(results, state.get("sort"));
  const counts = ["better", "not told apart", "worse"].map((word) => `${rows.filter((row) => row.verdict === word).length} ${word}`);
  const cut = rows.length > MOST_ROWS ? `; the first ${MOST_ROWS} are shown, filter to see others` : "";
  const summary = `${rows.length} number${rows.length === 1 ? "" : "s"}: ${counts.join(", ")}${cut}.`;
  document.getElementById("compare-summary").textContent = rows.length ? summary : "No number fits this choice.";
}

function formState() {
  const state = new URLSearchParams(Array.from(new FormData(form)).filter(([, value]) => value !== ""));
  const here = currentPlace();
  if (here.id === "compare" && here.state.has("sort")) state.set("sort", here.state.get("sort"));
  return state;
}

function fillForm(state) {
  for (const select of form.querySelectorAll("select")) {
    const wanted = state.get(select.name) ?? "";
    select.value = Array.from(select.options).some((option) => option.value === wanted) ? wanted : "";
  }
  const names = new Set(state.getAll("e"));
  for (const box of form.querySelectorAll("input")) box.checked = names.has(box.value);
}

function fillOptions(name, pairs) {
  const select = form.elements.namedItem(name);
  for (const [value, text] of new Map(pairs)) select.append(element("option", text, { value }));
  if (pairs.length === 0) select.parentElement.hidden = true;
}

function prepareForm() {
  for (const [name, role] of board.entries) {
    const label = element("label", "");
    label.append(element("input", "", { type: "checkbox", name: "e", value: name }), ` ${name}`);
    if (role !== "entry") label.append(" ", element("span", role, { class: "mark" }));
    document.getElementById("compare-entries").append(label);
  }
  const same = (values) => Array.from(new Set(values), (value) => [value, value]);
  fillOptions("against", board.entries.map(([name]) => [name, name]));
  fillOptions("number", board.columns);
  fillOptions("toy", same(board.tables.map((table) => table[0])));
  fillOptions("trait", same(board.tables.flatMap((table) => table[5])).sort());
  fillOptions("design", same(cells.map((cell) => cell.design)));
  fillOptions("budget", same(board.tables.map((table) => table[2])));
  form.hidden = false;
}

function formChanged() {
  const state = formState();
  remember("compare", state);
  showComparison(state);
}

prepareForm();
showComparison(new URLSearchParams());
form.addEventListener("change", formChanged);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(formChanged));
restorers.compare = (id, state) => {
  fillForm(state);
  showComparison(formState());
};
