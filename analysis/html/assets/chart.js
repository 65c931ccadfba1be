// Curves: mean and band of each row, against updates or the amount spent by then, with its name at its end. More than FEW
// rows have no bands, which would hide each other; small panels below show them, one row each. The reading line moves to
// the nearest measured point, by pointer or arrow keys. Values between points are not interpolated.

const OFF_SCALE = 1; // a reference farther from the curves than this multiple of their range is named, not drawn
const BAND_ROOM = 3; // a band widens the frame by at most this multiple of the lines' range on each side, and is cut there
const MARKED = 26; // curves with at most this many points have a marker on each
const FEW = 4; // at most this many rows have bands in one panel
const LABEL = 14; // distance of the names at the ends of lines, in pixels
const NARROW = 560; // narrower panels have no names at the ends of lines
const LETTERS = 42; // longest name at the end of a line; longer ones lose their middle

// Ticks of about this number; with `whole`, at whole numbers only.
function niceTicks(low, high, count, whole = false) {
  const raw = Math.max((high - low) / Math.max(1, count), whole ? 1 : 0);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) ticks.push(i * step);
  return { ticks, step };
}

function tickText(value, step) {
  if (Math.abs(value) >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  if (Math.abs(value) >= 1e4) return `${Number((value / 1e3).toPrecision(4))} k`;
  if (value !== 0 && step < 1e-4) return value.toExponential(1);
  return value.toFixed(Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)))).replace("-", "−");
}

// Value and name of each reference line. Equal references share one line and one name.
function referenceNames(references) {
  const levels = new Map();
  references.forEach(([name, value]) => levels.set(value, [...(levels.get(value) || []), name]));
  return [...levels].map(([value, names]) => [value, `${names.join(", ")} ${written(value)}`]);
}

// Places of labels that want to be at these heights: in order, at least `gap` apart, between top and bottom if they fit.
function spreadOut(wanted, gap, top, bottom) {
  const places = [];
  wanted.forEach((y, i) => places.push(Math.max(y, i ? places[i - 1] + gap : top)));
  for (let i = places.length - 1, limit = bottom; i >= 0 && places[i] > limit; i -= 1, limit -= gap) places[i] = limit;
  return places;
}

const ruler = document.createElement("canvas").getContext("2d");

// Width of a text in a chart, in pixels.
function textWidth(text) {
  ruler.font = "12px system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif";
  return ruler.measureText(text).width;
}

// Left edge of a frame whose ticks have these words; at least `least`.
function besideTicks(words, least) {
  return Math.max(least, Math.ceil(Math.max(0, ...words.map(textWidth))) + 10);
}

function shortened(name) {
  return name.length > LETTERS ? `${name.slice(0, 15)}…${name.slice(16 - LETTERS)}` : name;
}

class Chart {
  constructor(panel, data) {
    this.data = data;
    this.curves = data.curves;
    this.metric = this.curves.metrics[0].key;
    this.axis = "updates";
    const rows = new Set();
    Object.values(this.curves.series).forEach((list) => list.forEach((one) => rows.add(one[0])));
    const candidates = [...rows].sort((a, b) => a - b);
    this.shown = firstRows(data, candidates);
    this.emphasised = null;
    this.at = null;
    this.box = element("div", { class: "plotbox" });
    this.tip = element("div", { class: "tip", hidden: true });
    this.spoken = element("div", { class: "unseen", "aria-live": "polite" });
    this.note = element("p", { class: "note" });
    this.panels = element("div", { class: "multiples" });
    panel.append(
      element("div", { class: "controls" }, this.choices()),
      this.box,
      this.spoken,
      legend(data, candidates, this.shown, () => this.draw(), (row) => this.emphasise(row)),
      this.panels,
      this.note,
    );
    this.hidden = candidates.length - this.shown.size;
    new ResizeObserver(() => this.resized()).observe(this.box);
    this.draw();
  }

  choices() {
    const of = (split) => this.curves.metrics.filter((one) => one.split === split).map((one) => [one.key, one.title]);
    const groups = [["validation", "Validation"], ["train", "Training"]]
      .map(([split, group]) => ({ group, options: of(split) })).filter((one) => one.options.length);
    const metric = choice("Metric", groups, this.metric, (value) => { this.metric = value; this.at = null; this.draw(); });
    const axes = Object.entries(this.curves.axes);
    const axis = choice("Against", axes, this.axis, (value) => { this.axis = value; this.at = null; this.draw(); });
    return [metric, axis];
  }

