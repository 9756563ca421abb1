// Sorts and filters the rows of the page it stands in. Writes no markup and asks nobody for anything.
"use strict";
(() => {
  const table = document.querySelector("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const form = document.querySelector("form");
  const [input, select, output] = ["input", "select", "output"].map((name) => form.querySelector(name));
  const nothing = document.querySelector(".nothing");
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  let texts = null;

  const value = (row, place, kind) => {
    const cell = row.cells[place];
    if (kind === "text") return cell.textContent;
    return cell.dataset.exact === undefined ? null : Number(cell.dataset.exact);
  };

  // Rows without a number stand last, whichever way the others go; equal ones stay in their order.
  const sorted = (place, kind, sign) => {
    const keyed = rows.map((row, at) => ({ row, at, key: value(row, place, kind) }));
    const compare = kind === "text" ? collator.compare : (a, b) => a - b;
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.at - b.at;
      return sign * compare(a.key, b.key) || a.at - b.at;
    });
    return keyed.map((one) => one.row);
  };

  const sort = (head, place) => {
    const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
    for (const one of heads) if (one.dataset.sort) one.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    const order = next === "none" ? rows : sorted(place, head.dataset.sort, next === "ascending" ? 1 : -1);
    const all = document.createDocumentFragment();
    all.append(...order);
    body.append(all);
  };

  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = select.selectedOptions[0];
    texts ??= rows.map((row) => row.textContent.toLowerCase());
    let shown = 0;
    rows.forEach((row, at) => {
      const fits = (!chosen.value || row.classList.contains(chosen.value))
        && (chosen.dataset.kind === undefined || row.dataset.kind === chosen.dataset.kind)
        && words.every((word) => texts[at].includes(word));
      row.hidden = !fits;
      shown += fits;
    });
    nothing.hidden = shown > 0;
    output.value = shown === rows.length
      ? `${rows.length.toLocaleString("en")} rows`
      : `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  };

  heads.forEach((head, place) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(head, place));
  });
  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  select.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  if (input.value || select.selectedIndex > 0) filter();
  else output.value = `${rows.length.toLocaleString("en")} rows`;
})();
