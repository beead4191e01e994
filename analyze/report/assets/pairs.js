// Scores of pairs of heads as matrices: rows write, columns read.

function pairsSection(run) {
  if (!run.perPair.length) {
    return run.layers < 2
      ? el("p", { class: "note" }, "One layer: no head reads the output of another.")
      : missing(run, "k_composition");
  }
  return el(
    "div",
    {},
    el(
      "div",
      { class: "panels", style: "--least:290px" },
      run.perPair.map((score) =>
        downloadable(
          run,
          score.label,
          score.label,
          () => pairNumbers(run, score),
          heading("h3", score.label, definitionOf(score.measure)),
          score.elsewhere
            ? el(
                "p",
                { class: "note" },
                "Pairs other than of an earlier and a later layer have scores too: run.scores has them.",
              )
            : null,
          score.pairs.shape[0] ? pairMatrix(run, score) : el("p", { class: "note" }, "No pair has a number."),
        ),
      ),
    ),
  );
}

function pairMatrix(run, score) {
  const froms = run.heads * (run.layers - 1),
    tos = froms;
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": score.label }),
    readout = el("output", { class: "readout", "aria-live": "polite" });
  const host = el("figure", {}, canvas, readout);
  // z where there is a null, the score itself otherwise; its square root, so that both strong and weak pairs are seen.
  const shown = score.z ?? score.values;
  const most = Math.max(
    ...RUNS.flatMap((each) =>
      each.perPair.filter((other) => other.label === score.label).flatMap((other) => (other.z ?? other.values).range),
    )
      .filter(Number.isFinite)
      .map(Math.abs),
    1e-9,
  );
  const shareOf = (value) => Math.sign(value) * Math.sqrt(Math.abs(value) / most);
  const color = (value) => diverging(shareOf(value));
  const places = score.pairs.rows.map(([from, to]) => from * tos + (to - run.heads));
  const small = el("canvas");
  let cell = 1,
    at = [0, 0];
  const edge = marginFor([nameOf([run.layers - 1, run.heads - 1])], 9);
  const tell = () => {
    const pair = places.indexOf(at[0] * tos + at[1]);
    readout.value =
      pair < 0 ? "Heads read the output of earlier layers only." : pairText(run, score, pair, indexOf(run));
  };
  let room = 0;
  const draw = (width) => {
    room = Math.min(width ?? room, 460);
    const index = indexOf(run);
    cell = (room - edge) / tos;
    const size = edge + cell * tos;
    canvas.style.width = canvas.style.height = `${size}px`;
    const context = fresh(canvas, size, size);
    const numbers = shown.rest(index);
    const colors = divergingPixels();
    drawPixels(small, froms, tos, (drawn) => {
      for (let pair = 0; pair < places.length; pair++) {
        const share = shareOf(numbers[pair]);
        drawn[places[pair]] = colors[Number.isNaN(share) ? 256 : divergingAt(share)];
      }
    });
    context.imageSmoothingEnabled = false;
    context.drawImage(small, edge, edge, cell * tos, cell * froms);
    context.strokeStyle = css("--line");
    context.strokeRect(edge, edge, cell * tos, cell * froms);
    context.fillStyle = css("--soft");
    const every = Math.ceil(11 / cell);
    for (let place = 0; place < froms; place++) {
      if (place % every) continue;
      const middle = edge + (place + 0.5) * cell;
      context.textAlign = "right";
      context.textBaseline = "middle";
      context.fillText(nameOf([Math.floor(place / run.heads), place % run.heads]), edge - 3, middle);
      context.save();
      context.translate(middle, edge - 3);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(nameOf([1 + Math.floor(place / run.heads), place % run.heads]), 0, 0);
      context.restore();
    }
    markChosen(context);
    if (document.activeElement === canvas) outline(context, at, edge, cell);
    const best = numbers.reduce((a, value, b) => (value > numbers[a] || Number.isNaN(numbers[a]) ? b : a), 0);
    readout.value = `Strongest: ${pairText(run, score, best, index)}`;
    canvas.setAttribute(
      "aria-label",
      `${score.label} at step ${run.steps[index]}, rows write, columns read. ${readout.value}. Arrow keys read single pairs.`,
    );
  };
  // Frames the row and the column of the head that is chosen.
  const markChosen = (context) => {
    if (!state.head) return;
    const flat = state.head[0] * run.heads + state.head[1];
    context.strokeStyle = css("--accent");
    context.lineWidth = 2;
    if (flat < froms) context.strokeRect(edge, edge + flat * cell, cell * tos, cell);
    if (flat >= run.heads) context.strokeRect(edge + (flat - run.heads) * cell, edge, cell, cell * froms);
  };
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const [row, column] = [event.clientY - box.top, event.clientX - box.left].map((at) => Math.floor((at - edge) / cell)); // prettier-ignore
    // A click on a name to the left is on the head of that row, and any other on that of the column.
    const flat = column < 0 ? row : run.heads + column;
    const head = [Math.floor(flat / run.heads), flat % run.heads];
    if (row < froms && column < tos && (row >= 0 || column >= 0)) choose(isChosen(...head) ? null : head);
  });
  canvas.addEventListener("pointermove", (event) => {
    const entry = entryUnder(event, canvas, edge, cell, tos);
    if (entry) {
      at = entry;
      tell();
    }
  });
  canvas.addEventListener("pointerleave", () => draw());
  canvas.addEventListener("focus", () => draw());
  canvas.addEventListener("blur", () => draw());
  canvas.addEventListener("keydown", (event) => {
    if (moved(event, at, tos)) {
      draw();
      tell();
    }
  });
  const name = score.z ? "z" : score.label;
  return el(
    "div",
    {},
    figure(host, draw),
    legend(
      (t) => color((2 * t - 1) * Math.abs(2 * t - 1) * most),
      `${name} −${formatted(most, 2)}`,
      "0",
      formatted(most, 2),
    ),
  );
}
