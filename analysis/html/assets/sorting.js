// Tables that sort on a click, Enter or Space on a column header. The sort key of a cell is its data-v. A cell without one
// has no value and always sorts last. Equal cells keep their order.

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.classList.contains("tool")) return;
    const button = element("button", { type: "button", onclick: () => sortBy(table, heads, column) });
    button.append(...head.childNodes);
    head.append(button);
  });
}

function sortBy(table, heads, column) {
  const head = heads[column];
  const number = head.classList.contains("n");
  const known = head.getAttribute("aria-sort");
  const descending = known === null ? number : known === "ascending";
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => ({ row, key: row.cells[column].dataset.v }));
  const missing = keyed.filter((one) => one.key === undefined);
  const present = keyed.filter((one) => one.key !== undefined);
  const order = number || present.every((one) => one.key.trim() !== "" && isFinite(one.key))
    ? (a, b) => Number(a.key) - Number(b.key)
    : (a, b) => a.key.localeCompare(b.key, "en", { numeric: true });
  present.sort((a, b) => (descending ? order(b, a) : order(a, b)));
  body.append(...present.concat(missing).map((one) => one.row));
}

// Show only the table rows that contain every word of a search box.
function makeFilter(input, table, status) {
  const texts = new Map([...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]));
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [row, text] of texts) {
      row.hidden = !wanted.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    status.textContent = wanted.length ? `${shown} of ${texts.size} runs` : "";
  });
}
