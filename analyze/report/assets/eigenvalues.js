// Eigenvalues of OV and QK circuits in the complex plane.

function eigenvaluesSection(run) {
  if (!run.spectra.length) return missing(run, "ov_eigenvalue,qk_eigenvalue");
  const grid = (spectrum, layer) =>
    el(
      "div",
      { class: "grid", style: columns(run, 150) },
      Array.from({ length: run.heads }, (_, head) => complexPlane(run, spectrum, layer, head)),
    );
  return el(
    "div",
    { class: "measures" },
    run.spectra.map((spectrum) =>
      downloadable(
        run,
        `${spectrum.measure} in the complex plane`,
        `${spectrum.measure}-plane`,
        () => eigenvalueNumbers(run, spectrum),
        heading("h3", spectrum.measure, definitionOf(spectrum.measure)),
        Array.from({ length: run.layers }, (_, layer) => grid(spectrum, layer)),
      ),
    ),
  );
}

function complexPlane(run, spectrum, layer, head) {
  const count = spectrum.re.shape[3];
  const canvas = el("canvas", { "aria-hidden": "true" }),
    below = el("span", {}, nameOf([layer, head]));
  const button = el(
    "button",
    { type: "button", class: "head", click: () => choose(isChosen(layer, head) ? null : [layer, head]) },
    canvas,
    below,
  );
  const largest = () =>
    Math.max(
      0,
      ...finite(
        run.steps.flatMap((_, at) =>
          Array.from({ length: count }, (_, n) =>
            Math.hypot(spectrum.re.get(at, layer, head, n), spectrum.im.get(at, layer, head, n)),
          ),
        ),
      ),
    );
  let radius = null;
  return figure(button, (width) => {
    radius ??= largest();
    const index = indexOf(run),
      middle = width / 2,
      scale = (middle - 4) / (radius || 1);
    canvas.style.width = canvas.style.height = `${width}px`;
    const context = fresh(canvas, width, width);
    context.strokeStyle = css("--line");
    context.beginPath();
    context.moveTo(0, middle);
    context.lineTo(width, middle);
    context.moveTo(middle, 0);
    context.lineTo(middle, width);
    context.moveTo(width - 4, middle);
    context.arc(middle, middle, middle - 4, 0, 2 * Math.PI);
    context.stroke();
    context.globalAlpha = 0.75;
    for (let n = 0; n < count; n++) {
      const re = spectrum.re.get(index, layer, head, n),
        im = spectrum.im.get(index, layer, head, n);
      context.fillStyle = PALETTE.categories[re >= 0 ? 0 : 1];
      context.beginPath();
      // Circles to the right, squares to the left: not by colour alone.
      if (re >= 0) context.arc(middle + re * scale, middle - im * scale, 3, 0, 2 * Math.PI);
      else context.rect(middle + re * scale - 2.6, middle - im * scale - 2.6, 5.2, 5.2);
      context.fill();
    }
    const ratio = formatted(spectrum.ratio.get(index, layer, head));
    below.textContent = `${nameOf([layer, head])}: ${ratio}, |λ| ≤ ${formatted(radius, 2)}`;
    button.classList.toggle("chosen", isChosen(layer, head));
    button.setAttribute("aria-label", `${below.textContent}; ${spectrum.measure} at step ${run.steps[index]}`);
  });
}
