// Line styles of rows, and the legend that shows and hides rows.

const FIRST_SHOWN = 8;
const ALL_SHOWN = 10;

function inkOf(colour) {
  return colour.toLowerCase() === "#000000" ? "currentColor" : colour;
}

function dashesOf(row, width) {
  return row.dashes.length ? row.dashes.map((length) => (length * width).toFixed(1)).join(" ") : null;
}

function swatchOf(row) {
  const line = drawing("line", {
    x1: 0, y1: 5, x2: 26, y2: 5, stroke: inkOf(row.colour), "stroke-width": 2.5, "stroke-dasharray": dashesOf(row, 2),
  });
  return drawing("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": "true" }, line);
}

// The `count` rows with the highest scores, in page order.
function bestRows(data, candidates, count) {
  const ranked = [...candidates].sort((a, b) => data.score[b] - data.score[a] || a - b);
  return ranked.slice(0, count).sort((a, b) => a - b);
}

// Buttons that show and hide rows. `shown` is the set of visible rows. `pointed(row or null)` is called when the pointer or
// keyboard focus is on a button.
function legend(data, candidates, shown, changed, pointed) {
  const buttons = new Map();
  const mark = () => buttons.forEach((button, row) => button.setAttribute("aria-pressed", String(shown.has(row))));
  const set = (rows) => {
    shown.clear();
    rows.forEach((row) => shown.add(row));
    mark();
    changed();
  };
  for (const row of candidates) {
    const toggle = () => {
      if (!shown.delete(row)) shown.add(row);
      mark();
      changed();
    };
    const events = { onclick: toggle };
    if (pointed) {
      events.onpointerenter = events.onfocus = () => pointed(row);
      events.onpointerleave = events.onblur = () => pointed(null);
    }
    buttons.set(row, element("button", { type: "button", ...events }, swatchOf(data.rows[row]), data.rows[row].name));
  }
  mark();
  const box = element("div", { class: candidates.length > ALL_SHOWN ? "legend many" : "legend", role: "group", "aria-label": "Rows shown" }, [...buttons.values()]);
  if (candidates.length < 4) return box;
  const best = Math.min(FIRST_SHOWN, candidates.length - 1);
  const short = (text, rows) => element("button", { type: "button", class: "small", onclick: () => set(rows) }, text);
  box.append(short("all", candidates), short("none", []));
  if (candidates.length > ALL_SHOWN) box.append(short(`best ${best} on test`, bestRows(data, candidates, best)));
  return box;
}

// The rows that a panel shows at first: all rows if there are few, otherwise the best ones.
function firstRows(data, candidates, few = ALL_SHOWN, many = FIRST_SHOWN) {
  return new Set(candidates.length <= few ? candidates : bestRows(data, candidates, many));
}
