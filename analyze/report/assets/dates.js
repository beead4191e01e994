// Distributions of dates: one dot a run, and the share of runs that have formed each event by a step.

const STRIP_HEIGHT = 58,
  STRIP_TITLE = 15,
  STEPS_BELOW = 18;

function datesSection() {
  return el("div", {}, ofMany("Dates", dateNumbers, strips()), ofMany("Shares", shareNumbers, sharesFigure()), MANY.byUpdates ? el("p", { class: "note" }, "Some dates of the behaviour come from the loss of every update, and so between two checkpoints.") : null); // prettier-ignore
}

// Where an event has not formed, its date is empty.
function dateNumbers() {
  const rows = MANY.order.flatMap((event) =>
    MANY.runs.map(({ name }, run) => [
      name,
      MANY.events[event].label,
      MANY.events[event].states[run],
      ...[DATE.half, DATE.after, DATE.before].map((end) => finite([MANY.dates.get(event, end, run)])[0]),
      MANY.lastSteps[run],
    ]),
  );
  return { columns: ["run", "event", "state", "half-way step", "after step", "up to step", "last step"], rows };
}

function shareNumbers() {
  const rows = MANY.order.flatMap((event) =>
    MANY.shareSteps.map((step, i) => [
      MANY.events[event].label,
      step,
      ...[0, 1, 2].map((end) => MANY.formedBy.get(event, end, i)),
    ]),
  );
  return { columns: ["event", "step", "share of runs formed", "low (95 %)", "high (95 %)"], rows };
}

// Dots that would lie on each other go above and below the middle in turn, and no further than `most`.
function swarm(places, size, most) {
  const lanes = [0];
  for (let away = size; away <= most; away += size) lanes.push(-away, away);
  const ends = lanes.map(() => -Infinity);
  const order = places.map((_, i) => i).sort((a, b) => places[a] - places[b]);
  const offsets = new Array(places.length).fill(0);
  for (const i of order) {
    let lane = ends.findIndex((end) => places[i] - end >= size);
    // Where there is no room, dots share places, and lie on the one that is free soonest.
    if (lane < 0) lane = ends.indexOf(Math.min(...ends));
    ends[lane] = places[i];
    offsets[i] = lanes[lane];
  }
  return offsets;
}

function strips() {
  const canvas = el("canvas", { role: "img" }),
    readout = el("output", { class: "readout" });
  const height = MANY.order.length * STRIP_HEIGHT + STEPS_BELOW;
  let dots = [];
  const nearest = (pointer) => {
    const box = canvas.getBoundingClientRect();
    const [px, py] = [pointer.clientX - box.left, pointer.clientY - box.top];
    const found = dots.map((dot) => [Math.hypot(dot.x - px, dot.y - py), dot]).sort((a, b) => a[0] - b[0])[0];
    return found && found[0] < 14 ? found[1] : null;
  };
  canvas.addEventListener("pointermove", (pointer) => hover(nearest(pointer)?.run ?? null));
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("click", (pointer) => {
    const dot = nearest(pointer);
    if (dot) toggleRun(dot.run);
  });
  const host = el(
    "figure",
    {},
    el(
      "ul",
      { class: "keys" },
      el("li", {}, "● a run, at its half-way step"),
      el("li", {}, "▷ a run that has not formed it by its last step"),
      el("li", {}, "│ median with its 95 % interval"),
    ),
    canvas,
    readout,
  );
  return figure(host, (width) => {
    const context = fresh(canvas, width, height);
    canvas.style.height = `${height}px`;
    const [left, right] = [6, width - 12];
    const x = stepScale(RUNS[0].steps, left, right);
    dots = [];
    MANY.order.forEach((event, row) => drawStrip(context, event, row * STRIP_HEIGHT, x, left, right, dots));
    const bottom = height - STEPS_BELOW;
    context.fillStyle = css("--soft");
    context.textAlign = "center";
    for (const step of decades(RUNS[0].steps.at(-1)))
      context.fillText(short(step), Math.max(left + 3, x(step)), height - 4);
    chartCursor(context, x(stepNow()), 0, bottom);
    const run = hovered ?? chosenRuns.at(-1);
    readout.value = run === undefined ? "" : `${MANY.runs[run].name}: ${MANY.order.map((event) => `${MANY.events[event].label} ${dateText(event, run)}`).join("; ")}`; // prettier-ignore
    canvas.setAttribute("aria-label", `Dates. ${MANY.order.map(medianText).join(". ")}`);
  });
}

function medianText(event) {
  const { label, formed, measured, median } = MANY.events[event];
  const ends = median.map((value) => (value === null ? null : value === "inf" ? "never" : String(Math.round(value))));
  const between = ends[1] === null ? "" : ` [${ends[1]}, ${ends[2]}]`;
  return `${label}: ${formed} of ${measured}, median ${ends[0] ?? "–"}${between}`;
}

