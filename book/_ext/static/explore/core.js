// What the interactive figures share: the executor of a plan, the mixture's model, and a few helpers for drawing.
// Plain scripts, not modules: a browser loads no module from a file:// address.
"use strict";

const explore = {
  // --- the sampler is a table --------------------------------------------------------------------------------------

  // All states of one sample: a model call and a linear combination for each state.
  // start: [x, y]; noises[d]: the d-th draw for this sample; eps(x, level): the model.
  run(plan, levels, eps, start, noises) {
    const states = [start], outputs = [], kinds = [states, outputs, noises];
    const call = () => {
      while (plan.inputs[outputs.length] === states.length - 1)
        outputs.push(eps(states.at(-1), levels[plan.levels[outputs.length]]));
    };
    call();
    for (const row of plan.rows) {
      const sum = start.map(() => 0);
      for (let i = 0; i < row.length; i += 3)
        kinds[row[i]][row[i + 1]].forEach((c, axis) => { sum[axis] += row[i + 2] * c; });
      states.push(sum);
      call();
    }
    return states;
  },

  // ε*(x, t) of a Gaussian mixture, fewstep.exact.GaussianMixture; a level is (t, α, σ).
  mixture({ means, weights, std }) {
    return (x, [, alpha, sigma]) => {
      const v = alpha ** 2 * std ** 2 + sigma ** 2;
      const square = (m) => m.reduce((s, c, i) => s + (x[i] - alpha * c) ** 2, 0);
      const logs = means.map((m, k) => Math.log(weights[k]) - square(m) / (2 * v));
      const top = Math.max(...logs), parts = logs.map((l) => Math.exp(l - top)), total = parts.reduce((a, b) => a + b);
      return x.map((c, i) => (sigma / v) * (c - alpha * means.reduce((s, m, k) => s + (parts[k] / total) * m[i], 0)));
    };
  },

  // The rows of (C, S) of the states at which the model is called, and of the result, in x̄ = x / α.
  canonical(plan, levels) {
    const calls = plan.inputs.length, drawn = (row) => row.filter((_, i) => i % 3 === 1 && row[i - 1] === 2);
    const draws = 1 + Math.max(-1, ...plan.rows.flatMap(drawn));
    const rows = [new Float64Array(calls + draws)];
    for (const row of plan.rows) {
      const sum = new Float64Array(calls + draws);
      for (let i = 0; i < row.length; i += 3) {
        const [kind, index, weight] = row.slice(i, i + 3);
        if (kind === 0) rows[index].forEach((c, j) => { sum[j] += weight * c; });
        else sum[index + (kind === 2 ? calls : 0)] += weight;
      }
      rows.push(sum);
    }
    const alpha = new Map([...plan.inputs, plan.rows.length].map((state, k) => [state, levels[plan.levels[k]][1]]));
    alpha.delete(0); // the start itself
    return { calls, draws, rows: [...alpha].map(([state, a]) => rows[state].map((c) => c / a)) };
  },

  // --- drawing -----------------------------------------------------------------------------------------------------

  svg: (name, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  },

  html: (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  },

  // A select or slider with its label; `change` runs at once.
  select(label, groups, value, change) {
    const input = explore.html("select", { class: "form-select" });
    for (const [key, title] of Object.entries(groups)) input.append(explore.html("option", { value: key }, title));
    input.value = value;
    input.addEventListener("input", change);
    return { input, box: explore.html("label", {}, explore.html("span", {}, label), input) };
  },

  slider(label, values, at, change) {
    const input = explore.html("input", { type: "range", min: 0, max: values.length - 1, step: 1, value: at });
    input.setAttribute("aria-label", label); // the value beside the name is said as the slider's value
    const output = explore.html("b"), name = explore.html("span", {}, label, " ", output);
    const self = {
      input, box: explore.html("label", {}, name, input),
      get value() { return self.values[input.value]; },
      set(newLabel, newValues, newAt) {
        name.firstChild.data = newLabel;
        input.setAttribute("aria-label", newLabel);
        self.values = newValues;
        input.max = newValues.length - 1;
        input.value = newAt;
      },
      say(text) { output.textContent = text; input.setAttribute("aria-valuetext", text); },
      values,
    };
    input.addEventListener("input", change);
    return self;
  },

  // Colours are those of the printed figures; black turns with the page.
  ink: (color) => (color === "#000000" ? "var(--pst-color-text-base)" : color),

  line: (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join(""),

  // Three digits, plain where that is readable.
  number(v) {
    if (v === 0 || (Math.abs(v) >= 1e-3 && Math.abs(v) < 1e5)) return String(+v.toPrecision(3)).replace("-", "−");
    const [digits, exponent] = v.toExponential(1).split("e");
    const raised = exponent.replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? { "-": "⁻", "+": "" }[c]);
    return `${digits.replace("-", "−")}·10${raised}`;
  },

  // Ticks 1, 2, 5, 10 … (or only powers of ten, over more than three decades) between the ends of a logarithmic axis.
  ticks(low, high) {
    const steps = high / low > 1000 ? [1] : [1, 2, 5], found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
      found.push(...steps.map((s) => +(s * 10 ** e).toPrecision(1)));
    return found.filter((v) => v >= low * 0.999 && v <= high * 1.001);
  },

  // Log–log axes in a box; returns the two scales.
  axes(svg, { left, right, top, bottom }, x, y) {
    const scale = ([low, high], a, b) => (v) => a + ((b - a) * Math.log(v / low)) / Math.log(high / low);
    const px = scale(x.range, left, right), py = scale(y.range, bottom, top);
    for (const v of y.ticks ?? explore.ticks(...y.range))
      svg.append(explore.svg("path", { class: "grid", d: explore.line([[left, py(v)], [right, py(v)]]) }),
        explore.svg("text", { x: left - 6, y: py(v) + 4, "text-anchor": "end" }, explore.number(v)));
    for (const v of x.ticks)
      svg.append(explore.svg("path", { class: "grid", d: explore.line([[px(v), top], [px(v), bottom]]) }),
        explore.svg("text", { x: px(v), y: bottom + 16, "text-anchor": "middle" }, v));
    svg.append(explore.svg("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, x.title),
      explore.svg("text", { x: left, y: top - 10, "text-anchor": "start" }, y.title));
    return [px, py];
  },

  // Sorted heights moved as little as possible (least squares) to be `gap` apart: isotonic regression, as in
  // fewstep.figures.direct_labels.
  apart(places, gap) {
    const pools = [];
    places.forEach((place, i) => {
      pools.push([place - i * gap, 1]);
      while (pools.length > 1 && pools.at(-2)[0] > pools.at(-1)[0]) {
        const [[b, n], [a, m]] = [pools.pop(), pools.pop()];
        pools.push([(a * m + b * n) / (m + n), m + n]);
      }
    });
    return pools.flatMap(([value, count]) => Array(count).fill(value)).map((value, i) => value + i * gap);
  },

  data: (name) => JSON.parse(document.getElementById(`explore-${name}`).textContent),

  // Puts `box` in the place of a figure's image, and calls `draw` now and whenever the width changes.
  mount(name, box, draw) {
    const figure = document.getElementById(`fig-explore-${name}`);
    box.classList.add("explore");
    figure.classList.add("has-explore");
    figure.prepend(box);
    let width = 0;
    new ResizeObserver(() => {
      if (box.clientWidth !== width) draw((width = box.clientWidth));
    }).observe(box);
    draw((width = box.clientWidth));
  },
};
