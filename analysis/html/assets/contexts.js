// Two rows, context by context: the sorted differences of their scores, the contexts in which one is ahead most, and the two
// lists of a context side by side. Nothing is tested here.

const LETTERS64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const AT_ONCE = 8; // contexts in the list at first, and more of them at a time

class Contexts {
  constructor(panel, data) {
    this.data = data;
    this.own = data.contexts;
    const [low, high] = this.own.range;
    const place = new Map([...LETTERS64].map((letter, i) => [letter, i]));
    this.scores = this.own.scores.map((text) => Float64Array.from({ length: text.length / 2 }, (_, i) =>
      low + ((high - low) * (64 * place.get(text[2 * i]) + place.get(text[2 * i + 1]))) / 4095));
    this.listed = new Map(this.own.lists.contexts.map((context, i) => [context, i]));
    const rows = data.rows.map((row, i) => i);
    const ranked = [...rows].sort((a, b) => (data.rows[b].stage === "rl") - (data.rows[a].stage === "rl") || data.score[b] - data.score[a] || a - b);
    [this.a, this.b] = ranked;
    this.side = "a";
    this.controls = element("div", { class: "controls" });
    this.told = element("p", { "aria-live": "polite" });
    this.box = element("div", { class: "plotbox" });
    this.tip = element("div", { class: "tip", hidden: true });
    this.list = element("div");
    this.lists = element("div", { class: "sides" });
    panel.append(this.controls, this.told, element("div", { class: "pair" }, element("div", {}, this.box, this.list), this.lists),
      element("p", { class: "note" }, ["A score is the mean over the samples of a context and the seeds of a row. Nothing is tested here: the tests are under Results.",
        ...this.own.told.map((one) => `${capital(one)}.`)].join(" ")));
    new ResizeObserver(() => { if (Math.abs(this.box.clientWidth - this.width) > 1) this.draw(); }).observe(this.box);
    this.choose();
  }

  choose() {
    const options = this.data.rows.map((row, i) => [String(i), row.name]);
    const set = (side) => (value) => { this[side] = Number(value); this.choose(); };
    const swap = () => { [this.a, this.b] = [this.b, this.a]; this.choose(); };
    this.controls.replaceChildren(choice("Row A", options, String(this.a), set("a")), choice("Row B", options, String(this.b), set("b")),
      element("button", { type: "button", class: "small", onclick: swap }, "swap"));
    const [a, b] = [this.scores[this.a], this.scores[this.b]];
    this.differences = Array.from(a, (value, i) => value - b[i]); // rounding in the page keeps their signs
    this.order = this.differences.map((_, i) => i).sort((i, j) => this.differences[j] - this.differences[i] || i - j);
    this.ahead = this.differences.filter((one) => one > 0).length;
    this.behind = this.differences.filter((one) => one < 0).length;
    this.from = 0;
    const count = this.order.length;
    const mean = (values) => values.reduce((sum, one) => sum + one, 0) / count;
    const name = (row) => this.data.rows[row].name;
    const metric = this.data.metricTitle;
    this.told.replaceChildren(...(this.a === this.b ? ["Choose two different rows."] : [
      element("strong", {}, name(this.a)), ` is ahead in ${this.ahead.toLocaleString("en")} of ${count.toLocaleString("en")} contexts, `,
      element("strong", {}, name(this.b)), ` in ${this.behind.toLocaleString("en")}; they are equal in ${(count - this.ahead - this.behind).toLocaleString("en")}. `,
      `Mean ${metric} over contexts: ${written(mean(Array.from(a)))} and ${written(mean(Array.from(b)))}.`]));
    this.draw();
    this.pick(this.side);
  }

  // Contexts with lists in which one side is ahead, the largest difference first.
  leading(side) {
    const known = this.order.filter((i) => this.listed.has(i) && this.fits(side, i));
    return side === "b" ? known.reverse() : known;
  }

  fits(side, i) {
    if (side === "prompt") return this.own.lists.prompts[this.listed.get(i)] !== "";
    return side === "a" ? this.differences[i] > 0 : side === "b" ? this.differences[i] < 0 : true;
  }

  pick(side) {
    this.side = side;
    this.from = AT_ONCE;
    this.tell();
    const first = this.leading(side)[0];
    this.show(first === undefined ? this.leading("all")[0] : first);
  }