  get series() {
    return this.curves.series[this.metric].filter((one) => this.shown.has(one[0])).map(([row, at, mean, low, high]) => (
      { row, x: this.curves.xs[at][this.axis], steps: this.curves.xs[at].updates, mean, low: low || mean,
        high: high || mean, band: Boolean(low) }));
  }

  resized() {
    if (Math.abs(this.box.clientWidth - this.width) > 1) this.draw();
  }

  draw() {
    const series = this.series;
    this.width = Math.max(280, this.box.clientWidth || 800);
    this.crowded = series.length > FEW;
    const references = this.visibleReferences(series);
    const labels = this.labels(series, references.drawn);
    this.height = Math.round(Math.max(Math.min(460, Math.max(250, this.width * 0.46)), LABEL * labels.length + 80));
    const longest = Math.max(0, ...labels.map((one) => textWidth(one.name)));
    const right = longest ? 26 + longest : 14;
    const beyond = this.beyondText(references);
    const [above, under] = [this.beside(beyond) ? 24 : 40, this.height - 42];
    this.scale(series, references.drawn, !this.crowded);
    this.ticks = niceTicks(...this.y, Math.max(3, Math.round((under - above) / 55)));
    const tickWords = this.ticks.ticks.map((tick) => tickText(tick, this.ticks.step));
    this.frame = { left: besideTicks(tickWords, 52), right: this.width - right, top: above, bottom: under };
    const svg = drawing("svg", {
      class: "chart", viewBox: `0 0 ${this.width} ${this.height}`, tabindex: 0, role: "group",
      "aria-label": `${this.title()} against ${this.curves.axes[this.axis]}. Arrow keys move the reading line.`,
      onpointermove: (event) => this.pointed(event), onpointerleave: () => this.leave(),
      onpointerdown: (event) => this.pointed(event), onkeydown: (event) => this.keyed(event), onblur: () => this.leave(),
    });
    const { left, right: end, top, bottom } = this.frame;
    const clip = drawing("clipPath", { id: "frame" },
      drawing("rect", { x: left, y: top - 4, width: end - left, height: bottom - top + 8 }));
    svg.append(drawing("defs", {}, clip), ...this.axes(beyond));
    const inside = drawing("g", { "clip-path": "url(#frame)" });
    this.bands = new Map(series.filter((one) => one.band).map((one) => [one.row, this.bandOf(one)]));
    inside.append(...this.bands.values());
    references.drawn.forEach((one) => svg.append(this.referenceOf(one)));
    svg.append(...this.labelled(labels));
    this.lines = new Map();
    series.forEach((one) => {
      const line = drawing("g", { "data-row": one.row, stroke: inkOf(this.data.rows[one.row].colour) }, this.lineOf(one));
      this.lines.set(one.row, line);
      inside.append(line);
    });
    this.cross = drawing("g");
    svg.append(inside, this.cross);
    this.box.replaceChildren(svg, this.tip);
    this.places = [...new Set(series.flatMap((one) => one.x.filter((x, i) => x !== null && one.mean[i] !== null)))];
    this.places.sort((a, b) => a - b);
    this.read(this.at !== null && this.places.length ? this.nearest(this.at) : null);
    this.note.textContent = this.told(series);
    this.emphasise(this.emphasised);
    this.panels.style.gridTemplateColumns = `repeat(${panelsAcross(this.width)}, minmax(0, 1fr))`;
    this.panels.replaceChildren(...(this.crowded ? multiples(this, series, references.drawn) : []));
  }

  // Names at the right: of each reference and, where there is room, of each row.
  labels(series, references) {
    const names = referenceNames(references.map(([row, value]) => [this.data.rows[row].name, value]));
    const labels = names.map(([value, name]) => ({ row: null, name, value }));
    if (this.width < NARROW) return labels;
    const ends = series.map((one) => {
      const last = one.mean.findLastIndex((value, i) => value !== null && one.x[i] !== null);
      return last < 0 ? null : { row: one.row, name: shortened(this.data.rows[one.row].name), value: one.mean[last], x: one.x[last] };
    });
    return [...labels, ...ends.filter(Boolean)].sort((a, b) => b.value - a.value || a.row - b.row);
  }

