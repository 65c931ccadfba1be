// Heat maps of ranks over training: ranks down, updates across, one map per row, one scale for all maps.

const SEQUENTIAL = [[0, 32, 77], [49, 68, 107], [102, 105, 112], [149, 143, 120], [202, 185, 105], [255, 234, 70]];
const DIVERGING = [[0, 90, 150], [120, 180, 215], [245, 245, 245], [240, 160, 105], [190, 75, 0]];
const MAPS_SHOWN = 6;

function colourAt(ramp, share) {
  const at = Math.min(1, Math.max(0, share)) * (ramp.length - 1);
  const i = Math.min(ramp.length - 2, Math.floor(at));
  const parts = ramp[i].map((from, c) => Math.round(from + (ramp[i + 1][c] - from) * (at - i)));
  return `rgb(${parts.join(" ")})`;
}

class HeatMaps {
  constructor(panel, data) {
    this.data = data;
    this.map = data.curves.heat[0];
    const candidates = [...new Set(data.curves.heat.flatMap((one) => one.rows.map(([row]) => row)))].sort((a, b) => a - b);
    this.shown = firstRows(data, candidates, MAPS_SHOWN, MAPS_SHOWN);
    this.maps = element("div", { class: "maps" });
    this.ramp = element("span", { class: "ramp" });
    const options = data.curves.heat.map((one) => [one.key, one.title]);
    const metric = choice("Metric", options, this.map.key, (key) => {
      this.map = data.curves.heat.find((one) => one.key === key);
      this.draw();
    });
    panel.append(
      element("div", { class: "controls" }, metric, this.ramp),
      this.maps,
      legend(data, candidates, this.shown, () => this.draw()),
      element("p", { class: "note" }, "Mean over seeds. A column is the mean of the measured updates in its range. "
        + "All maps share one colour scale."),
    );
    new ResizeObserver(() => { if (Math.abs(this.maps.clientWidth - this.width) > 1) this.draw(); }).observe(this.maps);
    this.draw();
  }

  draw() {
    this.width = this.maps.clientWidth;
    const rows = this.map.rows.filter(([row]) => this.shown.has(row));
    const values = this.map.rows.flatMap(([, , means]) => means.flat()).filter((value) => value !== null);
    const signedMap = values.some((value) => value < 0);
    const most = Math.max(...values.map(Math.abs), 0) || 1; // a map of zeros gets the scale 0 to 1
    const [low, high] = signedMap ? [-most, most] : [0, most];
    const ramp = signedMap ? DIVERGING : SEQUENTIAL;
    const bar = element("i");
    bar.style.background = `linear-gradient(90deg, ${ramp.map((colour) => `rgb(${colour.join(" ")})`).join(", ")})`;
    this.ramp.replaceChildren(written(low), bar, written(high));
    this.maps.replaceChildren(...rows.map(([row, spans, means]) => {
      const canvas = element("canvas", { role: "img", "aria-label": this.spoken(row, spans, means) });
      const tip = element("div", { class: "tip", hidden: true });
      const figure = element("figure", {}, element("figcaption", {}, swatchOf(this.data.rows[row]), this.data.rows[row].name),
        canvas, tip);
      requestAnimationFrame(() => this.paint(canvas, spans, means, (value) => colourAt(ramp, (value - low) / (high - low))));
      canvas.addEventListener("pointermove", (event) => this.read(event, canvas, tip, spans, means));
      canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
      return figure;
    }));
  }

  spoken(row, spans, means) {
    const last = spans.length - 1;
    const ranks = this.map.ranks;
    const at = (k) => `rank ${ranks[k]} ${written(means[k][0])} at first, ${written(means[k][last])} at the end`;
    return `${this.data.rows[row].name}, ${this.map.title}: ${at(0)}; ${at(ranks.length - 1)}`;
  }

  paint(canvas, spans, means, colour) {
    const width = canvas.clientWidth;
    const cell = means.length > 12 ? 11 : 15;
    const height = means.length * cell + 20;
    const zoom = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * zoom);
    canvas.height = Math.round(height * zoom);
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(zoom, zoom);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = getComputedStyle(canvas).color;
    pen.textBaseline = "middle";
    const left = 22;
    const across = (width - left) / spans.length;
    means.forEach((line, k) => {
      if (cell >= 15 || k % 5 === 4 || k === 0) {
        pen.textAlign = "right";
        pen.fillText(String(this.map.ranks[k]), left - 5, k * cell + cell / 2 + 0.5);
      }
    });
    pen.textAlign = "left";
    pen.fillText(String(spans[0][0]), left, means.length * cell + 11);
    pen.textAlign = "right";
    pen.fillText(`update ${spans[spans.length - 1][1]}`, width - 1, means.length * cell + 11);
    means.forEach((line, k) => line.forEach((value, i) => {
      if (value === null) return;
      pen.fillStyle = colour(value);
      const from = Math.round((left + i * across) * zoom) / zoom;
      const to = Math.round((left + (i + 1) * across) * zoom) / zoom;
      pen.fillRect(from, k * cell, to - from, cell - (cell >= 15 ? 1 : 0));
    }));
    Object.assign(canvas, { cell, left, across });
  }

  read(event, canvas, tip, spans, means) {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - canvas.left) / canvas.across);
    const rank = Math.floor((event.clientY - box.top) / canvas.cell);
    const inside = column >= 0 && column < spans.length && rank >= 0 && rank < means.length;
    tip.hidden = !inside;
    if (!inside) return;
    const [from, to] = spans[column];
    const where = from === to ? `update ${from}` : `updates ${from} to ${to}`;
    tip.replaceChildren(element("b", {}, `rank ${this.map.ranks[rank]}`), `, ${where}: ${written(means[rank][column])}`);
    const x = event.clientX - box.left;
    tip.style.left = `${Math.max(0, Math.min(x + 12, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${canvas.offsetTop + rank * canvas.cell - tip.offsetHeight - 8}px`;
  }
}
