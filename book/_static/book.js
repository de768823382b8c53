// A figure that scrolls sideways can be scrolled by the keyboard.
(() => {
  const mark = () => {
    for (const figure of document.querySelectorAll(".cell_output figure")) {
      if (figure.scrollWidth > figure.clientWidth) figure.tabIndex = 0;
      else figure.removeAttribute("tabindex");
    }
  };
  window.addEventListener("load", mark);
  window.addEventListener("resize", mark);
})();

// Tables of numbers sort by a column: a button in its head, first up, then down, then as the book has it.
(() => {
  const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻";
  const plain = text => text.replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]/g, c => "0123456789-"[SUPERSCRIPTS.indexOf(c)]);

  // "(1.2 ± 0.1)×10⁻⁵" is 1.2e-5; a text without a leading number is NaN.
  function number(text) {
    const found = /^\(?([−-]?\d*\.?\d+)(?: ± [\d.e−-]+)?\)?(?:×10([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+))?/.exec(text);
    return found ? Number(`${found[1].replace("−", "-")}e${plain(found[2] || "0")}`) : NaN;
  }

  function compare(a, b) {
    const [x, y] = [number(a), number(b)];
    if (!isNaN(x) && !isNaN(y)) return x - y;
    if (!isNaN(x) || !isNaN(y)) return isNaN(x) ? 1 : -1;
    return a.localeCompare(b, undefined, { numeric: true });
  }

  function sort(table, column, way, order) {
    const text = row => row.cells[column].textContent.trim();
    const empty = row => ["", "–"].includes(text(row)); // what was not measured stays last
    const rows = [...order];
    if (way) {
      rows.sort((a, b) => empty(a) - empty(b) || (way === "ascending" ? 1 : -1) * compare(text(a), text(b)));
    }
    table.tBodies[0].append(...rows);
    [...table.tHead.rows[0].cells].forEach((cell, index) => {
      if (index === column && way) cell.setAttribute("aria-sort", way);
      else cell.removeAttribute("aria-sort");
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const table of document.querySelectorAll("table.results:not(.pictures), table.reported")) {
      const order = [...(table.tBodies[0]?.rows ?? [])];
      if (!table.tHead || order.length < 3) continue;
      [...table.tHead.rows[0].cells].forEach((cell, column) => {
        const button = document.createElement("button");
        button.className = "sort";
        button.append(...(cell.querySelector("p") ?? cell).childNodes);
        (cell.querySelector("p") ?? cell).append(button);
        button.addEventListener("click", () => {
          const next = { ascending: "descending", descending: null };
          const now = cell.getAttribute("aria-sort");
          sort(table, column, now in next ? next[now] : "ascending", order);
        });
      });
    }
  });
})();

// A formula and the punctuation beside it stay on one line: browsers break a line between the two.
(() => {
  const CLOSING = /^[.,;:!?)\]’”'"…\-–ᵃ-ᶿˡⁿⁱʰʲˢˣ]+/;
  const OPENING = /[(\[“‘]+$/;

  document.addEventListener("DOMContentLoaded", () => {
    for (const formula of document.querySelectorAll(".bd-article span.math")) {
      const [before, after] = [formula.previousSibling, formula.nextSibling];
      const close = after?.nodeType === Node.TEXT_NODE && CLOSING.exec(after.data)?.[0];
      const open = before?.nodeType === Node.TEXT_NODE && OPENING.exec(before.data)?.[0];
      if (!close && !open) continue;
      const held = document.createElement("span");
      held.className = "held";
      formula.replaceWith(held);
      held.append(formula);
      if (open) {
        before.data = before.data.slice(0, -open.length);
        held.prepend(open);
      }
      if (close) {
        after.data = after.data.slice(close.length);
        held.append(close);
      }
    }
  });
})();

// A formula that is wider than its place is set smaller, down to seven tenths; what is wider still scrolls.
(() => {
  const LEAST = 0.7;
  const widths = new WeakMap();

  function fit(box) {
    const formula = box.querySelector("mjx-container");
    const width = box.clientWidth;
    if (!formula || !width || widths.get(box) === width) return;
    widths.set(box, width);
    formula.dataset.size ??= formula.style.fontSize || "100%";
    formula.style.fontSize = formula.dataset.size;
    const ratio = formula.clientWidth / formula.scrollWidth;
    if (ratio < 1) formula.style.fontSize = `${Math.max(ratio * 0.99, LEAST) * parseFloat(formula.dataset.size)}%`;
  }

  // The formulas in the lines of a paragraph likewise; the theme would cut them off.
  function fitLines(block, formulas) {
    const style = getComputedStyle(block);
    const room = block.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (room <= 0 || widths.get(block) === room) return;
    widths.set(block, room);
    for (const formula of formulas) {
      if (formula.dataset.size) formula.style.fontSize = formula.dataset.size;
      const beside = formula.closest(".held") ? parseFloat(style.fontSize) / 2 : 0; // punctuation
      const ratio = (room - beside) / formula.querySelector("mjx-math").offsetWidth;
      formula.parentElement.classList.toggle("wide", ratio < LEAST);
      if (ratio >= 1) continue;
      formula.dataset.size ??= formula.style.fontSize || "100%";
      formula.style.fontSize = `${Math.max(ratio * 0.99, LEAST) * parseFloat(formula.dataset.size)}%`;
    }
  }

  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    const lines = new Map();
    for (const formula of document.querySelectorAll(".bd-article span.math > mjx-container")) {
      const block = formula.closest("p, li, dd, td, th, figcaption");
      if (!block || block.closest("table")) continue; // a table is as wide as its formulas
      lines.set(block, [...(lines.get(block) ?? []), formula]);
    }
    const observer = new ResizeObserver(entries => {
      for (const { target } of entries) {
        if (lines.has(target)) fitLines(target, lines.get(target));
        else fit(target);
      }
    });
    for (const box of document.querySelectorAll(".bd-article div.math")) observer.observe(box);
    for (const block of lines.keys()) observer.observe(block);
  });
})();
