// Export of a table as it is shown: its visible rows in their order, and its visible columns. Everything stays on this
// machine: a file is saved from memory, and text is copied to the clipboard.

const FORMULA = /^[=+\-@\t\r]/; // first characters that make a spreadsheet read a cell as a formula (OWASP)

// Head and rows of a table as cells {text, below, key, ends, number}.
function sheetOf(table) {
  const heads = [...table.tHead.rows[0].cells];
  const hidden = (head) => head.classList.contains("tool") || (head.classList.contains("more") && !table.classList.contains("all"));
  const columns = heads.map((head, i) => i).filter((i) => !hidden(heads[i]));
  const cellOf = (cell, i) => {
    const below = cell.querySelector(".below");
    const all = cell.textContent.trim();
    const drawn = cell.querySelector("svg.plot") !== null;
    return {
      text: drawn ? "" : (below ? all.slice(0, all.length - below.textContent.length) : all).trim(), drawn,
      below: below ? below.textContent : "", key: cell.dataset.v, ends: cell.dataset.ends, number: heads[i].classList.contains("n"),
    };
  };
  const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => columns.map((i) => cellOf(row.cells[i], i)));
  const kept = columns.map((i, place) => place).filter((place) => !rows.some((row) => row[place].drawn));
  return {
    title: document.getElementById(table.getAttribute("aria-labelledby")).textContent,
    heads: kept.map((place) => heads[columns[place]].textContent.trim()),
    left: kept.map((place) => !heads[columns[place]].classList.contains("n")),
    rows: rows.map((row) => kept.map((place) => row[place])),
  };
}

function asCsv({ heads, left, rows }) {
  const wide = heads.map((head, i) => rows.some((row) => row[i].ends !== undefined));
  const quoted = (text) => {
    const safe = FORMULA.test(text) && (text.trim() === "" || !isFinite(text)) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };
  const value = (cell) => {
    if (cell.number && cell.key !== undefined) return cell.key;
    return cell.text === "–" ? "" : cell.text;
  };
  const head = heads.flatMap((one, i) => (wide[i] ? [one, `${one} low`, `${one} high`] : [one]));
  const lines = rows.map((row) => row.flatMap((cell, i) => (wide[i] ? [value(cell), ...(cell.ends || " ").split(" ")] : [value(cell)])));
  return `${[head, ...lines].map((line) => line.map(quoted).join(",")).join("\n")}\n`;
}

function asMarkdown({ title, heads, left, rows }) {
  const safe = (text) => text.replace(/\\/g, "\\\\").replace(/\|/g, "\\|").replace(/<(?=[A-Za-z/!?])/g, "\\<").replace(/\s+/g, " ");
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const body = rows.map((row) => line(row.map((cell) => safe(`${cell.text} ${cell.below}`.trim()))));
  return [`## ${safe(title)}`, "", line(heads.map(safe)), line(left.map((one) => (one ? ":--" : "--:"))), ...body, ""].join("\n");
}

function asLatex({ title, heads, left, rows }, letters) {
  const safe = (text) => [...text].map((letter) => letters[letter] || letter).join("");
  const cell = (one) => `${safe(one.text)}${one.below ? ` {\\scriptsize ${safe(one.below)}}` : ""}`;
  return [
    "% Needs booktabs and graphicx.", "\\begin{table*}[t]", "\\centering", `\\caption{${safe(title)}.}`,
    "\\resizebox{\\textwidth}{!}{%", `\\begin{tabular}{@{}${left.map((one) => (one ? "l" : "r")).join("")}@{}}`, "\\toprule",
    `${heads.map(safe).join(" & ")} \\\\`, "\\midrule", ...rows.map((row) => `${row.map(cell).join(" & ")} \\\\`),
    "\\bottomrule", "\\end{tabular}}", "\\end{table*}", "",
  ].join("\n");
}

const FORMATS = [["CSV", "csv", asCsv], ["LaTeX", "tex", asLatex], ["Markdown", "md", asMarkdown]];

// A menu "Export" beside the caption of a table.
function makeExport(table, letters) {
  const told = element("span", { class: "soft", role: "status" });
  const text = (make) => make(sheetOf(table), letters);
  const save = (ending, make) => {
    const link = element("a", { href: URL.createObjectURL(new Blob([text(make)], { type: "text/plain" })),
      download: `${table.id}.${ending}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    told.textContent = `saved as ${table.id}.${ending}`;
  };
  const button = (words, name, act) => element("button", { type: "button", class: "small", "aria-label": name, onclick: act }, words);
  const items = FORMATS.map(([name, ending, make]) => element("div", {}, element("b", {}, name),
    button("save", `Save as ${name}`, () => save(ending, make)),
    button("copy", `Copy as ${name}`, () => copyText(text(make), told))));
  const menu = element("details", { class: "export" }, element("summary", {}, "Export"), element("div", { class: "menu" }, items, told));
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.firstChild.focus();
  });
  menu.addEventListener("focusout", (event) => { if (event.relatedTarget !== null && !menu.contains(event.relatedTarget)) menu.open = false; });
  menu.addEventListener("toggle", () => { told.textContent = ""; });
  table.closest("figure").querySelector(".tools").append(menu);
}

// Copy text to the clipboard, also where the page is a file and the clipboard has to be asked the old way.
async function copyText(text, told) {
  const old = () => {
    const area = element("textarea", { class: "unseen", readonly: true });
    area.value = text;
    told.append(area); // inside the open dialog, where it can be selected
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  const done = await (navigator.clipboard ? navigator.clipboard.writeText(text).then(() => true, old) : old());
  told.textContent = done ? "copied" : "the browser does not allow copying";
}

// A button that copies a command.
function makeCopied(block) {
  const told = element("span", { class: "soft", role: "status" });
  const button = element("button", { type: "button", class: "small", onclick: () => copyText(block.textContent, told) }, "copy");
  block.after(element("p", { class: "copying" }, button, " ", told));
}
