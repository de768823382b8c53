// Two samplers' canonical tables and their difference.
"use strict";
{
  const { html, number } = explore, data = explore.tables;
  const SAME = 1e-12; // relative to the largest weight: rounding

  // Each value of an option is a sampler of its own here.
  const names = Object.fromEntries(data.choices.flatMap(({ solver, title, option, values }) => {
    const symbol = option === "eta" ? "η" : "γ";
    return option ? values.map((v) => [`${solver}|${v}`, `${title}, ${symbol} = ${v}`]) : [[`${solver}|`, title]];
  }));
  const update = () => draw();
  const first = explore.select("first sampler", names, "deis-tab3|", update);
  const second = explore.select("second sampler", names, "ddim|0", update);
  const grid = explore.select("time grid", data.grids, "quadratic", update);
  const calls = explore.slider("calls", data.budgets, 4, update);
  const verdict = html("p", { class: "reading", "aria-live": "polite" });
  const hovered = html("p", { class: "reading quiet" }, "Point at a cell to read it.");
  const panels = [0, 1, 2].map(() =>
    ({ canvas: html("canvas", { role: "img" }), title: html("div", { class: "title" }) }));
  const box = html("div", {},
    html("div", { class: "controls" }, first.box, second.box, grid.box, calls.box),
    html("div", { class: "panels three" }, ...panels.map(({ canvas, title }) =>
      html("div", { class: "matrix" }, title, canvas, html("div", { class: "axis" }, "output of call →")))),
    verdict, hovered);

  // How two tables compare: the largest difference relative to the largest weight, or why there is none.
  explore.compare = (a, b, p, q) => {
    if (p.calls !== q.calls) return { why: `they make ${p.calls} and ${q.calls} calls` };
    const [s, t] = [a, b].map((plan) => plan.levels.map((level) => data.levels[level][0]));
    const k = s.findIndex((_, k) => Math.abs(s[k] - t[k]) > 1e-8 * s[0]);
    if (k >= 0) return { why: `call ${k + 1} is at t = ${number(s[k])} for the first, ${number(t[k])} for the second` };
    const wide = Math.max(p.draws, q.draws), entry = (m, row, j) => m.rows[row][j] ?? 0;
    const rows = p.rows.map((_, i) =>
      Array.from({ length: p.calls + wide }, (_, j) => entry(p, i, j) - entry(q, i, j)));
    const most = (table) => Math.max(...table.map((row) => Math.max(...Array.from(row, Math.abs))));
    return { rows, apart: most(rows) / Math.max(most(p.rows), most(q.rows)) };
  };

  function draw() {
    const plans = [first, second].map(({ input }) => data.plans[`${input.value}|${grid.input.value}|${calls.value}`]);
    const tables = plans.map((plan) => plan && explore.canonical(plan, data.levels));
    const titles = [first, second].map(({ input }) => names[input.value]);
    calls.say(String(calls.value));
    const missing = titles.filter((_, i) => !plans[i]);
    const found = missing.length ? { why: `${missing.join(" and ")} cannot spend ${calls.value} calls` }
      : explore.compare(...plans, ...tables);
    const same = found.rows && found.apart < SAME;
    verdict.textContent = missing.length ? `Nothing to compare: ${found.why}.`
      : found.why ? `Not the same sampler: ${found.why}.`
      : found.apart === 0 ? "The same sampler: the tables are equal."
      : same ? `The same sampler: the tables differ by ${number(found.apart)} of the largest weight, which is rounding.`
      : `Not the same sampler: the tables differ by up to ${number(found.apart)} of the largest weight.`;
    verdict.classList.toggle("same", Boolean(same));
    box.dataset.apart = found.apart ?? "";

    // Each column is divided by its largest weight in the two tables, where they have the same columns.
    const count = Math.max(...tables.map((m) => m?.calls ?? 0)), both = tables.filter(Boolean);
    const scales = (m) => {
      const rows = (found.rows ? both : [m]).flatMap((table) => table.rows);
      const wide = Math.max(...rows.map((row) => row.length));
      return Array.from({ length: wide }, (_, j) => Math.max(...rows.map((row) => Math.abs(row[j] ?? 0))));
    };
    tables.forEach((m, i) => paint(panels[i], titles[i], m && { ...m, scale: scales(m) }, count));
    const apart = found.rows && { rows: found.rows, calls: tables[0].calls, scale: same ? [] : scales(tables[0]) };
    paint(panels[2], "first − second", apart, count);
  }

  function paint({ canvas, title }, text, matrix, count) {
    title.textContent = text;
    const columns = Math.max(count, matrix?.scale.length ?? 0, matrix?.rows[0].length ?? 0);
    Object.assign(canvas, { width: columns || 1, height: count || 1 });
    canvas.setAttribute("aria-label", matrix ? `Table of ${text}` : `${text}: nothing to show`);
    canvas.matrix = matrix;
    if (!matrix) return;
    const pen = canvas.getContext("2d");
    matrix.rows.forEach((row, i) => Array.from(row).forEach((c, j) => {
      const share = matrix.scale[j] ? c / matrix.scale[j] : 0;
      pen.fillStyle = share < 0 ? `rgba(33, 113, 181, ${-share})` : `rgba(203, 45, 40, ${share})`;
      pen.fillRect(j, i, 1, 1);
    }));
  }

  for (const { canvas, title } of panels)
    canvas.addEventListener("pointermove", (event) => {
      const { matrix, width, height } = canvas, frame = canvas.getBoundingClientRect();
      const j = Math.floor((width * (event.clientX - frame.left)) / frame.width);
      const i = Math.floor((height * (event.clientY - frame.top)) / frame.height);
      const c = matrix?.rows[i]?.[j];
      if (c !== undefined)
        hovered.textContent = `${title.textContent}: in the state after call ${i + 1}, ` +
          `${j < matrix.calls ? `output ${j + 1}` : `noise ${j - matrix.calls + 1}`} has weight ${number(c)}`;
    });

  explore.mount("matrices", box, draw);
}
