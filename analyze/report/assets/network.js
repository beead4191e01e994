// Every score of the whole network but the loss, and every score of layers, over training: one small chart each.

function networkSection(run) {
  return el(
    "div",
    { class: "panels", style: "--least:330px" },
    run.curves.map((curves) =>
      downloadable(
        run,
        curves.label,
        curves.label,
        () => curvesNumbers(run, curves),
        heading("h3", curves.label, definitionOf(curves.measure)),
        curves.lines.length > 1
          ? el(
              "ul",
              { class: "keys" },
              curves.lines.map(({ label }, i) => lineKey(label, i)),
            )
          : null,
        curveChart(run, curves),
      ),
    ),
  );
}

// The range of the score where that is a pair of numbers, else the numbers of all runs.
function spanOfCurves(curves) {
  if (curves.limits) return curves.limits;
  const same = RUNS.flatMap((run) => run.curves.filter((each) => each.label === curves.label));
  const values = same.flatMap((each) => [...each.lines.map((line) => line.values), each.null].filter(Boolean));
  return spanOf(values.flatMap((each) => each.range));
}

function curveChart(run, curves) {
  const canvas = el("canvas", { role: "img", "aria-label": curves.label }),
    below = el("figcaption", {});
  const host = el("figure", {}, canvas, below);
  const span = spanOfCurves(curves);
  let x = null;
  const described = (index) => {
    const numbers = curves.lines.map(({ label, values }) => `${label} ${formatted(values.get(index))}`);
    if (curves.null) numbers.push(`null ${formatted(curves.null.get(index))}`);
    return `Step ${run.lineSteps[index]}: ${numbers.join(", ")}${curves.units ? ` (${curves.units})` : ""}`;
  };
  const show = (index) => {
    below.textContent = described(index);
    canvas.setAttribute("aria-label", `${curves.label} over training. ${below.textContent}`);
  };
  canvas.addEventListener("pointermove", (event) => {
    if (!x) return;
    const at = event.clientX - canvas.getBoundingClientRect().left;
    show(
      run.lineSteps.reduce(
        (best, step, i) => (Math.abs(x(step) - at) < Math.abs(x(run.lineSteps[best]) - at) ? i : best),
        0,
      ),
    );
  });
  canvas.addEventListener("pointerleave", () => show(lineIndexOf(run)));
  return figure(host, (width) => {
    const index = lineIndexOf(run);
    const frame = chartFrame(canvas, run, width, span);
    const { context, y, line, top, bottom } = frame;
    ({ x } = frame);
    const draw = (values, color, dash, thick) => {
      // A step at which this score was not computed is no gap.
      const points = run.lineSteps
        .map((step, at) => [step, values.get(at)])
        .filter(([, value]) => Number.isFinite(value));
      context.strokeStyle = color;
      context.lineWidth = thick;
      context.setLineDash(dash);
      context.beginPath();
      line(points);
      context.stroke();
    };
    if (curves.null) draw(curves.null, css("--quiet"), [1, 3], 1.2);
    curves.lines.forEach(({ values }, i) => {
      draw(values, lineColor(i), lineDash(i), 1.8);
      const value = values.get(index);
      if (!Number.isFinite(value)) return;
      context.fillStyle = lineColor(i);
      context.beginPath();
      context.arc(x(run.lineSteps[index]), y(value), 3, 0, 2 * Math.PI);
      context.fill();
    });
    chartCursor(context, x(run.lineSteps[index]), top, bottom);
    show(index);
  });
}
