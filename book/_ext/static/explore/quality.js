// Measured Fréchet distance against network calls: families to switch on and off, numbers under the pointer.
"use strict";
{
  const { html, svg, line, number, ink } = explore, data = explore.data("quality");
  const on = new Set(["pseudo numerical", "DEIS, multistep"].filter((family) => family in data.families));
  const reading = html("p", { class: "reading", "aria-live": "polite" });
  const chart = svg("svg", { class: "chart", tabindex: 0, role: "group",
    "aria-label": `${data.metric} against network calls. The arrow keys go from point to point.` });
  const buttons = Object.keys(data.families).map((family) => {
    const button = html("button", { type: "button", "aria-pressed": on.has(family) }, family);
    button.addEventListener("click", () => {
      on.has(family) ? on.delete(family) : on.add(family);
      button.setAttribute("aria-pressed", on.has(family));
      chosen = null;
      draw(width);
    });
    return button;
  });
  const families = html("div", { class: "buttons", role: "group", "aria-label": "families of samplers" }, ...buttons);
  const box = html("div", {}, families, chart, reading);
  let width = 0, chosen = null, spots = [];

  function draw(newWidth) {
    width = newWidth;
    const wanted = new Set([...on].flatMap((family) => data.families[family]));
    const names = Object.keys(data.solvers).filter((name) => wanted.has(name));
    const height = Math.max(380, 110 + 13 * names.length), narrow = width < 560;
    chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    chart.setAttribute("width", width);
    chart.replaceChildren();
    const shown = names.map((name) => data.solvers[name]), points = shown.flatMap((solver) => solver.points);
    const longest = Math.max(8, ...shown.map(({ title }) => title.length));
    const frame = { left: 44, right: width - 12 - longest * (narrow ? 5.6 : 6.2), top: 26, bottom: height - 42 };
    const values = [data.floor, ...points.map((point) => point[1])];
    const [px, py] = explore.axes(chart, frame, { title: "network calls", range: [3.7, 54], ticks: [5, 10, 20, 50] },
      { title: data.metric, range: [Math.min(...values) / 1.3, Math.max(...values, 10) * 1.15] });
    const floor = py(data.floor);
    chart.append(svg("path", { class: "floor", d: line([[frame.left, floor], [frame.right, floor]]) }),
      svg("text", { x: frame.left + 4, y: floor + 13 }, "two halves of the data"));
    spots = [];
    const ends = shown.map((solver, i) => {
      const group = svg("g", { class: "solver", color: ink(solver.color) });
      const places = solver.points.map(([n, value]) => [px(n), py(value)]);
      const stroke = "currentColor", { path, filled } = solver.marker;
      group.append(svg("path", { class: "path", stroke, "stroke-dasharray": solver.dash, d: line(places) }));
      places.forEach(([x, y], k) => {
        group.append(svg("path", { d: path, transform: `translate(${x} ${y}) scale(7 -7)`, stroke,
          fill: filled ? stroke : "none", "stroke-width": filled ? 0 : 0.2 }));
        spots.push({ x, y, solver, group, k, name: names[i] });
      });
      chart.append(group);
      return { solver, group, y: places.at(-1)[1] };
    }).sort((a, b) => a.y - b.y);
    const lines = explore.apart(ends.map((end) => end.y), 13);
    const lift = Math.max(0, (lines.at(-1) ?? 0) - (frame.bottom - 2)); // the lowest label stays above the axis
    ends.forEach(({ solver, group }, i) => group.append(svg("text", { class: "label", x: frame.right + 4,
      y: lines[i] - lift + 4, fill: "currentColor", style: narrow ? "font-size: 10.5px" : "" }, solver.title)));
    mark(chosen && spots.find((spot) => spot.name === chosen.name && spot.k === chosen.k));
  }

  function mark(spot) {
    chosen = spot ?? null;
    chart.querySelector(".now")?.remove();
    for (const group of chart.querySelectorAll(".solver"))
      group.classList.toggle("dim", Boolean(spot) && group !== spot.group);
    reading.textContent = on.size ? "Point at a mark, or use the arrow keys, to read its numbers." : "Choose a family.";
    if (!spot) return;
    const [nfe, value, low, high, samples, seeds] = spot.solver.points[spot.k];
    chart.append(svg("circle", { class: "now", cx: spot.x, cy: spot.y, r: 7 }));
    const interval = low === null ? "" : ` (95 % interval ${number(low)} to ${number(high)})`;
    reading.textContent = `${spot.solver.title}, ${nfe} calls: ${number(value)}${interval}; ` +
      `grid ${spot.solver.grid}, ${samples} samples, ${seeds} seeds`;
  }

  chart.addEventListener("pointermove", (event) => {
    const frame = chart.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
    const far = (spot) => Math.hypot(spot.x - x, spot.y - y);
    const near = spots.reduce((best, spot) => (far(spot) < far(best) ? spot : best), spots[0]);
    mark(near && far(near) < 30 ? near : null);
  });
  chart.addEventListener("pointerleave", () => mark(null));
  chart.addEventListener("keydown", (event) => {
    const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key], across = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!(along || across) || !spots.length) return;
    event.preventDefault();
    if (!chosen) return mark(spots[0]);
    // Left and right along a line, up and down among the points of one budget.
    const others = along ? spots.filter((spot) => spot.name === chosen.name)
      : spots.filter((spot) => spot.k === chosen.k).sort((a, b) => a.y - b.y);
    mark(others[others.indexOf(chosen) + (along ?? across)] ?? chosen);
  });

  explore.mount("quality", box, draw);
}