  // The names, apart from each other, each with a line from the end of its curve.
  labelled(labels) {
    const { right, top, bottom } = this.frame;
    const inside = (y) => Math.min(bottom, Math.max(top, y));
    const places = spreadOut(labels.map((one) => inside(this.py(one.value))), LABEL, top, bottom);
    return labels.flatMap(({ row, name, value, x }, i) => {
      const text = drawing("text", { class: row === null ? null : "name", "data-name": row, x: right + 20, y: places[i] + 4 }, name);
      const [from, y] = [row === null ? right : this.px(x), this.py(value)];
      const colour = row === null ? "var(--soft)" : inkOf(this.data.rows[row].colour);
      return [drawing("polyline", { class: "leader", points: `${from},${y} ${right + 4},${y} ${right + 16},${places[i]}`, stroke: colour }), text];
    });
  }

  title() {
    return this.curves.metrics.find((one) => one.key === this.metric).title;
  }

  // References near the curves or inside the frame are drawn. One that is drawn may widen the frame to hold others.
  visibleReferences(series) {
    const all = series.length ? this.curves.references[this.metric] || [] : [];
    const means = series.flatMap((one) => one.mean.filter((v) => v !== null));
    const [low, high] = [Math.min(...means), Math.max(...means)];
    const room = OFF_SCALE * (high - low);
    let drawn = all.filter(([, value]) => value <= high + room && value >= low - room);
    for (let before = -1; drawn.length > before;) {
      before = drawn.length;
      this.scale(series, drawn, !this.crowded);
      drawn = all.filter((one) => drawn.includes(one) || (one[1] >= this.y[0] && one[1] <= this.y[1]));
    }
    return { beyond: all.filter((one) => !drawn.includes(one)), drawn, middle: (low + high) / 2 };
  }

  // The scales of both axes; with `bands`, they have room for the bands.
  scale(series, references, bands) {
    const xs = series.flatMap((one) => one.x.filter((x) => x !== null));
    const means = series.flatMap((one) => one.mean.filter((v) => v !== null)).concat(references.map(([, v]) => v));
    let low = means.length ? Math.min(...means) : 0;
    let high = means.length ? Math.max(...means) : 1;
    const room = BAND_ROOM * (high - low || Math.abs(high) || 1);
    const ends = (side) => (bands ? series.flatMap((one) => one[side].filter((v) => v !== null)) : []);
    const lowest = Math.min(low, ...ends("low"));
    const highest = Math.max(high, ...ends("high"));
    [low, high] = [Math.max(lowest, low - room), Math.min(highest, high + room)];
    this.cut = lowest < low || highest > high;
    const least = means.length ? Math.min(...means) : 0;
    if (least >= 0 && (low < 0 || low < 0.4 * high)) low = 0;
    const size = Math.max(Math.abs(low), Math.abs(high));
    if (size < 1e-9) [low, high] = [0, 1];
    else if (high - low < 1e-9 * size) [low, high] = [low - size / 10, high + size / 10];
    const pad = low === 0 ? [0, 0.05] : [0.05, 0.05];
    this.y = [low - pad[0] * (high - low), high + pad[1] * (high - low)];
    this.x = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
    if (this.x[1] === this.x[0]) this.x = [this.x[0] - 1, this.x[1] + 1];
  }

  px(x) {
    const { left, right } = this.frame;
    return left + 6 + ((x - this.x[0]) / (this.x[1] - this.x[0])) * (right - left - 12);
  }

  py(y) {
    const { top, bottom } = this.frame;
    return bottom - ((y - this.y[0]) / (this.y[1] - this.y[0])) * (bottom - top);
  }

  // Whether the words on references beyond the frame fit beside the title.
  beside(words) {
    return !words || textWidth(this.title()) + textWidth(words) + 90 < this.width;
  }

  beyondText({ beyond, middle }) {
    const names = beyond.map((one) => `${this.referenceName(one)} ${one[1] > middle ? "↑" : "↓"}`);
    return names.length ? `beyond: ${names.join(", ")}` : "";
  }

