// What each component adds to the output directly.

function attributionSection(run) {
  if (!run.attributions.length) return missing(run, "direct_attribution");
  return el(
    "div",
    {},
    el(
      "div",
      { class: "panels", style: "--least:300px" },
      run.attributions.map((each) => {
        const ranges = RUNS.flatMap((other) =>
          other.attributions.filter((same) => same.label === each.label).flatMap((same) => same.values.range),
        );
        const most = Math.max(...finite(ranges).map(Math.abs), 1e-9);
        const rows = each.components.map((name) => ({
          name,
          row: el("tr"),
          bar: el("i"),
          number: el("td", { class: "number" }),
        }));
        const caption = el("caption", { class: "note", style: "text-align:left" });
        const table = el(
          "table",
          { class: "bars" },
          caption,
          el(
            "tbody",
            {},
            rows.map(({ name, row, bar, number }) => {
              row.append(
                el("th", { scope: "row" }, headOf(name) ? headButton(name) : name),
                number,
                el("td", { class: "bar" }, el("div", { class: "track" }, el("b", { style: "left:50%" }), bar)),
              );
              return row;
            }),
          ),
        );
        return downloadable(
          run,
          each.label,
          each.label,
          () => attributionNumbers(run, each),
          el("h3", {}, each.label),
          figure(table, () => {
            const index = indexOf(run);
            let total = 0;
            rows.forEach(({ name, row, bar, number }, component) => {
              row.classList.toggle("chosen", state.head !== null && name === nameOf(state.head));
              const value = each.values.get(index, component);
              if (Number.isFinite(value)) total += value;
              const share = Number.isFinite(value) ? 50 * Math.min(1, Math.abs(value) / most) : 0;
              bar.style.cssText = `left:${value >= 0 ? 50 : 50 - share}%;width:${share}%;background:${PALETTE.categories[value >= 0 ? 0 : 1]}`;
              number.textContent = formatted(value);
            });
            const units = each.units ? ` (${each.units})` : "";
            caption.textContent = `Step ${run.steps[index]}: sum ${formatted(total)}${units}. The scale ends at ±${formatted(most, 2)}.`;
          }),
        );
      }),
    ),
  );
}
