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

// What scrolls sideways says so while more of it is hidden on the right (book.css fades it out there on a phone).
(() => {
  const mark = ({ currentTarget: box }) =>
    box.classList.toggle("goes-on", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  window.addEventListener("load", () => {
    for (const box of document.querySelectorAll(".pst-scrollable-table-container, .highlight pre")) {
      box.addEventListener("scroll", mark, { passive: true });
      new ResizeObserver(() => mark({ currentTarget: box })).observe(box);
    }
  });
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

// On a phone formulas that stand side by side stand below each other.
(() => {
  // The parts between wide spaces, if no braces are around these; what has rows of its own is left as it is.
  function parts(tex) {
    const found = [""];
    let depth = 0;
    for (const token of tex.match(/\\qquad(?![a-z])|, *\\quad(?![a-z])|\\.|[^]/g)) {
      if (token === "{") depth++;
      else if (token === "}") depth--;
      const wide = token.endsWith("quad");
      if (wide && !depth) found[found.length - 1] += token.startsWith(",") ? "," : "";
      if (wide && !depth) found.push("");
      else found[found.length - 1] += token;
    }
    return found;
  }

  if (!window.matchMedia("(max-width: 40rem)").matches) return;
  // The page is read, and MathJax, whose script is deferred, has not yet begun.
  document.addEventListener("readystatechange", () => {
    for (const box of document.querySelectorAll(".bd-article div.math")) {
      const tex = /^\s*\\\[([^]*)\\\]\s*$/.exec(box.lastChild?.data)?.[1];
      const rows = tex && !/\\begin|\\\\/.test(tex) ? parts(tex) : [];
      if (rows.length > 1) box.lastChild.data = `\\[\\begin{gathered}${rows.join("\\\\")}\\end{gathered}\\]`;
    }
  }, { once: true });
})();

// A formula that is wider than its place breaks, in the text, after relations or else after sums; otherwise it is set
// smaller, down to seven tenths; what is wider still scrolls.
(() => {
  const SPACES = ["4", "3"]; // what MathJax sets on both sides of a relation, and of a sum
  const LEAST = 0.7;

  // Whether the formula fits its place once it is broken.
  function folds(box) {
    if (box.classList.contains("folded")) return true;
    const row = box.querySelector("mjx-math");
    const width = box.clientWidth;
    if (box.localName !== "span" || !width || row.offsetWidth <= width + 1) return false;
    box.classList.add("folded");
    for (const space of SPACES) {
      for (const sign of row.querySelectorAll(`:scope > mjx-mo[space="${space}"]`)) {
        if (sign.nextElementSibling?.getAttribute("space") === space) sign.after(document.createElement("wbr"));
      }
      if (row.offsetWidth <= width + 1) return true;
    }
    row.querySelectorAll("wbr").forEach(place => place.remove());
    box.classList.remove("folded");
    return false;
  }

  function fit(box) {
    const formula = box.querySelector("mjx-container");
    if (!formula || folds(box)) return;
    if (formula.dataset.size) formula.style.fontSize = formula.dataset.size;
    const room = Math.min(box.clientWidth, formula.clientWidth); // in a line the formula sticks out of its box
    const ratio = room / formula.querySelector("mjx-math").offsetWidth;
    box.classList.toggle("wide", room > 0 && ratio < LEAST);
    if (!room || ratio >= 1) return;
    formula.dataset.size ??= formula.style.fontSize || "100%";
    formula.style.fontSize = `${Math.max(ratio * 0.99, LEAST) * parseFloat(formula.dataset.size)}%`;
  }

  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    const places = new Map(); // a block, and the formulas that have its width at most
    for (const box of document.querySelectorAll(".bd-article .math")) {
      const place = box.closest("div, p, li, dt, dd, td, th");
      places.set(place, [...(places.get(place) ?? []), box]);
    }
    const widths = new WeakMap();
    const observer = new ResizeObserver(entries => {
      for (const { target } of entries) {
        if (widths.get(target) === target.clientWidth) continue;
        widths.set(target, target.clientWidth);
        places.get(target).forEach(fit);
      }
    });
    for (const place of places.keys()) observer.observe(place);
  });
})();
