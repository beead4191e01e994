// Curves of every event over steps: the median over runs, the middle half of them, and single runs on demand.

const WAY_HEIGHT = 170;

function waysSection() {
  const all = el("input", { type: "checkbox", change: changed });
  const key = (color, text, height) =>
    el("li", {}, el("i", { style: `background:${color};height:${height}px;width:22px;border-radius:1px` }), text);
  const few = MANY.events.some(({ measured }) => measured < MANY.fewest);
  return el(
    "div",
    {},
    el(
      "ul",
      { class: "keys" },
      key("var(--ink)", "median over runs", 2),
      key("var(--band)", "middle half of the runs (quartiles)", 12),
      el("li", {}, el("label", {}, all, " every run")),
    ),
    few ? el("p", { class: "note" }, `With fewer than ${MANY.fewest} runs there is a median alone.`) : null,
    el(
      "div",
      { class: "panels", style: "--least:330px" },
      MANY.order.map((event) => ofMany(MANY.events[event].label, () => wayNumbers(event), wayChart(event, all))),
    ),
    MANY.checkpoints > MANY.steps.length
      ? el(
          "p",
          { class: "note" },
          `Curves and the slider have ${MANY.steps.length} of ${MANY.checkpoints} checkpoints; dates and shares are taken from all.`,
        )
      : null,
  );
}

// The menu of a figure of many runs stands above it.
function ofMany(title, table, ...content) {
  const host = el("div", { class: "downloadable" }, ...content);
  host.prepend(downloads(title, () => `runs-${title}`, host, table));
  return host;
}

function wayNumbers(event) {
  const rows = MANY.runs.flatMap(({ name }, run) =>
    MANY.steps.map((step, place) => [name, MANY.events[event].label, step, MANY.ways.get(event, run, place)]),
  );
  return { columns: ["run", "event", "step", "way [share from null to ceiling]"], rows };
}

// From 0 to 1, and further if the quartiles go further by more than a hair.
function spanOfWay(event) {
  const known = finite([...MANY.quartiles.rest(event)]);
  const [low, high] = [Math.min(0, ...known), Math.max(1, ...known)];
  return [low < -0.05 ? low : 0, high > 1.05 ? high : 1];
}

function wayChart(event, all) {
  const { label, formed, measured } = MANY.events[event];
  const canvas = el("canvas", { role: "img", style: `height:${WAY_HEIGHT}px` }),
    below = el("figcaption", {});
  const host = el(
    "figure",
    { class: "way" },
    el("h3", {}, `${label}: ${formed} of ${measured} formed`),
    canvas,
    below,
  );
  const span = spanOfWay(event);
  const quartile = (at, place) => MANY.quartiles.get(event, at, place);
  const points = (value) => MANY.steps.map((step, place) => [step, value(place)]);
  const known = (pairs) => pairs.filter(([, value]) => Number.isFinite(value));
  let frame = null;
  const described = (place) => {
    const [low, middle, high] = [0, 1, 2].map((at) => formatted(quartile(at, place), 2));
    const half = low === "–" ? "" : ` (quartiles ${low} and ${high})`;
    const single = singleRuns().map(
      (run) => `${MANY.runs[run].name} ${formatted(MANY.ways.get(event, run, place), 2)}`,
    );
    const count = MANY.counts.get(event, place);
    const fewer = count < measured ? `, of ${count} runs` : "";
    return (
      `Step ${MANY.steps[place]}: median ${middle}${half}${fewer}` +
      `${single.length ? `; ${single.slice(0, 6).join(", ")}` : ""}. Formed by then: ${shareText(event, MANY.steps[place])}.`
    );
  };
  const show = (place) => {
    below.textContent = described(place);
    canvas.setAttribute("aria-label", `${label} over training. ${below.textContent}`);
  };
  canvas.addEventListener("pointermove", (pointer) => {
    if (!frame) return;
    const at = pointer.clientX - canvas.getBoundingClientRect().left;
    const off = (step) => Math.abs(frame.x(step) - at);
    show(MANY.steps.reduce((best, step, place) => (off(step) < off(MANY.steps[best]) ? place : best), 0));
  });
  canvas.addEventListener("pointerleave", () => show(state.place));
  return figure(host, (width) => {
    frame = chartFrame(canvas, RUNS[0], width, span, WAY_HEIGHT);
    const { context, x, y, line, top, bottom } = frame;
    const draw = (pairs, color, thick, dash = [], alpha = 1) => {
      context.strokeStyle = color;
      context.lineWidth = thick;
      context.globalAlpha = alpha;
      context.setLineDash(dash);
      context.beginPath();
      line(known(pairs));
      context.stroke();
      context.globalAlpha = 1;
    };
    const middle = points((place) => quartile(1, place));
    context.fillStyle = css("--band");
    context.beginPath();
    line(known(points((place) => quartile(2, place))));
    line(known(points((place) => quartile(0, place))).reverse(), true);
    context.fill();
    draw([0, RUNS[0].steps.at(-1)].map((step) => [step, 0.5]), css("--quiet"), 1, [1, 3]); // prettier-ignore
    const way = (run) => points((place) => MANY.ways.get(event, run, place));
    if (all.checked) MANY.runs.forEach((_, run) => draw(way(run), css("--quiet"), 0.8, [], 0.6));
    draw(middle, css("--ink"), 2);
    for (const run of singleRuns()) draw(way(run), colorOfRun(run), run === hovered ? 2.6 : 1.8, dashOfRun(run));
    context.fillStyle = css("--ink");
    context.beginPath();
    if (Number.isFinite(quartile(1, state.place)))
      context.arc(x(stepNow()), y(quartile(1, state.place)), 3, 0, 2 * Math.PI);
    context.fill();
    chartCursor(context, x(stepNow()), top, bottom);
    show(state.place);
  });
}
