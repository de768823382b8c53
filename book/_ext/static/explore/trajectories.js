// Paths of a sampler among the exact paths, and its error against the number of calls.
"use strict";
{
  const { html, svg, line, number, ink } = explore;
  const data = (explore.tables = explore.data("trajectories"));
  const { problem, levels, budgets } = data, eps = explore.mixture(problem);
  const choices = Object.fromEntries(data.choices.map((choice) => [choice.solver, choice]));
  const SYMBOLS = { eta: "η", gamma: "γ" };

  explore.key = (solver, value, grid, budget) => [solver, value ?? "", grid, budget].join("|");
  explore.paths = (plan) =>
    data.starts.map((start, i) => explore.run(plan, levels, eps, start, data.noises.map((draw) => draw[i])));
  // Root mean square over the coordinates of all end points, as fewstep.exact.error.
  explore.error = (paths) => {
    const squares = paths.flatMap((path, i) => path.at(-1).map((c, axis) => (c - data.exact[i].at(-1)[axis]) ** 2));
    return Math.sqrt(squares.reduce((a, b) => a + b) / squares.length);
  };
  const stochastic = (plan) => plan.rows.some((row) => row.some((kind, i) => i % 3 === 0 && kind === 2));

  let width = 0;
  const update = () => draw(width);
  const choose = () => {
    const { option, values, first } = choices[sampler.input.value];
    if (option) knob.set(SYMBOLS[option], values, first);
    knob.box.hidden = !option;
    update();
  };
  const titles = Object.fromEntries(data.choices.map((choice) => [choice.solver, choice.title]));
  const sampler = explore.select("sampler", titles, "ddim", choose);
  const grid = explore.select("time grid", data.grids, "quadratic", update);
  const calls = explore.slider("calls", budgets, 2, update);
  const knob = explore.slider("η", choices.ddim.values, 0, update);
  const reading = html("p", { class: "reading", "aria-live": "polite" });
  const plane = svg("svg", { class: "plane", role: "img" }), chart = svg("svg", { class: "chart", role: "img" });
  const box = html("div", {},
    html("div", { class: "controls" }, sampler.box, grid.box, calls.box, knob.box),
    html("div", { class: "panels" }, plane, chart), reading);

  function draw(newWidth) {
    width = newWidth;
    const choice = choices[sampler.input.value], value = choice.option && knob.value, color = ink(choice.color);
    const at = (solver, v, budget) => data.plans[explore.key(solver, v, grid.input.value, budget)];
    const plan = at(choice.solver, value, calls.value), noisy = plan && stochastic(plan);
    const paths = plan ? explore.paths(plan) : [], error = plan && explore.error(paths);
    const spent = plan ? plan.inputs.length : 0, side = width < 560 ? width : Math.floor(width * 0.52);
    calls.say(plan && spent !== calls.value ? `${calls.value} (spends ${spent})` : String(calls.value));
    if (choice.option) knob.say(String(value));
    reading.textContent = !plan ? `${choice.title} needs more than ${calls.value} calls.`
      : noisy ? `${choice.title} adds noise: same density, but its paths are not meant to end where the exact ones do.`
      : `${choice.title}, ${spent} calls: error ${number(error)}`;
    box.dataset.error = plan && !noisy ? error : "";

    drawPlane(paths, spent ? plan.inputs : [], side, color, noisy);
    plane.setAttribute("aria-label", `Exact and sampled paths of ${paths.length} points. ${reading.textContent}`);
    const lines = [["DDIM", "var(--pst-color-text-muted)", "ddim", 0], [choice.title, color, choice.solver, value]]
      .map(([title, tint, solver, v]) => ({ title, tint, points: budgets.map((budget) => at(solver, v, budget))
        .filter((p) => p && !stochastic(p)).map((p) => [p.inputs.length, explore.error(explore.paths(p))]) }));
    drawChart(choice.solver === "ddim" && !noisy ? lines.slice(1) : lines, noisy || !plan ? null : [spent, error],
      width < 560 ? width : width - side - 12, side);
    const errors = lines.at(-1).points.map(([n, e]) => `${n} calls ${number(e)}`).join(", ");
    chart.setAttribute("aria-label", `Error against network calls: ${errors}`);
  }

  function drawPlane(paths, inputs, side, color, noisy) {
    const scale = (c) => (side * (c + problem.edge)) / (2 * problem.edge);
    const place = ([x, y]) => [scale(x), side - scale(y)];
    plane.setAttribute("viewBox", `0 0 ${side} ${side}`);
    plane.setAttribute("width", side);
    plane.replaceChildren();
    const points = (flat) => Array.from({ length: flat.length / 2 }, (_, i) => place(flat.slice(2 * i, 2 * i + 2)));
    for (const lines of problem.contours)
      plane.append(svg("path", { class: "density", d: lines.map((flat) => line(points(flat)) + "Z").join("") }));
    const put = (name, attributes) => plane.append(svg(name, attributes));
    data.exact.forEach((path, i) => put("path", { class: "exact", d: line([data.starts[i], ...path].map(place)) }));
    const visited = new Set(inputs);
    paths.forEach((path, i) => {
      const shown = path.filter((_, m) => visited.has(m) || m === path.length - 1).map(place);
      put("path", { class: "path", stroke: color, d: line(shown) });
      for (const [cx, cy] of shown.slice(1, -1)) put("circle", { cx, cy, r: 1.7, fill: color });
      if (!noisy) put("path", { class: "miss", d: line([shown.at(-1), place(data.exact[i].at(-1))]) });
    });
    for (const [cx, cy] of data.starts.map(place)) put("circle", { class: "start", cx, cy, r: 2.5 });
    const ends = (found) => found.map((path) => place(path.at(-1)));
    for (const [cx, cy] of ends(data.exact)) put("circle", { class: "truth", cx, cy, r: 5 });
    for (const [cx, cy] of ends(paths)) put("circle", { cx, cy, r: 2.8, fill: color });
  }

  function drawChart(lines, now, w, h) {
    chart.setAttribute("viewBox", `0 0 ${w} ${h}`);
    chart.setAttribute("width", w);
    chart.replaceChildren();
    const frame = { left: 44, right: w - 14, top: 26, bottom: h - 42 };
    const range = [1e-3, 3];
    const [px, py] = explore.axes(chart, frame, { title: "network calls", range: [2.8, 33], ticks: [5, 10, 20, 30] },
      { title: "RMS error of the ends", range, ticks: [0.001, 0.01, 0.1, 1] });
    const place = ([n, e]) => [px(n), py(Math.min(range[1], Math.max(range[0], e)))];
    lines.forEach(({ title, tint, points }, i) => {
      if (!points.length) return;
      chart.append(svg("path", { class: "path", stroke: tint, d: line(points.map(place)) }));
      for (const [cx, cy] of points.map(place)) chart.append(svg("circle", { cx, cy, r: 2.2, fill: tint }));
      // The two labels stand on different ends of their lines.
      const [x, y] = place(i === lines.length - 1 ? points.at(-1) : points[0]);
      const below = y > frame.bottom - 22 ? -10 : 18;
      chart.append(svg("text", i === lines.length - 1
        ? { class: "label", x: x + 6, y: y + below, color: tint, "text-anchor": "end" }
        : { class: "label", x: x + 2, y: y - 8, color: tint }, title));
    });
    if (now) {
      const [cx, cy] = place(now);
      chart.append(svg("circle", { class: "now", cx, cy, r: 6 }));
    }
  }

  explore.mount("trajectories", box, draw);
}
