// Every update: training loss, gradient norm and learning rate; of a long run the means of neighbours and what lies around.

function updatesSection(run) {
  const { updates } = run;
  if (!updates) return el("p", { class: "note" }, "The numbers of its updates are not stored, or this page is live.");
  const some = updates.steps.length < updates.updates;
  const note = `${updates.updates.toLocaleString("en")} updates. A line is the mean of a few neighbouring updates, and the shade reaches from their smallest to their largest number.`;
  return el(
    "div",
    {},
    some ? el("p", { class: "note" }, note) : null,
    el(
      "div",
      { class: "panels", style: "--least:330px" },
      updates.curves.map((curve) =>
        el("div", {}, el("h3", {}, curve.label), updatesChart(run, updates.steps, curve)),
      ),
    ),
  );
}

const UPDATES_HEIGHT = 150;
function updatesChart(run, steps, { label, values }) {
  const canvas = el("canvas", { role: "img", style: `height:${UPDATES_HEIGHT}px` }),
    below = el("figcaption", {});
  const same = RUNS.flatMap((each) => each.updates?.curves.filter((other) => other.label === label) ?? []);
  const [low, high] = spanOf(same.flatMap((each) => each.values.range));
  // A loss and a norm fall by orders of magnitude; where they do not, or touch 0, their axis is linear. A warm-up is a line.
  const log = low > 0 && high / low > 30 && label !== "learning rate";
  const [to, from] = log ? [Math.log, Math.exp] : [(x) => x, (x) => x];
  const span = log ? [to(low), to(high)] : [Math.min(0, low), high];
  const tell = (at) => {
    below.textContent = `Update ${steps[at]}: ${formatted(values.get(0, at))}${log ? " (log axis)" : ""}`;
    canvas.setAttribute("aria-label", `${label} of every update. ${below.textContent}`);
  };
  // The last update by a checkpoint; the first one where there is none.
  const now = () =>
    Math.max(
      0,
      steps.findLastIndex((step) => step <= run.steps[indexOf(run)]),
    );
  let x = null;
  canvas.addEventListener("pointermove", (event) => {
    if (!x) return;
    const at = event.clientX - canvas.getBoundingClientRect().left;
    tell(steps.reduce((best, step, i) => (Math.abs(x(step) - at) < Math.abs(x(steps[best]) - at) ? i : best), 0));
  });
  canvas.addEventListener("pointerleave", () => tell(now()));
  return figure(el("figure", {}, canvas, below), (width) => {
    const frame = chartFrame(canvas, run, width, span, UPDATES_HEIGHT, { number: from });
    const { context, line, top, bottom } = frame;
    ({ x } = frame);
    const points = (row) => steps.map((step, at) => [step, to(values.get(row, at))]);
    if (values.shape[0] > 1) {
      context.fillStyle = css("--band");
      context.beginPath();
      line(points(2));
      line(points(1).reverse(), true);
      context.fill();
    }
    context.strokeStyle = lineColor(0);
    context.lineWidth = 1.2;
    context.beginPath();
    line(points(0));
    context.stroke();
    chartCursor(context, x(run.steps[indexOf(run)]), top, bottom);
    tell(now());
  });
}
