// The numbers behind the figures of a run, as tidy tables: one row a value, one column a variable, units in names, and
// the precision where that is less than five digits.

const withUnits = (name, units) => (units ? `${name} [${units}]` : name);
const withPrecision = (name, precision) => (precision ? `${name} (${precision})` : name);

function lossNumbers(run) {
  const rows = run.losses.flatMap(({ label, values }) =>
    run.lineSteps.map((step, at) => [run.name, step, label, values.get(at)]),
  );
  const baselines = Object.entries(run.baselines).map(([name, value]) => [run.name, null, `baseline ${inWords(name)}`, value]); // prettier-ignore
  return { columns: ["run", "step", "loss", withUnits("value", run.lossUnits)], rows: [...rows, ...baselines] };
}

function curvesNumbers(run, curves) {
  const lines = [...curves.lines, ...(curves.null ? [{ label: "null", values: curves.null }] : [])];
  const rows = lines.flatMap(({ label, values }) =>
    run.lineSteps.map((step, at) => [run.name, step, label, values.get(at)]),
  );
  return { columns: ["run", "step", "line", withUnits(curves.label, curves.units)], rows };
}

function headNumbers(run, score) {
  const columns = ["run", "step", "layer", "head", score.label, "null", "band low (99 %)", "band high (99 %)"];
  const rows = run.lineSteps.flatMap((step, at) =>
    allHeads(run).map(([layer, head]) => [
      run.name,
      step,
      layer,
      head,
      score.values.get(at, layer, head),
      ...[score.null, score.low, score.high].map((each) => each?.get(at, layer)),
    ]),
  );
  return { columns, rows };
}

// Of all heads, or of some, on the sequence and at the step that are shown.
function attentionNumbers(run, heads = allHeads(run)) {
  const index = indexOf(run),
    tokens = tokensOf(run),
    sequence = Math.min(state.sequence, run.attention.tokens.length - 1),
    size = run.attention.values.shape[4];
  function* rows() {
    for (const [layer, head] of heads)
      for (let query = 0; query < size; query++)
        for (let key = 0; key < size; key++) {
          const value = shareOfFile(run.attention.values.get(index, layer, head, sequence, query, key));
          // What a query does not see is no number of the figure.
          if (value !== 0 || key <= query)
            yield [run.name, run.steps[index], sequence, layer, head, query, tokens[query], key, tokens[key], value];
        }
  }
  const columns = ["run", "step", "sequence", "layer", "head", "query position", "query token", "key position", "key token", SHARE_COLUMN]; // prettier-ignore
  return { columns, rows: rows() };
}

function eigenvalueNumbers(run, spectrum) {
  const count = spectrum.re.shape[3];
  const rows = run.steps.flatMap((step, at) =>
    allHeads(run).flatMap(
      ([layer, head]) =>
      counted(count).map((n) => [run.name, step, layer, head, n, spectrum.re.get(at, layer, head, n), spectrum.im.get(at, layer, head, n)]), // prettier-ignore
    ),
  );
  return { columns: ["run", "step", "layer", "head", "eigenvalue", withPrecision("real part", spectrum.precision), withPrecision("imaginary part", spectrum.precision)], rows }; // prettier-ignore
}

function pairNumbers(run, score) {
  const name = (at) => nameOf([Math.floor(at / run.heads), at % run.heads]);
  const rows = run.steps.flatMap((step, at) =>
    score.pairs.rows.map(([from, to], pair) => [
      run.name,
      step,
      name(from),
      name(to),
      score.values.get(at, pair),
      score.null?.get(at, Math.floor(from / run.heads), Math.floor(to / run.heads)),
      score.z?.get(at, pair),
      score.ceiling?.get(at, pair),
    ]),
  );
  const { label, precision } = score;
  const named = [
    withPrecision(label, precision),
    "null",
    withPrecision("z", precision && `${precision}, steps of 0.1`),
    withPrecision("ceiling", precision),
  ];
  return { columns: ["run", "step", "from head", "to head", ...named], rows };
}

function attributionNumbers(run, attribution) {
  const rows = run.steps.flatMap((step, at) =>
    attribution.components.map((name, component) => [run.name, step, name, attribution.values.get(at, component)]),
  );
  return { columns: ["run", "step", "component", withUnits(attribution.label, attribution.units)], rows };
}

// Nodes with their effects, and edges with what the circuit loses without them, at the step of the slider.
function diagramNumbers(run, circuits, found) {
  const index = indexOf(run);
  const nodes = nodeNames(run, circuits).map((name) => {
    const node = found?.nodes.find((each) => each.name === name);
    return [run.name, run.steps[index], "node", name, effectAt(run, found, index, name), node?.role];
  });
  const edges = (circuits?.ofNodes ? [] : (found?.edges ?? [])).map((edge, at) => [
    run.name,
    run.steps[index],
    "edge",
    edgeName(edge),
    edge[3] ? found.cost.get(0, at) : found.edgeEffect.get(0, at),
    edge[3] ? NODE_IN : "stands in for",
  ]);
  const columns = ["run", "step", "part", "name", "lost without it [share of what is known]", "in this circuit"];
  return { columns, rows: [...nodes, ...edges] };
}

// Lines with intervals over the checkpoints at which circuits were scored.
function bandNumbers(run, steps, lines) {
  const rows = lines.flatMap(({ label, values }) =>
    steps.map((step, at) => [run.name, step, label, ...endsOf(values, at)]),
  );
  return { columns: ["run", "step", "quantity", "value", "low (95 %)", "high (95 %)"], rows };
}
