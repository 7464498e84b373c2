"use strict";
// Sort tables, and show what is known of the cell under the pointer. Without this script the page has the same content.
(() => {
  document.documentElement.classList.add("js");

  const numberIn = (text) => {
    const plain = text.replace(/[,%\s]/g, "");
    return plain === "" || Number.isNaN(Number(plain)) ? null : Number(plain);
  };

  const compare = (a, b) => {
    const [x, y] = [numberIn(a), numberIn(b)];
    return x !== null && y !== null ? x - y : a.localeCompare(b, undefined, { numeric: true });
  };

  const sort = (table, head, column) => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const body = table.tBodies[0];
    const text = (row) => row.cells[column].textContent.trim();
    const missing = (row) => ["", "–"].includes(text(row));
    const rows = [...body.rows].sort((a, b) => missing(a) - missing(b) || sign * compare(text(a), text(b)));
    body.append(...rows);
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  };

  for (const table of document.querySelectorAll("table")) {
    if (!table.tHead || table.tBodies[0].rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head, column));
    });
  }

  const REACH = 9; // pixels
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);

  const parsed = new Map();
  const pointData = (id) => {
    if (!parsed.has(id)) parsed.set(id, JSON.parse(document.getElementById(id).textContent));
    return parsed.get(id);
  };

  const nearest = ({ x, y }, image, event) => {
    const box = image.getBoundingClientRect();
    const [u, v] = [event.clientX - box.left, event.clientY - box.top];
    let [found, least] = [-1, REACH ** 2];
    for (let i = 0; i < x.length; i++) {
      const distance = ((x[i] * box.width) / 1e4 - u) ** 2 + ((y[i] * box.height) / 1e4 - v) ** 2;
      if (distance < least) [found, least] = [i, distance];
    }
    return found;
  };

  const showTip = (image, event) => {
    const i = nearest(pointData(image.dataset.where), image, event);
    tip.hidden = i < 0;
    if (i < 0) return;
    const lines = [];
    for (const { name, values, levels } of pointData(image.dataset.what)) {
      const value = levels && values[i] >= 0 ? levels[values[i]] : values[i];
      if (value === null || value === -1) continue;
      const line = document.createElement("div");
      line.textContent = `${name}: ${value}`;
      lines.push(line);
    }
    tip.replaceChildren(...lines);
    const right = document.documentElement.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${window.scrollX + Math.max(4, Math.min(event.clientX + 14, right))}px`;
    tip.style.top = `${window.scrollY + event.clientY + 14}px`;
  };

  for (const image of document.querySelectorAll("img[data-where]")) {
    image.addEventListener("pointermove", (event) => showTip(image, event));
    image.addEventListener("pointerdown", (event) => showTip(image, event));
    image.addEventListener("pointerleave", () => (tip.hidden = true));
  }
})();