function drawStrip(context, event, top, x, left, right, dots) {
  const bottom = top + STRIP_HEIGHT - 4,
    middle = (top + STRIP_TITLE + bottom) / 2;
  const room = (bottom - top - STRIP_TITLE) / 2 - 3;
  context.setLineDash([]);
  context.fillStyle = css("--soft");
  context.textAlign = "left";
  context.fillText(medianText(event), left, top + 11, right - left);
  context.strokeStyle = css("--line");
  context.lineWidth = 1;
  context.strokeRect(left, top + STRIP_TITLE, right - left, bottom - top - STRIP_TITLE);
  const [median, low, high] = MANY.events[event].median.map((value) => (value === null ? NaN : value === "inf" ? Infinity : Number(value))); // prettier-ignore
  const within = (step) => Math.min(right, x(step));
  if (Number.isFinite(low)) {
    context.fillStyle = css("--band");
    context.fillRect(within(low) - 1, top + STRIP_TITLE + 1, Math.max(2, within(high) - within(low) + 2), bottom - top - STRIP_TITLE - 2); // prettier-ignore
  }
  const measured = MANY.runs.map((_, run) => run).filter((run) => isMeasured(event, run));
  const places = measured.map((run) =>
    x(Number.isFinite(dateOf(event, run)) ? dateOf(event, run) : MANY.lastSteps[run]),
  );
  const size = measured.length > 60 ? 4.4 : 6;
  const offsets = swarm(places, size, room - 2);
  const single = singleRuns();
  measured.forEach((run, i) => {
    const dot = { x: places[i], y: middle + offsets[i], run };
    dots.push(dot);
    if (!single.includes(run)) drawDot(context, event, dot, size / 2, css("--soft"));
  });
  if (Number.isFinite(median)) {
    context.fillStyle = css("--ink");
    context.fillRect(x(median) - 1, top + STRIP_TITLE, 2, bottom - top - STRIP_TITLE);
  }
  for (const dot of dots.slice(-measured.length).filter(({ run }) => measured.length && single.includes(run))) {
    const date = dateOf(event, dot.run);
    context.strokeStyle = colorOfRun(dot.run);
    context.lineWidth = 1.5;
    if (Number.isFinite(date)) {
      const [after, before] = [DATE.after, DATE.before].map((end) => MANY.dates.get(event, end, dot.run));
      context.beginPath();
      context.moveTo(x(Number.isFinite(after) ? after : 0), dot.y);
      context.lineTo(x(before), dot.y);
      context.stroke();
    }
    drawDot(context, event, dot, 4, colorOfRun(dot.run));
  }
}

function drawDot(context, event, { x, y, run }, radius, color) {
  context.beginPath();
  if (Number.isFinite(dateOf(event, run))) {
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = color;
    context.globalAlpha = 0.8;
    context.fill();
    context.globalAlpha = 1;
    return;
  }
  context.moveTo(x - radius, y - radius);
  context.lineTo(x + radius, y);
  context.lineTo(x - radius, y + radius);
  context.closePath();
  context.strokeStyle = color;
  context.lineWidth = 1.2;
  context.stroke();
}

function sharesFigure() {
  const HEIGHT = 230;
  const canvas = el("canvas", { role: "img", style: `height:${HEIGHT}px` });
  const keys = el("ul", { class: "keys" });
  const last = RUNS[0].steps.at(-1);
  return figure(
    el("figure", {}, el("h3", {}, "Share of runs that have formed it by a step"), canvas, keys),
    (width) => {
      const { context, x, line, top, bottom } = chartFrame(canvas, RUNS[0], width, [0, 1], HEIGHT);
      const stairs = (event, end, at = MANY.shareSteps) => {
        const points = [];
        at.forEach((step, i) => {
          const value = MANY.formedBy.get(event, end, i);
          if (!Number.isFinite(value)) return;
          points.push([step, points.length ? points.at(-1)[1] : 0], [step, value]);
        });
        return points.length ? [[0, 0], ...points, [last, points.at(-1)[1]]] : points; // prettier-ignore
      };
      MANY.order.forEach((event, i) => {
        context.fillStyle = lineColor(i);
        context.globalAlpha = 0.13;
        context.beginPath();
        line(stairs(event, 2));
        line(stairs(event, 1).reverse(), true);
        context.fill();
        context.globalAlpha = 1;
      });
      MANY.order.forEach((event, i) => {
        context.strokeStyle = lineColor(i);
        context.lineWidth = 2;
        context.setLineDash(lineDash(i));
        context.beginPath();
        line(stairs(event, 0));
        context.stroke();
      });
      chartCursor(context, x(stepNow()), top, bottom);
      const said = MANY.order.map((event) => `${MANY.events[event].label}: ${shareText(event, stepNow())}`);
      keys.replaceChildren(el("li", {}, `By step ${stepNow()}:`), ...said.map((text, i) => lineKey(text, i)));
      canvas.setAttribute("aria-label", `Share of runs by step ${stepNow()}. ${said.join("; ")}`);
    },
  );
}
