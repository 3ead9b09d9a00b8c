// Points with axes that the reader chooses; without this script the page keeps its still picture.
const SVG = "http://www.w3.org/2000/svg";
const SHAPES = [
  "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z", "M-4.6 -4.6h9.2v9.2h-9.2z", "M0 -6.2l6.2 6.2l-6.2 6.2l-6.2 -6.2z",
  "M0 -6l5.6 10h-11.2z", "M0 6l5.6 -10h-11.2z", "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
  "M-6 -3l3 -3l3 3l3 -3l3 3l-3 3l3 3l-3 3l-3 -3l-3 3l-3 -3l3 -3z",
];
function make(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}
function compact(value) {
  for (const [size, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return +(value / size).toPrecision(3) + sign;
  return String(+value.toPrecision(3));
}
function plain(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((each) => each * power >= rough) * power;
  const ticks = [];
  for (let at = Math.ceil(low / step); at * step <= high * (1 + 1e-12); at++) ticks.push(at * step);
  return ticks;
}
function logarithmic(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const each of high / low < 30 ? [1, 2, 5] : [1]) ticks.push(each * 10 ** power);
  const shown = ticks.filter((tick) => tick >= low && tick <= high);
  return shown.length > 1 ? shown : plain(low, high, 3).filter((tick) => tick > 0);
}
function scale(values, wanted, from, to) {
  const positive = values.filter((value) => value > 0);
  const log = wanted && positive.length > 0 && Math.max(...positive) / Math.min(...positive) > 3;
  if (!log) {
    const low = Math.min(...values), high = Math.max(...values), room = (high - low || Math.abs(high) || 1) * 0.08;
    const start = low >= 0 && wanted ? Math.max(0, low - room) : low - room, end = high + room;
    return {at: (value) => from + (to - from) * (value - start) / (end - start), ticks: plain(start, end, 5)};
  }
  // What costs nothing has no place on a logarithmic scale: it stands left of a dotted line.
  const none = values.some((value) => value === 0), least = Math.min(...positive);
  const zero = least / 4, start = none ? zero / 1.6 : least / 1.5, end = Math.max(...positive) * 1.5;
  const at = (value) => from + (to - from) * (Math.log(value || zero) - Math.log(start)) / (Math.log(end) - Math.log(start));
  return {at, ticks: logarithmic(none ? least / 1.5 : start, end), none: none ? at(least / 2) : null, log};
}
// Where a few scores are far below the others, these keep the room: the few stand below a dotted line.
function bulk(values) {
  const sorted = [...values].sort((a, b) => a - b), at = (share) => sorted[Math.floor(share * (sorted.length - 1))];
  const low = at(0.25) - 3 * Math.max(at(0.75) - at(0.25), 0.5);
  return sorted.length >= 6 ? low : -Infinity;
}
function front(points) {
  const beaten = ([x, y]) => points.some(([a, b]) => a <= x && b >= y && (a < x || b > y));
  return points.filter((point) => !beaten(point)).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
}
for (const box of document.querySelectorAll("[data-scatter]")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const [up, across] = box.querySelectorAll("select");
  const plot = box.querySelector(".plot"), told = box.querySelector(".told");
  const fill = (select, axes) => select.append(...axes.map((axis, i) => new Option(axis.name, i)));
  const look = (point) => [`var(--c${point.look[0]})`, SHAPES[point.look[1] % SHAPES.length]];
  fill(across, data.costs);
  fill(up, data.scores);
  const labels = new Map(data.points.map((point) => [point.label, look(point)]));
  for (const [label, [colour, shape]] of labels) {
    const entry = document.createElement("span");
    const key = make(entry, "svg", {viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true"});
    make(key, "path", {d: shape, fill: colour});
    entry.append(label);
    box.querySelector(".legend").append(entry);
  }
  const words = (point, cost, score) => {
    const [mean, low, high] = point.scores[score.key];
    const interval = low === null ? "" : ` [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
    return [
      point.title, `${score.name} ${(100 * mean).toFixed(1)}${interval}`,
      `${cost.name} ${point.costs[cost.key].toLocaleString("en", {maximumSignificantDigits: 6})}`,
      `${point.seeds} seeds`, ...point.doubts,
    ];
  };
  const draw = () => {
    const cost = data.costs[across.value], score = data.scores[up.value];
    const shown = data.points.filter((point) => cost.key in point.costs && score.key in point.scores);
    const width = Math.max(plot.clientWidth, 280), height = Math.min(420, Math.max(300, width * 0.6));
    const left = 46, right = width - 10, top = 12, bottom = height - 44;
    const x = scale(shown.map((point) => point.costs[cost.key]), true, left, right);
    const least = bulk(shown.map((point) => 100 * point.scores[score.key][0]));
    const far = shown.some((point) => 100 * point.scores[score.key][0] < least), floor = bottom - (far ? 26 : 0);
    const kept = shown.map((point) => point.scores[score.key]).filter(([mean]) => 100 * mean >= least);
    const y = scale(kept.flat().filter((value) => value !== null).map((value) => 100 * value), false, floor, top);
    const height_of = (value) => 100 * value < least ? bottom - 10 : y.at(100 * value);
    const svg = document.createElementNS(SVG, "svg");
    const name = `${score.name} against ${cost.name}`;
    for (const [key, value] of Object.entries({viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": name})) svg.setAttribute(key, value);
    for (const tick of y.ticks) {
      make(svg, "path", {d: `M${left} ${y.at(tick)}H${right}`, class: "grid"});
      make(svg, "text", {x: left - 6, y: y.at(tick) + 4, "text-anchor": "end"}, compact(tick));
    }
    for (const tick of x.ticks) {
      make(svg, "path", {d: `M${x.at(tick)} ${top}V${bottom}`, class: "grid"});
      make(svg, "text", {x: x.at(tick), y: bottom + 16, "text-anchor": "middle"}, compact(tick));
    }
    if (x.none) {
      make(svg, "path", {d: `M${x.none} ${top}V${bottom}`, class: "edge"});
      make(svg, "text", {x: x.at(0), y: bottom + 16, "text-anchor": "middle"}, "none");
    }
    if (far) {
      make(svg, "path", {d: `M${left} ${floor}H${right}`, class: "edge"});
      make(svg, "text", {x: left - 6, y: bottom - 6, "text-anchor": "end"}, "lower");
    }
    make(svg, "text", {x: (left + right) / 2, y: height - 8, "text-anchor": "middle"}, cost.name + (x.log ? " (log scale)" : ""));
    const place = (point) => [x.at(point.costs[cost.key]), height_of(point.scores[score.key][0])];
    const best = front(shown.filter((point) => point.whole).map((point) => [point.costs[cost.key], point.scores[score.key][0]]));
    if (best.length) {
      const steps = best.map(([a, b], i) => i ? `H${x.at(a)}V${height_of(b)}` : `M${x.at(a)} ${height_of(b)}`);
      make(svg, "path", {d: steps.join("") + `H${right}`, class: "front"});
    }
    for (const point of shown) {
      const [colour, shape] = look(point), [a, b] = place(point), [, low, high] = point.scores[score.key];
      const group = make(svg, "g", {tabindex: 0, role: "img", "aria-label": words(point, cost, score).join(", ")});
      if (low !== null && 100 * point.scores[score.key][0] >= least) make(group, "path", {d: `M${a} ${y.at(100 * low)}V${y.at(100 * high)}`, stroke: colour, "stroke-width": 1.4});
      make(group, "circle", {cx: a, cy: b, r: 13, fill: "transparent"});
      make(group, "path", {d: shape, transform: `translate(${a} ${b})`, fill: point.whole ? colour : "var(--paper)", stroke: colour, "stroke-width": 1.6});
      const tell = () => told.replaceChildren(...words(point, cost, score).map((text, i) => Object.assign(document.createElement(i ? "span" : "b"), {textContent: text})));
      for (const event of ["mouseenter", "focus", "click"]) group.addEventListener(event, tell);
    }
    plot.replaceChildren(svg);
    told.textContent = "Point at a mark, or tap it.";
  };
  for (const select of [across, up]) select.addEventListener("change", draw);
  const still = document.getElementById(box.dataset.scatter);
  if (still) still.hidden = true;
  box.hidden = false;
  let last = plot.clientWidth;
  draw();
  window.addEventListener("resize", () => {
    if (plot.clientWidth !== last) draw();
    last = plot.clientWidth;
  });
}
