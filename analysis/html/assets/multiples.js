// Small panels under the curves, one for each row: the row with its band in colour, the other rows in grey, on one scale.

const PANEL = 170; // least width of a panel, in pixels
const GAP = 14;

function panelsAcross(width) {
  return Math.max(1, Math.min(6, Math.floor((width + GAP) / (PANEL + GAP))));
}

function multiples(chart, series, references) {
  const across = panelsAcross(chart.width);
  const width = Math.floor((chart.width - GAP * (across - 1)) / across);
  const small = Object.create(chart); // the same series on a smaller frame
  small.crowded = false;
  small.scale(series, [], true);
  const ys = niceTicks(...small.y, 3);
  small.frame = { left: besideTicks(ys.ticks.map((tick) => tickText(tick, ys.step)), 34), right: width - 4, top: 5, bottom: 92 };
  const grey = series.map((one) => small.lineOf(one)[0].getAttribute("d")).join("");
  const ends = niceTicks(...small.x, 3, chart.axis !== "seconds");
  return series.map((one, i) => {
    const { left, right, top, bottom } = small.frame;
    const row = chart.data.rows[one.row];
    const known = one.mean.filter((value) => value !== null);
    const [first, last] = [written(known[0] ?? null), written(known[known.length - 1] ?? null)];
    const svg = drawing("svg", { class: "mini", viewBox: `0 0 ${width} 112`, width, height: 112, role: "img",
      "aria-label": `${row.name}, ${chart.title()}: ${first} at first, ${last} at the end` });
    const clip = drawing("clipPath", { id: `panel-${i}` }, drawing("rect", { x: left, y: top - 3, width: right - left, height: bottom - top + 6 }));
    svg.append(drawing("defs", {}, clip, i ? [] : [drawing("path", { id: "grey-lines", d: grey, fill: "none", stroke: "currentColor", opacity: 0.22 })]));
    ys.ticks.forEach((tick) => svg.append(
      drawing("line", { class: "gridline", x1: left, x2: right, y1: small.py(tick), y2: small.py(tick) }),
      drawing("text", { x: left - 4, y: small.py(tick) + 3.5, "text-anchor": "end" }, tickText(tick, ys.step))));
    ends.ticks.forEach((tick) => svg.append(drawing("text", { x: small.px(tick), y: bottom + 15, "text-anchor": "middle" }, tickText(tick, ends.step))));
    svg.append(drawing("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    const inside = drawing("g", { "clip-path": `url(#panel-${i})` }, drawing("use", { href: "#grey-lines" }));
    references.forEach((reference) => inside.append(small.referenceOf(reference)));
    if (one.band) inside.append(small.bandOf(one));
    inside.append(drawing("g", { stroke: inkOf(row.colour) }, small.lineOf(one)[0]));
    svg.append(inside);
    return element("figure", {}, element("figcaption", {}, row.name, " ", element("span", { class: "soft" }, last)), svg);
  });
}
