// What charts share: small ones over training their frame with its scales, lines with gaps, and the cursor; those of
// studies their axes.

const CHART_HEIGHT = 92;

// The smallest and the largest of some numbers, and never the same one.
function spanOf(numbers) {
  const known = finite(numbers);
  const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
  return high > low ? [low, high] : [low - 1, high + 1];
}

// Clears a canvas and draws the frame of a chart with the ends of its axis and the decades of its steps, or with other
// marks on another scale; `number` is what an end of the axis stands for.
// `line(points)` adds a path through pairs of step and value; it may leave the frame by a hair, and gaps stay gaps. It is
// `through(placed(points))`: what stays is placed once.
function chartFrame(canvas, run, width, [low, high], height = CHART_HEIGHT, { number, marks, scale } = {}) {
  const top = 4,
    bottom = height - 14;
  const context = fresh(canvas, width, height);
  const ends = [high, low].map((value) => formatted(number ? number(value) : value, 2));
  const left = Math.max(30, ...ends.map((text) => context.measureText(text).width + 6)),
    right = width - 4;
  const steps = RUNS.map((each) => each.steps.at(-1) ?? 0).sort((a, b) => a - b);
  const x = scale ? scale(left, right) : stepScale(steps, left, right);
  const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low);
  // Where points lie; null is a gap.
  const placed = (points) =>
    points.map(([step, value]) =>
      Number.isFinite(value) ? [x(step), Math.min(bottom + 2, Math.max(top - 2, y(value)))] : null,
    );
  const through = (places, started = false) => {
    for (const place of places) {
      if (!place) started = false;
      else {
        if (started) context.lineTo(place[0], place[1]);
        else context.moveTo(place[0], place[1]);
        started = true;
      }
    }
  };
  const line = (points, started) => through(placed(points), started);
  context.fillStyle = css("--soft");
  context.textAlign = "right";
  context.fillText(ends[0], left - 4, top + 8);
  context.fillText(ends[1], left - 4, bottom);
  context.textAlign = "center";
  for (const mark of marks ?? decades(run.steps.at(-1))) context.fillText(short(mark), x(mark), height - 2);
  context.strokeStyle = css("--line");
  context.strokeRect(left, top, right - left, bottom - top);
  return { context, x, y, line, placed, through, top, bottom, left, right };
}

function chartCursor(context, x, top, bottom) {
  context.strokeStyle = css("--accent");
  context.lineWidth = 1;
  context.setLineDash([]);
  context.beginPath();
  context.moveTo(x, top);
  context.lineTo(x, bottom);
  context.stroke();
}

// Line `i` of a chart or of the loss: six colours and four dashes tell the first twelve apart.
const MOST_LINES = 12;
const lineColor = (i) => PALETTE.categories[i % PALETTE.categories.length];
const lineDash = (i) => [[], [7, 4], [2, 3], [9, 3, 2, 3]][i % 4];

function lineKey(label, i, color = lineColor, dash = lineDash) {
  const sample = el("line", {
    x1: 0,
    x2: 26,
    y1: 4,
    y2: 4,
    stroke: color(i),
    "stroke-width": 2,
    "stroke-dasharray": dash(i).join(" "),
  });
  return el("li", {}, el("svg", { width: 26, height: 8, "aria-hidden": "true" }, sample), label);
}

// The place of a chart in an SVG, with room on its left for numbers, which are pairs of place and text.
function chartBox(width, height, numbersLeft) {
  const texts = numbersLeft.map(([, text]) => text);
  const top = 8;
  return { top, bottom: top + height, left: marginFor(texts, 9), right: width - 14 };
}

function axisLine(svg, x1, x2, y1, y2) {
  svg.append(el("line", { class: "axis", x1, x2, y1, y2 }));
}

// Draws numbers below a chart, each with a line that goes from `from` to `to`.
function numbersBelow(svg, { bottom }, x, numbers, from, to) {
  for (const [value, text] of numbers) {
    axisLine(svg, x(value), x(value), from, to);
    svg.append(el("text", { x: x(value), y: bottom + 15, "text-anchor": "middle" }, text));
  }
}

// Draws numbers on the left of a chart, its two axes, and the name of the axes at the height `nameY`.
function chartAxes(svg, { top, bottom, left, right }, y, numbersLeft, name, nameY) {
  for (const [value, text] of numbersLeft) {
    axisLine(svg, left - 4, left, y(value), y(value));
    svg.append(el("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  axisLine(svg, left, right, bottom, bottom);
  axisLine(svg, left, left, top, bottom);
  svg.append(el("text", { x: right, y: nameY, "text-anchor": "end" }, name));
}
