// Loss, and other scores of the network, at each position: at the slider's checkpoint, at the first, and at the last.

function positionsSection(run) {
  if (!run.positions.length) return missing(run, "loss");
  return el(
    "div",
    { class: "panels", style: "--least:330px" },
    run.positions.map((each) => el("div", {}, el("h3", {}, each.label), positionChart(run, each))),
  );
}

const POSITION_HEIGHT = 150;
function positionChart(run, { label, units, values }) {
  const canvas = el("canvas", { role: "img", style: `height:${POSITION_HEIGHT}px` }),
    below = el("figcaption", {});
  const length = values.shape[1],
    last = values.shape[0] - 1;
  const rowAt = (step) => Array.from({ length }, (_, pos) => values.get(step, pos));
  const known = RUNS.flatMap((each) => each.positions.filter((other) => other.label === label));
  const span = spanOf([0, ...known.flatMap((each) => each.values.range)]);
  let place = null;
  const tell = (pos = null) => {
    const index = indexOf(run),
      row = rowAt(index);
    const numbers = finite(row);
    const text =
      pos === null
        ? `from ${formatted(Math.min(...numbers))} to ${formatted(Math.max(...numbers))}`
        : `position ${pos}: ${formatted(row[pos])}`;
    below.textContent = `Step ${run.steps[index]}: ${numbers.length ? text : "no numbers"}${units ? ` (${units})` : ""}`;
    canvas.setAttribute("aria-label", `${label}. ${below.textContent}`);
  };
  canvas.addEventListener("pointermove", (event) => {
    if (!place) return;
    const at = Math.round(place.at(event.clientX - canvas.getBoundingClientRect().left));
    if (at >= 0 && at < length) tell(at);
  });
  canvas.addEventListener("pointerleave", () => tell());
  return figure(el("figure", {}, canvas, below), (width) => {
    const { context, line, left, right } = chartFrame(canvas, run, width, span, POSITION_HEIGHT, {
      marks: positionMarks(length),
      scale: (left, right) => (pos) => left + ((right - left) * (pos + 0.5)) / length,
    });
    place = { at: (x) => ((x - left) / (right - left)) * length - 0.5 };
    const draw = (step, color, dash, thick) => {
      const row = rowAt(step);
      context.strokeStyle = context.fillStyle = color;
      context.lineWidth = thick;
      context.setLineDash(dash);
      context.beginPath();
      line(row.map((value, pos) => [pos, value]));
      context.stroke();
    };
    draw(0, css("--quiet"), [2, 3], 1.2);
    draw(last, css("--quiet"), [], 1.2);
    draw(indexOf(run), css("--accent"), [], 2);
    tell();
  });
}

// At most nine positions, evenly.
function positionMarks(length) {
  const every = Math.ceil(length / 9);
  return Array.from({ length }, (_, pos) => pos).filter((pos) => pos % every === 0);
}