  axes(beyond) {
    const { left, right, top, bottom } = this.frame;
    const text = (attributes, ...words) => drawing("text", attributes, ...words);
    const parts = [];
    const ys = this.ticks;
    for (const tick of ys.ticks) {
      const y = this.py(tick);
      parts.push(drawing("line", { class: "gridline", x1: left, x2: right, y1: y, y2: y }));
      parts.push(text({ x: left - 7, y: y + 4, "text-anchor": "end" }, tickText(tick, ys.step)));
    }
    const xs = niceTicks(...this.x, Math.max(3, Math.round((right - left) / 95)), this.axis !== "seconds");
    for (const tick of xs.ticks) {
      const x = this.px(tick);
      parts.push(drawing("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }));
      parts.push(text({ x, y: bottom + 18, "text-anchor": "middle" }, tickText(tick, xs.step)));
    }
    parts.push(drawing("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    parts.push(text({ class: "title", x: (left + right) / 2, y: bottom + 36, "text-anchor": "middle" },
      this.curves.axes[this.axis]));
    parts.push(text({ class: "title", x: 4, y: 13 }, this.title()));
    if (this.beside(beyond)) parts.push(text({ x: this.width - 4, y: 13, "text-anchor": "end" }, beyond));
    else parts.push(text({ x: 4, y: 29 }, beyond));
    return parts;
  }

  lineOf(one) {
    const row = this.data.rows[one.row];
    let path = "";
    let open = false;
    one.mean.forEach((value, i) => {
      if (value === null || one.x[i] === null) { open = false; return; }
      path += `${open ? "L" : "M"}${this.px(one.x[i]).toFixed(1)} ${this.py(value).toFixed(1)}`;
      open = true;
    });
    const parts = [drawing("path", { class: "curve", d: path, "stroke-width": 1.8, "stroke-dasharray": dashesOf(row, 1.8) })];
    if (one.x.length <= MARKED) {
      one.mean.forEach((value, i) => {
        if (value !== null && one.x[i] !== null) parts.push(this.dot(one.x[i], value, row, 2.4));
      });
    }
    return parts;
  }

  dot(x, y, row, r) {
    return drawing("circle", { cx: this.px(x).toFixed(1), cy: this.py(y).toFixed(1), r, fill: inkOf(row.colour), stroke: "none" });
  }

  bandOf(one) {
    const known = one.mean.map((value, i) => i).filter((i) => one.mean[i] !== null && one.x[i] !== null);
    const there = known.map((i) => `${this.px(one.x[i]).toFixed(1)} ${this.py(one.high[i]).toFixed(1)}`);
    const back = [...known].reverse().map((i) => `${this.px(one.x[i]).toFixed(1)} ${this.py(one.low[i]).toFixed(1)}`);
    return drawing("path", { "data-band": one.row, d: `M${there.concat(back).join("L")}Z`, visibility: this.crowded ? "hidden" : null,
      fill: inkOf(this.data.rows[one.row].colour), "fill-opacity": 0.15 });
  }

  referenceName([row, value]) {
    return `${this.data.rows[row].name} ${written(value)}`;
  }

  referenceOf([row, value]) {
    const { left, right } = this.frame;
    const y = this.py(value);
    return drawing("line", { x1: left, x2: right, y1: y, y2: y, stroke: this.data.rows[row].colour,
      "stroke-dasharray": dashesOf(this.data.rows[row], 1.2), "stroke-width": 1.2 });
  }

  emphasise(row) {
    this.emphasised = row;
    this.lines.forEach((line, own) => {
      line.classList.toggle("quiet", row !== null && this.lines.has(row) && own !== row);
      line.firstChild.setAttribute("stroke-width", own === row ? 3 : 1.8);
    });
    if (this.crowded) this.bands.forEach((band, own) => band.setAttribute("visibility", own === row ? "visible" : "hidden"));
    this.box.querySelectorAll("[data-name]").forEach((name) => name.classList.toggle("strong", Number(name.dataset.name) === row));
  }

  nearest(x) {
    let [low, high] = [0, this.places.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.places[middle] <= x) low = middle; else high = middle;
    }
    return Math.abs(this.places[low] - x) <= Math.abs(this.places[high] - x) ? low : high;
  }

  pointed(event) {
    if (!this.places.length) return;
    const box = this.box.getBoundingClientRect();
    const zoom = this.width / box.width;
    const { left, right } = this.frame;
    const x = this.x[0] + (((event.clientX - box.left) * zoom - left - 6) / (right - left - 12)) * (this.x[1] - this.x[0]);
    this.read(this.nearest(x), (event.clientY - box.top) * zoom);
  }

  keyed(event) {
    const last = this.places.length - 1;
    const now = this.at === null ? null : this.nearest(this.at);
    const to = {
      ArrowLeft: now === null ? last : Math.max(0, now - 1), ArrowRight: now === null ? 0 : Math.min(last, now + 1),
      Home: 0, End: last, Escape: null,
    };
    if (!(event.key in to) || last < 0) return;
    event.preventDefault();
    this.read(to[event.key]);
    this.spoken.textContent = to[event.key] === null ? "" : this.tip.innerText.replace(/\n+/g, "; ");
  }

  leave() {
    this.read(null);
  }

  // Values of every visible row at x: the row's own measured point closest to it.
  valuesAt(x) {
    return this.series.map((one) => {
      let best = null;
      one.x.forEach((own, i) => {
        if (own !== null && one.mean[i] !== null && (best === null || Math.abs(own - x) < Math.abs(one.x[best] - x))) best = i;
      });
      return best === null ? null : { row: one.row, x: one.x[best], mean: one.mean[best], low: one.low[best],
        high: one.high[best], band: one.band };
    }).filter(Boolean).sort((a, b) => b.mean - a.mean || a.row - b.row);
  }

  // Put the reading line at a place (an index, or null for none); `height` is the height of the pointer.
  read(place, height = null) {
    this.cross.replaceChildren();
    this.tip.hidden = place === null;
    if (place === null) { this.at = null; return; }
    const x = this.places[place];
    this.at = x;
    const values = this.valuesAt(x);
    const at = this.px(x);
    this.cross.append(drawing("line", { class: "cross", x1: at, x2: at, y1: this.frame.top, y2: this.frame.bottom }));
    values.forEach((one) => {
      if (one.mean >= this.y[0] && one.mean <= this.y[1]) this.cross.append(this.dot(one.x, one.mean, this.data.rows[one.row], 3.6));
    });
    let near = null;
    if (height !== null) {
      values.forEach((one) => {
        const gap = Math.abs(this.py(one.mean) - height);
        if (gap < 14 && (near === null || gap < near.gap)) near = { row: one.row, gap };
      });
    }
    this.tell(x, values, near === null ? null : near.row);
    this.place(at);
  }

  tell(x, values, near) {
    const span = this.x[1] - this.x[0];
    const items = values.map((one) => {
      const own = Math.abs(one.x - x) > 0.002 * span ? element("span", { class: "soft" }, ` at ${written(one.x)}`) : null;
      const bounds = one.band ? element("span", { class: "soft" }, ` [${written(one.low)}, ${written(one.high)}]`) : null;
      return element("li", { "data-row": one.row, "data-value": one.mean, class: one.row === near ? "near" : null },
        swatchOf(this.data.rows[one.row]), element("span", {}, this.data.rows[one.row].name),
        element("span", { class: "value" }, written(one.mean), bounds, own));
    });
    const unit = this.curves.axes[this.axis];
    this.tip.dataset.x = x;
    this.tip.classList.toggle("many", items.length > 12);
    this.tip.replaceChildren(element("b", {}, `${unit}: ${written(x)}`), element("ul", {}, items));
  }

  // Put the box next to the reading line, right if it fits, else left, else below the plot.
  place(at) {
    const box = this.box.clientWidth;
    const zoom = box / this.width;
    const size = this.tip.offsetWidth;
    const x = at * zoom;
    const fits = x + 14 + size <= box ? x + 14 : x - 14 - size >= 0 ? x - 14 - size : null;
    this.tip.style.left = fits === null ? "0px" : `${fits}px`;
    this.tip.style.top = fits === null ? `${this.height * zoom + 4}px` : `${this.frame.top * zoom + 6}px`;
  }

  told(series) {
    const seeds = [...new Set(series.map((one) => this.data.rows[one.row].seeds))].sort((a, b) => a - b);
    const words = [];
    if (!series.length) return "No row is shown. Select rows in the legend.";
    words.push(seeds.length === 1 && seeds[0] === 1 ? "Lines: one seed each, so there are no bands."
      : "Lines: mean over seeds, at updates that all seeds of a row measured.");
    const where = this.crowded ? "Bands, in the small panels" : "Bands";
    if (seeds.some((n) => n >= 3)) words.push(`${where}: 95 % t-interval over seeds${seeds.includes(2) ? ", range of two" : ""}.`);
    else if (seeds.includes(2)) words.push(`${where}: range of two seeds.`);
    if (this.crowded) words.push("Small panels: one row in colour, the other rows shown in grey, on one scale.");
    if (this.cut) words.push("Bands that are wider than the frame are cut at its edge.");
    if (this.metric.startsWith("train/") && this.curves.smoothing > 1) {
      words.push(`Smoothed within each run: moving mean of ${this.curves.smoothing} points.`);
    }
    if (this.metric.startsWith("train/") && this.curves.thinned) words.push(`Long curves show ${this.curves.points} of their points.`);
    if (this.axis !== "updates") words.push("The amount spent up to an update is the mean over a row’s seeds.");
    if (this.hidden > 0) words.push(`The ${FIRST_SHOWN} rows with the highest test score are shown first. Select others in the legend.`);
    return words.join(" ");
  }
}