  draw() {
    this.width = Math.max(280, this.box.clientWidth || 600);
    this.height = 240;
    const count = this.order.length;
    const values = this.order.map((i) => this.differences[i]);
    const most = Math.max(...values.map(Math.abs), 1e-3);
    const ticks = niceTicks(-most, most, 4);
    const tickWords = ticks.ticks.map((tick) => tickText(tick, ticks.step));
    this.frame = { left: besideTicks(tickWords, 46), right: this.width - 6, top: 22, bottom: this.height - 36 };
    const { left, right, top, bottom } = this.frame;
    this.px = (place) => left + ((place + 0.5) / count) * (right - left);
    this.py = (value) => (top + bottom) / 2 - (value / most) * ((bottom - top) / 2);
    const name = (row) => shortened(this.data.rows[row].name);
    const svg = drawing("svg", { class: "chart", viewBox: `0 0 ${this.width} ${this.height}`, tabindex: 0, role: "group",
      "aria-label": `Differences of ${count} contexts, sorted. Arrow keys move along them, Enter shows the lists.`,
      onpointermove: (event) => this.pointed(event), onpointerleave: () => this.read(null),
      onclick: (event) => { this.pointed(event); this.open(); }, onkeydown: (event) => this.keyed(event), onblur: () => this.read(null) });
    ticks.ticks.forEach((tick) => svg.append(
      drawing("line", { class: "gridline", x1: left, x2: right, y1: this.py(tick), y2: this.py(tick) }),
      drawing("text", { x: left - 6, y: this.py(tick) + 4, "text-anchor": "end" }, tickText(tick, ticks.step))));
    const step = Math.max(1, Math.floor(count / (2 * this.width)));
    const area = (sign) => {
      let path = `M${left} ${this.py(0)}`;
      for (let i = 0; i < count; i += step) {
        const y = this.py(sign * Math.max(0, sign * values[i])).toFixed(1);
        path += `L${(left + (i / count) * (right - left)).toFixed(1)} ${y}L${(left + (Math.min(count, i + step) / count) * (right - left)).toFixed(1)} ${y}`;
      }
      return `${path}L${right} ${this.py(0)}Z`;
    };
    [[1, this.a], [-1, this.b]].forEach(([sign, row]) => svg.append(drawing("path", { d: area(sign), fill: inkOf(this.data.rows[row].colour), "fill-opacity": 0.8 })));
    const texts = [[{ class: "title", x: left + 4, y: 13 }, `▲ ${name(this.a)} ahead`],
      [{ class: "title", x: right, y: bottom + 14, "text-anchor": "end" }, `▼ ${name(this.b)} ahead`],
      [{ class: "title", x: (left + right) / 2, y: bottom + 31, "text-anchor": "middle" }, `${count.toLocaleString("en")} contexts, sorted by the difference in ${this.data.metricTitle}`]];
    texts.forEach(([attributes, words]) => svg.append(drawing("text", attributes, words)));
    this.chosen = drawing("path", { class: "chosen" });
    this.cross = drawing("line", { class: "cross", y1: top, y2: bottom, visibility: "hidden" });
    svg.append(drawing("line", { class: "axis", x1: left, x2: right, y1: this.py(0), y2: this.py(0) }), this.cross, this.chosen);
    this.at = null;
    this.tip.hidden = true;
    this.box.replaceChildren(svg, this.tip);
    if (this.context !== undefined) this.mark();
  }

  pointed(event) {
    const box = this.box.getBoundingClientRect();
    const x = ((event.clientX - box.left) * this.width) / box.width;
    const { left, right } = this.frame;
    const place = Math.floor(((x - left) / (right - left)) * this.order.length);
    this.read(Math.max(0, Math.min(this.order.length - 1, place)));
  }

  keyed(event) {
    const last = this.order.length - 1;
    const now = this.at === null ? 0 : this.at;
    const stride = event.shiftKey ? Math.ceil(last / 50) : 1;
    const to = { ArrowLeft: Math.max(0, now - stride), ArrowRight: Math.min(last, now + (this.at === null ? 0 : stride)), Home: 0, End: last, Escape: null };
    if (event.key === "Enter") this.open();
    else if (event.key in to) this.read(to[event.key]);
    else return;
    event.preventDefault();
  }

  read(place) {
    this.at = place;
    this.tip.hidden = place === null;
    this.cross.setAttribute("visibility", place === null ? "hidden" : "visible");
    if (place === null) return;
    const context = this.order[place];
    this.cross.setAttribute("x1", this.px(place));
    this.cross.setAttribute("x2", this.px(place));
    const line = (row) => element("li", {}, swatchOf(this.data.rows[row]), this.data.rows[row].name, element("span", { class: "value" }, written(this.scores[row][context])));
    this.tip.replaceChildren(element("b", {}, this.own.names[context]), element("ul", {}, line(this.a), line(this.b)),
      element("span", { class: "soft" }, this.listed.has(context) ? "click or Enter: lists" : "no lists stored"));
    const zoom = this.box.clientWidth / this.width;
    const x = this.px(place) * zoom;
    this.tip.style.left = `${Math.max(0, Math.min(x + 12, this.box.clientWidth - this.tip.offsetWidth))}px`;
    this.tip.style.top = `${this.height * zoom - 28}px`;
  }

  open() {
    if (this.at !== null && this.listed.has(this.order[this.at])) this.show(this.order[this.at]);
  }

