// The loss over training on a log axis of steps, with what one can reach, half-way marks and a cursor.

function lossPanel(run) {
  if (!run.losses.length) return el("div", { class: "loss" }, heading("h3", "Loss"), missing(run, "loss"));
  const all = finite(RUNS.flatMap((each) => each.losses.flatMap((loss) => [...loss.values.data])));
  const positive = all.filter((x) => x > 0);
  if (state.log === null) state.log = positive.length > 0 && Math.max(...positive) / Math.min(...positive) > 30;
  const host = el("figure", { role: "img", class: "fills", "aria-label": "Loss over training" });
  const readout = el("output", { class: "readout", "aria-live": "off" });
  const levels = Object.entries(run.baselines),
    beside = el("span");
  let drawn = null;
  figure(host, (width, room) => {
    const height = isWide(run) ? Math.max(130, room) : 210,
      key = `${width} ${height} ${state.log}`;
    if (key !== drawn?.key) drawn = { key, ...drawAxesAndLines(width, height) };
    showStep(drawn);
  });
  // All but what follows the slider.
  const drawAxesAndLines = (width, height) => {
    const right = width - 12,
      top = 10,
      bottom = height - 28;
    const log = state.log && positive.length > 0;
    const shown = levels.filter(([, value]) => !log || value > 0);
    const among = [
      ...(log ? positive : [0, ...all]),
      ...shown.map(([, value]) => value).filter((v) => v <= 1.5 * Math.max(...all)),
    ];
    let [low, high] = among.length ? [Math.min(...among), Math.max(...among)] : [0, 1];
    if (!(low < high)) [low, high] = log ? [low / 2, high * 2] : [(low || 0) - 0.5, (high || 0) + 0.5];
    const f = log ? Math.log : (x) => x;
    const y = (value) => bottom - ((bottom - top) * (f(value) - f(low))) / (f(high) - f(low));
    const numbers = ticks(low, high, log).map((value) => [value, formatted(value, 2)]);
    const left = Math.max(48, marginFor(numbers.map(([, text]) => text), 12) + 2); // prettier-ignore
    const x = stepScale(
      RUNS.map((each) => each.steps.at(-1) ?? 0).sort((a, b) => a - b),
      left,
      right,
    );
    const svg = el("svg", { width, height, "aria-hidden": "true" });
    for (const step of decades(Math.max(...RUNS.map((each) => each.steps.at(-1) ?? 0)))) {
      svg.append(
        el("line", { class: "axis", x1: x(step), x2: x(step), y1: top, y2: bottom }),
        el("text", { x: x(step), y: height - 10, "text-anchor": "middle" }, short(step)),
      );
    }
    for (const [value, text] of numbers) {
      svg.append(
        el("line", { class: "axis", x1: left - 4, x2: left, y1: y(value), y2: y(value) }),
        el("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, text),
      );
    }
    let lastText = -99;
    for (const [name, value] of shown.sort((a, b) => b[1] - a[1])) {
      if (value > high || value < low) continue;
      svg.append(
        el("line", {
          x1: left,
          x2: right,
          y1: y(value),
          y2: y(value),
          stroke: "var(--quiet)",
          "stroke-dasharray": "1 3",
        }),
      );
      const place = Math.max(y(value) - 3, lastText + 12);
      // A name far from its line would be another line's; all stand below the picture too.
      if (place > y(value) + 12 || place > bottom) continue;
      svg.append(
        el(
          "text",
          { class: "level", x: right, y: place, "text-anchor": "end" },
          `${inWords(name)} ${formatted(value)}`,
        ),
      );
      lastText = place;
    }
    svg.append(...halfWayMarks(run, x, left, right, top, bottom));
    const outside = (value) => (log && value <= 0) || value > high || value < low;
    beside.textContent = levels.length
      ? `Baselines: ${levels.map(([name, value]) => `${inWords(name)} ${formatted(value)}${outside(value) ? " (off this axis)" : ""}`).join(", ")}.`
      : "";
    const dots = run.losses.map(({ values }, i) => {
      let path = "";
      run.lineSteps.forEach((step, at) => {
        const value = values.get(at);
        if (Number.isFinite(value) && (!log || value > 0))
          path += `${path ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
      });
      const line = el("path", {
        d: path,
        fill: "none",
        stroke: lineColor(i),
        "stroke-width": 2,
        "stroke-dasharray": lineDash(i).join(" "),
      });
      svg.append(line);
      return { line, dot: el("circle", { r: 4, fill: lineColor(i) }), values };
    });
    const cursor = el("line", { class: "cursor", y1: top, y2: bottom });
    svg.append(cursor, el("text", { x: left - 7, y: height - 10, "text-anchor": "end" }, "step"));
    svg.addEventListener("click", (event) => {
      const at = event.clientX - svg.getBoundingClientRect().left;
      const nearest = run.steps.reduce((a, b) => (Math.abs(x(b) - at) < Math.abs(x(a) - at) ? b : a));
      if (state.by === "step") go(places.step.indexOf(nearest));
    });
    host.replaceChildren(svg);
    return { x, y, log, dots, cursor };
  };
  const showStep = ({ x, y, log, dots, cursor }) => {
    const index = lineIndexOf(run),
      place = x(run.lineSteps[index]);
    for (const { line, dot, values } of dots) {
      const value = values.get(index);
      if (Number.isFinite(value) && (!log || value > 0)) {
        dot.setAttribute("cx", place);
        dot.setAttribute("cy", y(value));
        if (!dot.parentNode) line.after(dot);
      } else dot.remove();
    }
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, place);
    const wanted = places[state.by][state.place];
    const never = state.by === "loss" && reached(run, wanted) < 0;
    readout.value =
      `Step ${run.lineSteps[index]}${never ? ` (it never reaches ${formatted(wanted)})` : ""}: ` +
      run.losses.map(({ label, values }) => `${label} ${formatted(values.get(index))}`).join(", ");
    host.setAttribute("aria-label", `Loss over training. At ${readout.value}`);
  };
  const log = el("input", {
    type: "checkbox",
    checked: state.log,
    "data-shared": "log",
    change: (event) => {
      state.log = event.target.checked;
      state.logChosen = true;
      shareState(event.target);
    },
  });
  log.shows = () => state.log;
  const units = run.lossUnits ? `, in ${run.lossUnits}` : "";
  const marks = run.halfWay.length
    ? "A vertical line marks the step at which the behaviour, or the circuit, is half-way to its level at the end. "
    : "";
  const panel = downloadable(
    run,
    "Loss",
    "loss",
    lossNumbers,
    heading("h3", "Loss", [
      `The loss on the evaluation batch${units}; dotted lines are baselines. ${marks}A click moves the slider. `,
      beside,
    ]),
    el(
      "ul",
      { class: "keys" },
      run.losses.map(({ label }, i) => lineKey(label, i)),
      el("li", {}, el("label", {}, log, " log axis")),
    ),
    host,
    readout,
  );
  panel.classList.add("loss");
  return panel;
}

// Vertical lines at the half-way steps of the behaviour and of the circuit; two that are close have their texts on
// either side.
function halfWayMarks(run, x, left, right, top, bottom) {
  const marks = [...run.halfWay].sort((a, b) => a.step - b.step);
  return marks.flatMap(({ of, step, text }, at) => {
    const place = x(step),
      said = `${of} half-way ${Math.round(step)}`;
    const before = (at < marks.length - 1 && place - left > 140) || right - place < 140;
    return [
      el(
        "line",
        { class: "half-way", x1: place, x2: place, y1: top, y2: bottom, "data-of": of },
        el("title", {}, `${of} half-way ${text}`),
      ),
      el(
        "text",
        {
          class: "level",
          x: place + (before ? -4 : 4),
          // Above what the loss has left behind, and apart where both have to stand on one side.
          y: bottom - 6 - 13 * (marks.length - 1 - at),
          "text-anchor": before ? "end" : "start",
        },
        said,
      ),
    ];
  });
}

// What stands where a figure has nothing to show.
function missing(run, measure) {
  if (!run.steps.length) return el("p", { class: "note" }, "This run has no scores.");
  return el(
    "p",
    { class: "note" },
    `${measure} has no scores, or does not apply to this run; `,
    el("code", {}, `headway measure ${run.path} --only ${measure}`),
    " computes them or says why not.",
  );
}