  // The contexts of one side as a table; a button in each line opens the lists.
  tell() {
    const sides = [["a", "A is ahead most"], ["b", "B is ahead most"], ["all", "any"]];
    if (this.leading("prompt").length) sides.push(["prompt", "the prompt is stored"]);
    const found = this.leading(this.side);
    const line = (i) => element("tr", { "data-context": i, "aria-current": i === this.context ? "true" : null },
      element("th", { scope: "row" }, element("button", { type: "button", class: "small", onclick: () => this.show(i) }, this.own.names[i])),
      ...[this.scores[this.a][i], this.scores[this.b][i]].map((value) => element("td", { class: "n" }, written(value))),
      element("td", { class: "n" }, signedShare(this.differences[i])));
    const more = () => { this.from += 3 * AT_ONCE; this.tell(); };
    const head = [["Context", null], ["A", "n"], ["B", "n"], ["Difference", "n"]].map(([title, kind]) => element("th", { scope: "col", class: kind }, title));
    this.list.replaceChildren(
      element("div", { class: "controls" }, choice("Contexts where", sides, this.side, (value) => this.pick(value))),
      found.length ? element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Contexts" }, element("table", {},
        element("thead", {}, element("tr", {}, head)), element("tbody", {}, found.slice(0, this.from).map(line)))) : element("p", { class: "note" }, "None of those with lists."),
      found.length > this.from ? element("button", { type: "button", class: "small", onclick: more }, `more (${(found.length - this.from).toLocaleString("en")})`) : "");
  }

  mark() {
    const place = this.order.indexOf(this.context);
    const x = this.px(place);
    this.chosen.setAttribute("d", `M${x} ${this.frame.bottom + 1}l-5 8h10z`);
  }

  // The two lists of a context, with its relevant items.
  show(context) {
    this.context = context;
    if (context === undefined) { this.lists.replaceChildren(element("p", { class: "note" }, "No lists are stored.")); return; }
    this.mark();
    this.list.querySelectorAll("tr[data-context]").forEach((row) => {
      if (Number(row.dataset.context) === context) row.setAttribute("aria-current", "true"); else row.removeAttribute("aria-current");
    });
    const { lists } = this.own;
    const at = this.listed.get(context);
    const entries = (row) => (lists.rows[at][row] || []).map((code) => [Math.floor(code / lists.verdicts.length), lists.verdicts[code % lists.verdicts.length]]);
    const [a, b] = [entries(this.a), entries(this.b)];
    const hit = (list, title) => list.some(([own, verdict]) => own === title && verdict === "hit");
    const kinds = [["both", "found by both"], ["onlya", "only by A"], ["onlyb", "only by B"], ["neither", "by neither"]];
    const kind = (title) => (hit(a, title) ? (hit(b, title) ? "both" : "onlya") : hit(b, title) ? "onlyb" : "neither");
    const truths = kinds.map(([name, words]) => {
      const own = lists.truth[at].filter((title) => kind(title) === name).map((title) => lists.titles[title]);
      return own.length ? element("li", {}, element("strong", {}, `${capital(words)}: `), own.join("; ")) : null;
    });
    const open = lists.open[at];
    const rest = open ? `${open} more relevant ${open === 1 ? "item was" : "items were"} found by no row.` : null;
    const several = lists.samples[at] > 1 ? `${lists.samples[at]} test samples share this context. A title is a hit if it is relevant in one of them; relevant titles that no row found are not stored.` : null;
    const card = (letter, row, list) => element("article", { class: "card" },
      element("h4", {}, `${letter}: `, swatchOf(this.data.rows[row]), this.data.rows[row].name),
      element("p", { class: "meta" }, `${this.data.metricTitle} ${written(this.scores[row][context])} · ${hitsOf(list)}`),
      element("ol", {}, list.map(([title, verdict], k) => rankItem(k, lists.titles[title], verdict))),
      list.length ? null : element("p", { class: "meta" }, "no entry"));
    this.lists.replaceChildren(
      element("div", { class: "context" }, element("p", {}, element("strong", {}, `Context ${this.own.names[context]}`)),
        lists.prompts[at] ? element("p", { class: "prompt" }, lists.prompts[at]) : "",
        element("p", {}, "Relevant items"), element("ul", {}, truths), [several, rest].filter(Boolean).map((words) => element("p", { class: "note" }, words))),
      element("div", { class: "two" }, card("A", this.a, a), card("B", this.b, b)),
      element("p", { class: "note" }, "Lists of the lowest seed of each row; scores are means over its seeds."));
  }
}

function signedShare(value) {
  return value === 0 ? "0" : `${value > 0 ? "+" : "−"}${written(Math.abs(value))}`;
}

function hitsOf(list) {
  const count = list.filter(([, verdict]) => verdict === "hit").length;
  return `${count} ${count === 1 ? "hit" : "hits"}`;
}
